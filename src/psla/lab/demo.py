"""The whole recipe on the embedded corpus, in minutes on two cores.

Two taggers see the same number of clips: the baseline has neither pretraining nor sampling, masking and mixup; the
other has all of them and is then averaged. Both are scored on the same fresh clips, and a clip that neither has seen is
tagged at the end. Then the model that comes with the package, which was trained on recordings, says what it takes
synthesised sounds for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from psla.corpora.esc50 import AUDIOSET_CLASS
from psla.data.clips import Clips
from psla.files import write_json_atomic
from psla.model.file import load_model
from psla.model.inference import tag_waveforms
from psla.report.figures import comparison
from psla.synth import scene as soundscape
from psla.synth.sound_events import EVENTS
from psla.tagging.tagger import load
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.training import train
from psla.weights.packaged import DEFAULT

SECONDS = 2.56
TRAINING_CLIPS, EVALUATION_CLIPS = 400, 120
CLASSES = 13  # of the sounds; with all of them, minutes would not be enough
SHIPPED_SECONDS = 5.0  # as the recordings that the shipped model was trained on
# The components that the baseline goes without: P, and all of S.
BASELINE = {
    "backbone.pretraining": "none",
    "sampling.balanced": False,
    "mixup.rate": 0.0,
    "masking.frequency": 0,
    "masking.time": 0,
}
METRICS = ("mean_average_precision", "mean_auc", "d_prime")


def corpus(training: int = TRAINING_CLIPS, evaluation: int = EVALUATION_CLIPS) -> Clips:
    """The demo's clips: a long-tailed training split, and an evaluation split from another seed, equally tailed."""
    rows = []
    for split, seed, clips in (("train", 1, training), ("evaluation", 2, evaluation)):
        config = soundscape.SoundscapeConfig(seed=seed, seconds=SECONDS, clips=clips, classes=CLASSES)
        rows += soundscape.table(config, split=split)
    return Clips.from_rows(rows, soundscape.vocabulary(config), name="soundscape")


