"""The published lists of AudioSet: segments (a line a clip), the class list and the class graph.

    # Segments csv created Sun Mar  5 10:54:31 2017
    # num_ytids=22160, num_segs=22160, num_unique_labels=527, num_positive_labels=52882
    # YTID, start_seconds, end_seconds, positive_labels
    --PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"

The quotes stand after a space, so this is no CSV that a CSV reader knows: lines are cut at their first three commas,
all of them at once. Lists may be gzipped. Source: J. F. Gemmeke et al., Audio Set: An ontology and human-labeled
dataset for audio events, ICASSP 2017, https://research.google.com/audioset/download.html. Not covered: the list of
strong labels of 2021, which has a line an event.
"""

from __future__ import annotations

import gzip
import os
import re
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from psla.corpora.csv_files import read_csv_file
from psla.data.clips import Clips, ClipsError
from psla.data.ontology import Ontology, OntologyError
from psla.data.vocabulary import Vocabulary
from psla.download import download

FACTS = {
    "name": "AudioSet",
    "source": "https://research.google.com/audioset/",
    "licence": "CC BY 4.0 (labels); CC BY-SA 4.0 (class graph); the videos are their owners'",
    "citation": "J. F. Gemmeke, D. P. W. Ellis, D. Freedman, A. Jansen, W. Lawrence, R. C. Moore, M. Plakal and "
    "M. Ritter. Audio Set: An ontology and human-labeled dataset for audio events. IEEE ICASSP, 2017. "
    "https://doi.org/10.1109/ICASSP.2017.7952261",
}
LISTS = {
    "balanced": "balanced_train_segments",
    "unbalanced": "unbalanced_train_segments",
    "evaluation": "eval_segments",
}
CLASS_LIST, GRAPH = "class_labels_indices.csv", "ontology.json"
_FOLDER = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
ADDRESSES = {
    **{f"{name}.csv": f"{_FOLDER}/{name}.csv" for name in LISTS.values()},
    CLASS_LIST: f"{_FOLDER}/{CLASS_LIST}",
    GRAPH: "https://raw.githubusercontent.com/audioset/ontology/master/ontology.json",
}
"""Where the lists, the class list and the class graph are published, by file name."""

PLACEHOLDER = "audioset://"  # begins the path of a clip whose sound file has not been looked for

ID_LENGTH = 11  # characters of a YouTube id: letters, digits, `-` and `_`, in any place
ID_PATTERN = rf"[A-Za-z0-9_-]{{{ID_LENGTH}}}"
_FIELDS = ("clip_id", "start", "end", "labels")
_LINE = 'ID, start_seconds, end_seconds, "label,label"'
_DECLARED = re.compile(r"num_segs=(\d+)")


