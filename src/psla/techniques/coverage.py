"""Coverage: which share of the clips a training has not heard after so many epochs.

Paper, Figure 5 and section IV-A: balanced sampling with replacement draws frequent classes' clips rarely, so many are
never heard; mixing with a second clip, which is drawn uniformly from all, brings them in. There are two routes to the
curve: in expectation, from the weights alone, and counted in the plans of a real run.

Not covered: plain traversal, which has heard everything after one epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from psla.techniques.sampling import EpochPlan

_ALPHA = 10.0  # of the share, which has no effect on who is heard


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
    weights = _checked(weights, epochs, mixup_rates)
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
    """Share of clips that are in no pair of the first 1, 2, ... epochs of a run with this seed, counted in its plans.

    Args:
        weights, epochs: as of `expected_unseen`.
        mixup_rates: each in [0, 1].
        seed: of the run.
        progress: told 1 after each epoch.

    Shape:
        Returns for each rate (epochs,) float64, never rising.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> simulated_unseen(np.array([1.0, 1.0, 0.0]), epochs=2, mixup_rates=[0.0])[0.0].round(2).tolist()
        [0.33, 0.33]
    """
    weights = _checked(weights, epochs, mixup_rates)
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


def _checked(weights: np.ndarray, epochs: int, rates: Sequence[float]) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if epochs < 1:
        raise ValueError(f"coverage needs 1 epoch or more; got {epochs}")
    if weights.ndim != 1 or not np.isfinite(weights).all() or not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError("coverage needs weights that are finite, not negative and not all 0: label the clips")
    for rate in rates:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"a mixup rate must lie in [0, 1]; got {rate}")
    return weights
