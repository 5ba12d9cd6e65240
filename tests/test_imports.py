"""What is imported from the package outside it is there: by tests, also in programs that they hand to other processes,
by benchmarks, scripts and documents. No other test runs all of these."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT = re.compile(r"^\s*from (psla[\w.]*) import ([\w, ]+?)(?: #.*)?$|^\s*import (psla[\w.]*)", re.M)
FILES = [path for folder in ("tests", "benchmarks", "scripts") for path in sorted((ROOT / folder).glob("*.py"))]
DOCUMENTS = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "LOG.md")]


def imported(path: Path) -> set[tuple[str, str]]:
    """(module, name), the name empty where the module alone is imported; of code, and of text with lines of code."""
    text = path.read_text(encoding="utf-8")
    texts, found = [text] if path.suffix == ".md" else [], set()
    for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "psla":
            found |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "psla"}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    for module, names, alone in (match for text in texts for match in IMPORT.findall(text)):
        found |= {(module, name.split(" as ")[0].strip()) for name in names.split(",")} if module else {(alone, "")}
    return found


def is_there(module: str, name: str) -> bool:
    try:
        if not name or hasattr(import_module(module), name):
            return bool(import_module(module))
        return bool(import_module(f"{module}.{name}"))
    except ImportError:
        return False


@pytest.mark.parametrize("path", [*FILES, *DOCUMENTS], ids=lambda path: path.name)
def test_what_is_imported_is_there(path: Path) -> None:
    """Every module and name of psla that a file imports, or that a program in it imports, exists."""
    assert [f"{module} {name}" for module, name in sorted(imported(path)) if not is_there(module, name)] == []


def test_the_law_sees_programs_in_strings() -> None:
    """Imports inside strings and in documents are looked at, and what is not there is found."""
    assert ("psla.synth.scene", "table") in imported(ROOT / "tests/test_memory.py")
    assert ("psla", "") in imported(ROOT / "README.md")
    assert is_there("psla.cli", "app")
    assert not is_there("psla.cli", "nothing")
    assert not is_there("psla.nowhere", "")
