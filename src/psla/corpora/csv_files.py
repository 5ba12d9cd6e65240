"""CSV files that others wrote: one door, whose rules hold for corpora, lists of labels, reviews and ratings alike.

Every line is used, is blank, or is counted among those for which the file is refused: nothing is dropped. A line is a
record: a quote ends where its line ends, so that a stray one swallows no other lines. Fields are separated as the head
line shows: by commas, semicolons or tabs. UTF-8, with or without its mark, or UTF-16 with it.

Not here: AudioSet's segment lists, which are no CSV (`psla.corpora.audioset`), and tables that psla itself wrote.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from psla.data.clips import ClipsError
from psla.files import few, not_a_file, shortened

MOST_BYTES = 1 << 30  # the longest list of AudioSet has 100 MB
MOST_COLUMNS = 1000
_SEPARATORS = (",", ";", "\t")
_NAMED = 3  # lines that cannot be used and are named


class CsvFile(NamedTuple):
    """What a CSV file holds: the columns of its head line, and each line as its number (from 1) and its fields.

    Names of columns are without white space at their ends; fields, without any at their beginning.
    """

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]


def read_csv_file(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    instead: str,
    mend: str,
    corpus: str = "",
    refusal: type[ValueError] = ClipsError,
) -> CsvFile:
    """A whole CSV file.

    Args:
        path: the file.
        columns: those that it must have.
        instead: what to do where there is no such file.
        mend: what to do about a file that is no text, or has not these columns.
        corpus: begins each sentence where it is given.
        refusal: the class of the errors.

    Raises:
        ValueError: of the class `refusal`: no such file, no text, a column that is missing or there twice, or lines
            that have more or fewer fields than the head line, repeat it, or have a quote that is not closed; they are
            counted, and the first are named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clips.csv"
        >>> _ = path.write_text("path,labels\\na.wav,dog\\n")
        >>> read_csv_file(path, ["path"], instead="give one", mend="save it as UTF-8").rows
        [(2, {'path': 'a.wav', 'labels': 'dog'})]
    """
    name = f"{corpus}: {path}" if corpus else f"{path}"
    lines = _lines(Path(path), name, instead, mend, refusal)
    said = re.fullmatch(r"sep=(.)", lines[0][1].strip("\"'")) if lines else None  # so a spreadsheet may begin
    lines = lines[1:] if said else lines
    head = lines[0][1] if lines else ""
    if (count := 1 + max(map(head.count, _SEPARATORS))) > MOST_COLUMNS:
        raise refusal(f"{name} has {count:,} columns, and a CSV at most {MOST_COLUMNS:,}; {mend}")
    separator = said[1] if said else _separator(head, columns)
    try:
        have = [] if not lines else [field.strip() for field in _fields(head, separator)]
    except csv.Error as error:
        raise refusal(f"{name}: its head line, line {lines[0][0]}, has {_fault(error)}; {mend}") from error
    _check_head(name, have, columns, mend, refusal)
    rows, faults = [], []
    for number, line in lines[1:]:
        try:
            fields = _fields(line, separator)
        except csv.Error as error:
            faults.append(f"line {number} has {_fault(error)}")
            continue
        if not any(field.strip() for field in fields):
            continue  # separators alone: a blank line of a spreadsheet
        if len(have) > 1 and [field.strip("\ufeff ") for field in fields] == have:
            faults.append(f"line {number} is the head line again, as where files were joined")
        elif (fault := _misfit(have, fields)) is not None:
            faults.append(f"line {number} {fault}")
        else:
            # Separators alone may follow the last field: `_misfit` has refused more and fewer.
            rows.append((number, {name: field for name, field in zip(have, fields, strict=False) if name}))
    if faults:
        more = f"; and {len(faults) - _NAMED:,} more" if len(faults) > _NAMED else ""
        what = "line" if len(faults) == 1 else "lines"
        raise refusal(
            f"{name}: {len(faults):,} {what} of {len(lines) - 1:,} cannot be used: {'; '.join(faults[:_NAMED])}{more}; "
            "put fields that hold separators into quotes, close quotes, and leave nothing else than the head names"
        )
    return CsvFile([column for column in have if column], rows)


def _lines(path: Path, name: str, instead: str, mend: str, refusal: type[ValueError]) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number."""
    if (kind := not_a_file(path)) is not None:
        raise refusal(f"{name} is {kind}; {instead}")
    if not path.is_file():
        raise refusal(f"{name} does not exist; {instead}")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise refusal(f"{name} has {size:,} bytes, and a CSV at most {MOST_BYTES:,}; {mend}")
    try:
        text = _decoded(path.read_bytes())
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise refusal(f"{name} is not UTF-8 text (line {line}: {_undecoded(error)}); {mend}") from error
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise refusal(f"{name} is no text: there is a byte 0 in line {line}, as in UTF-16 without its mark; {mend}")
    # Not str.splitlines, which also ends a line at characters that may stand in a name.
    return [(number, line) for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1) if line.strip()]


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def _undecoded(error: UnicodeDecodeError) -> str:
    where = error.object[error.start : error.start + 4].hex(" ")
    return f"{error.reason} at byte {error.start}, {where}"


def _fields(line: str, separator: str) -> list[str]:
    (fields,) = csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True)
    return fields


def _separator(head: str, columns: Sequence[str]) -> str:
    """The one that gives the columns that are needed, else the most; the comma where there is nothing to choose by."""

    def shows(separator: str) -> tuple[bool, int]:
        try:
            fields = _fields(head, separator)
        except csv.Error:
            return False, 0
        return set(columns) <= {field.strip() for field in fields}, len(fields)

    return max(_SEPARATORS, key=shows)


def _check_head(name: str, have: Sequence[str], columns: Sequence[str], mend: str, refusal: type[ValueError]) -> None:
    if missing := [column for column in columns if column not in have]:
        raise refusal(f"{name} has no column {' and '.join(missing)}; it has {few(have) or 'no head line'}; {mend}")
    if twice := [column for column in dict.fromkeys(have) if column and have.count(column) > 1]:
        raise refusal(f"{name} has more than one column {few(twice)}; leave one of each, or give them other names")


def _misfit(have: Sequence[str], fields: Sequence[str]) -> str | None:
    """Why the fields do not stand below the names; empty ones behind the last name are none."""
    named = [*have, *[""] * (len(fields) - len(have))]
    beyond = [place for place, field in enumerate(fields) if field.strip() and not named[place]]
    if len(fields) < len(have) or any(place >= len(have) for place in beyond):
        return f"has {len(fields)} fields, the head line {len(have)}"
    if beyond:
        return f"has {shortened(fields[beyond[0]], 60)!r} in column {beyond[0] + 1}, which has no name"
    return None


def _fault(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a field of more than {csv.field_size_limit():,} characters"
    return f"a quote that is not closed, or text behind one that is ({error})"
