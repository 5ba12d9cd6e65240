"""Features of clips, heard once: a network's averages over frequency and time, kept by what was heard.

    a clip's content ──► kept already? ──► its numbers
                              │ no
        decoding workers ──► windows end to end ──► network ──► their mean, weighed by their samples

The cache has a folder for each network file (its SHA-256). A clip's key is made of the SHA-256 of its sound file, or
the address that it is synthesised from, with its span; in a pack, of its samples. Whoever is killed loses what was
heard since the last shard; shards are written whole and named after what is in them, so that a cache is the same to the
byte however often its making broke off. Heard in tasks (`Apart`), it is the same, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from psla.audio import addresses
from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job
from psla.data.clips import Clips
from psla.files import remove_leftovers, sha256_of
from psla.journal import json_object
from psla.model.inference import tag_waveforms
from psla.model.network import TaggingNetwork
from psla.model.tensor_file import read_layout, read_sealed, write_sealed
from psla.spread import Link, Spread, Task, in_turn
from psla.weights.here import model_here

_KEY = "psla_features"
RULE = "1: windows end to end, their mean by samples"
SHARD = 128  # clips
GROUP = 32  # clips, in a task


class FeatureCacheError(ValueError):
    """A shard of the cache that is damaged."""


@dataclass(frozen=True)
class Features:
    """What was heard of a table of clips.

    Attributes:
        values: (readable clips, channels) float32, in the order of the table.
        clip_ids, keys: of its rows; clips of one content have one key.
        rejected: why the others could not be read, by clip id.
        heard: how many contents were not in the cache.
    """

    values: np.ndarray
    clip_ids: list[str]
    keys: list[str]
    rejected: dict[str, str]
    heard: int


@dataclass(frozen=True)
class Apart:
    """How clips are heard in tasks.

    Attributes:
        spread: what does them.
        model: the path or the name of the network's file; another machine must find the same behind it.
        model_hash: its SHA-256.
    """

    spread: Spread
    model: str
    model_hash: str


def hear(
    network: TaggingNetwork,
    clips: Clips,
    folder: Path,
    workers: int = 2,
    progress: Callable[[int], None] = lambda clips: None,
    apart: Apart | None = None,
) -> Features:
    """The features of a table's clips; each is the same to the bit whatever else is heard.

    Args:
        network: in evaluation mode, on the CPU.
        folder: of the cache, for this network alone; made if it is missing.
        workers: processes that decode, 1 or more; with `apart`, of each task.
        progress: told of clips as they are done.
        apart: hear in tasks; None: in this process. What is kept is the same to the byte, and written here.

    Raises:
        FeatureCacheError: a shard of the cache is damaged.
        ValueError: a task found another model behind the name.
    """
    digest = cache(sha256_of)  # a long recording has many clips
    keys: dict[str, str] = {}
    rejected: dict[str, str] = {}
    jobs: dict[str, Job] = {}
    for id, *place in clips.frame.select("clip_id", "path", "start_s", "end_s").iter_rows():
        job = Job(place[0], network.sample_rate, place[1], place[2])
        try:
            keys[id] = _key(job, digest)
        except (OSError, AudioError) as error:
            why = f"{job.name}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            rejected[id] = why
        else:
            jobs[keys[id]] = job
    known = _kept(folder, set(jobs))
    missing = {key: job for key, job in jobs.items() if key not in known}
    progress(len(clips) - len(missing))
    failed: dict[str, str] = {}
    new: list[str] = []
    sounds = list(missing.values())
    coming = _heard_here(network, sounds, workers) if apart is None else _heard_apart(apart, sounds, workers)
    with closing(coming):
        for key, found in zip(missing, coming, strict=True):
            progress(1)
            if isinstance(found, str):
                failed[key] = found
                continue
            known[key] = found
            new.append(key)
            if len(new) == SHARD:
                _keep(folder, new, known)
                new = []
    if new:
        _keep(folder, new, known)
    rejected |= {id: failed[key] for id, key in keys.items() if key in failed}
    ids = [id for id in clips.clip_ids if id not in rejected]
    values = np.stack([known[keys[id]] for id in ids]) if ids else np.zeros((0, network.backbone.channels), np.float32)
    return Features(values, ids, [keys[id] for id in ids], rejected, len(missing))


def _heard_here(network: TaggingNetwork, jobs: Sequence[Job], workers: int) -> Generator[np.ndarray | str, None, None]:
    """The features of each sound, in order, or why it could not be read."""
    if not jobs:
        return
    with DecodePool(min(workers, len(jobs)), timeout_s=30.0) as pool:
        for _, wave in pool.map(jobs):
            if isinstance(wave, AudioError):
                yield str(wave)
            else:
                yield features_of(network, wave) if len(wave) else "it has no samples"


def _heard_apart(apart: Apart, jobs: Sequence[Job], workers: int) -> Generator[np.ndarray | str, None, None]:
    """As `_heard_here`; what ends before its turn waits."""
    groups = {f"clips from {at} on": jobs[at : at + GROUP] for at in range(0, len(jobs), GROUP)}
    what = apart.model, apart.model_hash
    tasks = (Task(name, hear_part, (*what, group, workers), cpus=workers) for name, group in groups.items())
    early: dict[str, list[np.ndarray | str]] = {}
    due = iter(groups)
    name = next(due, "")
    with closing(in_turn(apart.spread, tasks)) as coming:
        for task, found in coming:
            early[task.name] = found
            while name in early:
                yield from early.pop(name)
                name = next(due, "")


def hear_part(model: str, model_hash: str, jobs: Sequence[Job], workers: int, link: Link) -> list[np.ndarray | str]:
    """In a task: the features (channels,) float32 of each sound, in order, or why it could not be read.

    Raises:
        ValueError: another model than the driver's stands behind the name here, or an ensemble.
    """
    network = model_here(model, model_hash).network
    if not isinstance(network, TaggingNetwork):
        raise ValueError(f"{model} is an ensemble, which has no features of its own: give one of its members")
    found: list[np.ndarray | str] = []
    for each in _heard_here(network, jobs, workers):
        found.append(each)
        link.tell(len(found))
    return found


def _key(job: Job, digest: Callable[[str], str]) -> str:
    """Raises OSError or AudioError where there is nothing to read."""
    path, rate, *span = job
    scheme = addresses.scheme_of(path)
    content = str(path)  # what is synthesised is its address
    if scheme and scheme not in addresses.SYNTHESISED:
        content, span = hashlib.sha256(addresses.read(path, rate, *span).tobytes()).hexdigest(), []
    elif not scheme:
        content = digest(content)
    return hashlib.sha256(json.dumps([content, span, rate, RULE]).encode()).hexdigest()


def features_of(network: TaggingNetwork, wave: np.ndarray) -> np.ndarray:
    """(channels,) float32 of a waveform (samples,) int16 of any length, at least one sample."""
    windows = np.split(wave, range(network.window_samples, len(wave), network.window_samples))
    # One by one: an hour's feature maps would fill the memory.
    each = [tag_waveforms(network, [window], network.sample_rate).features for window in windows]
    found = np.concatenate([features.numpy() for features in each if features is not None])
    return np.average(found, axis=0, weights=[len(window) for window in windows]).astype(np.float32)


def _keep(folder: Path, keys: list[str], known: dict[str, np.ndarray]) -> None:
    values = torch.from_numpy(np.stack([known[key] for key in keys]))
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
    write_sealed(folder / f"{name}.safetensors", {"features": values}, _KEY, {"keys": keys})


def _kept(folder: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """The features in the cache, by key."""
    found: dict[str, np.ndarray] = {}
    remove_leftovers(folder)
    for path in sorted(folder.glob("[!.]*.safetensors")):
        try:
            metadata, _ = read_layout(path)
            if "crc32" in metadata:  # of an earlier version, which summed the numbers alone
                continue
            if wanted.isdisjoint(json_object(metadata[_KEY])["keys"]):
                continue
            tensors, header = read_sealed(path, _KEY)
            keys, values = header["keys"], tensors["features"].numpy()
        except (KeyError, TypeError, ValueError) as error:
            raise FeatureCacheError(f"{path} is damaged ({error}): delete it, its clips will be heard again") from error
        found |= {key: value for key, value in zip(keys, values, strict=True) if key in wanted}
    return found
