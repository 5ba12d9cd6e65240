"""Class by class: average precision over seeds, beside how many clips a class has and how well it is annotated.

Table VII asks whether classes with more clips, or better annotated ones, are recognised better. The paper gives a
"correlation coefficient"; here stand Pearson's and Spearman's, since counts of classes are far from normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from psla.lab.tables.measured import Measured, RowResult
from psla.metrics.scores import average_precisions
from psla.report.html import Cell, Table


@dataclass(frozen=True)
class ClassScores:
    """Average precision of each class of a row.

    Shape:
        mean, deviation: (classes,) over the seeds; NaN without positives, the deviation also with one seed.
    """

    row: RowResult
    mean: np.ndarray
    deviation: np.ndarray


def class_scores(lab: Measured, row: RowResult) -> ClassScores:
    """Each class's average precision, the mean of the row's files for each seed, then over the seeds."""
    labels = lab.labels
    per_seed = []
    for seed in row.seeds:
        files = lab.scored(seed)
        each = [average_precisions(file.probabilities, labels.select(file.clip_ids)) for file in files]
        per_seed.append(np.mean(each, axis=0))
    found = np.array(per_seed)
    deviation = found.std(axis=0, ddof=1) if len(found) > 1 else np.full(found.shape[1], math.nan)
    return ClassScores(row, found.mean(axis=0), deviation)


def training_counts(lab: Measured) -> np.ndarray:
    """(classes,) how many training clips carry each class, labels as given."""
    return lab.clips.split("train").labels().part(lab.labels.vocabulary).counts()


def correlations(scores: ClassScores, lab: Measured, quality: Mapping[str, float]) -> dict[str, tuple[str, str]]:
    """By `count` and `quality` the two coefficients as text, a dash where there are too few classes."""
    classes = [c.id for c in lab.labels.vocabulary]
    found = {"count": correlation(scores.mean, training_counts(lab).astype(float))}
    if quality:
        found["quality"] = correlation(scores.mean, np.array([quality.get(id, math.nan) for id in classes]))
    return {key: (_coefficient(pearson), _coefficient(spearman)) for key, (pearson, spearman) in found.items()}


def correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Pearson's and Spearman's coefficient over the places where both are defined; NaN where there is none.

    Example:
        >>> pearson, spearman = correlation(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 2.0, 9.0, 5.0]))
        >>> round(pearson, 3), round(spearman, 3)
        (0.918, 1.0)
    """
    both = ~(np.isnan(x) | np.isnan(y))
    return _pearson(x[both], y[both]), _pearson(_ranks(x[both]), _ranks(y[both]))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties in the middle of their places."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1) / 2


def class_table(
    scores: ClassScores, baseline: ClassScores | None, lab: Measured, quality: Mapping[str, float]
) -> Table:
    """A row a class: average precision, its deviation, the gain over the baseline, clips, annotation quality."""
    training, positives = training_counts(lab), lab.labels.counts()
    head = ["class", "AP", "deviation", "training clips", "positives", "id"]
    if baseline is not None:
        head.insert(3, f"gain over {baseline.row.row}")
    if quality:
        head.insert(-1, "quality")
    rows: list[list[Cell]] = []
    for c in lab.labels.vocabulary:
        i = c.index
        value = float(scores.mean[i])
        cells: list[Cell] = [c.name, _number(value), _number(float(scores.deviation[i]))]
        if baseline is not None:
            cells.append(_number(value - float(baseline.mean[i]), "+"))
        cells += [f"{training[i]:,}", f"{positives[i]:,}"]
        if quality:
            cells.append(_number(quality.get(c.id, math.nan), digits=2))
        rows.append([*cells, c.id])
    return Table(head, rows, text=(0, len(head) - 1), sortable=True)


def _number(value: float, sign: str = "", digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _coefficient(value: float) -> str:
    return _number(value, digits=4)
