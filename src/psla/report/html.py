"""Reports: one self-contained page of HTML from plain data; nothing loaded from elsewhere.

    write_page("report.html", "Inventory", [Numbers([("clips", "20")]), Table(["class", "n"], [["dog", "12"]])])

What is shown is handed in as parts: numbers, text, tables, pictures, and parts folded away. All text is escaped. The
page reads on a telephone, in print, and without images (every picture has a description). It has a script only where
a part needs one (`sortable_table.py`); then a policy in its head forbids every other script and every request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

from psla.files import write_text_atomic

_STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --soft: #595959; --line: #d9d9d9; --bar: #0072b2; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.numbers { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; padding: 0; }
.numbers div { min-width: 6rem; }
.numbers dt { color: var(--soft); font-size: .85rem; }
.numbers dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: 0 0 .3rem; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; white-space: nowrap; }
th { font-weight: 600; }
td.text { min-width: 6rem; max-width: 28rem; overflow-wrap: anywhere; white-space: normal; }
th.text, td.text { text-align: left; }
td.text:first-child { min-width: 8rem; overflow-wrap: break-word; } .cards td.text { overflow-wrap: normal; }
td.bar { min-width: 8rem; text-align: left; }
.bar span { display: inline-block; height: .7rem; background: var(--bar); vertical-align: baseline; }
figure { margin: 1rem 0; max-width: 60rem; }
img { max-width: 100%; height: auto; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
.gallery figure, figure.narrow { max-width: 34rem; }
.badge { display: inline-block; padding: 0 .5rem; border-radius: .6rem; border: 1px solid var(--soft);
  font-weight: 600; white-space: nowrap; }
.badge.good { color: #00543b; background: #d8f0e6; border-color: #009e73; }
.badge.bad { color: #7a3600; background: #fde5d4; border-color: #d55e00; }
.badge.off { color: var(--soft); border-style: dashed; font-weight: 400; }
.filter { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: baseline; margin: .5rem 0; }
.filter input { font: inherit; padding: .3rem .5rem; min-width: 12rem; max-width: 100%; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--bar); }
th[aria-sort] button::after { content: " \\2195"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--ink); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--ink); }
figcaption, footer { color: var(--soft); font-size: .85rem; }
summary { cursor: pointer; margin: .75rem 0; font-weight: 600; }
@media (max-width: 30rem) { th, td { padding-right: .5rem; } th.bar, td.bar { display: none; }
  .cards thead { display: none; } .cards tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .cards td, .cards td.text { display: flex; gap: .75rem; border: 0; padding: .1rem 0; max-width: none;
    text-align: left; }
  .cards td::before { content: attr(data-label); flex: 0 0 6.5rem; color: var(--soft); }
  .cards td:first-child { font-weight: 600; } .cards td:first-child::before { content: none; } }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .5rem; }
@media print { body { max-width: none; padding: 0; font-size: 9pt; } .filter { display: none; }
  .scroll { overflow: visible; } th, td { white-space: normal; padding-right: .5rem; }
  details::details-content { content-visibility: visible; block-size: auto; } tr, figure { break-inside: avoid; }
  h2 { break-after: avoid; } th[aria-sort] button::after { content: ""; } }
"""


class Part(Protocol):
    """Something that can stand on a page."""

    def html(self) -> str:
        """The part as HTML, its text escaped."""
        ...


@dataclass(frozen=True)
class Heading:
    """Begins a section."""

    text: str

    def html(self) -> str:
        """See `Part`."""
        return f"<h2>{html.escape(self.text)}</h2>"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        """See `Part`."""
        return f"<p>{html.escape(self.text)}</p>"


@dataclass(frozen=True)
class Numbers:
    """The few numbers that matter most, large: pairs of name and value."""

    pairs: Sequence[tuple[str, str]]

    def html(self) -> str:
        """See `Part`."""
        each = (f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in self.pairs)
        return f'<dl class="numbers">{"".join(each)}</dl>'


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


