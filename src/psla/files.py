"""Files that are whole or absent: atomic writes and checksums; and paths that are no text.

A reader never meets a half-written file: everything is written under another name beside its target and renamed when
complete. What a writer that was killed leaves is removed by the next that writes the same file: a writer holds a lock
on its temporary file, and a file that nobody holds is a leftover. Not here: downloads (`psla.download`), the journal,
which is appended to (`psla.journal`), checksums that stand in the files themselves (`psla.sealed`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from psla.journal import Journal as Journal
from psla.journal import JournalError as JournalError

_CHUNK = 1 << 20  # bytes
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.(.+)", re.DOTALL)
# What writing to a disk can end in without the name of a file in the error.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
NOT_TEXT = "its path is not UTF-8 text, which a table of clips must hold: rename the file or its folder"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hands out a temporary path beside `path`; at the end of the block the file written there becomes `path`.

    The temporary file ends in the name of the target, so that writers that look at the suffix behave. The folder is
    made if it is missing. On success the file is on disk (fsync) before it takes the name; on any error it is removed
    and what stood at `path` stays as it was.

    Raises:
        FileNotFoundError: the block wrote nothing.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("whole")
        ...     target.exists()
        False
        >>> target.read_text()
        'whole'
    """
    target = Path(path)
    with _scratch(target) as (temporary, held):
        try:
            yield temporary
            about = os.stat(temporary)
            if not about.st_size and not about.st_mtime_ns:  # as `scratch` made it
                raise FileNotFoundError(errno.ENOENT, "nothing was written", os.fspath(target))
            with _held_again(temporary, held):
                rename_synced(temporary, target)
        except OSError as error:
            if error.filename == os.fspath(temporary) or (error.filename is None and error.errno in DISK_ERRORS):
                error.filename = os.fspath(target)  # which the user knows
            raise


@contextlib.contextmanager
def scratch(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hands out a temporary path beside `path`, at which nothing is left afterwards.

    If the process is killed in the block, the file stays until the next `scratch` or `atomic_write` of the same `path`,
    which removes it; POSIX systems only, others have no locks to tell it from the file of a process that lives.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with scratch(folder / "notes.txt") as temporary:
        ...     _ = temporary.write_text("for a moment")
        >>> list(folder.iterdir())
        []
    """
    with _scratch(Path(path)) as (temporary, _):
        yield temporary


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[tuple[Path, int | None]]:
    """As `scratch`, with the descriptor that holds the lock."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, target.name)
    temporary, held = _hold_new(target)
    try:
        yield temporary, held
    finally:
        temporary.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


@contextlib.contextmanager
def _held_again(temporary: Path, held: int | None) -> Iterator[None]:
    """A library may write a file of its own, for its owner alone, and rename it to ours (safetensors does): it is held
    as ours was, and who may read ours may read it."""
    if held is None or os.stat(temporary).st_ino == os.fstat(held).st_ino:
        yield
        return
    import fcntl

    os.chmod(temporary, stat.S_IMODE(os.fstat(held).st_mode))
    with open(temporary, "rb") as file:
        with contextlib.suppress(OSError):  # as in `_hold_new`
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hold_new(target: Path) -> tuple[Path, int | None]:
    """A new temporary file beside a target, its time of change 0, and the descriptor that holds its lock."""
    while True:
        temporary = target.with_name(f".{secrets.token_hex(6)}.{target.name}")
        try:
            import fcntl
        except ImportError:  # only POSIX has it
            return temporary, None
        held = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks: then nobody can take the file for a leftover
            fcntl.flock(held, fcntl.LOCK_EX)
        if os.fstat(held).st_nlink:
            os.utime(temporary, ns=(0, 0))
            return temporary, held
        os.close(held)  # somebody came between, and took it for a leftover


def remove_leftovers(folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Removes the temporary files of writers that were killed; what a living one writes stays.

    Args:
        folder: where to look, not below.
        name: of the target whose temporary files go; None: of all, for folders in which nobody but psla writes.
    """
    try:
        import fcntl
    except ImportError:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            target = entry.name
            while made := _TEMPORARY.fullmatch(target):  # a temporary file may itself have been written atomically
                target = made[1]
            if target == entry.name or name not in (None, target) or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):  # it is held, or gone meanwhile, or not ours to remove
                file = os.open(entry.path, os.O_RDWR)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
                finally:
                    os.close(file)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text with `atomic_write`; line ends are kept as given."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json_atomic(path: str | os.PathLike[str], data: Any) -> None:
    """Writes JSON, indented by two spaces, keys in their given order, with `atomic_write`.

    Raises:
        TypeError: a value that JSON does not have.
        ValueError: NaN or infinity, which JSON does not have either.
    """
    write_text_atomic(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file: 64 lower-case hex digits.

    Example:
        >>> sha256_of(os.devnull)[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_text(path: str) -> bool:
    """Whether a path can be written as UTF-8.

    Example:
        >>> is_text("café.wav"), is_text(os.fsdecode(b"caf\\xe9.wav"))
        (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in path)


def printable(path: str) -> str:
    """A path as text that can be written: bytes that are not UTF-8 as `\\xff`.

    Example:
        >>> print(printable(os.fsdecode(b"caf\\xe9.wav")))
        caf\\xe9.wav
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """Text on one line that does nothing to a terminal or a page: what is not seen, such as an escape, as its escape.

    Example:
        >>> print(visible("café\\x1b[2J\\n.wav"))
        café\\x1b[2J\\n.wav
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in printable(text))


def shortened(text: str, most: int = 200) -> str:
    """Text of at most so many characters and a word on what is left out, for messages.

    Example:
        >>> shortened("a" * 1000, 3)
        'aaa… (997 more characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


def few(names: Collection[str], most: int = 8) -> str:
    """Some of the names, each shortened, and how many more there are, for messages.

    Example:
        >>> few(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    shown = ", ".join(shortened(name, 60) for name in islice(names, most))
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def not_a_file(path: str | os.PathLike[str]) -> str | None:
    """What stands at a path in place of a file that can be read to its end, in words; None: a file, or nothing at all.

    Example:
        >>> not_a_file(os.devnull), not_a_file(os.curdir)
        ('a device, not a file', 'a folder, not a file')
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return None if stat.S_ISREG(mode) else f"{kinds.get(stat.S_IFMT(mode), 'a device')}, not a file"


@contextlib.contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[None]:
    """Of all threads and processes that make the file at `path`, one is in the block; the others wait at its door.

    The door is an empty file, `path` + ".lock", that is gone afterwards; its folder is made if it is missing. Whoever
    is killed in the block is no longer in it. Only POSIX has such locks; elsewhere nobody waits.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.bin"
        >>> with alone(target):
        ...     print([each.name for each in target.parent.iterdir()])
        ['a.bin.lock']
    """
    door = Path(path).with_name(Path(path).name + ".lock")
    door.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        with open(door, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who was inside has removed the door that we waited at, and a third may stand in a new one: look again.
            if not os.fstat(file.fileno()).st_nlink:
                continue
            try:
                yield
            finally:
                door.unlink(missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_UN)  # said, because a forked worker may hold the same open file
            return


def rename_synced(temporary: Path, target: Path) -> None:
    """Brings the bytes to disk, then the name."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
