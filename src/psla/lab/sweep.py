"""Where to start averaging (paper, Figure 7): the score against the first epoch of the average.

For each first epoch all checkpoints from it to the last are averaged, once their weights and once their predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from psla.data.labels import Labels
from psla.metrics.predictions import Predictions
from psla.metrics.scores import average_precisions
from psla.techniques.aggregation import average_weights


@dataclass(frozen=True)
class StartScore:
    """One point of the sweep: `first` names the earliest checkpoint of the average of `checkpoints` of them.

    mAP of the model with averaged `weights`, of the averaged `predictions`, and of the checkpoint `alone`.
    """

    first: str
    checkpoints: int
    weights: float
    predictions: float
    alone: float


def start_sweep(
    checkpoints: Sequence[Path],
    predict: Callable[[Mapping[str, Tensor]], Predictions],
    labels: Labels,
    stored: Mapping[str, Path] | None = None,
    progress: Callable[[int], None] = lambda points: None,
) -> list[StartScore]:
    """Score the averages from each checkpoint on, in the order of the checkpoints.

    Args:
        checkpoints: in the order of their epochs.
        predict: the predictions of a network with these weights, the same clips each time.
        labels: of these clips.
        stored: by the stem of a checkpoint's name the file with its predictions, where they were made already.
        progress: called with 1 for each point.

    Raises:
        AggregationError, PredictionsError: files that do not belong together.
        KeyError: clips without labels.
    """
    points: list[StartScore] = []
    total: np.ndarray | None = None
    ids: list[str] = []
    for place in reversed(range(len(checkpoints))):
        path = checkpoints[place]
        kept = (stored or {}).get(path.stem)
        alone = predict(average_weights([path])) if kept is None else Predictions.read(kept)
        ids = ids or alone.clip_ids
        own = alone.select(ids).probabilities.astype(np.float64)
        total = own if total is None else total + own
        count = len(checkpoints) - place
        mean = Predictions((total / count).astype(np.float32), ids, alone.vocabulary)
        averaged = alone if count == 1 else predict(average_weights(checkpoints[place:]))
        scores = [_score(each, labels) for each in (averaged, mean, alone)]
        points.append(StartScore(path.stem, count, *scores))
        progress(1)
    return points[::-1]


def _score(predictions: Predictions, labels: Labels) -> float:
    values = average_precisions(predictions.probabilities, labels.select(predictions.clip_ids))
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
