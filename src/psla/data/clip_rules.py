"""The rules of a table of clips: which columns it has, of what type, and what may stand in them.

`Clips` holds every table to them. All checks are over whole columns: two million clips take about a second.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from psla.data.vocabulary import Vocabulary

SPLITS = ("train", "validation", "evaluation")
TIMES = {"start_s": pl.Float64(), "end_s": pl.Float64()}
REQUIRED: dict[str, pl.DataType] = {
    "clip_id": pl.String(),
    "source": pl.String(),
    "path": pl.String(),
    **TIMES,
    "split": pl.String(),
    "labels": pl.List(pl.String()),
}
_EVENT = pl.Struct({"class_id": pl.String(), "onset_s": pl.Float64(), "offset_s": pl.Float64()})
OPTIONAL: dict[str, pl.DataType] = {"true_labels": pl.List(pl.String()), "events": pl.List(_EVENT)}


class ClipsError(ValueError):
    """A table of clips that breaks a rule; the sentence names the clip, the rule and the mend."""


def cast(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with its columns in their types, the known ones first.

    Raises:
        ClipsError: a column is missing or cannot be read as its type.
    """
    missing = [c for c in REQUIRED if c not in frame.columns]
    if missing:
        raise ClipsError(f"clips: column {missing[0]!r} is missing; a table of clips has {', '.join(REQUIRED)}")
    types = REQUIRED | {c: t for c, t in OPTIONAL.items() if c in frame.columns}
    try:
        frame = frame.with_columns(pl.col(c).cast(t) for c, t in types.items())
    except pl.exceptions.PolarsError as error:
        wanted = ", ".join(f"{c} {t}" for c, t in types.items())
        raise ClipsError(f"clips: a column cannot be read as its type ({error}); wanted: {wanted}") from error
    return frame.select(*types, *(c for c in frame.columns if c not in types))


def first(frame: pl.DataFrame, broken: pl.Expr) -> dict[str, Any] | None:
    """The first row that breaks a rule; a comparison with null breaks none."""
    rows = frame.filter(broken.fill_null(False)).head(1)
    return rows.row(0, named=True) if len(rows) else None


def check_unique(frame: pl.DataFrame) -> None:
    """Refuse a clip id that is given twice."""
    if frame["clip_id"].n_unique() != len(frame):
        row = first(frame, pl.col("clip_id").is_duplicated())
        assert row is not None
        raise ClipsError(f"clip {row['clip_id']!r} is given more than once; ids must be unique: drop or rename one")


def check(frame: pl.DataFrame, vocabulary: Vocabulary) -> None:
    """Refuse what breaks a rule.

    Raises:
        ClipsError: the first clip that breaks one, the rule and the mend.
    """
    for column in ("clip_id", "source", "path", "split", "labels"):
        if (row := first(frame.with_row_index("_row"), pl.col(column).is_null())) is not None:
            raise ClipsError(f"clip {row['clip_id']!r} (row {row['_row']}) has no {column}; give one")
    check_unique(frame)
    if (row := first(frame, ~pl.col("split").is_in(SPLITS))) is not None:
        raise ClipsError(f"clip {row['clip_id']!r} has split {row['split']!r}; use one of {', '.join(SPLITS)}")
    start, end = pl.col("start_s").fill_null(0.0), pl.col("end_s")
    if (row := first(frame, (start < 0) | (end <= start) | ~start.is_finite() | ~end.is_finite())) is not None:
        raise ClipsError(
            f"clip {row['clip_id']!r} runs from {row['start_s'] or 0.0} s to {row['end_s']} s; "
            "times must be finite, from 0 s on, and the end after the start: "
            "correct start_s or end_s, or give null for the file's start and end"
        )
    for column in [c for c in ("labels", "true_labels", "events") if c in frame.columns]:
        _check_classes(frame, column, vocabulary)


def _check_classes(frame: pl.DataFrame, column: str, vocabulary: Vocabulary) -> None:
    items = frame.select("clip_id", pl.col(column).alias("item"))
    items = items.filter(pl.col("item").list.len() > 0).explode("item")
    if column == "events":
        items = items.unnest("item")
        wrong = (pl.col("onset_s") < 0) | (pl.col("offset_s") < pl.col("onset_s"))
        wrong = wrong | pl.col("onset_s").is_null() | pl.col("offset_s").is_null()
        if (row := first(items, wrong)) is not None:
            raise ClipsError(
                f"clip {row['clip_id']!r} has an event from {row['onset_s']} s to {row['offset_s']} s; "
                "an event must start at 0 s or later and not end before it starts: correct the event"
            )
    id = pl.col("class_id" if column == "events" else "item")
    if (row := first(items, ~id.is_in(vocabulary.ids) | id.is_null())) is not None:
        raise ClipsError(
            f"clip {row['clip_id']!r} has in {column} the class id {row[id.meta.output_name()]!r}, which is not in "
            f"the vocabulary of {len(vocabulary)} classes; add it to the vocabulary or leave the label out"
        )
