"""What commands import: `psla --help` nothing that is slow, and no command an extra's module that nobody asked for.

Modules are compared, not times: what is not imported takes none.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from click import Group

from psla.cli import app
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary

SLOW = {"torch", "numpy", "scipy", "polars", "matplotlib", "jinja2", "av", "soundfile", "lightning_fabric"}
EXTRAS = {
    *("ray", "s3fs", "botocore", "moto", "tensorboard", "huggingface_hub", "wandb", "mlflow", "onnx", "onnxruntime"),
    *("onnxscript", "fastapi", "uvicorn", "starlette", "paho", "sounddevice", "prometheus_client", "websockets"),
}
PROGRAM = """
import json, sys
from typer.testing import CliRunner
from psla.cli import app
codes = [CliRunner().invoke(app, words).exit_code for words in json.loads(sys.argv[1])]
print(json.dumps([codes, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def commands() -> list[list[str]]:
    """All commands, as the words that call them."""
    found = []
    ahead = [([], typer.main.get_command(app))]
    while ahead:
        words, command = ahead.pop()
        found.append(words)
        if isinstance(command, Group) or hasattr(command, "commands"):
            ahead += [([*words, name], each) for name, each in command.commands.items()]
    return found


def imported(*calls: list[str], folder: Path | None = None) -> set[str]:
    """The top-level modules that are there when these commands have been called in one process, all with success."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    codes, modules = json.loads(done.stdout.splitlines()[-1])
    assert set(codes) == {0}, dict(zip(map(" ".join, calls), codes, strict=True))
    return set(modules)


def test_help_imports_nothing_that_is_slow() -> None:
    """The help of psla and of each of its commands needs neither arrays, tables nor networks, nor any extra."""
    calls = [[*words, "--help"] for words in commands()]
    assert ["lab", "run", "--help"] in calls
    assert imported(*calls) & (SLOW | EXTRAS) == set()
    assert {"pydantic", "fsspec"}.isdisjoint(imported(["--help"]))


def test_no_command_imports_an_extra_unasked(tmp_path: Path) -> None:
    """Packing, statistics, prediction, scoring and training go without any module of an extra."""
    (tmp_path / "snd").mkdir()
    for number in range(4):
        soundfile.write(tmp_path / f"snd/{number}.wav", np.random.default_rng(number).normal(0, 0.1, 8000), 16000)
    row = {"labels": ["dog"], "split": "evaluation"}
    rows = [row | {"clip_id": str(n), "source": str(n), "path": f"snd/{n}.wav"} for n in range(4)]
    Clips.from_rows(rows, Vocabulary(["dog", "cat"]), "mine").write(tmp_path / "c.parquet")
    calls = [
        ["pack", "c.parquet", "packed", "--workers", "1"],
        ["stats", "c.parquet", "--split", "all", "--no-simulate"],
        ["predict", "esc10-lite0", "packed", "--out", "p.safetensors"],
        ["tag", "esc10-lite0", "snd", "--json", "--out", "t.json"],
        ["info", "esc10-lite0"],
    ]
    assert imported(*calls, folder=tmp_path) & EXTRAS == set()


@pytest.mark.parametrize("module", ["ray", "huggingface_hub", "tensorboard"])
def test_no_module_of_the_package_imports_an_extra_at_its_head(module: str) -> None:
    """In the code an extra's module is imported inside functions alone."""
    import ast

    import psla

    for path in Path(psla.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert module not in {name.partition(".")[0] for name in names}, path


def test_a_decoding_worker_imports_what_decodes() -> None:
    """Each job starts workers, one a core: no network, no tables, no ffmpeg and no http before a file
    asks for one of them."""
    program = "import sys, psla.audio.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "polars", "scipy", "av", "http.client", "ssl", "psla.download"} & set(done.stdout.split())
