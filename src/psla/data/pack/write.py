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
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job
from psla.data.clips import Clips, read_table
from psla.data.pack.format import FORMAT_VERSION, UNFINISHED, PackError, read_rejected
from psla.data.pack.plan import DiskSpace, PackPlan, as_disk_full, begin, check_same, read_plan, table_hash
from psla.data.pack.reading import Pack
from psla.data.pack.shard import ShardWriter, index_path, is_done, rejections_path, write_rejected
from psla.files import Journal, JournalError, sha256_of
from psla.sealed import write_json
from psla.spread import Link, Spread, Task, Watch, in_turn

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
    spread: Spread | None = None,
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
        spread: what does the shards, a task each with `workers` processes; None: this process, one after the other.

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
    out, plan = Path(folder), planned(clips, rate, shard_clips)
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
        decoding = workers, timeout_s, decoder
        if missing and spread is not None:
            _spread_shards(out, clips, plan, missing, spread, decoding, state, progress)
        elif missing:
            with _pool(*decoding) as pool:
                _pack_shards(out, clips, plan, missing, pool, state, progress)
    return merge(out) if parts == 1 else None


def planned(clips: Clips, rate: int, shard_clips: int) -> PackPlan:
    """What a pack of a table is going to hold.

    Raises:
        PackError: a table without a clip.
        ValueError: an argument out of range.
    """
    if rate < 1:
        raise ValueError(f"a sample rate is 1 Hz or more, not {rate}")
    if shard_clips < 1:
        raise ValueError(f"a shard holds 1 clip or more, not {shard_clips}")
    if not len(clips):
        raise PackError("there is nothing to pack: the table holds no clip")
    hashes = table_hash(clips), clips.vocabulary.hash
    return PackPlan(FORMAT_VERSION, clips.name, *hashes, len(clips), shard_clips, rate)


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
    rejected = [row for shard in range(plan.shards) for row in read_rejected(rejections_path(out, shard))]
    write_head(out, plan, tables, rejected)
    shutil.rmtree(out / UNFINISHED)
    return Pack.open(out)


def write_head(out: Path, plan: PackPlan, tables: Sequence[Clips], rejected: list[tuple[str, str, str]]) -> None:
    """Write the table of all clips, the rejected ones, and pack.json, last.

    Args:
        tables: the index of each shard.
    """
    frame = pl.concat([table.frame for table in tables], how="vertical", rechunk=True)
    whole = Clips(frame, tables[0].vocabulary, plan.name)
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


@contextlib.contextmanager
def _only_process(out: Path, number: int, parts: int) -> Iterator[None]:
    """Refuse to pack what another process is packing; the lock ends with the process, however that ends."""
    try:
        with Journal(out / UNFINISHED / f"part-{number}-of-{parts}.lock"):
            yield
    except JournalError as error:
        raise PackError(f"{out}: another process is packing part {number}/{parts}: wait for it, or end it") from error


def _pool(workers: int, timeout_s: float, decoder: str) -> DecodePool:
    # Several attempts, for the pack must not depend on what else went on in the machine.
    return DecodePool(workers, timeout_s, decoder=decoder)


def _spread_shards(
    out: Path,
    clips: Clips,
    plan: PackPlan,
    shards: list[int],
    spread: Spread,
    decoding: tuple[int, float, str],
    state: Progress,
    progress: Callable[[Progress], None],
) -> None:
    """Have each shard done as a task, which is sent its rows of the table."""
    done: dict[str, int] = {}
    rejected = 0

    def tell(name: str, clips: int) -> None:
        done[name] = clips
        progress(Progress(state.total, state.resumed, state.done + sum(done.values()), rejected))

    def task(shard: int) -> Task:
        rows = clips.frame[plan.rows(shard).start : plan.rows(shard).stop]
        part = Clips(rows, clips.vocabulary, clips.name)
        return Task(f"shard {shard}", pack_shard, (out, part, plan.sample_rate, shard, decoding), cpus=decoding[0])

    for ended, found in in_turn(spread, map(task, shards), Watch(tell)):
        rejected += found
        tell(ended.name, len(ended.args[1]))


def pack_shard(out: Path, clips: Clips, rate: int, shard: int, decoding: tuple[int, float, str], link: Link) -> int:
    """Decode one shard of a pack that was begun, unless it is there; how many clips of it were rejected.

    Args:
        clips: the rows of the table in this shard. decoding: workers, timeout_s and decoder, as `pack` takes them.
        link: told of each clip.

    Raises:
        PackError: the disk is full.
    """
    jobs = [Job(*row) for row in clips.frame.select("path", pl.lit(rate), "start_s", "end_s").iter_rows()]
    with as_disk_full(out), ShardWriter(out, shard) as writer:
        if is_done(out, shard):  # by one that was thought lost, while this one waited
            return len(read_rejected(rejections_path(out, shard)))
        with _pool(*decoding) as pool, contextlib.closing(pool.map(jobs)) as results:
            DiskSpace(out, clips, rate, pool).check(list(range(len(clips))))
            for row, (id, (_, result)) in enumerate(zip(clips.clip_ids, results, strict=True)):
                writer.add(row, id, result)
                link.tell(row + 1)
        writer.finish(clips)
    return writer.rejected


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
                finishing = finisher.submit(_finish, writer, clips, stack.pop_all())
        if finishing is not None:
            finishing.result()


def _finish(writer: ShardWriter, clips: Clips, stack: contextlib.ExitStack) -> None:
    with stack:
        writer.finish(clips)
