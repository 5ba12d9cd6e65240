"""Plan: the trainings that the chosen rows come to, each once, in the order in which they can be done, and their hours.

A training is known by a hash of its resolved recipe and of what it is trained on, so that rows which come to the same
training share its run. The hours are estimated from a few steps of each distinct network and input size: real ones, on
synthetic clips, measured here and now; reading clips, weights that must be downloaded and what else the machine does
are not in it. Nothing is trained and nothing is written here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import torch

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.source import ArraySource
from psla.data.vocabulary import Vocabulary
from psla.lab.experiment import changed
from psla.lab.tables.rows import AS_RECIPE, MODEL_TABLES, Catalogue, Row
from psla.training.devices import Runtime, open_fabric, predict_together, settled
from psla.training.keys import flatten
from psla.training.loader import training_loader
from psla.training.recipe import Recipe, RecipeError
from psla.training.session import build_network
from psla.training.trainer import Trainer

STEPS = 3  # of a measurement; the first of them warms up and does not count
BATCH = 4  # of the first measurement; the time is taken for a clip
PATIENCE_S = 20.0  # for a second one with the recipe's own batch, which takes less time for a clip
HELD_OUT = 2


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        key: 12 hex digits, a hash of all that it depends on. row: the first row that needs it; its folder is named
            after it. seed: of the run. rows: all rows that take its run as their own.
        recipe: resolved; a distillation's file of predictions is put in when it is there.
        share: of the training clips. labels: I, II, I+II or None. teachers: keys of the jobs that teach.
        clips: how many clips it is trained on.
    """

    key: str
    row: str
    seed: int
    recipe: Recipe
    clips: int
    share: float = 1.0
    labels: str | None = None
    teachers: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row}-{self.seed}-{self.key}"