def run(
    out: str | Path,
    console: Console | None = None,
    clips: Clips | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, compare, draw and tag; the content of `OUT/scores.json`.

    Args:
        out: a folder; an earlier demo in it is replaced.
        console: where to write; standard output by default.
        clips: other clips than `corpus()`, for a shorter demo.
        overrides: of recipe keys, for both variants.

    Raises:
        FileExistsError: the folder holds something that is not a demo.
    """
    out, console = Path(out), console or Console()
    _clear(out)
    clips, overrides = clips or corpus(), dict(overrides or {})
    counts = clips.counts()
    console.print(
        f"[bold]psla demo[/bold]: {counts['train']} synthesised clips of {SECONDS} s to train on, "
        f"{counts['evaluation']} to evaluate, {len(clips.vocabulary)} AudioSet classes, "
        f"{torch.get_num_threads()} threads"
    )
    variants = {
        "baseline": ("baseline (no pretraining, no sampling)", Recipe.load("demo", {**overrides, **BASELINE})),
        "psla": ("PSLA recipe", Recipe.load("demo", overrides)),
    }
    runs = {name: _train(name, title, recipe, clips, out, console) for name, (title, recipe) in variants.items()}
    scores = _scores(runs)
    write_json_atomic(out / "scores.json", scores)
    _figures(out, runs)
    console.print(_table(scores))
    _tag_fresh(runs["psla"], console)
    _tag_with_shipped(console)
    console.print(f"Scores: {out / 'scores.json'}; figures: {out / 'figures'}; model: {runs['psla'].model_file}")
    return scores


def _clear(out: Path) -> None:
    if not out.exists():
        return
    if any(out.iterdir()) and not (out / "demo.json").exists():
        raise FileExistsError(f"{out} holds something that is not a demo; name another folder with --out")
    shutil.rmtree(out)


def _train(name: str, title: str, recipe: Recipe, clips: Clips, out: Path, console: Console) -> Run:
    out.mkdir(parents=True, exist_ok=True)
    (out / "demo.json").write_text(json.dumps({"version": 1}), encoding="utf-8")
    epoch = clips.counts()["train"]
    columns = (TextColumn(f"{title}: training"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=epoch * recipe.optimizer.epochs)
        return train(recipe, clips, out / name, progress=_reporter(title, epoch, bar, task, console))


def _reporter(title: str, epoch: int, bar: Progress, task: Any, console: Console) -> Callable[[str, int], None]:
    done = 0

    def report(stage: str, count: int) -> None:
        nonlocal done
        if stage != "train":
            return
        done += count
        bar.advance(task, count)
        if not console.is_terminal and done % epoch == 0:
            console.print(f"{title}: epoch {done // epoch} trained ({done} clips)")

    return report


def _scores(runs: dict[str, Run]) -> dict[str, Any]:
    ours, baseline = (runs[name].scores["evaluation"] for name in ("psla", "baseline"))
    variants = {"baseline": baseline["final"], **{n: ours[n] for n in ("final", "averaged", "checkpoint_ensemble")}}
    return {name: {metric: scores[metric] for metric in METRICS} for name, scores in variants.items()}


def _figures(out: Path, runs: dict[str, Run]) -> None:
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    ours, baseline = (runs[name].scores["evaluation"] for name in ("psla", "baseline"))
    runs["psla"].draw(figures)
    comparison(
        {"baseline": baseline["final"], **{n: ours[n] for n in ("final", "averaged", "checkpoint_ensemble")}},
        figures / "comparison.png",
    )


def _table(scores: dict[str, Any]) -> Table:
    table = Table(title="Evaluation clips, by variant")
    table.add_column("variant")
    for column in ("mAP", "AUC", "d-prime"):
        table.add_column(column, justify="right")
    for name, values in scores.items():
        table.add_row(name, *(f"{values[metric]:.3f}" for metric in METRICS))
    return table


def _tag_fresh(run: Run, console: Console) -> None:
    config = soundscape.SoundscapeConfig(seed=3, seconds=SECONDS, clips=1, classes=CLASSES)
    model = load_model(run.model_file)
    truth = set(soundscape.describe(config, 0).true_labels)
    rate = model.network.config.front_end.sample_rate
    tagging = tag_waveforms(model.network, [soundscape.synthesise(config, 0, rate)])
    probabilities = tagging.clip_probabilities[0].clamp(0.0, 1.0)
    table = Table(title="A freshly made clip, tagged")
    table.add_column("class")
    table.add_column("probability", justify="right")
    table.add_column("true label")
    for index in probabilities.argsort(descending=True)[:8].tolist():
        sound = model.vocabulary[index]
        table.add_row(sound.name, f"{probabilities[index]:.3f}", "yes" if sound.id in truth else "")
    console.print(table)
    console.print("True labels: " + ", ".join(c.name for c in model.vocabulary if c.id in truth))


def _tag_with_shipped(console: Console) -> None:
    """One synthesised sound of every class that the shipped model knows and the corpus can make, right or wrong."""
    tagger = load(DEFAULT)
    rate = tagger.model.network.config.front_end.sample_rate
    table = Table(title=f"{DEFAULT} hears synthesised sounds")
    table.add_column("synthesised")
    table.add_column("answer")
    table.add_column("probability", justify="right")
    table.add_column("its own class", justify="right")
    for sound in tagger.model.vocabulary:
        event = EVENTS.get(AUDIOSET_CLASS[sound.id])
        if event is None:
            continue
        result = tagger.tag(event(np.random.default_rng(0), SHIPPED_SECONDS, rate), rate)
        ((answer, probability),) = result.top(1)
        own = float(result.clip_probabilities[sound.index])
        table.add_row(sound.name, answer.name, f"{probability:.3f}", f"{own:.3f}")
    console.print(table)
    console.print(
        f"{DEFAULT} was trained on recordings of {len(tagger.model.vocabulary)} classes; these are none, so its "
        "answers say little of it. On a recording of yours: psla tag YOUR.wav"
    )
