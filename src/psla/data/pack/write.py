"""Packing: any table of clips -> a Pack, decoded in watched worker processes; can be stopped and resumed anywhere.

    clips 0 .. 9,999       -> shard 0 -> waveforms/00000.npy, unfinished/00000.csv and, last, unfinished/00000.parquet
    clips 10,000 .. 19,999 -> shard 1 -> ...                       all shards there: merge -> clips.parquet, pack.json

Which clips make up a shard follows from the table alone. A clip that cannot be decoded leaves no gap and moves no clip
into another shard. So a pack is the same to the byte however often it was stopped, by whatever number of workers and
parts it was made, and in whatever order. A shard counts once its .parquet stands; before, it is done again.

Not covered: sound files that change between two attempts.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from psla.audio.addresses import PACK_PREFIX
from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job
from psla.audio.sound_file import PassingError
from psla.data.clips import Clips, read_table
from psla.data.pack.format import FORMAT_VERSION, UNFINISHED, PackError, read_rejected, shard_header, shard_path
from psla.data.pack.plan import DiskSpace, PackPlan, as_disk_full, begin, check_same, read_plan, table_hash
from psla.data.pack.reading import Pack
from psla.files import Journal, JournalError, atomic_write, sha256_of, write_text_atomic
from psla.sealed import write_json

SHARD_CLIPS = 10_000  # 3.2 GB of ten-second clips: AudioSet is 207 files, which one process may have open at once
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Progress:
    """What `pack` reports from time to time: of its own part of the table, counted in clips."""

    total: int
    resumed: int  # of these, in shards that were there before
    done: int  # decoded or rejected by now, the resumed ones included
    rejected: int  # of those done now


def pack(
    clips: Clips,
    folder: str | os.PathLike[str],
    rate: int,
    *,
    workers: int = 2,
    part: tuple[int, int] = (1, 1),
    shard_clips: int = SHARD_CLIPS,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[Progress], None] = lambda progress: None,
    decoder: str = "psla.audio.worker:decode",
) -> Pack | None:
    """Decode the clips of a table into a pack, or go on where an earlier call stopped.

    Args:
        clips: any table: files, soundscapes, clips of other packs.
        folder: the pack: a new or empty folder, one that was begun with the same table, or the finished pack of it.
        rate: sample rate of the waveforms, in Hz, 1 or more: what the front end hears.
        workers: processes that decode, 1 or more.
        part: (i, n), 1 <= i <= n: only each n-th shard, from the i-th on; `merge` puts the parts together.
        shard_clips: rows of the table in a shard, 1 or more.
        timeout_s: seconds without a block of samples, above 0, after which a decoder is given up. It is tried again.
        progress: told the state after each clip.
        decoder: see `DecodePool`.

    Returns:
        The finished pack; None where `part` is not the whole.

    Raises:
        PackError: a folder that holds something else or was begun with another table, rate or shards; a full disk, or
            one too small; another process at work on the same part. What was finished before stays.
        ValueError: an argument out of range.

    Example:
        >>> import tempfile
        >>> from psla.data.vocabulary import Vocabulary
        >>> row = {"source": "x", "split": "train", "labels": ["dog"]}
        >>> rows = [row | {"clip_id": i, "path": f"soundscape://7/{i}?seconds=0.5"} for i in "12"]
        >>> packed = pack(Clips.from_rows(rows, Vocabulary(["dog"])), tempfile.mkdtemp(), 16000, workers=1)
        >>> packed.clips.frame["samples"].to_list()
        [8000, 8000]
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise ValueError(f"part {number}/{parts}: parts are counted from 1/{parts} to {parts}/{parts}")
    if rate < 1:
        raise ValueError(f"a sample rate is 1 Hz or more, not {rate}")
    if shard_clips < 1:
        raise ValueError(f"a shard holds 1 clip or more, not {shard_clips}")
    if not len(clips):
        raise PackError("there is nothing to pack: the table holds no clip")
    out = Path(folder)
    hashes = table_hash(clips), clips.vocabulary.hash
    plan = PackPlan(FORMAT_VERSION, clips.name, *hashes, len(clips), shard_clips, rate)
    if (out / "pack.json").exists():
        check_same(out, Pack.open(out).info, plan)
        return merge(out)
    begin(out, plan)
    mine = range(number - 1, plan.shards, parts)
    with _only_process(out, number, parts), as_disk_full(out):
        missing = [shard for shard in mine if not is_done(out, shard)]
        total = sum(len(plan.rows(shard)) for shard in mine)
        resumed = total - sum(len(plan.rows(shard)) for shard in missing)
        state = Progress(total, resumed, resumed, 0)
        progress(state)
        if missing:
            # Several attempts, for the pack must not depend on what else went on in the machine.
            with DecodePool(workers, timeout_s, decoder=decoder) as pool:
                _pack_shards(out, clips, plan, missing, pool, state, progress)
    return merge(out) if parts == 1 else None


