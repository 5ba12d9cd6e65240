"""Lab: the folder of an experiment of several runs, and what it was begun with.

    LAB/lab.json         clips, recipe, seeds and rows of the lab, the machine, the command
    LAB/recipe.yaml      the lab's recipe, resolved     LAB/clips.parquet   the clips, labels as given
    LAB/runs/            a run folder for each training LAB/labels/         what teachers say; see `psla.lab.teaching`
    LAB/results/         ROW.json, written last         LAB/sweeps/         Figure 7 of a run
    LAB/rows/            the user's own rows            LAB/journal*.jsonl  what was finished when; held while at work

Rows and seeds may be added in a later call; clips and recipe stay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.files import sha256_of, write_text_atomic
from psla.lab.experiment import LabError, changed, machine, today
from psla.lab.tables.measured import VERSION, ClipsInfo, LabInfo, RowResult
from psla.lab.tables.plan import Job
from psla.training.recipe import Recipe, flatten
from psla.training.run import Run


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
            if self.folder.is_dir() and any(not _is_ours(path.name) for path in self.folder.iterdir()):
                raise LabError(f"{self.folder} holds something that is not a lab; name another folder with --out")
            return
        if self.stored.version != VERSION:
            raise LabError(f"{self.folder} has lab format {self.stored.version}, this psla reads {VERSION}")
        there, here = (
            flatten(recipe.model_dump()) for recipe in (Recipe.load(self.folder / "recipe.yaml"), self.recipe)
        )
        for key, value in there.items():
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
        with tempfile.TemporaryDirectory() as folder:
            self.clips.write(Path(folder) / "clips.parquet")
            return sha256_of(Path(folder) / "clips.parquet")

    def all_seeds(self, seeds: Sequence[int]) -> list[int]:
        """The seeds of this call with those of the calls before."""
        return sorted({*seeds, *(self.stored.seeds if self.stored is not None else [])})

    def row_files(self, further: Sequence[Path] = ()) -> list[Path]:
        """The user's own files of rows, those of the calls before first."""
        kept = sorted((self.folder / "rows").glob("*.yaml"))
        return [*kept, *further]

    def write(self, seeds: Sequence[int], rows: Sequence[str], command: str, row_files: Sequence[Path] = ()) -> None:
        """Write the clips and the recipe, if they are not there, the user's own rows, and lab.json."""
        for path in row_files:
            if path.resolve().parent != (self.folder / "rows").resolve():
                write_text_atomic(self.folder / "rows" / path.name, path.read_text(encoding="utf-8"))
        if self.stored is None:
            self.clips.write(self.folder / "clips.parquet")
            write_text_atomic(self.folder / "recipe.yaml", self.recipe.to_yaml())
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
        """A path as it stands in results: from the lab's folder."""
        return path.relative_to(self.folder).as_posix()


def _is_ours(name: str) -> bool:
    """Whether a file may lie in a folder without a lab.json: what a lab that was killed while it began has written."""
    return name in ("clips.parquet", "recipe.yaml", "rows") or name.startswith(".")
