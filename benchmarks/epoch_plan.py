"""Clip weights and the plan of an epoch at the size of AudioSet: time, memory, and against the plain way.

    python benchmarks/epoch_plan.py [--clips 2063949 | --lists FOLDER]

FOLDER holds the published segment lists; without it labels are drawn from a long tail.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from machine import machine
from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.techniques.sampling import EpochPlan, clip_weights

REPEATS = 5


def long_tailed_labels(clips: int, seed: int = 0) -> Labels:
    """Two labels a clip, drawn from a long tail."""
    generator = np.random.default_rng(seed)
    vocabulary = Vocabulary.audioset()
    tail = 1.0 / np.arange(1, len(vocabulary) + 1)
    first = generator.choice(len(vocabulary), size=clips, p=tail / tail.sum())
    second = (first + generator.integers(1, len(vocabulary), size=clips)) % len(vocabulary)
    indices = np.sort(np.stack([first, second], axis=1), axis=1).ravel()
    return Labels([f"c{i}" for i in range(clips)], np.arange(0, 2 * clips + 1, 2), indices, vocabulary)


def published_labels(folder: str) -> Labels:
    """The labels of the balanced and the unbalanced list, and what it took to get them."""
    from psla.corpora.audioset import read_lists

    began = time.perf_counter()
    clips = read_lists(folder, ["balanced", "unbalanced"])
    read = time.perf_counter()
    labels = clips.labels()
    print(f"lists to Clips: {read - began:.2f} s; Clips to Labels: {time.perf_counter() - read:.2f} s")
    return labels


def plain_weights(labels: Labels, clips: int) -> np.ndarray:
    """Algorithm 1 as it is written: a loop over clips and their classes."""
    counts = labels.counts()
    weights = np.zeros(clips)
    for clip in range(clips):
        for k in labels.indices[labels.offsets[clip] : labels.offsets[clip + 1]]:
            weights[clip] += 1.0 / counts[k]
    return weights


def plain_plan(weights: np.ndarray) -> np.ndarray:
    """The plan's draw in one line, each look-up at random: what numpy's own `choice` does."""
    generator = np.random.default_rng([0, 0, 0])
    edges = np.cumsum(weights)
    return np.searchsorted(edges, generator.random(len(weights)) * edges[-1], side="right")


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_063_949)
    parser.add_argument("--lists")
    options = parser.parse_args()
    print(machine())
    labels = published_labels(options.lists) if options.lists else long_tailed_labels(options.clips)
    print(f"{len(labels)} clips, {len(labels.indices)} labels; medians of {REPEATS}, interleaved")

    weights = clip_weights(labels)
    part = min(len(labels), 50_000)
    assert np.allclose(weights[:part], plain_weights(labels, part), rtol=1e-12)
    assert np.array_equal(EpochPlan(weights, 0.5, 10.0, 0, 0).first, plain_plan(weights))
    ways = {
        "clip weights": lambda: clip_weights(labels),
        "a plain loop over 50,000 clips": lambda: plain_weights(labels, part),
        "epoch plan": lambda: EpochPlan(weights, 0.5, 10.0, seed=0, epoch=0),
        "its draw with look-ups at random": lambda: plain_plan(weights),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            times[name].append(seconds(way))
    own, loop, plan, plain = (statistics.median(each) for each in times.values())
    for name, each in times.items():
        print(f"{name:34} {statistics.median(each):7.3f} s   (best {min(each):.3f})")
    print(f"clip weights: {loop * len(labels) / part / own:.0f}x as fast as the plain loop over all clips")
    print(f"epoch plan, all of it: {plain / plan:.1f}x as fast as the draw alone with look-ups at random")
    tracemalloc.start()
    kept = EpochPlan(weights, 0.5, 10.0, seed=0, epoch=0)
    now, peak = tracemalloc.get_traced_memory()
    print(f"epoch plan of {len(kept)} clips: peak {peak / 1e6:.0f} MB while it is drawn, {now / 1e6:.0f} MB kept")


if __name__ == "__main__":
    main()
