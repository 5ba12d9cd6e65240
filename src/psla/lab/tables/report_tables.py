"""The paper's Tables II to XI, each beside the same table as this lab measured it, and the table of classes.

A measured cell is the mean over seeds, its standard deviation where there are several, and in brackets the interval
over seeds and clips (`psla.metrics.significance`), computed from the prediction files; mAP unless a column says
otherwise. AUC and d-prime are the runner's. What was not run says so.

Table VII asks whether classes with more clips, or better annotated ones, are recognised better. The paper gives a
"correlation coefficient"; here stand Pearson's and Spearman's, since counts of classes are far from normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import numpy as np

from psla.lab.tables.claims import SETS, paper_tables
from psla.lab.tables.folder import Measured, RowResult
from psla.lab.tables.verdicts import Scoring
from psla.metrics.scores import average_precisions
from psla.report.page import Cell, Columns, Heading, Part, Table, Text, number

NOT_RUN = "not run"
ENHANCEMENT = {  # Table VIII's rows, and how many digits its numbers have
    "impacted_classes": ("classes with added labels", 0),
    "labels_added_percent": ("labels added, %", 1),
    "impacted_improvement_percent": ("their classes' improvement, %", 1),
    "non_impacted_improvement_percent": ("other classes' improvement, %", 1),
    "mean_classwise_relative_percent": ("mean relative improvement of classes, %", 1),
    "map_before": ("mAP before", 4),
    "map_after": ("mAP after", 4),
}


class Tables:
    """The tables of a report.

    Args:
        lab: what was measured.
        scores: its rows under draws of clips.
    """

    def __init__(self, lab: Measured, scores: Scoring) -> None:
        self.lab, self.scores = lab, scores

    def parts(self, correlations: Mapping[str, Sequence[str]]) -> list[Part]:
        """All tables of the paper, then those of the lab's other rows.

        Args:
            correlations: by the key of a row of Table VII its measured cells, `Pearson` and `Spearman`.
        """
        makers: dict[str, Callable[[Mapping[str, Any]], list[Table]]] = {
            "scores": lambda table: [self._scores(table)],
            "enhancement": lambda table: [self._enhancement(table)],
            "ensemble": lambda table: [self._ensembles(table)],
            "correlation": lambda table: [_correlations(table, correlations)],
            "comparison": lambda table: [self._comparison(table, name) for name in SETS],
        }
        parts: list[Part] = []
        for name, table in paper_tables().items():
            parts += [Heading(f"Table {name}: {table['title']}"), *makers[table["kind"]](table)]
            parts.append(Text(f"Paper: {table['where']}."))
        return parts + self._others()

    def cell(self, name: str | None) -> str:
        """A row's mAP: mean, deviation over seeds, interval; a row that is not done says so."""
        if name is None or self.lab.row(name) is None:
            return NOT_RUN if name else ""
        found = self.scores.estimate(name)
        exact = [each.exact for each in self.scores[name].by_seed.values()]
        spread = f" ± {stdev(exact):.4f}" if len(exact) > 1 else ""
        return f"{found.value:.4f}{spread} [{found.low:.4f}, {found.high:.4f}]"

    def _scores(self, table: Mapping[str, Any]) -> Table:
        measured = list(dict.fromkeys(name for row in table["rows"] for name in row["measured"]))
        sets = [name for name in SETS if any(row.get(name) is not None for row in table["rows"])]
        rows: list[list[Cell]] = []
        for row in table["rows"]:
            paper = [_spread(row.get(name), row.get(f"{name}_deviation")) for name in sets]
            rows.append([row["label"], *paper, *(self.cell(row["measured"].get(name)) for name in measured)])
        names = ["measured" if name == "measured" else f"measured, {name}" for name in measured]
        return Table(["", *(f"paper, {name} set" for name in sets), *names], rows)

    def _enhancement(self, table: Mapping[str, Any]) -> Table:
        head, columns = [""], [[*(label for label, _ in ENHANCEMENT.values()), "mAP's improvement, %"]]
        for row in table["rows"]:
            head += [f"{row['label']}: paper", "measured"]
            paper, name = row["paper"], row["row"]
            theirs = [_spread(paper.get(c), paper.get(f"{c}_deviation"), n) for c, (_, n) in ENHANCEMENT.items()]
            ours = [self._detail(name, column, digits) for column, (_, digits) in ENHANCEMENT.items()]
            columns += [[*theirs, number(paper["map_improvement_percent"], 1)], [*ours, self._gain(name)]]
        return Table(head, list(zip(*columns, strict=True)))

    def _gain(self, name: str) -> str:
        """How much more mAP, in percent of the mean before."""
        row = self.lab.row(name)
        if row is None:
            return NOT_RUN
        before, after = ((row.details.get(key) or {}).get("mean") for key in ("map_before", "map_after"))
        return "-" if not before or after is None else f"{100 * (after - before) / before:.1f}"

    def _detail(self, name: str, column: str, digits: int) -> str:
        row = self.lab.row(name)
        if row is None:
            return NOT_RUN
        found = row.details.get(column)
        if not isinstance(found, Mapping):
            return "-"
        return _spread(found.get("mean"), found.get("std", found.get("deviation")), digits)

    def _ensembles(self, table: Mapping[str, Any]) -> Table:
        rows = [
            [row["label"], *(_ensemble(row.get(name)) for name in SETS), self._ensemble_cell(row["row"])]
            for row in table["rows"]
        ]
        head = ["ensemble", *(f"paper, {name} set" for name in SETS), "measured: models, mean, best, ensemble"]
        return Table(head, rows)

    def _ensemble_cell(self, name: str) -> str:
        row = self.lab.row(name)
        if row is None or "members" not in row.details:
            return self.cell(name)
        count, average, best = (row.details.get(key) for key in ("members", "average", "best"))
        return f"{count} · {number(average)} · {number(best)} · {self.cell(name)}"

    def _comparison(self, table: Mapping[str, Any], name: str) -> Table:
        rows: list[list[Cell]] = []
        for row in table["rows"]:
            if values := row.get(name):
                numbers = [number(x, digits) for x, digits in zip(values[1:], (4, 4, 3), strict=True)]
                rows.append([row["label"], values[0] or "-", *numbers, *self._compared(row.get("row"))])
        each = ["parameters", "mAP", "AUC", "d'"]
        head = ["", *each, *(f"measured: {column}" for column in each)]
        return Table(head, rows, f"Trained on the {name} set in the paper")

    def _compared(self, name: str | None) -> list[str]:
        row = self.lab.row(name)
        if row is None:
            return [NOT_RUN if name else "", "", "", ""]
        others = [_spread(row.mean.get(key), row.std.get(key), d) for key, d in (("mean_auc", 4), ("d_prime", 3))]
        return [_parameters(row), self.cell(name), *others]

    def _others(self) -> list[Part]:
        """The tables that are not the paper's: the rows by the name of their table."""
        known = {*paper_tables(), "Figure 3", "Figure 7"}
        columns: Columns = {
            "": lambda row: row.title,
            "measured": lambda row: self.cell(row.row),
            "parameters": _parameters,
            "clips/s in training": lambda row: number(row.clips_per_second, 1),
        }
        parts: list[Part] = []
        for name in dict.fromkeys(row.table for row in self.lab.rows.values() if row.table not in known):
            rows = [row for row in self.lab.rows.values() if row.table == name]
            parts += [Heading(f"Beyond the paper: {name}"), Table.of(rows, columns)]
        return parts


