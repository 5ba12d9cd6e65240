"""The house keeps its order: rooms import only from rooms above them."""

import ast
from pathlib import Path

import psla

ROOMS = [
    "files",
    "download",
    "audio",
    "data",
    "corpora",
    "synth",
    "metrics",
    "model",
    "weights",
    "techniques",
    "report",
    "training",
    "tagging",
    "lab",
    "cli",
    "__main__",
]
# Imports that still run up; each goes as its room is put in order.
UPWARD = {("model/ensemble.py", "weights")}
SOURCE = Path(psla.__file__).parent


def imported_rooms(path: Path) -> set[str]:
    """Rooms of psla that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room they come from"
            names = [node.module or ""]
            if node.module == "psla":
                names = [f"psla.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("psla.")}
    return found


def test_rooms_import_only_from_rooms_above() -> None:
    """Law: the import graph runs in one direction, from files to cli."""
    seen = 0
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        allowed = set(ROOMS[: ROOMS.index(room) + 1])
        found = {r for r in imported_rooms(path) if (path.relative_to(SOURCE).as_posix(), r) not in UPWARD}
        assert found <= allowed, f"{path.relative_to(SOURCE)} imports from a room below"
        seen += 1
    assert seen > 20


def test_every_public_name_resolves() -> None:
    """Law: every name that the package promises can be imported."""
    for name in psla.__all__:
        assert getattr(psla, name) is not None


def test_no_module_outside_cli_prints() -> None:
    """Law: the library is silent; only the command line and the lab speak."""
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0]
        if room in ("cli", "lab"):
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path
