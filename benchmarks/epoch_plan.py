"""Clip weights and the plan of an epoch at the size of AudioSet, against a plain loop on a part of it.

python benchmarks/epoch_plan.py [--clips 2063949]
"""

from __future__ import annotations

import argparse
import platform
import time
import tracemalloc
from datetime import date

import numpy as np

from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.recipe.sampling import EpochPlan, clip_weights


def long_tailed_labels(clips: int, seed: int = 0) -> Labels:
    """Two labels a clip, drawn from a long tail."""
    generator = np.random.default_rng(seed)
    vocabulary = Vocabulary.audioset()
    tail = 1.0 / np.arange(1, len(vocabulary) + 1)
    first = generator.choice(len(vocabulary), size=clips, p=tail / tail.sum())
    second = (first + generator.integers(1, len(vocabulary), size=clips)) % len(vocabulary)
    indices = np.sort(np.stack([first, second], axis=1), axis=1).ravel()
    return Labels([f"c{i}" for i in range(clips)], np.arange(0, 2 * clips + 1, 2), indices, vocabulary)


def plain_weights(labels: Labels, clips: int) -> np.ndarray:
    """Algorithm 1 as it is written: a loop over clips and their classes."""
    counts = labels.counts()
    weights = np.zeros(clips)
    for clip in range(clips):
        for k in labels.indices[labels.offsets[clip] : labels.offsets[clip + 1]]:
            weights[clip] += 1.0 / counts[k]
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_063_949)
    options = parser.parse_args()
    labels = long_tailed_labels(options.clips)
    print(f"{platform.machine()}, numpy {np.__version__}, {options.clips} clips, {date.today()}")

    began = time.perf_counter()
    weights = clip_weights(labels)
    ours = time.perf_counter() - began
    part = min(options.clips, 50_000)
    began = time.perf_counter()
    plain = plain_weights(labels, part)
    loop = (time.perf_counter() - began) * options.clips / part
    assert np.allclose(weights[:part], plain, rtol=1e-12)
    print(f"clip weights: {ours:.3f} s; {loop / ours:.0f}x as fast as the plain loop (measured on {part} clips)")

    began = time.perf_counter()
    EpochPlan(weights, 0.5, 10.0, seed=0, epoch=0)
    seconds = time.perf_counter() - began
    tracemalloc.start()
    EpochPlan(weights, 0.5, 10.0, seed=0, epoch=0)
    print(f"epoch plan: {seconds:.3f} s, peak {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
