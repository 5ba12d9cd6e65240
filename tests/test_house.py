"""The house keeps its order: which room imports which, no circles, no number of hertz out of its place, no attics."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import psla

ROOMS = [
    *("journal", "files", "sealed", "yaml_files", "registry", "extras", "spread", "download", "remote"),
    *("audio", "data", "corpora", "synth", "metrics", "model", "weights"),
    *("techniques", "report", "training", "tagging", "lab", "export", "serve", "cluster", "cli", "__main__"),
]
SOURCE = Path(psla.__file__).parent
MODULES = {
    ".".join(("psla", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
# Facts of corpora, of front ends and of backbones; presets and tables are data files.
FACTS = ("psla.corpora", "psla.model.frontends", "psla.model.backbones")


def imports(name: str) -> set[str]:
    """Modules of psla that a module imports, wherever in the file: in functions and for type checkers alone, too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide the room they come from"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return {each for each in found if each in MODULES and each != name}


def room(name: str) -> str:
    return name.split(".")[1]


def inner() -> Iterator[str]:
    """All modules but the package's face."""
    return (name for name in MODULES if name != "psla")


def test_rooms_import_only_from_rooms_above() -> None:
    """Law: the import graph runs in one direction, from files to cli."""
    wrong = [
        f"{name} imports {other}"
        for name in inner()
        for other in imports(name)
        if other != "psla" and ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not wrong, f"imports from a room below: {'; '.join(wrong)}"


def test_no_two_modules_import_each_other() -> None:
    """Law: there is an order of all modules in which each imports only those before it."""
    left = {name: imports(name) for name in inner()}
    while ready := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in ready:
            del left[name]
    assert not left, f"in circles, or behind them: {sorted(left)}"


def numbers(name: str) -> Iterator[tuple[int, float]]:
    """Line and value of each number in the code of a module."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            yield node.lineno, node.value


def test_rate_step_and_classes_are_data() -> None:
    """Law: that sound is 16,000 Hz, a step 0.32 s, AudioSet 527 classes is known to facts and presets alone."""
    known = {16000, 0.32, 527, 5120}
    found = [
        f"{name}:{line} {value}"
        for name in inner()
        if not name.startswith(FACTS)
        for line, value in numbers(name)
        if value in known
    ]
    assert not found


def test_a_stride_is_its_backbones() -> None:
    """Law: no module but a backbone gives a stride a number."""
    found = []
    for name in inner():
        for node in ast.walk(TREES[name]):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [ast.unparse(each).lower() for each in targets if each is not None]
            value = getattr(node, "value", None)
            if any("stride" in each for each in names) and isinstance(value, ast.Constant) and value.value is not None:
                found.append(f"{name}:{node.lineno}")
    assert not [each for each in found if not each.startswith("psla.model.backbones")]


def test_no_module_asks_for_a_kind_by_name() -> None:
    """Law: what is chosen by name is asked what it can, not what it is called: outside the kinds' own files nothing
    imports a front end, a backbone or a reader to look whether it is that one."""
    kinds = {"FrontEnd", "EfficientNet", "ResNet50"}
    asked = [
        f"{name}:{node.lineno}"
        for name in inner()
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("isinstance", "issubclass")
        if kinds & {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    ]
    assert not asked


def test_no_file_and_no_function_is_an_attic() -> None:
    """Law: no file above 350 lines, no function above 70."""
    files = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: lines for name, lines in files.items() if lines > 350}
    functions = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name in MODULES
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert not {name: lines for name, lines in functions.items() if lines > 70}


@pytest.mark.parametrize("name", sorted({room(name) for name in inner()} - {"__main__"}))
def test_a_room_says_what_lives_there(name: str) -> None:
    """Law: the first page of a room, or of a module that stands alone, says what is in it."""
    assert len((ast.get_docstring(TREES[f"psla.{name}"]) or "").split()) > 10


def test_every_public_name_resolves() -> None:
    """Law: every name that the package promises can be imported."""
    for name in psla.__all__:
        assert getattr(psla, name) is not None


def test_no_module_outside_cli_prints() -> None:
    """Law: the library is silent; only the command line and the lab speak."""
    for name in inner():
        if room(name) not in ("cli", "lab"):
            calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
            assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], name
