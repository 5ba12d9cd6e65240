"""The law of everything that iterates: interrupted at any report and called again, it ends as if it had never been.

What iterates is found in the package, not listed by hand, by three rules, over every public function and method outside
the command line (whose functions parse, call one of these, and print):

    told      it takes somebody who is told how it gets on: a callable that returns nothing (whatever the parameter is
              called: `progress`, `report`), or a `Watcher`, a `Predicting` or a console, which carry one
    hands     it hands out its results one after another: an iterator, but no context manager
    calls     it calls one of those, itself or through private helpers, and so takes as long

The scenarios are in `interruption_scenarios.py` and what it imports. Not covered: processes that are killed
(`test_resume.py`, `test_pack.py`, `test_lab_run.py`), and the moments between two reports.
"""

from __future__ import annotations

import builtins
import dis
import importlib
import inspect
import pkgutil
import random
import shutil
import types
import typing
from collections import Counter, abc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import psla
from interruption_law import SCENARIOS, Interruption, Scenario, Setting, Tell, contents, exact, torn
from interruption_scenarios import EXEMPT
from psla.lab.tables.runner import Watcher
from psla.lab.teaching import Predicting
from psla.model.backbones.efficientnet import VARIANTS, Variant
from psla.training.run import Run
from psla.weights.readers import psla as released

CARRIERS = (Watcher, Predicting, Console)


class _AnyType(type):
    """Any type, and any module with types in it."""

    def __getattr__(cls, name: str) -> type:
        return cls

    def __getitem__(cls, item: object) -> type:
        return cls


class _Names(dict):
    """The names of a module as its annotations see them; one that is there for type checkers alone is any type."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, _AnyType("any", (), {}))


def annotations(function: Callable) -> dict[str, Any]:
    """Parameter -> type, `return` among them."""
    names = _Names(function.__globals__)
    return {k: eval(v, {}, names) if isinstance(v, str) else v for k, v in function.__annotations__.items()}


def alternatives(annotation: Any) -> list[Any]:
    """`X | None` -> X and None."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return [each for a in typing.get_args(annotation) for each in alternatives(a)] if is_union else [annotation]


def is_told(function: Callable) -> bool:
    """The rule `told`."""
    given = [each for name, a in annotations(function).items() if name != "return" for each in alternatives(a)]
    return any(
        each in CARRIERS
        or (typing.get_origin(each) is abc.Callable and typing.get_args(each)[-1] in (None, type(None)))
        for each in given
    )


def hands_out(function: Callable) -> bool:
    """The rule `hands`."""
    returned = annotations(function).get("return")
    return typing.get_origin(returned) in (abc.Iterator, abc.Generator) and not hasattr(function, "__wrapped__")


def functions() -> dict[str, Callable]:
    """Every function and method of the package outside the command line, by its qualified name.

    Of methods that dataclasses write themselves there is none: they do nothing that takes long.
    """
    found: dict[str, Callable] = {}
    for info in pkgutil.walk_packages(psla.__path__, "psla."):
        if info.name.startswith("psla.cli") or info.name == "psla.__main__":
            continue
        module = importlib.import_module(info.name)
        for name, item in vars(module).items():
            if getattr(item, "__module__", None) != info.name:
                continue
            if inspect.isclass(item):
                for inner, method in vars(item).items():
                    plain = method.__func__ if isinstance(method, classmethod | staticmethod) else method
                    if inspect.isfunction(plain) and plain.__code__.co_filename == module.__file__:
                        found[f"{info.name}.{name}" + ("" if inner == "__init__" else f".{inner}")] = plain
            elif inspect.isfunction(item):
                found[f"{info.name}.{name}"] = item
    return found


