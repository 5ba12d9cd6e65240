"""Laws of which model speaks where none is named, and of the name `audioset`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import psla
from psla.cli import app
from psla.weights.catalogue import CATALOGUE, best_audioset, named, resolve
from psla.weights.choice import Choice, ChoiceError, choose
from psla.weights.packaged import DEFAULT, PACKAGED
from tagging_models import noise, tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLE = "esc10-lite0"


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, no $PSLA_MODEL, and where the configuration would be, in a folder that is there."""
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PSLA_MODEL", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config/psla").mkdir(parents=True)
    return tmp_path / "config/psla/config.yaml"


def put_into_cache(name: str) -> None:
    """A file where the fetched model would be: what being cached means."""
    file = CATALOGUE[name].model_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")


def test_option_then_environment_then_configuration_then_default(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes before all after it; what stands behind is not even read."""
    assert choose() == Choice(DEFAULT)
    config.write_text("model: mn10_as\n")
    assert choose() == Choice("mn10_as", str(config))
    monkeypatch.setenv("PSLA_MODEL", EXAMPLE)
    assert choose() == Choice(EXAMPLE, "$PSLA_MODEL")
    config.write_text("model: [")
    assert choose() == Choice(EXAMPLE, "$PSLA_MODEL")
    monkeypatch.setenv("PSLA_MODEL", "no such")
    assert choose(DEFAULT) == Choice(DEFAULT)
    monkeypatch.setenv("PSLA_MODEL", "")
    config.write_text("# nothing yet\n")
    assert choose() == Choice(DEFAULT), "an empty variable and an empty file choose nothing"


def test_load_without_a_model_goes_the_same_way(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`psla.load()` is the model that `choose` gives."""
    assert len(psla.load().model.vocabulary) == 527
    assert len(psla.load(None).model.vocabulary) == 527
    config.write_text(f"model: {EXAMPLE}\n")
    assert len(psla.load().model.vocabulary) == 10
    assert len(psla.load(DEFAULT).model.vocabulary) == 527


def test_a_path_in_the_configuration_is_from_its_folder_on(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in which psla is called does not matter to it."""
    made = tiny_model_file(config.parent)
    config.write_text("model: model.safetensors\n")
    monkeypatch.chdir("/")
    assert choose() == Choice(str(made), str(config))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: [", "is not YAML"),
        ("model: mn10_as\ntop: 3\n", "unknown: top; the only key of the configuration is model"),
        ("- mn10_as\n", "no mapping"),
        ("model: 3\n", "not 3"),
        ("model:\n", "not None"),
        ("model: mn10_ass\n", "'mn10_ass' is neither a file nor a model by name; near it are mn10_as"),
        ("model: gone.safetensors\n", "'gone.safetensors' is neither"),
    ],
)
def test_a_configuration_that_is_refused(config: Path, text: str, reason: str, tmp_path: Path) -> None:
    """One sentence that names the file; of `psla tag`, too."""
    config.write_text(text)
    with pytest.raises(ChoiceError) as error:
        choose()
    assert str(config) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "a.wav").write_bytes(b"")
    told = CliRunner().invoke(app, ["tag", str(tmp_path / "a.wav")])
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)


def test_the_environment_names_a_model_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says where the name comes from."""
    monkeypatch.setenv("PSLA_MODEL", "mn10_ass")
    with pytest.raises(ChoiceError, match=r"\$PSLA_MODEL: 'mn10_ass'.*near it are mn10_as"):
        choose()


@pytest.mark.skipif(os.name != "posix", reason="a home as POSIX has it")
def test_no_home_is_no_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home that is missing, a file, or not to be entered: there is no configuration, and nothing is written."""
    monkeypatch.delenv("XDG_CONFIG_HOME")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    (tmp_path / "file").write_bytes(b"")
    for home in ("/nonexistent/home", str(tmp_path / "file"), str(closed)):
        monkeypatch.setenv("HOME", home)
        assert choose() == Choice(DEFAULT)
    closed.chmod(0o700)
    assert not list(closed.iterdir())


def test_audioset_is_the_best_that_is_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The packaged model without any; then that of the highest published mAP; FSD50K's models never."""
    assert best_audioset() == DEFAULT
    assert named("audioset").name == DEFAULT
    put_into_cache(next(name for name, each in CATALOGUE.items() if each.corpus == "fsd50k" and each.models == 1))
    assert best_audioset() == DEFAULT
    for name in ("mn04_as", "mn10_as", "mn05_as"):
        put_into_cache(name)
    scores = {name: CATALOGUE[name].mean_average_precision for name in ("mn04_as", "mn10_as", "mn05_as")}
    assert named("audioset").name == max(scores, key=scores.__getitem__) == "mn10_as"
    told = CliRunner().invoke(app, ["models"]).stdout
    assert "audioset: at present mn10_as" in told
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert [each["name"] for each in listed if "audioset" in each["aliases"]] == ["mn10_as"]


def test_a_folder_called_audioset_does_not_hide_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The corpus often lies there; as a source it is ./audioset, and the refusal says so."""
    (tmp_path / "audioset").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("audioset") == PACKAGED[DEFAULT].path
    told = CliRunner().invoke(app, ["tag", "audioset"])
    assert told.exit_code == 2
    assert "or ./audioset for the folder" in told.stderr


def test_tag_says_which_model_speaks(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--model, the first word, the environment; a better one is told of only while none is in the cache."""
    import soundfile

    soundfile.write(tmp_path / "a.wav", noise(16000), 16000)
    sound = str(tmp_path / "a.wav")

    def call(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["tag", *words])
        assert result.exit_code == code, result.output
        return result.stderr

    assert f"{DEFAULT}: 527 classes; a better one: psla models --fetch mn10_as" in call("--model", "audioset", sound)
    put_into_cache("mn10_as")
    assert "better" not in call(sound)
    assert f"{EXAMPLE}: 10 classes; no threshold" in call(sound, "--model", EXAMPLE)
    monkeypatch.setenv("PSLA_MODEL", EXAMPLE)
    assert f"{EXAMPLE} (by $PSLA_MODEL): 10 classes; threshold 0.25\n" in call(sound, "--threshold", "0.25")
    assert "threshold of events 0.5" in call(sound, "--events")
    assert call(sound, "--quiet") == ""
    assert "two models are named" in call(DEFAULT, sound, "--model", EXAMPLE, code=2)
