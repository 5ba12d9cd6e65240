"""CSV files of corpora: UTF-8 text with a head line, or refused in one sentence."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from psla.data.clips import ClipsError


class CsvFile(NamedTuple):
    """What a CSV file holds: the columns of its head line, and each line as its number (from 1) and its fields.

    A field that a line lacks is empty.
    """

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]


def read_csv_file(
    path: str | os.PathLike[str], columns: Sequence[str], instead: str, mend: str, corpus: str = ""
) -> CsvFile:
    """A whole CSV file.

    Args:
        path: the file.
        columns: those that it must have.
        instead: what to do where there is no such file.
        mend: what to do about a file that is no text, or has not these columns.
        corpus: begins each sentence where it is given.

    Raises:
        ClipsError: no such file, not UTF-8, or a column missing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clips.csv"
        >>> _ = path.write_text("path,labels\\na.wav,dog\\n")
        >>> read_csv_file(path, ["path"], instead="give one", mend="save it as UTF-8").rows
        [(2, {'path': 'a.wav', 'labels': 'dog'})]
    """
    name = f"{corpus}: {path}" if corpus else f"{path}"
    if not Path(path).is_file():
        raise ClipsError(f"{name} does not exist; {instead}")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            have = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise ClipsError(f"{name} is not UTF-8 text ({error}); {mend}") from error
    if missing := [column for column in columns if column not in have]:
        raise ClipsError(
            f"{name} has no column {' and '.join(missing)}; it has {', '.join(have) or 'no head line'}; {mend}"
        )
    return CsvFile(have, rows)
