"""The command line: parse, call one function, print. Here is the tree of the commands, and nothing that they do.

What takes long to import (torch, polars) is imported inside the commands, so that `psla --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from psla.cli import (
    calibrate,
    corpus,
    doctor,
    export,
    find,
    fit,
    folds,
    lab,
    labels,
    listen,
    models,
    pack,
    predictions,
    serve,
    tag,
    training,
)
from psla.cli.console import end_as_interrupted, escape_what_cannot_be_said, guarded, open_descriptors

Command = Callable[..., None]


def _group(help: str, commands: Sequence[Command], **options: Any) -> typer.Typer:
    """Commands under the names of their functions: `import_` is `import`, `cross_validate` is `cross-validate`."""
    made = typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None, **options)
    for command in commands:
        made.command(command.__name__.strip("_").replace("_", "-"))(guarded(command))
    return made


app = _group(
    "Train, evaluate and use audio taggers with the PSLA recipe.",
    [
        training.train,
        training.teach,
        fit.fit,
        calibrate.calibrate,
        find.find,
        export.export,
        predictions.predict,
        predictions.evaluate,
        tag.tag,
        listen.listen,
        serve.serve,
        models.info,
        training.demo,
        labels.enhance,
        models.average,
        predictions.ensemble,
        predictions.compare,
        pack.pack,
        labels.stats,
        models.import_,
        models.push,
        training.report,
        doctor.doctor,
        models.models,
    ],
    name="psla",
    add_completion=False,
    pretty_exceptions_enable=False,
)
_CORPORA: list[Command] = [corpus.audioset, corpus.fsd50k, corpus.esc50, corpus.folder, corpus.csv, corpus.annotations_]
_CORPORA += [corpus.soundscape, corpus.signals, corpus.merge]
_LAB: list[Command] = [lab.run, folds.select, folds.cross_validate, lab.report]
app.add_typer(_group("Make a table of clips from a corpus.", _CORPORA), name="corpus")
app.add_typer(_group("Experiments of several runs.", _LAB), name="lab")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"psla {version('psla')}")
        raise typer.Exit


@app.callback()
def _psla(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script `psla`."""
    open_descriptors()
    escape_what_cannot_be_said()
    end_as_interrupted()
    app(prog_name="psla")
