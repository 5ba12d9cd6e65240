"""Cross-validation on ESC-50's official folds: train on all folds but one, score on that one, for each fold.

    OUT/fold_K/seed_S/                a run for each fold and seed
    OUT/fold_K/settings/NAME/         a run for each fold and further setting, with the first seed
    OUT/fold_K/teacher-seed_S...      what each says of the training clips, where a student is asked for
    OUT/fold_K/teacher.safetensors    the ensemble of the seeds over them: the mean
    OUT/fold_K/student_S/             a run on these and the labels, of the same size and budget
    OUT/cross_validation.json, .md    what was found; see `fold_report.py`

Settings are to be chosen by `selection.py`, which never looks at the fold that is reported; each fold is then trained
with its own recipe. `inner=True` tries settings out by hand: it leaves the evaluation fold out altogether and scores on
another fold of the training folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from psla.corpora import esc50
from psla.data.clips import Clips
from psla.lab.experiment import Shard, Training, changed, share_of, train_apart, trained, working
from psla.lab.folds.answers import Answers
from psla.lab.folds.candidates import Candidate, SelectionError
from psla.lab.teaching import Predicting, teach_probabilities
from psla.metrics.predictions import Predictions, average
from psla.spread import Spread
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run

FOLDS = esc50.FOLDS
VARIANTS = ("final", "last_five", "averaged", "checkpoint_ensemble")
# Table X: the seeds of one setting; several settings, each with the first seed; all of these.
ENSEMBLES = ("ensemble", "settings", "all")


@dataclass(frozen=True)
class Student:
    """A distilled model beside the others.

    weight: share of the ensemble's probabilities in the targets, 0 .. 1. seeds: one student for each.
    """

    weight: float = 0.5
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Experiment:
    """What a cross-validation trains, and where.

    Attributes:
        recipe: the same for each fold, or one for each; its seed is replaced by each of `seeds`.
        root: a corpus in ESC-50's layout.
        out: a folder; see the module.
        folds: which folds are evaluated on.
        inner: for trying settings out; see the module.
        seeds: a run for each, and an ensemble of them where there are several.
        student: distil the ensemble of the seeds.
        settings: further settings, for every fold the same: a run of each with the first of `seeds`, and ensembles
            with them; see `ENSEMBLES`. They are to be chosen without a look at the folds, as the recipe is.

    Raises:
        RecipeError: a fold has no recipe.
        SelectionError: a setting has the name of another system.
    """

    recipe: Recipe | Mapping[int, Recipe]
    root: str | Path
    out: str | Path
    folds: Sequence[int] = FOLDS
    inner: bool = False
    seeds: Sequence[int] = (0,)
    student: Student | None = None
    settings: Sequence[Candidate] = ()

    def __post_init__(self) -> None:
        known = self.folds if isinstance(self.recipe, Recipe) else self.recipe
        if missing := [str(fold) for fold in self.folds if fold not in known]:
            raise RecipeError(f"there is no recipe for fold {', '.join(missing)}; leave it out, or choose one for it")
        if taken := [each.name for each in self.settings if each.name in ("single", "student", *ENSEMBLES)]:
            raise SelectionError(
                f"the setting {taken[0]!r} has the name of a system of the report; give it another one"
            )

    def recipe_of(self, fold: int) -> Recipe:
        """What the single models of this fold are trained with, whatever their seed."""
        return self.recipe if isinstance(self.recipe, Recipe) else self.recipe[fold]

    def clips_of(self, fold: int) -> Clips:
        """See `fold_clips`."""
        return fold_clips(self.root, fold, self.inner)


@dataclass(frozen=True)
class CrossValidation:
    """How what was trained answered.

    answers: by system (`single`, `student`, the name of a further setting, or one of `ENSEMBLES`) and variant.
    members: by system and fold, the runs that it consists of; an ensemble's are others' as well.
    """

    experiment: Experiment
    answers: dict[tuple[str, str], Answers]
    members: dict[str, dict[int, list[Run]]]

    @property
    def runs(self) -> list[Run]:
        """Every run, by fold."""
        systems = [folds for system, folds in self.members.items() if system not in ENSEMBLES]
        return [run for fold in self.experiment.folds for system in systems for run in system[fold]]

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


def train_singles(
    experiment: Experiment,
    shard: Shard | None = None,
    progress: Callable[[str, str, int], None] = lambda run, stage, clips: None,
    spread: Spread | None = None,
) -> list[Run]:
    """The trainings of single models, what `cross_validate` begins with; what it raises is raised here, too.

    Returns: by fold, those of its seeds; after all folds', again by fold, those of the further settings.

    Args:
        shard: (i, n), 1 <= i <= n: only every n-th of them; see `psla.lab.experiment`.
        progress: told (run as `fold_1/seed_0`, stage, clips done).
        spread: what does the trainings, a task each; None: this process.
    """
    folds, seeds, settings = experiment.folds, experiment.seeds, experiment.settings
    jobs = [
        (fold, f"seed_{seed}", changed(experiment.recipe_of(fold), {"seed": seed})) for fold in folds for seed in seeds
    ]
    jobs += [
        (fold, f"settings/{each.name}", changed(each.recipe, {"seed": seeds[0]})) for fold in folds for each in settings
    ]
    with working(Path(experiment.out), shard):
        wanted = [
            (recipe, experiment.clips_of(fold), Path(experiment.out), f"fold_{fold}/{place}")
            for fold, place, recipe in share_of(jobs, shard)
        ]
        if spread is not None:
            train_apart(wanted, spread, progress)
        return [
            trained(recipe, clips, out / name, progress=partial(progress, name)) for recipe, clips, out, name in wanted
        ]


def train_students(
    experiment: Experiment,
    shard: Shard | None = None,
    progress: Callable[[str, str, int], None] = lambda run, stage, clips: None,
    spread: Spread | None = None,
) -> dict[int, list[Run]]:
    """The students, if any are asked for, of each fold whose single models are all finished, by fold.

    Args:
        shard: (i, n), 1 <= i <= n: only every n-th of the folds.
        progress: told (run as `fold_1/student_0`, stage, clips done).
        spread: what does the trainings, a task each, when the teachers of all folds have spoken; None: this process.
    """
    if experiment.student is None:
        return {}
    wanted: dict[int, list[Training]] = {}
    with working(Path(experiment.out), shard):
        for fold in share_of(experiment.folds, shard):
            clips, recipe = experiment.clips_of(fold), experiment.recipe_of(fold)
            folder = Path(experiment.out) / f"fold_{fold}"
            places = {seed: folder / f"seed_{seed}" for seed in experiment.seeds}
            if not all(Run(place).is_finished for place in places.values()):
                continue
            singles = [trained(changed(recipe, {"seed": seed}), clips, place) for seed, place in places.items()]
            teacher = teach_probabilities(singles, folder, Predicting(clips), kept=folder)
            taught = {"distillation.predictions": str(teacher), "distillation.weight": experiment.student.weight}
            taught["distillation.teacher"] = None
            wanted[fold] = []
            for seed in experiment.student.seeds:
                own = changed(recipe, {**taught, "seed": seed})
                wanted[fold].append((own, clips, Path(experiment.out), f"{folder.name}/student_{seed}"))
        if spread is not None:
            train_apart([each for fold in wanted.values() for each in fold], spread, progress)
        return {
            fold: [trained(own, clips, out / name, progress=partial(progress, name)) for own, clips, out, name in each]
            for fold, each in wanted.items()
        }


def cross_validate(
    experiment: Experiment,
    progress: Callable[[str, str, int], None] = lambda run, stage, clips: None,
    spread: Spread | None = None,
) -> CrossValidation:
    """Train and score every fold; a finished run is read, not run again, one that was interrupted goes on.

    Args:
        progress: told (run as `fold_1/seed_0`, stage, clips done).
        spread: what does the trainings, a task each; None: this process, one after the other.

    Raises:
        ClipsError: not the layout of ESC-50.
        RecipeError: a run in the experiment's folder was begun with another recipe or on other clips.
        LabError: another process works on that folder.
    """
    folds = experiment.folds
    trainings = iter(train_singles(experiment, progress=progress, spread=spread))
    seeded = {fold: [next(trainings) for _ in experiment.seeds] for fold in folds}
    others = {fold: {each.name: next(trainings) for each in experiment.settings} for fold in folds}
    taught = train_students(experiment, progress=progress, spread=spread)
    parts: dict[tuple[str, str], list[Answers]] = {}
    members: dict[str, dict[int, list[Run]]] = {}
    for fold in folds:
        systems = _systems(seeded[fold], taught.get(fold, []), others[fold])
        evaluation = experiment.clips_of(fold).split("evaluation")
        for system, models in systems.items():
            members.setdefault(system, {})[fold] = [run for model in models for run in model]
            for variant in VARIANTS:
                parts.setdefault((system, variant), []).append(_answers(models, variant, evaluation, fold))
    return CrossValidation(experiment, {key: Answers.join(each) for key, each in parts.items()}, members)


def _systems(singles: list[Run], students: list[Run], others: Mapping[str, Run]) -> dict[str, list[list[Run]]]:
    """The systems of one fold; each has a list of runs for each of its models, an ensemble's several."""
    settings = list(others.values())
    systems = {
        "single": [[single] for single in singles],
        "ensemble": [singles] if len(singles) > 1 else [],
        "student": [[each] for each in students],
        **{name: [[run]] for name, run in others.items()},
        "settings": [[singles[0], *settings]] if others else [],
        "all": [[*singles, *settings]] if others and len(singles) > 1 else [],
    }
    return {system: models for system, models in systems.items() if models}


def _answers(members: Sequence[Sequence[Run]], variant: str, clips: Clips, fold: int) -> Answers:
    """How a system answered on one fold: `members` has a list of runs for each of its models, an ensemble's several."""
    files = []
    for runs in members:
        # Members of several settings may have fewer epochs: the shortest run's number of files counts.
        for paths in zip(*(_prediction_files(run, variant) for run in runs), strict=False):
            each = [Predictions.read(path) for path in paths]
            files.append(each[0] if len(each) == 1 else average(each))
    return Answers.of(files, clips, fold)


def _prediction_files(run: Run, variant: str) -> list[Path]:
    """The files that a variant is scored by, the last epoch first, for runs of an ensemble may differ in length."""
    if variant == "checkpoint_ensemble":  # the mean, which the run has kept
        return [run.predictions / "evaluation" / f"{variant}.safetensors"]
    return run.prediction_files(variant, "evaluation")[::-1]
