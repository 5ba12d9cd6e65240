"""Trainer: the steps of an epoch, as in the paper's Algorithm 1.

Read and mix, log-mel and mask, forward, binary cross-entropy on probabilities, Adam. What is drawn (plan, masks,
drop-connect) belongs to the position in the plan, so that any number of processes take the same steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from psla.data.labels import Labels
from psla.model.augmentation import draw_masks, mix_targets, mix_waveforms
from psla.model.frontends.kaldi import unit_waveform
from psla.model.network import TaggingNetwork
from psla.techniques.distillation import Targets
from psla.techniques.sampling import EpochPlan, clip_weights, positional_uniforms
from psla.training.batch_norm import freeze, momentum
from psla.training.devices import gather_objects, sum_over_processes
from psla.training.loader import Batch, Loader, gains
from psla.training.recipe import Recipe
from psla.training.state import Position

# Keeps log(p) finite: the smallest step below 1 that float32 resolves well.
PROBABILITY_MARGIN = 1e-7


class TrainingError(RuntimeError):
    """A run that cannot go on; the sentence says why and which clips were in the batch."""


def learning_rate(recipe: Recipe, step: int, epoch: int) -> float:
    """The learning rate at a step (counted from 0 over the run) of an epoch (counted from 0).

    Linear warm-up over the first steps, constant, halved every `halve_every` epochs after the `halve_after`-th
    (section II-B: "cut it in half every 5 epochs after the 10th", so epoch 11 is the first at half the rate); or, with
    the schedule `cosine`, 1 + cos(pi epoch / epochs) halves of it.

    Example:
        >>> recipe = Recipe()
        >>> [learning_rate(recipe, 10_000, epoch) for epoch in (9, 10, 14, 15)]
        [0.0001, 5e-05, 5e-05, 2.5e-05]
    """
    plan = recipe.optimizer
    warm = min(1.0, (step + 1) / plan.warmup_steps) if plan.warmup_steps else 1.0
    if plan.schedule == "cosine":
        return plan.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * epoch / plan.epochs))
    halvings = max(0, (epoch - plan.halve_after) // plan.halve_every + 1)
    return plan.learning_rate * warm * 0.5**halvings


def binary_cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each clip, the mean over its classes: (batch, classes) twice -> (batch,), in float32 or finer.

    Probabilities are clamped to [1e-7, 1 - 1e-7]: the head weights are free, so they may leave [0, 1].
    """
    kind = torch.promote_types(probabilities.dtype, torch.float32)
    p, y = probabilities.to(kind).clamp(PROBABILITY_MARGIN, 1.0 - PROBABILITY_MARGIN), targets.to(kind)
    # Written out, because torch's own raises on a NaN before the step can say which clips it came from.
    return -(y * p.log() + (1.0 - y) * torch.log1p(-p)).mean(dim=1)


def smooth_targets(targets: Tensor, share: float) -> Tensor:
    """Label smoothing: (1 - share) * targets + share / classes; (batch, classes) float, a share of 0 changes nothing.

    Source: section 7 of https://arxiv.org/abs/1512.00567, which spreads a share of the label over all classes alike.

    Example:
        >>> smooth_targets(torch.tensor([[1.0, 0.0]]), 0.5).tolist()
        [[0.75, 0.25]]
    """
    return targets if share == 0.0 else (1.0 - share) * targets + share / targets.shape[1]


PARTS = ("data wait", "front end", "forward", "backward", "optimizer")


class Profile:
    """Seconds spent in each part of a step.

    Args:
        device: on a GPU every part ends with a wait for the device, which costs some speed.

    Example:
        >>> profile = Profile(torch.device("cpu"))
        >>> with profile.part("backward"):
        ...     pass
        >>> sorted(profile.seconds) == sorted(PARTS)
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.clips = 0

    def now(self) -> float:
        """The time, when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        began = self.now()
        yield
        self.seconds[name] += self.now() - began

    @contextmanager
    def forward(self, backbone: torch.nn.Module) -> Iterator[None]:
        """Add the time of the block up to the backbone to `front end`, the rest to `forward`."""
        began = self.now()
        reached = [began]
        hook = backbone.register_forward_pre_hook(lambda module, inputs: reached.__setitem__(0, self.now()))
        try:
            yield
        finally:
            hook.remove()
        self.seconds["front end"] += reached[0] - began
        self.seconds["forward"] += self.now() - reached[0]

    def rows(self) -> list[list[str]]:
        """A row for each part, and their sum: name, milliseconds a clip, share of the time."""
        total = sum(self.seconds.values())
        clips, whole = max(self.clips, 1), total or 1.0
        named = [*self.seconds.items(), ("all", total)]
        return [[name, f"{1000 * s / clips:.3f}", f"{100 * s / whole:.1f} %"] for name, s in named]


