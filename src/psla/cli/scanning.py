"""What a scan of a corpus says on the way: its progress, and what its readers warn of."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def notes() -> Iterator[None]:
    """Warnings of the readers as sentences on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for each in caught:
        typer.echo(f"psla: {each.message}", err=True)


@contextmanager
def scanning() -> Iterator[Callable[[str, int, int], None]]:
    """Hands out `report(stage, done, total)`: bars on a terminal, elsewhere a line at the end of each stage."""
    latest: dict[str, int] = {}
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            tasks: dict = {}

            def show(stage: str, done: int, total: int) -> None:
                # Files of the first choice that are broken bring others up for probing: a stage may come again.
                if stage not in tasks or done < latest[stage]:
                    tasks[stage] = bars.add_task(stage, total=total)
                latest[stage] = done
                bars.update(tasks[stage], completed=done, total=total)

            yield show
        return

    def note(stage: str, done: int, total: int) -> None:
        if stage != "files":
            told_of_files()
            if done == total:
                typer.echo(f"{stage}: {done} files", err=True)
        latest[stage] = done

    def told_of_files() -> None:
        if (found := latest.pop("files", None)) is not None:
            typer.echo(f"files named after listed clips: {found}", err=True)

    yield note
    told_of_files()