@dataclass(frozen=True)
class Table:
    """A table: the columns in `text` (the first by default) to the left, numbers to the right, bars without a head.

    On a telephone a table of `cards` shows a row as a card, each cell below the other with its column's name.

    Raises:
        ValueError: a row of another length than the head.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    text: Sequence[int] = (0,)
    cards: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.head)} columns: {list(row)}")

    def html(self) -> str:
        """See `Part`."""
        bars = {i for row in self.rows for i, cell in enumerate(row) if isinstance(cell, Bar)}
        head = "".join(
            '<th class="bar" aria-hidden="true"></th>' if i in bars else f'<th scope="col"{self._kind(i)}>{name}</th>'
            for i, name in enumerate(map(html.escape, self.head))
        )
        body = "".join(f"<tr>{''.join(map(self._cell, range(len(row)), row))}</tr>\n" for row in self.rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        kind = ' class="cards"' if self.cards else ""
        table = f"<table{kind}>{caption}<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
        return f'<div class="scroll" tabindex="0">{table}</div>'

    def _cell(self, column: int, cell: Cell) -> str:
        if isinstance(cell, Bar):
            return f'<td class="bar" aria-hidden="true"><span style="width:{100 * cell.share:.1f}%"></span></td>'
        if isinstance(cell, Badge):
            text = f'<span class="badge {html.escape(cell.kind)}">{html.escape(cell.text)}</span>'
            return f"<td{self._kind(column)}{self._label(column)}>{text}</td>"
        return f"<td{self._kind(column)}{self._label(column)}>{html.escape(cell)}</td>"

    def _kind(self, column: int) -> str:
        return ' class="text"' if column in self.text else ""

    def _label(self, column: int) -> str:
        return f' data-label="{html.escape(self.head[column])}"' if self.cards else ""


@dataclass(frozen=True)
class Picture:
    """A PNG, embedded; `alt` says what it shows to those who do not see it.

    A narrow one is drawn to be read on a telephone, and does not grow to the width of a desk's screen.
    """

    png: bytes
    alt: str
    caption: str = ""
    narrow: bool = False

    def html(self) -> str:
        """See `Part`."""
        data = base64.b64encode(self.png).decode("ascii")
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        kind = ' class="narrow"' if self.narrow else ""
        return f'<figure{kind}><img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}">{caption}</figure>'


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side where there is room, one below the other where there is not."""

    parts: Sequence[Picture]

    def html(self) -> str:
        """See `Part`."""
        inner = "\n".join(part.html() for part in self.parts)
        return f'<div class="gallery">\n{inner}\n</div>'


@dataclass(frozen=True)
class Folded:
    """Parts that are shown when the reader asks for them."""

    title: str
    parts: Sequence[Part]

    def html(self) -> str:
        """See `Part`."""
        inner = "\n".join(part.html() for part in self.parts)
        return f"<details><summary>{html.escape(self.title)}</summary>\n{inner}\n</details>"


def page(title: str, parts: Sequence[Part], note: str = "") -> str:
    """The whole page; `note` stands at its foot, before the version of psla.

    Example:
        >>> text = page("A & B", [Heading("Counts"), Table(["class", "clips"], [["dog", "12"]])])
        >>> "<h1>A &amp; B</h1>" in text, "<script" in text
        (True, False)
    """
    body = "\n".join(part.html() for part in parts)
    foot = " · ".join(html.escape(each) for each in (note, f"psla {version('psla')}") if each)
    script = "\n".join(dict.fromkeys(_scripts(parts)))
    policy, tail = ("", "")
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        rules = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        policy = f'<meta http-equiv="Content-Security-Policy" content="{rules}">\n'
        tail = f"<script>{script}</script>\n"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{policy}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{html.escape(title)}</h1>\n{body}\n</main>\n<footer>{foot}</footer>\n{tail}</body>\n</html>\n"
    )


def _scripts(parts: Sequence[Part]) -> Iterator[str]:
    """The scripts that parts ask for, in their order; the same one is asked for by many."""
    for part in parts:
        if script := getattr(part, "script", ""):
            yield script
        yield from _scripts(getattr(part, "parts", ()))


def write_page(path: str | os.PathLike[str], title: str, parts: Sequence[Part], note: str = "") -> None:
    """Write `page` as UTF-8, whole or not at all."""
    write_text_atomic(path, page(title, parts, note))
