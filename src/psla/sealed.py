"""Files that psla reads again, each with a checksum over all of it: JSON, text such as YAML, and Parquet.

    JSON      a last key, `checksum`: the SHA-256 of the rest as JSON with sorted keys
    text      a first line that says so, and a last one, `# sha256: ...`: of all lines before it, the first included
    Parquet   `"sha256": "..."` ends the header in its metadata: of all bytes of the file, these digits as zeros

Files of earlier versions of psla, and of people, have none; they are read as they are, strictly. So that a damaged file
does not pass for one of those, readers say which keys they know. Not here: files of tensors
(`psla.model.tensor_file`), predictions (`psla.metrics.predictions`), journals (`psla.journal`).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psla.files import write_json_atomic
from psla.journal import json_object

if TYPE_CHECKING:
    import polars as pl

_FIRST = "# psla: the last line is the SHA-256 of the lines before it; who edits this file deletes both\n"
_LAST = "# sha256: "
_ZEROS = "0" * 64
_DIGITS = re.compile(rb'"sha256": "([0-9a-f]{64})"}')
_MOST_JSON_BYTES = 256 << 20
ANOTHER = "it is not what was written (SHA-256)"


def checksum(data: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its keys: 64 hex digits.

    Example:
        >>> checksum({"a": 1, "b": 2}) == checksum({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode("ascii")).hexdigest()


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum; see `psla.files.write_json_atomic`."""
    write_json_atomic(path, {**data, "checksum": checksum(data)})


def read_json(
    path: str | os.PathLike[str],
    error: type[ValueError],
    needed: Collection[str] = (),
    known: Collection[str] | None = None,
    mend: str = "restore it, or have it made again",
) -> dict[str, Any]:
    """The JSON object of a file, without its checksum, which is compared where there is one.

    Args:
        error: what is raised with the sentence.
        needed: keys that it must have.
        known: keys that it may have besides; None: any.
        mend: the end of the sentence.

    Raises:
        error: no JSON object, another than was written, or a key too few or too many.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "plan.json"
        >>> write_json(path, {"clips": 7})
        >>> read_json(path, ValueError, needed=["clips"])
        {'clips': 7}
        >>> _ = path.write_text(path.read_text().replace("7", "8"))
        >>> read_json(path, ValueError)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: ...plan.json is damaged (it is not what was written (SHA-256)): restore it, or have it made again
    """
    try:
        if (size := os.path.getsize(path)) > _MOST_JSON_BYTES:
            raise ValueError(f"it has {size} bytes")
        data = json_object(Path(path).read_bytes())
        sum_, own = data.pop("checksum", None), set(data)
        if sum_ is not None and sum_ != checksum(data):
            raise ValueError(ANOTHER)
        if missing := sorted(set(needed) - own):
            raise ValueError(f"it lacks {', '.join(missing[:5])}")
        if known is not None and (unknown := sorted(own - set(needed) - set(known))):
            raise ValueError(f"it has the unknown key {unknown[0]!r:.80}")
    except ValueError as why:
        raise error(f"{os.fspath(path)} is damaged ({why}): {mend}") from why
    return data


def seal_text(text: str) -> str:
    """A text with comments before and after it that prove that it is whole; YAML and CSV readers skip them.

    Example:
        >>> unseal_text(seal_text("seed: 1\\n"), "recipe.yaml", ValueError)
        'seed: 1\\n'
    """
    body = _FIRST + text + ("" if text.endswith("\n") else "\n")
    return f"{body}{_LAST}{hashlib.sha256(body.encode()).hexdigest()}\n"


def is_sealed(text: str) -> bool:
    """Whether a text has one of the two comments, so that it must have both."""
    return text.startswith(_FIRST[:7]) or f"\n{_LAST}" in text


