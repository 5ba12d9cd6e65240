"""Files that are whole or absent: atomic writes, checksums and the append-only journal; and paths that are no text.

A reader never meets a half-written file: everything is written under another name beside its target and renamed when
complete. Not here: downloads (`psla.download`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20  # bytes
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
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(6)}.{target.name}")
    try:
        yield temporary
        rename_synced(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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


class JournalError(ValueError):
    """A journal that another process is writing, or that holds something else than JSON objects."""


class Journal:
    """What a long job has finished, one JSON object a line, only ever appended to. A context manager.

    Whatever kills the job, the lines that `append` has returned for are on the disk. A last line that was cut short is
    thrown away when the journal is opened again; the job then does that piece again.

    Args:
        path: the file; made, with its folder, if it is missing.

    Attributes:
        records: what the file held when it was opened.

    Raises:
        JournalError: a line that is no JSON object (but for a torn last one), by its number, or another process has the
            journal open.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "done.jsonl"
        >>> with Journal(path) as journal:
        ...     journal.append({"file": "a.wav"}, {"file": "b.wav"})
        >>> _ = path.write_text(path.read_text()[:-5])
        >>> with Journal(path) as journal:
        ...     print(journal.records)
        [{'file': 'a.wav'}]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115  (closed by `close`)
        try:
            _lock(self._file.fileno(), self.path)
            self._file.seek(0)
            data = self._file.read()
            self.records = _records(data, self.path)
            if torn := len(data) - (data.rfind(b"\n") + 1):
                self._file.truncate(len(data) - torn)  # or the next line would be glued to it
        except BaseException:
            self._file.close()
            raise

    @staticmethod
    def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
        """The records of a journal that nobody need have closed; none where there is no file.

        Raises:
            JournalError: as the constructor, but for the other process.
        """
        try:
            return _records(Path(path).read_bytes(), Path(path))
        except FileNotFoundError:
            return []

    def append(self, *records: Mapping[str, Any]) -> None:
        """Add records; they are on the disk (fsync, once for all of them) when this returns.

        Raises:
            TypeError, ValueError: a value that JSON does not have, or NaN or infinity; then nothing is written.
        """
        # ASCII, because a file name may hold bytes that are not UTF-8.
        lines = [json.dumps(record, allow_nan=False) + "\n" for record in records]
        self._file.write("".join(lines).encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets the next process open it."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _records(data: bytes, path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal. What follows the last line end was cut short while it was written."""
    records = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise JournalError(f"{path}: line {number} is no JSON object; delete that line, or start another journal")
        records.append(record)
    return records


def _lock(descriptor: int, path: Path) -> None:
    """Holds the file for this process. The lock is the process's own: a worker that outlives it holds nothing."""
    try:
        import fcntl
    except ImportError:  # only POSIX has it
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise JournalError(f"{path}: another process is writing this journal; wait for it or give another") from error


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
