"""Selection: settings chosen on ESC-50's folds without a look at the fold that is reported (nested cross-validation).

For each candidate and each pair of neighbouring folds there is one training on the other three folds; `answers.py` says
which of their answers decide.

    OUT/CANDIDATE/without_2_3/   a run; its checkpoints are removed when it is finished (`model.safetensors` is kept)
    OUT/chosen/fold_2.yaml       the recipe chosen for fold 2, resolved: what `cross_validate` trains with
    OUT/selection.json           the scores, the choices, the rule

Not covered: choosing by several seeds, and the search for candidates, which are given (`candidates.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from psla.corpora import esc50
from psla.data.clips import Clips
from psla.files import sha256_of, write_json_atomic, write_text_atomic
from psla.lab.experiment import Costs, Shard, check_run, costs, machine, share_of, trained, working
from psla.lab.folds.answers import FOLDS, RULE, VARIANTS, Answers, Pair, choose, judges_of, pairs_of, run_name
from psla.lab.folds.candidates import Candidate, SelectionError
from psla.lab.tables.results import parameters
from psla.metrics.predictions import Predictions
from psla.sealed import read_json
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.training.session import check_fit
from psla.training.trainer import TrainingError

VERSION = 1


@dataclass(frozen=True)
class Selection:
    """What was chosen, and why.

    Attributes:
        candidates: in the order in which they were given. folds: for which there is a choice.
        judged: by candidate, pair and the one of its folds that judges, only what a fold of `folds` is judged by.
        costs: by candidate and pair.
    """

    candidates: tuple[Candidate, ...]
    folds: tuple[int, ...]
    judged: dict[tuple[str, Pair, int], Answers]
    costs: dict[tuple[str, Pair], Costs]

    def score(self, name: str, fold: int) -> Answers:
        """How a candidate stands for a fold: on the fold's judges."""
        return Answers.join([self.judged[name, pair, judge] for pair, judge in judges_of(fold)])

    def pooled(self, name: str) -> Answers:
        """How a candidate stands over all that were judged: to look at, nothing is chosen by it."""
        return Answers.join([each for (candidate, _, _), each in self.judged.items() if candidate == name])

    def chosen(self, fold: int) -> Candidate:
        """The choice for a fold."""
        name = choose({each.name: self.score(each.name, fold) for each in self.candidates})
        return next(each for each in self.candidates if each.name == name)

    def hours(self, name: str) -> float:
        """Of a candidate's trainings."""
        return sum(cost.hours for (candidate, _), cost in self.costs.items() if candidate == name)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows: a line for each candidate; a star marks what was chosen for the fold."""
        head = ["candidate", "final", "averaged", "log loss", "hours", *(f"fold {fold}" for fold in self.folds)]
        chosen, rows = {fold: self.chosen(fold).name for fold in self.folds}, []
        for each in self.candidates:
            (final, loss), (averaged, _) = self.pooled(each.name).of_models
            accuracies = {fold: self.score(each.name, fold).of_models[0][0] for fold in self.folds}
            marked = [f"{value:.4f}{'*' if chosen[fold] == each.name else ' '}" for fold, value in accuracies.items()]
            numbers = [f"{final:.4f}", f"{averaged:.4f}", f"{loss:.4f}", f"{self.hours(each.name):.2f}"]
            rows.append([each.name, *numbers, *marked])
        return head, rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without what `write` knows."""
        classes = len(next(iter(self.judged.values())).vocabulary)
        found = {
            each.name: {
                "parameters": parameters(each.recipe, classes),
                "hours": self.hours(each.name),
                "pooled": _scores(self.pooled(each.name)),
                "pairs": {run_name(pair): self._pair(each.name, pair) for pair in pairs_of(self.folds)},
                "recipe": each.recipe.model_dump(),
            }
            for each in self.candidates
        }
        outer = {
            str(fold): {
                "chosen": self.chosen(fold).name,
                "judges": [{"fold": judge, "run": run_name(pair)} for pair, judge in judges_of(fold)],
                "scores": {each.name: _scores(self.score(each.name, fold)) for each in self.candidates},
            }
            for fold in self.folds
        }
        return {"rule": RULE, "folds": outer, "candidates": found}

    def _pair(self, name: str, pair: Pair) -> dict[str, Any]:
        folds = {fold: self.judged[name, pair, fold] for fold in pair if (name, pair, fold) in self.judged}
        scores = {str(fold): _scores(answers) for fold, answers in folds.items()}
        return {"folds": scores, **self.costs[name, pair].to_dict()}

    def write(self, out: str | Path, command: str = "") -> None:
        """Write the chosen recipes, then selection.json, which knows them by their checksums."""
        out, data = Path(out), self.to_dict()
        for fold in self.folds:
            path = out / "chosen" / f"fold_{fold}.yaml"
            write_text_atomic(path, self.chosen(fold).recipe.to_yaml())
            data["folds"][str(fold)]["recipe"] = {"file": f"chosen/{path.name}", "sha256": sha256_of(path)}
        others = left_out(self.candidates, out)
        head = {"version": VERSION, "machine": machine(), "command": command, "not_considered": others}
        write_json_atomic(out / "selection.json", {**head, **data})


