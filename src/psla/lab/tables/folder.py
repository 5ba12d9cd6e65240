"""Folder: what a lab of several runs keeps, written while it is carried out (`Lab`) and read by reports (`Measured`).

    LAB/lab.json         clips, recipe, seeds and rows of the lab, the machine, the command: `LabInfo`
    LAB/recipe.yaml      the lab's recipe, resolved     LAB/clips.parquet   the clips, labels as given
    LAB/runs/            a run folder for each training LAB/labels/         what teachers say; see `psla.lab.teaching`
    LAB/results/         ROW.json, `RowResult`          LAB/sweeps/         Figure 7 of a run
    LAB/rows/            the user's own rows            LAB/journal*.jsonl  what was finished when; held while at work

Rows and seeds may be added in a later call; clips and recipe stay. Reports compute what has an interval anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.files import sha256_of, write_json_atomic, write_text_atomic
from psla.lab.experiment import LabError, changed, machine, today
from psla.lab.tables.plan import Job
from psla.lab.tables.rows import current_name
from psla.metrics.predictions import Predictions, average
from psla.sealed import seal_text
from psla.training.keys import flatten
from psla.training.recipe import Recipe
from psla.training.run import Run

VERSION = 1  # of lab.json
BEGUN = ("clips.parquet", "recipe.yaml", "rows")  # what a lab that was killed while it began has written
METRICS = ("mean_average_precision", "mean_auc", "d_prime", "accuracy")

F = TypeVar("F", bound="LabFile")


class LabFile(BaseModel):
    """A file of JSON in a lab's folder; keys that it does not know are left alone."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    what: ClassVar[str]

    @classmethod
    def read(cls: type[F], path: Path) -> F:
        """From a file; LabError where it is not what the runner writes, with what to do."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            fault = "no JSON" if first["type"] == "json_invalid" else f"not {cls.what}"
            at = "".join(f"{part}: " for part in first["loc"])
            raise LabError(f"{path} is {fault} ({at}{first['msg']}); delete it and run the lab again") from error

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


class LabInfo(LabFile):
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


class RowResult(LabFile):
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


@dataclass
class Lab:
    """A lab's folder with its clips and its recipe.

    Attributes:
        folder: where it is; need not exist. clips: with a held-out split. recipe: of all rows; its seed is not used.
        recipe_name, overrides, clips_file: what the user called them.

    Raises:
        LabError: clips that hold nothing out, or a folder that was begun with other clips or another recipe.
    """

    folder: Path
    clips: Clips
    recipe: Recipe
    recipe_name: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    clips_file: str = ""

    def __post_init__(self) -> None:
        if not self.clips.counts().get(self.split):
            raise LabError(
                "the clips hold nothing out to score on: hold out with --validation, or add evaluation clips"
            )
        self.recipe = changed(self.recipe, {"seed": 0})
        if self.stored is None:
            there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
            if any(name not in BEGUN and not name.startswith(".") for name in there):
                raise LabError(f"{self.folder} holds something that is not a lab; name another folder with --out")
            return
        if self.stored.version != VERSION:
            raise LabError(f"{self.folder} has lab format {self.stored.version}, this psla reads {VERSION}")
        here = flatten(self.recipe.model_dump())
        for key, value in flatten(Recipe.load(self.folder / "recipe.yaml").model_dump()).items():
            if value != here[key]:
                raise LabError(
                    f"{self.folder} was begun with another recipe: {key} is {value!r} there and {here[key]!r} here; "
                    "name another folder with --out"
                )
        if Clips.read(self.folder / "clips.parquet") != self.clips:
            raise LabError(f"{self.folder} was begun with other clips; name another folder with --out")

    @cached_property
    def stored(self) -> LabInfo | None:
        """What lab.json held when it was read first; None for a new lab."""
        path = self.folder / "lab.json"
        return LabInfo.read(path) if path.is_file() else None

    @property
    def split(self) -> str:
        """What is scored on: evaluation where there is such a split, else validation."""
        return "evaluation" if self.clips.counts().get("evaluation") else "validation"

    @property
    def truth(self) -> str:
        """The column that is scored against: what really sounds, where the clips know it."""
        return "true_labels" if "true_labels" in self.clips.frame.columns else "labels"

    @cached_property
    def true_labels(self) -> Labels:
        """Of the clips that are scored on."""
        return self.clips.split(self.split).labels(self.truth)

    @cached_property
    def clips_hash(self) -> str:
        """SHA-256 of the table as it is or will be in the folder."""
        kept = self.folder / "clips.parquet"
        if self.stored is not None and kept.is_file():
            return sha256_of(kept)
        # Elsewhere: a plan makes no folder, and another shard may be making it right now.
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / kept.name
            self.clips.write(written)
            return sha256_of(written)

    def write(self, seeds: Sequence[int], rows: Sequence[str], command: str, row_files: Sequence[Path] = ()) -> None:
        """Write the clips and the recipe, if they are not there, the user's own rows, and lab.json."""
        for path in row_files:
            if path.resolve().parent != (self.folder / "rows").resolve():
                write_text_atomic(self.folder / "rows" / path.name, path.read_text(encoding="utf-8"))
        if self.stored is None:
            self.clips.write(self.folder / "clips.parquet")
            write_text_atomic(self.folder / "recipe.yaml", seal_text(self.recipe.to_yaml()))
        name, counts, classes = self.clips.name, self.clips.counts(), len(self.clips.vocabulary)
        LabInfo(
            version=VERSION,
            clips=ClipsInfo(name=name, file=self.clips_file, sha256=self.clips_hash, splits=counts, classes=classes),
            recipe=self.recipe_name,
            overrides=dict(self.overrides),
            seeds=list(seeds),
            rows=list(rows),
            truth=self.truth,
            split=self.split,
            machine=machine(),
            date=today(),
            command=command,
        ).write(self.folder / "lab.json")

    def run(self, job: Job) -> Run:
        """The run of a job, where it is or will be; another row may have given it its name in an earlier call."""
        there = sorted((self.folder / "runs").glob(f"*-{job.key}"))
        return Run(there[0] if there else self.folder / "runs" / job.name)

    def result_file(self, row: str) -> Path:
        """Where the result of a row is or will be."""
        return self.folder / "results" / f"{row}.json"

    def result(self, row: str) -> RowResult | None:
        """The result of a row, if there is one."""
        path = self.result_file(row)
        return RowResult.read(path) if path.is_file() else None

    def relative(self, path: Path) -> str:
        """A path as it stands in results."""
        return path.relative_to(self.folder).as_posix()


class Measured:
    """A lab's results.

    Attributes:
        folder: of the lab. info: what lab.json holds. rows: by name, done or not run. waiting: asked for, no result.

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
        self.waiting = [name for name in order if name not in self.rows]
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
        """The predictions whose scores are averaged: the files, or the mean of their probabilities."""
        files = (Predictions.read(self.path(each)) for each in seed.predictions)
        return [average(files)] if seed.is_ensemble else list(files)

    def row(self, name: str | None) -> RowResult | None:
        """A row that is done."""
        found = self.rows.get(name or "")
        return found if found is not None and found.done else None

    def first_done(self, names: Sequence[str]) -> RowResult | None:
        """The first of these rows that is done."""
        return next((row for name in names if (row := self.row(name)) is not None), None)
