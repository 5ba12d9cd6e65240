"""The paper's claims as data: which row should score more than which, and what the paper measured.

    - id: masking
      text: "Masking helps."
      where: "Table IV, section IV-B"
      worse: sampling
      better: masking
      paper: {full: [0.3721, 0.4265]}

The claims of the package are in `claims.yaml` beside this file; only mean average precision is compared, the paper's
main metric. Not here: the test itself (`verdicts.py`), and claims that compare no rows (Figures 4 to 6, Table VII).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


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
    """The row that a side is taken from.

    Example:
        >>> row_of("masking"), row_of(BestMember(best_member_of="ensemble_all"))
        ('masking', 'ensemble_all')
    """
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
    source = files("psla.lab.tables") / "claims.yaml" if path is None else Path(path)
    where = source.name
    try:
        data: Any = yaml.safe_load(source.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClaimError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, list):
        raise ClaimError(f"{where} must hold a list of claims; got {type(data).__name__}")
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
