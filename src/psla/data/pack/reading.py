"""Reading packs: a corpus decoded once, as int16 waveforms that can be read at random. See `psla.data.pack.format`."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from psla.audio.decode import AudioError
from psla.data.clips import Clips, ClipsError
from psla.data.pack.format import (
    ADDRESS,
    HEADER_BYTES,
    PackError,
    check_clip,
    check_listed,
    check_rate,
    map_shard,
    read_info,
    read_rejected,
    shard_path,
)


@dataclass(frozen=True)
class Pack:
    """A finished pack; `Pack.open` reads one.

    Attributes:
        folder: where it lies, absolute.
        info: what pack.json holds.
    """

    folder: Path
    info: dict[str, Any]

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> Pack:
        """Open a pack by its folder; the waveforms are not touched yet.

        Raises:
            FileNotFoundError: there is no such folder.
            PackError: no pack, one that is not finished, one of another format version, or one without a sample rate.
        """
        return Pack(Path(folder).resolve(), read_info(folder))

    @property
    def sample_rate(self) -> int:
        """Of its waveforms, in Hz."""
        return self.info["sample_rate"]

    @cached_property
    def clips(self) -> Clips:
        """The table of the clips in the pack; their paths say where the pack lies.

        Raises:
            ClipsError, PackError: clips.parquet is damaged, or another's.
        """
        return Clips.read(check_listed(self.folder, self.info, "clips.parquet"))

    @cached_property
    def rejected(self) -> list[tuple[str, str, str]]:
        """Clip id, path and reason of the clips that could not be decoded."""
        return read_rejected(check_listed(self.folder, self.info, "rejected.csv"))

    def __repr__(self) -> str:
        return f"Pack({str(self.folder)!r}: {self.info['clips']} clips, {self.info['rejected']} rejected)"


class PackSource:
    """Clips that lie in packs, of one table; see `psla.data.source.ClipSource`.

    Waveforms are read-only views of the mapped files: nothing is copied, and a clip that is cut short costs only what
    is looked at. Shards are mapped when they are first read, and stay so. Threads may share it, and it can be sent to
    another process.

    Raises:
        ClipsError: a row whose path is no clip in a pack.
        PackError: a shard is missing or shorter than the table says, or a pack holds another sample rate than `rate`.
    """

    def __init__(self, clips: Clips, rate: int) -> None:
        self.clip_ids, self.sample_rate = clips.clip_ids, rate
        columns = ("folder", "shard", "offset", "samples")
        places = clips.frame["path"].str.extract_groups(ADDRESS).struct.rename_fields(list(columns)).struct.unnest()
        for column in columns:
            if places[column].has_nulls():
                row = places[column].is_null().arg_max() or 0
                raise ClipsError(_what_is_wrong(self.clip_ids[row], clips.frame["path"][row]))
        places = places.with_columns(pl.col("offset", "samples").cast(pl.Int64), pl.col("shard").cast(pl.Int32))
        end = (pl.col("offset") + pl.col("samples")).max()
        ends = places.group_by("folder", "shard", maintain_order=True).agg(end=end)
        self._files = [shard_path(folder, shard) for folder, shard, _ in ends.iter_rows()]
        for file, needed in zip(self._files, ends["end"], strict=True):
            _check_shard(file, needed)
        for folder in ends["folder"].unique(maintain_order=True):
            check_rate(folder, rate)
        numbered = ends.select("folder", "shard").with_row_index("file")
        self._file = places.join(numbered, on=["folder", "shard"], how="left", maintain_order="left")["file"].to_numpy()
        self._begin = places["offset"].to_numpy()
        self._end = self._begin + places["samples"].to_numpy()
        self._sums = clips.frame["crc32"].to_numpy() if "crc32" in clips.frame.columns else None
        self._whole = self._begin, self._end
        self._unchecked = np.ones(len(clips), dtype=bool)
        if clips.frame["start_s"].null_count() + clips.frame["end_s"].null_count() < 2 * len(clips):
            self._begin, self._end = _spans(clips.frame, rate, self._begin, self._end)
        self._open_files()

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, index: int) -> np.ndarray:
        """See `ClipSource.read`; the waveform is read-only. A part that begins after the clip's end: AudioError; a clip
        that is not what was packed: PackError.
        """
        if not 0 <= index < len(self.clip_ids):
            raise IndexError(f"clip {index} of a source with clips 0 .. {len(self) - 1}")
        file = self._file[index]
        samples = self._maps[file]
        if samples is None:
            samples = self._map(file)
        if self._sums is not None and self._unchecked[index]:  # once: the first epoch pays for it
            whole = samples[self._whole[0][index] : self._whole[1][index]]
            if not np.isnan(self._sums[index]):  # a row that is of no pack of this psla
                check_clip(whole, int(self._sums[index]), f"{self._files[file]}: clip {self.clip_ids[index]!r}")
            self._unchecked[index] = False
        begin, end = self._begin[index], self._end[index]
        if begin >= end:
            raise AudioError(self.clip_ids[index], "the part asked for begins where the clip has ended")
        return samples[begin:end]

    def _open_files(self) -> None:
        self._maps: list[np.ndarray | None] = [None] * len(self._files)
        self._lock = threading.Lock()

    def _map(self, file: int) -> np.ndarray:
        with self._lock:
            mapped = self._maps[file]
            if mapped is None:
                mapped = self._maps[file] = map_shard(self._files[file])
            return mapped

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_maps", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_files()


def _spans(frame: pl.DataFrame, rate: int, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end, in samples, of the parts from start_s to end_s of clips from begin to end."""
    start_s, end_s = (frame[column].to_numpy() for column in ("start_s", "end_s"))  # NaN where null
    first = begin + np.rint(np.nan_to_num(start_s) * rate).astype(np.int64)
    last = np.where(np.isnan(end_s), end, begin + np.rint(np.nan_to_num(end_s) * rate).astype(np.int64))
    return np.minimum(first, end), np.minimum(last, end)


def _check_shard(file: Path, samples: int) -> None:
    """A mapped file that is too short would end the process where it is read."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise PackError(f"{file} is missing ({error.strerror}): the pack is not complete, or lies elsewhere") from error
    if size < HEADER_BYTES + 2 * samples:
        raise PackError(f"{file} is shorter than its clips: copy the pack again, or pack again into a new folder")


def _what_is_wrong(id: str, path: str) -> str:
    if re.match(ADDRESS, path):
        return f"clip {id!r} at {path} does not say in which folder its pack lies: read the table with Clips.read"
    return f"clip {id!r} at {path} is not for PackSource; open_source reads any table"
