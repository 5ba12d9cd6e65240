"""All pictures of psla: learning curves, classes in their order, variants side by side, counts, coverage, what is lost.

Those of reports are PNG bytes, so narrow that a screen of 390 pixels shows their letters with 10 pixels. Those of a run
or of a command are files at `path`, whose suffix chooses the format (.png, .svg, .pdf). Nothing to draw, lists of
different lengths or another suffix: ValueError. How they are drawn: `drawing.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from psla.data.inventory import Share
from psla.metrics.scores import Scores
from psla.report import drawing
from psla.report.drawing import BLUE, FONT, VERMILION, WIDTH, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 40  # classes; with more, the names would be too small to read
WORST = 25  # classes that the picture of missing clips names
Bins = Sequence[Mapping[str, Any]]


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

    Example:
        >>> curves([Curve("a", [1, 2], [0.1, 0.3])], "epoch", "mAP")[:4]
        b'\\x89PNG'
    """
    drawing.check(lines, "a picture of curves needs at least one")
    figure = drawing.figure(WIDTH, 3.1)
    axes = figure.subplots()
    drawing.plot(axes, lines, y_label, x_label, whole)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({x for each in lines for x in each.x})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
    axes.set_ylim(*y_range)
    return drawing.as_png(figure)


def learning_curve(rows: Sequence[Mapping[str, Any]], path: str | PathLike[str]) -> None:
    """Loss, mean average precision (where it was measured) and learning rate over the epochs, one panel each.

    Args:
        rows: one mapping an epoch with `epoch`, `loss`, `learning_rate` and optionally `mean_average_precision`
            (absent, None or NaN: not measured); other keys are ignored.

    Raises:
        ValueError: no rows, another suffix, or a row without a needed key.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learning_curve([{"epoch": 1, "loss": 0.7, "learning_rate": 1e-3}], Path(folder) / "curve.svg")
        ...     (Path(folder) / "curve.svg").exists()
        True
    """
    drawing.check(rows, "a learning curve needs at least one row", path)
    for row in rows:
        if missing := {"epoch", "loss", "learning_rate"} - set(row):
            raise ValueError(f"a row of a learning curve lacks {', '.join(sorted(missing))}: {dict(row)}")
    panels = {
        "loss": "training loss",
        "mean_average_precision": "mean average\nprecision",
        "learning_rate": "learning rate",
    }
    points = {key: [(row["epoch"], row[key]) for row in rows if drawing.defined(row.get(key))] for key in panels}
    shown = [key for key in panels if points[key] or key != "mean_average_precision"]
    figure = drawing.figure(7, 1 + 1.8 * len(shown))
    all_axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, key in zip(all_axes, shown, strict=True):
        x, y = [x for x, _ in points[key]], [y for _, y in points[key]]
        drawing.plot(axes, [Curve("", x, y, style=list(panels).index(key))], panels[key], whole=True)
    if all(drawing.defined(row["learning_rate"]) and row["learning_rate"] > 0 for row in rows):
        all_axes[-1].set_yscale("log")
    all_axes[-1].set_xlabel("epoch")
    figure.align_ylabels(all_axes)
    drawing.save(figure, path)


def unseen(
    expected: Mapping[str, Sequence[float]], simulated: Mapping[str, Sequence[float]], path: str | PathLike[str]
) -> None:
    """Share of clips not heard after 1, 2, ... epochs (PSLA, Figure 5): lines in expectation, markers as simulated.

    Args:
        expected: by the curve's name, a share an epoch.
        simulated: the same for those curves that were simulated.
    """
    drawing.check(expected, "a picture of the clips not heard needs at least one curve", path)
    lines = []
    for style, (name, shares) in enumerate(expected.items()):
        lines.append(Curve(f"{name}: expected", range(len(shares) + 1), [1.0, *shares], style=style))
        if name in simulated:
            points = simulated[name]
            lines.append(Curve(f"{name}: simulated", range(1, len(points) + 1), points, points=True, style=style))
    figure = drawing.figure(7, 4)
    axes = figure.subplots()
    drawing.plot(axes, lines, "share of clips not heard yet", "epochs", whole=True)
    axes.set_xlim(0, None)
    axes.set_ylim(0, 1.02)
    drawing.save(figure, path)


def ranked(
    values: Sequence[float],
    names: Sequence[str],
    label: str,
    stds: Sequence[float] | None = None,
    log: bool = False,
    mean: float | None = None,
) -> bytes:
    """Classes with their values, the greatest first: up to 40 by name as bars, more as a curve with its ends named.

    Args:
        values, names: of the classes; a value of NaN is left out, on a logarithmic axis 0 too.
        label: what the values are. stds: their standard deviations.
        log: a logarithmic axis. mean: drawn as a line.

    Example:
        >>> ranked([0.2, 0.7], ["rain", "dog"], "average precision")[:4]
        b'\\x89PNG'
    """
    return drawing.as_png(_ranked(WIDTH, values, names, label, stds, log, mean)[0])


