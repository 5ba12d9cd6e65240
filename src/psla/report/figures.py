"""The pictures: learning curve, average precision class by class, comparison of variants, class counts, coverage.

Drawn with matplotlib's objects, not with pyplot: no window, no global state, usable from threads. The suffix of the
path chooses the format (.png, .svg, .pdf). Colours are of the palette of Okabe and Ito, safe for colour-blind readers;
no curve is told apart by colour alone: each has its own panel, or its own marker and its name beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psla.files import atomic_write
from psla.metrics.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
NAMED_CLASSES = 40  # with more, the names would be too small to read
FORMATS = (".png", ".svg", ".pdf")


def learning_curve(rows: Sequence[Mapping[str, Any]], path: str | PathLike[str]) -> None:
    """Loss, mean average precision (where it was measured) and learning rate over the epochs, one panel each.

    Args:
        rows: one mapping an epoch with `epoch`, `loss`, `learning_rate` and optionally `mean_average_precision`
            (absent, None or NaN: not measured); other keys are ignored.
        path: where to write; the suffix is .png, .svg or .pdf.

    Raises:
        ValueError: no rows, a row without a needed key, or another suffix.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learning_curve([{"epoch": 1, "loss": 0.7, "learning_rate": 1e-3}], Path(folder) / "curve.svg")
        ...     (Path(folder) / "curve.svg").exists()
        True
    """
    _check(rows, "a learning curve needs at least one row", path)
    for row in rows:
        missing = {"epoch", "loss", "learning_rate"} - set(row)
        if missing:
            raise ValueError(f"a row of a learning curve lacks {', '.join(sorted(missing))}: {dict(row)}")
    panels = [("loss", "training loss", BLUE, "o")]
    if any(_defined(row.get("mean_average_precision")) for row in rows):
        panels.append(("mean_average_precision", "mean average\nprecision", VERMILION, "s"))
    panels.append(("learning_rate", "learning rate", GREEN, "^"))
    figure = _figure(7, 1 + 1.8 * len(panels))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, label, color, marker) in zip(all_axes, panels, strict=True):
        points = [(row["epoch"], row[key]) for row in rows if _defined(row.get(key))]
        axes.plot([x for x, _ in points], [y for _, y in points], color=color, marker=marker, markersize=3.5)
        axes.set_ylabel(label)
        _tidy(axes, grid="both")
    _whole_epochs(all_axes[-1])
    if all(_defined(row["learning_rate"]) and row["learning_rate"] > 0 for row in rows):
        all_axes[-1].set_yscale("log")
    all_axes[-1].set_xlabel("epoch")
    figure.align_ylabels(all_axes)
    _save(figure, path)


def sorted_average_precision(scores: Scores, path: str | PathLike[str]) -> None:
    """Average precision of each class, sorted, with the mean (PSLA, Figure 6).

    Up to 40 classes are named; with more, only the rank is given. Classes without positives have no average precision
    and no bar; the title counts them.

    Args:
        scores: what `score` gives.
        path: where to write; the suffix is .png, .svg or .pdf.

    Raises:
        ValueError: no class has an average precision, or another suffix.
    """
    ranked = sorted(
        (each for each in scores.per_class if _defined(each.average_precision)),
        key=lambda each: (-each.average_precision, each.id),
    )
    _check(ranked, "no class has an average precision to draw", path)
    values = [each.average_precision for each in ranked]
    places = list(range(1, len(ranked) + 1))
    mean = scores.mean_average_precision
    label = f"mean {mean:.3f}"
    if len(ranked) <= NAMED_CLASSES:
        figure = _figure(7, 1.4 + 0.24 * len(ranked))
        axes = figure.subplots()
        axes.barh(places, values, color=BLUE, height=0.75)
        axes.axvline(mean, color="black", linestyle="--", linewidth=1.5, label=label)
        axes.set_yticks(places, [each.name for each in ranked], parse_math=False)
        axes.set_ylim(len(ranked) + 0.6, 0.4)
        axes.set_xlim(0, 1.02)
        axes.set_xlabel("average precision")
        _tidy(axes, grid="x")
    else:
        figure = _figure(8, 3.6)
        axes = figure.subplots()
        axes.bar(places, values, color=BLUE, width=1.0)
        axes.axhline(mean, color="black", linestyle="--", linewidth=1.5, label=label)
        axes.set_xlim(0.5, len(ranked) + 0.5)
        axes.set_ylim(0, 1)
        axes.set_xlabel("class, sorted by average precision")
        axes.set_ylabel("average precision")
        _tidy(axes, grid="y")
    without = len(scores.per_class) - len(ranked)
    note = f"; {without} without positives not shown" if without else ""
    axes.set_title(f"{len(ranked)} classes, {scores.clips} clips{note}", fontsize=10, loc="left")
    figure.legend(loc="outside lower right", frameon=False)
    _save(figure, path)


def comparison(scores: Mapping[str, Scores | Mapping[str, Any]], path: str | PathLike[str]) -> None:
    """Mean average precision of named variants, one bar each in the given order, with the values printed.

    Args:
        scores: by the variant's name, `Scores` or the mapping that `Scores.to_dict` gives.
        path: where to write; the suffix is .png, .svg or .pdf.

    Raises:
        ValueError: no variants, a mapping without `mean_average_precision`, or another suffix.
    """
    _check(scores, "a comparison needs at least one variant", path)
    values = []
    for name, each in scores.items():
        if not isinstance(each, Scores) and "mean_average_precision" not in each:
            raise ValueError(f"the scores of {name!r} lack mean_average_precision")
        value = each.mean_average_precision if isinstance(each, Scores) else each["mean_average_precision"]
        values.append(float(value) if _defined(value) else math.nan)
    lengths = [0.0 if math.isnan(each) else each for each in values]
    figure = _figure(7, 1.1 + 0.42 * len(values))
    axes = figure.subplots()
    bars = axes.barh(range(len(values)), lengths, color=BLUE, height=0.65)
    texts = ["undefined" if math.isnan(each) else f"{each:.3f}" for each in values]
    axes.bar_label(bars, texts, padding=4, color="black")
    axes.set_yticks(range(len(values)), list(scores), parse_math=False)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, max(1.15 * max(lengths), 0.01))  # from zero, so that bar lengths compare; room for the values
    axes.set_xlabel("mean average precision")
    _tidy(axes, grid="x")
    _save(figure, path)


def class_counts(
    clips: Sequence[int], drawn: Sequence[float], names: Sequence[str], path: str | PathLike[str], title: str = ""
) -> None:
    """Clips of each class, most frequent first, on a logarithmic axis (PSLA, Figure 4), and how often it is drawn.

    Up to 40 classes are named; with more, only the first and the last three are. Classes without clips have no place on
    a logarithmic axis and are left out.

    Args:
        clips: of each class, how many carry it.
        drawn: of each class, how often an epoch under the sampler reads one of them.
        names: of the classes.
        path: where to write; the suffix is .png, .svg or .pdf.
        title: what the clips are.

    Raises:
        ValueError: no class has a clip, lists of different lengths, or another suffix.
    """
    ranked = sorted((row for row in zip(clips, drawn, names, strict=True) if row[0]), key=lambda row: -row[0])
    _check(ranked, "class counts need at least one class with a clip", path)
    places = list(range(1, len(ranked) + 1))
    few = len(ranked) <= NAMED_CLASSES
    figure = _figure(8, 5 if few else 3.8)
    axes = figure.subplots()
    axes.bar(places, [row[0] for row in ranked], color=BLUE, width=0.8 if few else 1.0, label="clips")
    # A line of points: classes are not a continuum.
    size = 5.0 if few else 1.6
    label = "drawn by balanced sampling, an epoch"
    axes.plot(places, [row[1] for row in ranked], ".", color=VERMILION, markersize=size, label=label)
    axes.set_yscale("log")
    axes.set_xlim(0.5, len(ranked) + 0.5)
    axes.set_ylabel("clips (logarithmic)")
    if few:
        axes.set_xticks(places, [row[2] for row in ranked], rotation=60, ha="right", fontsize=8, parse_math=False)
    else:
        best, worst = (", ".join(f"{row[2]} {row[0]:,}" for row in part) for part in (ranked[:3], ranked[-3:]))
        axes.set_xlabel(f"class, most frequent first: {best} … {worst}", fontsize=8, parse_math=False)
    axes.set_title(title or f"{len(ranked)} classes", fontsize=10, loc="left", parse_math=False)
    _tidy(axes, grid="y")
    figure.legend(loc="outside lower right", frameon=False, ncols=2, markerscale=5.0 / size)
    _save(figure, path)


def unseen(
    expected: Mapping[str, Sequence[float]], simulated: Mapping[str, Sequence[float]], path: str | PathLike[str]
) -> None:
    """Share of clips not heard after 1, 2, ... epochs (PSLA, Figure 5): lines in expectation, markers as simulated.

    Args:
        expected: by the curve's name, a share an epoch.
        simulated: the same for those curves that were simulated.
        path: where to write; the suffix is .png, .svg or .pdf.

    Raises:
        ValueError: no curves, or another suffix.
    """
    _check(expected, "a picture of the clips not heard needs at least one curve", path)
    figure = _figure(7, 4)
    axes = figure.subplots()
    styles = [(BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "^", "-."), (GREY, "D", ":")]
    for number, (name, curve) in enumerate(expected.items()):
        color, marker, line = styles[number % len(styles)]
        axes.plot(range(len(curve) + 1), [1.0, *curve], color=color, linestyle=line, label=f"{name}: expected")
        if name in simulated:
            points = simulated[name]
            axes.plot(
                range(1, len(points) + 1),
                points,
                color=color,
                marker=marker,
                linestyle="",
                markersize=4.5,
                fillstyle="none",
                label=f"{name}: simulated",
            )
    axes.set_xlim(0, None)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("epochs")
    axes.set_ylabel("share of clips not heard yet")
    _whole_epochs(axes)
    _tidy(axes, grid="both")
    axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def _defined(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _check(data: Sequence[Any] | Mapping[str, Any], rule: str, path: str | PathLike[str]) -> None:
    if not data:
        raise ValueError(f"{rule}; got none")
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"a figure's suffix must be one of {', '.join(FORMATS)}; got {Path(path).name!r}")


def _figure(width: float, height: float) -> Figure:
    """A figure of this many inches, made without pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _whole_epochs(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _tidy(axes: Axes, grid: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: str | PathLike[str]) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lower()[1:], dpi=150)
