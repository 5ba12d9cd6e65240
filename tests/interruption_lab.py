"""How tagging and the lab are interrupted; see `interruption_scenarios.py`."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import soundfile
from rich.console import Console

from audioset_tree import sound
from interruption_files import RATE
from interruption_law import Setting, Tell, scenario
from interruption_training import CPU, corpus, network, recipe
from lab_fixture import write_lab
from psla.audio.pool import DecodePool, decode_pool
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.files import Journal
from psla.lab import demo, sweep, teaching
from psla.lab.experiment import soundscapes
from psla.lab.folds import cross_validation, selection
from psla.lab.folds.candidates import Candidate
from psla.lab.sweep import start_sweep
from psla.lab.tables import plan as planning
from psla.lab.tables import runner
from psla.lab.tables.folder import Lab, Measured
from psla.lab.tables.report import write_report as write_lab_report
from psla.lab.tables.verdicts import Scoring
from psla.lab.teaching import Predicting, teach_labels, teach_probabilities, teacher_predictions
from psla.model.file import Model, ModelCard, save_model
from psla.model.inference import predict
from psla.tagging import batch, output
from psla.tagging.job import TagJob
from psla.tagging.output import RowSettings
from psla.tagging.tagger import Tagger, cut_windows
from psla.tagging.view import Views
from psla.techniques import pretraining
from psla.training.recipe import Recipe
from psla.training.run import Run
from tagging_models import noise

# Tagging


def small_tagger(setting: Setting) -> Tagger:
    return Tagger(Model(network(3), Vocabulary(["dog", "rain", "siren"]), ModelCard()))


def to_tag(setting: Setting) -> tuple[Tagger, list[str], DecodePool]:
    """Files of one window to four, one of them none."""
    tagger, paths = small_tagger(setting), [setting.folder / f"{i}.wav" for i in range(6)]
    for index, path in enumerate(paths):
        soundfile.write(path, noise((1 + index % 4) * tagger.window_samples - 999, index), RATE)
    paths[2].write_text("words")
    pool = setting.stack.enter_context(decode_pool(1))
    setting.patch.setattr(batch, "BATCH", 2)
    return tagger, [str(path) for path in paths], pool


@scenario("psla.tagging.job.TagJob.rows", to_tag)
def _rows(given: tuple[Tagger, list[str], DecodePool], out: Path, tell: Tell) -> Any:
    tagger, paths, pool = given
    with Journal(out / "journal.jsonl") as journal:
        return tell.each(TagJob(tagger, "model", RowSettings()).rows(paths, pool, journal))


@scenario("psla.tagging.batch.tag_files", to_tag)
def _tag_files(given: tuple[Tagger, list[str], DecodePool], out: Path, tell: Tell) -> Any:
    return tell.each(batch.tag_files(*given, embed=True))


@scenario("psla.tagging.batch.tag_groups", to_tag)
def _tag_groups(given: tuple[Tagger, list[str], DecodePool], out: Path, tell: Tell) -> Any:
    # How many come at once depends on nothing but the files.
    return tell.each(batch.tag_groups(*given))


@scenario("psla.tagging.batch.read_files", to_tag)
def _read_files(given: tuple[Tagger, list[str], DecodePool], out: Path, tell: Tell) -> Any:
    return [stream.path for stream in tell.each(batch.read_files(given[1], given[2], 16000))]


@scenario("psla.tagging.tagger.Tagger.tag_files", to_tag)
def _tagger_tag_files(given: tuple[Tagger, list[str], DecodePool], out: Path, tell: Tell) -> Any:
    return tell.each(given[0].tag_files(*given[1], workers=1))


@scenario("psla.tagging.view.Views.made", to_tag)
def _views_made(given: tuple[Tagger, list[str], DecodePool], out: Path, tell: Tell) -> Any:
    tagger, paths, pool = given
    views = Views(tagger, RowSettings())
    for file in batch.tag_files(tagger, paths, pool):
        views.add(file, output.row_of(file, RowSettings(), {}))
    return tell.each(views.made(pool, sound_s=1.0))


@scenario("psla.tagging.tagger.Tagger.windows", small_tagger)
def _windows(tagger: Tagger, out: Path, tell: Tell) -> Any:
    return tell.each(tagger.windows([noise(4 * tagger.window_samples)]))


@scenario("psla.tagging.tagger.cut_windows")
def _cut_windows(setting: Setting, out: Path, tell: Tell) -> Any:
    return tell.each(cut_windows([noise(1000)], window=300, hop=200))


ROWS = [{"path": f"{i}.wav", "status": "failed", "error": "no sound"} for i in range(4)]


@scenario("psla.tagging.output.json_array")
def _json_array(setting: Setting, out: Path, tell: Tell) -> Any:
    return tell.each(output.json_array(ROWS))


@scenario("psla.tagging.output.csv_lines")
def _csv_lines(setting: Setting, out: Path, tell: Tell) -> Any:
    return tell.each(output.csv_lines(ROWS, events=False))


# The lab


def taught(setting: Setting) -> tuple[Clips, list[Run]]:
    """Clips to predict, and two runs as far as a teacher needs them."""
    setting.patch.setattr("psla.lab.teaching.predict", partial(predict, batch_size=4))
    clips = soundscapes(10, 3, 0.3)
    path = str(sound(setting.folder / "noise.wav", seconds=0.3))  # faster to read than to synthesise
    clips = Clips(clips.frame.with_columns(pl.lit(path).alias("path")), clips.vocabulary)
    runs = [Run(setting.folder / name) for name in ("first", "second")]
    for seed, run in enumerate(runs):
        run.folder.mkdir()
        save_model(run.model_file, network(len(clips.vocabulary), seed), clips.vocabulary, ModelCard())
    return clips, runs


@scenario("psla.lab.teaching.teacher_predictions", taught)
def _teacher_predictions(given: tuple[Clips, list[Run]], out: Path, tell: Tell) -> Any:
    return teacher_predictions(given[1][0], out, Predicting(given[0], progress=tell))


@scenario("psla.lab.teaching.teach_labels", taught)
def _teach_labels(given: tuple[Clips, list[Run]], out: Path, tell: Tell) -> Any:
    return teach_labels(given[0], given[1][0], "I+II", out / "run", Predicting(given[0], progress=tell))


@scenario("psla.lab.teaching.teach_probabilities", taught)
def _teach_probabilities(given: tuple[Clips, list[Run]], out: Path, tell: Tell) -> Any:
    return teach_probabilities(given[1], out / "run", Predicting(given[0], progress=tell))


@scenario("psla.lab.teaching.teach", lambda setting: corpus(12, 6, broken=False), slow=True, keeps=True)
def _teach(clips: Clips, out: Path, tell: Tell) -> Any:
    return teaching.teach(recipe(epochs=1), clips, out, runtime=CPU, progress=tell)


def tiny_esc50(setting: Setting) -> Path:
    """Ten noises in ESC-50's layout: two classes, five folds."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for index in range(10):
        fold, target = 1 + index // 2, index % 2
        name = f"{fold}-{index}-A-{target}.wav"
        lines.append(f"{name},{fold},{target},{('dog', 'rain')[target]},True,{index},A")
        sound(setting.folder / "audio" / name, seconds=0.3, rate=RATE)
    (setting.folder / "meta").mkdir()
    (setting.folder / "meta/esc50.csv").write_text("\n".join(lines) + "\n")
    return setting.folder


