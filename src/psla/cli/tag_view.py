"""What people read of `psla tag`: tables with bars and timelines on a terminal, pictures, and pages that play."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from psla.cli.console import CommandError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from psla.audio.pool import DecodePool
    from psla.tagging.view import Views

MOST_FILES = 20  # on a page
SOUND_S = 600.0  # on a page
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def picture_files(plot: Path | None, html: Path | None, paths: Sequence[str], journal: bool) -> dict[str, Path]:
    """Where the picture of each file goes; what cannot be drawn is refused before anything is tagged."""
    from psla.report.drawing import FORMATS
    from psla.tagging.output import label_file_names

    if (plot or html) and journal:
        raise CommandError("--journal skips finished files, --plot and --html need them all: choose one")
    if html is not None and len(paths) > MOST_FILES:
        raise CommandError(f"--html shows at most {MOST_FILES} files, here are {len(paths)}: name fewer, or use --plot")
    if plot is None:
        return {}
    if plot.suffix.lower() in FORMATS and not plot.is_dir():
        if len(paths) > 1:
            raise CommandError(f"--plot makes a picture of each of {len(paths)} files: give a folder, not {plot}")
        return {paths[0]: plot}
    if plot.suffix and not plot.is_dir():
        raise CommandError(f"--plot takes a folder, or a file that ends in {', '.join(FORMATS)}; not {plot}")
    names = label_file_names(paths)
    return {path: plot / f"{name.removesuffix('.txt')}.png" for path, name in zip(paths, names, strict=True)}


def write_pictures(views: Views, pool: DecodePool, plots: Mapping[str, Path], html: Path | None) -> bool:
    """Write all pictures, and the page; whether all could be made."""
    from psla.audio.decode import AudioError
    from psla.report.page import Bar, Part, Table, Text, write_page
    from psla.report.view import draw, player
    from psla.tagging.events import NOTE

    parts: list[Part] = []
    whole = True
    with closing(views.made(pool, SOUND_S if html else 0.0)) as made:
        for path, view in made:
            if isinstance(view, AudioError):
                typer.echo(f"psla: {path}: {view.reason}", err=True)
                whole = False
                continue
            if path in plots:
                plots[path].parent.mkdir(parents=True, exist_ok=True)
                draw(view, plots[path])
            if html is not None:
                rows = [(name, Bar(min(1.0, max(0.0, p))), f"{p:.4f}") for name, p in view.classes]
                parts += [player(view), Table(["class", "", "probability"], rows, "Of the whole recording")]
    if html is not None:
        note = f"Events: {NOTE}. Click or drag to move, arrow keys and space when the picture has the focus."
        write_page(html, "What sounds when", [*parts, Text(note)])
    return whole


def screens(rows: Iterable[Mapping[str, Any]], events: bool, console: Console | None = None) -> Iterator[str]:
    """Each file for a terminal: name, duration and flags, classes with bars, or events and their timeline."""
    from rich.console import Console, Group

    console = console or Console(file=sys.stdout)
    for row in rows:
        if "error" in row:  # has been said on stderr
            continue
        with console.capture() as captured:
            console.print(Group(*(_events(row, console) if events else _classes(row, console)), ""))
        yield captured.get()


def _head(row: Mapping[str, Any]) -> list[RenderableType]:
    from rich.text import Text

    from psla.files import visible
    from psla.report.view import clock
    from psla.tagging.recording import FLAG_WORDS

    length = row["duration_s"]
    facts = [f"{length:.2f} s" if length < 60 else clock(length)]
    facts += [f"{row['windows']} windows"] if row["windows"] > 1 else []
    facts += [f"{row['speech_dropped_s']:.2f} s with speech dropped"] if "speech_dropped_s" in row else []
    name = Text.assemble((visible(row["path"]), "bold"), f" ({', '.join(facts)})")
    return [name, *(Text(f"  {FLAG_WORDS[flag]}", "yellow") for flag in row["flags"])]


def grid_of(*justify: str) -> Any:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    for side in justify:
        grid.add_column(justify=side, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    return grid


def _classes(row: Mapping[str, Any], console: Console) -> list[RenderableType]:
    from rich.text import Text

    grid, (name, width) = grid_of("left", "left", "right"), _widths(console, 8)
    for each in row["classes"]:
        p = each["probability"]
        grid.add_row(cut(each["name"], name, console), Text(bar(p, width, console).ljust(width), "cyan"), f"{p:.4f}")
    return [*_head(row), grid if row["classes"] else Text("no class")]


def _events(row: Mapping[str, Any], console: Console) -> list[RenderableType]:
    from rich.text import Text

    from psla.report.view import event_rows

    found = row["events"]
    if not found:
        return [*_head(row), Text("no event")]
    table, line = grid_of("left", "right", "right", "right"), grid_of("left", "left", "right")
    name, width = _widths(console, 6)
    for each in found:
        times = [f"{each[key]:.2f}" for key in ("onset_s", "offset_s")]
        table.add_row(
            cut(each["name"], max(8, min(40, console.width - 28)), console), *times, f"{each['probability']:.4f}"
        )
    cell = row["duration_s"] / width
    full, empty = ("█", "·") if _can(console, "█·") else ("#", ".")
    shown, left = event_rows(found, [each["name"] for each in row["classes"]])
    for called, own in shown.items():
        cells = [empty] * width
        for each in own:
            first = min(width - 1, int(each["onset_s"] / cell + 1e-9))
            last = max(first + 1, min(width, -int(-each["offset_s"] / cell // 1)))
            cells[first:last] = [full] * (last - first)
        highest = max(each["probability"] for each in own)
        line.add_row(cut(called, name, console), Text("".join(cells), "green"), f"{highest:.2f}")
    line.add_row("time", Text(_axis(row["duration_s"], width)), "")
    more = [Text(f"{left} more classes have events")] if left else []
    return [*_head(row), table, Text(), line, *more]


def _axis(duration_s: float, width: int) -> str:
    """The words of the ticks, each beginning in its cell, as far as they fit."""
    from psla.report.view import time_ticks

    line = ""
    for at, words in time_ticks(duration_s, max(2, width // 8)):
        place = int(at / duration_s * width + 1e-9)
        words = words if duration_s >= 120 else f"{words} s"
        if place + len(words) <= width and (not line or place > len(line)):
            line = line.ljust(place) + words
    return line


def _widths(console: Console, number: int) -> tuple[int, int]:
    """Cells for a name and for what stands beside it, where a number of so many cells follows."""
    name = max(8, min(32, console.width // 3))
    return name, max(8, console.width - name - number - 2)


def cut(text: str, width: int, console: Console) -> Any:
    from rich.text import Text

    from psla.files import visible

    shown = Text(visible(text), no_wrap=True)
    shown.truncate(width, overflow="ellipsis" if _can(console, "…") else "crop")
    return shown


def bar(share: float, width: int, console: Console) -> str:
    """A bar in eighths of a cell; in whole cells where the terminal's encoding has no such characters."""
    share = min(1.0, max(0.0, share))
    if not _can(console, _EIGHTHS):
        return "#" * round(share * width)
    cells, eighths = divmod(round(share * width * 8), 8)
    return "█" * cells + _EIGHTHS[eighths].strip()


def _can(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return True
