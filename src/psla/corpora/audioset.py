"""AudioSet: 2,084,320 clips of 10 s from as many videos, 527 classes; the labels are published, the sound is not.

Source: J. F. Gemmeke et al., Audio Set: An ontology and human-labeled dataset for audio events, ICASSP 2017,
https://research.google.com/audioset/. `read_lists` reads the published labels, `scan` joins them with the sound files
that you have (see `audio_roots.py`). Not covered: the strong labels of 2021; fetching sound from video sites.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from psla.audio.probe import Headers, Report
from psla.corpora.audio_roots import Found, find_files
from psla.corpora.class_lists import read_class_list
from psla.corpora.clip_files import UNREADABLE, WRONG_LENGTH, Matched, choose_files
from psla.corpora.segments import read_segments
from psla.data.clips import Clips, ClipsError
from psla.data.inventory import Inventory, shares
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
        part = read_segments(_list_file(folder, name), vocabulary)
        parts.append(part.with_columns(pl.lit(name).alias("list"), pl.lit(_split(name)).alias("split")))
    frame = _once(pl.concat(parts), folder)
    times = pl.lit(None, dtype=pl.Float64())
    frame = frame.select(
        "clip_id",
        pl.col("clip_id").alias("source"),
        pl.concat_str(pl.lit(PLACEHOLDER), "clip_id").alias("path"),
        times.alias("start_s"),
        times.alias("end_s"),
        "split",
        "labels",
        "list",
        "segment_start_s",
        "segment_end_s",
    )
    return Clips(frame, vocabulary, FACTS["name"])


def read(
    folder: str | os.PathLike[str],
    audio: Sequence[str | os.PathLike[str]],
    lists: Sequence[str] = tuple(LISTS),
    vocabulary: Vocabulary | None = None,
) -> Clips:
    """The clips whose sound files are under the audio roots; a warning counts the others. See `scan`, which lists them.

    Raises:
        ClipsError: as `scan`, or none of the files is there.

    Example:
        >>> clips = read("lists", ["/data/audioset"], ["balanced", "evaluation"])  # doctest: +SKIP
    """
    clips, inventory = scan(folder, audio, lists, vocabulary)
    if not len(clips):
        raise ClipsError(f"AudioSet: {inventory.counts()}; no sound file under the audio roots can be used")
    if len(clips) < inventory.listed:
        warnings.warn(f"AudioSet: {inventory.counts()}", stacklevel=2)
    return clips


def scan(
    folder: str | os.PathLike[str],
    audio: Sequence[str | os.PathLike[str]],
    lists: Sequence[str] = tuple(LISTS),
    vocabulary: Vocabulary | None = None,
    *,
    headers: str | os.PathLike[str] | None = None,
    decode: bool = False,
    keep_wrong_length: bool = False,
    report: Report | None = None,
) -> tuple[Clips, Inventory]:
    """The clips whose sound files are under the audio roots, and the inventory of all that the lists name.

    `audio_roots.py` says which names are known, `clip_files.py` which of several files is used and what a wrong length
    is. No file is changed.

    Args:
        folder, lists, vocabulary: see `read_lists`.
        audio: the audio roots.
        headers: a file that keeps what was learnt of the sound files, so that an interrupted scan goes on.
        decode: decode every file that is used (slow, finds all damage) and not only its header.
        keep_wrong_length: keep clips whose only readable file is too short or too long.
        report: told (stage, done, total) now and then; the stages are files and headers.

    Raises:
        ClipsError: as `read_lists` and `find_files`.

    Example:
        >>> clips, inventory = scan("lists", ["/data/audioset"])  # doctest: +SKIP
        >>> print(inventory.counts())                             # doctest: +SKIP
        1850123 of 2084320 clips present, 233950 missing, 17 unreadable, 230 of the wrong length
    """
    listed = read_lists(folder, lists, vocabulary)
    found = find_files(audio, frozenset(listed.frame["clip_id"]), report)
    segments = listed.frame.select("clip_id", "segment_start_s", "segment_end_s")
    matched = choose_files(found.files, segments, Headers(headers), decode, keep_wrong_length, report)
    frame = listed.frame.drop("path", "start_s", "end_s")
    frame = frame.join(matched.used, on="clip_id", how="left", maintain_order="left")
    present = frame["path"].is_not_null()
    clips = Clips(frame.filter(present), listed.vocabulary, listed.name)
    return clips, _inventory(listed, present, found, matched)


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


def _inventory(listed: Clips, present: pl.Series, found: Found, matched: Matched) -> Inventory:
    failed = {kind: matched.failed.filter(pl.col("kind") == kind) for kind in (UNREADABLE, WRONG_LENGTH)}
    lost = listed.frame.select("clip_id").filter(~present).join(matched.failed, on="clip_id", how="anti")
    classes, splits = shares(listed, present)
    notes = [f"{folder} could not be listed: {reason}" for folder, reason in found.unlisted]
    if found.others:
        notes.append(f"sound files named after no listed clip: {found.others}, the first: {found.first_other}")
    return Inventory(
        have=int(present.sum()),
        missing=[(id, "") for id in lost["clip_id"]],
        unreadable=failed[UNREADABLE].select("clip_id", "path", "fault").rows(),
        wrong_length=failed[WRONG_LENGTH].select("clip_id", "path", "fault").rows(),
        duplicates=matched.duplicates.with_columns(pl.col("fault").fill_null("")).rows(),
        classes=classes,
        splits=splits,
        notes=notes,
        name=listed.name,
    )


def _split(name: str) -> str:
    return "evaluation" if name == "evaluation" else "train"


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