def _scores(answers: Answers) -> dict[str, Any]:
    accuracies, losses = (dict(zip(VARIANTS, each, strict=True)) for each in zip(*answers.of_models, strict=True))
    return {"clips": len(answers.clip_ids), "accuracy": accuracies, "log_loss": losses}


def left_out(candidates: Sequence[Candidate], out: Path) -> list[str]:
    """The names of candidates that have runs in a folder and are not among these."""
    names = {path.parent.parent.name for path in out.glob("*/without_*/recipe.yaml")}
    return sorted(names - {each.name for each in candidates})


def fold_of_clips(root: str | Path, folds: Sequence[int]) -> dict[str, int]:
    """Clip id -> fold, of the clips of some folds."""
    return {id: fold for fold in folds for id in esc50.read(root, evaluation_fold=fold).split("evaluation").clip_ids}


def pair_clips(root: str | Path, pair: Pair) -> Clips:
    """The clips of a pair's training: evaluation is both folds of the pair, train the other three."""
    clips, held_out = esc50.read(root), fold_of_clips(root, pair)
    split = pl.when(pl.col("clip_id").is_in(sorted(held_out))).then(pl.lit("evaluation")).otherwise(pl.lit("train"))
    return Clips(clips.frame.with_columns(split.alias("split")), clips.vocabulary, clips.name)


def train_candidates(
    candidates: Sequence[Candidate],
    root: str | Path,
    out: str | Path,
    folds: Sequence[int] = FOLDS,
    shard: Shard | None = None,
    progress: Callable[[str, str, int], None] = lambda run, stage, clips: None,
) -> list[Run]:
    """Do the trainings that choices for `folds` need; a finished one is left alone, one that was interrupted goes on.

    Args:
        candidates, root, out, folds: see `select`. shard: (i, n), 1 <= i <= n: only every n-th training.
        progress: told (run as `CANDIDATE/without_1_2`, stage, clips done).

    Raises:
        SelectionError: a candidate that does not fit the clips (before any training) or whose training cannot go on,
            or a run in `out` that was begun with another recipe or other clips.
        LabError, ClipsError: another process works on `out`; not the layout of ESC-50.
    """
    clips = {pair: pair_clips(root, pair) for pair in pairs_of(folds)}
    jobs = [(each, pair) for each in candidates for pair in clips]
    for each, pair in jobs:
        _check(each, clips[pair], _run(out, each, pair))
    runs = []
    with working(Path(out), shard):
        for each, pair in share_of(jobs, shard):
            name = f"{each.name}/{run_name(pair)}"
            try:
                run = trained(each.recipe, clips[pair], Path(out) / name, progress=partial(progress, name))
            except TrainingError as error:
                raise SelectionError(f"{name}: {error}; leave this candidate out, or mend it") from error
            # Hundreds of megabytes for each of many runs, which nothing reads any more.
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            runs.append(run)
    return runs


