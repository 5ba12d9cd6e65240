"""The CSV tables in a run's folder: which columns each has, written whole, and read again with suspicion."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psla.files import atomic_write

LOG_COLUMNS = ("epoch", "steps", "clips", "rejected", "learning_rate", "loss", "validation_map", "evaluation_map")
COLUMNS = {
    "log.csv": LOG_COLUMNS,
    "timing.csv": ("epoch", "training_s", "total_s"),
    "rejected.csv": ("clip_id", "reason"),
    "non_finite.csv": ("step", "clip_ids"),
}
_TEXTS = {"clip_id", "reason", "clip_ids"}


class RunError(ValueError):
    """A file of a run that is not what was written; the sentence names it."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of one of a run's tables, as texts.

    Raises:
        RunError: other columns, a row that is too short or too long, or a number that is none.
        OSError: the file cannot be read.
    """
    columns = COLUMNS[path.name]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, found = list(reader), tuple(reader.fieldnames or ())
        if found[:1] != columns[:1] or set(found) - set(columns):
            raise ValueError(f"its columns are {', '.join(found)[:80] or 'none'}")
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise ValueError(f"line {number} has another number of fields than the head")
            for column in set(found) - _TEXTS:
                if column.endswith("_map") and row[column] in ("", "nan"):  # nothing held out, or none of it labelled
                    continue
                if not math.isfinite(float(row[column] or "nan")):
                    raise ValueError(f"line {number}: {column} is {row[column]!r:.40}, not a number")
            if columns[0] != "clip_id":
                int(row[columns[0]])
    except (ValueError, csv.Error) as error:
        raise RunError(f"{path} is damaged ({error}): restore it, or begin the run anew") from error
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; the keys of its first row are the columns."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=tuple(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
