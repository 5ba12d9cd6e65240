"""`--log csv`: RUN/metrics.csv, a row for each number: epoch, name, value; for programs that read one long table."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from psla.files import atomic_write
from psla.training.trackers.contract import TRACKERS

COLUMNS = ("epoch", "name", "value")


@TRACKERS.register("csv")
class CsvTable:
    """See `psla.training.trackers.contract.Tracker`."""

    module: ClassVar[str] = ""

    def __init__(self, folder: Path, id: str, epochs: int) -> None:
        self.id = "metrics.csv"
        self._path = folder / self.id
        self._rows: list[list[Any]] = []
        if self._path.is_file():
            with self._path.open(encoding="utf-8", newline="") as file:
                # What was written and not noted down is told again.
                self._rows = [row for row in list(csv.reader(file))[1:] if int(row[0]) <= epochs]

    def settings(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Nothing: recipe.yaml and environment.json lie beside it."""

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """See there."""
        self._rows += [[epoch, name, repr(value)] for name, value in values.items()]

    def picture(self, name: str, path: Path) -> None:
        """Nothing: figures/ lies beside it."""

    def close(self, finished: bool) -> None:
        """See there."""
        with atomic_write(self._path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *self._rows])
