"""Measured: what a lab folder holds: lab.json, the clips, and a result for each row with its prediction files.

    LAB/lab.json, LAB/clips.parquet, LAB/results/ROW.json, LAB/runs/.../predictions/SPLIT/NAME.safetensors

`LabInfo` and `RowResult` are the two files: the runner writes them, the report reads them. A result's scores are not
trusted where its predictions are at hand: what the report shows with an interval is computed from the files again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.files import write_json_atomic
from psla.lab.experiment import LabError
from psla.lab.tables.rows import current_name
from psla.metrics.predictions import Predictions, average

VERSION = 1  # of lab.json
METRICS = ("mean_average_precision", "mean_auc", "d_prime", "accuracy")

F = TypeVar("F", bound="_File")


class _File(BaseModel):
    """A file of JSON in a lab's folder; keys that it does not know are left alone."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    what: ClassVar[str]

    @classmethod
    def read(cls: type[F], path: Path) -> F:
        """From a file.

        Raises:
            LabError: not what the runner writes; the sentence says what to do.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "json_invalid":
                raise LabError(f"{path} is no JSON ({first['msg']}); delete it and run the lab again") from error
            at = ".".join(map(str, first["loc"]))
            raise LabError(
                f"{path} is not {cls.what} (at {at}: {first['msg']}); delete it and run the lab again"
            ) from error

    def write(self, path: Path) -> None:
        """To a file, whole or not at all."""
        write_json_atomic(path, self.model_dump(by_alias=True))


class ClipsInfo(BaseModel):
    """The clips of a lab: their name, where they came from, and how many there are."""

    name: str = ""
    file: str = ""
    sha256: str = ""
    splits: dict[str, int] = {}
    classes: int | None = None


class LabInfo(_File):
    """A lab's head.

    Attributes:
        clips, recipe, overrides: what the lab was begun with. seeds, rows: of all calls.
        truth, split: the column and the split that is scored against. machine, date, command: of the last call.
    """

    what = "a lab's head"

    version: int | None = None
    clips: ClipsInfo = ClipsInfo()
    recipe: str = ""
    overrides: dict[str, Any] = {}
    seeds: list[int] = []
    rows: list[str] = []
    truth: str = "labels"
    split: str = "evaluation"
    machine: str = ""
    date: str = ""
    command: str = ""


class SeedResult(BaseModel):
    """One seed of a row.

    Attributes:
        seed: None where all seeds went into one result, such as an ensemble of seeds.
        runs, predictions: paths relative to the lab's folder.
        combine: what several files mean.
        scores: by metric. command: repeats the run. hours: of its epochs; None: unknown.
    """

    model_config = ConfigDict(frozen=True)

    seed: int | None
    runs: list[str]
    predictions: list[str] = Field(min_length=1)
    combine: Literal["mean_of_scores", "mean_of_probabilities"]
    scores: dict[str, float | None]
    command: str = ""
    hours: float | None = None

    @property
    def is_ensemble(self) -> bool:
        """Whether it is one mean of several files' probabilities."""
        return self.combine == "mean_of_probabilities" and len(self.predictions) > 1


class RowResult(_File):
    """A row's result.

    It is done, or not run for a reason. `take` says which predictions are scored, `recipe` what the row changes in the
    lab's recipe; `mean` and `std` are over the seeds; `details` are of the tables that have columns of their own, and
    `fingerprint` is of all that the result depends on.
    """

    what = "a row's result"

    row: str
    title: str
    table: str
    groups: list[str] = []
    origin: str | None = Field(None, alias="from")
    recipe: dict[str, Any] = {}
    status: str
    reason: str | None = None
    take: str | None = None
    fingerprint: str = ""
    seeds: list[SeedResult] = []
    mean: dict[str, float | None] = {}
    std: dict[str, float | None] = Field({}, validation_alias=AliasChoices("std", "deviation"))
    parameters: int | None = None
    clips_per_second: float | None = None
    details: dict[str, Any] = {}

    @field_validator("row", "take", "origin", mode="before")
    @classmethod
    def _renamed(cls, value: Any) -> Any:
        return current_name(value)

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
        self.info = LabInfo.read(self.folder / "lab.json")
        if self.info.version != VERSION:
            raise LabError(f"{self.folder / 'lab.json'} has version {self.info.version}, this psla reads {VERSION}")
        found = [RowResult.read(path) for path in sorted((self.folder / "results").glob("*.json"))]
        order = {name: place for place, name in enumerate(current_name(self.info.rows))}
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
        return self.clips.split(self.info.split)

    @cached_property
    def labels(self) -> Labels:
        """What all scores are against, in the vocabulary of the predictions."""
        labels = self.held_out.labels(self.info.truth)
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

    def scored(self, seed: SeedResult) -> list[Predictions]:
        """The predictions whose scores are averaged: the files, or the one mean of their probabilities."""
        files = (Predictions.read(self.path(each)) for each in seed.predictions)
        return [average(files)] if seed.is_ensemble else list(files)

    def row(self, name: str | None) -> RowResult | None:
        """A row that is done."""
        found = self.rows.get(name or "")
        return found if found is not None and found.done else None

    def first_done(self, names: Sequence[str]) -> RowResult | None:
        """The first of these rows that is done."""
        return next((row for name in names if (row := self.row(name)) is not None), None)
