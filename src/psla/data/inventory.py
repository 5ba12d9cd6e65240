"""What of a table of clips is really on the disk, what is missing or broken, and which classes that hits worst."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from psla.audio.addresses import READERS
from psla.audio.containers import split_track
from psla.audio.probe import Headers, Report, short
from psla.data.clips import SPLITS, Clips, ClipsError
from psla.files import not_a_file, sha256_of, shortened

_LISTED = 10  # clips of each kind that a summary names
_LOOKED_AT = 300_000  # files whose lengths are asked for: beyond, a network disk takes hours
_COMPARED = 20_000  # files of equal length that are compared
_END = 1 << 16  # bytes
_FIELDS = {
    "missing": ("clip_id", "path"),
    "unreadable": ("clip_id", "path", "reason"),
    "wrong_length": ("clip_id", "path", "reason"),
    "duplicates": ("clip_id", "used", "path", "reason"),
}
_KINDS = dict(zip(_FIELDS, ("missing", "unreadable", "wrong length", "duplicate"), strict=True))
_FILE = {"path": pl.String(), "size": pl.Int64(), "mtime_ns": pl.Int64(), "fault": pl.String()}


@dataclass(frozen=True)
class Share:
    """How many of the clips that a class or a split lists are there.

    Example:
        >>> Share("/m/0bt9lr", "Dog", listed=8, have=6).missing_share
        0.25
    """

    id: str
    name: str
    listed: int
    have: int

    @property
    def missing(self) -> int:
        """Clips that are listed and cannot be used."""
        return self.listed - self.have

    @property
    def missing_share(self) -> float:
        """`missing` as a share of what is listed; 0 where nothing is listed."""
        return self.missing / self.listed if self.listed else 0.0


@dataclass(frozen=True)
class Inventory:
    """What was found of a table of clips.

    Attributes:
        have: how many clips are there and can be used.
        missing: clip id and path of each clip without a file; the path is empty where none can be told.
        unreadable: clip id, path and reason of each clip whose file exists but cannot be read.
        wrong_length: the same of clips whose file can be read and does not last as long as it should.
        duplicates: clip id, path used, path not used and why (empty: it was not needed) of each further file of a clip.
        classes: each class with clips, most of them missing first; a class counts as hit by everything but `have`.
        splits: the same of the splits.
        notes: what else there is to say, a sentence each.
        name: what the table is called.

    Example:
        >>> print(Inventory(have=3, missing=[("b", "b.wav")]).summary())
        3 of 4 clips present, 1 missing, 0 unreadable
          missing: b (b.wav)
    """

    have: int
    missing: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    wrong_length: list[tuple[str, str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str, str, str]] = field(default_factory=list)
    classes: list[Share] = field(default_factory=list)
    splits: list[Share] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    name: str = ""

    @property
    def listed(self) -> int:
        """How many clips the table lists; where clips of the wrong length are kept, they are in `have`."""
        if self.splits:
            return sum(split.listed for split in self.splits)
        return self.have + len(self.missing) + len(self.unreadable) + len(self.wrong_length)

    def counts(self) -> str:
        """The counts in one line."""
        text = f"{self.have} of {self.listed} clips present, {len(self.missing)} missing"
        text += f", {len(self.unreadable)} unreadable"
        text += f", {len(self.wrong_length)} of the wrong length" if self.wrong_length else ""
        return text + (f", {len(self.duplicates)} duplicate files" if self.duplicates else "")

    def summary(self) -> str:
        """The counts in one line, then the first ten clips of each kind with their reason, then the notes."""
        lines = [self.counts()]
        for what, kind in _KINDS.items():
            rows = getattr(self, what)
            lines += [f"  {kind}: {_sentence(what, row)}" for row in rows[:_LISTED]]
            if len(rows) > _LISTED:
                lines.append(f"  … and {len(rows) - _LISTED} more {kind}")
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        found: dict[str, Any] = {"name": self.name, "listed": self.listed, "have": self.have}
        found |= {f"{what}_count": len(getattr(self, what)) for what in _FIELDS}
        for what in ("splits", "classes"):
            found[what] = [{**asdict(share), "missing": share.missing} for share in getattr(self, what)]
        found["notes"] = self.notes
        for what, keys in _FIELDS.items():
            found[what] = [dict(zip(keys, row, strict=True)) for row in getattr(self, what)]
        return found


def take_inventory(
    clips: Clips, decode: bool = False, headers: Headers | None = None, report: Report | None = None
) -> tuple[Clips, Inventory]:
    """The clips whose files are there and readable, and the list of those left out, each with its reason.

    What is synthesised is always there, and what lies at an address is not looked into. A clip that starts after its
    file's end is unreadable.

    Args:
        clips: the table; its order is kept.
        decode: decode every file (slow, finds all damage) and not only its header.
        headers: remembers what has been probed; by default nothing does.
        report: see `Headers.probe`.
    """
    table = clips.frame.select("clip_id", "path", "start_s")
    paths = table.select("path").unique(maintain_order=True)
    paths = paths.filter(~pl.any_horizontal(pl.col("path").str.starts_with(scheme) for scheme in READERS))
    with ThreadPoolExecutor() as threads:  # a network disk answers many at a time
        found = pl.DataFrame(list(threads.map(_look, paths["path"])), schema=_FILE, orient="row")
    sound = found.filter(pl.col("fault").is_null()).drop("fault")
    sound = sound.hstack((headers or Headers()).probe(sound, decode, report))
    found = pl.concat([found.filter(pl.col("fault").is_not_null()), sound], how="diagonal")
    late = pl.format(
        "the clip starts at {} s, the file ends at {} s", short(pl.col("start_s")), short(pl.col("duration_s"))
    )
    table = table.join(found, on="path", how="left", maintain_order="left").with_columns(
        pl.when(pl.col("fault").is_null() & (pl.col("start_s") >= pl.col("duration_s")))
        .then(late)
        .otherwise(pl.col("fault"))
        .alias("fault")
    )
    kept = clips.filter(table["fault"].is_null())
    notes = remarks(kept)
    missing = table.filter(pl.col("fault") == "").select("clip_id", "path").rows()
    unreadable = table.filter(pl.col("fault") != "").select("clip_id", "path", "fault").rows()
    classes, splits = shares(clips, table["fault"].is_null())
    return kept, Inventory(len(kept), missing, unreadable, classes=classes, splits=splits, notes=notes, name=clips.name)


def only_present(clips: Clips, where: str) -> Clips:
    """The clips whose files exist, without a look into them; a warning counts those that do not.

    Raises:
        ClipsError: there is none of the files.
    """
    present = [os.path.isfile(path) for path in clips.frame["path"]]
    missing = len(clips) - sum(present)
    if missing == len(clips):
        raise ClipsError(f"{where} has none of the {missing} sound files that its list names")
    if missing:
        warnings.warn(f"{clips.name} at {where}: {missing} of {len(clips)} sound files are missing", stacklevel=3)
    return clips.filter(pl.Series(present))


def shares(clips: Clips, have: pl.Series) -> tuple[list[Share], list[Share]]:
    """Of each class and of each split, how many of its clips there are: those most of which are missing first.

    Args:
        clips: all clips that are listed.
        have: (clips,) bool, in the order of the table.
    """
    table = clips.frame.select("split", "labels").with_columns(have.alias("have"))

    def counted(column: pl.DataFrame) -> dict[str, tuple[int, int]]:
        rows = column.group_by("id").agg(pl.len(), pl.col("have").sum()).iter_rows()
        return {id: (listed, there) for id, listed, there in rows}

    labels = table.select(pl.col("labels").list.unique().alias("id"), "have").filter(pl.col("id").list.len() > 0)
    by_class = counted(labels.explode("id"))
    by_split = counted(table.select(pl.col("split").alias("id"), "have"))
    classes = [Share(c.id, c.name, *by_class[c.id]) for c in clips.vocabulary if c.id in by_class]
    classes.sort(key=lambda share: (-share.missing_share, -share.missing))
    return classes, [Share(split, split, *by_split[split]) for split in SPLITS if split in by_split]


def _look(path: str) -> tuple[str, int, int, str | None]:
    """Path, size, time of change, and why it cannot be a sound file; an empty reason: there is no such file."""
    try:
        status = os.stat(split_track(path)[0])
    except (FileNotFoundError, NotADirectoryError):
        return path, 0, 0, ""
    except OSError as error:
        return path, 0, 0, f"cannot be looked at: {error.strerror}"
    fault = "a folder, not a sound file" if stat.S_ISDIR(status.st_mode) else None
    if fault is None and not stat.S_ISREG(status.st_mode):
        fault = f"{not_a_file(path) or 'no file'}: nobody knows where it ends"
    return path, status.st_size, status.st_mtime_ns, fault


def remarks(clips: Clips) -> list[str]:
    """What is wrong with a table as a whole, a sentence each: what is trained on and held out at once, and no labels.

    Files of one length are compared, on both sides, whatever they are called.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> row = {"clip_id": "a", "source": "tape", "path": "a.wav", "split": "train", "labels": []}
        >>> remarks(Clips.from_rows([row], Vocabulary(["dog"])))
        ['no clip has a label: such a table can be packed and predicted, not trained on or scored']
    """
    table = clips.frame.select("path", "source", "split")
    notes = []
    apart = pl.col("split") == "train"  # what is not to be on both sides
    for column, what in (("path", "files"), ("source", "sources")):
        both = table.group_by(column, maintain_order=True).agg(apart.any().alias("in"), (~apart).any().alias("out"))
        both = both.filter(pl.col("in") & pl.col("out"))
        if len(both):
            notes.append(
                f"{len(both)} {what} are trained on and held out, the first: {shortened(both[column][0])}; what is "
                "held out is then no test of what was learnt: give such clips one split"
            )
    notes += _same_sound(table)
    if len(clips) and not clips.frame["labels"].list.len().sum():
        notes.append("no clip has a label: such a table can be packed and predicted, not trained on or scored")
    return notes


def _same_sound(table: pl.DataFrame) -> list[str]:
    """Whether files of different names that are trained on and held out are the same, byte for byte."""
    apart = pl.col("split") == "train"
    files = table.select("path", apart.alias("in")).unique(maintain_order=True)
    if files["in"].all() or not files["in"].any():
        return []
    if len(files) > _LOOKED_AT:
        return [f"not compared: whether any of {len(files):,} files is there under another name, and held out"]
    with ThreadPoolExecutor() as threads:
        sizes = pl.Series("size", list(threads.map(_size, files["path"])), pl.Int64())
    files = files.with_columns(sizes).filter(pl.col("size") > 0)
    both = files.group_by("size").agg(pl.col("in").any(), (~pl.col("in")).any().alias("out"))
    files = files.join(
        both.filter(pl.col("in") & pl.col("out")).select("size"), on="size", how="semi", maintain_order="left"
    )
    if len(files) > _COMPARED:
        return [f"not compared: {len(files):,} files, trained on and held out, of which others have the same length"]
    for digest in (_ends, _whole):  # the whole of a file only where its ends are those of another
        with ThreadPoolExecutor() as threads:
            files = files.with_columns(pl.Series("digest", list(threads.map(digest, files["path"])), pl.String()))
        groups = files.filter(pl.col("digest").is_not_null()).group_by("digest", maintain_order=True)
        both = groups.agg(pl.col("in").any(), (~pl.col("in")).any().alias("out"))
        files = files.join(both.filter(pl.col("in") & pl.col("out")).select("digest"), on="digest", how="semi")
    if not len(files):
        return []
    held = files.filter(~pl.col("in")).sort("path")
    first = files.filter(pl.col("in") & (pl.col("digest") == held["digest"][0]))["path"][0]
    return [
        f"{len(held)} held-out files are also trained on, under another name and to the byte, the first: "
        f"{shortened(held['path'][0])} is {shortened(first)}; what is held out is then no test of what was learnt"
    ]


def _size(path: str) -> int | None:
    """Bytes; None where there is no file."""
    try:
        return os.stat(split_track(path)[0]).st_size
    except OSError:
        return None


def _ends(path: str) -> str | None:
    """A hash of how a file begins and ends; None where it cannot be read any more."""
    try:
        with open(split_track(path)[0], "rb") as file:
            digest = hashlib.sha256(file.read(_END))
            file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
            digest.update(file.read(_END))
    except OSError:
        return None
    return digest.hexdigest()


def _whole(path: str) -> str | None:
    try:
        return sha256_of(split_track(path)[0])
    except OSError:
        return None


def _sentence(what: str, row: tuple[str, ...]) -> str:
    if what == "duplicates":
        return f"{row[0]}: {row[1]} is used, not {row[2]}" + (f" ({row[3]})" if row[3] else "")
    where = f" ({row[1]})" if row[1] else ""
    return row[0] + where + "".join(f": {reason}" for reason in row[2:])
