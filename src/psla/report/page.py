"""Reports: what is shown, as parts, and the parts as one page of HTML or as Markdown.

    write_page("report.html", "Inventory", [Numbers([("clips", "20")]), Table(["class", "n"], [["dog", "12"]])])

How parts look in HTML is in `templates/`, where all text is escaped. The page loads nothing from elsewhere; it reads on
a telephone, in print, and without images (every picture has a description). It has a script only where a table sorts
or a recording is played; then a policy in its head forbids every other script and every request. Markdown is for a
README, an issue or a diff: what is folded is shown, pictures are named, tables are GitHub's.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psla.files import write_text_atomic
from psla.report.view import Player, address

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
_SHOWN = 500  # rows of a list


@dataclass(frozen=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Numbers:
    """The few numbers that matter most, large: pairs of name and value."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Bar:
    """A table's cell that shows a share as a bar; a reader without pictures reads the number beside it.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"a bar shows a share from 0 to 1, not {self.share}")


@dataclass(frozen=True)
class Badge:
    """A table's cell that stands out: `good`, `bad`, `off` (of no account) or `plain`; the text alone tells enough."""

    text: str
    kind: str = "plain"


Cell = str | Bar | Badge
Columns = Mapping[str, Callable[[Any], Cell]]  # by the name of a column: what it shows of what a row is about


@dataclass(frozen=True)
class Table:
    """A table: the columns in `text` (the first by default) to the left, numbers to the right, bars without a head.

    On a telephone a table of `cards` shows a row as a card, each cell below the other with its column's name. One that
    is `sortable` sorts by a click on a column's head and filters by what is typed; without scripts it is a plain table.
    Numbers are sorted as numbers (thousands, percent signs and what follows a number do not matter), cells without a
    number come last either way.

    Raises:
        ValueError: a row of another length than the head.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    text: Sequence[int] = (0,)
    cards: bool = False
    sortable: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.head)} columns: {list(row)}")

    @staticmethod
    def of(rows: Iterable[Any], columns: Columns, **more: Any) -> Table:
        """A row for each of `rows`, by its columns; further arguments as those of a table.

        Example:
            >>> Table.of(["rain"], {"class": str.upper, "letters": lambda name: str(len(name))}).rows
            [['RAIN', '4']]
        """
        return Table(list(columns), [[show(row) for show in columns.values()] for row in rows], **more)

    @property
    def bars(self) -> set[int]:
        """The columns that hold bars."""
        return {i for row in self.rows for i, cell in enumerate(row) if isinstance(cell, Bar)}


@dataclass(frozen=True)
class Picture:
    """A PNG, embedded; `alt` says what it shows to those who do not see it.

    A narrow one is drawn to be read on a telephone, and does not grow to the width of a desk's screen.
    """

    png: bytes
    alt: str
    caption: str = ""
    narrow: bool = False

    @property
    def address(self) -> str:
        """The picture as an address that a page can hold."""
        return address("image/png", self.png)


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side where there is room, one below the other where there is not."""

    parts: Sequence[Picture]


@dataclass(frozen=True)
class Card:
    """Something that can be seen and heard: `picture` and `sound` are addresses; empty: there is none."""

    title: str
    lines: Sequence[str]
    picture: str = ""
    sound: str = ""


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    cards: Sequence[Card]


