"""Rows: the lines of the paper's tables as files, each with only what differs from the row it extends.

A row is a training (`extends`, `set`, `labels`, `teacher`, `training_share`), or it is derived from the runs of other
rows without a training (`from`, `take`, `members`). The files are in `rows/`; the name of a file is the row's name.
Keys: see `Row`. Not covered: which runs the rows come to (`plan.py`), and how they are carried out (`runner.py`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from psla.training.recipe import is_key
from psla.yaml_files import parse_yaml, read_text

AS_RECIPE = "recipe"  # as a value in `set`: what the lab's recipe has
TABLES = (
    *("II", "III", "Figure 3", "IV", "V", "VI", "VIII", "IX", "Figure 7", "X", "XI"),
    *("ablation", "pooling", "backbones", "mask fill", "stem", "distillation"),
)
_NAMING = ("extends", "from", "teacher", "members", "take")  # keys whose values are names
MODEL_TABLES = ("II", "III", "IV", "V", "VI", "VIII")  # whose trainings the ensemble of `all` is made of
Take = Literal["final", "last_five", "averaged", "checkpoint_ensemble", "ensemble"]


class RowError(ValueError):
    """A row that cannot be understood; the sentence names the row, the key and the rule."""


class Row(BaseModel):
    """One line of a table.

    Attributes:
        name: of its file. title: as in the table. table: where it stands, one of `TABLES`.
        extends: the row it builds on; None: the lab's recipe as it stands.
        set: dotted recipe keys and their values; the word `recipe` stands for what the lab's recipe has.
        labels: train on labels enhanced (I, II or I+II) by the run of `teacher` with the same seed.
        teacher: of the labels; without `labels` the teacher of a distillation, a row or an ensemble.
        training_share: of the sources of the training clips, above 0, at most 1; the smaller lies in the larger.
        origin: (`from` in the file) the row whose runs are taken; there is no training.
        take: which predictions are scored: those of the last epoch, of the last five (mean of their scores), of the
            averaged weights, the mean of those of all epochs, or the mean of those of the `members`' last epochs.
        members: of an ensemble: `seeds` (all seeds of `from`), `all` (all trainings of the paper's tables that are
            chosen), or rows.
        sweep: also score the averages from each epoch on (Figure 7). groups: names under which it is chosen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)

    name: str
    title: str
    table: str
    extends: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    labels: Literal["I", "II", "I+II"] | None = None
    teacher: str | None = None
    training_share: float | None = Field(None, gt=0.0, le=1.0)
    origin: str | None = Field(None, alias="from")
    take: Take = "last_five"
    members: Literal["seeds", "all"] | list[str] | None = None
    sweep: bool = False
    groups: list[str] = Field(default_factory=list)

    @property
    def is_trained(self) -> bool:
        """Whether it has runs of its own."""
        return self.origin is None and self.take != "ensemble"

    @property
    def named(self) -> list[str]:
        """The members that are named one by one."""
        return self.members if isinstance(self.members, list) else []


