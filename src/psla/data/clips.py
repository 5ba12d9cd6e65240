"""Clips: the table of clips, one row a clip, and what may be done with it.

Columns: `clip_id` (unique), `source` (what must not be split between training and validation: video or recording),
`path` (a file, or an address: `psla.audio.addresses`), `start_s` and `end_s` (seconds in it; null: its start, its end),
`split` (train, validation or evaluation), `labels` (class ids). Optional: `true_labels` (class ids; what really sounds,
where a corpus knows it) and `events` (class id, onset_s, offset_s, in seconds from the clip's start). Other columns are
carried along untouched. Nothing here opens a sound file; see `source.py`, and `inventory.py` for what is on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from psla.data.clip_rules import OPTIONAL, REQUIRED, SPLITS, TIMES, ClipsError, cast, check, check_unique, first
from psla.data.labels import Labels, choose_sources
from psla.data.pack.format import check_listed, located, read_info
from psla.data.vocabulary import Vocabulary
from psla.files import atomic_write
from psla.remote import address_of
from psla.sealed import read_parquet, write_parquet

FORMAT_VERSION = 1
REMOTE = "psla.data.pack.remote:read_remote"  # what reads tables and packs at an address; it is made of this module


class Clips:
    """A table of clips with its vocabulary.

    Args:
        frame: the columns that the module's head lists; checked and cast here, available as `.frame`.
        vocabulary: what the class ids mean.
        name: what to call the table in reports.

    Raises:
        ClipsError: a column is missing or of another type, a clip id is given twice, a split is unknown, a class id is
            not in the vocabulary, or a clip or an event ends before it starts.

    Example:
        >>> row = {"clip_id": "a", "source": "tape 1", "path": "a.wav", "split": "train", "labels": ["rain"]}
        >>> clips = Clips.from_rows([row], Vocabulary(["dog", "rain"]), name="tapes")
        >>> clips
        Clips('tapes': 1 clips (train 1), 2 classes)
        >>> clips.labels().matrix().astype(int).tolist()
        [[0, 1]]
    """

    def __init__(self, frame: pl.DataFrame, vocabulary: Vocabulary, name: str = "") -> None:
        self.vocabulary = vocabulary
        self.name = name
        self.frame = cast(frame)
        check(self.frame, vocabulary)

    @staticmethod
    def from_rows(rows: Iterable[Mapping[str, Any]], vocabulary: Vocabulary, name: str = "") -> Clips:
        """A table from one mapping a clip; `start_s` and `end_s` may be left out (the whole file).

        Raises:
            ClipsError: as the constructor.
        """
        rows = list(rows)
        known = {**REQUIRED, **OPTIONAL}
        keys = list(dict.fromkeys([*REQUIRED, *(key for row in rows for key in row)]))
        given = set(REQUIRED) if not rows else set().union(*rows) | set(TIMES)
        try:
            columns = [pl.Series(k, [row.get(k) for row in rows], dtype=known.get(k)) for k in keys if k in given]
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise ClipsError(f"clips: a row holds a value of another type than its column: {error}") from error
        return Clips(pl.DataFrame(columns), vocabulary, name)

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Clips:
        """Read a file that `write` wrote, or the table of a pack by the pack's folder; either may be an address.

        Relative paths in the table stay as they are: relative to where you work. Clips of a pack come to say where the
        pack lies.

        Raises:
            FileNotFoundError: there is no such file or folder.
            ClipsError: not a table of clips, one of another format version, or one that breaks a rule.
            PackError: a folder that is no finished pack of this version.
        """
        if address := address_of(path):
            module, _, function = REMOTE.partition(":")
            found: Clips = getattr(import_module(module), function)(address)
            return found
        where = Path(path)
        if where.is_dir():
            where = check_listed(where.resolve(), read_info(where), "clips.parquet")
        clips = read_table(where)
        clips.frame = located(clips.frame, where.resolve().parent)
        return clips

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as Parquet, vocabulary, name and format version in its metadata; all or nothing."""
        header = {"version": FORMAT_VERSION, "name": self.name, "vocabulary": self.vocabulary.to_dict()}
        with atomic_write(path) as temporary:
            write_parquet(self.frame, temporary, "psla_clips", header)

    def labels(self, column: str = "labels") -> Labels:
        """The labels of all clips, in the order of the table; `column` is `labels` or `true_labels`.

        Raises:
            ClipsError: the table has no such column, or not for every clip.
        """
        if column not in ("labels", "true_labels") or column not in self.frame.columns:
            have = [c for c in ("labels", "true_labels") if c in self.frame.columns]
            raise ClipsError(f"clips: no labels in column {column!r}; this table has {', '.join(have)}")
        if (row := first(self.frame, pl.col(column).is_null())) is not None:
            raise ClipsError(f"clip {row['clip_id']!r} has no {column}; filter such clips out first")
        return Labels(self.clip_ids, *_entries(self.frame[column], self.vocabulary), self.vocabulary)

    def split(self, name: str) -> Clips:
        """The clips of one split: train, validation or evaluation.

        Raises:
            ClipsError: an unknown split.
        """
        if name not in SPLITS:
            raise ClipsError(f"clips: split {name!r} must be one of {', '.join(SPLITS)}")
        return self.filter(pl.col("split") == name)

    def filter(self, expression: pl.Expr | pl.Series) -> Clips:
        """The clips for which a polars expression over the columns (or a boolean series) is true, in the same order."""
        return self._with(self.frame.filter(expression))

    def select(self, clip_ids: Sequence[str]) -> Clips:
        """These clips, in this order.

        Raises:
            ClipsError: an id that the table does not have, or one given twice.
        """
        wanted = pl.DataFrame({"clip_id": pl.Series(list(clip_ids), dtype=pl.String())})
        missing = wanted.join(self.frame, on="clip_id", how="anti")
        if len(missing):
            raise ClipsError(
                f"clips: {len(missing)} of {len(wanted)} ids are not in this table, first: {missing['clip_id'][0]!r}"
            )
        check_unique(wanted)
        found = wanted.join(self.frame, on="clip_id", how="left", maintain_order="left")
        return self._with(found.select(self.frame.columns))

    def part(self, vocabulary: Vocabulary) -> Clips:
        """The same clips with the labels of a part of their vocabulary, without true labels and events."""
        if self.vocabulary == vocabulary:
            return self
        kept = pl.col("labels").list.eval(pl.element().filter(pl.element().is_in(vocabulary.ids)))
        columns = [c for c in self.frame.columns if c not in ("true_labels", "events")]
        return Clips(self.frame.select(columns).with_columns(kept), vocabulary, self.name)

    def join(self, other: Clips) -> Clips:
        """Both tables, one after the other.

        Raises:
            ClipsError: other vocabularies, or a clip that is in both.
        """
        if self.vocabulary != other.vocabulary:
            raise ClipsError(f"clips: cannot join tables of different vocabularies: {self!r} and {other!r}")
        frame = pl.concat([self.frame, other.frame], how="diagonal_relaxed")
        return Clips(frame, self.vocabulary, self.name or other.name)

    def hold_out(self, share: float, seed: int) -> Clips:
        """Move about this share of the train clips to the split validation: whole sources, every class in proportion.

        A class with two or more train sources keeps one in train and gets one in validation wherever the other classes
        allow it. The same seed gives the same split.

        Args:
            share: share of each class's train clips that is held out, above 0 and below 1.
            seed: orders the sources before the choice.

        Raises:
            ClipsError: a share out of range, or fewer than two train sources.
        """
        if not 0 < share < 1:
            raise ClipsError(f"clips: the held-out share {share} must lie above 0 and below 1")
        in_train = np.flatnonzero(self.frame["split"] == "train")
        train = self.frame[in_train].select("source", "labels")
        sources = train.select(pl.col("source").unique(maintain_order=True)).with_row_index("number")
        if len(sources) < 2:
            raise ClipsError(f"clips: holding out needs two train sources or more; this table has {len(sources)}")
        source_of_clip = train.join(sources, on="source", maintain_order="left")["number"].to_numpy()
        offsets, indices = _entries(train["labels"], self.vocabulary)
        unlabelled = np.diff(offsets) == 0  # a class of their own: they are held out in proportion, too
        held = choose_sources(
            np.concatenate([np.repeat(source_of_clip, np.diff(offsets)), source_of_clip[unlabelled]]),
            np.concatenate([indices, np.full(unlabelled.sum(), len(self.vocabulary), dtype=np.int32)]),
            share,
            np.random.default_rng(seed),
        )
        moved = np.zeros(len(self), dtype=bool)
        moved[in_train] = held[source_of_clip]
        split = pl.when(pl.Series(moved)).then(pl.lit("validation")).otherwise(pl.col("split")).alias("split")
        return self._with(self.frame.with_columns(split))

    def counts(self) -> dict[str, int]:
        """How many clips each split has; splits without clips are left out."""
        counted = dict(self.frame.group_by("split").len().iter_rows())
        return {name: counted[name] for name in SPLITS if name in counted}

    @property
    def clip_ids(self) -> list[str]:
        """The clip ids in the order of the table."""
        return self.frame["clip_id"].to_list()

    @property
    def is_single_label(self) -> bool:
        """Whether every clip has exactly one label (and there is a clip)."""
        return len(self) > 0 and bool((self.frame["labels"].list.n_unique() == 1).all())

    def _with(self, frame: pl.DataFrame) -> Clips:
        """A table of rows that have been checked already."""
        clips = object.__new__(Clips)
        clips.frame, clips.vocabulary, clips.name = frame, self.vocabulary, self.name
        return clips

    def __len__(self) -> int:
        return len(self.frame)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Clips):
            return NotImplemented
        same = self.vocabulary.to_dict() == other.vocabulary.to_dict() and self.name == other.name
        return same and self.frame.equals(other.frame)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {n}" for name, n in self.counts().items()) or "none"
        return f"Clips({self.name!r}: {len(self)} clips ({counts}), {len(self.vocabulary)} classes)"


