"""The training loader on a warm pack of 10 s clips: mixed pairs a second as int16 batches.

    python benchmarks/loading.py [--clips 1000] [--batch 48] [--pin-memory]

Every clip is mixed (mixup rate 1), so a pair is two clips of 160,000 samples. Compared in one process and in turn with
a loader that gives every clip a future of its own, and with bare copies of the same clips by one thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from machine import machine
from psla.data.clips import Clips
from psla.data.pack.format import FORMAT_VERSION, shard_path
from psla.data.pack.reading import PackSource
from psla.data.source import ClipSource
from psla.data.vocabulary import Vocabulary
from psla.techniques.sampling import EpochPlan
from psla.training.loader import Loader

SAMPLES, LIMIT, REPEATS = 160_000, 169_200, 5


def pack_of(folder: Path, clips: int) -> PackSource:
    """A pack of noise, in shards of 200 clips, read once so that it is warm."""
    generator, rows, per_shard = np.random.default_rng(0), [], 200
    (folder / "waveforms").mkdir()
    (folder / "pack.json").write_text(json.dumps({"version": FORMAT_VERSION, "sample_rate": 16000}))
    noise = generator.integers(-3000, 3000, per_shard * SAMPLES, dtype=np.int16)
    for shard in range(-(-clips // per_shard)):
        count = min(per_shard, clips - shard * per_shard)
        np.save(shard_path(folder, shard), np.roll(noise, shard)[: count * SAMPLES])
        for i in range(count):
            id, path = f"{shard}-{i}", f"pack://{folder}/{shard:05d}/{i * SAMPLES}+{SAMPLES}"
            rows.append({"clip_id": id, "source": id, "path": path, "split": "train", "labels": ["noise"]})
    source = PackSource(Clips.from_rows(rows, Vocabulary(["noise"])), 16000)
    assert all(len(source.read(i)) == SAMPLES and source.read(i).max() >= 0 for i in range(len(source)))
    return source


def future_a_clip(source: ClipSource, plan: EpochPlan, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The plain way: a future a clip, one batch ahead, the batch put together by the thread that trains."""

    def stacked(futures: list) -> torch.Tensor:
        waves = [future.result()[:LIMIT] for future in futures]
        array = np.zeros((len(waves), max(map(len, waves))), dtype=np.int16)
        for row, wave in enumerate(waves):
            array[row, : len(wave)] = wave
        return torch.from_numpy(array)

    with ThreadPoolExecutor(2) as pool:
        ahead: list = []
        for start in [*range(0, len(plan), batch), None]:
            ready, ahead = ahead, []
            if start is not None:
                rows = slice(start, start + batch)
                ahead = [[pool.submit(source.read, int(r)) for r in side[rows]] for side in (plan.first, plan.second)]
            if ready:
                yield stacked(ready[0]), stacked(ready[1])


def copies(source: ClipSource, plan: EpochPlan) -> int:
    """Bare copies of the pairs' clips into memory that is there already."""
    place = np.zeros((2, SAMPLES), dtype=np.int16)
    for first, second in zip(plan.first, plan.second, strict=True):
        place[0], place[1] = source.read(int(first)), source.read(int(second))
    return len(plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--pin-memory", action="store_true")
    options = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        source = pack_of(Path(folder), options.clips)
        size = 4 * SAMPLES * options.batch / 1e6
        print(f"{options.clips} clips of 10 s ({options.clips * SAMPLES * 2 / 1e9:.2f} GB), batches of {options.batch}")
        print(f"a batch of pairs: {size:.0f} MB; medians of {REPEATS}, interleaved")

        def loader(workers: int, prefetch: int = 3) -> Callable[[EpochPlan], int]:
            made = Loader(source, LIMIT, workers, prefetch, options.pin_memory)
            return lambda plan: sum(len(batch) for batch in made.batches(plan, options.batch))

        ways: dict[str, Callable[[EpochPlan], int]] = {
            "bare copies, one thread": lambda plan: copies(source, plan),
            "a future a clip, two threads": lambda plan: sum(
                len(a) for a, _ in future_a_clip(source, plan, options.batch)
            ),
            "loader, one thread": loader(1),
            "loader, two threads": loader(2),
            "loader, four threads": loader(4, 5),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        work: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(REPEATS + 1):
            plan = EpochPlan(options.clips, 1.0, 10.0, seed=0, epoch=repeat)
            for name, way in ways.items():
                before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                pairs = way(plan)
                wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
                if repeat:  # the first round warms up
                    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    rates[name].append(pairs / wall)
                    work[name].append(pairs / cpu)
        base = statistics.median(rates["a future a clip, two threads"])
        for name in ways:
            rate, per_cpu = statistics.median(rates[name]), statistics.median(work[name])
            print(
                f"{name:30} {rate:7.0f} pairs/s   {rate / base:5.2f}x   {per_cpu:7.0f} pairs a second of processor time"
            )
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, the warm pack included")


if __name__ == "__main__":
    main()
