"""The notebooks run from the first cell to the last, as they stand, and keep no output of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra dev is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra dev is not installed")
FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
WORDS = {"tag-and-look": ["(384,)", "image/png"], "my-own-sounds": ["accuracy", "unfamiliar", "image/png"]}


@pytest.mark.parametrize("name", WORDS)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: without error, in an empty folder, offline; what it shows has the words and pictures that it promises."""
    monkeypatch.setenv("PSLA_OFFLINE", "1")
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": os.fspath(tmp_path)}}).execute()
    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert [word for word in WORDS[name] if word not in shown] == []


def test_every_notebook_is_asked_and_holds_no_output() -> None:
    """Law: no notebook is left out above, and none has been saved with what a run showed."""
    found = {path.stem: nbformat.read(path, as_version=4) for path in FOLDER.glob("*.ipynb")}
    assert found.keys() == WORDS.keys()
    for notebook in found.values():
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
