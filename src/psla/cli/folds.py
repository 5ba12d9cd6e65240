"""`psla lab select` and `cross-validate`: settings chosen and scored fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psla.cli.console import (
    CommandError,
    command_line,
    keeps,
    one_part,
    part_of,
    seeds_of,
    spread_over,
    table,
    words_of,
)
from psla.cli.options import (
    BaseRecipe,
    Candidates,
    Chosen,
    Cluster,
    FoldShard,
    Overrides,
    Root,
    Settings,
)
from psla.cli.places import READ, Writes
from psla.cli.training import finished_runs

if TYPE_CHECKING:
    from psla.training.recipe import Recipe

SELECTION = Writes(folder=True, names=("selection.json",), marker=("selection.json", "json"))
CROSS_VALIDATION = Writes(
    folder=True, names=("cross_validation.json", "cross_validation.md"), marker=("cross_validation.json", "json")
)


@keeps(finished_runs)
def select(
    root: Root,
    out: Annotated[
        Path, typer.Option(help="Runs, choices and scores go here; finished runs are not run again."), SELECTION
    ],
    candidates: Candidates,
    recipe: BaseRecipe = None,
    fold: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Choose only for these folds.")] = None,
    shard: FoldShard = None,
) -> None:
    """Choose settings for each official fold without a look at it: nested cross-validation."""
    part = part_of(shard)
    from psla.lab.folds import selection
    from psla.lab.folds.candidates import load_candidates

    given = load_candidates(words_of(candidates), recipe)
    folds = sorted(set(fold or selection.FOLDS))
    told = _Told()
    if part is not None:
        runs = selection.train_candidates(given, root, out, folds, part, told)
        typer.echo(f"shard {part[0]}/{part[1]}: {len(runs)} runs done; a call without --shard, after all, chooses")
        return
    found = selection.select(given, root, out, folds, told, command_line())
    typer.echo(table(*found.table()))
    typer.echo(
        "* chosen for the fold, by its neighbours alone; final, averaged and log loss are of all that were judged"
    )
    if others := selection.left_out(given, out):
        typer.echo(f"not considered, though there are runs of them: {', '.join(others)}", err=True)
    typer.echo(f"details in {out / 'selection.json'}; next: psla lab cross-validate --selection {out}/selection.json")


@keeps(finished_runs)
def cross_validate(
    root: Root,
    out: Annotated[
        Path, typer.Option(help="A run for each fold goes here; finished folds are not run again."), CROSS_VALIDATION
    ],
    recipe: Annotated[
        str | None, typer.Option(help="A preset by name, or a YAML file; esc50 if not given."), READ
    ] = None,
    set_: Overrides = None,
    selection: Chosen = None,
    fold: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Only these folds.")] = None,
    inner: Annotated[bool, typer.Option("--inner", help="Try settings out: leave the evaluation fold out.")] = False,
    seeds: Annotated[str, typer.Option(help="As in 0,1,2: a run for each, and an ensemble of them.")] = "0",
    distill: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Teach a student; the teacher's share.")
    ] = None,
    student_seeds: Annotated[str, typer.Option(help="A student for each.")] = "0",
    settings: Settings = None,
    shard: FoldShard = None,
    cluster: Cluster = None,
) -> None:
    """Train and score on each of the official folds in turn: single models, ensembles, students."""
    if selection is not None:
        _refuse_beside_selection(recipe, set_, inner)
    part, numbers = one_part(shard, cluster), seeds_of(seeds)
    from psla.lab.experiment import share_of
    from psla.lab.folds import cross_validation, fold_report
    from psla.lab.folds.candidates import load_candidates

    folds = sorted(set(fold or cross_validation.FOLDS))
    base = None if selection is not None else recipe or "esc50"
    names, recipes = _recipes(folds, selection, base or "", set_ or [])
    others = load_candidates(words_of(settings), base) if settings else []
    student = None if distill is None else cross_validation.Student(distill, seeds_of(student_seeds))
    asked = cross_validation.Experiment(recipes, root, out, folds, inner, numbers, student, others)
    told = _Told()
    if part is not None:
        runs = cross_validation.train_singles(asked, part, told)
        taught = cross_validation.train_students(asked, part, told)
        waiting = [] if student is None else [each for each in share_of(folds, part) if each not in taught]
        late = f"; the students of {len(waiting)} folds wait for other shards" if waiting else ""
        done = f"{len(runs) + sum(map(len, taught.values()))} runs done{late}"
        typer.echo(f"shard {part[0]}/{part[1]}: {done}; a call without --shard, after all, ends the job")
        return
    with spread_over(cluster) as spread:
        found = cross_validation.cross_validate(asked, told, spread)
    fold_report.write_report(found, out, names, command_line())
    for shown in (fold_report.accuracies(found.answers), fold_report.differences(found.answers)):
        if shown.rows:
            typer.echo(table(shown.head, shown.rows) + "\n")
    typer.echo(f"{len(found.runs)} runs, {found.hours:.2f} h; details in {out / 'cross_validation.md'} and .json")


def _recipes(
    folds: Sequence[int], selection: Path | None, recipe: str, overrides: Sequence[str]
) -> tuple[dict[int, str], dict[int, Recipe]]:
    """What each fold is trained with, by name, and the recipes themselves."""
    from psla.lab.folds.selection import read_choices
    from psla.training.keys import parse_override
    from psla.training.recipe import Recipe

    if selection is not None:
        choices = read_choices(selection)
        return {fold: each.name for fold, each in choices.items()}, {fold: e.recipe for fold, e in choices.items()}
    loaded = Recipe.load(recipe, dict(map(parse_override, overrides)))
    return dict.fromkeys(folds, " ".join([recipe, *overrides])), dict.fromkeys(folds, loaded)


class _Told:
    """Tells the user, on stderr, how many clips each run has been trained on, once an epoch."""

    def __init__(self) -> None:
        self.trained: dict[str, int] = {}
        self.told: dict[str, int] = {}

    def __call__(self, run: str, stage: str, clips: int) -> None:
        if stage == "train":
            self.trained[run] = self.trained.get(run, 0) + clips
        elif self.trained.get(run, 0) > self.told.get(run, 0):
            # Held-out clips are predicted once an epoch is trained.
            typer.echo(f"{run}: {self.trained[run]} clips trained on", err=True)
            self.told[run] = self.trained[run]


def _refuse_beside_selection(recipe: str | None, overrides: list[str] | None, inner: bool) -> None:
    given = {"--recipe": recipe is not None, "--set": bool(overrides), "--inner": inner}
    for name, is_given in given.items():
        if is_given and name == "--inner":
            raise CommandError("--inner would score on the very folds that --selection has chosen by; give one of them")
        if is_given:
            raise CommandError(f"--selection says which recipe each fold has; give either it or {name}")
