"""The reliability diagram: how often something is so, by how probable a model says it is; before and after.

Not here: the bins (`psla.metrics.calibration`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from psla.report import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Bins = Sequence[Mapping[str, Any]]


def diagram(before: Bins, after: Bins) -> Figure:
    """The figure; above the shares, below how many clips (of each class) a bin rests on.

    Args:
        before, after: rows of `psla.metrics.calibration.reliability`.

    Raises:
        ValueError: no bins.
    """
    drawing.check(before and after, "a reliability diagram needs bins")
    figure = drawing.figure(drawing.WIDTH, 1.3 * drawing.WIDTH)
    shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    shares.plot([0, 1], [0, 1], color=drawing.GREY, linestyle=":", linewidth=1)
    curves = [("before", before), ("after", after)]
    for values, key, label in ((shares, "share", "share that is so"), (counts, "clips", "clips")):
        for style, (name, bins) in enumerate(curves):
            named = name if values is shares else ""
            line = drawing.Curve(named, _column(bins, "probability"), _column(bins, key), style=style)
            drawing.plot(values, [line], label, "" if values is shares else "probability that is said")
    counts.set_yscale("log")
    shares.set_xlim(0, 1)
    shares.set_ylim(0, 1)
    return figure


def draw(before: Bins, after: Bins, path: str | PathLike[str]) -> None:
    """Write the diagram, in the format of the path's suffix (.png, .svg, .pdf); ValueError for another."""
    drawing.check(True, "", path)
    drawing.save(diagram(before, after), path)


def _column(bins: Bins, key: str) -> list[float]:
    return [float(row[key]) for row in bins]
