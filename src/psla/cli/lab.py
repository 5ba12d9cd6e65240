"""`psla lab`: experiments of several runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psla.cli import lab_run
from psla.cli.console import CommandError, guarded, table, whole_numbers

if TYPE_CHECKING:
    from psla.report.html import Table

app = typer.Typer(no_args_is_help=True, help="Experiments of several runs.")
app.command("run")(lab_run.run)

ROOT = typer.Argument(help="ESC-50 or ESC-10: the folder that holds meta/ and audio/.")
SHARD = typer.Option(help="i/n: every n-th training; a call without it, after them, ends the job.")


@app.command("select")
@guarded
def select(
    root: Annotated[Path, ROOT],
    out: Annotated[Path, typer.Option(help="Runs, choices and scores go here; finished runs are not run again.")],
    candidates: Annotated[
        list[str], typer.Option(help="Names, YAML files or folders of them, or all; commas between, or repeated.")
    ],
    recipe: Annotated[
        str | None, typer.Option(help="What all candidates differ from, in place of what they extend.")
    ] = None,
    fold: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Choose only for these folds.")] = None,
    shard: Annotated[str | None, SHARD] = None,
) -> None:
    """Choose settings for each official fold without a look at it: nested cross-validation."""
    from psla.metrics.parts import parse_part

    part = parse_part(shard) if shard is not None else None
    from psla.lab.folds import selection
    from psla.lab.folds.candidates import load_candidates

    given = load_candidates(_words(candidates), recipe)
    folds = sorted(set(fold or selection.FOLDS))
    told = _Told()
    if part is not None:
        runs = selection.train_candidates(given, root, out, folds, part, told)
        typer.echo(f"shard {part[0]}/{part[1]}: {len(runs)} runs done; a call without --shard, after all, chooses")
        return
    found = selection.select(given, root, out, folds, told, _command())
    typer.echo(table(*found.table()))
    typer.echo(
        "* chosen for the fold, by its neighbours alone; final, averaged and log loss are of all that were judged"
    )
    if others := selection.left_out(given, out):
        typer.echo(f"not considered, though there are runs of them: {', '.join(others)}", err=True)
    typer.echo(f"details in {out / 'selection.json'}; next: psla lab cross-validate --selection {out}/selection.json")


@app.command("cross-validate")
@guarded
def cross_validate(
    root: Annotated[Path, ROOT],
    out: Annotated[Path, typer.Option(help="A run for each fold goes here; finished folds are not run again.")],
    recipe: Annotated[str | None, typer.Option(help="A preset by name, or a YAML file; esc50 if not given.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, as in optimizer.epochs=30.")] = None,
    selection: Annotated[
        Path | None, typer.Option(help="A selection.json: each fold with the recipe that was chosen for it.")
    ] = None,
    fold: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Only these folds.")] = None,
    inner: Annotated[bool, typer.Option("--inner", help="Try settings out: leave the evaluation fold out.")] = False,
    seeds: Annotated[str, typer.Option(help="As in 0,1,2: a run for each, and an ensemble of them.")] = "0",
    distill: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Teach a student; the teacher's share.")
    ] = None,
    student_seeds: Annotated[str, typer.Option(help="A student for each.")] = "0",
    settings: Annotated[
        list[str] | None,
        typer.Option(help="Further settings, as --candidates of psla lab select: a run of each, ensembles with them."),
    ] = None,
    shard: Annotated[str | None, SHARD] = None,
) -> None:
    """Train and score on each of the official folds in turn: single models, ensembles, students."""
    if selection is not None:
        _refuse_beside_selection(recipe, set_, inner)
    from psla.metrics.parts import parse_part

    part = parse_part(shard) if shard is not None else None
    numbers = whole_numbers(seeds, "a seed")
    from psla.lab.experiment import share_of
    from psla.lab.folds import cross_validation, fold_report
    from psla.lab.folds.candidates import load_candidates
    from psla.lab.folds.selection import read_choices
    from psla.training.recipe import Recipe, parse_override

    folds = sorted(set(fold or cross_validation.FOLDS))
    if selection is not None:
        choices = read_choices(selection)
        recipes = {number: each.recipe for number, each in choices.items()}
        names = {number: each.name for number, each in choices.items()}
    else:
        recipe = recipe or "esc50"
        recipes = dict.fromkeys(folds, Recipe.load(recipe, dict(parse_override(text) for text in set_ or [])))
        names = dict.fromkeys(folds, " ".join([recipe, *(set_ or [])]))
    others = load_candidates(_words(settings), recipe) if settings else []
    student = None if distill is None else cross_validation.Student(distill, whole_numbers(student_seeds, "a seed"))
    asked = cross_validation.Experiment(recipes, root, out, folds, inner, numbers, student, others)
    told = _Told()
    if part is not None:
        runs = cross_validation.train_singles(asked, part, told)
        taught = cross_validation.train_students(asked, part, told)
        waiting = [] if student is None else [each for each in share_of(folds, part) if each not in taught]
        typer.echo(_end_of_shard(part, len(runs) + sum(map(len, taught.values())), len(waiting)))
        return
    found = cross_validation.cross_validate(asked, told)
    fold_report.write_report(found, out, names, _command())
    _print(fold_report.accuracies(found.answers))
    _print(fold_report.differences(found.answers))
    typer.echo(f"{len(found.runs)} runs, {found.hours:.2f} h; details in {out / 'cross_validation.md'} and .json")


def _words(given: list[str]) -> list[str]:
    return [word.strip() for each in given for word in each.split(",") if word.strip()]


def _end_of_shard(part: tuple[int, int], done: int, waiting: int) -> str:
    late = f"; the students of {waiting} folds wait for other shards" if waiting else ""
    return f"shard {part[0]}/{part[1]}: {done} runs done{late}; a call without --shard, after all, ends the job"


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


def _print(shown: Table) -> None:
    """A table of text on the terminal, if it has a row."""
    if shown.rows:
        typer.echo(table(shown.head, [[str(cell) for cell in row] for row in shown.rows]) + "\n")


def _command() -> str:
    """What the user has typed."""
    return shlex.join(["psla", *sys.argv[1:]])
