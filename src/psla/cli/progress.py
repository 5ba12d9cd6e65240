"""How far a job is, on stderr: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

LONG_S = 600.0  # of sound; of a file that lasts longer it is said how far it is


@contextmanager
def bars(*texts: str) -> Iterator[Progress | None]:
    """Bars on a terminal, each with these texts of its task; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    own = map(TextColumn, texts)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *own, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        yield shown


@contextmanager
def progress(
    totals: Mapping[str, int], rounds: int | Mapping[str, int] = 1, silent: bool = False
) -> Iterator[Callable[[str, int], None]]:
    """Hands out `report(stage, clips)`: bars on a terminal, elsewhere a line whenever a stage has been gone through.

    Args:
        totals: clips of one round of each stage.
        rounds: how often each stage is gone through, such as the epochs of a training.
        silent: show nothing.
    """
    if silent:
        yield lambda stage, clips: None
        return
    times = dict.fromkeys(totals, rounds) if isinstance(rounds, int) else dict(rounds)
    done = dict.fromkeys(totals, 0)
    finished = dict.fromkeys(totals, 0)

    def report(stage: str, clips: int) -> None:
        done[stage] += clips
        # The last batch may be reported as a whole one.
        if done[stage] >= totals[stage]:
            done[stage], finished[stage] = 0, finished[stage] + 1
            which = f" {finished[stage]} of {times[stage]}" if times[stage] > 1 else ""
            typer.echo(f"{stage}{which}: {totals[stage]} clips", err=True)

    with bars() as shown:
        if shown is None:
            yield report
        else:
            tasks = {stage: shown.add_task(stage, total=total * times[stage]) for stage, total in totals.items()}
            yield lambda stage, clips: shown.advance(tasks[stage], clips)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Hands out `told(what, more, total)`: a bar for each stage, which begins when it is told of first; or nothing."""
    with bars() as shown:
        tasks: dict[str, Any] = {}

        def told(what: str, more: int, total: int) -> None:
            if shown is not None:
                if what not in tasks:
                    tasks[what] = shown.add_task(what, total=total)
                shown.advance(tasks[what], more)

        yield told


@contextmanager
def hearing(shown: bool) -> Iterator[Callable[[str, float], None]]:
    """Hands out `report(path, seconds)`: on a terminal a line says how much has been heard of a file that is long."""
    if not (shown and sys.stderr.isatty()):
        yield lambda path, seconds: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from psla.files import visible

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as line:
        task = line.add_task("", total=None, visible=False)

        def report(path: str, seconds: float) -> None:
            if seconds >= LONG_S:
                heard = f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min heard of {visible(path)}"
                line.update(task, description=heard, visible=True)

        yield report


@contextmanager
def scanning() -> Iterator[Callable[[str, int, int], None]]:
    """Hands out `report(stage, done, total)` of a scan of files: bars, or a line at the end of each stage."""
    latest: dict[str, int] = {}
    tasks: dict[str, Any] = {}

    def tell_of_files() -> None:
        if (found := latest.pop("files", None)) is not None:
            typer.echo(f"files named after listed clips: {found}", err=True)

    with bars() as shown:

        def report(stage: str, done: int, total: int) -> None:
            if shown is not None:
                # Files of the first choice that are broken bring others up for probing: a stage may come again.
                if stage not in tasks or done < latest[stage]:
                    tasks[stage] = shown.add_task(stage, total=total)
                shown.update(tasks[stage], completed=done, total=total)
            elif stage != "files":
                tell_of_files()
                if done == total:
                    typer.echo(f"{stage}: {done} files", err=True)
            latest[stage] = done

        yield report
    if shown is None:
        tell_of_files()


@contextmanager
def fetching(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Hands out `report(received, total)` of bytes, should any be fetched: a bar in MB, or a line for every 10 MB."""
    told = -1
    with bars() as shown:
        task = None if shown is None else shown.add_task(f"{name} (MB)", total=None, visible=False)

        def report(received: int, total: int | None) -> None:
            nonlocal told
            size = None if total is None else total / 1e6
            if shown is not None and task is not None:
                shown.update(task, completed=received / 1e6, total=size, visible=True)
            elif received // 10_000_000 > told:
                told = received // 10_000_000
                of = "" if size is None else f" of {size:.0f}"
                typer.echo(f"psla: fetching {name}: {received / 1e6:.0f}{of} MB", err=True)

        yield report