def read_lists(
    folder: str | os.PathLike[str],
    lists: Sequence[str] = tuple(LISTS),
    vocabulary: Vocabulary | None = None,
) -> Clips:
    """The published segment lists in a folder as one table; no sound file is looked for.

    `clip_id` and `source` are the video id; `path` is the placeholder `audioset://ID`; `start_s` and `end_s` are null
    (a file holds the cut clip); `list` says which list, `segment_start_s` and `segment_end_s` which part of the video.
    The balanced and the unbalanced list have the split train. A line that repeats an earlier one counts once.

    Args:
        folder: holds balanced_train_segments.csv, unbalanced_train_segments.csv and eval_segments.csv, plain or .gz.
        lists: which of balanced, unbalanced and evaluation to read, in this order.
        vocabulary: None: class_labels_indices.csv of the folder where there is one, else the package's own table.

    Raises:
        ClipsError: an unknown list, no such file, a clip that is listed twice with other times or labels or in train
            and evaluation, or what `read_segments` refuses.

    Example:
        >>> read_lists("lists")  # doctest: +SKIP
        Clips('AudioSet': 2084320 clips (train 2063949, evaluation 20371), 527 classes)
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ClipsError(f"{folder} is not a folder; give the folder that holds the segment lists of AudioSet")
    for name in lists:
        if name not in LISTS:
            raise ClipsError(f"AudioSet has no list {name!r}; use one of {', '.join(LISTS)}")
    if vocabulary is None:
        own = folder / CLASS_LIST
        vocabulary = read_class_list(own) if own.exists() else Vocabulary.audioset()
    parts = []
    for name in lists:
        split = "evaluation" if name == "evaluation" else "train"
        part = read_segments(_list_file(folder, name), vocabulary)
        parts.append(part.with_columns(list=pl.lit(name), split=pl.lit(split)))
    path, times = pl.concat_str(pl.lit(PLACEHOLDER), "clip_id"), pl.lit(None, dtype=pl.Float64())
    frame = _once(pl.concat(parts), folder).with_columns(source="clip_id", path=path, start_s=times, end_s=times)
    columns = ("clip_id", "source", "path", "start_s", "end_s", "split", "labels", "list")
    return Clips(frame.select(*columns, "segment_start_s", "segment_end_s"), vocabulary, FACTS["name"])


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
    lines = _segment_lines(path)
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


def _segment_lines(path: Path) -> pl.DataFrame:
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


def read_class_list(path: str | os.PathLike[str]) -> Vocabulary:
    """The vocabulary of a class list with the columns index, mid and display_name (class_labels_indices.csv).

    The package carries AudioSet's as a table of its own (`Vocabulary.audioset`); this reads other versions, and other
    corpora's.

    Raises:
        ClipsError: no such file, another head line, or indices that are not 0, 1, 2 and so on.
        VocabularyError: a class id given twice.

    Example:
        >>> read_class_list("class_labels_indices.csv")  # doctest: +SKIP
        Vocabulary(527 classes: Speech, Male speech, man speaking, Female speech, woman speaking, …)
    """
    columns, mend = ("index", "mid", "display_name"), "its head line must be index,mid,display_name, and classes follow"
    rows = read_csv_file(path, columns, "give a class list such as class_labels_indices.csv", mend).rows
    if not rows:
        raise ClipsError(f"{path} is no class list; {mend}")
    for number, (line, row) in enumerate(rows):
        if row["index"] != str(number) or not row["mid"] or not row["display_name"]:
            raise ClipsError(
                f"{path}, line {line}: index {row['index']!r}, id {row['mid']!r}, name {row['display_name']!r}; "
                f"classes must be numbered 0, 1, 2 and so on (here {number}), each with an id and a name"
            )
    return Vocabulary([row["mid"] for _, row in rows], [row["display_name"] for _, row in rows])


def download_lists(folder: str | os.PathLike[str], addresses: dict[str, str] = ADDRESSES) -> list[Path]:
    """Fetch the lists, the class list and the class graph into a folder; what is there, also as .gz, is kept.

    Raises:
        DownloadError: an address that cannot be reached; what was fetched before it stays.
    """
    fetched = []
    for name, url in addresses.items():
        if not any((Path(folder) / (name + suffix)).exists() for suffix in ("", ".gz")):
            fetched.append(download(url, Path(folder) / name))
    return fetched


def open_classes(
    folder: str | os.PathLike[str],
    class_list: str | os.PathLike[str] | None = None,
    graph: str | os.PathLike[str] | None = None,
) -> tuple[Vocabulary, Ontology]:
    """Class list and class graph: the given files, else the folder's, else the package's own table.

    Raises:
        ClipsError, VocabularyError: as `read_class_list`.
        OntologyError: as `Ontology.read`, or a class of the list that is not in the graph.
    """
    own_list, own_graph = Path(folder) / CLASS_LIST, Path(folder) / GRAPH
    class_list = class_list or (own_list if own_list.exists() else None)
    graph = graph or (own_graph if own_graph.exists() else None)
    vocabulary = read_class_list(class_list) if class_list else Vocabulary.audioset()
    try:
        ontology = Ontology.read(graph) if graph else Ontology.audioset()
    except OntologyError as error:
        raise error if str(graph) in str(error) else OntologyError(f"{graph}: {error}") from error
    for each in vocabulary:
        if each.id not in ontology:
            raise OntologyError(
                f"class {each.id!r} ({each.name}) of {class_list or 'the class list'} is not in the class graph "
                f"{graph or 'of this package'}; give the two that belong together"
            )
    return vocabulary, ontology


def _list_file(folder: Path, name: str) -> Path:
    """The list's file, plain before gzipped."""
    for suffix in (".csv", ".csv.gz"):
        if (file := folder / (LISTS[name] + suffix)).exists():
            return file
    raise ClipsError(
        f"{folder} has no {LISTS[name]}.csv and no {LISTS[name]}.csv.gz; fetch the lists with "
        f"`psla corpus audioset {folder} --download-lists`, or name the lists that you have (--list)"
    )


def _once(frame: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Each clip once; refuses a clip that is listed again with other times, labels or splits."""
    if frame["clip_id"].n_unique() == len(frame):
        return frame
    again = frame.filter(pl.col("clip_id").is_duplicated())
    again = again.with_columns(pl.col("labels").list.unique().list.sort())
    keys = ["segment_start_s", "segment_end_s", "labels", "split"]
    first = again.unique("clip_id", keep="first", maintain_order=True)
    joined = again.join(first, on="clip_id", how="left", suffix="_first", maintain_order="left")
    for key in keys:
        other = joined.filter(pl.col(key).ne_missing(pl.col(f"{key}_first")))
        if len(other):
            row = other.row(0, named=True)
            what = {"labels": "labels", "split": "splits"}.get(key, "times")
            where = [f"{_list_file(folder, row['list' + s]).name}, line {row['line' + s]}" for s in ("_first", "")]
            raise ClipsError(
                f"clip {row['clip_id']!r} is listed twice with different {what} ({where[0]} and {where[1]}); "
                "a video counts once: drop one of the lines"
            )
    return frame.unique("clip_id", keep="first", maintain_order=True)
