"""Teaching: what models say of the training clips, and what others are then trained on: more labels, or probabilities.

A teacher's predictions are made once and kept, and so is what is made of them. `teach` is the teacher loop: train,
predict the training clips, enhance their labels, train again; Table VIII's columns. Every step leaves a file and is not
done again when it is there: a training that was interrupted goes on from its state.

    OUT/seed_0/first/         a run on the labels as they are
    OUT/seed_0/teacher.safetensors, enhanced.parquet
    OUT/seed_0/second/        a run on the enhanced labels
    OUT/teaching.json         the table

The rows of a lab are taught by its runs:

    LAB/labels/teacher-RUN.safetensors        what a run says of the training clips
    LAB/labels/RUN/clips.parquet              the enhanced clips that RUN is trained on
    LAB/labels/RUN/enhancement.json           what was added to them: Table VIII's first columns
    LAB/labels/RUN/teacher.safetensors        the mean of several teachers, for a distillation

Paper: section V-B, Table VIII; there the balanced set's teacher was trained on the full set (`teacher`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psla.data.clips import Clips
from psla.data.ontology import Ontology
from psla.data.source import open_source
from psla.files import write_json_atomic
from psla.lab.experiment import changed, spread, trained, whole_mean
from psla.metrics.predictions import Predictions, average, is_predictions
from psla.metrics.scores import Scores, score
from psla.model.inference import predict
from psla.report.enhancement import against_truth
from psla.techniques.enhancement import EnhancedClips, enhance_clips
from psla.techniques.labeling import TYPES, Relation
from psla.training.devices import Runtime
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.weights.catalogue import load_any

VARIANT = "averaged"  # the predictions that are compared, in both runs
COLUMNS = (
    "impacted_classes",
    "labels_added_percent",
    "impacted_improvement_percent",
    "non_impacted_improvement_percent",
    "mean_classwise_relative_percent",
    "map_before",
    "map_after",
)


@dataclass(frozen=True)
class Teaching:
    """How labels are enhanced between the two rounds; see `psla.techniques.labeling.enhance`.

    teacher: a model, an ensemble or a file of predictions in place of the first round's model.
    """

    types: Collection[str] = frozenset(TYPES)
    threshold: str | float = "mean"
    relation: Relation = "all"
    teacher: Path | None = None
    ontology: Ontology = field(default_factory=Ontology.audioset)


def teach(
    recipe: Recipe,
    clips: Clips,
    out: str | Path,
    seeds: Sequence[int] = (0,),
    teaching: Teaching | None = None,
    runtime: Runtime = Runtime(),  # noqa: B008  (frozen)
    progress: Callable[[str, str, int], None] = lambda round, stage, clips: None,
) -> dict[str, Any]:
    """Two rounds for each seed; the content of `OUT/teaching.json`.

    Args:
        recipe: of both rounds; its seed is replaced by each of `seeds`.
        clips: with the splits train, and evaluation or validation to score on.
        progress: told (round, stage, clips done).

    Raises:
        RecipeError: clips that hold nothing out, or a folder with another recipe's run.
    """
    split = next((name for name in ("evaluation", "validation") if clips.counts().get(name)), None)
    if split is None:
        raise RecipeError("the clips hold nothing out to score on: hold out with --validation, or add evaluation clips")
    teaching = teaching or Teaching()
    rows = []
    for seed in seeds:
        folder = Path(out) / f"seed_{seed}"
        seeded = changed(recipe, {"seed": seed})
        first = trained(seeded, clips, folder / "first", runtime, partial(progress, "first"))
        enhanced = _enhanced(clips, first, folder, teaching)
        second = trained(seeded, enhanced.clips, folder / "second", runtime, partial(progress, "second"))
        rows.append({"seed": seed, **_row(clips, split, first, second, enhanced, teaching.ontology)})
    table = {"split": split, "variant": VARIANT, "seeds": rows, "summary": summary(rows)}
    write_json_atomic(Path(out) / "teaching.json", table)
    return table


def _enhanced(clips: Clips, first: Run, folder: Path, teaching: Teaching) -> EnhancedClips:
    """The clips with enhanced labels; the teacher's predictions are made once and kept."""
    given = first.model_file if teaching.teacher is None else teaching.teacher
    said = _said(given, folder / "teacher.safetensors", Predicting(clips))
    enhanced = enhance_clips(clips, said, teaching.ontology, teaching.types, teaching.threshold, teaching.relation)
    enhanced.clips.write(folder / "enhanced.parquet")
    return enhanced


def _row(
    clips: Clips, split: str, first: Run, second: Run, enhanced: EnhancedClips, ontology: Ontology
) -> dict[str, Any]:
    """Table VIII's columns for one seed; against the true labels, too, where the clips have them."""
    row = additions_row(clips, enhanced, ontology)
    impacted = np.isin(enhanced.enhancement.labels.vocabulary.ids, row.pop("classes_added_to"))
    predictions = [Predictions.read(path) for run in (first, second) for path in run.prediction_files(VARIANT, split)]
    for column in ("labels", "true_labels"):
        if column in clips.frame.columns:
            truth = clips.split(split).labels(column).part(predictions[0].vocabulary)
            before, after = ([score(each, truth)] for each in predictions)
            found = improvements(before, after, impacted)
            row |= found if column == "labels" else {column: found}
    return row


