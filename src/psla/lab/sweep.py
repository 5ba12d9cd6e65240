"""Where to start averaging (paper, Figure 7): the score against the first epoch of the average; and with which share.

For each first epoch all checkpoints from it to the last are averaged, once their weights and once their predictions.
The averages of weights cost a pass over the held-out clips for each epoch; for a lab's run they are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psla.data.labels import Labels
from psla.data.source import open_source
from psla.lab.experiment import LabError
from psla.lab.tables.folder import Lab
from psla.metrics.predictions import Predictions
from psla.metrics.resampling import defined_mean
from psla.metrics.scores import average_precisions, nan_to_none
from psla.model.file import load_model
from psla.model.inference import predict
from psla.sealed import read_json, write_json
from psla.techniques.aggregation import average_weights
from psla.training.run import Run


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
        progress: told 1 for each point.

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


def share_sweep(
    paths: Sequence[Path],
    shares: Sequence[float],
    predict: Callable[[Mapping[str, Tensor]], Predictions],
    labels: Labels,
    progress: Callable[[int], None] = lambda points: None,
) -> list[tuple[float, float]]:
    """Score the weighted averages of two model files: (share of the last, mAP) in the order of the shares.

    Args:
        paths: two files. shares: of the last of them, each in [0, 1].
        predict, labels, progress: as of `start_sweep`.

    Raises:
        AggregationError, KeyError: as `start_sweep`.
    """
    points = []
    for share in shares:
        points.append((share, _score(predict(average_weights(paths, [1.0 - share, share])), labels)))
        progress(1)
    return points


def _score(predictions: Predictions, labels: Labels) -> float:
    return float(defined_mean(average_precisions(predictions.probabilities, labels.select(predictions.clip_ids))))


def sweep(lab: Lab, run: Run, device: torch.device | str = "cpu") -> dict[str, list[Any]]:
    """The sweep of a lab's run against the lab's truth; computed once and kept in `sweeps/`.

    Returns:
        `first_epoch` (counted from 1), and the mAP of the averaged `weights`, the averaged `predictions` and the epoch
        `alone`.
    """
    path = lab.folder / "sweeps" / f"{run.folder.name}.json"
    if path.is_file():
        return read_json(path, LabError, needed=["first_epoch", "weights"], mend="delete it and run the lab again")
    files = run.epoch_files(lab.split)
    checkpoints = [run.checkpoints / path.name for path in files]
    model = load_model(run.model_file)
    network = model.network.to(device)
    source = open_source(lab.clips.split(lab.split), network.sample_rate)

    def predicted(weights: Mapping[str, Tensor]) -> Predictions:
        network.load_state_dict(weights)
        return predict(network, source, model.vocabulary, split=lab.split, device=device).predictions

    stored = {path.stem: path for path in files}
    points = start_sweep(checkpoints, predicted, lab.true_labels.part(model.vocabulary), stored)
    found: dict[str, list[Any]] = {"first_epoch": list(range(1, len(points) + 1))}
    for key in ("weights", "predictions", "alone"):
        found[key] = nan_to_none([getattr(point, key) for point in points])
    write_json(path, found)
    return found
