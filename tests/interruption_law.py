"""What `test_interruption.py` and its scenarios share: how a job is interrupted, and what is compared afterwards."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch


class Interruption(BaseException):
    """What no part of the package can take for an error of its own."""


class Tell:
    """Counts what it is told; raises at one of the reports."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.count = at, 0
        self._lock = threading.Lock()

    def __call__(self, *told: object) -> None:
        with self._lock:
            self.count += 1
            if self.count == self.at:
                raise Interruption

    def each(self, items: Any) -> list[Any]:
        """All items of an iterator, told of each; closed however that ends."""
        found = []
        with closing(items):
            for item in items:
                found.append(item)
                self()
        return found


@dataclass(frozen=True)
class Setting:
    """What inputs are made in: a folder for them, the folder of the job, and what ends with the test."""

    folder: Path
    out: Path
    patch: pytest.MonkeyPatch
    stack: ExitStack


@dataclass(frozen=True)
class Scenario:
    """How a job is interrupted.

    job: its qualified name; note: what tells several scenarios of one job apart. given: makes the inputs, once.
    fresh: of these, what one interrupted job works on. also: reports at which it is interrupted besides the first, the
    last and one between. keeps: called again, it does not do all of it again.
    """

    job: str
    call: Callable[[Any, Path, Tell], Any]
    given: Callable[[Setting], Any]
    fresh: Callable[[Any], Any]
    note: str = ""
    also: tuple[int, ...] = ()
    slow: bool = False
    keeps: bool = False

    @property
    def id(self) -> str:
        return self.job + (f"[{self.note}]" if self.note else "")


SCENARIOS: list[Scenario] = []


def scenario(
    job: str,
    given: Callable[[Setting], Any] = lambda setting: setting,
    fresh: Callable[[Any], Any] = lambda given: given,
    **more: Any,
) -> Callable:
    """Makes the function that follows known as a scenario of a job."""

    def enter(call: Callable[[Any, Path, Tell], Any]) -> Callable:
        SCENARIOS.append(Scenario(job, call, given, fresh, **more))
        return call

    return enter


# What is compared

_TORN = re.compile(r"\.[0-9a-f]{12}\..+")  # as `psla.files.atomic_write` names what is not whole yet
_CLOCK = rb'"(hours|clips_per_second|date|crc32|checksum)": [^,}\n]*'  # and the sums of rows that hold a time
_CLOCKS = (("timing.csv", rb",\d[\d.]*"), (".json", _CLOCK), ("journal.jsonl", _CLOCK))


def torn(folder: Path) -> list[Path]:
    """The files that somebody has left half-written."""
    return [path for path in folder.rglob("*") if _TORN.fullmatch(path.name)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path inside, without what a clock says."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for end, clock in _CLOCKS:
                data = re.sub(clock, b"", data) if path.name.endswith(end) else data
            found[path.relative_to(folder).as_posix()] = data
    return found


def exact(value: Any) -> Any:
    """A value in parts whose equality is that of all bits: arrays and NaN too, and of any object its attributes."""
    if isinstance(value, torch.nn.Module):
        return {name: exact(tensor) for name, tensor in value.state_dict().items()}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, pl.DataFrame):
        return str(value.schema), repr(value.rows())
    if isinstance(value, float | np.floating):
        return float(value).hex()
    if isinstance(value, Mapping):
        return [(exact(key), exact(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [exact(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, BaseException):
        return type(value).__name__, str(value)
    if hasattr(value, "__dict__") and not callable(value) and not isinstance(value, Path):
        return type(value).__name__, exact(vars(value))
    return value
