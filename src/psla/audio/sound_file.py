"""What a sound can be read from, and how libsndfile opens it; `psla.audio.containers` opens what libsndfile cannot.

A file that holds less than its header declares is refused, not shortened: libsndfile shortens it in silence, but what
it notes on the way gives that away. WAV, AIFF, CAF and AU are looked into by `psla.audio.chunks`, FLAC and MP3 by
`psla.audio.frames`, Ogg by `psla.audio.ogg_pages`. Not covered: headerless files; headers whose length libsndfile does
not compare with the file (AVR, MPC2K, PAF, PVF, IRCAM, NIST, MAT5).
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from contextlib import ExitStack
from typing import BinaryIO, cast

import numpy as np
import soundfile

Source = str | os.PathLike[str] | bytes | BinaryIO

UNKNOWN_LENGTH = 1 << 62  # libsndfile gives the greatest int64 where a header leaves the length open
_UNKNOWN = (1, 4, 64)  # libsndfile's codes: no format that it knows, an encoding that it does not, a WAV's likewise

# What libsndfile notes when a header declares more bytes than the file holds. It then shortens the audio in silence.
_SHORTENED = re.compile(
    r"^\s*(?:data|SSND|BODY|Data Size|Data length|Riff size|riff)[ :]*(\d+) \(?should be (\d+)"
    r"|File seems to be truncated|Seems to be a truncated file",
    re.MULTILINE,
)


def means_until_the_end(length: int) -> bool:
    """Whether this is one of the numbers that programs write that do not know yet how long the sound will be.

    Example:
        >>> [means_until_the_end(n) for n in (0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0xB2D05E00)]
        [True, True, True, False]
    """
    return length >= 0xFFFFF000 or 0x7FFFF000 <= length <= 0x80001000


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


class PassingError(AudioError):
    """What says something of the moment and not of the file: the disk is away, the decoder was killed.

    Nobody may write it down as the file's; `psla.audio.patience` says when it is tried again.
    """


# What a file answers whose disk or server is away, or where a process has opened too many.
AWAY = frozenset(
    {
        *(errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN),
        *(errno.EHOSTUNREACH, errno.ECONNRESET, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR),
    }
)


class SndFile(soundfile.SoundFile):
    """Reads straight on. soundfile seeks after every read of a seekable file: that fails for FLAC of open length.

    Attributes:
        mended: it is read with another header than its own; `kept`: what is closed with it.
        unfinished: it may have been cut, and nothing in it tells.
    """

    mended = unfinished = False
    kept: ExitStack | None = None

    def close(self) -> None:
        super().close()
        if self.kept is not None:
            self.kept.close()

    def block(self, frames: int) -> np.ndarray:
        """The next so many frames, fewer at the end: (frames, channels) float32."""
        return self.read(frames, dtype="float32", always_2d=True)

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


class UnknownSound(AudioError):
    """Sound of a kind that libsndfile does not read; another decoder may."""


def open_sndfile(opened: str | BinaryIO, name: str, sure: bool = True) -> SndFile:
    """An open file with at least one frame, whose header agrees with the size of the file.

    Args:
        sure: what libsndfile calls damaged is damaged; otherwise another decoder may be asked.

    Raises:
        UnknownSound: of a container or a codec that libsndfile does not read.
        AudioError: damaged, truncated or without samples.
    """
    try:  # soundfile itself refuses a str that is not UTF-8
        file = SndFile(os.fsencode(opened) if isinstance(opened, str) else opened)
    except soundfile.LibsndfileError as error:
        reason = "not audio" if error.code == 1 else "damaged or truncated audio"
        kind = AudioError if sure and error.code not in _UNKNOWN else UnknownSound
        if "not a regular file" in error.error_string:  # what it says of a file that it took for an MP3
            kind, reason = UnknownSound, "not audio: there is no frame of an MP3 in it"
        else:
            reason = f"{reason}, libsndfile says: {error.error_string}"
        raise kind(name, reason) from error
    note = _SHORTENED.search(file.extra_info)
    reason = "holds no samples" if file.frames <= 0 else ""
    if note and (note[1] is None or (int(note[2]) < int(note[1]) and not means_until_the_end(int(note[1])))):
        reason = f"truncated: its header declares more than the file holds ({note[0].strip()})"
    if reason:
        file.close()
        raise AudioError(name, reason)
    return file


_KINDS = {
    **{stat.S_IFDIR: "folder (Is a directory)", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"},
    **{stat.S_IFCHR: "device", stat.S_IFBLK: "device"},
}


def opened(name: str) -> BinaryIO:
    """The file of that name, at its beginning.

    Raises:
        AudioError: it is not there, is no file (one would wait for a named pipe), is empty, or says nothing of its
            samples.
    """
    try:
        kind = stat.S_IFMT(os.stat(name).st_mode)
        if kind != stat.S_IFREG:
            empty = "an empty " if kind == stat.S_IFDIR and not os.listdir(name) else "a "
            raise AudioError(name, f"{empty}{_KINDS.get(kind, 'special file')}, not a sound file")
        with ExitStack() as refused:
            file = refused.enter_context(open(name, "rb"))
            if not file.read(1):
                raise AudioError(name, "an empty file")
            if name.lower().endswith(".raw"):
                raise AudioError(name, "a headerless file does not say what its samples are")
            file.seek(0)
            refused.pop_all()
            return file
    except OSError as error:
        refusal = PassingError if error.errno in AWAY else AudioError  # of a folder that is gone: `patience`
        raise refusal(name, f"cannot be opened: {error.strerror}") from error


def file_object(source: bytes | BinaryIO, name: str) -> BinaryIO:
    """The source as a binary file that can seek, at its beginning."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if not isinstance(file.read(0), bytes):
        raise AudioError(name, "a file object must be opened in binary mode")
    if not file.seekable():
        file = io.BytesIO(b"".join(iter(lambda: file.read(1 << 20) or b"", b"")))
    if not file.seek(0, os.SEEK_END):
        raise AudioError(name, "an empty file")
    file.seek(0)
    return file if isinstance(file, io.BufferedIOBase) else cast(BinaryIO, WholeReads(file))


class WholeReads:
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


SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"}
)
"""What the names of the files end in that libsndfile decodes."""
