"""The paper's Tables II to XI, each beside the same table as this lab measured it.

A measured cell is the mean over seeds, its standard deviation where there are several, and in brackets the interval
over seeds and clips (`psla.metrics.significance`), computed from the prediction files; mAP unless a column says
otherwise. AUC and d-prime are the runner's. What was not run says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psla.lab.tables.measured import Measured, RowResult
from psla.lab.tables.paper import SETS, paper_tables
from psla.lab.tables.verdicts import Scoring
from psla.report.html import Cell, Heading, Part, Table, Text

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
        makers = {"scores": self._scores, "enhancement": self._enhancement, "ensemble": self._ensembles}
        parts: list[Part] = []
        for number, table in paper_tables().items():
            parts.append(Heading(f"Table {number}: {table['title']}"))
            if table["kind"] == "correlation":
                parts.append(_correlations(table, correlations))
            elif table["kind"] == "comparison":
                parts += [self._comparison(table, name) for name in SETS]
            else:
                parts.append(makers[table["kind"]](table))
            parts.append(Text(f"Paper: {table['where']}."))
        return parts + self._others()

    def cell(self, name: str | None) -> str:
        """A row's mAP: mean, deviation over seeds, interval.

        A row that is not done says so.
        """
        row = self.lab.rows.get(name or "")
        if name is None or row is None:
            return NOT_RUN if name else ""
        if not row.done:
            return NOT_RUN
        found = self.scores.estimate(name)
        exact = [each.exact for each in self.scores[name].by_seed.values()]
        spread = f" ± {_deviation(exact):.4f}" if len(exact) > 1 else ""
        return f"{found.value:.4f}{spread} [{found.low:.4f}, {found.high:.4f}]"

    def _scores(self, table: Mapping[str, Any]) -> Table:
        measured = list(dict.fromkeys(name for row in table["rows"] for name in row["measured"]))
        sets = [name for name in SETS if any(row.get(name) is not None for row in table["rows"])]
        rows: list[list[Cell]] = []
        for row in table["rows"]:
            paper = [_paper(row.get(name), row.get(f"{name}_deviation")) for name in sets]
            rows.append([row["label"], *paper, *(self.cell(row["measured"].get(name)) for name in measured)])
        names = ["measured" if name == "measured" else f"measured, {name}" for name in measured]
        return Table(["", *(f"paper, {name} set" for name in sets), *names], rows)

    def _enhancement(self, table: Mapping[str, Any]) -> Table:
        head = [""]
        for row in table["rows"]:
            head += [f"{row['label']}: paper", "measured"]
        rows: list[list[Cell]] = []
        for column, (label, digits) in ENHANCEMENT.items():
            cells: list[Cell] = [label]
            for row in table["rows"]:
                cells.append(_paper(row["paper"].get(column), row["paper"].get(f"{column}_deviation"), digits))
                cells.append(self._detail(row["row"], column, digits))
            rows.append(cells)
        gains: list[Cell] = ["mAP's improvement, %"]
        for row in table["rows"]:
            gains += [_paper(row["paper"]["map_improvement_percent"], digits=1), self._gain(row["row"])]
        return Table(head, [*rows, gains])

    def _gain(self, name: str) -> str:
        """How much more mAP, in percent of the mean before."""
        row = self.lab.rows.get(name)
        if row is None or not row.done:
            return NOT_RUN
        before, after = ((row.details.get(key) or {}).get("mean") for key in ("map_before", "map_after"))
        return "-" if not before or after is None else f"{100 * (after - before) / before:.1f}"

    def _detail(self, name: str, column: str, digits: int) -> str:
        row = self.lab.rows.get(name)
        if row is None or not row.done:
            return NOT_RUN
        found = row.details.get(column)
        if not isinstance(found, Mapping) or found.get("mean") is None:
            return "-"
        return _paper(found["mean"], found.get("deviation"), digits)

    def _ensembles(self, table: Mapping[str, Any]) -> Table:
        rows: list[list[Cell]] = []
        for row in table["rows"]:
            paper = [_ensemble(row.get(name)) for name in SETS]
            rows.append([row["label"], *paper, self._ensemble_cell(row["row"])])
        head = ["ensemble", *(f"paper, {name} set" for name in SETS), "measured: models, mean, best, ensemble"]
        return Table(head, rows)

    def _ensemble_cell(self, name: str) -> str:
        row = self.lab.rows.get(name)
        if row is None or not row.done:
            return NOT_RUN
        details = row.details
        if "members" not in details:
            return self.cell(name)
        count, average, best = (details.get(key) for key in ("members", "average", "best"))
        return f"{count} · {_number(average)} · {_number(best)} · {self.cell(name)}"

    def _comparison(self, table: Mapping[str, Any], name: str) -> Table:
        rows: list[list[Cell]] = []
        for row in table["rows"]:
            if values := row.get(name):
                numbers = [_number(x, digits) for x, digits in zip(values[1:], (4, 4, 3), strict=True)]
                rows.append([row["label"], values[0] or "-", *numbers, *self._compared(row.get("row"))])
        each = ["parameters", "mAP", "AUC", "d'"]
        head = ["", *each, *(f"measured: {column}" for column in each)]
        return Table(head, rows, f"Trained on the {name} set in the paper")

    def _compared(self, name: str | None) -> list[str]:
        if name is None:
            return [""] * 4
        row = self.lab.rows.get(name)
        if row is None or not row.done:
            return [NOT_RUN, "", "", ""]
        others = [_paper(row.mean.get(key), row.deviation.get(key), d) for key, d in (("mean_auc", 4), ("d_prime", 3))]
        return [_parameters(row.parameters), self.cell(name), *others]

    def _others(self) -> list[Part]:
        """The tables that are not the paper's: the rows by the name of their table."""
        known = {*paper_tables(), "Figure 3", "Figure 7"}
        names = dict.fromkeys(row.table for row in self.lab.rows.values() if row.table not in known)
        parts: list[Part] = []
        for name in names:
            rows = [row for row in self.lab.rows.values() if row.table == name]
            cells = [[row.title, self.cell(row.row), _parameters(row.parameters), _speed(row)] for row in rows]
            head = ["", "measured", "parameters", "clips/s in training"]
            parts += [Heading(f"Beyond the paper: {name}"), Table(head, cells)]
        return parts


def _correlations(table: Mapping[str, Any], measured: Mapping[str, Sequence[str]]) -> Table:
    rows: list[list[Cell]] = [
        [row["label"], *(_paper(row.get(name)) for name in SETS), *measured.get(row["key"], (NOT_RUN, NOT_RUN))]
        for row in table["rows"]
    ]
    return Table(["AP and", *(f"paper, {name} set" for name in SETS), "measured, Pearson", "measured, Spearman"], rows)


def _ensemble(values: Sequence[float] | None) -> str:
    return "-" if values is None else f"{values[0]} · {' · '.join(_number(x) for x in values[1:])}"


def _paper(value: float | None, deviation: float | None = None, digits: int = 4) -> str:
    spread = f" ± {deviation:.{digits}f}" if deviation is not None and value is not None else ""
    return _number(value, digits) + spread


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _parameters(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.2f} M"


def _speed(row: RowResult) -> str:
    return "-" if row.clips_per_second is None else f"{row.clips_per_second:.1f}"


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return float((sum((x - mean) ** 2 for x in values) / (len(values) - 1)) ** 0.5)
