"""Features of clips, heard once: a network's averages over frequency and time, kept by what was heard.

    a clip's content ──► kept already? ──► its numbers
                              │ no
        decoding workers, or a pack ──► windows end to end ──► network ──► their mean, weighed by their samples

The cache has a folder for each network file (its SHA-256). A clip's key is the SHA-256 of its sound file's bytes, of
its samples in a pack, or the address that it is synthesised from; with its span, and the rule above. Whoever is killed
loses what was heard since the last shard; shards are written whole, and no two have one name.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from psla.audio import addresses
from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job
from psla.data.clips import Clips
from psla.data.pack.reading import PackSource
from psla.files import sha256_of
from psla.model.inference import tag_waveforms
from psla.model.network import TaggingNetwork
from psla.model.tensor_file import TensorFileError, read_layout, read_tensors, write_tensors

RULE = "1: windows end to end, their mean by samples"
SHARD = 128  # clips
Heard = tuple[str, np.ndarray | AudioError]


class FeatureCacheError(ValueError):
    """A shard of the cache that is damaged."""


@dataclass(frozen=True)
class Features:
    """What was heard of a table of clips.

    Attributes:
        values: (readable clips, channels) float32, in the order of the table.
        clip_ids, keys: of its rows; clips of one content have one key.
        rejected: why the others could not be read, by clip id.
        heard: how many clips were not in the cache.
    """

    values: np.ndarray
    clip_ids: list[str]
    keys: list[str]
    rejected: dict[str, str]
    heard: int


def hear(
    network: TaggingNetwork,
    clips: Clips,
    folder: Path,
    workers: int = 2,
    progress: Callable[[int], None] = lambda clips: None,
) -> Features:
    """The features of a table's clips.

    Args:
        network: in evaluation mode; on the CPU a clip's features are the same to the bit whatever else is heard.
        folder: of the cache, for this network alone; made if it is missing.
        workers: processes that decode, 1 or more.
        progress: told of clips as they are done.

    Raises:
        FeatureCacheError: a shard of the cache is damaged.
        PackError, ClipsError: as `psla.data.pack.reading.PackSource`.
    """
    rows = clips.frame.select("clip_id", "path", "start_s", "end_s").rows()
    packed = clips.filter(clips.frame["path"].str.starts_with(addresses.PACK_PREFIX))
    source = PackSource(packed, network.sample_rate)
    of_pack = {id: place for place, id in enumerate(packed.clip_ids)}
    keys, rejected = _keys(rows, source, of_pack)
    known = _kept(folder, set(keys.values()))
    missing = list({keys[row[0]]: row for row in rows if row[0] in keys and keys[row[0]] not in known}.values())
    progress(len(rows) - len(missing))
    jobs = [Job(path, network.sample_rate, start, end) for id, path, start, end in missing if id not in of_pack]
    in_files = [row[0] for row in missing if row[0] not in of_pack]

    def waves() -> Iterator[Heard]:
        for id, *_ in missing:
            if id in of_pack:
                yield id, _read(source, of_pack[id])
        if jobs:
            with DecodePool(min(workers, len(jobs)), timeout_s=30.0) as pool:
                yield from zip(in_files, (result for _, result in pool.map(jobs)), strict=True)

    waiting = waves()
    while part := list(islice(_listened(network, waiting, keys, known, rejected, progress), SHARD)):
        _keep(folder, part, known)
    # A clip whose content is that of one which could not be read has its reason, too.
    reasons = {keys[id]: reason for id, reason in rejected.items() if id in keys}
    rejected |= {id: reasons[key] for id, key in keys.items() if key not in known}
    ids = [id for id, *_ in rows if id not in rejected]
    values = np.stack([known[keys[id]] for id in ids]) if ids else np.zeros((0, network.backbone.channels), np.float32)
    return Features(values, ids, [keys[id] for id in ids], rejected, len(missing))


def _listened(
    network: TaggingNetwork,
    waves: Iterator[Heard],
    keys: dict[str, str],
    known: dict[str, np.ndarray],
    rejected: dict[str, str],
    progress: Callable[[int], None],
) -> Iterator[str]:
    """Puts the features of each wave into `known`, and gives their key."""
    for id, wave in waves:
        progress(1)
        if isinstance(wave, AudioError) or not len(wave):
            rejected[id] = str(wave) if isinstance(wave, AudioError) else "it has no samples"
            continue
        size = network.window_samples
        windows = [wave[begin : begin + size] for begin in range(0, len(wave), size)]
        # One by one: an hour's feature maps would fill the memory.
        each = [tag_waveforms(network, [window], network.sample_rate).features for window in windows]
        found = np.concatenate([features.numpy() for features in each if features is not None])
        known[keys[id]] = np.average(found, axis=0, weights=[len(w) for w in windows]).astype(np.float32)
        yield keys[id]


def _keys(
    rows: list[tuple[str, str, float | None, float | None]], source: PackSource, of_pack: dict[str, int]
) -> tuple[dict[str, str], dict[str, str]]:
    """Key by clip id, and the reason by id of clips whose file cannot be read."""
    keys: dict[str, str] = {}
    rejected: dict[str, str] = {}
    digests: dict[str, str] = {}  # a long recording has many clips
    for id, path, start, end in rows:
        try:
            if id in of_pack:
                wave = _read(source, of_pack[id])
                if isinstance(wave, AudioError):
                    raise wave
                content, start, end = hashlib.sha256(wave.tobytes()).hexdigest(), None, None
            elif scheme := addresses.scheme_of(path):
                # What another scheme gives may change: such clips are heard each time.
                content = path if scheme in addresses.SYNTHESISED else f"{path} {secrets.token_hex(16)}"
            else:
                content = digests[path] = digests.get(path) or sha256_of(path)
        except OSError as error:
            rejected[id] = f"{path}: cannot be opened: {error.strerror or error}"
        except AudioError as error:
            rejected[id] = str(error)
        else:
            text = json.dumps([content, start, end, source.sample_rate, RULE])
            keys[id] = hashlib.sha256(text.encode()).hexdigest()
    return keys, rejected


def _read(source: PackSource, place: int) -> np.ndarray | AudioError:
    try:
        return source.read(place)
    except AudioError as error:
        return error


def _keep(folder: Path, keys: list[str], known: dict[str, np.ndarray]) -> None:
    values = torch.from_numpy(np.stack([known[key] for key in keys]))
    metadata = {"keys": json.dumps(keys), "crc32": str(zlib.crc32(values.numpy().tobytes()))}
    write_tensors(folder / f"{secrets.token_hex(8)}.safetensors", {"features": values}, metadata)


def _kept(folder: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """The features in the cache, by key."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):
        try:
            metadata, _ = read_layout(path)
            keys = json.loads(metadata["keys"])
            if wanted.isdisjoint(keys):
                continue
            values = read_tensors(path)["features"].numpy()
            if str(zlib.crc32(values.tobytes())) != metadata["crc32"] or len(values) != len(keys):
                raise TensorFileError("its numbers are not those that were written")
        except (TensorFileError, KeyError, ValueError) as error:
            raise FeatureCacheError(f"{path} is damaged ({error}): delete it, its clips will be heard again") from error
        found |= {key: value for key, value in zip(keys, values, strict=True) if key in wanted}
    return found
