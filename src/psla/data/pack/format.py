"""Pack: a corpus decoded once, as int16 waveforms that can be read at random; the reader's side.

    pack.json            version, sample rate, counts, hashes; written last: without it a pack is incomplete
    clips.parquet        a table of clips (`psla.data.clips`) with the columns shard, offset, samples, crc32
    waveforms/00000.npy  1-D int16: the clips of one shard, one after the other, mono at 16 kHz
    rejected.csv         clip_id, path, reason of the clips that could not be decoded

In the file, the path of a clip is `pack://SHARD/OFFSET+SAMPLES`: a pack may be moved. Where the table is read, the
folder is put in: `pack://FOLDER/SHARD/OFFSET+SAMPLES`. Such rows may stand beside files and soundscapes in one table.
Who writes packs: `psla.data.pack.write`. Who compares them with their checksums: `psla.data.pack.verify`.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from psla.audio.decode import SAMPLE_RATE, AudioError
from psla.data.clips import Clips, ClipsError

FORMAT_VERSION = 1
PACK_PREFIX = "pack://"
UNFINISHED = "unfinished"  # the folder inside a pack in which it grows
HEADER_BYTES = 128  # of each .npy file; what follows are samples

_ADDRESS = r"(?s)^pack://(?:(.*)/)?(\d{5,})/(\d+)\+(\d+)$"


class PackError(ValueError):
    """A pack that cannot be read or written; the sentence names the folder, the rule and the mend."""


def shard_path(folder: str | os.PathLike[str], shard: int) -> Path:
    """The file of a shard.

    Example:
        >>> shard_path("as", 3).as_posix()
        'as/waveforms/00003.npy'
    """
    return Path(folder) / "waveforms" / f"{shard:05d}.npy"


def shard_header(samples: int) -> bytes:
    """The bytes with which the .npy file of so many int16 samples begins; always HEADER_BYTES of them.

    Example:
        >>> len(shard_header(0)), len(shard_header(2**40)), shard_header(7)[:6]
        (128, 128, b'\\x93NUMPY')
    """
    header = io.BytesIO()
    described = {"descr": "<i2", "fortran_order": False, "shape": (samples,)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


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
            PackError: no pack, one that is not finished, or one of another format version.
        """
        path = Path(folder).resolve()
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "there is no such pack", os.fspath(folder))
        try:
            info = json.loads((path / "pack.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            if (path / UNFINISHED).is_dir():
                raise PackError(f"{folder} is a pack that is not finished: run the same `psla pack` again") from error
            raise PackError(f"{folder} is no pack: it holds no pack.json") from error
        except ValueError as error:
            raise PackError(f"{path / 'pack.json'} is damaged ({error}): pack again into a new folder") from error
        version = info.get("version") if isinstance(info, dict) else None
        if version != FORMAT_VERSION:
            raise PackError(
                f"{folder} has pack format version {version}, this psla reads {FORMAT_VERSION}; pack the clips again "
                "with this psla, or read the pack with the one that wrote it"
            )
        if info.get("sample_rate") != SAMPLE_RATE:
            raise PackError(f"{folder} holds {info.get('sample_rate')} Hz; packs of this psla hold {SAMPLE_RATE} Hz")
        return Pack(path, info)

    @cached_property
    def clips(self) -> Clips:
        """The table of the clips in the pack; their paths say where the pack lies.

        Raises:
            ClipsError: clips.parquet is damaged.
        """
        return _located(Clips.read(self.folder / "clips.parquet"), self.folder)

    @cached_property
    def rejected(self) -> list[tuple[str, str, str]]:
        """Clip id, path and reason of the clips that could not be decoded."""
        with open(self.folder / "rejected.csv", newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            next(rows)
            return [(row[0], row[1], row[2]) for row in rows]

    def __repr__(self) -> str:
        return f"Pack({str(self.folder)!r}: {self.info['clips']} clips, {self.info['rejected']} rejected)"


def read_clips(path: str | os.PathLike[str]) -> Clips:
    """The table of clips at a path: a Parquet file, or the folder of a pack.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ClipsError: not a table of clips.
        PackError: a folder that is no finished pack of this version.
    """
    where = Path(path)
    if where.is_dir():
        return Pack.open(where).clips
    return _located(Clips.read(where), where.resolve().parent)


class PackSource:
    """Clips that lie in packs, of one table; see `psla.data.source.ClipSource`.

    Waveforms are read-only views of the mapped files: nothing is copied, and a clip that is cut short costs only what
    is looked at. Shards are mapped when they are first read, and stay so. Threads may share it, and it can be sent to
    another process.

    Raises:
        ClipsError: a row whose path is no clip in a pack.
        PackError: a shard is missing, or shorter than the table says.
    """

    def __init__(self, clips: Clips) -> None:
        self.clip_ids = clips.clip_ids
        columns = ("folder", "shard", "offset", "samples")
        places = clips.frame["path"].str.extract_groups(_ADDRESS).struct.rename_fields(list(columns)).struct.unnest()
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
        numbered = ends.select("folder", "shard").with_row_index("file")
        self._file = places.join(numbered, on=["folder", "shard"], how="left", maintain_order="left")["file"].to_numpy()
        self._begin = places["offset"].to_numpy()
        self._end = self._begin + places["samples"].to_numpy()
        if clips.frame["start_s"].null_count() + clips.frame["end_s"].null_count() < 2 * len(clips):
            self._begin, self._end = _spans(clips.frame, self._begin, self._end)
        self._open_files()

    sample_rate = SAMPLE_RATE

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, index: int) -> np.ndarray:
        """See `ClipSource.read`; the waveform is read-only. A part that begins after the clip's end: AudioError."""
        if not 0 <= index < len(self.clip_ids):
            raise IndexError(f"clip {index} of a source with clips 0 .. {len(self) - 1}")
        file = self._file[index]
        samples = self._maps[file]
        if samples is None:
            samples = self._map(file)
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


def map_shard(file: Path) -> np.ndarray:
    """The samples of a shard, (samples,) int16, read-only, mapped.

    Raises:
        PackError: no such file, or not an array of int16 samples.
    """
    try:
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        mend = "raise the limit with `ulimit -n`" if error.errno == errno.EMFILE else "is the pack complete?"
        raise PackError(f"{file} cannot be opened ({error.strerror or error}): {mend}") from error
    except (ValueError, EOFError) as error:
        raise PackError(f"{file} is damaged ({error}): `psla pack FOLDER --verify` names its clips") from error
    if mapped.dtype != np.int16 or mapped.ndim != 1:
        raise PackError(f"{file} holds {mapped.dtype} {mapped.shape}, a shard holds int16 (samples,)")
    return np.asarray(mapped)  # the plain view is several times faster to cut than numpy's memmap


def read_address(path: str, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """The waveform at an address such as `pack:///data/as/00003/160000+160000`, or its part; (samples,) int16.

    Raises:
        AudioError: no such clip.
    """
    found = re.match(_ADDRESS, path)
    if found is None or found[1] is None:
        raise AudioError(path, "not the address of a clip in a pack")
    begin = int(found[3])
    try:
        samples = _mapped(shard_path(found[1], int(found[2])))[begin : begin + int(found[4])]
    except PackError as error:
        raise AudioError(path, str(error)) from error
    first = round((start_s or 0.0) * SAMPLE_RATE)
    return samples[first : None if end_s is None else round(end_s * SAMPLE_RATE)]


_mapped = lru_cache(maxsize=64)(map_shard)


def _located(clips: Clips, folder: Path) -> Clips:
    """Put the folder into the paths of a table just read that lack one."""
    homeless = pl.col("path").str.contains(r"^pack://\d{5,}/\d+\+\d+$")
    if not clips.frame.select(homeless.any()).item():
        return clips
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError as error:
        raise PackError(f"{folder!r} is not UTF-8, as the paths of clips must be: rename the folder") from error
    prefix = f"{PACK_PREFIX}{folder}/"
    path = pl.when(homeless).then(prefix + pl.col("path").str.strip_prefix(PACK_PREFIX)).otherwise("path").alias("path")
    clips.frame = clips.frame.with_columns(path)
    return clips


def _spans(frame: pl.DataFrame, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of the parts from start_s to end_s of clips from begin to end."""
    start_s, end_s = (frame[column].to_numpy() for column in ("start_s", "end_s"))  # NaN where null
    first = begin + np.rint(np.nan_to_num(start_s) * SAMPLE_RATE).astype(np.int64)
    last = np.where(np.isnan(end_s), end, begin + np.rint(np.nan_to_num(end_s) * SAMPLE_RATE).astype(np.int64))
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
    if re.match(_ADDRESS, path):
        return f"clip {id!r} at {path} does not say in which folder its pack lies: read the table with read_clips"
    return f"clip {id!r} at {path} is not for PackSource; open_source reads any table"
