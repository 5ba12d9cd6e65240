"""Training: the loop of the paper's Algorithm 1, on Lightning Fabric.

An epoch: draw the plan, read and mix, mask, forward, binary cross-entropy on probabilities, Adam, a checkpoint,
predictions of the clips held out. At the end: the average of the weights and of the predictions (section VI).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.model.augmentation import draw_masks, mix_targets, mix_waveforms
from psla.model.front_end import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.recipe.loading import Batch, Loader
from psla.recipe.pretraining import PretrainingReport, init_random, load_imagenet
from psla.recipe.recipe import Recipe, RecipeError
from psla.recipe.run import Run
from psla.recipe.sampling import EpochPlan, clip_weights, positional_uniforms

# Keeps log(p) finite: the smallest step below 1 that float32 resolves well.
PROBABILITY_MARGIN = 1e-7


class TrainingError(RuntimeError):
    """A run that cannot go on; the sentence says why and which clips were in the batch."""


def learning_rate(recipe: Recipe, step: int, epoch: int) -> float:
    """The learning rate at a step (counted from 0 over the run) of an epoch (counted from 0).

    Linear warm-up over the first steps, constant, halved every `halve_every` epochs after the `halve_after`-th
    (section II-B: "cut it in half every 5 epochs after the 10th", so epoch 11 is the first at half the rate).

    Example:
        >>> recipe = Recipe()
        >>> [learning_rate(recipe, 10_000, epoch) for epoch in (9, 10, 14, 15)]
        [0.0001, 5e-05, 5e-05, 2.5e-05]
    """
    plan = recipe.optimizer
    halvings = max(0, (epoch - plan.halve_after) // plan.halve_every + 1)
    warm = min(1.0, (step + 1) / plan.warmup_steps) if plan.warmup_steps else 1.0
    return plan.learning_rate * warm * 0.5**halvings


def binary_cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each clip, the mean over its classes: (batch, classes) twice -> (batch,), in float32.

    Probabilities are clamped to [1e-7, 1 - 1e-7]: the head weights are free, so they may leave [0, 1].
    """
    p, y = probabilities.float().clamp(PROBABILITY_MARGIN, 1.0 - PROBABILITY_MARGIN), targets.float()
    # Written out, because torch's own raises on a NaN before the step can say which clips it came from.
    return -(y * p.log() + (1.0 - y) * torch.log1p(-p)).mean(dim=1)


def build_network(recipe: Recipe, vocabulary: Vocabulary) -> tuple[TaggingNetwork, PretrainingReport | None]:
    """The network of a recipe, initialised from its seed, and the report on its pretraining (None: none)."""
    config = NetworkConfig(
        backbone=recipe.backbone.name,
        classes=len(vocabulary),
        heads=recipe.pooling.heads,
        batch_norm_momentum=recipe.backbone.batch_norm_momentum,
        front_end=FrontEndConfig(**recipe.front_end.model_dump()),
    )
    # Modules draw their first weights from torch's global generator: fork it, seed it, leave it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = TaggingNetwork(config)
        if recipe.backbone.pretraining == "none":
            init_random(network.backbone)
            return network, None
        weights = Path(recipe.backbone.weights) if recipe.backbone.weights else None
        report = load_imagenet(network.backbone, recipe.backbone.name, recipe.backbone.stem, weights)
    return network, report


