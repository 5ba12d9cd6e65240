"""The folder of a pack: which files lie in it, what its pack.json says, and how its clips are addressed.

    pack.json            version, sample rate, counts, hashes; written last: without it a pack is incomplete
    clips.parquet        a table of clips (`psla.data.clips`) with the columns shard, offset, samples, crc32
    waveforms/00000.npy  1-D int16: the clips of one shard, one after the other, mono
    rejected.csv         clip_id, path, reason of the clips that could not be decoded

In the file, the path of a clip is `pack://SHARD/OFFSET+SAMPLES`: a pack may be moved. Where the table is read, the
folder is put in: `pack://FOLDER/SHARD/OFFSET+SAMPLES`. Such rows may stand beside files and soundscapes in one table.
Reading a pack: `psla.data.pack.reading`; writing one: `psla.data.pack.write`; its checksums: `psla.data.pack.verify`.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from psla.audio.addresses import PACK_PREFIX
from psla.audio.decode import AudioError
from psla.files import sha256_of
from psla.sealed import read_json

FORMAT_VERSION = 1
UNFINISHED = "unfinished"  # the folder inside a pack in which it grows
HEADER_BYTES = 128  # of each .npy file; what follows are samples
_INFO = frozenset(
    {
        *("version", "name", "table_sha256", "vocabulary_sha256", "clips", "shard_clips", "sample_rate"),
        *("rejected", "splits", "samples", "shard_samples", "sha256"),
    }
)
ADDRESS = r"(?s)^pack://(?:(.*)/)?(\d{5,})/(\d+)\+(\d+)$"


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


def read_info(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What the pack.json of a finished pack holds.

    Raises:
        FileNotFoundError: there is no such folder.
        PackError: no pack, one that is not finished, one of another format version, or one that states no sample rate.
    """
    path = Path(folder).resolve()
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such pack", os.fspath(folder))
    try:
        info = read_json(path / "pack.json", PackError, mend="pack again into a new folder")
    except (FileNotFoundError, NotADirectoryError) as error:
        if (path / UNFINISHED).is_dir():
            raise PackError(f"{folder} is a pack that is not finished: run the same `psla pack` again") from error
        raise PackError(f"{folder} is no pack: it holds no pack.json") from error
    version = info.get("version")
    if version != FORMAT_VERSION:
        raise PackError(
            f"{folder} has pack format version {version}, this psla reads {FORMAT_VERSION}; pack the clips again "
            "with this psla, or read the pack with the one that wrote it"
        )
    if unknown := sorted(info.keys() - _INFO):
        raise PackError(f"{path / 'pack.json'} has the unknown key {unknown[0]!r:.80}: pack again into a new folder")
    if not isinstance(rate := info.get("sample_rate"), int) or rate < 1:
        raise PackError(f"{folder} states the sample rate {rate!r} in its pack.json: pack again into a new folder")
    return info


def check_rate(folder: str | os.PathLike[str], rate: int) -> None:
    """Refuse a pack that holds another sample rate than the one that is asked for, in Hz.

    Raises:
        PackError: it does, or it is no finished pack that can be read.
    """
    try:
        held = read_info(folder)["sample_rate"]
    except FileNotFoundError as error:
        raise PackError(f"{folder}: there is no such pack") from error
    if held != rate:
        mend = f"pack the clips again with --sample-rate {rate}"
        raise PackError(f"{folder} holds {held} Hz, the front end hears {rate} Hz: {mend}")


def located(frame: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """A table of clips just read, with the folder put into the paths that do not say where their pack lies."""
    unplaced = pl.col("path").str.contains(r"^pack://\d{5,}/\d+\+\d+$")
    if not frame.select(unplaced.any()).item():
        return frame
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError as error:
        raise PackError(f"{folder!r} is not UTF-8, as the paths of clips must be: rename the folder") from error
    prefix = f"{PACK_PREFIX}{folder}/"
    path = pl.when(unplaced).then(prefix + pl.col("path").str.strip_prefix(PACK_PREFIX)).otherwise("path").alias("path")
    return frame.with_columns(path)


def read_rejected(path: Path) -> list[tuple[str, str, str]]:
    """Clip ids, paths and reasons.

    Raises:
        PackError: it is no such table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PackError(f"{path} is damaged ({error}): pack again into a new folder") from error
    if rows[:1] != [["clip_id", "path", "reason"]] or any(len(row) != 3 for row in rows):
        raise PackError(f"{path} is damaged (its lines must have clip_id, path, reason): pack again into a new folder")
    return [(row[0], row[1], row[2]) for row in rows[1:]]


def check_listed(folder: Path, info: dict[str, Any], name: str) -> Path:
    """A file of a pack, if it is the one that pack.json lists.

    Raises:
        PackError: it is another.
    """
    known = info.get("sha256", {}).get(name)
    if known is not None and sha256_of(folder / name) != known:
        raise PackError(f"{folder / name} is not the file that was packed: copy it again, or pack again")
    return folder / name


def check_clip(samples: np.ndarray, crc32: int, where: str) -> None:
    """Refuse samples that are not those that were packed, such as of shards that were swapped.

    Raises:
        PackError: they have another checksum.
    """
    if zlib.crc32(np.ascontiguousarray(samples).data) != crc32:
        raise PackError(f"{where} is not what was packed (CRC-32): `psla pack FOLDER --verify` names all such clips")


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


def read_address(path: str, rate: int, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """The waveform at an address such as `pack:///data/as/00003/160000+160000`, or its part; (samples,) int16.

    Raises:
        AudioError: no such clip, or a pack of another sample rate than `rate`, in Hz.
    """
    found = re.match(ADDRESS, path)
    if found is None or found[1] is None:
        raise AudioError(path, "not the address of a clip in a pack")
    begin = int(found[3])
    try:
        samples = _mapped(shard_path(found[1], int(found[2])))[begin : begin + int(found[4])]
        _checked_rate(found[1], rate)
        known = _checksums(found[1], int(found[2])).get(begin)
        if known is not None and len(samples) == known[0]:
            check_clip(samples, known[1], path)
    except PackError as error:
        raise AudioError(path, str(error)) from error
    first = round((start_s or 0.0) * rate)
    return samples[first : None if end_s is None else round(end_s * rate)]


@lru_cache(maxsize=64)
def _checksums(folder: str, shard: int) -> dict[int, tuple[int, int]]:
    """Samples and CRC-32 of the clips of a shard, by the sample at which they begin."""
    rows = pl.scan_parquet(Path(folder) / "clips.parquet", glob=False).filter(pl.col("shard") == shard)
    try:
        found = rows.select("offset", "samples", "crc32").collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise PackError(f"{folder}/clips.parquet cannot be read ({error}): pack again into a new folder") from error
    return {offset: (samples, crc) for offset, samples, crc in found.iter_rows()}


_mapped = lru_cache(maxsize=64)(map_shard)
_checked_rate = lru_cache(maxsize=64)(check_rate)
