"""The inventory of a corpus for people and machines: inventory.txt, inventory.json, inventory.html and missing.txt.

The picture shows, class by class, what share of the clips is missing: the worst classes by name, all as a curve.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from psla.data.inventory import Inventory, Share
from psla.files import write_json_atomic, write_text_atomic
from psla.report.figures import WORST, missing_by_class
from psla.report.page import Bar, Columns, Folded, Heading, Numbers, Part, Picture, Table, Text, listed, write_page


def write_inventory(inventory: Inventory, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the four files and return their paths; missing.txt has the id of a missing clip a line.

    Raises:
        OSError: the folder cannot be made or written.
    """
    paths = [Path(folder) / name for name in ("inventory.txt", "inventory.json", "inventory.html", "missing.txt")]
    write_text_atomic(paths[0], f"{inventory.summary()}\n{class_table(inventory.classes)}\n")
    write_json_atomic(paths[1], inventory.to_dict())
    write_page(paths[2], f"Inventory: {inventory.name or 'clips'}", inventory_parts(inventory))
    write_text_atomic(paths[3], "".join(f"{id}\n" for id, _ in inventory.missing))
    return paths


def class_table(classes: Sequence[Share]) -> str:
    """The classes as aligned text, as they come: name, listed, present, missing, share that is missing.

    Example:
        >>> print(class_table([Share("d", "Dog", 8, 6)]))
        class  listed  present  missing   share
        Dog         8        6        2  25.0 %
    """
    head = ("class", "listed", "present", "missing", "share")
    rows = [head, *((c.name, str(c.listed), str(c.have), str(c.missing), _percent(c.missing_share)) for c in classes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for name, *numbers in rows:
        cells = [text.rjust(width) for text, width in zip(numbers[:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells, numbers[-1].rjust(widths[-1])]).rstrip())
    return "\n".join(lines)


def inventory_parts(inventory: Inventory) -> list[Part]:
    """The parts of the page."""
    numbers = [
        ("listed", inventory.listed),
        ("present", inventory.have),
        ("missing", len(inventory.missing)),
        ("unreadable", len(inventory.unreadable)),
        ("wrong length", len(inventory.wrong_length)),
        ("duplicate files", len(inventory.duplicates)),
    ]
    parts: list[Part] = [Numbers([(name, f"{value:,}") for name, value in numbers])]
    parts += [Text(note) for note in inventory.notes]
    if inventory.splits:
        parts += [Heading("Splits"), _share_table("split", inventory.splits)]
    if inventory.classes:
        picture = Picture(
            missing_by_class(inventory.classes),
            f"Share of clips that cannot be used: the {min(WORST, len(inventory.classes))} worst classes by name, "
            "and a curve over all classes; the table below has the numbers",
        )
        parts += [
            Heading("Classes, the worst first"),
            Text("A clip without a usable file counts as missing in each of its classes."),
            picture,
            _share_table("class", inventory.classes[:WORST]),
        ]
        if len(inventory.classes) > WORST:
            rest = inventory.classes[WORST:]
            parts.append(Folded(f"The other {len(rest)} classes", [_share_table("class", rest)]))
    parts += _file_lists(inventory)
    return parts


def _share_table(what: str, shares: Sequence[Share]) -> Table:
    columns: Columns = {
        what: lambda share: share.name,
        "listed": lambda share: f"{share.listed:,}",
        "present": lambda share: f"{share.have:,}",
        "missing": lambda share: f"{share.missing:,}",
        "share": lambda share: _percent(share.missing_share),
        "bar": lambda share: Bar(share.missing_share),
    }
    return Table.of(shares, columns)


def _file_lists(inventory: Inventory) -> list[Part]:
    lists: dict[str, tuple[list[str], Sequence[tuple[str, ...]]]] = {
        "Missing": (["clip", "path"], inventory.missing),
        "Unreadable": (["clip", "path", "reason"], inventory.unreadable),
        "Wrong length": (["clip", "path", "reason"], inventory.wrong_length),
        "Duplicate files": (["clip", "used", "not used", "reason"], inventory.duplicates),
    }
    parts: list[Part] = [
        listed(title, head, rows, "; inventory.json has all of them") for title, (head, rows) in lists.items() if rows
    ]
    return [Heading("Files"), *parts] if parts else []


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
