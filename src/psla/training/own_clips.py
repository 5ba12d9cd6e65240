"""Your own clips: what `psla fit` takes, read and checked at the door.

Not here: what is made of them (`psla.training.fit`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from psla.audio.folders import sound_files
from psla.corpora.folder import read_csv, read_folders
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.files import is_text


class FitError(ValueError):
    """Clips that no head can be fitted to, or a model that has no features."""


def open_clips(data: Clips | str | os.PathLike[str]) -> Clips:
    """The clips that `fit` takes; without splits of their own, all are to train on."""
    if isinstance(data, Clips):
        return data
    path = Path(data)
    if path.is_dir() and not (path / "pack.json").is_file():
        return read_folders(path, evaluation_share=0)
    return read_csv(path, evaluation_share=0) if path.suffix.lower() == ".csv" else Clips.read(path)


def check(clips: Clips) -> None:
    """Raises FitError where nothing can be learnt of them."""
    classes = occurring(clips)
    seen: dict[str, str] = {}
    for c in classes:
        plain = " ".join(c.name.casefold().split())
        if plain in seen:
            raise FitError(f"the labels {seen[plain]!r} and {c.name!r} differ by case or spaces only: make them one")
        seen[plain] = c.name
    if len(classes) < 2:
        has = f"all clips are of {classes[0].name!r}" if len(classes) else "no clip has a label"
        raise FitError(f"a fit needs two classes or more to train on, and {has}: add clips of another")
    if clips.frame["source"].n_unique() < 2:
        raise FitError(
            f"all {len(clips)} clips are of the one source {clips.frame['source'][0]!r}, so nothing is left to ask: "
            "say in the column source which recording each clip is from"
        )


def occurring(clips: Clips) -> Vocabulary:
    """The part of the vocabulary that the clips have."""
    counts = clips.labels().counts()
    return clips.vocabulary.part([c.id for c in clips.vocabulary if counts[c.index]])


def background_clips(folder: Path) -> Clips:
    """The sounds in a folder, of none of the classes; FitError where there are none."""
    found = sound_files(folder)
    for remark in found.remarks():
        warnings.warn(f"{folder}: {remark}", stacklevel=3)
    if not (files := [file for file in found.files if is_text(file)]):
        raise FitError(f"{folder}: the background is a folder with sound files in it")
    rows = [{"clip_id": each, "source": each, "path": each, "split": "train", "labels": []} for each in files]
    return Clips.from_rows(rows, Vocabulary(["background"]), "background")


def recordings(sources: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """(clips,) numbers that are equal for clips of one source, or of one content under two names."""
    one, other = (np.unique(each, return_inverse=True)[1] for each in (sources, keys))
    count = int(one.max()) + 1
    size = count + int(other.max()) + 1
    tied = coo_array((np.ones(len(one)), (one, count + other)), shape=(size, size))
    return np.unique(connected_components(tied, directed=False)[1][one], return_inverse=True)[1].reshape(-1)
