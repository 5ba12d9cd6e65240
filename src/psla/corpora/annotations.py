"""Recordings that people have labelled over time: annotation files of Raven, Audacity, Praat, DCASE and others.

Every recording is a clip with its events, and with their classes as labels; or, in pieces of so many seconds, a clip a
piece, with the events that sound in it. All pieces of a recording have one source: they are never on both sides.

Which sound file is meant, the annotation file says, or its name does: `a.wav.txt`, `a.txt` and
`a.Table.1.selections.txt` all belong to `a.wav`, or `a.flac`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psla.audio.decode import AUDIO_SUFFIXES, probe
from psla.corpora.folder import hold_out_evaluation, open_vocabulary, tidy
from psla.data.annotations import FORMATS, Annotation, AnnotationError, read_annotations
from psla.data.clips import Clips, ClipsError
from psla.data.vocabulary import Vocabulary, VocabularyError

SUFFIXES = (".txt", ".tsv", ".csv", ".json", ".jams", ".vtt", ".textgrid")
"""What the names of annotation files end in, where a folder of them is named."""


def read(
    files: Sequence[str | os.PathLike[str]],
    audio_root: str | os.PathLike[str] | None = None,
    vocabulary: str | None = None,
    label_column: str | None = None,
    format: str | None = None,
    seconds: float | None = None,
    evaluation_share: float = 0.2,
    seed: int = 0,
) -> Clips:
    """Clips with events from annotation files.

    Args:
        files: annotation files, or folders that hold them at any depth.
        audio_root: where the sound files are, also in the folders below, as those of the annotations; None: beside
            the annotation files.
        vocabulary: None: the labels that occur, sorted; `audioset`; or a text file (see `open_vocabulary`).
        label_column: the column of the labels, where a table has several.
        format: a name of `psla.data.annotations.FORMATS`; None: by what is in each file.
        seconds: length of the clips, above 0; None: a recording is one clip.
        evaluation_share: the share of each class that becomes the split evaluation, whole recordings; 0 to below 1.
        seed: chooses which.

    Raises:
        ClipsError: no annotation file, one that cannot be read, a recording that is not found, a label that the
            vocabulary does not have.
        AudioError: a recording whose length is asked for and that cannot be read.

    Example:
        >>> clips = read(["labels/"], audio_root="recordings/", seconds=10)  # doctest: +SKIP
    """
    if seconds is not None and not seconds > 0:
        raise ClipsError(f"clips must be longer than 0 seconds, not {seconds}")
    heard: dict[str, list[Annotation]] = {}
    nameless: list[tuple[Path, float]] = []
    for file, root in _annotation_files(files):
        try:
            recordings = read_annotations(file, label_column, format)
        except AnnotationError as error:
            raise ClipsError(str(error)) from error
        for recording in recordings:
            sound = _sound(file, root, recording.path, None if audio_root is None else Path(audio_root))
            named = [replace(each, label=tidy(each.label)) for each in recording.annotations]
            nameless += [(file, each.onset_s) for each in named if not each.label]
            heard.setdefault(sound, []).extend(each for each in named if each.label)
    if nameless:
        first, onset = nameless[0]
        told = f"{len(nameless)} annotations have no label and are left out, the first: {first} at {onset:g} s"
        warnings.warn(told, stacklevel=2)
    labels = sorted({each.label for own in heard.values() for each in own})
    if not labels:
        raise ClipsError(f"{', '.join(map(str, files))}: there is no annotation with a label")
    classes = Vocabulary(labels) if vocabulary is None else open_vocabulary(vocabulary)
    ids = {}
    for label in labels:
        try:
            ids[label] = classes.find(label).id
        except VocabularyError as error:
            raise ClipsError(f"label {error}; correct it, or extend the vocabulary {vocabulary!r}") from error
    rows = [row for sound, own in heard.items() for row in _rows(sound, own, ids, classes, seconds)]
    return hold_out_evaluation(Clips.from_rows(rows, classes, "annotations"), evaluation_share, seed)


def _annotation_files(files: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[Path, Path]]:
    """Files with the folder that they were found in."""
    for each in map(Path, files):
        if not each.is_dir():
            if not each.is_file():
                raise ClipsError(f"{each} does not exist; name annotation files, or folders of them")
            yield each, each.parent
            continue
        found = sorted(path for path in each.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise ClipsError(f"{each}: a folder without annotation files ({', '.join(SUFFIXES)}; {', '.join(FORMATS)})")
        yield from ((path, each) for path in found)


def _sound(file: Path, root: Path, named: str, audio_root: Path | None) -> str:
    """The sound file that an annotation file, found below root, belongs to."""
    base = root if audio_root is None else audio_root
    below = base / file.parent.relative_to(root)
    places = [place for place in dict.fromkeys([below, base, file.parent]) if place.is_dir()]
    if named:
        candidates = [Path(named), *(place / part for place in places for part in (named, os.path.basename(named)))]
        found = next((path for path in candidates if path.is_file()), None)
    else:
        found = next((path for place in places for path in _named_alike(file.name, place)), None)
    if found is None:
        wanted = named or f"a sound file for {file.name}"
        raise ClipsError(f"{file}: {wanted} is not in {', '.join(map(str, places))}; give the folder with --audio")
    return str(found)


def _named_alike(name: str, place: Path) -> Iterator[Path]:
    """Sound files with the name of an annotation file, less and less of it."""
    beside = sorted(path for path in place.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    while "." in name:
        name = name.rpartition(".")[0]
        yield from (path for path in beside if path.name == name)
        yield from (path for path in beside if path.stem == name)


def _rows(
    sound: str, annotations: Sequence[Annotation], ids: dict[str, str], classes: Vocabulary, seconds: float | None
) -> Iterator[dict[str, Any]]:
    """A recording's clips."""
    common = {"source": sound, "path": sound, "split": "train"}
    ordered = sorted(annotations, key=lambda each: (each.onset_s, each.offset_s, each.label))
    if seconds is None:
        yield {"clip_id": sound, **common, **_told(ordered, ids, classes, 0.0, float("inf"))}
        return
    duration, count = probe(sound).duration_s, 0
    if beyond := [each for each in ordered if each.onset_s >= duration]:
        reason = f"{len(beyond)} annotations begin behind its end, at {duration:g} s, and are left out"
        warnings.warn(f"{sound}: {reason}, the first: {beyond[0].label!r} at {beyond[0].onset_s:g} s", stacklevel=3)
    while (begin := count * seconds) < duration:
        end = min(begin + seconds, duration)
        inside = [each for each in ordered if each.onset_s < end and (each.offset_s > begin or each.onset_s >= begin)]
        told = _told(inside, ids, classes, begin, end)
        yield {"clip_id": f"{sound}@{begin:g}", **common, "start_s": begin, "end_s": end, **told}
        count += 1


def _told(
    annotations: Sequence[Annotation], ids: dict[str, str], classes: Vocabulary, begin: float, end: float
) -> dict[str, Any]:
    """Labels in the vocabulary's order, and events in seconds from the clip's beginning."""
    events = [
        {
            "class_id": ids[each.label],
            "onset_s": max(0.0, each.onset_s - begin),
            "offset_s": min(each.offset_s, end) - begin,
        }
        for each in annotations
    ]
    sounding = {event["class_id"] for event in events}
    return {"labels": [id for id in classes.ids if id in sounding], "events": events}
