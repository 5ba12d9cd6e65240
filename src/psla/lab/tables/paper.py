"""The paper's tables as data, so that a report can set what was measured beside them; see `paper.yaml`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

SETS = ("balanced", "full")
CITATION = (
    "Gong, Chung, Glass: PSLA: Improving Audio Event Classification with Pretraining, Sampling, Labeling, and "
    "Aggregation (2021)"
)


@cache
def paper_tables() -> dict[str, dict[str, Any]]:
    """{number: table} of Tables II to XI, each with title, where, kind and rows.

    Example:
        >>> list(paper_tables())
        ['II', 'III', 'IV', 'V', 'VI', 'VII', 'VIII', 'IX', 'X', 'XI']
        >>> paper_tables()["III"]["rows"][1]["balanced"]
        0.2385
    """
    data = yaml.safe_load((files("psla.lab.tables") / "paper.yaml").read_text(encoding="utf-8"))
    return {table["table"]: table for table in data}
