"""A training in progress: epochs with a checkpoint and predictions after each, states to go on from, the aggregation.

At the end: the average of the weights and of the predictions (paper, section VI). A run that was interrupted goes on
from its newest state, to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from lightning_fabric import Fabric

from psla.data.labels import Labels
from psla.data.source import ClipSource
from psla.data.vocabulary import Vocabulary
from psla.metrics.scores import Scores
from psla.model.file import load_tensors
from psla.model.network import TaggingNetwork
from psla.techniques.fine_tuning import InitReport
from psla.techniques.pretraining import PretrainingReport
from psla.training.devices import Runtime, predict_together, sum_over_processes, uncompiled
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.state import load_newest, save_state
from psla.training.trainer import Trainer


class TrainingInterrupted(RuntimeError):
    """A run that was asked to stop and has kept its state; `resume` goes on."""


@dataclass
class Session:
    """A training in progress: its parts, the folder, and what is due between the steps and the epochs."""

    run: Run
    recipe: Recipe
    vocabulary: Vocabulary
    trainer: Trainer
    network: TaggingNetwork
    held_out: Mapping[str, tuple[ClipSource, Labels]]
    runtime: Runtime
    progress: Callable[[str, int], None]
    stop: Callable[[], bool]
    saved: float = field(default_factory=time.monotonic)

    @property
    def fabric(self) -> Fabric:
        return self.trainer.fabric

    def restore(self, report: PretrainingReport | InitReport | None) -> None:
        """Load the newest state, if there is one; cut the logs back to it."""
        trainer = self.trainer
        found = load_newest(self.run.checkpoints, self.network, trainer.optimizer, self.run.identity)
        if found is not None:
            trainer.position = found
            trainer.loader.rejected.update(found.reasons)
        self.fabric.barrier()  # nobody writes before all have read
        if self.fabric.is_global_zero:
            self.run.rewind(trainer.position.epoch, trainer.position.step)
            self.run.note_pretraining(report)

    def epoch(self) -> None:
        """Train what is left of an epoch, keep its weights, predict what is held out, log, write the state."""
        trainer, run, began = self.trainer, self.run, time.monotonic()
        epoch, first = trainer.position.epoch, self.fabric.is_global_zero
        try:
            row = trainer.epoch(partial(self.progress, "train"), self.after_step)
        finally:
            if first:
                run.reject(trainer.loader.rejected)
        trained = time.monotonic() - began
        if first:
            run.save_checkpoint(epoch, self.network.state_dict())
        for split in self.held_out:
            scores = self.predict(split, f"epoch_{epoch + 1:03d}")
            row[f"{split}_map"] = scores.mean_average_precision if scores is not None else None
        if first:
            run.log(row, trained, time.monotonic() - began)
        trainer.position = trainer.position.next_epoch()
        self.save()

    def predict(self, split: str, name: str) -> Scores | None:
        """Predict a split with all processes and keep the predictions; the scores, in process 0."""
        source, truth = self.held_out[split]
        progress = partial(self.progress, split)
        with uncompiled(self.runtime):
            found = predict_together(self.fabric, self.network, source, self.vocabulary, split, progress)
        return self.run.keep(found, truth, name) if self.fabric.is_global_zero else None

    def after_step(self) -> None:
        """Write the state when it is due; all processes agree on when that is, and on when to stop."""
        waited = time.monotonic() - self.saved
        due = self.fabric.is_global_zero and waited >= 60 * self.runtime.checkpoint_minutes
        is_due, is_stopped = sum_over_processes(self.fabric, [float(due), float(self.stop())])
        if is_due or is_stopped:
            self.save()
        if is_stopped:
            position = self.trainer.position
            raise TrainingInterrupted(
                f"stopped in epoch {position.epoch + 1} after {position.batch} of its steps; the state is kept, "
                f"go on with: psla train --resume {self.run.folder}"
            )

    def save(self) -> None:
        """Write the state, in process 0."""
        if self.fabric.is_global_zero:
            trainer, run = self.trainer, self.run
            trainer.position.reasons = dict(trainer.loader.rejected)
            save_state(run.checkpoints, trainer.position, self.network, trainer.optimizer, run.identity)
        self.saved = time.monotonic()

    def finish(self) -> None:
        """Average the weights, predict with them, score, write the models."""
        run, first = self.run, self.fabric.is_global_zero
        if first:
            run.average_checkpoints(self.recipe)
        self.fabric.barrier()
        load_tensors(self.network, run.averaged)
        for split in self.held_out:
            self.predict(split, "averaged")
        if first:
            if self.trainer.profile is not None:
                run.write_profile(self.trainer.profile.rows())
            run.finish(self.network, self.vocabulary, {split: truth for split, (_, truth) in self.held_out.items()})
        self.fabric.barrier()
