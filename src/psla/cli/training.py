"""`psla train` and `psla demo`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from psla.cli.console import CommandError, guarded, number, progress, table

_SCORES = {"mean_average_precision": "mAP", "mean_auc": "AUC", "d_prime": "d-prime", "accuracy": "accuracy"}


@guarded
def train(
    recipe: Annotated[str, typer.Argument(help="A preset by name, or a YAML file.")],
    clips: Annotated[Path, typer.Option(help="The table of clips.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, as in optimizer.epochs=30.")] = None,
) -> None:
    """Train a tagger and score it on what the clips hold out."""
    from psla.data.clips import Clips
    from psla.recipe.recipe import Recipe, parse_override

    plan = Recipe.load(recipe, dict(parse_override(text) for text in set_ or []))
    corpus = Clips.read(clips)
    from psla.recipe.training import TrainingError
    from psla.recipe.training import train as run_training

    with progress(corpus.counts(), plan.optimizer.epochs) as report:
        try:
            run = run_training(plan, corpus, out, progress=report)
        except TrainingError as error:
            raise CommandError(str(error)) from error
    scores = {split: each for split, each in run.scores.items() if isinstance(each, dict)}
    rows = [
        [f"{split} {variant}", *(number(found[name]) for name in _SCORES)]
        for split, variants in scores.items()
        for variant, found in variants.items()
    ]
    typer.echo(table(["scores", *_SCORES.values()], rows) if rows else "no scores: the clips hold nothing out")
    if run.rejected:
        typer.echo(f"{len(run.rejected)} clips could not be read: see {run.folder / 'rejected.csv'}", err=True)
    typer.echo(f"model: {run.model_file}")


@guarded
def demo(out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo")) -> None:
    """The whole recipe on the embedded corpus, then a tagged clip."""
    import_module("psla.lab.demo").run(out)