@dataclass
class Trainer:
    """What a step needs: the parts of a run, built outside and handed in."""

    recipe: Recipe
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    fabric: Fabric
    labels: Labels
    loader: Loader
    step: int = 0

    def epoch(self, epoch: int, progress: Callable[[int], None]) -> dict[str, Any]:
        """Train one epoch (counted from 0); the row of the log."""
        recipe, fabric = self.recipe, self.fabric
        weights = clip_weights(self.labels, recipe.sampling.smoothing) if recipe.sampling.balanced else len(self.labels)
        plan = EpochPlan(weights, recipe.mixup.rate, recipe.mixup.alpha, recipe.seed, epoch)
        self.network.train()
        loss_sum, clips, rejected, steps = 0.0, 0, 0, 0
        for batch in self.loader.batches(plan, recipe.optimizer.batch_size, fabric.global_rank, fabric.world_size):
            rate = learning_rate(recipe, self.step, epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss_sum += self.train_step(batch, epoch)
            clips += len(batch)
            rejected += batch.global_count - len(batch) if fabric.world_size == 1 else 0
            self.step, steps = self.step + 1, steps + 1
            progress(batch.global_count)
        if clips == 0:
            reason = next(iter(self.loader.rejected.values()), "")
            raise TrainingError(
                f"none of the {len(plan)} clips of epoch {epoch + 1} could be read; the first: {reason}"
            )
        return {
            "epoch": epoch + 1,
            "steps": steps,
            "clips": clips,
            "rejected": rejected,
            "learning_rate": rate,
            "loss": loss_sum / max(clips, 1),
        }

    def train_step(self, batch: Batch, epoch: int) -> float:
        """One step on one batch; the sum of its clips' losses.

        Raises:
            TrainingError: the loss is not finite; the clip ids of the batch are in the message.
        """
        if len(batch) == 0:
            return 0.0  # every clip of it was broken: nothing to learn, and the loader has named them
        loss = self.loss(batch, epoch)
        total = float(loss.detach().sum())
        if not np.isfinite(total):
            ids = [self.labels.clip_ids[row] for row in [*batch.rows_first, *batch.rows_second] if row >= 0]
            raise TrainingError(f"the loss is {total} in epoch {epoch + 1}; clips of the batch: {', '.join(ids)}")
        self.optimizer.zero_grad(set_to_none=True)
        # DDP averages gradients over processes; what counts is the sum over the global batch by its clip count.
        self.fabric.backward(loss.sum() * (self.fabric.world_size / batch.global_count))
        self.optimizer.step()
        return total

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """(batch,) losses of a batch: mix, mask, forward."""
        recipe, device = self.recipe, self.fabric.device
        mixed = torch.from_numpy(batch.rows_second >= 0).to(device)
        share, lengths = batch.share.to(device), batch.first_lengths.to(device)
        waveform = mix_waveforms(
            batch.first.to(device), batch.second.to(device), share, mixed, lengths, batch.second_lengths.to(device)
        )
        first, second = (
            torch.from_numpy(self.labels.matrix(np.maximum(rows, 0))).float().to(device)
            for rows in (batch.rows_first, batch.rows_second)
        )
        tagging = self.network(
            waveform,
            lengths,
            masks=self._masks(batch.positions, epoch),
            mask_fill=0.0 if recipe.masking.fill == "zero" else recipe.front_end.mean,
            keep=self._keep(batch.positions, epoch),
        )
        return binary_cross_entropy(tagging.clip_probabilities, mix_targets(first, second, share, mixed))

    def _uniforms(self, stream: str, positions: np.ndarray, epoch: int, width: int) -> Tensor:
        start = int(positions[0])
        drawn = positional_uniforms(self.recipe.seed, epoch, stream, start, int(positions[-1]) + 1, width)
        return torch.from_numpy(drawn[positions - start])

    def _masks(self, positions: np.ndarray, epoch: int) -> Any:
        masking, front_end = self.recipe.masking, self.recipe.front_end
        if masking.frequency == 0 and masking.time == 0:
            return None
        uniforms = self._uniforms("masks", positions, epoch, 4).to(self.fabric.device)
        return draw_masks(uniforms, front_end.frames, front_end.mel_bins, masking.frequency, masking.time)

    def _keep(self, positions: np.ndarray, epoch: int) -> Tensor | None:
        backbone = _bare(self.network).backbone
        if self.recipe.backbone.drop_connect == 0.0 or backbone.drop_connect_units == 0:
            return None
        keep = backbone.keep_probabilities(self.recipe.backbone.drop_connect)  # type: ignore[operator]
        uniforms = self._uniforms("drop_connect", positions, epoch, len(keep))
        return ((uniforms < keep) / keep).float().to(self.fabric.device)


def _bare(network: torch.nn.Module) -> TaggingNetwork:
    inner = getattr(network, "module", network)
    assert isinstance(inner, TaggingNetwork)
    return inner


def train(
    recipe: Recipe,
    clips: Clips,
    out: str | Path,
    *,
    accelerator: str = "auto",
    cache_bytes: int = 2**30,
    progress: Callable[[str, int], None] = lambda stage, clips: None,
) -> Run:
    """Train a tagger and evaluate it on the splits that the clips hold out.

    Args:
        recipe: what to do.
        clips: the split `train` is trained on; `validation` and `evaluation`, where there are any, are predicted after
            every epoch and never chosen by.
        out: a folder that must not hold a run yet.
        accelerator: `auto`, `cpu`, `cuda`, ..., as Lightning Fabric takes it; one device.
        cache_bytes: decoded clips that are kept in memory.
        progress: told ("train" or the split, clips done).

    Returns:
        The finished run.

    Raises:
        RecipeError: the recipe does not fit the clips (before any work).
        TrainingError: the loss is not finite.
        FileExistsError: `out` already holds a run.

    Example:
        `run = psla.train(psla.Recipe.load("esc50"), clips, out="runs/esc50")`
    """
    training = clips.split("train")
    if len(training) == 0:
        raise RecipeError("there is nothing to train on: no clip has the split 'train'")
    recipe.check(len(training), clips.vocabulary)
    vocabulary = clips.vocabulary if recipe.classes is None else clips.vocabulary.part(recipe.classes)
    fabric = Fabric(
        accelerator=accelerator,
        devices=1,
        precision="bf16-mixed" if recipe.optimizer.precision == "bf16" else "32-true",
    )
    fabric.launch()
    run = Run.create(out, recipe, clips)
    network, report = build_network(recipe, vocabulary)
    run.note_pretraining(report)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = recipe.optimizer
    optimizer = torch.optim.Adam(
        network.parameters(), lr=plan.learning_rate, betas=(plan.beta1, plan.beta2), weight_decay=plan.weight_decay
    )
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    loader = Loader(open_source(training, cache_bytes), network.config.front_end.window_samples)
    labels = restricted_labels(training, vocabulary)
    trainer = Trainer(recipe, wrapped, wrapped_optimizer, fabric, labels, loader)
    held_out = {
        split: (open_source(part, cache_bytes), restricted_labels(part, vocabulary))
        for split in ("validation", "evaluation")
        if len(part := clips.split(split))
    }
    for epoch in range(plan.epochs):
        began = time.monotonic()
        try:
            row = trainer.epoch(epoch, partial(progress, "train"))
        finally:
            run.reject(loader.rejected)
        trained = time.monotonic() - began
        run.save_checkpoint(epoch, network.state_dict())
        for split, (source, truth) in held_out.items():
            name = f"epoch_{epoch + 1:03d}"
            scores = run.predict(network, source, truth, split, name, partial(progress, split))
            row[f"{split}_map"] = scores.mean_average_precision
        run.log(row, trained, time.monotonic() - began)
    run.finish(network, vocabulary, held_out)
    return run


def restricted_labels(clips: Clips, vocabulary: Vocabulary) -> Labels:
    """The labels of these clips in this vocabulary, which may be a part of theirs."""
    labels = clips.labels()
    if labels.vocabulary == vocabulary:
        return labels
    columns = [labels.vocabulary.index_of(id) for id in vocabulary.ids]
    return Labels.from_matrix(labels.clip_ids, labels.matrix()[:, columns], vocabulary)
