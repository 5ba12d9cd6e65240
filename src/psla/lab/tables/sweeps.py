"""Sweeps: Figure 7 of a run, the score of the averages that start at each epoch; kept for each run.

The averages of weights cost a pass over the held-out clips for each epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from psla.data.source import open_source
from psla.files import write_json_atomic
from psla.lab.sweep import start_sweep
from psla.lab.tables.folder import Lab
from psla.metrics.predictions import Predictions
from psla.model.file import load_model
from psla.model.inference import predict
from psla.training.recipe import Recipe
from psla.training.run import Run


def sweep(lab: Lab, run: Run, device: torch.device | str = "cpu") -> dict[str, list[Any]]:
    """`first_epoch` (counted from 1), and the mAP of the averaged `weights`, averaged `predictions` and of the epoch
    `alone`, against the lab's truth; computed once and kept in `sweeps/`."""
    path = lab.folder / "sweeps" / f"{run.folder.name}.json"
    if not path.is_file():
        write_json_atomic(path, _sweep(lab, run, device))
    found: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _sweep(lab: Lab, run: Run, device: torch.device | str) -> dict[str, list[Any]]:
    recipe: Recipe = run.recipe
    checkpoints = [run.checkpoint(epoch) for epoch in range(recipe.optimizer.epochs)]
    folder = run.predictions / lab.split
    stored = {path.stem: folder / path.name for path in checkpoints}
    model = load_model(run.model_file)
    network = model.network.to(device)
    source = open_source(lab.clips.split(lab.split), network.config.front_end.sample_rate)

    def predicted(weights: Mapping[str, Tensor]) -> Predictions:
        network.load_state_dict(weights)
        return predict(network, source, model.vocabulary, split=lab.split, device=device).predictions

    points = start_sweep(checkpoints, predicted, lab.true_labels.part(model.vocabulary), stored)
    found: dict[str, list[Any]] = {"first_epoch": list(range(1, len(points) + 1))}
    for key in ("weights", "predictions", "alone"):
        values = [getattr(point, key) for point in points]
        found[key] = [None if math.isnan(value) else value for value in values]
    return found
