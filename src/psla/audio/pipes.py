"""Standard input (`-`), named pipes and `<(...)` as files: their bytes are copied into a temporary one, once.

Decoders seek, processes that decode do not have this one's descriptors, and a picture needs the sound a second time.
The copy goes when the spool is closed. Every wait has an end, and so has every copy.
"""

from __future__ import annotations

import os
import re
import select
import stat
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

from psla.audio.sound_file import AudioError

STDIN = "-"
MOST_BYTES = 1 << 32  # of a copy
_UNOPENED_S = 10.0  # for somebody to write into a named pipe
_WAIT_S = 60.0  # for the next bytes of one into which somebody writes
_PART = 1 << 20
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,6})")


def is_pipe(path: object) -> bool:
    """Whether a path stands for what is read once: `-`, /dev/stdin, /dev/fd/N or a named pipe.

    Example:
        >>> is_pipe("-"), is_pipe("/dev/stdin"), is_pipe("a.wav"), is_pipe(b"RIFF")
        (True, True, False, False)
    """
    if not isinstance(path, str | os.PathLike):
        return False
    name = os.fsdecode(path)
    if _descriptor(name) is not None:
        return True
    try:
        return stat.S_ISFIFO(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def _descriptor(name: str) -> int | None:
    if name in (STDIN, "/dev/stdin"):
        return 0
    match = _DESCRIPTOR.fullmatch(name)
    return None if match is None else int(match[1])


class Spool:
    """Copies of pipes, in a temporary folder of its own. A context manager; threads may share it."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._copies: dict[str | int, str] = {}  # by descriptor, or by name
        self._lock = threading.Lock()

    def file_of(self, path: str | os.PathLike[str]) -> str:
        """The file that a path stands for: itself, or the copy of a pipe, which is made at the first call.

        Example:
            >>> with Spool() as spool:
            ...     spool.file_of("a.wav")
            'a.wav'

        Raises:
            AudioError: nobody writes into it, nothing comes any more, or there is no end of it.
        """
        name = os.fsdecode(path)
        if not is_pipe(name):
            return name
        number = _descriptor(name)
        key = name if number is None else number
        with self._lock:
            if key not in self._copies:
                self._folder = self._folder or tempfile.TemporaryDirectory(prefix="psla-")
                copy = Path(self._folder.name, str(len(self._copies)))
                try:
                    _copy(name, copy)
                except OSError as error:
                    raise AudioError(name, f"cannot be copied to {copy.parent}: {error.strerror}") from error
                self._copies[key] = str(copy)
            return self._copies[key]

    def close(self) -> None:
        """Remove the copies."""
        with self._lock:
            self._copies.clear()
            if self._folder is not None:
                self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _copy(name: str, copy: Path) -> None:
    number = _descriptor(name)
    try:
        # Of a descriptor that is open here already nothing is opened: what it is, socket or pipe, does not matter.
        opened = os.dup(number) if number is not None else os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise AudioError(name, f"cannot be opened: {error.strerror}") from error
    with open(opened, "rb", buffering=0) as source, open(copy, "wb") as target:
        if source.isatty():
            raise AudioError(name, "this is a terminal: pipe or redirect the bytes of a sound file into it")
        if stat.S_ISREG(os.fstat(opened).st_mode):
            source.seek(0)
        wait_s, total = _WAIT_S if number is not None else _UNOPENED_S, 0
        while part := _next(source, name, wait_s, total):
            target.write(part)
            total, wait_s = total + len(part), _WAIT_S
            if total > MOST_BYTES:
                raise AudioError(name, f"does not end within {MOST_BYTES >> 30} GiB: save it to a file first")


def _next(source: BinaryIO, name: str, wait_s: float, total: int) -> bytes:
    if hasattr(select, "poll"):
        waiting = select.poll()
        waiting.register(source, select.POLLIN | select.POLLHUP)
        if not waiting.poll(wait_s * 1000):
            what = "nothing more came" if total else "nothing was written into it"
            raise AudioError(name, f"a pipe: {what} within {wait_s:g} s")
    return source.read(_PART) or b""
