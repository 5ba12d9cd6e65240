"""Annotation quality of classes, from a file of the user's: Table VII sets it beside the classes' average precision.

A CSV with a column of classes (`class`, `id`, `label_id`, `mid`, `name` or `display_name`; ids or names) and either a
column `quality` or `num_true` and `num_rated`: for how many of the clips that people heard again the label was right.
AudioSet's estimate is of that kind (10 clips a class): https://research.google.com/audioset/dataset/
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from psla.data.vocabulary import Vocabulary, VocabularyError

CLASS_COLUMNS = ("class", "id", "label_id", "mid", "name", "display_name")


class QualityError(ValueError):
    """A table of qualities that cannot be read."""


def read_quality(path: str | Path, vocabulary: Vocabulary) -> dict[str, float]:
    """{class id: quality}, for the classes of the vocabulary; others in the file are left out.

    Raises:
        FileNotFoundError: no such file.
        QualityError: a column is missing, a value is no number, or no class is one of the vocabulary's.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "quality.csv"
        >>> _ = path.write_text("class,quality\\nDog,0.9\\nCat,1\\n")
        >>> read_quality(path, Vocabulary(["/m/0bt9lr"], ["Dog"]))
        {'/m/0bt9lr': 0.9}
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        rows = list(reader)
    named = next((name for name in CLASS_COLUMNS if name in columns), None)
    counted = {"num_true", "num_rated"} <= set(columns)
    if named is None or not ("quality" in columns or counted):
        raise QualityError(
            f"{path} needs a column of classes ({', '.join(CLASS_COLUMNS)}) and a column quality, or num_true and "
            f"num_rated; it has {', '.join(columns) or 'none'}"
        )
    found: dict[str, float] = {}
    for line, row in enumerate(rows, start=2):
        try:
            sound = vocabulary.find((row[named] or "").strip())
        except VocabularyError:
            continue
        try:
            value = float(row["quality"]) if "quality" in columns else _ratio(row["num_true"], row["num_rated"])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise QualityError(f"{path}, line {line}: the quality of {sound.name} is no number")
        found[sound.id] = value
    if not found:
        raise QualityError(f"{path}: none of its classes is one of the {len(vocabulary)} of the lab")
    return found


def _ratio(true: str, rated: str) -> float:
    return float(true) / float(rated) if float(rated) else math.nan
