"""Pictures for reports, as PNG bytes: drawn so narrow that their words can be read on a telephone.

A picture that is 7 inches wide has letters of 7 pixels when a screen of 390 pixels shows it. These are 4.6 inches wide,
and their letters have 10 pixels there. Colours and markers as in `figures.py`, whose pictures are made for paper.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
WIDTH = 4.6  # inches
FONT = 9.5  # points
NAMED = 40  # classes; with more, only the ends are named
_STYLES = [(BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "^", "-."), (GREY, "D", ":")]


@dataclass(frozen=True)
class Curve:
    """A line with its name; NaN leaves a gap. `deviation` is a shade around it; a curve of `points` has no line.

    `style` chooses colour, marker and line, for curves that belong together; None: its place among the curves.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    deviation: Sequence[float] | None = None
    points: bool = False
    style: int | None = None


def curves(
    lines: Sequence[Curve],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    whole: bool = False,
    y_range: tuple[float | None, float | None] = (None, None),
) -> bytes:
    """Several curves in one picture.

    Args:
        lines: at least one; told apart by colour, line and marker.
        x_label, y_label: what the axes show.
        log_x: a logarithmic axis. whole: only whole numbers on it.
        y_range: ends of the vertical axis; None: as the data are.

    Raises:
        ValueError: nothing to draw.

    Example:
        >>> curves([Curve("a", [1, 2], [0.1, 0.3])], "epoch", "mAP")[:4]
        b'\\x89PNG'
    """
    if not lines:
        raise ValueError("a picture of curves needs at least one")
    figure = _figure(3.1)
    axes = figure.subplots()
    for number, each in enumerate(lines):
        color, marker, line = _STYLES[(number if each.style is None else each.style) % len(_STYLES)]
        many = len(each.x) > 15 and not each.points
        style = "" if each.points else line
        axes.plot(
            each.x, each.y, color=color, marker="" if many else marker, linestyle=style, markersize=5, label=each.name
        )
        if each.deviation is not None:
            y, d = np.asarray(each.y, dtype=float), np.asarray(each.deviation, dtype=float)
            axes.fill_between(each.x, y - d, y + d, color=color, alpha=0.2, linewidth=0)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({x for each in lines for x in each.x})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
    if whole:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(*y_range)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _tidy(axes, "both")
    if len(lines) > 1 or lines[0].name:
        axes.legend(frameon=False, fontsize=FONT - 1)
    return _png(figure)


def ranked(
    values: Sequence[float],
    names: Sequence[str],
    label: str,
    deviations: Sequence[float] | None = None,
    log: bool = False,
    mean: float | None = None,
) -> bytes:
    """Classes with their values, the greatest first: up to 40 by name as bars, more as a curve with its ends named.

    Args:
        values: of each class; NaN is left out, on a logarithmic axis 0 too.
        names: of the classes.
        label: what the values are.
        deviations: of the values.
        log: a logarithmic axis.
        mean: drawn as a line.

    Raises:
        ValueError: no class has a value.

    Example:
        >>> ranked([0.2, 0.7], ["rain", "dog"], "average precision")[:4]
        b'\\x89PNG'
    """
    spread = [0.0] * len(values) if deviations is None else [0.0 if math.isnan(d) else d for d in deviations]
    rows = [r for r in zip(values, names, spread, strict=True) if not math.isnan(r[0]) and (r[0] > 0 or not log)]
    rows.sort(key=lambda row: (-row[0], row[1]))
    if not rows:
        raise ValueError("a picture of classes needs one with a value")
    found, places = np.array([row[0] for row in rows]), np.arange(1, len(rows) + 1)
    deviation = np.array([row[2] for row in rows])
    few = len(rows) <= NAMED
    figure = _figure(0.9 + 0.21 * len(rows) if few else 3.2)
    axes = figure.subplots()
    if few:
        axes.barh(places, found, color=BLUE, height=0.75, log=log)
        if deviation.any():
            axes.errorbar(found, places, xerr=deviation, fmt="none", ecolor="black", elinewidth=1, capsize=2)
        axes.set_yticks(places, [_shortened(row[1], 22) for row in rows], parse_math=False)
        axes.set_ylim(len(rows) + 0.6, 0.4)
        axes.set_xlabel(label)
    else:
        axes.plot(places, found, color=BLUE)
        axes.fill_between(places, found - deviation, found + deviation, color=BLUE, alpha=0.25, linewidth=0)
        if log:
            axes.set_yscale("log")
        first, last = (_shortened(rows[place][1], 20) for place in (0, -1))
        axes.set_xlabel(f"{len(rows)} classes, from {first} to {last}", parse_math=False)
        axes.set_ylabel(label)
    if mean is not None and not math.isnan(mean):
        draw = axes.axvline if few else axes.axhline
        draw(mean, color="black", linestyle="--", linewidth=1.2, label=f"mean {mean:.3f}")
        figure.legend(frameon=False, fontsize=FONT - 1, loc="outside upper right")
    if log:
        _plain_numbers(axes.xaxis if few else axes.yaxis, found.max() / found.min())
    _tidy(axes, "x" if few else "y")
    return _png(figure)


def scatter(x: Sequence[float], y: Sequence[float], x_label: str, y_label: str, log_x: bool = False) -> bytes:
    """A point for each class.

    Raises:
        ValueError: no point.

    Example:
        >>> scatter([10, 100], [0.2, 0.4], "clips", "average precision", log_x=True)[:4]
        b'\\x89PNG'
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if not math.isnan(b) and (a > 0 or not log_x)]
    if not points:
        raise ValueError("a picture of points needs one")
    figure = _figure(3.1)
    axes = figure.subplots()
    axes.plot([a for a, _ in points], [b for _, b in points], "o", color=BLUE, markersize=4.5, alpha=0.6)
    if log_x:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis, max(a for a, _ in points) / min(a for a, _ in points))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(-0.02, 1.02)
    _tidy(axes, "both")
    return _png(figure)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _plain_numbers(axis: Axis, ratio: float) -> None:
    """The marks of a logarithmic axis as 10 and 20, not as powers; only tens where it spans much."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def _tidy(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_fontsize(FONT)
    axes.tick_params(labelsize=FONT)


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=200, metadata={"Software": None})
    return data.getvalue()


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