class Catalogue:
    """All rows, checked against each other.

    Args:
        rows: in any order.

    Attributes:
        rows: {name: row}, in the order of the tables, a row after those it needs.

    Raises:
        RowError: a row that is not there, a circle, or keys that contradict each other.

    Example:
        >>> rows = Catalogue.load()
        >>> [row.name for row in rows.chain("masking")]
        ['baseline', 'pretraining', 'sampling', 'masking']
        >>> rows.choose(["averaged"])
        ['mixup', 'labels_12', 'averaged']
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        found = {row.name: row for row in rows}
        for row in found.values():
            _check(row, found)
        needed = {name: _related(row) for name, row in found.items()}
        try:
            below = list(TopologicalSorter(needed).static_order())
        except CycleError as error:
            raise RowError(f"rows need each other in a circle: {' -> '.join(reversed(error.args[1]))}") from error
        depths: dict[str, int] = {}
        for name in below:
            depths[name] = max((1 + depths[other] for other in needed[name]), default=0)
        ordered = sorted(found, key=lambda name: (TABLES.index(found[name].table), depths[name], name))
        self.rows: dict[str, Row] = {}
        for name in ordered:
            self._place(name, found)

    def _place(self, name: str, found: Mapping[str, Row]) -> None:
        if name not in self.rows:
            for needed in _related(found[name]):
                self._place(needed, found)
            self.rows[name] = found[name]

    @staticmethod
    def load(extra: Sequence[str | Path] = ()) -> Catalogue:
        """The rows of the package, and those in further files; a file may replace a row by having its name.

        Raises:
            RowError: a file that is no row, or rows that do not fit together.
            FileNotFoundError: no such file.
        """
        folder = files("psla.lab.tables") / "rows"
        ours = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
        texts = {file.name: file.read_text(encoding="utf-8") for file in ours}
        texts |= {Path(path).name: read_text(path, f"row {Path(path).stem}", RowError) for path in extra}
        return Catalogue(parse_row(Path(name).stem, text) for name, text in texts.items())

    def chain(self, name: str) -> list[Row]:
        """A row and all that it extends, the root first."""
        row = self.rows[name]
        return [*(self.chain(row.extends) if row.extends else []), row]

    def inherited(self, name: str, key: str) -> Any:
        """The value of `labels`, `teacher` or `training_share` of a row, or of the nearest row below that has one."""
        values = [getattr(row, key) for row in self.chain(name)]
        return next((value for value in reversed(values) if value is not None), None)

    def needs(self, name: str) -> list[str]:
        """The rows without which this one cannot be done; an ensemble of `all` can do without any of its members."""
        row = self.rows[name]
        return [other for other in (row.origin, self.inherited(name, "teacher"), *row.named) if other is not None]

    def groups(self) -> list[str]:
        """The names of all groups, `all` among them."""
        return sorted({group for row in self.rows.values() for group in row.groups} | {"all"})

    def choose(self, names: Sequence[str]) -> list[str]:
        """The rows of groups and rows by name, with those whose runs they need, in the order of the tables.

        Raises:
            RowError: a name that is neither a row nor a group.
        """
        chosen: set[str] = set()
        for name in map(current_name, names):
            if name not in self.rows and name not in self.groups():
                raise RowError(
                    f"{name!r} is neither a row of the lab nor a group of rows; groups: {', '.join(self.groups())}; "
                    f"rows: {', '.join(self.rows)}"
                )
            grouped = {row.name for row in self.rows.values() if name == "all" or name in row.groups}
            chosen |= {name} if name in self.rows else grouped
        ahead = list(chosen)
        while ahead:
            needed = set(self.needs(ahead.pop()))
            ahead.extend(needed - chosen)
            chosen |= needed
        return [name for name in self.rows if name in chosen]


def parse_row(name: str, text: str) -> Row:
    """A row from its file's text.

    Raises:
        RowError: not YAML, an unknown key, or a value that its key does not take.

    Example:
        >>> parse_row("louder", 'title: "louder"\\ntable: V\\nset: {mixup.rate: 1.0}').set
        {'mixup.rate': 1.0}
    """
    data = parse_yaml(text, f"row {name}", RowError)
    if "name" in data or "origin" in data:
        raise RowError(f"row {name}: the file's name is the row's name, and the row it is derived from is `from`")
    data = {key: current_name(value) if key in _NAMING else value for key, value in data.items()}
    try:
        return Row.model_validate({**data, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        known = [field.alias or key for key, field in Row.model_fields.items() if key != "name"]
        if first["type"] == "extra_forbidden":
            raise RowError(f"row {name}: there is no key {key!r}; known: {', '.join(known)}") from error
        raise RowError(f"row {name}, key {key}: {first['msg'].lower()} (got {first['input']!r})") from error


def current_name(value: Any) -> Any:
    """A row's name, or several, as it is now: ensembles were called committees once."""
    if isinstance(value, list):
        return [current_name(each) for each in value]
    if not isinstance(value, str) or not re.fullmatch("committee(_.+)?", value):
        return value
    now = "ensemble" + value.removeprefix("committee")
    warnings.warn(f"{value} is called {now} now; the old name goes with the next release", FutureWarning, stacklevel=2)
    return now


def _related(row: Row) -> list[str]:
    return [name for name in (row.extends, row.origin, row.teacher, *row.named) if name is not None]


def _check(row: Row, found: Mapping[str, Row]) -> None:
    def refuse(rule: str) -> None:
        raise RowError(f"row {row.name}: {rule}")

    for name in _related(row):
        if name not in found:
            refuse(f"there is no row {name!r}")
    if row.table not in TABLES:
        refuse(f"table {row.table!r} must be one of {', '.join(TABLES)}")
    for key in row.set:
        if not is_key(key):
            refuse(f"set: the recipe has no key {key!r}")
        if key in ("seed", "classes"):
            refuse(f"set: {key} is the lab's, not a row's")
    trained = {"extends": row.extends, "set": row.set, "labels": row.labels, "teacher": row.teacher}
    if not row.is_trained and (given := [key for key, value in trained.items() if value]):
        refuse(f"a derived row trains nothing, so it has no {given[0]}")
    if (row.take == "ensemble") != (row.members is not None):
        refuse("`take: ensemble` and `members` belong together")
    if row.members is not None and (row.members == "seeds") != (row.origin is not None):
        refuse("`members: seeds` needs the row that has the seeds (`from`); other members are named without it")
    if row.labels is not None and row.teacher is None:
        refuse("`labels` needs the row that enhances them (`teacher`)")
    for taken in (row.origin, *row.named):
        if taken is not None and not found[taken].is_trained:
            refuse(f"{taken} has no runs of its own to take; name the row that it is derived from")
    if row.extends is not None and not found[row.extends].is_trained:
        refuse(f"{row.extends} is derived and cannot be extended")
    if row.teacher is not None:
        teacher = found[row.teacher]
        if not (teacher.is_trained or (row.labels is None and teacher.members == "seeds")):
            refuse("a teacher is a trained row, or, for a distillation, an ensemble of seeds")