@scenario("psla.lab.folds.cross_validation.cross_validate", tiny_esc50, slow=True, keeps=True)
def _cross_validate(root: Path, out: Path, tell: Tell) -> Any:
    student = cross_validation.Student(seeds=(3,))
    asked = cross_validation.Experiment(recipe(epochs=1), root, out, (2,), seeds=(0, 1), student=student)
    found = cross_validation.cross_validate(asked, tell)
    return found.answers, [run.folder for run in found.runs]


@scenario("psla.lab.folds.selection.select", tiny_esc50, slow=True, keeps=True)
def _select(root: Path, out: Path, tell: Tell) -> Any:
    candidates = [Candidate(f"rate_{rate}", recipe(epochs=1, learning_rate=rate)) for rate in (0.001, 0.03)]
    found = selection.select(candidates, root, out, (2,), tell)
    return found.judged, found.chosen(2)


class Watcher:
    """Hands on all that a lab says."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def say(self, sentence: str) -> None:
        self.tell()

    def training(self, clips: Mapping[str, int], epochs: int) -> Any:
        return nullcontext(self.tell)


LAB = {
    "front_end.frames": 32,
    "front_end.mel_bins": 32,
    "backbone.pretraining": "none",
    "masking.frequency": 8,
    "masking.time": 8,
    "optimizer.batch_size": 8,
    "optimizer.epochs": 2,
    "optimizer.warmup_steps": 1,
    "averaging.first_epoch": 1,
}


def carried_out(
    clips: Clips, out: Path, rows: list[str], watcher: runner.Watcher | None = None, **changes: Any
) -> runner.Outcome:
    lab = Lab(out, clips, Recipe.load("demo", LAB | changes), "demo", LAB | changes, "soundscape")
    plan, asked = runner.prepare(lab, rows, (0,))
    lab.write(plan.seeds, list(plan.rows), "by hand")
    return runner.carry_out(lab, plan, asked, CPU, watcher=watcher)


def lab_clips(setting: Setting) -> Clips:
    """For rows with pretraining, whose weights fit no network as small as these: random ones in their place."""
    setting.patch.setattr("psla.training.session.load_imagenet", lambda backbone, *_: pretraining.init_random(backbone))
    return corpus(12, 6, broken=False)


@scenario("psla.lab.tables.runner.carry_out", lab_clips, slow=True, keeps=True)
def _carry_out(clips: Clips, out: Path, tell: Tell) -> Any:
    outcome = carried_out(clips, out, ["labels_12", "ensemble_checkpoints", "start_sweep"], Watcher(tell))
    assert not outcome.not_run
    return outcome.done, outcome.waiting  # how many it trained is what this very call did


THREE_EPOCHS = {"optimizer.epochs": 3}


def one_run(setting: Setting) -> tuple[Setting, Clips]:
    clips = lab_clips(setting)
    carried_out(clips, setting.folder / "lab", ["mixup"], **THREE_EPOCHS)
    return setting, clips


@scenario("psla.lab.sweep.sweep", one_run)
def _sweep(given: tuple[Setting, Clips], out: Path, tell: Tell) -> Any:
    setting, clips = given
    shutil.copytree(setting.folder / "lab", out, dirs_exist_ok=True)
    setting.patch.setattr(sweep, "start_sweep", partial(start_sweep, progress=tell))
    (run,) = (out / "runs").iterdir()
    return sweep.sweep(Lab(out, clips, Recipe.load("demo", LAB | THREE_EPOCHS)), Run(run))


def small_lab(setting: Setting) -> Path:
    return write_lab(setting.folder / "lab", seeds=(0, 1), held_out=60, files=1)


@scenario("psla.lab.tables.report.write_report", small_lab, slow=True)
def _lab_report(given: Path, out: Path, tell: Tell) -> Any:
    shutil.copytree(given, out, dirs_exist_ok=True)
    return write_lab_report(out, resamples=20, progress=tell)


class Rows:
    """Scores whose listener can be exchanged."""

    def __init__(self, folder: Path) -> None:
        self.tell = Tell()
        self.scores = Scoring(Measured(folder), 20, progress=lambda rows: self.tell())


@scenario("psla.lab.tables.verdicts.Scoring", small_lab, Rows)
def _scoring(subject: Rows, out: Path, tell: Tell) -> Any:
    subject.tell = tell
    names = ("ensemble_seeds", "baseline", "mixup", "masking")
    return [(subject.scores[name], subject.scores.estimate(name)) for name in names], subject.scores.prior


def planned(setting: Setting) -> list[Any]:
    """Jobs of three sizes. What they take is a matter of clocks, so it is made up."""
    lab = Lab(setting.folder / "lab", corpus(8, 4, broken=False), Recipe.load("demo", LAB))
    setting.patch.setattr(planning, "measure", lambda recipe, classes, runtime: (recipe.pooling.heads + 1.0, 2.0))
    plan, _ = runner.prepare(lab, ["pooling_1", "pooling_4", "pooling_mean", "mixup"], (0, 1))
    return list(plan.jobs.values())


@scenario("psla.lab.tables.plan.seconds_of", planned)
def _seconds_of(jobs: list[Any], out: Path, tell: Tell) -> Any:
    return planning.seconds_of(jobs, 28, 4, CPU, tell)


class TellingConsole(Console):
    """Tells of each line."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(file=io.StringIO())
        self.tell = tell

    def print(self, *arguments: Any, **more: Any) -> None:
        self.tell()
        super().print(*arguments, **more)


def demo_clips(setting: Setting) -> Clips:
    """The packaged model's weights fit no network as small as those of these tests; without it nothing else is missing,
    for its answers are printed only."""
    setting.patch.setattr(demo, "_tag_with_shipped", lambda console: None)
    return demo.corpus(8, 4)


@scenario("psla.lab.demo.run", demo_clips, slow=True)
def _demo(clips: Clips, out: Path, tell: Tell) -> Any:
    return demo.run(out, TellingConsole(tell), clips, {**LAB, "optimizer.batch_size": 4})