def _correlations(table: Mapping[str, Any], measured: Mapping[str, Sequence[str]]) -> Table:
    rows: list[list[Cell]] = [
        [row["label"], *(number(row.get(name)) for name in SETS), *measured.get(row["key"], (NOT_RUN, NOT_RUN))]
        for row in table["rows"]
    ]
    return Table(["AP and", *(f"paper, {name} set" for name in SETS), "measured, Pearson", "measured, Spearman"], rows)


def _ensemble(values: Sequence[float] | None) -> str:
    return "-" if values is None else f"{values[0]} · {' · '.join(number(x) for x in values[1:])}"


def _spread(value: float | None, std: float | None = None, digits: int = 4) -> str:
    spread = f" ± {std:.{digits}f}" if std is not None and value is not None else ""
    return number(value, digits) + spread


def _parameters(row: RowResult) -> str:
    return "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M"


@dataclass(frozen=True)
class ClassScores:
    """Average precision of each class of a row.

    Shape:
        mean, std: (classes,) over the seeds; NaN without positives, the deviation also with one seed.
    """

    row: RowResult
    mean: np.ndarray
    std: np.ndarray


def class_scores(lab: Measured, row: RowResult) -> ClassScores:
    """Each class's average precision, the mean of the row's files for each seed, then over the seeds."""
    labels = lab.labels
    per_seed = []
    for seed in row.seeds:
        files = lab.scored(seed)
        each = [average_precisions(file.probabilities, labels.select(file.clip_ids)) for file in files]
        per_seed.append(np.mean(each, axis=0))
    found = np.array(per_seed)
    std = found.std(axis=0, ddof=1) if len(found) > 1 else np.full(found.shape[1], math.nan)
    return ClassScores(row, found.mean(axis=0), std)


