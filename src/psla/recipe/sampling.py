"""Balanced sampling and the plan of an epoch: who is read, who is mixed with whom, in which share.

Paper, section IV and Algorithm 1. Everything is drawn from (seed, epoch) and nothing else, so any number of processes
agree on the plan, each takes its stride, and a run resumes in the middle of an epoch.
"""

from __future__ import annotations

import numpy as np

from psla.data.labels import Labels

# Streams of random numbers that must not run into each other.
_PLAN, _MASKS, _DROP_CONNECT = 0, 1, 2
STREAMS = {"masks": _MASKS, "drop_connect": _DROP_CONNECT}


def clip_weights(labels: Labels, smoothing: float = 0.0) -> np.ndarray:
    """Sampling weight of each clip: the sum over its classes of 1 / (class count + smoothing).

    Args:
        labels: the labels of the clips that are trained on.
        smoothing: added to every class count, >= 0; 0 in the paper, 100 in later systems.

    Shape:
        Returns (clips,) float64. A clip without labels has weight 0: it is never drawn as the first of a pair.

    Raises:
        ValueError: a negative smoothing.

    Source: Algorithm 1, Procedure 1.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> clip_weights(Labels.from_sets(["a", "b"], [[0], [0, 1]], Vocabulary(["dog", "rain"]))).tolist()
        [0.5, 1.5]
    """
    if smoothing < 0:
        raise ValueError(f"smoothing must be 0 or more; got {smoothing}")
    with np.errstate(divide="ignore"):
        inverse = 1.0 / (labels.counts() + smoothing)  # a class that no clip has is never looked up
    rows = np.repeat(np.arange(len(labels)), np.diff(labels.offsets))
    return np.bincount(rows, weights=inverse[labels.indices], minlength=len(labels))


class EpochPlan:
    """The plan of one epoch of N clips.

    Args:
        weights: (N,) clip weights: N clips are drawn with replacement by weight. An int N in place of weights: every
            clip once, reshuffled.
        mixup_rate: probability in [0, 1] that a clip is mixed with another, drawn uniformly.
        mixup_alpha: > 0, of the Beta(alpha, alpha) that the share is drawn from.
        seed: of the run, >= 0.
        epoch: counted from 0.

    Attributes:
        first: (N,) int64 rows of the clips that are read.
        second: (N,) int64 rows of the clips mixed into them; -1 where nothing is mixed.
        share: (N,) float32 share (lambda) of the first clip; 1 where nothing is mixed.

    Raises:
        ValueError: no clips, a negative or non-finite weight, all weights 0, a rate or alpha out of range.

    Example:
        >>> plan = EpochPlan(4, mixup_rate=0.0, mixup_alpha=10.0, seed=0, epoch=0)
        >>> sorted(plan.first.tolist()), plan.second.tolist()
        ([0, 1, 2, 3], [-1, -1, -1, -1])
    """

    def __init__(self, weights: np.ndarray | int, mixup_rate: float, mixup_alpha: float, seed: int, epoch: int) -> None:
        if not 0.0 <= mixup_rate <= 1.0:
            raise ValueError(f"mixup_rate must lie in [0, 1]; got {mixup_rate}")
        if not mixup_alpha > 0.0:
            raise ValueError(f"mixup_alpha must be above 0; got {mixup_alpha}")
        generator = np.random.default_rng([seed, epoch, _PLAN])
        if isinstance(weights, int | np.integer):
            if weights < 1:
                raise ValueError(f"an epoch needs at least one clip; got {weights}")
            self.first = generator.permutation(int(weights))
        else:
            self.first = _multinomial(np.asarray(weights, dtype=np.float64), generator)
        count = len(self.first)
        mixed = generator.random(count) < mixup_rate
        self.second = np.where(mixed, generator.integers(0, count, size=count), -1)
        self.share = np.ones(count, dtype=np.float32)
        self.share[mixed] = generator.beta(mixup_alpha, mixup_alpha, size=int(mixed.sum()))

    def __len__(self) -> int:
        return len(self.first)


def _multinomial(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if weights.ndim != 1 or len(weights) == 0:
        raise ValueError(f"weights must be one number a clip; got the shape {weights.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError("weights must be finite and not negative")
    edges = np.cumsum(weights)
    if edges[-1] <= 0:
        raise ValueError("all weights are 0: no clip carries a label")
    drawn = np.searchsorted(edges, generator.random(len(weights)) * edges[-1], side="right")
    # The product may round up to the last edge; the last clip with a weight takes it.
    return np.minimum(drawn, np.flatnonzero(weights)[-1])


def positional_uniforms(seed: int, epoch: int, stream: str, start: int, stop: int, width: int) -> np.ndarray:
    """Uniform random numbers that belong to positions of the plan, whoever asks for them and in which pieces.

    Args:
        seed, epoch: of the run.
        stream: `masks` or `drop_connect`.
        start, stop: positions, 0 <= start <= stop.
        width: numbers a position, >= 1.

    Shape:
        Returns (stop - start, width) float64 in [0, 1).

    Example:
        >>> whole = positional_uniforms(0, 1, "masks", 0, 6, width=4)
        >>> bool((whole[2:5] == positional_uniforms(0, 1, "masks", 2, 5, width=4)).all())
        True
    """
    # Philox is a counter, four 64-bit numbers a count: a position that starts at a multiple of four is one jump away.
    counts = -(-width // 4)
    key = np.random.SeedSequence([seed, epoch, STREAMS[stream]]).generate_state(2, np.uint64)
    philox = np.random.Philox(key=key)
    philox.advance(start * counts)
    return np.random.Generator(philox).random((stop - start, counts * 4))[:, :width]