@dataclass
class Plan:
    """What the chosen rows come to.

    Attributes:
        rows: the chosen rows by name, in the order of the tables. seeds: of every trained row.
        jobs: by key, each behind those that it needs. keys: the job of a trained row and a seed.
        refused: rows that the recipe or the clips cannot carry out, with the reason.
    """

    catalogue: Catalogue
    rows: dict[str, Row]
    seeds: tuple[int, ...]
    jobs: dict[str, Job] = field(default_factory=dict)
    keys: dict[tuple[str, int], str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def sources(self, name: str) -> dict[int | None, list[str]]:
        """By seed the keys of the jobs whose runs a row takes; the seed is None where all seeds are taken together.

        Rows that share a run count once; an ensemble of `all` goes without the rows that were refused.
        """
        if self.rows[name].members in ("seeds", "all"):
            return {None: self._keys(self.members(name), self.seeds)}
        return {seed: self._keys(self.members(name), [seed]) for seed in self.seeds}

    def members(self, name: str) -> list[str]:
        """The trained rows whose runs a row takes."""
        row = self.rows[name]
        if row.members == "all":
            trained = [n for n, r in self.rows.items() if r.is_trained and r.table in MODEL_TABLES]
            return [n for n in trained if n not in self.refused]
        return row.named or [row.origin or name]

    def _keys(self, names: Sequence[str], seeds: Sequence[int]) -> list[str]:
        found = [self.keys[row, seed] for seed in seeds for row in names if (row, seed) in self.keys]
        return list(dict.fromkeys(found))

    def reason(self, name: str) -> str | None:
        """Why a row cannot be carried out; None: nothing is known against it."""
        if name in self.refused:
            return self.refused[name]
        for other in self.catalogue.needs(name):
            if (why := self.reason(other)) is not None:
                return why if why.startswith("it needs") else f"it needs the row {other}, which was not run: {why}"
        if self.rows[name].members == "all" and not self.members(name):
            return "none of its members was run"
        return None

    def refuse(self, job: Job, reason: str) -> None:
        """Note that a training failed: the rows that take its run, and those that need them, cannot be carried out."""
        for name in job.rows:
            self.refused.setdefault(name, f"seed {job.seed}: {reason}")

    def differences(self, name: str) -> dict[str, Any]:
        """What the chain of a row sets, the later over the earlier."""
        return {key: value for row in self.catalogue.chain(name) for key, value in row.set.items()}


def make_plan(
    catalogue: Catalogue, names: Sequence[str], recipe: Recipe, clips: Clips, clips_hash: str, seeds: Sequence[int]
) -> Plan:
    """Resolve the chosen rows (and those they need) to trainings.

    Args:
        names: of rows and groups. recipe: the lab's; its own seed does not matter.
        clips_hash: of the table of clips: part of what a training is known by.

    Raises:
        RowError: an unknown name.
    """
    chosen = catalogue.choose(names)
    plan = Plan(catalogue, {name: catalogue.rows[name] for name in chosen}, tuple(seeds))

    @cache
    def size(share: float, seed: int) -> int:
        return take_share(clips, share, seed).counts().get("train", 0)

    def job_of(name: str, seed: int) -> Job:
        resolved = resolve(catalogue.chain(name), recipe, seed)
        share: float = catalogue.inherited(name, "training_share") or 1.0
        labels, teacher = catalogue.inherited(name, "labels"), catalogue.inherited(name, "teacher")
        taught_by = {} if teacher is None else plan.sources(teacher)
        teachers = taught_by.get(seed, taught_by.get(None, []))
        if share < 1:  # as long in terms of the run as with all clips
            resolved = changed(resolved, {"optimizer.warmup_steps": round(share * resolved.optimizer.warmup_steps)})
        resolved.check(size(share, seed), clips.vocabulary)
        trained_on = {"clips": clips_hash, "share": share, "labels": labels, "teachers": teachers}
        text = resolved.to_yaml() + json.dumps(trained_on, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Job(key, name, seed, resolved, size(share, seed), share, labels, tuple(teachers))

    for name, row in plan.rows.items():
        if (reason := plan.reason(name)) is not None:
            plan.refused[name] = reason
        elif row.is_trained:
            try:
                jobs = [job_of(name, seed) for seed in seeds]
            except RecipeError as error:
                plan.refused[name] = str(error)
                continue
            for job in jobs:
                known = plan.jobs.setdefault(job.key, job)
                plan.jobs[job.key] = replace(known, rows=(*known.rows, name))
                plan.keys[name, job.seed] = job.key
    return plan


def resolve(chain: Sequence[Row], recipe: Recipe, seed: int) -> Recipe:
    """The recipe of a row: what its chain sets, the root first, on top of the lab's recipe.

    Raises:
        RecipeError: a value that the recipe refuses.

    Example:
        >>> chain = Catalogue.load().chain("masking")
        >>> found = resolve(chain, Recipe.load("demo"), seed=3)
        >>> found.mixup.rate, found.masking.frequency, found.seed
        (0.0, 16, 3)
    """
    given = flatten(recipe.model_dump())
    values = {key: value for row in chain for key, value in row.set.items()}
    own = {key: given[key] if value == AS_RECIPE else value for key, value in values.items()}
    return changed(recipe, {**own, "seed": seed})


def take_share(clips: Clips, share: float, seed: int) -> Clips:
    """A share of the sources of the split train, and all other clips; a smaller share lies in a larger one.

    The sources are ordered by a hash of the seed and their name, so that the order depends on nothing else.

    Args:
        share: above 0, at most 1; at least one source is kept.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> row = {"path": "a.wav", "split": "train", "labels": ["dog"]}
        >>> rows = [{**row, "clip_id": name, "source": name} for name in "abcdefgh"]
        >>> clips = Clips.from_rows(rows, Vocabulary(["dog"]))
        >>> quarter, half = (take_share(clips, share, seed=0).clip_ids for share in (0.25, 0.5))
        >>> len(quarter), len(half), set(quarter) < set(half)
        (2, 4, True)
    """
    if share >= 1:
        return clips
    sources = clips.frame.filter(pl.col("split") == "train")["source"].unique().to_list()
    sources.sort(key=lambda source: (hashlib.sha256(f"{seed}:{source}".encode()).digest(), source))
    kept = sources[: max(1, round(share * len(sources)))]
    return clips.filter((pl.col("split") != "train") | pl.col("source").is_in(kept))


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
            first = measure(job.recipe, classes, runtime)
            whole = job.recipe.optimizer.batch_size
            patient = first[0] * whole * STEPS < PATIENCE_S
            measured[size] = measure(job.recipe, classes, runtime, whole) if patient and whole > BATCH else first
        training, predicting = measured[size]
        epochs = job.recipe.optimizer.epochs
        found[job.key] = epochs * job.clips * training + (epochs + 1) * held_out * predicting
    return found


def _size(recipe: Recipe) -> str:
    front_end, precision = recipe.front_end, recipe.optimizer.precision
    frames = f"{front_end.frames} x {front_end.mel_bins}"
    if recipe.training_frames != front_end.frames:
        frames = f"{frames} ({recipe.training_frames} in training)"
    batches = f"batches of {recipe.optimizer.batch_size}"
    return f"{recipe.backbone.name}, {recipe.pooling.heads} heads, {frames}, {precision}, {batches}"


def measure(recipe: Recipe, classes: int, runtime: Runtime, batch: int = BATCH) -> tuple[float, float]:
    """Seconds for a clip of training, `batch` clips a step at most, and of prediction, on noise that fills a window."""
    plain = {"backbone.pretraining": "none", "backbone.weights": None, "backbone.batch_norm": "device"}
    recipe = changed(recipe, {**plain, "init": None, "classes": None})
    recipe = recipe.at(settled(recipe.optimizer.precision, runtime.accelerator))
    vocabulary = Vocabulary([f"class {index}" for index in range(classes)])
    network, _ = build_network(recipe, vocabulary)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fabric = open_fabric(runtime, recipe.optimizer.precision)
    wrapped, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters(), lr=1e-4))
    size = min(batch, recipe.optimizer.batch_size)
    window, rate = network.window_samples, network.sample_rate
    rng = np.random.default_rng(0)
    ids = [str(index) for index in range(size * STEPS)]
    waves = [rng.integers(-3000, 3000, window, dtype=np.int16) for _ in ids]
    labels = Labels.from_sets(ids, [[index % classes] for index in range(len(ids))], vocabulary)
    batches = changed(recipe, {"optimizer.batch_size": size})
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
