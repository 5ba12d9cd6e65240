"""A training: its parts are put together, on Lightning Fabric; it is begun, or goes on where it was interrupted.

Epochs with a checkpoint and predictions after each, states to go on from (to the bit), and at the end the average of
the weights and of the predictions (paper, section VI). The steps are in `trainer.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.source import ClipSource, open_source
from psla.data.vocabulary import Vocabulary
from psla.metrics.scores import Scores
from psla.model.file import load_tensors
from psla.model.network import TaggingNetwork
from psla.model.tensor_file import write_sealed
from psla.techniques.distillation import Targets, targets_of
from psla.techniques.pretraining import InitReport, PretrainingReport, init_random, load_imagenet, load_init
from psla.training.devices import (
    Runtime,
    compile_backbone,
    gather_objects,
    is_first_process,
    open_fabric,
    predict_together,
    settled,
    sum_over_processes,
    uncompiled,
)
from psla.training.loader import check_readable, training_loader
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.training.state import load_newest, prune, save_state
from psla.training.teacher import HeardSource, hear
from psla.training.trackers.contract import Trackers
from psla.training.trainer import Profile, Trainer


class TrainingInterrupted(RuntimeError):
    """A run that was asked to stop and has kept its state; `resume` goes on."""


_Built = tuple[Labels, Targets | None, TaggingNetwork, PretrainingReport | InitReport | None]


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
    trackers: Trackers
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
            self.run.remove_leftovers()
            prune(self.run.checkpoints)
            self.run.check(trainer.position.epoch, self.held_out)
            self.run.rewind(trainer.position.epoch, trainer.position.step)
            # What was noted in steps that are done again may not hold again.
            unheard: frozenset[str] = getattr(trainer.loader.source, "unheard", frozenset())
            self.run.reject({}, set(trainer.loader.source.clip_ids) - unheard - trainer.loader.rejected.keys())
            self.run.note_pretraining(report)

    def epoch(self) -> None:
        """Train what is left of an epoch, keep its weights, predict what is held out, log, write the state."""
        trainer, run, began = self.trainer, self.run, time.monotonic()
        epoch, first = trainer.position.epoch, self.fabric.is_global_zero
        try:
            row = trainer.epoch(partial(self.progress, "train"), self.after_step)
        finally:
            if first:
                run.reject(trainer.loader.rejected, trainer.loader.recovered)
        trained = time.monotonic() - began
        if first:
            write_sealed(run.checkpoint(epoch), self.network.state_dict())
        for split in self.held_out:
            scores = self.predict(split, run.epoch_name(epoch))
            row[f"{split}_map"] = scores.mean_average_precision if scores is not None else None
        if first:
            run.log(row, trained, time.monotonic() - began)
        trainer.position = trainer.position.next_epoch()
        self.save()
        if first:
            self.trackers.follow(run)

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
            self.trackers.follow(run, finished=True)
        self.fabric.barrier()


def build_network(
    recipe: Recipe, vocabulary: Vocabulary
) -> tuple[TaggingNetwork, PretrainingReport | InitReport | None]:
    """The network of a recipe, initialised from its seed, and the report on what was loaded (None: nothing)."""
    config = recipe.network_config(len(vocabulary))
    # Modules draw their first weights from torch's global generator: fork it, seed it, leave it as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = TaggingNetwork(config)
        if recipe.init is not None:
            return network, load_init(network, vocabulary, recipe.init)
        if recipe.backbone.pretraining == "none":
            init_random(network.backbone)
            return network, None
        weights = Path(recipe.backbone.weights) if recipe.backbone.weights else None
        report = load_imagenet(network.backbone, recipe.backbone.name, recipe.backbone.stem, weights)
    return network, report


def train(
    recipe: Recipe,
    clips: Clips,
    out: str | Path,
    *,
    runtime: Runtime = Runtime(),  # noqa: B008  (frozen)
    progress: Callable[[str, int], None] = lambda stage, clips: None,
    stop: Callable[[], bool] = lambda: False,
    profile: bool = False,
    log: Sequence[str] | Trackers = (),
) -> Run:
    """Train a tagger and evaluate it on the splits that the clips hold out.

    Args:
        recipe: what to do.
        clips: the split `train` is trained on; `validation` and `evaluation`, where there are any, are predicted after
            every epoch and never chosen by.
        out: a folder that must not hold a run yet.
        runtime: devices, threads, how often the state is kept.
        progress: told ("train", the split or, of a teacher that hears the training clips, "teacher"; clips done).
        stop: asked after every step; when it says True, the state is written and TrainingInterrupted raised.
        profile: measure where the time goes; `profile.json` in the run's folder.
        log: names of trackers that are told of it, such as `tensorboard` (`psla.training.trackers`).

    Returns:
        The finished run.

    Raises:
        RecipeError: the recipe does not fit the clips (before any work).
        TrainingError: the loss is not finite, or the device's memory is full.
        TrainingInterrupted: `stop` asked for it; `resume` goes on.
        FileExistsError: `out` already holds a run.

    Example:
        `run = psla.train(psla.Recipe.load("esc50"), clips, out="runs/esc50")`
    """
    check_fit(recipe, clips)
    check_readable(clips, recipe.front_end.sample_rate)
    trackers = log if isinstance(log, Trackers) else Trackers(log)
    if is_first_process():
        Run(out).refuse_existing()
    recipe = recipe.at(settled(recipe.optimizer.precision, runtime.accelerator))
    fabric = open_fabric(runtime, recipe.optimizer.precision)
    if len(found := set(gather_objects(fabric, recipe.optimizer.precision))) > 1:
        raise RecipeError(
            f"recipe key optimizer.precision: auto is {' here and '.join(sorted(found))} there; set it for all machines"
        )
    if recipe.backbone.batch_norm == "synchronised" and fabric.device.type != "cuda":
        raise RecipeError(
            f"recipe key backbone.batch_norm: synchronised needs CUDA devices, this run is on {fabric.device.type}; "
            "set it to device"
        )
    built = _build(recipe, clips)  # what cannot be loaded leaves no run behind
    if fabric.is_global_zero:
        Run.create(out, recipe, clips)
    fabric.barrier()
    return _carry_out(Run(out), recipe, clips, built, fabric, runtime, progress, stop, profile, trackers)


def resume(
    folder: str | Path,
    *,
    runtime: Runtime = Runtime(),  # noqa: B008  (frozen)
    progress: Callable[[str, int], None] = lambda stage, clips: None,
    stop: Callable[[], bool] = lambda: False,
    profile: bool = False,
    log: Sequence[str] | Trackers = (),
) -> Run:
    """Go on with a run that was interrupted, from its newest whole state; the arguments are those of `train`.

    The trackers that have followed the run go on, too.

    On CPU the outcome is, byte for byte, that of a run that was never interrupted. A finished run is returned as it is.

    Raises:
        FileNotFoundError: no run in the folder.
        StateError: the stored state belongs to another recipe or other clips.
    """
    run = Run.open(folder)
    if run.is_finished:
        return run
    recipe, clips = run.recipe, run.clips
    trackers = log if isinstance(log, Trackers) else Trackers(log)
    fabric = open_fabric(runtime, settled(recipe.optimizer.precision, runtime.accelerator))
    built = _build(recipe, clips)
    return _carry_out(run, recipe, clips, built, fabric, runtime, progress, stop, profile, trackers)


def check_fit(recipe: Recipe, clips: Clips) -> None:
    """Raises RecipeError, with the key and the rule, where a recipe cannot be carried out on these clips."""
    count = clips.counts().get("train", 0)
    if count == 0:
        raise RecipeError("there is nothing to train on: no clip has the split 'train'")
    recipe.check(count, clips.vocabulary)
    chosen = clips.vocabulary.ids if recipe.classes is None else recipe.classes
    taught = recipe.distillation.teacher or recipe.distillation.predictions  # who has a teacher needs no labels
    for split, number in () if taught else clips.counts().items():
        labels = clips.split(split).frame["labels"]
        if not set(chosen).intersection(labels.explode().drop_nulls()):
            raise RecipeError(
                f"none of the {number} clips of the split {split!r} has a label of the {len(chosen)} classes, so they "
                f"cannot be {'trained on' if split == 'train' else 'scored'}: give labels, or leave these clips out"
            )


def _build(recipe: Recipe, clips: Clips) -> _Built:
    """What a recipe names elsewhere, loaded; no targets yet where a teacher is still to hear the clips."""
    vocabulary = clips.vocabulary if recipe.classes is None else clips.vocabulary.part(recipe.classes)
    labels, taught = clips.split("train").labels().part(vocabulary), recipe.distillation
    targets = None if taught.teacher is not None else targets_of(labels, taught.predictions, taught.weight)
    return labels, targets, *build_network(recipe, vocabulary)


def _carry_out(
    run: Run,
    recipe: Recipe,
    clips: Clips,
    built: _Built,
    fabric: Fabric,
    runtime: Runtime,
    progress: Callable[[str, int], None],
    stop: Callable[[], bool],
    profile: bool,
    trackers: Trackers,
) -> Run:
    """Put the parts together, go on from the newest state, train what is left, aggregate."""
    labels, targets, network, report = built
    vocabulary, network = labels.vocabulary, network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.backbone.batch_norm == "synchronised":
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    plan = recipe.optimizer
    adam = torch.optim.Adam(
        network.parameters(),
        lr=plan.learning_rate,
        betas=(plan.beta1, plan.beta2),
        weight_decay=plan.weight_decay,
        fused=fabric.device.type in ("cpu", "cuda"),  # one pass over weights, gradients and moments
    )
    if runtime.compile:
        compile_backbone(network, fabric.device)
    wrapped, optimizer = fabric.setup(network, adam)

    def opened(split: str) -> ClipSource:
        return open_source(clips.split(split), network.sample_rate, runtime.cache_bytes)

    source, distillation = opened("train"), recipe.distillation
    if distillation.teacher is not None:
        said = hear(run, distillation.teacher, clips.split("train"), vocabulary, fabric, partial(progress, "teacher"))
        source = HeardSource(source, said)
        targets = targets_of(labels, str(run.teacher), distillation.weight, source.unheard)
    trainer = Trainer(
        recipe,
        wrapped,
        optimizer,
        fabric,
        labels,
        training_loader(recipe, source, runtime.workers, pin_memory=fabric.device.type == "cuda"),
        targets=targets,
        profile=Profile(fabric.device) if profile else None,
        skip_non_finite=runtime.skip_non_finite,
        on_skip=run.note_non_finite if fabric.is_global_zero else lambda step, ids: None,
    )
    splits = [split for split in ("validation", "evaluation") if clips.counts().get(split)]
    held_out = {split: (opened(split), clips.split(split).labels().part(vocabulary)) for split in splits}
    session = Session(run, recipe, vocabulary, trainer, network, held_out, runtime, progress, stop, trackers)
    session.restore(report)
    while trainer.position.epoch < plan.epochs:
        session.epoch()
    session.finish()
    return run
