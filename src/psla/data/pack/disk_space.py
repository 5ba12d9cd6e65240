"""What a pack needs of a disk, before it is begun and while it grows; and one sentence for a disk that is full."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from psla.audio.watch import DecodePool, Job
from psla.data.clips import Clips
from psla.data.pack.format import PackError

_SAMPLED = (4, 32)  # least and most clips that are decoded to learn how long clips are; between them, one in a hundred
_SAMPLING_S = 5.0  # seconds after which the ones decoded so far must do
_BESIDE = 400  # bytes a clip, for the tables
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
