"""One page of a single run: what was trained on what, how it went, and how well each class is recognised.

    write_run_report("runs/esc50")  # -> runs/esc50/report.html

An unfinished run has the parts that it has come to. Nothing is computed that the run has not stored, so a run that was
moved to another machine, without its sound files, still has its page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psla.metrics.scores import Scores
from psla.model import clip_ids
from psla.report import page
from psla.report.figures import Curve, curves, ranked, scatter
from psla.report.page import Bar, Columns, Folded, Gallery, Heading, Numbers, Part, Picture, Table, Text
from psla.sealed import read_json
from psla.training.keys import flatten
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.run_tables import RunError, read_rows

VARIANTS = {
    "final": "the last epoch",
    "last_five": "mean of the last five epochs' scores",
    "averaged": "averaged weights: model.safetensors",
    "checkpoint_ensemble": "averaged predictions of all epochs",
}
METRICS = {"mean_average_precision": "mAP", "mean_auc": "AUC", "d_prime": "d'", "accuracy": "accuracy"}


def write_run_report(folder: str | Path) -> Path:
    """Write RUN/report.html and return its path.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecipeError, ClipsError: a file of the run that cannot be read.
    """
    run = Run.open(folder)
    path = run.folder / "report.html"
    page.write_page(path, f"Run {run.folder.resolve().name}", run_parts(run))
    return path


def run_parts(run: Run) -> list[Part]:
    """The parts of the page."""
    scores = run.scores if run.is_finished else {}
    split = next((name for name in ("evaluation", "validation") if name in scores), None)
    parts = [*_head(run, scores, split), *_scores(scores)]
    if pictures := _curves(run):
        parts += [Heading("How it went"), Gallery(pictures)]
    if split is not None:
        parts += _classes(run, Scores.from_dict(scores[split]["averaged"]), split)
    return [*parts, *_recipe(run), *_pretraining(run), _rejected(run), *_times(run)]


def _head(run: Run, scores: Mapping[str, Any], split: str | None) -> list[Part]:
    recipe, clips = run.recipe, run.clips
    numbers = [(f"{name} clips", f"{count:,}") for name, count in clips.counts().items()]
    numbers.append(("classes", str(len(clips.vocabulary))))
    if split is not None:
        numbers.append((f"mAP, {split}", page.number(scores[split]["averaged"]["mean_average_precision"])))
    parts: list[Part] = [Numbers(numbers)]
    if not run.is_finished:
        done = len(run.read_log()) if (run.folder / "log.csv").is_file() else 0
        parts.append(Text(f"This run is not finished: {done} of {recipe.optimizer.epochs} epochs are logged."))
    environment = _json(run.folder / "environment.json")
    packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())
    facts = [
        ("corpus", clips.name or "clips"),
        ("recipe", f"{recipe.backbone.name}, {recipe.optimizer.epochs} epochs, seed {recipe.seed}"),
        ("machine", f"{environment.get('machine', '')}, {environment.get('threads', '?')} threads"),
        ("software", f"Python {environment.get('python', '')}, {packages}"),
    ]
    return [*parts, Table(["", "this run"], facts, text=(0, 1))]


def _scores(scores: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = []
    for split, variants in scores.items():
        if not isinstance(variants, Mapping):
            continue
        rows = [
            [label, *(page.number(variants[name].get(metric)) for metric in METRICS)]
            for name, label in VARIANTS.items()
            if name in variants
        ]
        parts += [Heading(f"Scores on the split {split}"), Table(["variant", *METRICS.values()], rows)]
    return parts


def _curves(run: Run) -> list[Picture]:
    if not (run.folder / "log.csv").is_file():
        return []
    log = run.read_log()
    pictures = []
    for columns, label in (
        ({"loss": ""}, "training loss"),
        ({"evaluation_map": "evaluation", "validation_map": "validation"}, "mAP"),
        ({"learning_rate": ""}, "learning rate"),
    ):
        lines = []
        for column, name in columns.items():
            points = [(row["epoch"], row[column]) for row in log if not math.isnan(row.get(column, math.nan))]
            if points:
                lines.append(Curve(name, [x for x, _ in points], [y for _, y in points]))
        if lines:
            last = ", ".join(f"{line.name} {line.y[-1]:.4g}".strip() for line in lines)
            caption = f"After each epoch: {label}; the last: {last}."
            pictures.append(Picture(curves(lines, "epoch", label, whole=True), caption, caption, narrow=True))
    return pictures


def _classes(run: Run, scores: Scores, split: str) -> list[Part]:
    """The averaged weights' scores, class by class, as a table and as two pictures."""
    clips = run.clips
    counts = dict(zip(clips.vocabulary.ids, clips.split("train").labels().counts().tolist(), strict=True))
    parts: list[Part] = [Heading(f"Class by class, on the split {split}")]
    values = [each.average_precision for each in scores.per_class]
    names = [each.name for each in scores.per_class]
    if scores.classes_scored:
        mean, label = scores.mean_average_precision, "average precision"
        sizes = [float(counts.get(each.id, 0)) for each in scores.per_class]
        pictures = [Picture(ranked(values, names, label, mean=mean), f"Sorted {label}", narrow=True)]
        if any(size > 0 and not math.isnan(value) for size, value in zip(sizes, values, strict=True)):
            caption = "Average precision of each class against its training clips."
            png = scatter(sizes, values, "training clips", label, log_x=True)
            pictures.append(Picture(png, caption, caption, narrow=True))
        parts.append(Gallery(pictures))
    columns: Columns = {
        "class": lambda c: c.name,
        "training clips": lambda c: f"{counts.get(c.id, 0):,}",
        "positives": lambda c: f"{c.positives:,}",
        "AP": lambda c: page.number(c.average_precision, 3),
        "bar": lambda c: Bar(0.0 if math.isnan(c.average_precision) else min(max(c.average_precision, 0.0), 1.0)),
        "AUC": lambda c: page.number(c.auc, 3),
        "d'": lambda c: page.number(c.d_prime, 2),
        "id": lambda c: c.id,
    }
    return [*parts, Table.of(scores.per_class, columns, text=(0, len(columns) - 1), sortable=True)]


