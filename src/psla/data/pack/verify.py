"""Comparing a pack with its checksums: every byte that was written is still what it was.

The CRC-32 of each clip is in clips.parquet, the SHA-256 of clips.parquet and rejected.csv in pack.json. What no
checksum holds, in packs of earlier versions, is pack.json itself.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl

from psla.data.pack.format import HEADER_BYTES, check_listed, shard_header, shard_path
from psla.data.pack.reading import Pack

_CHUNK = 1 << 22  # samples that are read at a time


@dataclass(frozen=True)
class Damage:
    """A clip of a pack that is not what was packed; `reason` says how that shows."""

    clip_id: str
    reason: str


def check(pack: Pack, workers: int = 2, progress: Callable[[int], None] = lambda clips: None) -> list[Damage]:
    """The clips whose samples are not those that were packed, in the order of the table.

    Args:
        pack: what to read through, from beginning to end.
        workers: shards that are read at the same time.
        progress: told the number of clips after each shard.

    Raises:
        PackError: clips.parquet or rejected.csv is not the file that was written, so that nothing can be compared.
    """
    for name in pack.info["sha256"]:
        check_listed(pack.folder, pack.info, name)
    table = pack.clips.frame.select("clip_id", "shard", "offset", "samples", "crc32")
    shards = [(shard, total) for shard, total in enumerate(pack.info["shard_samples"])]
    rows = {int(key[0]): part for key, part in table.partition_by("shard", as_dict=True).items()}

    def check_one(place: tuple[int, int]) -> list[Damage]:
        shard, total = place
        part = rows.get(shard, table.clear())
        damaged = _check_shard(pack, shard, total, part)
        progress(len(part))
        return damaged

    with ThreadPoolExecutor(workers) as pool:
        return [damage for found in pool.map(check_one, shards) for damage in found]


def _check_shard(pack: Pack, shard: int, total: int, rows: pl.DataFrame) -> list[Damage]:
    file = shard_path(pack.folder, shard)
    try:
        with open(file, "rb") as opened:
            if opened.read(HEADER_BYTES) != shard_header(total):
                return [Damage(id, f"the header of {file.name} is damaged") for id in rows["clip_id"]]
            damaged = [
                Damage(id, f"its samples in {file.name} do not have the checksum of those that were packed")
                for id, offset, samples, crc in rows.select("clip_id", "offset", "samples", "crc32").iter_rows()
                if _crc(opened, offset, samples) != crc
            ]
            surplus = os.fstat(opened.fileno()).st_size - (HEADER_BYTES + 2 * total)
    except OSError as error:
        return [Damage(id, f"{file.name} cannot be read: {error.strerror}") for id in rows["clip_id"]]
    if surplus > 0 and not damaged:
        return [Damage(id, f"{file.name} is {surplus} bytes too long") for id in rows["clip_id"]]
    return damaged


def _crc(file: io.BufferedReader, offset: int, samples: int) -> int:
    """CRC-32 of a clip; of what is left of it, where the file ends early."""
    file.seek(HEADER_BYTES + 2 * offset)
    crc, left = 0, 2 * samples
    while left and (data := file.read(min(left, 2 * _CHUNK))):
        crc, left = zlib.crc32(data, crc), left - len(data)
    return crc if not left else -1
