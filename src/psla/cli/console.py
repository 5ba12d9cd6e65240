"""What all commands share: one sentence for an error that the user can mend, plain tables, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")


INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: not a failure, try again later


class Precision(StrEnum):
    """`--precision` of commands that run a model."""

    float32 = "float32"
    bf16 = "bf16"


class CommandError(ValueError):
    """What a command refuses; the message is the sentence that the user reads."""


# The errors of this package are ValueErrors; OSErrors are what paths, disks and networks raise.
USER_ERRORS = (ValueError, OSError)


def sentence(error: BaseException) -> str:
    """An error as one line.

    Example:
        >>> sentence(FileNotFoundError(2, "No such file or directory", "a.wav")), sentence(ValueError("no\\nline"))
        ('a.wav: No such file or directory', 'no line')
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose user errors are one sentence on stderr and exit code 2; interrupted, it exits with 130."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:
            raise  # whoever reads our output has enough: Typer ends quietly
        except USER_ERRORS as error:
            typer.echo(f"psla: {sentence(error)}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            typer.echo("psla: interrupted; what was finished before is kept", err=True)
            raise typer.Exit(130) from error

    return run


def whole_numbers(text: str, what: str) -> tuple[int, ...]:
    """Different whole numbers from 0 on, separated by commas.

    Raises:
        CommandError: anything else.

    Example:
        >>> whole_numbers("0,1,2", "a seed")
        (0, 1, 2)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise CommandError(f"{what} is a whole number from 0 on, several as in 0,1,2, each once; got {text!r}")
    return tuple(int(part) for part in parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, aligned; the first to the left, the others to the right.

    Example:
        >>> print(table(["class", "n"], [["dog", "12"]]))
        class   n
        dog    12
    """
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float | None) -> str:
    """A score with four digits, or a dash where there is none.

    Example:
        >>> number(0.25), number(None)
        ('0.2500', '-')
    """
    return "-" if value is None else f"{value:.4f}"


@contextmanager
def progress(totals: Mapping[str, int], rounds: int | Mapping[str, int] = 1) -> Iterator[Callable[[str, int], None]]:
    """Hands out `report(stage, clips)`: bars on a terminal, elsewhere a line whenever a stage has been gone through.

    Args:
        totals: clips of one round of each stage.
        rounds: how often each stage is gone through, such as the epochs of a training.
    """
    times = dict.fromkeys(totals, rounds) if isinstance(rounds, int) else dict(rounds)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            tasks = {stage: bars.add_task(stage, total=total * times[stage]) for stage, total in totals.items()}
            yield lambda stage, clips: bars.advance(tasks[stage], clips)
        return
    done = dict.fromkeys(totals, 0)
    finished = dict.fromkeys(totals, 0)

    def report(stage: str, clips: int) -> None:
        done[stage] += clips
        # The last batch may be reported as a whole one.
        if done[stage] >= totals[stage]:
            done[stage], finished[stage] = 0, finished[stage] + 1
            which = f" {finished[stage]} of {times[stage]}" if times[stage] > 1 else ""
            typer.echo(f"{stage}{which}: {totals[stage]} clips", err=True)

    yield report
