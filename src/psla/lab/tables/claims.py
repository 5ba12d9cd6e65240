"""What a report sets beside the measured: the paper's claims and tables as data, and the user's annotation quality.

A claim says which row should score more than which, and what the paper measured:

    - id: masking
      text: "Masking helps."
      where: "Table IV, section IV-B"
      worse: sampling
      better: masking
      paper: {full: [0.3721, 0.4265]}

The claims of the package are in `claims.yaml`, the tables in `paper.yaml` beside this file; of claims only mean average
precision is compared, the paper's main metric. Not here: the test itself (`verdicts.py`), and claims that compare no
rows (Figures 4 to 6, Table VII).
"""

from __future__ import annotations

import errno
import math
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from psla.corpora.csv_files import read_csv_file
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.files import few
from psla.yaml_files import parse_yaml, read_text

SETS = ("balanced", "full")
CITATION = (
    "Gong, Chung, Glass: PSLA: Improving Audio Event Classification with Pretraining, Sampling, Labeling, and "
    "Aggregation (2021)"
)
CLASS_COLUMNS = ("class", "id", "label_id", "mid", "name", "display_name")
_HERE = files("psla.lab.tables")


class ClaimError(ValueError):
    """A list of claims that breaks a rule."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BestMember(_Strict):
    """The best single model of an ensemble, chosen by the score that it is then judged by: a hard opponent."""

    best_member_of: str


Side = str | BestMember


class Pair(_Strict):
    """Two rows."""

    worse: Side
    better: Side


class Claim(Pair):
    """A claim: the row `better` scores more than the row `worse`.

    Attributes:
        id: unique. text: one plain sentence. where: table and section of the paper.
        beyond: another pair: the gain is claimed to exceed the gain of that pair.
        paper: what the paper measured, [worse, better], by the training set; empty where it gives no number.

    Example:
        >>> claim = Claim(id="a", text="A helps.", where="Table I", worse="without", better="with")
        >>> claim.rows
        ['with', 'without']
    """

    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    where: str
    beyond: Pair | None = None
    metric: Literal["mean_average_precision"] = "mean_average_precision"
    paper: dict[str, list[float]] = {}

    @property
    def terms(self) -> list[tuple[int, Side]]:
        """The contrast that is claimed to be above 0: a sign and a side each."""
        terms: list[tuple[int, Side]] = [(1, self.better), (-1, self.worse)]
        if self.beyond is not None:
            terms += [(-1, self.beyond.better), (1, self.beyond.worse)]
        return terms

    @property
    def rows(self) -> list[str]:
        """The rows that are needed, each once."""
        return list(dict.fromkeys(row_of(side) for _, side in self.terms))


def row_of(side: Side) -> str:
    """The row that a side is taken from."""
    return side if isinstance(side, str) else side.best_member_of


def load_claims(path: str | Path | None = None) -> list[Claim]:
    """The claims of a YAML file, or the paper's.

    Raises:
        FileNotFoundError: no such file.
        ClaimError: not a list of claims, an unknown key, a wrong value, or an id given twice.

    Example:
        >>> [claim.id for claim in load_claims()][:2]
        ['backbones', 'pretraining']
    """
    source = _HERE / "claims.yaml" if path is None else Path(path)
    where = source.name
    data = parse_yaml(read_text(source, where, ClaimError), where, ClaimError, list)
    claims = []
    for number, each in enumerate(data, start=1):
        try:
            claims.append(Claim.model_validate(each))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ClaimError(f"{where}, claim {number}: {key}: {first['msg']}") from error
        if any(len(numbers) != 2 for numbers in claims[-1].paper.values()):
            raise ClaimError(f"{where}, claim {number}: paper: each entry is two numbers, [worse, better]")
    ids = [claim.id for claim in claims]
    if twice := sorted({id for id in ids if ids.count(id) > 1}):
        raise ClaimError(f"{where}: claim ids must be unique; given more than once: {', '.join(twice)}")
    return claims


@cache
def paper_tables() -> dict[str, dict[str, Any]]:
    """{number: table} of Tables II to XI, each with title, where, kind and rows.

    Example:
        >>> list(paper_tables())
        ['II', 'III', 'IV', 'V', 'VI', 'VII', 'VIII', 'IX', 'X', 'XI']
        >>> paper_tables()["III"]["rows"][1]["balanced"]
        0.2385
    """
    data = parse_yaml((_HERE / "paper.yaml").read_text(encoding="utf-8"), "paper.yaml", ClaimError, list)
    return {table["table"]: table for table in data}


class QualityError(ValueError):
    """A table of qualities that cannot be read."""


def read_quality(path: str | Path, vocabulary: Vocabulary) -> dict[str, float]:
    """{class id: quality} from a CSV, for the classes of the vocabulary; others in the file are left out.

    It has a column of classes (`CLASS_COLUMNS`; ids or names) and either a column `quality` or `num_true` and
    `num_rated`: for how many of the clips that people heard again the label was right. AudioSet's estimate is of that
    kind (10 clips a class): https://research.google.com/audioset/dataset/

    Raises:
        FileNotFoundError: no such file.
        QualityError: a column is missing, a value is no number, or no class is one of the vocabulary's.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "quality.csv"
        >>> _ = path.write_text("class,quality\\nDog,0.9\\nCat,1\\n")
        >>> read_quality(path, Vocabulary(["/m/0bt9lr"], ["Dog"]))
        {'/m/0bt9lr': 0.9}
    """
    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    file = read_csv_file(path, (), "give a CSV of ratings", "save it as UTF-8 text with a head line", "", QualityError)
    columns = [name.lower() for name in file.columns]
    named = next((name for name in CLASS_COLUMNS if name in columns), None)
    counted = {"num_true", "num_rated"} <= set(columns)
    if named is None or not ("quality" in columns or counted):
        raise QualityError(
            f"{path} needs a column of classes ({', '.join(CLASS_COLUMNS)}) and a column quality, or num_true and "
            f"num_rated; it has {few(columns) or 'none'}"
        )
    found: dict[str, float] = {}
    for line, fields in file.rows:
        row = dict(zip(columns, fields.values(), strict=True))
        try:
            sound = vocabulary.find(row[named].strip())
        except VocabularyError:
            continue
        try:
            value = float(row["quality"]) if "quality" in columns else _ratio(row["num_true"], row["num_rated"])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise QualityError(f"{path}, line {line}: the quality of {sound.name} is no number")
        found[sound.id] = value
    if not found:
        raise QualityError(f"{path}: none of its classes is one of the {len(vocabulary)} of the lab")
    return found


def _ratio(true: str, rated: str) -> float:
    return float(true) / float(rated) if float(rated) else math.nan
