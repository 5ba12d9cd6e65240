"""What of a table of clips is really on the disk, what is missing or broken, and which classes that hits worst."""

from __future__ import annotations

import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from psla.audio.addresses import SYNTHESISED
from psla.audio.containers import split_track
from psla.audio.probe import Headers, Report, short
from psla.data.clips import SPLITS, Clips, ClipsError

_LISTED = 10  # clips of each kind that a summary names
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

    What is synthesised is always there. A clip that starts after its file's end is unreadable.

    Args:
        clips: the table; its order is kept.
        decode: decode every file (slow, finds all damage) and not only its header.
        headers: remembers what has been probed; by default nothing does.
        report: see `Headers.probe`.
    """
    table = clips.frame.select("clip_id", "path", "start_s")
    paths = table.select("path").unique(maintain_order=True)
    paths = paths.filter(~pl.any_horizontal(pl.col("path").str.starts_with(scheme) for scheme in SYNTHESISED))
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
    missing = table.filter(pl.col("fault") == "").select("clip_id", "path").rows()
    unreadable = table.filter(pl.col("fault") != "").select("clip_id", "path", "fault").rows()
    classes, splits = shares(clips, table["fault"].is_null())
    return kept, Inventory(len(kept), missing, unreadable, classes=classes, splits=splits, name=clips.name)


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
    return path, status.st_size, status.st_mtime_ns, fault


def _sentence(what: str, row: tuple[str, ...]) -> str:
    if what == "duplicates":
        return f"{row[0]}: {row[1]} is used, not {row[2]}" + (f" ({row[3]})" if row[3] else "")
    where = f" ({row[1]})" if row[1] else ""
    return row[0] + where + "".join(f": {reason}" for reason in row[2:])
