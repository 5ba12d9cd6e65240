"""Estimate: the hours that trainings will take, from a few steps of each distinct network and input size.

The steps are real ones on synthetic clips, measured here and now. Reading the clips, weights that must be downloaded
and what else the machine does are not in it, so it is an estimate and no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch

from psla.data.labels import Labels
from psla.data.source import ArraySource
from psla.data.vocabulary import Vocabulary
from psla.lab.tables.plan import Job
from psla.training.devices import Runtime, open_fabric, predict_together
from psla.training.loader import training_loader
from psla.training.recipe import Recipe
from psla.training.trainer import Trainer
from psla.training.training import build_network

STEPS = 3  # the first of them warms up and does not count
BATCH = 4  # at most; the time is taken for a clip
HELD_OUT = 2


def seconds_of(
    jobs: Iterable[Job],
    classes: int,
    held_out: int,
    runtime: Runtime = Runtime(),  # noqa: B008  (frozen)
    progress: Callable[[str], None] = lambda network: None,
) -> dict[str, float]:
    """Estimated seconds of trainings, by key: epochs of steps, and a pass over the held-out clips after each.

    Args:
        jobs: the trainings. classes: of the clips. held_out: how many clips are predicted after every epoch.
        progress: told what is measured.
    """
    measured: dict[str, tuple[float, float]] = {}
    found: dict[str, float] = {}
    for job in jobs:
        size = _size(job.recipe)
        if size not in measured:
            progress(size)
            measured[size] = measure(job.recipe, classes, runtime)
        training, predicting = measured[size]
        epochs = job.recipe.optimizer.epochs
        found[job.key] = epochs * job.clips * training + (epochs + 1) * held_out * predicting
    return found


def _size(recipe: Recipe) -> str:
    front_end, precision = recipe.front_end, recipe.optimizer.precision
    frames = f"{front_end.frames} x {front_end.mel_bins}"
    if recipe.training_frames != front_end.frames:
        frames = f"{frames} ({recipe.training_frames} in training)"
    return f"{recipe.backbone.name}, {recipe.pooling.heads} heads, {frames}, {precision}"


def measure(recipe: Recipe, classes: int, runtime: Runtime) -> tuple[float, float]:
    """Seconds for a clip of training and of prediction, on synthetic clips that fill the window."""
    plain: Mapping = {
        **recipe.model_dump(),
        "init": None,
        "classes": None,
        "backbone": {**recipe.backbone.model_dump(), "pretraining": "none", "weights": None, "batch_norm": "device"},
    }
    recipe = Recipe.from_dict(plain)
    vocabulary = Vocabulary([f"class {index}" for index in range(classes)])
    network, _ = build_network(recipe, vocabulary)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fabric = open_fabric(runtime, recipe.optimizer.precision)
    wrapped, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters(), lr=1e-4))
    size = min(BATCH, recipe.optimizer.batch_size)
    window, rate = network.config.front_end.window_samples, network.config.front_end.sample_rate
    rng = np.random.default_rng(0)
    ids = [str(index) for index in range(size * STEPS)]
    waves = [rng.integers(-3000, 3000, window, dtype=np.int16) for _ in ids]
    labels = Labels.from_sets(ids, [[index % classes] for index in range(len(ids))], vocabulary)
    batches = Recipe.from_dict({**plain, "optimizer": {**recipe.optimizer.model_dump(), "batch_size": size}})
    source = ArraySource(ids, waves, rate)
    loader = training_loader(batches, source, runtime.workers)
    trainer = Trainer(batches, wrapped, optimizer, fabric, labels, loader)
    ends = [time.monotonic()]

    def ended() -> None:
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.monotonic())

    trainer.epoch(lambda count: None, ended)
    training = float(np.median(np.diff(ends)[1:])) / size
    few = ArraySource(ids[:HELD_OUT], waves[:HELD_OUT], rate)
    predict_together(fabric, network, few, vocabulary, "evaluation")
    began = time.monotonic()
    predict_together(fabric, network, few, vocabulary, "evaluation")
    return training, (time.monotonic() - began) / len(few)
