"""`psla lab report` and `psla report`: pages from what a lab or a run has left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from psla.cli.console import guarded


@guarded
def lab_report(
    lab: Annotated[Path, typer.Argument(help="The folder of `psla lab run`.")],
    quality: Annotated[
        Path | None, typer.Option(help="A CSV of the classes' annotation quality (class, quality), for Table VII.")
    ] = None,
    claims: Annotated[Path | None, typer.Option(help="A YAML file of claims to judge; the paper's by default.")] = None,
    resamples: Annotated[int, typer.Option(min=2, help="Draws of clips for the intervals.")] = 400,
    title: Annotated[str | None, typer.Option(help="Of the page; by default it names the corpus.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Judge the paper's claims and set its tables beside those measured: report.html, report.md, verdicts.json."""
    from psla.cli.console import progress
    from psla.lab.tables.claims import load_claims
    from psla.lab.tables.folder import Measured
    from psla.lab.tables.report import write_report

    chosen = None if claims is None else load_claims(claims)
    rows = sum(row.done for row in Measured(lab).rows.values())
    if sys.stderr.isatty():
        with progress({"rows": max(rows, 1)}) as tell:
            paths = write_report(lab, quality, chosen, resamples, title, lambda count: tell("rows", count))
    else:
        paths = write_report(lab, quality, chosen, resamples, title)
    if as_json:
        typer.echo(paths[2].read_text(encoding="utf-8").rstrip())
        return
    _tell(paths[2])
    typer.echo(f"{paths[0]}, {paths[1].name} and {paths[2].name}")


def _tell(verdicts: Path) -> None:
    """The tested claims as a table, and how many were not."""
    import json

    from psla.cli.console import table

    found = json.loads(verdicts.read_text(encoding="utf-8"))["verdicts"]
    rows = []
    for each in found:
        if difference := each["difference"]:
            interval = f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
            numbers = [f"{difference['value']:+.4f}", interval, f"{each['p_holm']:.4f}", str(difference["seeds"])]
            rows.append([each["claim"]["id"], *numbers, each["status"]])
    if rows:
        typer.echo(table(["claim", "difference", "95 % interval", "p (Holm)", "seeds", "verdict"], rows))
    typer.echo(f"{len(found) - len(rows)} claims not tested")


@guarded
def report(run: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """One page of a single run: recipe, corpus, curves, scores, classes, times: RUN/report.html."""
    from psla.lab.run_page import write_run_report

    typer.echo(str(write_run_report(run)))
