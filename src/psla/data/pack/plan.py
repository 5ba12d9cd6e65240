"""What a pack that was begun is going to hold, the same for all attempts and all parts, and its room on the disk.

The plan stands in unfinished/plan.json inside the pack's folder until the pack is finished. How much of the disk the
pack needs is estimated before it is begun and while it grows; for a disk that is full there is one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from psla.audio.pool import DecodePool, Job
from psla.data.clips import Clips
from psla.data.pack.format import FORMAT_VERSION, UNFINISHED, PackError
from psla.sealed import read_json, write_json

_HASHED_ROWS = 100_000
_SAMPLED = (4, 32)  # least and most clips that are decoded to learn how long clips are; between them, one in a hundred
_SAMPLING_S = 5.0  # seconds after which the ones decoded so far must do
_BESIDE = 400  # bytes a clip, for the tables
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class PackPlan:
    """What a pack is going to hold.

    Attributes:
        version: of the format.
        name: the table's.
        table_sha256: of the table's content.
        vocabulary_sha256: `Vocabulary.hash`.
        clips: rows of the table.
        shard_clips: rows in each shard but the last.
        sample_rate: of the waveforms, in Hz.
    """

    version: int
    name: str
    table_sha256: str
    vocabulary_sha256: str
    clips: int
    shard_clips: int
    sample_rate: int

    @property
    def shards(self) -> int:
        """How many shards."""
        return math.ceil(self.clips / self.shard_clips)

    def rows(self, shard: int) -> range:
        """The rows of the table that make up a shard."""
        return range(shard * self.shard_clips, min(self.clips, (shard + 1) * self.shard_clips))


def begin(out: Path, plan: PackPlan) -> None:
    """Make the folder of a pack, or make sure that it is the one of this plan.

    Raises:
        PackError: it cannot be written, holds something else, or was begun with another plan.
    """
    file = out / UNFINISHED / "plan.json"
    if file.exists():
        check_same(out, asdict(read_plan(out)), plan)
    elif out.is_dir() and any(entry.name != UNFINISHED for entry in out.iterdir()):
        raise PackError(f"{out} holds other files: give a new or empty folder for the pack")
    try:
        if not file.exists():
            write_json(file, asdict(plan))  # first: a folder with anything else in it is not ours
        (out / "waveforms").mkdir(exist_ok=True)
        if not os.access(out / "waveforms", os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            mend = "give another folder, or the right to write there"
            raise PackError(f"{out} cannot be written ({error.strerror}): {mend}") from error
        raise


def read_plan(out: Path) -> PackPlan:
    """The plan of a pack that was begun.

    Raises:
        PackError: there is none, one of another version, or one that states no sample rate.
    """
    try:
        stored = read_json(out / UNFINISHED / "plan.json", PackError, mend="delete the folder and pack anew")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PackError(f"{out} is no pack that was begun: it holds no {UNFINISHED}/plan.json") from error
    if stored.get("version") != FORMAT_VERSION:
        raise PackError(
            f"{out} was begun with pack format version {stored.get('version')}, this psla writes {FORMAT_VERSION}: "
            "give another folder, or finish it with the psla that began it"
        )
    if "sample_rate" not in stored:
        raise PackError(
            f"{out} was begun by an earlier psla, without a sample rate in its plan: finish it with that one, or give "
            "another folder"
        )
    if stored.keys() != PackPlan.__dataclass_fields__.keys():
        raise PackError(
            f"{out}: its {UNFINISHED}/plan.json has other keys than a plan: delete the folder and pack anew"
        )
    return PackPlan(**stored)


def table_hash(clips: Clips) -> str:
    """SHA-256 of what a table holds, however its columns lie in memory."""
    digest = hashlib.sha256(json.dumps([clips.name, clips.vocabulary.to_dict(), clips.frame.columns]).encode())
    for part in clips.frame.iter_slices(_HASHED_ROWS):
        digest.update(part.write_ndjson().encode())
    return digest.hexdigest()


def check_same(out: Path | str, found: Mapping[str, Any], plan: PackPlan) -> None:
    """Refuse to go on with a pack whose plan, or finished pack.json, is another.

    Raises:
        PackError: another table, another sample rate, or other shards.
    """
    if found.get("table_sha256") != plan.table_sha256:
        raise PackError(f"{out} was begun with another table of clips: give that table, or another folder")
    if (rate := found.get("sample_rate")) != plan.sample_rate:
        raise PackError(f"{out} was begun at {rate} Hz, not {plan.sample_rate} Hz: give that rate, or another folder")
    if (shard_clips := found.get("shard_clips")) != plan.shard_clips:
        raise PackError(f"{out} was begun with {shard_clips} clips a shard, not {plan.shard_clips}: give that number")


class DiskSpace:
    """How much of a disk the clips of a table will take, against what is free.

    A clip with a start and an end is as long as these say, at most. The others are taken to be as long, in the mean, as
    a few of them, evenly spaced over the table, which are decoded here.
    """

    def __init__(self, out: Path, clips: Clips, rate: int, pool: DecodePool) -> None:
        self._out, self._rate = out, rate
        start_s, end_s = (clips.frame[column].to_numpy() for column in ("start_s", "end_s"))  # NaN where null
        self._seconds = end_s - np.nan_to_num(start_s)
        unknown = np.flatnonzero(np.isnan(self._seconds))
        if len(unknown):
            count = min(len(unknown), max(_SAMPLED[0], min(_SAMPLED[1], len(unknown) // 100)))
            chosen = unknown[np.linspace(0, len(unknown) - 1, count).astype(np.int64)]
            self._seconds[unknown] = _mean_seconds(clips, chosen, rate, pool)

    def needed(self, rows: Sequence[int]) -> int:
        """Bytes that these clips take, about."""
        return int(self._seconds[np.asarray(rows, dtype=np.int64)].sum() * self._rate * 2) + _BESIDE * len(rows)

    def check(self, rows: Sequence[int]) -> None:
        """Raise PackError where these clips do not fit onto the disk any more."""
        needed, free = self.needed(rows), shutil.disk_usage(self._out).free
        if needed > free:
            raise PackError(
                f"{self._out}: about {size(needed)} more are needed, and the disk has {size(free)} free: make room and "
                "run the same command again (what is finished is kept), or pack onto another disk"
            )


@contextlib.contextmanager
def as_disk_full(out: Path) -> Iterator[None]:
    """An error of a full disk as a PackError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise PackError(
            f"{out}: the disk is full ({error.strerror}): make room and run the same command again; what is finished "
            "is kept"
        ) from error


def size(count: int) -> str:
    """Bytes as people read them.

    Example:
        >>> size(12), size(3_200_000_000), size(640_000_000_000)
        ('12 B', '3.2 GB', '640.0 GB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _mean_seconds(clips: Clips, rows: np.ndarray, rate: int, pool: DecodePool) -> float:
    frame = clips.frame[rows].select("path", pl.lit(rate), "start_s", "end_s")
    jobs = [Job(*row) for row in frame.iter_rows()]
    until = time.monotonic() + _SAMPLING_S
    lengths = []
    with contextlib.closing(pool.map(jobs)) as results:
        for _, result in results:
            if isinstance(result, np.ndarray):
                lengths.append(len(result))
            if time.monotonic() > until:
                break
    return float(np.mean(lengths)) / rate if lengths else 0.0
