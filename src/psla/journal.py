"""The append-only journal of a long job, and the strict reading of JSON that all of psla's own files get.

Not here: files that are written whole (`psla.files`).
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn


def json_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text holds.

    Raises:
        ValueError: why it is none: no JSON, something else than an object, a key that an object gives twice, NaN or
            infinity, or brackets in brackets without end.

    Example:
        >>> json_object('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: it gives the key 'a' twice
    """
    try:
        found = json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise ValueError(f"it is no JSON object but {type(found).__name__}")
    return found


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it gives the key {next(key for key in keys if keys.count(key) > 1)!r:.80} twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


class JournalError(ValueError):
    """A journal that another process is writing, or that holds something else than what was written."""


class Journal:
    """What a long job has finished, one JSON object a line, only ever appended to. A context manager.

    Whatever kills the job, the lines that `append` has returned for are on the disk. A last line that was cut short is
    thrown away when the journal is opened again; the job then does that piece again. Each line ends in its own CRC-32
    (`crc32`, which `records` leave out), so that no other row than the one that was written is ever read; the lines of
    earlier versions of psla, which have none, come first.

    Args:
        path: the file; made, with its folder, if it is missing.

    Attributes:
        records: what the file held when it was opened.

    Raises:
        JournalError: a line that is no JSON object (but for a torn last one) or not what was written, by its number; or
            another process has the journal open.

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
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115  (closed by `close`)
        try:
            _lock(self._file.fileno(), self.path)
            self._file.seek(0)
            data = self._file.readall()
            self.records = _records(data, self.path)
            if torn := data[data.rfind(b"\n") + 1 :]:
                if not torn.startswith(b"{"):
                    raise JournalError(f"{self.path}: its last line is none of a journal; give another file")
                self._file.truncate(len(data) - len(torn))  # or the next line would be glued to it
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
            OSError: the disk does not take them, such as a full one; what was there before is there, and no more.
        """
        data = memoryview("".join(_line(record) for record in records).encode("ascii"))
        before = os.fstat(self._file.fileno()).st_size
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            error.filename = os.fspath(self.path)
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise

    def close(self) -> None:
        """Lets the next process open it."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _line(record: Mapping[str, Any]) -> str:
    """A record and its checksum, in ASCII, because a file name may hold bytes that are not UTF-8."""
    text = json.dumps(record, allow_nan=False)
    return json.dumps({**record, "crc32": zlib.crc32(text.encode("ascii"))}) + "\n"


def _records(data: bytes, path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal. What follows the last line end was cut short while it was written."""
    records: list[dict[str, Any]] = []
    summed = False
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            record = json_object(line)
            known = record.pop("crc32", None)
            summed = summed or known is not None
            if summed and known != zlib.crc32(json.dumps(record).encode("ascii")):
                raise ValueError("it is not what was written (CRC-32)")
        except ValueError as error:
            mend = "delete that line, or start another journal"
            raise JournalError(f"{path}: line {number} cannot be used, {error}; {mend}") from error
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