def additions_row(clips: Clips, enhanced: EnhancedClips, ontology: Ontology) -> dict[str, Any]:
    """Table VIII's columns on what was added, before any training.

    Returns:
        `impacted_classes` and `labels_added_percent`; `classes_added_to`, the ids of the impacted classes; and, where
        the clips have true labels, `additions`, see `against_truth`.
    """
    additions, vocabulary = enhanced.enhancement.additions, enhanced.enhancement.labels.vocabulary
    added = np.bincount(additions.classes, minlength=len(vocabulary))
    before = int(enhanced.enhancement.original.counts().sum())
    row: dict[str, Any] = {
        "impacted_classes": int((added > 0).sum()),
        "labels_added_percent": 100 * len(additions) / before,
        "classes_added_to": [vocabulary.ids[index] for index in np.flatnonzero(added)],
    }
    if "true_labels" in clips.frame.columns:
        row["additions"] = against_truth(enhanced.enhancement, enhanced.part.labels("true_labels"), ontology)
    return row


def improvements(before: Sequence[Scores], after: Sequence[Scores], impacted: np.ndarray) -> dict[str, float | None]:
    """Table VIII's columns on two rounds: `relative_improvements`, `map_before` and `map_after`.

    Args:
        before, after: of one prediction file or several of a round, whose mean counts; the classes in the same order.
        impacted: (classes,) bool, got a label.
    """
    old, new = (
        np.mean([[each.average_precision for each in found.per_class] for found in round], axis=0)
        for round in (before, after)
    )
    return {
        **relative_improvements(old, new, impacted),
        "map_before": whole_mean(found.mean_average_precision for found in before),
        "map_after": whole_mean(found.mean_average_precision for found in after),
    }


def relative_improvements(before: np.ndarray, after: np.ndarray, impacted: np.ndarray) -> dict[str, float | None]:
    """Table VIII's means over classes of the relative improvement of the average precision, in per cent.

    Classes without positives are left out; None where no class is left.

    Args:
        before, after: (classes,) average precision, NaN without positives. impacted: (classes,) bool, got a label.

    Example:
        >>> relative_improvements(np.array([0.5, 0.4]), np.array([0.6, 0.4]), np.array([True, False]))
        ... # doctest: +NORMALIZE_WHITESPACE, +ELLIPSIS
        {'impacted_improvement_percent': 19.99..., 'non_impacted_improvement_percent': 0.0,
         'mean_classwise_relative_percent': 9.99...}
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = 100 * (after - before) / before
    known = np.isfinite(relative)

    def over(chosen: np.ndarray) -> float | None:
        chosen = chosen & known
        return float(relative[chosen].mean()) if chosen.any() else None

    return {
        "impacted_improvement_percent": over(impacted),
        "non_impacted_improvement_percent": over(~impacted),
        "mean_classwise_relative_percent": over(np.ones_like(impacted)),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation over the seeds of each column; no deviation from a single seed."""
    summary: dict[str, dict[str, float | None]] = {}
    for prefix, each in (("", rows), ("true_labels.", [row["true_labels"] for row in rows if "true_labels" in row])):
        columns = {column: spread(row.get(column) for row in each) for column in COLUMNS}
        summary |= {prefix + column: found for column, found in columns.items() if found["mean"] is not None}
    return summary


@dataclass(frozen=True)
class Predicting:
    """How a teacher predicts: which clips (all that there are to train on, since the file is kept for every row),
    where, and who is told the clips done."""

    clips: Clips
    device: torch.device | str = "cpu"
    progress: Callable[[int], None] = lambda clips: None


def teach_labels(clips: Clips, teacher: Run, types: str, folder: Path, predicting: Predicting) -> Clips:
    """The clips with labels that a run has enhanced (`types`: I, II or I+II); made once, into `folder`."""
    path = folder / "clips.parquet"
    if not path.is_file():
        predictions = teacher_predictions(teacher, folder.parent, predicting)
        if len(clips) < len(predicting.clips):
            known = set(predictions.clip_ids)
            predictions = predictions.select([id for id in clips.split("train").clip_ids if id in known])
        ontology = Ontology.audioset()
        enhanced = enhance_clips(clips, predictions, ontology, set(types.split("+")))
        write_json_atomic(folder / "enhancement.json", additions_row(clips, enhanced, ontology))
        enhanced.clips.write(path)  # last: with it all is there
    return Clips.read(path)


def teach_probabilities(
    teachers: Sequence[Run], folder: Path, predicting: Predicting, kept: Path | None = None
) -> Path:
    """A file of the mean of the teachers' probabilities of the training clips; made once, into `folder`.

    Args:
        kept: where what each of them says is kept; by default in the folder above.
    """
    path = folder / "teacher.safetensors"
    if not path.is_file():
        average(teacher_predictions(run, kept or folder.parent, predicting) for run in teachers).save(path)
    return path


def teacher_predictions(teacher: Run, folder: Path, predicting: Predicting) -> Predictions:
    """What the averaged model of a run says of the training clips; made once."""
    return _said(teacher.model_file, folder / f"teacher-{teacher.folder.name}.safetensors", predicting)


def _said(teacher: Path, path: Path, predicting: Predicting) -> Predictions:
    """What a model, an ensemble or a file of predictions says of the training clips; made once, into `path`."""
    if path.is_file():
        return Predictions.read(path)
    if is_predictions(teacher):
        found = Predictions.read(teacher)
    else:
        model, device = load_any(teacher), predicting.device
        source = open_source(predicting.clips.split("train"), model.network.sample_rate)
        network, progress = model.network.to(device), predicting.progress
        found = predict(network, source, model.vocabulary, split="train", device=device, progress=progress).predictions
    found.save(path)
    return Predictions.read(path)