def called(code: types.CodeType) -> Iterator[str]:
    """The names of the module that a function's code uses, that of its inner functions too."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from called(constant)


def long_jobs() -> set[str]:
    """The qualified names of what the three rules find."""
    everything = functions()
    bare = {inspect.unwrap(function): name for name, function in everything.items()}
    uses = {
        name: {bare[inspect.unwrap(used)] for n in called(inspect.unwrap(function).__code__)
               if inspect.isfunction(used := function.__globals__.get(n)) and inspect.unwrap(used) in bare}
        for name, function in everything.items()
    }  # fmt: skip
    public = {name for name in everything if not any(part.startswith("_") for part in name.split("."))}
    long = {name for name in public if is_told(everything[name]) or hands_out(everything[name])}
    through = set(long)
    while grown := {name for name, used in uses.items() if used & through} - through:
        through |= grown
    return long | (through & public)


def found() -> list[Any]:
    """The scenarios, and in the place of those that are lacking the names of their jobs."""
    names = long_jobs()
    lacking = sorted(names - {each.job for each in SCENARIOS} - EXEMPT.keys())
    given = [pytest.param(each, id=each.id, marks=marks(each)) for each in sorted(SCENARIOS, key=lambda each: each.id)]
    return [*given, *(pytest.param(name, id=name) for name in lacking)]


def marks(scenario: Scenario) -> list[pytest.MarkDecorator]:
    """Slow ones."""
    return [pytest.mark.slow] * scenario.slow


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks of a few thousand weights, one thread, no pictures of runs, files that need not survive a power cut."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("efficientnet_b0", "efficientnet_lite0"):
        monkeypatch.setitem(VARIANTS, name, Variant(width=0.1, depth=0.1, image_size=224))
    # It remembers shapes by name: those of these networks must not be found by other tests.
    monkeypatch.setattr(released, "_trunk_shapes", released._trunk_shapes.__wrapped__)
    monkeypatch.setattr(Run, "draw", lambda *args, **options: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    yield
    torch.set_num_threads(before)


def moments(scenario: Scenario, reports: int) -> list[int]:
    """The first report, the last, a random one between, and those that the scenario names."""
    between = random.Random(scenario.id).randint(2, reports - 1)
    return sorted({1, between, *scenario.also, reports})


@pytest.mark.parametrize("scenario", found())
def test_interrupted_and_called_again(
    scenario: Scenario | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at a report and called again, a job returns and leaves, to the bit, what an undisturbed one does."""
    if isinstance(scenario, str):
        pytest.fail(
            f"{scenario} iterates, and nothing here interrupts it: add `@scenario({scenario!r}, ...)` to "
            "tests/interruption_scenarios.py, or an entry with the reason to EXEMPT there"
        )
    out = tmp_path / "out"
    with ExitStack() as stack:
        (tmp_path / "given").mkdir()
        given = scenario.given(Setting(tmp_path / "given", out, monkeypatch, stack))
        out.mkdir()
        heard = Tell()
        expected = exact(scenario.call(scenario.fresh(given), out, heard)), contents(out)
        assert heard.count >= 3, "this tests too little: give the scenario an input that makes three reports or more"
        assert not torn(out)
        told_again = []
        for at in moments(scenario, heard.count):
            shutil.rmtree(out)
            out.mkdir()
            subject = scenario.fresh(given)
            with pytest.raises(Interruption):
                scenario.call(subject, out, Tell(at))
            assert not torn(out), f"interrupted at report {at}"
            again = Tell()
            result = exact(scenario.call(subject, out, again))
            told_again.append(again.count)
            assert result == expected[0], f"interrupted at report {at}"
            left = contents(out)
            assert left.keys() == expected[1].keys(), f"interrupted at report {at}"
            assert [name for name in left if left[name] != expected[1][name]] == [], f"interrupted at report {at}"
        assert not scenario.keeps or min(told_again) < heard.count, "all that was done before is done again"


def test_scenarios_are_of_jobs_that_there_are() -> None:
    """Each scenario and each exemption is of something that the rules find, once; none is both."""
    names, scenarios = long_jobs(), {each.job for each in SCENARIOS}
    for name in sorted({*scenarios, *EXEMPT} - names):
        pytest.fail(f"{name} is nothing that iterates (any more): rename or remove it in interruption_scenarios.py")
    assert not scenarios & EXEMPT.keys()
    assert max(Counter(each.id for each in SCENARIOS).values()) == 1