def judge(
    candidates: Sequence[Candidate], root: str | Path, out: str | Path, folds: Sequence[int] = FOLDS
) -> Selection:
    """Choose for each fold from finished trainings; see `select`.

    Raises:
        SelectionError: no candidates, or trainings that are not finished: they are counted and named.
    """
    if not candidates or not folds:
        raise SelectionError("a choice needs a fold and a candidate")
    pairs = pairs_of(folds)
    runs = {(each.name, pair): _run(out, each, pair) for each in candidates for pair in pairs}
    missing = [f"{name}/{run_name(pair)}" for (name, pair), run in runs.items() if not run.is_finished]
    if missing:
        raise SelectionError(
            f"{len(missing)} of {len(runs)} trainings in {out} are not finished: {', '.join(missing)}; run them first"
        )
    judged, spent = {}, {}
    for pair in pairs:
        clips, fold_of = pair_clips(root, pair), fold_of_clips(root, pair)
        # Of a pair's folds the one judges for the other: what no fold that was asked for is judged by stays unread.
        parts = {fold: clips.select([id for id in fold_of if fold_of[id] == fold]) for fold in pair
                 if sum(pair) - fold in folds}  # fmt: skip
        for each in candidates:
            run = runs[each.name, pair]
            _check(each, clips, run)
            paths = [path for variant in VARIANTS for path in run.prediction_files(variant, "evaluation")]
            files = [Predictions.read(path) for path in paths]
            for fold, part in parts.items():
                judged[each.name, pair, fold] = Answers.of(files, part, fold)
            spent[each.name, pair] = costs([run])
    return Selection(tuple(candidates), tuple(folds), judged, spent)


def select(
    candidates: Sequence[Candidate],
    root: str | Path,
    out: str | Path,
    folds: Sequence[int] = FOLDS,
    progress: Callable[[str, str, int], None] = lambda run, stage, clips: None,
    command: str = "",
) -> Selection:
    """Train every candidate, choose one for each fold by `RULE`, write selection.json and the chosen recipes.

    Args:
        candidates: in the order that decides between equals; see `load_candidates`.
        root: a corpus in ESC-50's layout.
        out: a folder; see the module. Trainings that shards have finished in it are not done again.
        folds: for which to choose, 1 to 5; each needs two of the five trainings of a candidate.
        progress: see `train_candidates`. command: kept in selection.json.

    Raises:
        SelectionError, LabError, ClipsError: see `train_candidates`.
    """
    train_candidates(candidates, root, out, folds, progress=progress)
    found = judge(candidates, root, out, folds)
    found.write(out, command)
    return found


def read_choices(path: str | Path) -> dict[int, Candidate]:
    """Fold -> what was chosen for it, from a selection.json and the recipes beside it.

    Raises:
        FileNotFoundError: no such file, or a recipe that it names is gone.
        SelectionError: no selection, one of another version, or a recipe that is not the one that was chosen.
    """
    path = Path(path)
    data = read_json(path, SelectionError, mend="`psla lab select` writes it")
    if "version" not in data or "folds" not in data:
        raise SelectionError(f"{path} is no selection; `psla lab select` writes one, selection.json")
    if data["version"] != VERSION:
        raise SelectionError(f"{path} has selection format {data['version']}, this psla reads {VERSION}")
    choices = {}
    for fold, each in data["folds"].items():
        file = path.parent / each["recipe"]["file"]
        if sha256_of(file) != each["recipe"]["sha256"]:
            raise SelectionError(f"{file} is not the recipe that was chosen; run `psla lab select` again")
        choices[int(fold)] = Candidate(each["chosen"], Recipe.load(file))
    return choices


def _run(out: str | Path, candidate: Candidate, pair: Pair) -> Run:
    return Run(Path(out) / candidate.name / run_name(pair))


def _check(candidate: Candidate, clips: Clips, run: Run) -> None:
    """Refuse what a training would stumble over, hours later, and a run of something else."""
    try:
        check_fit(candidate.recipe, clips)
    except RecipeError as error:
        raise SelectionError(f"candidate {candidate.name}: {error}") from error
    if run.exists:
        check_run(run, candidate.recipe, clips, SelectionError, f" than candidate {candidate.name}")
