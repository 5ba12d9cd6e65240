"""`psla lab`: experiments of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from psla.cli import lab_run
from psla.cli.console import guarded, whole_numbers

app = typer.Typer(no_args_is_help=True, help="Experiments of several runs.")
app.command("run")(lab_run.run)


@app.command("cross-validate")
@guarded
def cross_validate(
    root: Annotated[Path, typer.Argument(help="ESC-50 or ESC-10: the folder that holds meta/ and audio/.")],
    out: Annotated[Path, typer.Option(help="A run for each fold goes here; finished folds are not run again.")],
    recipe: Annotated[str, typer.Option(help="A preset by name, or a YAML file.")] = "esc50",
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, as in optimizer.epochs=30.")] = None,
    fold: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Only these folds.")] = None,
    inner: Annotated[bool, typer.Option("--inner", help="Choose settings: leave the evaluation fold out.")] = False,
    seeds: Annotated[str, typer.Option(help="As in 0,1,2: a run for each, and a committee of them.")] = "0",
    distill: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Teach a student; the teacher's share.")
    ] = None,
    student_seeds: Annotated[str, typer.Option(help="A student for each.")] = "0",
) -> None:
    """Train and score on each of the official folds in turn: single models, committees, students."""
    from psla.files import write_json_atomic
    from psla.lab import cross_validation, fold_accuracy
    from psla.recipe.recipe import Recipe, parse_override

    plan = Recipe.load(recipe, dict(parse_override(text) for text in set_ or []))
    trained: dict[str, int] = {}
    told: dict[str, int] = {}

    def report(run: str, stage: str, clips: int) -> None:
        if stage == "train":
            trained[run] = trained.get(run, 0) + clips
        elif trained.get(run, 0) > told.get(run, 0):
            # Held-out clips are predicted once an epoch is trained.
            typer.echo(f"{run}: {trained[run]} clips trained on", err=True)
            told[run] = trained[run]

    student = None if distill is None else cross_validation.Student(distill, whole_numbers(student_seeds, "a seed"))
    folds = fold or list(cross_validation.FOLDS)
    found = cross_validation.cross_validate(
        plan, root, out, folds, inner, whole_numbers(seeds, "a seed"), student, report
    )
    details = {"inner": inner, "hours": round(found.hours, 3), **fold_accuracy.to_dict(found.answers)}
    write_json_atomic(out / "cross_validation.json", details)
    typer.echo(fold_accuracy.tables(found.answers))
    typer.echo(f"\n{len(found.runs)} runs, {found.hours:.2f} h; details in {out / 'cross_validation.json'}")
