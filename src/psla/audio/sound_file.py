"""Opening sound files with libsndfile, and refusing those whose header promises more than they hold.

libsndfile shortens a truncated file in silence; what it notes on the way gives that away. Headers whose length it does
not compare with the file are listed in `psla.audio.decode`, the module that decodes.
"""

from __future__ import annotations

import io
import os
import re
from typing import BinaryIO, cast

import soundfile

Source = str | os.PathLike[str] | bytes | BinaryIO

_STREAMED_BYTES = 0x7FFFF000  # a WAV written to a pipe declares this many bytes or more, and means "until the end"

# What libsndfile notes when a header declares more bytes than the file holds. It then shortens the audio in silence.
_SHORTENED = re.compile(
    r"^\s*(?:data|SSND|BODY|Data Size|Data length|Riff size|riff)[ :]*(\d+) \(?should be (\d+)"
    r"|File seems to be truncated|Seems to be a truncated file",
    re.MULTILINE,
)


class AudioError(ValueError):
    """Audio that cannot be read.

    Attributes:
        path: the file, or `<bytes>`, `<file object>`, `<array>`.
        reason: what is wrong with it, in one sentence.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        """Both arguments, so that the error crosses from a worker process."""
        return type(self), (self.path, self.reason)


class ForwardFile(soundfile.SoundFile):
    """Reads straight on. soundfile seeks after every read of a seekable file: that fails for FLAC of open length."""

    def seekable(self) -> bool:
        return False

    def can_seek(self) -> bool:
        return bool(super().seekable())


def name_of(source: Source) -> str:
    """What errors call a source: its path, or what it is."""
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<file object>"


def open_sound(source: Source, name: str) -> ForwardFile:
    """An open file with at least one frame, whose header agrees with the size of the file."""
    if isinstance(source, str | os.PathLike):
        _check_path(name)
        opened: bytes | BinaryIO = os.fsencode(name)  # soundfile itself refuses a str that is not UTF-8
    else:
        opened = _file_object(source, name)
    try:
        file = ForwardFile(opened)
    except soundfile.LibsndfileError as error:
        reason = "not audio" if error.code == 1 else "damaged or truncated audio"
        raise AudioError(name, f"{reason}, libsndfile says: {error.error_string}") from error
    note = _SHORTENED.search(file.extra_info)
    reason = "holds no samples" if file.frames <= 0 else ""
    if note and (note[1] is None or int(note[2]) < int(note[1]) < _STREAMED_BYTES):
        reason = f"truncated: its header declares more than the file holds ({note[0].strip()})"
    if reason:
        file.close()
        raise AudioError(name, reason)
    return file


def _check_path(name: str) -> None:
    try:
        with open(name, "rb") as file:
            if not file.read(1):
                raise AudioError(name, "an empty file")
    except OSError as error:
        raise AudioError(name, f"cannot be opened: {error.strerror}") from error
    if name.lower().endswith(".raw"):
        raise AudioError(name, "a headerless file does not say what its samples are")


def _file_object(source: bytes | BinaryIO, name: str) -> BinaryIO:
    """The source as a binary file that can seek, at its beginning."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if not isinstance(file.read(0), bytes):
        raise AudioError(name, "a file object must be opened in binary mode")
    if not file.seekable():
        file = io.BytesIO(b"".join(iter(lambda: file.read(1 << 20) or b"", b"")))
    if not file.seek(0, os.SEEK_END):
        raise AudioError(name, "an empty file")
    file.seek(0)
    return file if isinstance(file, io.BufferedIOBase) else cast(BinaryIO, _WholeReads(file))


class _WholeReads:
    """A file object whose reads are short only at its end: libsndfile takes any short read for the end of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """`size` bytes, or what is left."""
        parts: list[bytes] = []
        while size > 0 and (part := self._file.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
