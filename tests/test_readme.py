"""The README keeps its word: its Python example runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tagging_models import tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")

README = Path(__file__).parents[1] / "README.md"
FIRST_LINE = "# tag a file"


def example() -> str:
    """The Python block of the README that begins with the line above."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    found = [block for block in blocks if block.startswith(FIRST_LINE)]
    assert len(found) == 1, f"README.md must hold one Python block that begins with {FIRST_LINE!r}"
    return found[0]


def test_the_example_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten lines at most, run in a folder with a model and a sound file under the names used there."""
    code = example()
    assert len(code.splitlines()) <= 10
    tiny_model_file(tmp_path, mel_bins=32)
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, (100000, 2))
    soundfile.write(tmp_path / "street.flac", wave, 44100)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "Rain" in printed
    assert names["result"].frames.shape[1] == 3  # type: ignore[attr-defined]
