"""The inventory of a corpus for people and machines: inventory.txt, inventory.json, inventory.html and missing.txt.

The picture shows, class by class, what share of the clips is missing: the worst classes by name, all as a curve.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from psla.data.inventory import Inventory, Share
from psla.files import write_json_atomic, write_text_atomic
from psla.report.html import Bar, Folded, Heading, Numbers, Part, Picture, Table, Text, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORST = 25  # classes that the picture names
_SHOWN = 500  # rows of a list of files; the JSON has all
_BLUE, _VERMILION = "#0072B2", "#D55E00"  # of the palette of Okabe and Ito


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
            f"Share of clips that cannot be used: the {min(_WORST, len(inventory.classes))} worst classes by name, "
            "and a curve over all classes; the table below has the numbers",
        )
        parts += [
            Heading("Classes, the worst first"),
            Text("A clip without a usable file counts as missing in each of its classes."),
            picture,
            _share_table("class", inventory.classes[:_WORST]),
        ]
        if len(inventory.classes) > _WORST:
            rest = inventory.classes[_WORST:]
            parts.append(Folded(f"The other {len(rest)} classes", [_share_table("class", rest)]))
    parts += _file_lists(inventory)
    return parts


def missing_by_class(classes: Sequence[Share]) -> bytes:
    """The picture, a PNG: the worst classes as bars with their counts, and all classes as a curve.

    Raises:
        ValueError: no classes.
    """
    if not classes:
        raise ValueError("a picture of classes needs one class or more")
    from matplotlib.figure import Figure

    worst = classes[:_WORST]
    figure = Figure(figsize=(8, 3.2 + 0.26 * len(worst)), layout="constrained")
    heights = [1.2 + 0.26 * len(worst), 2.0]
    bars, curve = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    lengths = [100 * c.missing_share for c in worst]
    drawn = bars.barh(range(len(worst)), lengths, color=_VERMILION, height=0.7)
    bars.bar_label(drawn, [f"{c.missing:,} of {c.listed:,}" for c in worst], padding=3, fontsize=8)
    bars.set_yticks(range(len(worst)), [_shortened(c.name) for c in worst], fontsize=8, parse_math=False)
    bars.set_ylim(len(worst) - 0.4, -0.6)
    bars.set_xlim(0, max(1.25 * max(lengths), 1))
    bars.set_xticks([tick for tick in bars.get_xticks() if tick <= 100])
    bars.set_xlabel("missing, % of the class's clips")
    shares = [100 * c.missing_share for c in classes]
    curve.step(range(1, len(shares) + 1), shares, where="mid", color=_BLUE)
    curve.fill_between(range(1, len(shares) + 1), shares, step="mid", color=_BLUE, alpha=0.2)
    curve.set_xlim(0.5, len(shares) + 0.5)
    curve.set_ylim(0, max(1.05 * max(shares), 1))
    curve.set_xlabel(f"all {len(shares)} classes, the worst first")
    curve.set_ylabel("missing, %")
    _tidy(bars, "x")
    _tidy(curve, "y")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120, metadata={"Software": None})
    return data.getvalue()


def _share_table(what: str, shares: Sequence[Share]) -> Table:
    rows: list[list[str | Bar]] = [
        [s.name, f"{s.listed:,}", f"{s.have:,}", f"{s.missing:,}", _percent(s.missing_share), Bar(s.missing_share)]
        for s in shares
    ]
    return Table([what, "listed", "present", "missing", "share", "bar"], rows)


def _file_lists(inventory: Inventory) -> list[Part]:
    lists: dict[str, tuple[list[str], Sequence[tuple[str, ...]]]] = {
        "Missing": (["clip", "path"], inventory.missing),
        "Unreadable": (["clip", "path", "reason"], inventory.unreadable),
        "Wrong length": (["clip", "path", "reason"], inventory.wrong_length),
        "Duplicate files": (["clip", "used", "not used", "reason"], inventory.duplicates),
    }
    parts: list[Part] = [Heading("Files")] if any(rows for _, rows in lists.values()) else []
    for title, (head, rows) in lists.items():
        if rows:
            shown: list[Part] = [Table(head, [list(row) for row in rows[:_SHOWN]], text=range(len(head)))]
            if len(rows) > _SHOWN:
                shown.append(Text(f"… and {len(rows) - _SHOWN:,} more; inventory.json has all of them."))
            parts.append(Folded(f"{title}: {len(rows):,}", shown))
    return parts


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _shortened(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"


def _tidy(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#555555", alpha=0.25, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