@dataclass
class Trainer:
    """What a step needs: the parts of a run, built outside and handed in."""

    recipe: Recipe
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    fabric: Fabric
    labels: Labels
    loader: Loader
    targets: Targets | None = None
    profile: Profile | None = None
    skip_non_finite: int = 0
    position: Position = field(default_factory=Position)
    on_skip: Callable[[int, list[str]], None] = lambda step, ids: None

    def __post_init__(self) -> None:
        self._targets = self.targets or Targets(self.labels)
        sampling = self.recipe.sampling
        self._weights = clip_weights(self.labels, sampling.smoothing) if sampling.balanced else len(self.labels)

    def plan(self, epoch: int) -> EpochPlan:
        """Who is read and who is mixed with whom in an epoch (counted from 0)."""
        return EpochPlan(self._weights, self.recipe.mixup.rate, self.recipe.mixup.alpha, self.recipe.seed, epoch)

    def epoch(self, progress: Callable[[int], None], after_step: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Train the epoch that `position` is in, from its batch on; the row of the log.

        Args:
            progress: told the clips of each batch.
            after_step: called when a step is done and `position` moved on; what it raises ends the epoch.
        """
        recipe, fabric, position = self.recipe, self.fabric, self.position
        plan = self.plan(position.epoch)
        size = recipe.optimizer.batch_size
        self.network.train()
        if recipe.backbone.batch_norm == "frozen":
            freeze(self.network)
        batches = self.loader.batches(plan, size, fabric.global_rank, fabric.world_size, first_batch=position.batch)
        while True:
            with self._part("data wait"):
                batch = next(batches, None)
            if batch is None:
                break
            rate = learning_rate(recipe, position.step, position.epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, clips = self.train_step(batch, position.epoch)
            position.loss_sum += loss
            position.clips += clips
            position.rejected += batch.global_count - clips
            position.step, position.batch = position.step + 1, position.batch + 1
            progress(batch.global_count)
            after_step()
        if position.clips == 0:
            reason = next(iter(self.loader.rejected.values()), "")
            raise TrainingError(
                f"none of the {len(plan)} clips of epoch {position.epoch + 1} could be read; the first: {reason}"
            )
        return {
            "epoch": position.epoch + 1,
            "steps": position.batch,
            "clips": position.clips,
            "rejected": position.rejected,
            "learning_rate": learning_rate(recipe, position.step - 1, position.epoch),  # of the last step that was done
            "loss": position.loss_sum / position.clips,
        }

    def train_step(self, batch: Batch, epoch: int) -> tuple[float, int]:
        """One step on one global batch: the sum of its clips' losses and their number, over all processes.

        Raises:
            TrainingError: the loss is not finite, with the clip ids of the batch, or the device's memory is full.
        """
        try:
            return self._step(batch, epoch)
        except torch.cuda.OutOfMemoryError as error:
            size = self.recipe.optimizer.batch_size
            raise TrainingError(
                f"a batch of {size} clips over {self.fabric.world_size} devices does not fit into the device's memory; "
                f"try --set optimizer.batch_size={max(1, size // 2)}, or more devices"
            ) from error

    def _step(self, batch: Batch, epoch: int) -> tuple[float, int]:
        if len(batch) == 0 and self.fabric.world_size == 1:
            return 0.0, 0  # every clip of it was broken: nothing to learn, and the loader has named them
        with self._part("forward"):
            losses = self.loss(batch, epoch) if len(batch) else self._empty_loss()
        total, clips = sum_over_processes(self.fabric, [float(losses.detach().sum()), float(len(batch))])
        if not np.isfinite(total):
            self._non_finite(batch, total, epoch)
            return 0.0, 0
        if clips == 0:
            return 0.0, 0
        with self._part("backward"):
            self.optimizer.zero_grad(set_to_none=True)
            # DDP averages gradients over processes; what counts is the sum over the global batch by its clip count.
            self.fabric.backward(losses.sum() * (self.fabric.world_size / batch.global_count))
        with self._part("optimizer"):
            self.optimizer.step()
        if self.profile is not None:
            self.profile.clips += int(clips)
        return total, int(clips)

    def _non_finite(self, batch: Batch, total: float, epoch: int) -> None:
        """List the clips of a batch with a non-finite loss; stop when there were more than are forgiven."""
        rows = [row for row in [*batch.rows_first, *batch.rows_second] if row >= 0]
        own = [self.labels.clip_ids[row] for row in rows]
        ids = [id for part in gather_objects(self.fabric, own) for id in part]
        self.position.skipped += 1
        self.on_skip(self.position.step, ids)
        if self.position.skipped > self.skip_non_finite:
            raise TrainingError(f"the loss is {total} in epoch {epoch + 1}; clips of the batch: {', '.join(ids)}")

    def _empty_loss(self) -> Tensor:
        """The loss of no clips: zero, but through the network, since DDP waits for every process's gradients."""
        silence = torch.zeros((1, self.loader.limit_samples), dtype=torch.int16, device=self.fabric.device)
        with momentum(self.network, 0.0):  # the silence must not enter the running statistics
            return self.network(silence).clip_probabilities.sum().reshape(1) * 0.0

    def _part(self, name: str) -> AbstractContextManager[None]:
        if self.profile is None:
            return nullcontext()
        return self.profile.forward(_bare(self.network).backbone) if name == "forward" else self.profile.part(name)

    def loss(self, batch: Batch, epoch: int) -> Tensor:
        """(batch,) losses of a batch: mix, mask, forward."""
        recipe, device = self.recipe, self.fabric.device
        mixed = torch.from_numpy(batch.rows_second >= 0).to(device)
        # From pinned memory the copies run beside what the device still computes.
        pair = batch.first, batch.second, batch.share, batch.first_lengths, batch.second_lengths
        one, other, share, lengths, other_lengths = (each.to(device, non_blocking=True) for each in pair)
        if recipe.waveform.gain_db:
            factors = gains(self._uniforms("gain", batch.positions, epoch, 2), recipe.waveform.gain_db).to(device)
            one, other = unit_waveform(one) * factors[:, :1], unit_waveform(other) * factors[:, 1:]
        waveform = mix_waveforms(one, other, share, mixed, lengths, other_lengths)
        first, second = (
            torch.from_numpy(self._targets.of(np.maximum(rows, 0))).to(device)
            for rows in (batch.rows_first, batch.rows_second)
        )
        tagging = self.network(
            waveform,
            lengths,
            masks=self._masks(batch.positions, epoch),
            mask_fill=0.0 if recipe.masking.fill == "zero" else recipe.front_end.mean,
            keep=self._keep(batch.positions, epoch),
            frames=recipe.training_frames,
        )
        targets = smooth_targets(mix_targets(first, second, share, mixed), recipe.optimizer.label_smoothing)
        return binary_cross_entropy(tagging.clip_probabilities, targets)

    def _uniforms(self, stream: str, positions: np.ndarray, epoch: int, width: int) -> Tensor:
        start = int(positions[0])
        drawn = positional_uniforms(self.recipe.seed, epoch, stream, start, int(positions[-1]) + 1, width)
        return torch.from_numpy(drawn[positions - start])

    def _masks(self, positions: np.ndarray, epoch: int) -> Any:
        masking, bins = self.recipe.masking, self.recipe.front_end.mel_bins
        if masking.frequency == 0 and masking.time == 0:
            return None
        uniforms = self._uniforms("masks", positions, epoch, 4)  # drawn on the CPU: checking them must not stall a GPU
        return draw_masks(uniforms, self.recipe.training_frames, bins, masking.frequency, masking.time)

    def _keep(self, positions: np.ndarray, epoch: int) -> Tensor | None:
        backbone = _bare(self.network).backbone
        if self.recipe.backbone.drop_connect == 0.0 or backbone.drop_connect_units == 0:
            return None
        keep = backbone.keep_probabilities(self.recipe.backbone.drop_connect)
        uniforms = self._uniforms("drop_connect", positions, epoch, len(keep))
        return ((uniforms < keep) / keep).float().to(self.fabric.device)


def _bare(network: torch.nn.Module) -> TaggingNetwork:
    inner = getattr(network, "module", network)
    assert isinstance(inner, TaggingNetwork | torch.nn.parallel.DistributedDataParallel)
    return inner if isinstance(inner, TaggingNetwork) else _bare(inner)
