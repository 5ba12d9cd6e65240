"""One shard of a pack while it is written: three files, the last makes it count. See `psla.data.pack.write`."""

from __future__ import annotations

import contextlib
import csv
import io
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from psla.audio.addresses import PACK_PREFIX
from psla.audio.decode import AudioError
from psla.audio.sound_file import PassingError
from psla.data.clips import Clips
from psla.data.pack.format import UNFINISHED, PackError, shard_header, shard_path
from psla.files import alone, atomic_write, write_text_atomic


class ShardWriter(contextlib.AbstractContextManager):
    """Takes the clips of a shard as they come. A context manager: left without `finish`, it leaves nothing behind.

    Three files, each written atomically: the samples, the rejected clips, and last the index, which makes the shard
    count. In the block no other writer of this shard is in its own.
    """

    def __init__(self, out: Path, shard: int) -> None:
        self._out, self._shard = out, shard
        self._rows: list[int] = []
        self._lengths: list[int] = []
        self._crcs: list[int] = []
        self._rejected: list[tuple[str, str, str]] = []
        self._door, self._stack = contextlib.ExitStack(), contextlib.ExitStack()
        self._file: BinaryIO | None = None  # until there are samples, or none are to come

    @property
    def rejected(self) -> int:
        """How many clips had no samples."""
        return len(self._rejected)

    def __enter__(self) -> ShardWriter:
        self._door.enter_context(alone(index_path(self._out, self._shard)))
        return self

    def __exit__(self, *error: object) -> None:
        with self._door:
            self._stack.__exit__(*error)  # type: ignore[arg-type]

    def _open(self) -> BinaryIO:
        if self._file is None:
            temporary = self._stack.enter_context(atomic_write(shard_path(self._out, self._shard)))
            self._file = self._stack.enter_context(temporary.open("wb"))
            self._file.write(shard_header(0))
        return self._file

    def add(self, row: int, clip_id: str, result: np.ndarray | AudioError) -> None:
        """The samples of the next clip, or why there are none."""
        if isinstance(result, PassingError):
            raise PackError(
                f"{result}; it is away: run the same command again when it is back, what is finished is kept"
            )
        if isinstance(result, AudioError):
            self._rejected.append((clip_id, result.path, result.reason))
            return
        self._open().write(result.data)
        self._rows.append(row)
        self._lengths.append(len(result))
        self._crcs.append(zlib.crc32(result.data))

    def finish(self, clips: Clips) -> None:
        """Bring the shard to the disk."""
        file = self._open()
        file.seek(0)
        file.write(shard_header(sum(self._lengths)))
        self._stack.close()
        write_rejected(rejections_path(self._out, self._shard), self._rejected)
        self._table(clips).write(index_path(self._out, self._shard))

    def _table(self, clips: Clips) -> Clips:
        """The rows of the table that are in the shard, with their places."""
        samples = pl.Series("samples", self._lengths, dtype=pl.Int64)
        places = pl.DataFrame(
            {
                "shard": pl.repeat(self._shard, len(samples), dtype=pl.Int32, eager=True),
                "offset": samples.cum_sum() - samples,
                "samples": samples,
                "crc32": pl.Series(self._crcs, dtype=pl.UInt32),
            }
        )
        frame = clips.frame[self._rows]
        original = frame.select(pl.col("path", "start_s", "end_s").name.prefix("original_"))
        frame = frame.select(pl.exclude([*places.columns, *original.columns]))
        address = pl.format(f"{PACK_PREFIX}{self._shard:05d}/{{}}+{{}}", "offset", "samples")
        frame = pl.concat([frame, places, original], how="horizontal")
        nowhere = pl.lit(None, dtype=pl.Float64)
        frame = frame.with_columns(address.alias("path"), nowhere.alias("start_s"), nowhere.alias("end_s"))
        return Clips(frame, clips.vocabulary, clips.name)


def is_done(out: Path, shard: int) -> bool:
    """Whether a shard is there, whole."""
    return index_path(out, shard).exists() and shard_path(out, shard).exists()


def index_path(out: Path, shard: int) -> Path:
    """The table of a shard's clips, until the pack is finished."""
    return out / UNFINISHED / f"{shard:05d}.parquet"


def rejections_path(out: Path, shard: int) -> Path:
    """The rejected clips of a shard, until the pack is finished."""
    return out / UNFINISHED / f"{shard:05d}.csv"


def write_rejected(path: Path, rows: list[tuple[str, str, str]]) -> None:
    """Write clip ids, paths and reasons as CSV; all or nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("clip_id", "path", "reason"), *rows])
    write_text_atomic(path, text.getvalue())
