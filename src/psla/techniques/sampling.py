"""S: balanced sampling and the plan of an epoch: who is read, who is mixed with whom, in which share.

Paper, section IV and Algorithm 1. Everything is drawn from (seed, epoch) and nothing else, so any number of processes
agree on the plan, each takes its stride, and a run resumes in the middle of an epoch.

And coverage, the share of the clips that a training has not heard after so many epochs (Figure 5 and section IV-A):
sampling with replacement draws frequent classes' clips rarely, so many are never heard; mixing with a second clip,
which is drawn uniformly from all, brings them in. Two routes lead to the curve: in expectation, from the weights alone,
and counted in the plans of a real run. Plain traversal has heard everything after one epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from psla.data.labels import Labels

# Streams of random numbers that must not run into each other.
_PLAN, _MASKS, _DROP_CONNECT, _CUT, _GAIN, _CONDITIONS = range(6)
_ALPHA = 10.0  # of the share in plans of which only the rows are asked
STREAMS = {"masks": _MASKS, "drop_connect": _DROP_CONNECT, "cut": _CUT, "gain": _GAIN, "conditions": _CONDITIONS}


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
        first: (N,) int32 rows of the clips that are read (int64 where N is 2**31 or more).
        second: (N,) rows of the clips mixed into them, of the same type; -1 where nothing is mixed.
        share: (N,) float32 share (lambda) of the first clip; 1 where nothing is mixed.
        seed, epoch: what it was drawn from.

    Raises:
        ValueError: no clips, a negative or non-finite weight, all weights 0, a rate or alpha out of range.

    Example:
        >>> plan = EpochPlan(4, mixup_rate=0.0, mixup_alpha=10.0, seed=0, epoch=0)
        >>> sorted(plan.first.tolist()), plan.second.tolist()
        ([0, 1, 2, 3], [-1, -1, -1, -1])
    """

    def __init__(self, weights: np.ndarray | int, mixup_rate: float, mixup_alpha: float, seed: int, epoch: int) -> None:
        _check_rate("mixup_rate", mixup_rate)
        if not mixup_alpha > 0.0:
            raise ValueError(f"mixup_alpha must be above 0; got {mixup_alpha}")
        self.seed, self.epoch = seed, epoch
        generator = np.random.default_rng([seed, epoch, _PLAN])
        if isinstance(weights, int | np.integer):
            if weights < 1:
                raise ValueError(f"an epoch needs at least one clip; got {weights}")
            self.first = generator.permutation(int(weights))
        else:
            self.first = _multinomial(_checked(weights), generator)
        count = len(self.first)
        mixed = generator.random(count) < mixup_rate
        # Drawn as int64 and kept as int32: drawn as int32 they would be other numbers.
        self.first = self.first.astype(_row_type(count))
        self.second = generator.integers(0, count, size=count).astype(_row_type(count))
        self.second[~mixed] = -1
        self.share = np.ones(count, dtype=np.float32)
        self.share[mixed] = generator.beta(mixup_alpha, mixup_alpha, size=int(mixed.sum()))

    def part(self, start: int, stop: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Positions of the plan that one process takes of the global batch `start` .. `stop`: its stride.

        Args:
            start, stop: positions, 0 <= start <= stop; what lies past the end of the plan is left out.
            rank, world_size: which process of how many, 0 <= rank < world_size.

        Shape:
            Returns (positions,) int64, ascending: start + rank, start + rank + world_size, and so on. The parts of all
            processes are disjoint and together every position, whatever the number of processes.

        Raises:
            ValueError: a span or a rank out of range.

        Example:
            >>> plan = EpochPlan(7, mixup_rate=0.0, mixup_alpha=10.0, seed=0, epoch=0)
            >>> [plan.part(2, 7, rank, world_size=2).tolist() for rank in (0, 1)]
            [[2, 4, 6], [3, 5]]
        """
        if not 0 <= start <= stop:
            raise ValueError(f"a part of a plan must have 0 <= start <= stop; got {start} to {stop}")
        if not 0 <= rank < world_size:
            raise ValueError(f"a rank must lie in 0 .. {world_size - 1} for {world_size} processes; got {rank}")
        return np.arange(start + rank, min(stop, len(self)), world_size, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.first)


def _row_type(count: int) -> type[np.signedinteger]:
    return np.int32 if count < 2**31 else np.int64


def _check_rate(name: str, rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1]; got {rate}")


def _checked(weights: np.ndarray) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or len(weights) == 0:
        raise ValueError(f"weights must be one number a clip; got the shape {weights.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError("weights must be finite and not negative")
    if weights.max() == 0:
        raise ValueError("weights must be not all 0, and all weights are 0: no clip carries a label")
    return weights


def _multinomial(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    edges = np.cumsum(weights)
    places = generator.random(len(weights))
    places *= edges[-1]
    # Looked up in ascending order, which walks through the edges once; at random each look-up misses the cache.
    order = np.argsort(places)
    drawn = np.empty(len(weights), dtype=np.int64)
    drawn[order] = np.searchsorted(edges, places[order], side="right")
    # The product may round up to the last edge; the last clip with a weight takes it.
    return np.minimum(drawn, np.flatnonzero(weights)[-1], out=drawn)


def positional_uniforms(seed: int, epoch: int, stream: str, start: int, stop: int, width: int) -> np.ndarray:
    """Uniform random numbers that belong to positions of the plan, whoever asks for them and in which pieces.

    Args:
        seed, epoch: of the run.
        stream: `masks`, `drop_connect`, `cut`, `gain` or `conditions`.
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


def expected_unseen(weights: np.ndarray, epochs: int, mixup_rates: Sequence[float]) -> dict[float, np.ndarray]:
    """Expected share of clips that are in no pair of the first 1, 2, ... epochs.

    Clip i is drawn first with p_i = w_i / sum(w), and second with rate / N, at each of the N places of an epoch; all
    draws are independent, so it is unheard after k epochs with the probability

        ((1 - p_i) (1 - rate / N))^(N k)

    of which this is the mean over the clips.

    Args:
        weights: (clips,) clip weights, finite and not negative, not all 0.
        epochs: >= 1.
        mixup_rates: each the probability in [0, 1] that a clip is mixed with a second one.

    Shape:
        Returns for each rate (epochs,) float64, never rising.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> expected_unseen(np.array([1.0, 1.0, 0.0]), epochs=2, mixup_rates=[0.0])[0.0].round(4).tolist()
        [0.4167, 0.3438]
    """
    weights = _checked(weights)
    _check_coverage(epochs, mixup_rates)
    count, ks = len(weights), np.arange(1, epochs + 1)
    with np.errstate(divide="ignore"):  # a clip that is always drawn: log 0, of which exp gives the 0 again
        log_missed = count * np.log1p(-weights / weights.sum())
        log_not_mixed = {rate: count * np.log1p(-rate / count) for rate in mixup_rates}
    unread = np.array([np.exp(k * log_missed).mean() for k in ks])
    return {rate: unread * np.exp(ks * log_not_mixed[rate]) for rate in mixup_rates}


def simulated_unseen(
    weights: np.ndarray,
    epochs: int,
    mixup_rates: Sequence[float],
    seed: int = 0,
    progress: Callable[[int], None] = lambda epochs: None,
) -> dict[float, np.ndarray]:
    """The same, counted in the plans of a run with this seed; arguments and result are those of `expected_unseen`.

    `progress` is told 1 after each epoch.

    Example:
        >>> simulated_unseen(np.array([1.0, 1.0, 0.0]), epochs=2, mixup_rates=[0.0])[0.0].round(2).tolist()
        [0.33, 0.33]
    """
    weights = _checked(weights)
    _check_coverage(epochs, mixup_rates)
    unseen = {rate: np.ones(len(weights), dtype=bool) for rate in mixup_rates}
    shares: dict[float, list[float]] = {rate: [] for rate in mixup_rates}
    for epoch in range(epochs):
        # The rate has no effect on who is read, so the plan of any rate says it for the rate 0, too.
        for rate in [rate for rate in unseen if rate > 0] or [0.0]:
            plan = EpochPlan(weights, rate, _ALPHA, seed, epoch)
            for missing in (unseen[rate], unseen.get(0.0, unseen[rate])):
                missing[plan.first] = False
            unseen[rate][plan.second[plan.second >= 0]] = False
        for rate, missing in unseen.items():
            shares[rate].append(float(missing.mean()))
        progress(1)
    return {rate: np.array(values) for rate, values in shares.items()}


def _check_coverage(epochs: int, mixup_rates: Sequence[float]) -> None:
    if epochs < 1:
        raise ValueError(f"coverage needs 1 epoch or more; got {epochs}")
    for rate in mixup_rates:
        _check_rate("a mixup rate", rate)
