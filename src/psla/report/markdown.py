"""The parts of a report as Markdown: for a README, an issue or a diff. What is folded is shown, pictures are named.

The tables are GitHub's: a bar between cells, and a row of dashes that says which columns stand to the right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psla.report.html import Badge, Bar, Cell, Folded, Gallery, Heading, Numbers, Part, Picture, Table, Text


def markdown(title: str, parts: Sequence[Part], note: str = "") -> str:
    """A whole document.

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
    lines += [[_text(row[i]) for i in shown] for row in table.rows]
    caption = f"{_plain(table.caption)}\n\n" if table.caption else ""
    return caption + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(cell: Cell) -> str:
    return _plain(cell.text) if isinstance(cell, Badge) else _plain(cell) if isinstance(cell, str) else ""


def _plain(text: str) -> str:
    """Text in which nothing means anything to Markdown, on one line."""
    text = " ".join(text.split())
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text
