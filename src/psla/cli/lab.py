"""`psla lab`: experiments of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from psla.cli.console import guarded

app = typer.Typer(no_args_is_help=True, help="Experiments of several runs.")


@app.callback()
def _lab() -> None:
    # Keeps `cross-validate` a command of its own: Typer folds a group of one command into it.
    pass


@app.command("cross-validate")
@guarded
def cross_validate(
    root: Annotated[Path, typer.Argument(help="ESC-50 or ESC-10: the folder that holds meta/ and audio/.")],
    out: Annotated[Path, typer.Option(help="A run for each fold goes here; finished folds are not run again.")],
    recipe: Annotated[str, typer.Option(help="A preset by name, or a YAML file.")] = "esc50",
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, as in optimizer.epochs=30.")] = None,
    fold: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Only these folds.")] = None,
    inner: Annotated[bool, typer.Option("--inner", help="Choose settings: leave the evaluation fold out.")] = False,
) -> None:
    """Train and score on each of the official folds in turn."""
    from psla.lab import cross_validation
    from psla.recipe.recipe import Recipe, parse_override

    plan = Recipe.load(recipe, dict(parse_override(text) for text in set_ or []))
    folds = fold or list(cross_validation.FOLDS)
    trained, told = dict.fromkeys(folds, 0), dict.fromkeys(folds, 0)

    def report(fold: int, stage: str, clips: int) -> None:
        if stage == "train":
            trained[fold] += clips
        elif trained[fold] > told[fold]:
            # Held-out clips are predicted once an epoch is trained.
            typer.echo(f"fold {fold}: {trained[fold]} clips trained on", err=True)
            told[fold] = trained[fold]

    results = cross_validation.cross_validate(plan, root, out, folds, inner, report)
    typer.echo(cross_validation.summary(results))
