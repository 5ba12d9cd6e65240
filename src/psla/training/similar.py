"""Similar sounds: which windows of recordings sound like one, and which clips are nearly the same; by their features.

How alike two clips are is the cosine of the angle between their features, from -1 to 1. The search is exact: all pairs
that are asked about are computed, in blocks. It is made for up to `MOST` windows for a sound to be looked for, and
`MOST_PAIRED` where each is compared with each; beyond, use an index such as FAISS (https://faiss.ai) on the features
that `psla.training.features.hear` gives.

Not here: copies bit by bit, which have one key in the cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from psla.audio.probe import Headers
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.download import cache_folder
from psla.files import is_text, printable, sha256_of
from psla.model.file import load_model
from psla.training.features import hear
from psla.training.known import unit
from psla.weights.catalogue import resolve
from psla.weights.choice import choose

MOST = 1_000_000
MOST_PAIRED = 100_000
NEAR = 0.99
_BLOCK = 4096
Told = Callable[[str, int, int], None]


class SearchError(ValueError):
    """Nothing to search, more than is searched, or a sound that cannot be heard."""


@dataclass(frozen=True)
class Place:
    """A window of a recording: seconds from its beginning; None: the whole file."""

    path: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Match:
    """A window that is like the sound that was looked for, or like `other`."""

    place: Place
    similarity: float
    other: Place | None = None


@dataclass(frozen=True)
class Found:
    """The matches, the most alike first; how many windows were searched, and why files could not be."""

    matches: list[Match]
    windows: int
    rejected: dict[str, str]


def find(
    model: str | os.PathLike[str] | None,
    recordings: Sequence[str],
    like: str | os.PathLike[str] | None = None,
    *,
    top: int = 20,
    near: float = NEAR,
    cache: str | os.PathLike[str] | None = None,
    workers: int = 2,
    told: Told = lambda what, more, total: None,
) -> Found:
    """Windows of recordings that sound like a sound; or, where none is given, pairs that are nearly the same.

    Args:
        model: a model file or a name that `psla models` lists, whose features are compared; None: that of `psla tag`.
        recordings: sound files. Those that are longer than the model's window are searched window by window.
        like: the sound to look for; of a longer one its windows' mean.
        top: so many matches.
        near: without `like`: pairs that are at least so alike.
        cache: where features are kept, those of `psla fit` too; None: in psla's cache folder.
        workers: processes that decode.
        told: of what is heard: which, how many more, of how many.

    Raises:
        SearchError: an ensemble, nothing that can be read, or more windows than are searched.
        ModelFileError, PublishedError, FeatureCacheError: what cannot be read.

    Example:
        >>> find(None, ["a.wav", "b.wav"], "bark.wav").matches[0].similarity  # doctest: +SKIP
        0.93
    """
    path = resolve(choose(model).model)
    if path.suffix == ".json":
        raise SearchError(f"{path} is an ensemble, which has no features of its own: give one of its members")
    network, folder = load_model(path).network, cache_folder() / "features" if cache is None else Path(cache)
    folder = folder / sha256_of(path)

    def heard(what: str, places: Sequence[Place]) -> tuple[list[Place], np.ndarray, dict[str, str]]:
        table = _table(places)
        found = hear(network, table, folder, workers, lambda clips: told(what, clips, len(table)))
        by_id = dict(zip(table.clip_ids, places, strict=True))
        if not len(found.values):
            raise SearchError(f"none of the {what} can be read; the first: {next(iter(found.rejected.values()))}")
        unread = {by_id[id].path: reason for id, reason in found.rejected.items()}
        return [by_id[id] for id in found.clip_ids], found.values, unread

    wanted = None if like is None else heard("sound", [Place(os.fspath(like))])[1]
    places, unread = _places(recordings, network.window_samples / network.sample_rate, workers)
    most = MOST_PAIRED if wanted is None else MOST
    if len(places) > most:
        raise SearchError(
            f"{len(places)} windows are more than the {most} that are searched here: search fewer, or build an index "
            "such as FAISS on the features"
        )
    if not places:
        raise SearchError(f"there is nothing to search; the first: {next(iter(unread.values()), 'no file is given')}")
    places, values, rejected = heard("windows", places)
    z = unit(values).astype(np.float32)
    if wanted is None:
        pairs = sorted(near_pairs(z, near), key=lambda pair: (-pair[2], pair[:2]))[:top]
        matches = [Match(places[a], similarity, places[b]) for a, b, similarity in pairs]
    else:
        alike = z @ unit(wanted)[0].astype(np.float32)
        order = np.argsort(-alike, kind="stable")[:top]
        matches = [Match(places[row], float(alike[row])) for row in order]
    return Found(matches, len(z), unread | rejected)


def near_pairs(z: np.ndarray, near: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows (the lower first) that are at least so alike, with how much; in the order of the rows.

    Shape: z: (clips, channels) of length 1.

    Example:
        >>> list(near_pairs(np.float32([[1, 0], [0, 1], [1, 0]]), 0.9))
        [(0, 2, 1.0)]
    """
    for first in range(0, len(z), _BLOCK):
        for second in range(first, len(z), _BLOCK):
            alike = z[first : first + _BLOCK] @ z[second : second + _BLOCK].T
            for a, b in zip(*np.nonzero(alike >= near), strict=True):
                if first + a < second + b:
                    yield int(first + a), int(second + b), float(min(alike[a, b], 1.0))


def _places(recordings: Sequence[str], window_s: float, workers: int) -> tuple[list[Place], dict[str, str]]:
    """The windows of the recordings, end to end; and why some could not be opened."""
    unread = {path: f"{printable(path)}: its name is no text" for path in recordings if not is_text(path)}
    paths = [path for path in recordings if path not in unread]
    stats = [os.stat(path) if os.path.isfile(path) else None for path in paths]
    files = pl.DataFrame(
        {
            "path": paths,
            "size": [0 if each is None else each.st_size for each in stats],
            "mtime_ns": [0 if each is None else each.st_mtime_ns for each in stats],
        },
        schema={"path": pl.String(), "size": pl.Int64(), "mtime_ns": pl.Int64()},
    )
    found: list[Place] = []
    for path, (duration, fault) in zip(paths, Headers(None, workers).probe(files).iter_rows(), strict=True):
        if fault is not None:
            unread[path] = f"{path}: {fault}"
        elif duration <= window_s:
            found.append(Place(path))
        else:
            starts = np.arange(0, duration, window_s).tolist()
            found += [Place(path, start, min(start + window_s, duration)) for start in starts]
    return found, unread


def _table(places: Sequence[Place]) -> Clips:
    rows = [
        {"clip_id": str(n), "source": p.path, "path": p.path, "start_s": p.start_s, "end_s": p.end_s}
        for n, p in enumerate(places)
    ]
    return Clips.from_rows([row | {"split": "train", "labels": []} for row in rows], Vocabulary(["any"]), "search")