def sorted_average_precision(scores: Scores, path: str | PathLike[str]) -> None:
    """Average precision of each class, sorted, with the mean (PSLA, Figure 6).

    Up to 40 classes are named; with more, the first and the last. Classes without positives have no average precision
    and no place; the title counts them.
    """
    drawing.check(scores.classes_scored, "no class has an average precision to draw", path)
    values, names = zip(*((each.average_precision, each.name) for each in scores.per_class), strict=True)
    figure, axes = _ranked(7, values, names, "average precision", None, False, scores.mean_average_precision)
    (axes.set_xlim if scores.classes_scored <= NAMED else axes.set_ylim)(0, 1.02)
    without = len(names) - scores.classes_scored
    note = f"; {without} without positives not shown" if without else ""
    axes.set_title(f"{scores.classes_scored} classes, {scores.clips} clips{note}", fontsize=FONT, loc="left")
    drawing.save(figure, path)


def scatter(x: Sequence[float], y: Sequence[float], x_label: str, y_label: str, log_x: bool = False) -> bytes:
    """A point for each class.

    Example:
        >>> scatter([10, 100], [0.2, 0.4], "clips", "average precision", log_x=True)[:4]
        b'\\x89PNG'
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if not math.isnan(b) and (a > 0 or not log_x)]
    drawing.check(points, "a picture of points needs one")
    figure = drawing.figure(WIDTH, 3.1)
    axes = figure.subplots()
    across, up = np.array(points).T
    axes.plot(across, up, "o", color=BLUE, markersize=4.5, alpha=0.6)
    if log_x:
        axes.set_xscale("log")
        drawing.plain_numbers(axes.xaxis, across.max() / across.min())
    axes.set_ylim(-0.02, 1.02)
    drawing.tidy(axes, "both", x_label, y_label)
    return drawing.as_png(figure)


def comparison(scores: Mapping[str, Scores | Mapping[str, Any]], path: str | PathLike[str]) -> None:
    """Mean average precision of named variants, one bar each in the given order, with the values printed.

    Args:
        scores: by the variant's name, `Scores` or the mapping that `Scores.to_dict` gives.

    Raises:
        ValueError: no variants, another suffix, or a mapping without `mean_average_precision`.
    """
    drawing.check(scores, "a comparison needs at least one variant", path)
    told = {name: each.to_dict() if isinstance(each, Scores) else each for name, each in scores.items()}
    for name, each in told.items():
        if "mean_average_precision" not in each:
            raise ValueError(f"the scores of {name!r} lack mean_average_precision")
    values = [each["mean_average_precision"] for each in told.values()]
    figure = drawing.figure(7, 1.1 + 0.42 * len(values))
    axes = figure.subplots()
    lengths = [each if drawing.defined(each) else 0.0 for each in values]
    drawing.bars(
        axes, lengths, list(told), [f"{each:.3f}" if drawing.defined(each) else "undefined" for each in values], BLUE
    )
    axes.set_xlim(0, max(1.15 * max(lengths), 0.01))  # from zero, so that bar lengths compare; room for the values
    drawing.tidy(axes, "x", "mean average precision")
    drawing.save(figure, path)


def class_counts(
    clips: Sequence[int], drawn: Sequence[float], names: Sequence[str], path: str | PathLike[str], title: str = ""
) -> None:
    """Clips of each class, most frequent first, on a logarithmic axis (PSLA, Figure 4), and how often it is drawn.

    Up to 40 classes are named; with more, only the first and the last three are. Classes without clips have no place on
    a logarithmic axis and are left out.

    Args:
        clips, names: of each class, how many carry it, and its name.
        drawn: of each class, how often an epoch under the sampler reads one of them.
        title: what the clips are.
    """
    rows = sorted((row for row in zip(clips, drawn, names, strict=True) if row[0]), key=lambda row: -row[0])
    drawing.check(rows, "class counts need at least one class with a clip", path)
    places, few = range(1, len(rows) + 1), len(rows) <= NAMED
    figure = drawing.figure(8, 5 if few else 3.8)
    axes = figure.subplots()
    axes.bar(places, [row[0] for row in rows], color=BLUE, width=0.8 if few else 1.0, label="clips")
    # A line of points: classes are not a continuum.
    size, label = (5.0 if few else 1.6), "drawn by balanced sampling, an epoch"
    axes.plot(places, [row[1] for row in rows], ".", color=VERMILION, markersize=size, label=label)
    axes.set_yscale("log")
    axes.set_xlim(0.5, len(rows) + 0.5)
    drawing.tidy(axes, "y", "", "clips (logarithmic)")
    if few:
        axes.set_xticks(places, [row[2] for row in rows], rotation=60, ha="right", fontsize=8, parse_math=False)
    else:
        best, worst = (", ".join(f"{row[2]} {row[0]:,}" for row in part) for part in (rows[:3], rows[-3:]))
        axes.set_xlabel(f"class, most frequent first: {best} … {worst}", fontsize=8, parse_math=False)
    axes.set_title(title or f"{len(rows)} classes", fontsize=FONT, loc="left", parse_math=False)
    figure.legend(loc="outside lower right", frameon=False, ncols=2, markerscale=5.0 / size)
    drawing.save(figure, path)


def reliability(before: Bins, after: Bins, path: str | PathLike[str]) -> None:
    """How often something is so, by how probable a model says it is; below, how many clips (of each class) that is of.

    Args:
        before, after: rows of `psla.metrics.calibration.reliability`.
    """
    drawing.check(before and after, "a reliability diagram needs bins", path)
    figure = drawing.figure(WIDTH, 1.3 * WIDTH)
    shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    shares.plot([0, 1], [0, 1], color=drawing.GREY, linestyle=":", linewidth=1)
    for values, key, label in ((shares, "share", "share that is so"), (counts, "clips", "clips")):
        for style, (name, bins) in enumerate([("before", before), ("after", after)]):
            x, y = ([float(row[column]) for row in bins] for column in ("probability", key))
            line = Curve(name if values is shares else "", x, y, style=style)
            drawing.plot(values, [line], label, "" if values is shares else "probability that is said")
    counts.set_yscale("log")
    shares.set_xlim(0, 1)
    shares.set_ylim(0, 1)
    drawing.save(figure, path)


def missing_by_class(classes: Sequence[Share]) -> bytes:
    """Of an inventory: the 25 worst classes as bars with their counts, and all classes as a curve."""
    drawing.check(classes, "a picture of classes needs one class or more")
    shares, count = [100 * c.missing_share for c in classes], min(WORST, len(classes))
    figure = drawing.figure(8, 3.2 + 0.26 * count)
    bars, curve = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1.2 + 0.26 * count, 2.0]})
    texts = [f"{c.missing:,} of {c.listed:,}" for c in classes[:count]]
    drawing.bars(bars, shares[:count], [drawing.shortened(c.name, 8) for c in classes[:count]], texts, VERMILION)
    bars.set_xlim(0, max(1.25 * max(shares[:count]), 1))
    bars.set_xticks([tick for tick in bars.get_xticks() if tick <= 100])
    drawing.tidy(bars, "x", "missing, % of the class's clips")
    places = range(1, len(shares) + 1)
    curve.step(places, shares, where="mid", color=BLUE)
    curve.fill_between(places, shares, step="mid", color=BLUE, alpha=0.2)
    curve.set_xlim(0.5, len(shares) + 0.5)
    curve.set_ylim(0, max(1.05 * max(shares), 1))
    drawing.tidy(curve, "y", f"all {len(shares)} classes, the worst first", "missing, %")
    return drawing.as_png(figure)


def _ranked(
    width: float,
    values: Sequence[float],
    names: Sequence[str],
    label: str,
    stds: Sequence[float] | None,
    log: bool,
    mean: float | None,
) -> tuple[Figure, Axes]:
    """See `ranked`."""
    spread = [0.0] * len(values) if stds is None else [0.0 if math.isnan(d) else d for d in stds]
    rows = [r for r in zip(values, names, spread, strict=True) if not math.isnan(r[0]) and (r[0] > 0 or not log)]
    rows.sort(key=lambda row: (-row[0], row[1]))
    drawing.check(rows, "a picture of classes needs one with a value")
    found, std = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
    places, few = np.arange(1, len(rows) + 1), len(rows) <= NAMED
    figure = drawing.figure(width, 0.9 + 0.21 * len(rows) if few else 3.2)
    axes = figure.subplots()
    if few:
        axes.barh(places, found, color=BLUE, height=0.75, log=log)
        if std.any():
            axes.errorbar(found, places, xerr=std, fmt="none", ecolor="black", elinewidth=1, capsize=2)
        axes.set_yticks(places, [drawing.shortened(row[1], width) for row in rows], parse_math=False)
        axes.set_ylim(len(rows) + 0.6, 0.4)
    else:
        axes.plot(places, found, color=BLUE)
        axes.fill_between(places, found - std, found + std, color=BLUE, alpha=0.25, linewidth=0)
        if log:
            axes.set_yscale("log")
    ends = " to ".join(drawing.shortened(rows[place][1], width) for place in (0, -1))
    if mean is not None and not math.isnan(mean):
        draw = axes.axvline if few else axes.axhline
        draw(mean, color="black", linestyle="--", linewidth=1.2, label=f"mean {mean:.3f}")
        figure.legend(frameon=False, fontsize=FONT - 1, loc="outside upper right")
    if log:
        drawing.plain_numbers(axes.xaxis if few else axes.yaxis, found.max() / found.min())
    if few:
        drawing.tidy(axes, "x", label)
    else:
        drawing.tidy(axes, "y", f"{len(rows)} classes, from {ends}", label)
    return figure, axes
