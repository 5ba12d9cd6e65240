"""What the probabilities of steps say about the probability of the clip: a model on a folder of recordings.

An attention head's clip is a weighted mean of its steps; an `mlp` or `fully_convolutional` head gives classes to the
mean of the features, so that the clip's probability is no average of the steps'. For every pair of recording and class
with a clip probability above `--above`: the correlation (Pearson's) of the clip's probability with the mean and with
the highest of the class's steps, the same of their logits, and R squared, the share of the clip's variance that a
straight line explains. For every recording: whether the clip's most probable class is that of the mean of the steps,
and of their maximum.

Run: `python benchmarks/frames.py MODEL FOLDER [--every 4] [--above 0.1]`
"""

from __future__ import annotations

import argparse

import numpy as np

import psla
from machine import machine
from psla.tagging.sources import expand_sources

EDGE = 1e-6  # of probabilities, before their logits are taken


def logit(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability.astype(np.float64), EDGE, 1 - EDGE)
    return np.log(clipped / (1 - clipped))


def main() -> None:
    """Tag, gather, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--every", type=int, default=1, help="take one recording of so many, in the order of names")
    parser.add_argument("--above", type=float, default=0.1, help="clip probability of the pairs that are looked at")
    options = parser.parse_args()
    tagger = psla.load(options.model)
    clips, means, most = [], [], []
    for path in expand_sources([options.folder])[:: options.every]:
        result = tagger.tag(path)
        clips.append(result.clip_probabilities)
        means.append(result.frames.mean(axis=0))
        most.append(result.frames.max(axis=0))
    clip, mean, top = np.array(clips), np.array(means), np.array(most)  # (recordings, classes)
    chosen = clip > options.above
    print(machine())
    print(
        f"{options.model}: {len(clip)} recordings, {chosen.sum()} pairs of recording and class above {options.above:g}"
    )
    print(f"steps a recording {result.frames.shape[0]}, of {tagger.step_s:g} s")
    for name, steps in (("mean", mean), ("maximum", top)):
        plain = np.corrcoef(clip[chosen], steps[chosen])[0, 1]
        logits = np.corrcoef(logit(clip[chosen]), logit(steps[chosen]))[0, 1]
        same = (clip.argmax(axis=1) == steps.argmax(axis=1)).mean()
        off = np.abs(clip[chosen] - steps[chosen]).mean()
        print(
            f"{name} of the steps: correlation {plain:.3f} (R squared {plain**2:.3f}), of logits {logits:.3f} "
            f"({logits**2:.3f}); {off:.3f} off on average; the clip's first class is its first in {same:.3f}"
        )


if __name__ == "__main__":
    main()