@dataclass(frozen=True)
class Folded:
    """Parts that are shown when the reader asks for them."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Decision:
    """A field in which a reader says what a clip is; `Decisions` offers what was said as a file."""

    clip_id: str


@dataclass(frozen=True)
class Decisions:
    """The button that offers all decisions of the page as a CSV file of this name; `choices` are proposed."""

    name: str
    choices: Sequence[str]


Part = Decision | Decisions | Heading | Text | Numbers | Table | Picture | Gallery | Cards | Folded | Player


def page(title: str, parts: Sequence[Part], note: str = "") -> str:
    """The whole page; `note` stands at its foot, before the version of psla.

    Example:
        >>> text = page("A & B", [Heading("Counts"), Table(["class", "clips"], [["dog", "12"]])])
        >>> "<h1>A &amp; B</h1>" in text, "<script" in text
        (True, False)
        >>> text = page("Classes", [Table(["class", "clips"], [["dog", "12"], ["rain", "7"]], sortable=True)])
        >>> text.count("<script>"), "Content-Security-Policy" in text
        (1, True)
    """
    scripts = _scripts(parts)
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=title,
        parts=parts,
        note=note,
        script=script,
        digest=digest,
        plays="player.js" in scripts,
        version=version("psla"),
    )


def write_page(path: str | os.PathLike[str], title: str, parts: Sequence[Part], note: str = "") -> None:
    """Write `page` as UTF-8, whole or not at all."""
    write_text_atomic(path, page(title, parts, note))


def markdown(title: str, parts: Sequence[Part], note: str = "") -> str:
    """The parts as a document of Markdown.

    Raises:
        TypeError: a part that has no form in Markdown.

    Example:
        >>> print(markdown("Counts", [Table(["class", "clips"], [["dog", "12"]])]))
        # Counts
        <BLANKLINE>
        | class | clips |
        | --- | ---: |
        | dog | 12 |
        <BLANKLINE>
    """
    blocks = [f"# {title}", *_blocks(parts, 2)]
    if note:
        blocks.append(f"*{_plain(note)}*")
    return "\n\n".join(blocks) + "\n"


def listed(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], rest: str) -> Folded:
    """A list of text under its title and its length, folded; `rest` says where those after the first 500 are.

    Example:
        >>> listed("Missing", ["clip"], [["dog"]] * 501, " in missing.txt").parts[1]
        Text(text='… and 1 more in missing.txt.')
    """
    more = [Text(f"… and {len(rows) - _SHOWN:,} more{rest}.")] if len(rows) > _SHOWN else []
    return Folded(f"{title}: {len(rows):,}", [Table(head, rows[:_SHOWN], text=range(len(head))), *more])


def number(value: float | None, digits: int = 4, sign: str = "") -> str:
    """A number, or a dash where there is none.

    Example:
        >>> number(0.25), number(math.nan), number(0.5, 2, "+")
        ('0.2500', '-', '+0.50')
    """
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def _scripts(parts: Sequence[Part]) -> list[str]:
    """The scripts in `templates/` that the parts need."""
    found = {name for part in parts for name in _scripts(getattr(part, "parts", ()))}
    if any(getattr(part, "sortable", False) for part in parts):
        found.add("sortable.js")
    if any(isinstance(part, Player) for part in parts):
        found.add("player.js")
    if any(isinstance(part, Decisions) for part in parts):
        found.add("review.js")
    return sorted(found)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _blocks(parts: Sequence[Part], level: int) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Heading):
            yield f"{'#' * level} {_plain(part.text)}"
        elif isinstance(part, Text):
            yield _plain(part.text)
        elif isinstance(part, Numbers):
            yield "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in part.pairs)
        elif isinstance(part, Table):
            yield _table(part)
        elif isinstance(part, Folded):
            yield f"{'#' * (level + 1)} {_plain(part.title)}"
            yield from _blocks(part.parts, level + 1)
        elif isinstance(part, Picture | Gallery):
            pictures = part.parts if isinstance(part, Gallery) else [part]
            yield "\n".join(f"- {_plain(each.caption or each.alt)} (Picture: see the HTML page.)" for each in pictures)
        else:
            raise TypeError(f"{type(part).__name__} has no form in Markdown")


def _table(table: Table) -> str:
    shown = [i for i in range(len(table.head)) if not any(isinstance(row[i], Bar) for row in table.rows)]
    dashes = ["---" if i in table.text else "---:" for i in shown]
    lines = [[_plain(table.head[i]) for i in shown], dashes]
    lines += [[_cell(row[i]) for i in shown] for row in table.rows]
    caption = f"{_plain(table.caption)}\n\n" if table.caption else ""
    return caption + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    return _plain(cell.text) if isinstance(cell, Badge) else _plain(cell) if isinstance(cell, str) else ""


def _plain(text: str) -> str:
    """Text in which nothing means anything to Markdown, on one line."""
    text = " ".join(text.split())
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text
