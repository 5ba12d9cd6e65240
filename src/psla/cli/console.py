"""What all commands share: one sentence for an error that the user can mend, answers, tables."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from threading import Event
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from psla.cli.addresses import forget, on_this_machine, refuse_addresses, said
from psla.cli.places import arguments, check_places, written
from psla.files import printable, shortened

if TYPE_CHECKING:
    from psla.spread import Spread

P = ParamSpec("P")
R = TypeVar("R")


BROKEN_PIPE = 128 + 13  # as of any program that SIGPIPE ends, such as `cat a | head -1`
_MOST = 1500  # characters of a sentence: a few lines
_NO_MEMORY = re.compile("can't allocate memory|out of memory")  # as torch says it, in a RuntimeError
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: not a failure, try again later


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
        return shortened(printable(f"{error.filename}: {error.strerror}"), _MOST)
    return shortened(" ".join(said(str(error)).split()) or type(error).__name__, _MOST)


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP: what Ctrl-C ends, ends as it does with Ctrl-C, and leaves no more behind."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def end_as_interrupted() -> None:
    """From now on SIGTERM and SIGHUP are as Ctrl-C, but where they are ignored (`nohup`); the second ends at once."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Ended(signal.Signals(number))

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)


Kept = Callable[[Mapping[str, Any]], str]
"""What of an interrupted call is kept, in words, from its arguments by name; empty: nothing."""


def keeps(kept: Kept) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Says of a command what it keeps when it is interrupted."""

    def mark(command: Callable[P, R]) -> Callable[P, R]:
        command.kept = kept  # type: ignore[attr-defined]
        return command

    return mark


class _Closed(io.TextIOBase):
    """Standard output where the caller has closed it: who writes to it is told so."""

    def write(self, text: str) -> int:
        raise OSError(
            errno.EBADF, "closed, so that nobody would see the answer: give --out, or >/dev/null", "standard output"
        )

    def writable(self) -> bool:
        return True


def open_descriptors() -> None:
    """Give the descriptors 0 to 2 something to stand on where the caller has closed them (`2>&-`).

    Otherwise the next file or pipe that is opened gets their number, and what is meant for a terminal goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free is this one
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (for the life of the process)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose places are checked before it begins (`psla.cli.places`), which knows local files where addresses
    are given (`psla.cli.addresses`), and whose user errors are one sentence on stderr and exit code 2; interrupted, it
    exits with 130, or as the signal says."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = arguments(command, args, kwargs)
        before = written(command, given)
        try:
            refuse_addresses(command, given)
            check_places(command, given)
            with on_this_machine(command, given) as moved:
                return command(**{**given, **moved}) if moved else command(*args, **kwargs)  # type: ignore[call-arg]
        except BrokenPipeError as error:  # whoever reads our output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes nowhere
            raise typer.Exit(BROKEN_PIPE) from error
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _NO_MEMORY.search(str(error)):
                raise
            asked = " ".join(str(error).split()) or "more was asked for than there is"
            typer.echo(f"psla: there is not enough memory here: {shortened(asked, _MOST)}", err=True)
            raise typer.Exit(2) from error
        except USER_ERRORS as error:
            typer.echo(f"psla: {sentence(error)}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            kept: Kept = getattr(command, "kept", lambda given: "")
            new = [f"{path} is written" for path, state in written(command, given).items() if before.get(path) != state]
            unsent = getattr(error, "__notes__", [])
            told = "; ".join(filter(None, [kept(given), *new, *unsent])) or "no result was written"
            ended, code = ("interrupted", 130)
            if isinstance(error, Ended):
                ended, code = f"ended by {error.number.name}", 128 + error.number
            typer.echo(f"psla: {ended}; {told}", err=True)
            raise typer.Exit(code) from error
        finally:
            forget()

    return run


@contextmanager
def asked_to_stop(*signals: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Whether one of these signals has come; a second Ctrl-C does not wait for the step to end."""
    came = Event()

    def note(number: int, frame: object) -> None:
        came.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def seeds_of(text: str) -> tuple[int, ...]:
    """Different whole numbers from 0 on, separated by commas.

    Raises:
        CommandError: anything else.

    Example:
        >>> seeds_of("0,1,2")
        (0, 1, 2)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 20 for part in parts) or len({int(part) for part in parts}) < len(
        parts
    ):
        raise CommandError(f"a seed is a whole number from 0 on, several as in 0,1,2, each once; got {text!r}")
    return tuple(int(part) for part in parts)


def one_part(shard: str | None, cluster: str | None) -> tuple[int, int] | None:
    """What --shard says; with --cluster it is refused."""
    if shard is not None and cluster is not None:
        raise CommandError("--shard is for schedulers without Ray: give it or --cluster, not both")
    return part_of(shard)


def part_of(shard: str | None) -> tuple[int, int] | None:
    """`--shard i/n` as two numbers; None where it is not given."""
    from psla.metrics.parts import parse_part

    return None if shard is None else parse_part(shard)


@contextmanager
def spread_over(cluster: str | None) -> Iterator[Spread | None]:
    """What `--cluster` names, for the time of the block; None where it is not given."""
    if cluster is None:
        yield None
        return
    from psla.cluster.ray_tasks import ray_cluster

    with ray_cluster(cluster) as spread:
        yield spread


def answer(as_json: bool, data: Any, *texts: str, **options: Any) -> None:
    """Print what a command has found: data as JSON (with options of `json.dumps`), or texts, a line each."""
    if as_json:
        typer.echo(json.dumps(said(data), **{"ensure_ascii": not says_all(), **options}))
    else:
        tell("\n".join(texts))


def tell(text: str, err: bool = False) -> None:
    """Print a text that may name what the command reads or writes: as the user has named it, address or path."""
    typer.echo(said(text), err=err)


def says_all() -> bool:
    """Whether stdout has every character; what it has not is written there as an escape, which JSON has of its own."""
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name.startswith("utf")


def escape_what_cannot_be_said() -> None:
    """A file name that the terminal's encoding does not have is printed with escapes, and ends no job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns, aligned, the first to the left, the others to the right; scores have four digits, None is a dash.

    Example:
        >>> print(table(["class", "n", "precision"], [["dog", 12, 0.25], ["cat", 0, None]]))
        class   n  precision
        dog    12     0.2500
        cat     0          -
    """
    lines = [[_cell(value) for value in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


@contextmanager
def warnings_told() -> Iterator[None]:
    """Warnings of the readers as sentences on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for each in caught:
        typer.echo(f"psla: {shortened(' '.join(said(str(each.message)).split()), _MOST)}", err=True)


def words_of(given: list[str]) -> list[str]:
    """Words that were given with commas between them, or one by one."""
    return [word.strip() for each in given for word in each.split(",") if word.strip()]


def command_line() -> str:
    """What the user has typed."""
    return shlex.join(["psla", *sys.argv[1:]])
