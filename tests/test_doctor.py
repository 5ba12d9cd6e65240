"""The law of `psla doctor`: it always answers, whatever is amiss, with what a report of a fault needs; it changes and
fetches nothing; and its exit code says whether something that psla needs is amiss."""

from __future__ import annotations

import json
import re
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from psla.cli import app, doctor
from psla.weights.packaged import DEFAULT, PACKAGED

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a cache, a configuration or variables."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    for name in ("PSLA_MODEL", "PSLA_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def found(code: int = 0) -> dict[str, Any]:
    told = CliRunner().invoke(app, ["doctor", "--json"])
    assert told.exit_code == code, told.output
    return json.loads(told.stdout)


def test_it_says_what_a_report_needs(tmp_path: Path) -> None:
    """Versions of psla, python and all that psla requires, extras too; devices; decoders; cache; disk; model."""
    said = found()
    assert said["psla"]["version"] == version("psla")
    packages = json.dumps(said["packages"])
    for line in requires("psla") or ():
        name = re.match(r"[\w.-]+", line)
        assert name is not None
        assert name[0] == "psla" or f'"{name[0]}": ' in packages
    assert said["packages"]["torch"] == version("torch")
    assert said["devices"]["cpus"] >= 1
    assert {"WAV", "FLAC", "OGG"} <= set(said["decoders"]["libsndfile_formats"])
    assert {".m4a", ".wav"} <= set(said["decoders"]["suffixes"])
    assert said["decoders"]["worker"] == "decodes"
    assert said["cache"] == {"folder": str(tmp_path / "cache"), "files": 0, "bytes": 0}
    assert said["disk"]["here"]["free_bytes"] > 0
    assert all(place["writable"] is True for place in said["disk"].values())
    model = said["model"]
    assert (model["name"], model["here"], model["checksum"], model["classes"]) == (DEFAULT, True, "holds", 527)
    assert model["file"] == str(PACKAGED[DEFAULT].path)
    assert said["settings"]["PSLA_MODEL"] is None
    assert said["amiss"] == []
    assert not (tmp_path / "cache").exists()


def test_it_answers_in_lines_too() -> None:
    """A line a subject, and at the end whether anything is amiss."""
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == list(doctor._LOOKS)
    assert lines[-1] == "nothing is amiss"


def test_a_model_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that the environment names: its checksum does not hold, and everything else is said all the same."""
    data = bytearray(PACKAGED["audioset-small"].path.read_bytes())
    data[-100] ^= 1
    (tmp_path / "m.safetensors").write_bytes(data)
    monkeypatch.setenv("PSLA_MODEL", str(tmp_path / "m.safetensors"))
    said = found(1)
    assert "m.safetensors: its numbers are not those that were written" in said["model"]["error"]
    assert said["amiss"] == [f"model: {said['model']['error']}"]
    assert said["decoders"]["worker"] == "decodes"
    assert said["settings"]["PSLA_MODEL"] == str(tmp_path / "m.safetensors")


def test_a_model_that_has_yet_to_be_fetched_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and is not here; that is nothing amiss."""
    monkeypatch.setenv("PSLA_MODEL", "mn10_as")
    model = found()["model"]
    assert (model["name"], model["chosen_by"], model["here"]) == ("mn10_as", "$PSLA_MODEL", False)


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    """A sentence in the place of the model."""
    (tmp_path / "config" / "psla").mkdir(parents=True)
    (tmp_path / "config" / "psla" / "config.yaml").write_text("models: x\n")
    said = found(1)
    assert "the only key of the configuration is model" in said["model"]["error"]
    assert said["settings"]["there"] is True


def test_what_cannot_be_looked_at_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that does not load ends no report."""

    def broken() -> dict[str, Any]:
        raise ImportError("libsndfile.so.1: cannot open shared object file")

    monkeypatch.setitem(doctor._LOOKS, "decoders", broken)
    said = found(1)
    assert said["decoders"] == {"error": "libsndfile.so.1: cannot open shared object file"}
    assert said["model"]["checksum"] == "holds"
