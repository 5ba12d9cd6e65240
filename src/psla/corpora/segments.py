"""Segment lists: the published CSVs of AudioSet, one line a clip.

    # Segments csv created Sun Mar  5 10:54:31 2017
    # num_ytids=22160, num_segs=22160, num_unique_labels=527, num_positive_labels=52882
    # YTID, start_seconds, end_seconds, positive_labels
    --PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"

The quotes stand after a space, so this is no CSV that a CSV reader knows: lines are cut at their first three commas,
all of them at once. Lists may be gzipped. Source: https://research.google.com/audioset/download.html. Not covered: the
list of strong labels of 2021, which has a line an event.
"""

from __future__ import annotations

import gzip
import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import polars as pl

from psla.data.clips import ClipsError
from psla.data.vocabulary import Vocabulary

ID_LENGTH = 11  # characters of a YouTube id: letters, digits, `-` and `_`, in any place
ID_PATTERN = rf"[A-Za-z0-9_-]{{{ID_LENGTH}}}"
_FIELDS = ("clip_id", "start", "end", "labels")
_LINE = 'ID, start_seconds, end_seconds, "label,label"'
_DECLARED = re.compile(r"num_segs=(\d+)")


def read_segments(path: str | os.PathLike[str], vocabulary: Vocabulary) -> pl.DataFrame:
    """One segment list, plain or gzipped: clip_id, segment_start_s, segment_end_s, labels (list of class ids), line.

    A list that holds another number of segments than its head declares is read, with a warning.

    Args:
        path: the list; lines that begin with `#` and empty lines are skipped.
        vocabulary: the class list.

    Shape:
        a row a segment, in the order of the list; `line` counts from 1.

    Raises:
        ClipsError: no such file, not text or not gzip, no segments, a line with too few fields, an id that is no
            YouTube id, times that are no span, or a class id that is not in the vocabulary; the sentence names file and
            line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "list.csv"
        >>> _ = path.write_text('--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"')
        >>> read_segments(path, Vocabulary.audioset()).row(0)
        ('--PJHxphWEs', 30.0, 40.0, ['/m/09x0r', '/t/dd00088'], 1)
    """
    path = Path(path)
    lines = _lines(path)
    comment = lines["text"].str.starts_with("#")
    declared = _DECLARED.search("\n".join(lines.filter(comment)["text"].head(10)))
    lines = lines.filter(~comment & (lines["text"] != ""))
    if not len(lines):
        raise ClipsError(f"{path} lists no segments; a line of a segment list is {_LINE}")
    fields = pl.col("text").str.splitn(",", 4).struct.rename_fields(list(_FIELDS)).alias("field")
    frame = lines.select("line", fields).unnest("field")
    del lines
    _refuse(frame, pl.col("labels").is_null(), path, "has fewer than four fields", f"a line is {_LINE}")
    frame = frame.with_columns(
        pl.col("clip_id").str.strip_chars(),
        *(
            pl.col(field).str.strip_chars().cast(pl.Float64, strict=False).alias(f"segment_{field}_s")
            for field in ("start", "end")
        ),
        pl.col("labels").str.strip_chars(' "').str.replace_all(" ", "", literal=True).str.split(","),
    )
    no_id = ~pl.col("clip_id").str.contains(rf"^{ID_PATTERN}$")
    _refuse(frame, no_id, path, "has {clip_id!r} for an id", "an id of YouTube has 11 letters, digits, - or _")
    start, end = pl.col("segment_start_s"), pl.col("segment_end_s")
    no_span = start.is_null() | end.is_null() | ~start.is_finite() | ~end.is_finite() | (start < 0) | (end <= start)
    rule = "times must be numbers of seconds, the end after the start"
    _refuse(frame, no_span, path, "has the times {start!r} to {end!r}", rule)
    frame = frame.select("clip_id", "segment_start_s", "segment_end_s", "labels", "line")
    _check_labels(frame, vocabulary, path)
    if declared and int(declared[1]) != len(frame):
        text = (
            f"{path} has {len(frame)} segments, its head declares {declared[1]}: unless you shortened it, fetch it anew"
        )
        warnings.warn(text, stacklevel=2)
    return frame


def _lines(path: Path) -> pl.DataFrame:
    """line (from 1) and text, without white space at both ends."""
    if not path.is_file():
        raise ClipsError(f"{path} does not exist or is no file; give a segment list, plain or .gz")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ClipsError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    if not data.strip():
        raise ClipsError(f"{path} is empty; a line of a segment list is {_LINE}")
    try:
        # Unit separators do not occur in text, so every line is one field.
        schema = {"text": pl.String()}
        frame = pl.read_csv(data, has_header=False, separator="\x1f", quote_char=None, schema=schema)
    except pl.exceptions.PolarsError as error:
        raise ClipsError(f"{path} is not a text file of segments ({error}); a line is {_LINE}") from error
    return frame.select(pl.int_range(1, pl.len() + 1).alias("line"), pl.col("text").fill_null("").str.strip_chars())


def _check_labels(frame: pl.DataFrame, vocabulary: Vocabulary, path: Path) -> None:
    unknown = set(frame["labels"].explode().unique().to_list()) - set(vocabulary.ids)
    if not unknown:
        return
    first = frame.select("line", "labels").explode("labels").filter(pl.col("labels").is_in(sorted(unknown))).row(0)
    raise ClipsError(
        f"{path}, line {first[0]}: class id {first[1]!r} is not in the class list of {len(vocabulary)} classes; "
        "give the class list that belongs to these segments"
    )


def _refuse(frame: pl.DataFrame, broken: pl.Expr, path: Path, fault: str, rule: str) -> None:
    rows = frame.filter(broken).head(1)
    if len(rows):
        row: dict[str, Any] = rows.row(0, named=True)
        raise ClipsError(f"{path}, line {row['line']} {fault.format(**row)}; {rule}: correct the line or drop it")