def read_table(path: Path) -> Clips:
    """The table in a file as it stands there: clips of a pack do not say where the pack lies; see `Clips.read`."""
    frame, header = read_parquet(path, "psla_clips", ClipsError, ("version", "name", "vocabulary"))
    if header is None:
        raise ClipsError(f"{path} was not written by Clips.write: give its frame and a vocabulary to Clips")
    if header["version"] != FORMAT_VERSION or isinstance(header["version"], bool):
        raise ClipsError(
            f"{path} has clips format version {header['version']!r:.80}, this psla reads {FORMAT_VERSION}; "
            "write the table again with this psla, or read it with the one that wrote it"
        )
    if not isinstance(header["name"], str):
        raise ClipsError(f"{path}: the name in its header must be text, not {header['name']!r:.80}")
    try:
        return Clips(frame, Vocabulary.from_dict(header["vocabulary"]), header["name"])
    except ValueError as error:
        raise ClipsError(f"{path}: {error}") from error


def _entries(labels: pl.Series, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and class indices as `Labels` has them, from lists of class ids."""
    lengths = labels.list.len().to_numpy().astype(np.int64)
    ids = labels.filter(labels.list.len() > 0).explode()
    classes = ids.cast(pl.Enum(vocabulary.ids)).to_physical().to_numpy().astype(np.int64)
    # Sorted by clip, then class; an id that a clip gives twice counts once. (np.unique takes 25 times as long here.)
    keys = np.sort(np.repeat(np.arange(len(labels)), lengths) * len(vocabulary) + classes)
    keys = keys[np.diff(keys, prepend=-1) > 0]
    counts = np.bincount(keys // max(len(vocabulary), 1), minlength=len(labels))
    return np.concatenate([[0], np.cumsum(counts)]), (keys % max(len(vocabulary), 1)).astype(np.int32)
