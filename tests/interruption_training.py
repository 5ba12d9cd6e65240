"""How trainings and what is done with networks, labels and scores are interrupted; see `interruption_scenarios.py`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from interruption_law import Setting, Tell, scenario
from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.ontology import Ontology
from psla.data.source import ArraySource, open_source
from psla.data.vocabulary import Vocabulary
from psla.lab.experiment import soundscapes
from psla.lab.moments import measure
from psla.lab.statistics import coverage
from psla.lab.sweep import share_sweep, start_sweep
from psla.metrics.compare import compare
from psla.metrics.predictions import Predictions
from psla.metrics.resampling import Draws
from psla.model.file import ModelCard, load_model, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.inference import predict
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.report.enhancement import write_report as write_enhancement_report
from psla.techniques import labeling
from psla.techniques.enhancement import enhance_clips
from psla.techniques.sampling import EpochPlan, simulated_unseen
from psla.training import batch_norm
from psla.training.calibrate import calibrate
from psla.training.devices import Runtime, open_fabric, predict_together
from psla.training.features import hear as hear_features
from psla.training.fit import fit
from psla.training.loader import Loader
from psla.training.own_clips import open_clips
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.session import TrainingInterrupted, build_network, resume, train
from psla.training.similar import find
from psla.training.teacher import hear
from psla.training.trainer import Trainer
from tagging_models import noise

CPU = Runtime(accelerator="cpu", workers=1)
EVERY_STEP = replace(CPU, checkpoint_minutes=0)
RATE = 16000


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "front_end": {"frames": 32, "mel_bins": 32},
        "backbone": {"name": "efficientnet_lite0", "pretraining": "none"},
        "pooling": {"heads": 1},
        "masking": {"frequency": 8, "time": 8},
        "optimizer": {"batch_size": 4, "epochs": 2, "warmup_steps": 0, **changes},
        "averaging": {"first_epoch": 1},
    }
    return Recipe.from_dict(values)


def corpus(training: int = 8, evaluation: int = 5, broken: bool = True) -> Clips:
    """Soundscapes with labels left out; one of each split cannot be read."""
    clips = soundscapes(training, evaluation, 0.3)
    absent = pl.int_range(pl.len()).over("split") == 2
    path = pl.when(absent).then(pl.lit("/absent.wav")).otherwise("path").alias("path")
    return Clips(clips.frame.with_columns(path), clips.vocabulary, clips.name) if broken else clips


def trained(what: Recipe, clips: Clips, out: Path, tell: Tell, runtime: Runtime = CPU) -> Run:
    """`train`, which says itself that `resume` goes on."""
    if Run(out).exists:
        return resume(out, runtime=runtime, progress=tell)
    return train(what, clips, out, runtime=runtime, progress=tell)


def poison(setting: Setting) -> Clips:
    """The loss of the second step is not finite."""
    loss = Trainer.loss

    def poisoned(self: Trainer, batch: Any, epoch: int) -> torch.Tensor:
        return loss(self, batch, epoch) * (float("nan") if self.position.step == 1 else 1.0)

    setting.patch.setattr(Trainer, "loss", poisoned)
    return corpus()


@scenario("psla.training.session.train", lambda setting: corpus(), keeps=True)
def _train(clips: Clips, out: Path, tell: Tell) -> Run:
    return trained(recipe(), clips, out, tell)


# Report 3 is that of the evaluation clips after the first epoch: the state after its last step is there.
@scenario(
    "psla.training.session.train",
    lambda setting: corpus(),
    note="while it warms up",
    also=(3,),
)
def _train_warming_up(clips: Clips, out: Path, tell: Tell) -> Run:
    return trained(recipe(warmup_steps=4), clips, out, tell, EVERY_STEP)


@scenario("psla.training.session.train", poison, note="steps left out", also=(2, 3))
def _train_skipping(clips: Clips, out: Path, tell: Tell) -> Run:
    return trained(recipe(), clips, out, tell, replace(CPU, skip_non_finite=3))


@scenario("psla.training.session.resume", lambda setting: corpus(), also=(4,), keeps=True)
def _resume(clips: Clips, out: Path, tell: Tell) -> Run:
    if not Run(out).exists:
        with pytest.raises(TrainingInterrupted):
            train(recipe(), clips, out, runtime=CPU, stop=lambda: True)
    return resume(out, runtime=CPU, progress=tell)


def trainer(clips: Clips, **changes: Any) -> Trainer:
    part, what = clips.split("train"), recipe(**changes)
    network, _ = build_network(what, clips.vocabulary)
    fabric = open_fabric(CPU, "float32")
    wrapped, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters(), lr=1e-3))
    loader = Loader(open_source(part, RATE), network.config.front_end.window_samples)
    return Trainer(what, wrapped, optimizer, fabric, part.labels(), loader)


def epoch_of(subject: Trainer, tell: Tell) -> Any:
    return subject.epoch(tell), subject.position, subject.network, subject.loader.rejected


@scenario("psla.training.trainer.Trainer.epoch", lambda setting: corpus(12), trainer)
def _epoch(subject: Trainer, out: Path, tell: Tell) -> Any:
    return epoch_of(subject, tell)


@scenario(
    "psla.training.trainer.Trainer.epoch",
    lambda setting: corpus(12),
    partial(trainer, warmup_steps=100),
    note="while it warms up",
)
def _epoch_warming_up(subject: Trainer, out: Path, tell: Tell) -> Any:
    return epoch_of(subject, tell)


@scenario("psla.training.loader.Loader.batches", lambda setting: corpus())
def _batches(clips: Clips, out: Path, tell: Tell) -> Any:
    loader = Loader(open_source(clips, RATE), limit_samples=4000)
    plan = EpochPlan(len(clips), mixup_rate=0.5, mixup_alpha=10.0, seed=0, epoch=0)
    return tell.each(loader.batches(plan, batch_size=3)), loader.rejected


# Networks over sources


def network(classes: int, seed: int = 0) -> TaggingNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        front_end = FrontEndConfig(frames=32, mel_bins=32)
        return TaggingNetwork(NetworkConfig("efficientnet_lite0", classes, heads=1, front_end=front_end))


def heard(setting: Setting) -> tuple[TaggingNetwork, Clips]:
    clips = corpus()
    return network(len(clips.vocabulary)), clips


def own_network(given: tuple[TaggingNetwork, Clips]) -> tuple[TaggingNetwork, Clips]:
    return deepcopy(given[0]), given[1]


@scenario("psla.model.inference.predict", heard, lambda given: (deepcopy(given[0]).train(), given[1]))
def _predict(given: tuple[TaggingNetwork, Clips], out: Path, tell: Tell) -> Any:
    found = predict(given[0], open_source(given[1], RATE), given[1].vocabulary, batch_size=4, progress=tell)
    return found, given[0].training


@scenario("psla.training.devices.predict_together", lambda setting: (network(4), array_source(40)))
def _predict_together(given: tuple[TaggingNetwork, ArraySource], out: Path, tell: Tell) -> Any:
    return predict_together(open_fabric(CPU, "float32"), *given, Vocabulary(list("abcd")), "evaluation", tell)


def teaching(setting: Setting) -> tuple[str, Clips]:
    clips = corpus(40)
    return str(
        save_model(setting.folder / "t.safetensors", network(len(clips.vocabulary)), clips.vocabulary, ModelCard())
    ), clips


@scenario("psla.training.teacher.hear", teaching)
def _hear(given: tuple[str, Clips], out: Path, tell: Tell) -> Any:
    teacher, clips = given
    found = hear(Run(out), teacher, clips.split("train"), clips.vocabulary, open_fabric(CPU, "float32"), tell)
    return found.clip_ids, found.probabilities, found.model_hash


def own_sounds(setting: Setting) -> tuple[Path, Path, Path]:
    """A model, and a folder of two classes of four recordings; few plain signals beside them."""
    setting.patch.setattr("psla.training.fit.SIGNALS", 1)
    setting.patch.setattr("psla.training.features.SHARD", 3)  # so that an interruption leaves some in the cache
    sounds = setting.folder / "sounds"
    for number in range(8):
        path = sounds / ("one", "other")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(4000, number), RATE)
    model = save_model(setting.folder / "m.safetensors", network(2), Vocabulary(["a", "b"]), ModelCard())
    return model, sounds, setting.folder


def own_cache(given: tuple[Path, Path, Path]) -> tuple[Path, Path, Path]:
    return given[0], given[1], Path(mkdtemp(dir=given[2]))


@scenario("psla.training.fit.fit", own_sounds, own_cache, also=(5,))
def _fit(given: tuple[Path, Path, Path], out: Path, tell: Tell) -> Any:
    model, sounds, cache = given
    return fit(sounds, out / "own.safetensors", model, cache=cache, workers=1, told=tell).report


@scenario("psla.training.features.hear", own_sounds, own_cache, also=(5,))
def _hear_features(given: tuple[Path, Path, Path], out: Path, tell: Tell) -> Any:
    model, sounds, cache = given
    found = hear_features(load_model(model).network, open_clips(sounds), cache, 1, tell)
    return found.values, found.clip_ids, found.keys, found.rejected


@scenario("psla.training.similar.find", own_sounds, own_cache, also=(5,))
def _find(given: tuple[Path, Path, Path], out: Path, tell: Tell) -> Any:
    model, sounds, cache = given
    paths = sorted(str(path) for path in sounds.rglob("*.wav"))
    found = find(model, paths, paths[0], cache=cache, workers=1, told=tell)
    return [(each.place.path, each.similarity) for each in found.matches]


def labelled_sounds(setting: Setting) -> tuple[Path, Clips]:
    """A model, and sixty clips of eight files that are of its classes in turn."""
    setting.patch.setattr("psla.training.calibrate.LEAST", 2)
    model, sounds, _ = own_sounds(setting)
    paths = sorted(str(path) for path in sounds.rglob("*.wav"))
    rows = [
        {"clip_id": f"{n}", "source": f"{n}", "path": paths[n % 8], "split": "validation", "labels": ["ab"[n % 2]]}
        for n in range(60)
    ]
    return model, Clips.from_rows(rows, Vocabulary(["a", "b"]))


@scenario("psla.training.calibrate.calibrate", labelled_sounds)
def _calibrate(given: tuple[Path, Clips], out: Path, tell: Tell) -> Any:
    return calibrate(*given, out / "ready.safetensors", progress=tell).report


@scenario("psla.training.batch_norm.reestimate", heard, own_network)
def _reestimate(given: tuple[TaggingNetwork, Clips], out: Path, tell: Tell) -> Any:
    rejected = batch_norm.reestimate(given[0], open_source(given[1], RATE), batch_size=4, progress=tell)
    norms = [each for each in given[0].modules() if isinstance(each, torch.nn.BatchNorm2d)]
    return rejected, given[0], [(each.momentum, each.training) for each in norms]


def array_source(clips: int) -> ArraySource:
    return ArraySource([str(i) for i in range(clips)], [noise(4000, seed) for seed in range(clips)], RATE)


@scenario("psla.lab.moments.measure", lambda setting: array_source(40))
def _measure(source: ArraySource, out: Path, tell: Tell) -> Any:
    return measure(source, FrontEndConfig(frames=32, mel_bins=32), progress=tell)


def checkpoints(setting: Setting) -> tuple[list[Path], Labels]:
    """Of a network of one weight a clip and class."""
    labels = Labels.from_matrix(list("abcd"), np.eye(4, 2, dtype=bool), Vocabulary(["dog", "rain"]))
    generator, paths = torch.Generator().manual_seed(0), []
    for epoch in range(1, 4):
        paths.append(setting.folder / f"epoch_{epoch:03d}.safetensors")
        save_file({"w": torch.rand(4, 2, generator=generator)}, paths[-1])
    return paths, labels


@scenario("psla.lab.sweep.start_sweep", checkpoints)
def _start_sweep(given: tuple[list[Path], Labels], out: Path, tell: Tell) -> Any:
    paths, labels = given

    def predicted(weights: Mapping[str, torch.Tensor]) -> Predictions:
        return Predictions(weights["w"].numpy(), labels.clip_ids, labels.vocabulary)

    return start_sweep(paths, predicted, labels, progress=tell)


@scenario("psla.lab.sweep.share_sweep", checkpoints)
def _share_sweep(given: tuple[list[Path], Labels], out: Path, tell: Tell) -> Any:
    paths, labels = given

    def predicted(weights: Mapping[str, torch.Tensor]) -> Predictions:
        return Predictions(weights["w"].numpy(), labels.clip_ids, labels.vocabulary)

    return share_sweep(paths[:2], (0.0, 0.5, 1.0), predicted, labels, tell)


# Labels, statistics and comparisons


def wrongly_labelled(setting: Setting) -> tuple[Clips, Predictions]:
    """Training clips, blocks of four of them, and a teacher that knows the truth fairly well."""
    setting.patch.setattr(labeling, "CLIPS_AT_A_TIME", 4)
    clips = soundscapes(12, 3, 0.3)
    part = clips.split("train")
    truth = part.labels("true_labels").matrix()
    probabilities = np.random.default_rng(0).random(truth.shape) * 0.5 + 0.5 * truth
    return clips, Predictions(probabilities.astype(np.float32), part.clip_ids, clips.vocabulary, "train")


@scenario("psla.techniques.labeling.enhance", wrongly_labelled)
def _enhance(given: tuple[Clips, Predictions], out: Path, tell: Tell) -> Any:
    return labeling.enhance(given[0].split("train").labels(), given[1], Ontology.audioset(), progress=tell)


@scenario("psla.techniques.enhancement.enhance_clips", wrongly_labelled)
def _enhance_clips(given: tuple[Clips, Predictions], out: Path, tell: Tell) -> Any:
    return enhance_clips(*given, Ontology.audioset(), progress=tell)


@scenario(
    "psla.report.enhancement.write_report",
    lambda setting: enhance_clips(*wrongly_labelled(setting), Ontology.audioset()),
)
def _enhancement_report(given: Any, out: Path, tell: Tell) -> Any:
    return write_enhancement_report(out, given, pictures=3, progress=tell)


@scenario("psla.techniques.sampling.simulated_unseen")
def _simulated_unseen(setting: Setting, out: Path, tell: Tell) -> Any:
    return simulated_unseen(np.arange(1.0, 30.0), 4, [0.0, 0.5], progress=tell)


@scenario("psla.lab.statistics.coverage", lambda setting: corpus().split("train").labels())
def _coverage(labels: Labels, out: Path, tell: Tell) -> Any:
    return coverage(labels, 4, [0.0, 0.5], progress=tell)


def judged(setting: Setting) -> tuple[Predictions, Predictions, Labels]:
    rng, ids, vocabulary = np.random.default_rng(0), [str(i) for i in range(30)], Vocabulary(["dog", "rain"])
    files = [Predictions(rng.random((30, 2)).astype(np.float32), ids, vocabulary) for _ in range(2)]
    return files[0], files[1], Labels.from_matrix(ids, rng.random((30, 2)) < 0.3, vocabulary)


@scenario("psla.metrics.compare.compare", judged)
def _compare(given: Any, out: Path, tell: Tell) -> Any:
    return compare(*given, resamples=400, progress=tell)


@scenario("psla.metrics.resampling.Draws.score", judged, lambda given: (given[0], Draws(given[2], 400)))
def _draws(given: tuple[Predictions, Draws], out: Path, tell: Tell) -> Any:
    return given[1].score(given[0], tell)
