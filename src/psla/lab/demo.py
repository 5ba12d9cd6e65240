"""The whole recipe on the embedded corpus, in minutes on two cores.

Two taggers see the same number of clips: the baseline has neither pretraining nor sampling, masking and mixup; the
other has all of them and is then averaged. Both are scored on the same fresh clips, and a clip that neither has seen is
tagged at the end. Then the model that comes with the package, which was trained on recordings, says what it takes
synthesised sounds for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from psla.data.clips import Clips
from psla.files import write_json_atomic
from psla.lab.experiment import soundscapes
from psla.model.file import load_model
from psla.model.inference import tag_waveforms
from psla.report.figures import comparison
from psla.synth import scene as soundscape
from psla.synth.sound_events import EVENTS
from psla.tagging.tagger import load
from psla.training.devices import settled
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.session import train
from psla.weights.packaged import DEFAULT

SECONDS = 2.56
TRAINING_CLIPS, EVALUATION_CLIPS = 400, 120
CLASSES = 13  # of the sounds; with all of them, minutes would not be enough
PACKAGED_SECONDS = 5.0
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
    return soundscapes(training, evaluation, SECONDS, 0.0, 0.0, CLASSES, seeds=(1, 2))


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
    if settled("auto") == "float32":
        console.print("This device has no bfloat16: trained in float32, its figures differ a little from others'.")
    variants = {
        "baseline": ("baseline (no pretraining, no sampling)", Recipe.load("demo", {**overrides, **BASELINE})),
        "psla": ("PSLA recipe", Recipe.load("demo", overrides)),
    }
    runs = {name: _train(name, title, recipe, clips, out, console) for name, (title, recipe) in variants.items()}
    ours, baseline = (runs[name].scores["evaluation"] for name in ("psla", "baseline"))
    found = {"baseline": baseline["final"], **{n: ours[n] for n in ("final", "averaged", "checkpoint_ensemble")}}
    scores = {name: {metric: values[metric] for metric in METRICS} for name, values in found.items()}
    write_json_atomic(out / "scores.json", scores)
    (out / "figures").mkdir(exist_ok=True)
    runs["psla"].draw(out / "figures")
    comparison(found, out / "figures" / "comparison.png")
    rows = [[name, *(f"{values[metric]:.3f}" for metric in METRICS)] for name, values in scores.items()]
    _print(console, "Evaluation clips, by variant", ["variant", "mAP", "AUC", "d-prime"], rows, numbers=(1, 2, 3))
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
    epoch, done = clips.counts()["train"], 0
    columns = (TextColumn(f"{title}: training"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=epoch * recipe.optimizer.epochs)

        def report(stage: str, count: int) -> None:
            nonlocal done
            if stage == "train":
                done += count
                bar.advance(task, count)
                if not console.is_terminal and done % epoch == 0:
                    console.print(f"{title}: epoch {done // epoch} trained ({done} clips)")

        return train(recipe, clips, out / name, progress=report)


def _print(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int]
) -> None:
    """A table whose columns in `numbers` stand to the right."""
    table = Table(title=title)
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place in numbers else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _tag_fresh(run: Run, console: Console) -> None:
    config = soundscape.SoundscapeConfig(seed=3, seconds=SECONDS, clips=1, classes=CLASSES)
    model = load_model(run.model_file)
    truth = set(soundscape.describe(config, 0).true_labels)
    rate = model.network.sample_rate
    tagging = tag_waveforms(model.network, [soundscape.synthesise(config, 0, rate)], rate)
    probabilities = tagging.clip_probabilities[0].clamp(0.0, 1.0)
    rows = []
    for index in probabilities.argsort(descending=True)[:8].tolist():
        sound = model.vocabulary[index]
        rows.append([sound.name, f"{probabilities[index]:.3f}", "yes" if sound.id in truth else ""])
    _print(console, "A freshly made clip, tagged", ["class", "probability", "true label"], rows, numbers=(1,))
    console.print("True labels: " + ", ".join(c.name for c in model.vocabulary if c.id in truth))


def _tag_with_shipped(console: Console) -> None:
    """One synthesised sound of each of the demo's classes to the packaged model, right or wrong."""
    tagger = load(DEFAULT)
    rate, rows = tagger.sample_rate, []
    for id, event in list(EVENTS.items())[:CLASSES]:
        sound = tagger.model.vocabulary[id]
        result = tagger.tag(event(np.random.default_rng(0), PACKAGED_SECONDS, rate), rate)
        ((answer, probability),) = result.top(1)
        own = float(result.clip_probabilities[sound.index])
        rows.append([sound.name, answer.name, f"{probability:.3f}", f"{own:.3f}"])
    head = ["synthesised", "answer", "probability", "its own class"]
    _print(console, f"{DEFAULT} hears synthesised sounds", head, rows, numbers=(2, 3))
    console.print(
        f"{DEFAULT} was trained on recordings of {len(tagger.model.vocabulary)} classes; these are none, so its "
        "answers say little of it. On a recording of yours: psla tag YOUR.wav"
    )
