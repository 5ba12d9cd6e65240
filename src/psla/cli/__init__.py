"""The command line: parse, call one function, print.

What takes long to import (torch, polars) is imported inside the commands, so that `psla --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from psla.cli import aggregate, corpus, lab, lab_report, labels, models, pack, stats, tag, training, use

app = typer.Typer(
    name="psla",
    help="Train, evaluate and use audio taggers with the PSLA recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(corpus.app, name="corpus")
app.add_typer(lab.app, name="lab")
lab.app.command("report")(lab_report.lab_report)
app.command()(training.train)
app.command()(training.teach)
app.command()(use.predict)
app.command()(use.evaluate)
app.command()(tag.tag)
app.command()(use.info)
app.command()(training.demo)
app.command()(labels.enhance)
app.command()(aggregate.average)
app.command()(aggregate.ensemble)
app.command()(aggregate.compare)
app.command()(pack.pack)
app.command()(stats.stats)
app.command("import")(models.import_)
app.command()(lab_report.report)
app.command("models")(models.models)


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
    app(prog_name="psla")
