"""Measured: what a lab folder holds: lab.json, the clips, and a result for each row with its prediction files.

    LAB/lab.json, LAB/clips.parquet, LAB/results/ROW.json, LAB/runs/.../predictions/SPLIT/NAME.safetensors

Read here and never written; the runner writes it. A result's scores are not trusted where its predictions are at
hand: what the report shows with an interval is computed from the files again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.lab.tables.rows import current_name
from psla.metrics.predictions import Predictions, average

METRICS = ("mean_average_precision", "mean_auc", "d_prime", "accuracy")


class LabError(ValueError):
    """A lab folder that is not one, or a file in it that breaks the format."""


@dataclass(frozen=True)
class SeedResult:
    """One seed of a row.

    Attributes:
        seed: None where all seeds went into one result, such as an ensemble of seeds.
        runs, predictions: paths relative to the lab's folder.
        combine: what several files mean: `mean_of_scores` or `mean_of_probabilities`.
        scores: by metric. command: repeats the run. hours: of its epochs; None: unknown.
    """

    seed: int | None
    runs: list[str]
    predictions: list[str]
    combine: str
    scores: Mapping[str, float | None]
    command: str = ""
    hours: float | None = None


@dataclass(frozen=True)
class RowResult:
    """A row of the lab: done, or not run for a reason.

    `take` says which predictions are scored, `recipe` what the row changes in the lab's recipe; `details` are of the
    tables that have columns of their own.
    """

    row: str
    title: str
    table: str
    status: str
    reason: str | None = None
    take: str | None = None
    seeds: list[SeedResult] = field(default_factory=list)
    mean: Mapping[str, float | None] = field(default_factory=dict)
    deviation: Mapping[str, float | None] = field(default_factory=dict)
    parameters: int | None = None
    clips_per_second: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether there are scores."""
        return self.status == "done" and bool(self.seeds)


class Measured:
    """A lab's results.

    Attributes:
        folder: of the lab. info: what lab.json holds. rows: by name, done or not.

    Raises:
        FileNotFoundError: no lab.json in the folder.
        LabError: a file that breaks the format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "lab.json").is_file():
            raise FileNotFoundError(f"{folder} holds no lab: it has no lab.json; `psla lab run` makes one")
        self.info = _json(self.folder / "lab.json")
        if self.info.get("version") != 1:
            raise LabError(f"{self.folder / 'lab.json'} has version {self.info.get('version')}, this psla reads 1")
        found = [_row(path) for path in sorted((self.folder / "results").glob("*.json"))]
        order = {name: place for place, name in enumerate(current_name(self.info.get("rows", [])))}
        found.sort(key=lambda row: (order.get(row.row, len(order)), row.row))
        self.rows = {row.row: row for row in found}
        for row in found:
            for each in row.seeds:
                if missing := [path for path in each.predictions if not self.path(path).is_file()]:
                    raise LabError(
                        f"row {row.row}: {self.path(missing[0])} is missing; delete results/{row.row}.json and run the "
                        "lab again"
                    )

    @cached_property
    def clips(self) -> Clips:
        """All clips, with their labels as given."""
        return Clips.read(self.folder / "clips.parquet")

    @cached_property
    def held_out(self) -> Clips:
        """The clips that all scores are of."""
        return self.clips.split(self.info.get("split", "evaluation"))

    @cached_property
    def labels(self) -> Labels:
        """What all scores are against, in the vocabulary of the predictions."""
        labels = self.held_out.labels(self.info.get("truth", "labels"))
        for row in self.rows.values():
            if row.done:
                return labels.part(Predictions.read(self.path(row.seeds[0].predictions[0])).vocabulary)
        return labels

    @cached_property
    def sources(self) -> dict[str, str] | None:
        """By clip id the source, where several held-out clips share one; else None."""
        frame = self.held_out.frame
        if frame["source"].n_unique() == len(frame):
            return None
        return dict(zip(frame["clip_id"], frame["source"], strict=True))

    def path(self, relative: str) -> Path:
        """A file of the lab."""
        return self.folder / relative

    def members(self, seed: SeedResult) -> list[Predictions]:
        """Each of the seed's prediction files."""
        return [Predictions.read(self.path(each)) for each in seed.predictions]

    def scored(self, seed: SeedResult) -> list[Predictions]:
        """The predictions whose scores are averaged: the files, or the one mean of their probabilities."""
        if seed.combine == "mean_of_probabilities" and len(seed.predictions) > 1:
            return [average(Predictions.read(self.path(each)) for each in seed.predictions)]
        return self.members(seed)

    def first_done(self, names: Sequence[str]) -> RowResult | None:
        """The first of these rows that is done."""
        return next((self.rows[name] for name in names if name in self.rows and self.rows[name].done), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LabError(f"{path} is no JSON ({error}); delete it and run the lab again") from error
    if not isinstance(data, dict):
        raise LabError(f"{path} must hold an object; delete it and run the lab again")
    return data


def _row(path: Path) -> RowResult:
    data = _json(path)
    try:
        seeds = [
            SeedResult(
                each["seed"],
                list(each["runs"]),
                list(each["predictions"]),
                each["combine"],
                each["scores"],
                each.get("command") or "",
                each.get("hours"),
            )
            for each in data.get("seeds") or []
        ]
        fields = ("reason", "take", "parameters", "clips_per_second")
        row = RowResult(
            current_name(data["row"]),
            data["title"],
            str(data["table"]),
            data["status"],
            seeds=seeds,
            mean=data.get("mean") or {},
            deviation=data.get("deviation") or {},
            details=data.get("details") or {},
            recipe=data.get("recipe") or {},
            **{name: current_name(data.get(name)) for name in fields},
        )
    except (KeyError, TypeError) as error:
        raise LabError(f"{path} is not a row's result (at {error}); delete it and run the lab again") from error
    for each in seeds:
        if each.combine not in ("mean_of_scores", "mean_of_probabilities") or not each.predictions:
            raise LabError(f"{path}: seed {each.seed} has no predictions, or combines them by {each.combine!r}")
    return row