def merge(folder: str | os.PathLike[str]) -> Pack:
    """Finish a pack whose shards are all there: the table of all clips, the rejected ones, and pack.json, last.

    Raises:
        PackError: no pack that was begun, or shards are missing.
    """
    out = Path(folder)
    if (out / "pack.json").exists():
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        return Pack.open(out)
    plan = read_plan(out)
    missing = [shard for shard in range(plan.shards) if not is_done(out, shard)]
    if missing:
        some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise PackError(f"{folder}: {len(missing)} of {plan.shards} shards are missing ({some}): run their parts first")
    tables = [read_table(index_path(out, shard)) for shard in range(plan.shards)]
    frame = pl.concat([table.frame for table in tables], how="vertical", rechunk=True)
    whole = Clips(frame, tables[0].vocabulary, plan.name)
    rejected = [row for shard in range(plan.shards) for row in read_rejected(rejections_path(out, shard))]
    totals = dict(frame.group_by("shard").agg(pl.col("samples").sum()).iter_rows())
    info = asdict(plan) | {
        "clips": len(whole),
        "rejected": len(rejected),
        "splits": whole.counts(),
        "samples": int(frame["samples"].sum()),
        "shard_samples": [int(totals.get(shard, 0)) for shard in range(plan.shards)],
    }
    with as_disk_full(out):
        whole.write(out / "clips.parquet")
        write_rejected(out / "rejected.csv", rejected)
        info["sha256"] = {name: sha256_of(out / name) for name in ("clips.parquet", "rejected.csv")}
        write_json(out / "pack.json", info)
    shutil.rmtree(out / UNFINISHED)
    return Pack.open(out)


@contextlib.contextmanager
def _only_process(out: Path, number: int, parts: int) -> Iterator[None]:
    """Refuse to pack what another process is packing; the lock ends with the process, however that ends."""
    try:
        with Journal(out / UNFINISHED / f"part-{number}-of-{parts}.lock"):
            yield
    except JournalError as error:
        raise PackError(f"{out}: another process is packing part {number}/{parts}: wait for it, or end it") from error


def _pack_shards(
    out: Path,
    clips: Clips,
    plan: PackPlan,
    shards: list[int],
    pool: DecodePool,
    state: Progress,
    progress: Callable[[Progress], None],
) -> None:
    """Decode these shards, one after the other; while one goes to the disk, the next is being decoded."""
    space = DiskSpace(out, clips, plan.sample_rate, pool)
    space.check([row for shard in shards for row in plan.rows(shard)])
    ids, paths, starts, ends = (clips.frame[name] for name in ("clip_id", "path", "start_s", "end_s"))
    jobs = (Job(paths[row], plan.sample_rate, starts[row], ends[row]) for shard in shards for row in plan.rows(shard))
    results = pool.map(jobs)
    done, rejected = state.done, state.rejected
    with contextlib.closing(results), ThreadPoolExecutor(1) as finisher:
        finishing: Future[None] | None = None
        for shard in shards:
            rows = plan.rows(shard)
            space.check(list(rows))
            with contextlib.ExitStack() as stack:
                writer = stack.enter_context(ShardWriter(out, shard))
                for row in rows:
                    _, result = next(results)
                    writer.add(row, ids[row], result)
                    done, rejected = done + 1, rejected + isinstance(result, AudioError)
                    progress(Progress(state.total, state.resumed, done, rejected))
                if finishing is not None:
                    finishing.result()
                finishing = finisher.submit(writer.finish, clips, stack.pop_all())
        if finishing is not None:
            finishing.result()


class ShardWriter(contextlib.AbstractContextManager):
    """Takes the clips of a shard as they come. A context manager: left without `finish`, it leaves nothing behind.

    Three files, each written atomically: the samples, the rejected clips, and last the index, which makes the shard
    count.
    """

    def __init__(self, out: Path, shard: int) -> None:
        self._out, self._shard = out, shard
        self._rows: list[int] = []
        self._lengths: list[int] = []
        self._crcs: list[int] = []
        self._rejected: list[tuple[str, str, str]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ShardWriter:
        temporary = self._stack.enter_context(atomic_write(shard_path(self._out, self._shard)))
        self._file = self._stack.enter_context(open(temporary, "wb"))
        self._file.write(shard_header(0))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def add(self, row: int, clip_id: str, result: np.ndarray | AudioError) -> None:
        """The samples of the next clip, or why there are none."""
        if isinstance(result, PassingError):
            raise PackError(
                f"{result}; it is away: run the same command again when it is back, what is finished is kept"
            )
        if isinstance(result, AudioError):
            self._rejected.append((clip_id, result.path, result.reason))
            return
        self._file.write(result.data)
        self._rows.append(row)
        self._lengths.append(len(result))
        self._crcs.append(zlib.crc32(result.data))

    def finish(self, clips: Clips, stack: contextlib.ExitStack) -> None:
        """Bring the shard to the disk; `stack` holds this writer."""
        with stack:
            self._file.seek(0)
            self._file.write(shard_header(sum(self._lengths)))
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
