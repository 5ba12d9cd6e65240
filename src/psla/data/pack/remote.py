"""A pack on storage that is no local path (`psla.remote`): the same objects as the files of a local one, byte for byte.

    s3://bucket/pack/unfinished/plan.json     first: a place with anything else is not ours
    .../waveforms/00000.npy, .../unfinished/00000.csv and, last, .../unfinished/00000.parquet: the shard counts
    .../clips.parquet, .../rejected.csv and, last, .../pack.json: the pack is complete; unfinished/ goes

A shard is made in a local folder, sent, and removed there. A clip is read as the part of its shard that it is. Not
covered: two processes that pack to one address; storage has no locks.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from psla import remote
from psla.audio import decode
from psla.audio.decode import AudioError
from psla.data.clips import Clips, read_table
from psla.data.pack.format import FORMAT_VERSION, HEADER_BYTES, UNFINISHED, PackError, read_rejected
from psla.data.pack.plan import PackPlan, check_same
from psla.data.pack.shard import index_path, rejections_path
from psla.data.pack.write import SHARD_CLIPS, TIMEOUT_S, Progress, pack_shard, planned, write_head
from psla.spread import Here, Link, Spread, Task, Watch, in_turn

_CLIP = re.compile(r"(?s)(.*)/(\d{5,})/(\d+)\+(\d+)")
_HEAD = ("clips.parquet", "rejected.csv", "pack.json")  # in this order


def pack_remote(
    clips: Clips,
    address: str,
    rate: int,
    *,
    workers: int = 2,
    shard_clips: int = SHARD_CLIPS,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[Progress], None] = lambda progress: None,
    decoder: str = "psla.audio.worker:decode",
    spread: Spread | None = None,
) -> dict[str, Any]:
    """As `psla.data.pack.write.pack`, to an address; what pack.json holds. Called again, it goes on.

    Raises:
        PackError: another table, rate or shards were begun there.
        RemoteError: the storage refuses or fails; what was finished before stays.
    """
    plan = planned(clips, rate, shard_clips)
    plan_at = f"{address}/{UNFINISHED}/plan.json"
    if remote.exists(f"{address}/pack.json"):
        info = remote_info(address)
        check_same(address, info, plan)
        remote.remove(f"{address}/{UNFINISHED}")
        return info
    if remote.exists(plan_at):
        check_same(address, _json(plan_at), plan)
    else:
        remote.write(plan_at, json.dumps(asdict(plan)).encode())
    missing = [shard for shard in range(plan.shards) if not remote.exists(_index_at(address, shard))]
    total = plan.clips
    resumed = total - sum(len(plan.rows(shard)) for shard in missing)
    done, rejected = {"": resumed}, 0

    def tell(name: str, clips: int) -> None:
        done[name] = clips
        progress(Progress(total, resumed, sum(done.values()), rejected))

    def task(shard: int) -> Task:
        rows = clips.frame[plan.rows(shard).start : plan.rows(shard).stop]
        part, decoding = Clips(rows, clips.vocabulary, clips.name), (workers, timeout_s, decoder)
        return Task(f"shard {shard}", send_shard, (address, part, rate, shard, decoding), cpus=workers)

    tell("", resumed)
    for ended, found in in_turn(spread or Here(), map(task, missing), Watch(tell)):
        rejected += found
        tell(ended.name, len(ended.args[1]))
    _finish(address, plan)
    return remote_info(address)


def send_shard(address: str, clips: Clips, rate: int, shard: int, decoding: tuple[int, float, str], link: Link) -> int:
    """Make one shard and send it, the index last; how many of its clips were rejected. See `pack_shard`."""
    with tempfile.TemporaryDirectory(prefix="psla-shard-") as folder:
        out = Path(folder)
        (out / "waveforms").mkdir()
        rejected = pack_shard(out, clips, rate, shard, decoding, link)
        for file in (out / "waveforms" / f"{shard:05d}.npy", rejections_path(out, shard), index_path(out, shard)):
            remote.write(f"{address}/{file.relative_to(out).as_posix()}", file)
        return rejected


def _finish(address: str, plan: PackPlan) -> None:
    with tempfile.TemporaryDirectory(prefix="psla-pack-") as folder:
        out, tables, rejected = Path(folder), [], []
        for shard in range(plan.shards):
            for place in (index_path(out, shard), rejections_path(out, shard)):
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(remote.read(f"{address}/{place.relative_to(out).as_posix()}"))
            tables.append(read_table(index_path(out, shard)))
            rejected += read_rejected(rejections_path(out, shard))
        write_head(out, plan, tables, rejected)
        for name in _HEAD:
            remote.write(f"{address}/{name}", out / name)
    remote.remove(f"{address}/{UNFINISHED}")


def _index_at(address: str, shard: int) -> str:
    return f"{address}/{UNFINISHED}/{shard:05d}.parquet"


def remote_info(address: str) -> dict[str, Any]:
    """What the pack.json at an address holds.

    Raises:
        PackError: a pack that is not finished, or one of another format version.
        RemoteError: there is none, or the storage fails.
    """
    if not remote.exists(f"{address}/pack.json") and remote.exists(f"{address}/{UNFINISHED}/plan.json"):
        raise PackError(f"{address} is a pack that is not finished: run the same `psla pack` again")
    info = _json(f"{address}/pack.json")
    if not isinstance(info, dict) or info.get("version") != FORMAT_VERSION:
        raise PackError(f"{address} is no pack of format version {FORMAT_VERSION}: pack again")
    return info


def _json(address: str) -> Any:
    try:
        return json.loads(remote.read(address))
    except ValueError as error:
        raise PackError(f"{address} is damaged ({error}): pack again to another address") from error


def read_remote(address: str) -> Clips:
    """The table of clips at an address: a Parquet file, or the pack there, whose clips come to say where it lies.

    Raises:
        ClipsError, PackError, RemoteError: as `Clips.read`, or the storage fails.
    """
    is_pack = not address.endswith(".parquet")
    if is_pack:
        remote_info(address)
    with tempfile.TemporaryDirectory(prefix="psla-clips-") as folder:
        local = Path(folder) / "clips.parquet"
        local.write_bytes(remote.read(f"{address}/clips.parquet" if is_pack else address))
        clips = read_table(local)
    below = address if is_pack else address.rpartition("/")[0]
    path = clips.frame["path"].str.replace(r"^pack://(\d{5,}/\d+\+\d+)$", f"{below.replace('$', '$$')}/${{1}}")
    clips.frame = clips.frame.with_columns(path)
    return clips


def read_address(path: str, rate: int, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """The waveform of a clip in a pack at an address, or of a sound file there, or its part; (samples,) int16.

    Raises:
        AudioError: it cannot be had, or the pack holds another sample rate than `rate`, in Hz.
    """
    found = _CLIP.fullmatch(path)
    try:
        if found is None:
            return decode.read(remote.read(path), rate, start_s, end_s)
        if (held := _rate(found[1], os.getpid())) != rate:
            raise AudioError(path, f"the pack holds {held} Hz, the front end hears {rate} Hz: pack again")
        offset, samples = int(found[3]), int(found[4])
        first = min(round((start_s or 0.0) * rate), samples)
        last = samples if end_s is None else min(round(end_s * rate), samples)
        begin, end = (HEADER_BYTES + 2 * (offset + place) for place in (first, max(first, last)))
        shard = f"{found[1]}/waveforms/{found[2]}.npy"
        return np.frombuffer(remote.read(shard, begin, end) if end > begin else b"", dtype="<i2")
    except (remote.RemoteError, PackError) as error:
        raise AudioError(path, str(error)) from error


@lru_cache(maxsize=64)
def _rate(address: str, process: int) -> int:
    return int(remote_info(address)["sample_rate"])
