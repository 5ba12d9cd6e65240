"""Cross-validation on ESC-50's official folds: train on all folds but one, score on that one, for each fold.

    OUT/fold_K/seed_S/                a run for each fold and seed
    OUT/fold_K/teacher-seed_S...      what each says of the training clips, where a student is asked for
    OUT/fold_K/teacher.safetensors    the committee of the seeds over them: the mean
    OUT/fold_K/student_S/             a run on these and the labels, of the same size and budget
    OUT/cross_validation.json         accuracies with intervals, confusions, misclassified clips; see `fold_accuracy`

`inner=True` is for choosing settings: it leaves the evaluation fold out altogether and scores on another fold of the
training folds, so that nothing is ever chosen on the clips that are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from psla.data.clips import Clips
from psla.data.corpora import esc50
from psla.evaluation.predictions import Predictions, average
from psla.lab.fold_accuracy import Answers, join
from psla.lab.trained import trained
from psla.lab.training_data import Predicting, teacher_predictions
from psla.recipe.recipe import Recipe
from psla.recipe.run import Run

FOLDS = esc50.FOLDS
VARIANTS = ("final", "last_five", "averaged", "checkpoint_ensemble")


@dataclass(frozen=True)
class Student:
    """A distilled model beside the others.

    weight: share of the committee's probabilities in the targets, 0 .. 1. seeds: one student for each.
    """

    weight: float = 0.5
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class CrossValidation:
    """What was trained and how it answered.

    answers: by system (`single`, `committee`, `student`) and variant. runs: every run. folds, seeds: as asked for.
    """

    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    answers: dict[tuple[str, str], Answers]
    runs: list[Run]

    @property
    def hours(self) -> float:
        """Clock time of all epochs of all runs, predictions included."""
        return sum(run.seconds for run in self.runs) / 3600


def fold_clips(root: str | Path, fold: int, inner: bool = False) -> Clips:
    """The clips of one round: evaluation on `fold`, or, `inner`, on the next fold with `fold` left out."""
    if not inner:
        return esc50.read(root, evaluation_fold=fold)
    judge = esc50.FOLDS[fold % len(esc50.FOLDS)]  # folds count from 1, so this is the one after `fold`
    left_out = set(esc50.read(root, evaluation_fold=fold).split("evaluation").clip_ids)
    clips = esc50.read(root, evaluation_fold=judge)
    return clips.filter(~pl.col("clip_id").is_in(sorted(left_out)))


def cross_validate(
    recipe: Recipe,
    root: str | Path,
    out: str | Path,
    folds: Sequence[int] = esc50.FOLDS,
    inner: bool = False,
    seeds: Sequence[int] = (0,),
    student: Student | None = None,
    progress: Callable[[str, str, int], None] = lambda run, stage, clips: None,
) -> CrossValidation:
    """Train and score every fold; a finished run in `out` is read, not run again, one that was interrupted goes on.

    Args:
        recipe: the same for each fold; its seed is replaced by each of `seeds`.
        root: a corpus in ESC-50's layout.
        out: a folder; see the module.
        folds: which folds are evaluated on.
        inner: for choosing settings; see the module.
        seeds: a run for each, and a committee of them where there are several.
        student: distil the committee.
        progress: told (run as `fold_1/seed_0`, stage, clips done).

    Raises:
        ClipsError: not the layout of ESC-50.
        RecipeError: a run in `out` was begun with another recipe.
    """
    parts: dict[tuple[str, str], list[Answers]] = {}
    runs: list[Run] = []
    for fold in folds:
        clips, folder = fold_clips(root, fold, inner), Path(out) / f"fold_{fold}"

        def run(name: str, recipe: Recipe, clips: Clips = clips, folder: Path = folder) -> Run:
            return trained(recipe, clips, folder / name, progress=partial(progress, f"{folder.name}/{name}"))

        singles = [run(f"seed_{seed}", _reseeded(recipe, seed)) for seed in seeds]
        systems = {"single": [[single] for single in singles]}
        if len(singles) > 1:
            systems["committee"] = [singles]
        if student is not None:
            distilled = _distilled(recipe, student, _teacher(singles, clips, folder))
            systems["student"] = [[run(f"student_{each.seed}", each)] for each in distilled]
        for system, members in systems.items():
            for variant in VARIANTS:
                part = _answers(members, variant, clips.split("evaluation"), fold)
                parts.setdefault((system, variant), []).append(part)
        runs += singles + [each for (each,) in systems.get("student", [])]
    answers = {key: join(each) for key, each in parts.items()}
    return CrossValidation(tuple(folds), tuple(seeds), answers, runs)


def _reseeded(recipe: Recipe, seed: int) -> Recipe:
    return Recipe.from_dict({**recipe.model_dump(), "seed": seed})


def _distilled(recipe: Recipe, student: Student, teacher: Path) -> list[Recipe]:
    values = recipe.model_dump()
    values["distillation"] = {"predictions": str(teacher), "weight": student.weight}
    return [Recipe.from_dict({**values, "seed": seed}) for seed in student.seeds]


def _teacher(singles: Sequence[Run], clips: Clips, folder: Path) -> Path:
    """The training clips as the seeds' averaged models hear them: the mean of their probabilities, made once."""
    path = folder / "teacher.safetensors"
    if not path.is_file():
        average(teacher_predictions(single, folder, Predicting(clips)) for single in singles).save(path)
    return path


def _answers(members: Sequence[Sequence[Run]], variant: str, clips: Clips, fold: int) -> Answers:
    """How a system answered on one fold: `members` has a list of runs for each of its models, a committee's several."""
    names = [variant]
    if variant in ("final", "last_five"):
        epochs = members[0][0].recipe.optimizer.epochs
        first = epochs if variant == "final" else max(1, epochs - 4)
        names = [f"epoch_{epoch:03d}" for epoch in range(first, epochs + 1)]
    files = []
    for runs in members:
        for name in names:
            each = [Predictions.read(run.predictions / "evaluation" / f"{name}.safetensors") for run in runs]
            files.append(each[0] if len(each) == 1 else average(each))
    return Answers.of(files, clips, fold)
