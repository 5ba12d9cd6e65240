"""Tune: train the trunk, too, from a fitted head on, with the recipe; and say what that is worth: `psla fit --tune`.

    a fold of recordings is held out ──► head on the others ──► trained on the others ──► both are asked about the fold
    all clips                        ──► head on all        ──► trained on all        ──► the model

Runs are in a folder beside the model; one that was interrupted goes on, one that is there is not done again.

Not here: the head (`psla.training.logistic`), training as such (`psla.training.session`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from psla.data.clips import Clips
from psla.data.source import open_source
from psla.files import sha256_of
from psla.model.file import Model, ModelCard, load_model, save_model
from psla.model.inference import predict
from psla.model.network import TaggingNetwork
from psla.training.cross_fit import Task, best_f1, measured
from psla.training.devices import Runtime
from psla.training.logistic import Linear
from psla.training.own_clips import FitError
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.session import resume, train

EPOCHS = 8
BATCH = 16
LEARNING_RATE = 1e-4
HELD_OUT = 0  # the fold


@dataclass(frozen=True)
class Tuned:
    """What tuning has made.

    Attributes:
        path, sha256: of the model's file.

    Shape:
        rows: of the clips that were held out, as places in the table; frozen, tuned: (rows, classes) float32, what the
        model says of them before and after.
    """

    model: Model[TaggingNetwork]
    path: Path
    sha256: str
    rows: np.ndarray
    frozen: np.ndarray
    tuned: np.ndarray


def tune(
    started: Callable[[np.ndarray], TaggingNetwork],
    clips: Clips,
    folds: np.ndarray,
    folder: Path,
    told: Callable[[str, int, int], None] = lambda what, more, total: None,
) -> Tuned:
    """Train from a fitted head.

    Args:
        started: the network with a head of these rows of the clips.
        clips: what the head was fitted to.
        folds: (clips,) of whole recordings.
        folder: of the runs.
        told: which stage, how many more clips, of how many in all its epochs.
    """
    held = folds == HELD_OUT
    out = np.flatnonzero(~held)
    first = _run(started(out), clips.filter(pl.Series(~held)), folder / "held-out", told)
    asked, said = clips.filter(pl.Series(held)), []
    for network in (started(out), load_model(first.model_file).network):
        found = predict(network, open_source(asked, network.sample_rate), clips.vocabulary).predictions
        said.append(found.probabilities)
    whole = _run(started(np.arange(len(clips))), clips, folder / "all", told)
    places = {id: row for row, id in enumerate(clips.clip_ids)}
    rows = np.array([places[id] for id in found.clip_ids])
    return Tuned(load_model(whole.model_file), whole.model_file, sha256_of(whole.model_file), rows, *said)


def head_of(network: TaggingNetwork) -> Linear:
    """The head of a network whose head is linear or softmax."""
    output = network.pooling.output
    assert isinstance(output, torch.nn.Linear)
    return Linear(*(each.detach().double().numpy() for each in (output.weight, output.bias)))


def recipe_from(network: TaggingNetwork, clips: int, start: Path) -> Recipe:
    """The recipe of a tuning: the paper's sampling, mixing and masks (as shares of its input), its Adam, few epochs."""
    config, frames, bins = network.config, network.config.front_end.frames, network.config.front_end.mel_bins
    steps = EPOCHS * -(-clips // BATCH)
    return Recipe.from_dict(
        {
            "front_end": config.front_end.to_dict(),
            "backbone": {
                "name": config.backbone,
                "options": dict(config.options),
                "pretraining": "none",
                "drop_connect": 0.0,
                "batch_norm": "frozen",
                "batch_norm_momentum": config.batch_norm_momentum,
            },
            "pooling": {"kind": config.head, "heads": 0},
            "masking": {"frequency": bins * 3 // 16, "time": frames // 8},
            "optimizer": {
                "learning_rate": LEARNING_RATE,
                "batch_size": BATCH,
                "epochs": EPOCHS,
                "warmup_steps": min(50, steps // 4),
                "halve_after": EPOCHS // 2,
                "halve_every": 2,
                "precision": "float32",
            },
            "averaging": {"first_epoch": EPOCHS // 2 + 1},
            "init": str(start),
        }
    )


def _run(network: TaggingNetwork, clips: Clips, folder: Path, told: Callable[[str, int, int], None]) -> Run:
    own = Clips(clips.frame.with_columns(split=pl.lit("train")), clips.vocabulary, clips.name)
    start, fresh, run = folder.with_suffix(".start.safetensors"), folder.with_suffix(".new.safetensors"), Run(folder)
    recipe, total = recipe_from(network, len(clips), start), EPOCHS * len(clips)
    start.parent.mkdir(parents=True, exist_ok=True)
    save_model(fresh, network, clips.vocabulary, ModelCard())
    if run.exists and ((run.recipe, run.clips) != (recipe, own) or sha256_of(fresh) != sha256_of(start)):
        fresh.unlink()
        raise FitError(f"{folder} holds a tuning of something else: delete {folder.parent}, or give another --out")
    fresh.replace(start)

    def progress(stage: str, more: int) -> None:
        told(f"tune {folder.name}", more if stage == "train" else 0, total)

    runtime = Runtime(accelerator="cpu")
    if run.exists:
        return run if run.is_finished else resume(folder, runtime=runtime, progress=progress)
    return train(recipe, own, folder, runtime=runtime, progress=progress)


def compared(found: Tuned, clips: Clips, task: Task, levels: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The scores of both on the clips that were held out; and thresholds of the highest F1 there, of the tuned one.

    Args:
        levels: (classes,) thresholds of classes that none of those clips has.
    """
    ids = [clips.clip_ids[row] for row in found.rows]
    labels, groups = clips.labels().select(ids), task.groups[found.rows]
    scores = {
        name: measured(said, labels, groups, task.single)
        for name, said in (("frozen", found.frozen), ("tuned", found.tuned))
    }
    truth = task.labels[found.rows]
    own = best_f1(found.tuned, truth)
    return {"epochs": EPOCHS, **scores}, np.where(truth.any(axis=0), own, levels)