def _recipe(run: Run) -> list[Part]:
    """Every key, with the package's default beside it."""
    usual = flatten(Recipe().model_dump())
    columns: Columns = {
        "key": lambda pair: pair[0],
        "value": lambda pair: _shown(pair[1]),
        "": lambda pair: "" if pair[1] == usual[pair[0]] else f"default: {_shown(usual[pair[0]])}",
    }
    table = Table.of(flatten(run.recipe.model_dump()).items(), columns)
    return [Heading("Recipe and provenance"), Folded("The resolved recipe", [table])]


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _pretraining(run: Run) -> list[Part]:
    details = _json(run.folder / "pretraining.json")
    if not details:
        return []
    if known := details.pop("training_clips", ""):
        details["training clips"] = f"{clip_ids.count(known)}, by the hashes of their ids"
    parts: list[Part] = [Text(str(details.pop("summary", "")))]
    if details:
        columns: Columns = {"": lambda pair: pair[0], "value": lambda pair: _shortened(pair[1])}
        parts.append(Table.of(details.items(), columns, text=(0, 1)))
    return [Folded("Pretraining", parts)]


def _shortened(value: Any) -> str:
    """How many there are, and the first eight of them, where there are more."""
    many = isinstance(value, list | dict) and len(value) > 8
    return f"{len(value)}: {', '.join(map(str, list(value)[:8]))} …" if many else str(value)


def _rejected(run: Run) -> Part:
    if rejected := list(run.rejected.items()):
        return page.listed("Rejected clips", ["clip", "reason"], rejected, " in rejected.csv")
    return Text("No clip was rejected.")


def _times(run: Run) -> list[Part]:
    parts: list[Part] = []
    path = run.folder / "timing.csv"
    if path.is_file():
        rows = [[row["epoch"], row["training_s"], row["total_s"]] for row in read_rows(path)]
        total = sum(float(row[2]) for row in rows)
        table = Table(["epoch", "training, s", "with predictions, s"], rows)
        parts.append(Folded(f"Times: {total / 3600:.3f} hours, {len(rows)} epochs", [table]))
    if (run.folder / "profile.json").is_file():
        parts.append(Folded("Where a step's time goes", [Table(["part", "ms a clip", "share"], run.profile)]))
    return parts


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, RunError) if path.is_file() else {}