def unseal_text(text: str, where: str | os.PathLike[str], error: type[ValueError]) -> str:
    """The text that `seal_text` was given; a text without either comment as it is.

    Raises:
        error: it is not what was written, or has been cut.
    """
    if not is_sealed(text):
        return text
    body, last, digits = text.rpartition(_LAST)
    if not last or not body.startswith(_FIRST) or digits != hashlib.sha256(body.encode()).hexdigest() + "\n":
        raise error(
            f"{os.fspath(where)} is damaged or was edited ({ANOTHER}): restore it; if you mean what it says, delete "
            "its first and its last line"
        )
    return body[len(_FIRST) :]


def write_parquet(frame: pl.DataFrame, path: str | os.PathLike[str], key: str, header: Mapping[str, Any]) -> None:
    """Write a table, and under a key of its metadata a header as JSON with the checksum of the whole file.

    Args:
        path: of a temporary file: it is not written atomically.

    Raises:
        OSError: the disk does not take it.
    """
    import polars as pl

    text = json.dumps({**header, "sha256": _ZEROS}).encode()
    try:
        frame.write_parquet(Path(path), metadata={key: text.decode()})
    except pl.exceptions.PolarsError as error:  # its own wrapping of what the system said, such as of a full disk
        if (said := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(said[1]), os.strerror(int(said[1]))) from error
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        at = data.rfind(text) + len(text) - len(_ZEROS) - 2
        digits = _digest(data, at)
        if _DIGITS.match(data, at - len('"sha256": "')) is None:
            raise OSError(f"{os.fspath(path)} was not written as it should be: its header is not in it")
        data[at : at + len(digits)] = digits.encode()


def read_parquet(
    path: str | os.PathLike[str], key: str, error: type[ValueError], known: Collection[str] | None
) -> tuple[pl.DataFrame, dict[str, Any] | None]:
    """The table and the header that `write_parquet` wrote; (an empty table, None): no header stands under this key.

    Args:
        known: the keys that the header must have, and no more; None: any.

    Raises:
        error: no Parquet file, a damaged one, or a header that is no JSON object with these keys.
        OSError: it cannot be opened.
    """
    import polars as pl

    mend = "write it again"
    try:
        summed = _check_bytes(path)
        stored = pl.read_parquet_metadata(Path(path)).get(key)
        if stored is None:
            return pl.DataFrame(), None
        header = json_object(stored)
        if header.pop("sha256", None) is not None and not summed:
            raise ValueError(ANOTHER)
        if known is not None and (odd := sorted(set(known) ^ set(header))):
            raise ValueError(f"its header has {', '.join(sorted(header))[:80] or 'no key'}; odd is {odd[0]!r:.80}")
        return pl.read_parquet(Path(path), glob=False), header
    # Bytes that are no Parquet make the library panic, which is no Exception but would be.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as why:
        reason = " ".join(str(why).split())[:200]
        raise error(f"{os.fspath(path)} is not a readable Parquet file ({reason}); {mend}") from why


def _check_bytes(path: str | os.PathLike[str]) -> bool:
    """Whether the file has a checksum, which then is right; ValueError where it is wrong, or this is no Parquet."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 12:
            raise ValueError(f"it has {size} bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            footer = int.from_bytes(data[-8:-4], "little")
            if data[:4] != b"PAR1" or data[-4:] != b"PAR1" or footer > size - 12:
                raise ValueError("it does not begin and end as Parquet does")
            places = [each.start(1) for each in _DIGITS.finditer(data, size - 8 - footer)]
            if not places:
                return False
            at = places[-1]
            if _digest(data, at) != data[at : at + len(_ZEROS)].decode():
                raise ValueError(ANOTHER)
            return True


def _digest(data: mmap.mmap, at: int) -> str:
    """SHA-256 of a file with zeros for the digits from byte `at` on."""
    digest = hashlib.sha256()
    with memoryview(data) as view:
        digest.update(view[:at])
        digest.update(_ZEROS.encode())
        digest.update(view[at + len(_ZEROS) :])
    return digest.hexdigest()