def training_counts(lab: Measured) -> np.ndarray:
    """(classes,) how many training clips carry each class, labels as given."""
    return lab.clips.split("train").labels().part(lab.labels.vocabulary).counts()


def correlations(scores: ClassScores, lab: Measured, quality: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """By `count` and `quality` the two coefficients as text, a dash where there are too few classes."""
    found = {"count": correlation(scores.mean, training_counts(lab).astype(float))}
    if quality:
        given = np.array([quality.get(id, math.nan) for id in lab.labels.vocabulary.ids])
        found["quality"] = correlation(scores.mean, given)
    return {key: tuple(map(number, coefficients)) for key, coefficients in found.items()}


def correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Pearson's and Spearman's coefficient over the places where both are defined; NaN where there is none.

    Example:
        >>> pearson, spearman = correlation(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 2.0, 9.0, 5.0]))
        >>> round(pearson, 3), round(spearman, 3)
        (0.918, 1.0)
    """
    from scipy.stats import pearsonr, spearmanr  # takes a second to import

    both = ~(np.isnan(x) | np.isnan(y))
    x, y = x[both], y[both]
    if len(x) < 3 or not x.std() or not y.std():
        return math.nan, math.nan
    return float(pearsonr(x, y).statistic), float(spearmanr(x, y).statistic)


def class_table(
    scores: ClassScores, baseline: ClassScores | None, lab: Measured, quality: Mapping[str, float]
) -> Table:
    """A row a class: average precision, its deviation, the gain over the baseline, clips, annotation quality."""
    training, positives = training_counts(lab), lab.labels.counts()
    columns: dict[str, Callable[[Any], Cell]] = {
        "class": lambda c: c.name,
        "AP": lambda c: number(scores.mean[c.index], 3),
        "deviation": lambda c: number(scores.std[c.index], 3),
    }
    if baseline is not None:
        gains = scores.mean - baseline.mean
        columns[f"gain over {baseline.row.row}"] = lambda c: number(gains[c.index], 3, "+")
    columns["training clips"] = lambda c: f"{training[c.index]:,}"
    columns["positives"] = lambda c: f"{positives[c.index]:,}"
    if quality:
        columns["quality"] = lambda c: number(quality.get(c.id), 2)
    columns["id"] = lambda c: c.id
    return Table.of(lab.labels.vocabulary, columns, text=(0, len(columns) - 1), sortable=True)
