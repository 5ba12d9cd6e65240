"""How every picture of psla is drawn: size, letters, colours, curves, bars, and how it becomes bytes or a file.

With matplotlib's objects, not with pyplot: no window, no global state, usable from threads. Colours are of the palette
of Okabe and Ito, safe for colour-blind readers; no curve is told apart by colour alone. matplotlib is loaded when
something is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np

from psla.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
STYLES = [(BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "^", "-."), (GREY, "D", ":")]
WIDTH = 4.6  # inches
FONT = 9.5  # points
FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Curve:
    """A line with its name; NaN leaves a gap. `std` is a shade around it; a curve of `points` has no line.

    `style` chooses colour, marker and line, for curves that belong together; None: its place among the curves.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    std: Sequence[float] | None = None
    points: bool = False
    style: int | None = None


def plot(axes: Axes, lines: Sequence[Curve], y_label: str, x_label: str = "", whole: bool = False) -> None:
    """Curves with their names; `whole`: only whole numbers on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    dotted = {each.style for each in lines if each.points}  # their lines have no markers of their own
    for number, each in enumerate(lines):
        color, marker, line = STYLES[(number if each.style is None else each.style) % len(STYLES)]
        marker = "" if (len(each.x) > 15 or each.style in dotted) and not each.points else marker
        line = "" if each.points else line
        axes.plot(each.x, each.y, color=color, marker=marker, linestyle=line, markersize=5, label=each.name)
        if each.std is not None:
            y, d = np.asarray(each.y, dtype=float), np.asarray(each.std, dtype=float)
            axes.fill_between(each.x, y - d, y + d, color=color, alpha=0.2, linewidth=0)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, "both", x_label, y_label)
    if len(lines) > 1 or lines[0].name:
        axes.legend(frameon=False, fontsize=FONT - 1)


def bars(axes: Axes, lengths: Sequence[float], names: Sequence[str], texts: Sequence[str], color: str) -> None:
    """Bars to the right, the first on top, each with a text at its end."""
    drawn = axes.barh(range(len(lengths)), lengths, color=color, height=0.7)
    axes.bar_label(drawn, texts, padding=4, fontsize=FONT - 1)
    axes.set_yticks(range(len(lengths)), names, parse_math=False)
    axes.set_ylim(len(lengths) - 0.4, -0.6)


def tidy(axes: Axes, grid: Literal["x", "y", "both"], x_label: str = "", y_label: str = "") -> None:
    """The words beside the axes, and what all axes have alike."""
    axes.set_xlabel(x_label, fontsize=FONT, parse_math=False)
    axes.set_ylabel(y_label, fontsize=FONT)
    axes.tick_params(labelsize=FONT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)


def plain_numbers(axis: Axis, ratio: float) -> None:
    """The marks of a logarithmic axis as 10 and 20, not as powers; only tens where it spans much."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def defined(value: float | None) -> TypeGuard[float]:
    """Whether there is a number."""
    return value is not None and not math.isnan(value)


def shortened(name: str, width: float) -> str:
    """A name that leaves room for the picture beside it."""
    length = round(4.8 * width)
    return name if len(name) <= length else name[: length - 1] + "…"


def check(data: Any, rule: str, path: str | PathLike[str] | None = None) -> None:
    """Refuse nothing to draw, and a file in another format."""
    if not data:
        raise ValueError(f"{rule}; got none")
    if path is not None and Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"a figure's suffix must be one of {', '.join(FORMATS)}; got {Path(path).name!r}")


def figure(width: float, height: float) -> Figure:
    """A figure of this many inches, made without pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def as_png(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=200, metadata={"Software": None})
    return data.getvalue()


def heat_png(values: np.ndarray, span: float) -> bytes:
    """A PNG of a pixel a value, (rows, columns), the first row at the bottom: dark is `span` below the highest value.

    Example:
        >>> heat_png(np.zeros((4, 8)), 1.0)[:4]
        b'\\x89PNG'
    """
    from matplotlib import colormaps
    from PIL import Image

    scaled = np.clip((values[::-1] - values.max()) / span + 1, 0, 1)
    image = Image.fromarray(np.rint(scaled * 255).astype(np.uint8)).convert("P")
    image.putpalette(np.rint(colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes())
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write a file, whole or not at all, in the format of its suffix."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lower()[1:], dpi=150)
