"""Laws of the models that come with the package: small, offline, honest about themselves; and what `psla tag` takes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import psla
from psla.cli import app
from psla.corpora import esc50
from psla.corpora.esc50 import AUDIOSET_CLASS
from psla.data.clips import ClipsError
from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.model.file import ModelFileError, load_model
from psla.synth.sound_events import EVENTS
from psla.tagging.sources import SourcesError, split_model
from psla.weights.catalogue import CATALOGUE, load_any, resolve
from psla.weights.packaged import DEFAULT, MOST_BYTES, PACKAGED

EXAMPLE = "esc10-lite0"

pytestmark = pytest.mark.usefixtures("one_thread")

ESC10 = Path(__file__).parents[2] / "shared/data/esc10"
CLASSES = {"dog", "rooster", "rain", "sea_waves", "crackling_fire", "crying_baby", "sneezing", "clock_tick"}
CLASSES |= {"helicopter", "chainsaw"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network and an empty cache: whoever opens a connection fails."""

    def refuse(*args: object) -> NoReturn:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PSLA_MODEL", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of a synthesised helicopter."""
    path = tmp_path_factory.mktemp("sound") / "flight.wav"
    soundfile.write(path, EVENTS[AUDIOSET_CLASS["helicopter"]](np.random.default_rng(0), 5.0, 16000), 16000)
    return path


def call(*args: object, code: int = 0):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_small_and_of_ten_classes() -> None:
    """At most 8 MB, half precision on disk, float32 in memory; the ten classes of ESC-10, each one of AudioSet's."""
    path = PACKAGED[EXAMPLE].path
    assert path.stat().st_size <= MOST_BYTES == 8_000_000
    model = load_any(EXAMPLE)
    assert set(model.vocabulary.ids) == CLASSES <= set(AUDIOSET_CLASS)
    assert model.network.config.backbone == "efficientnet_lite0"
    assert {tensor.dtype for tensor in model.network.parameters()} == {torch.float32}
    weights = [tensor for tensor in model.network.parameters() if tensor.ndim > 1]
    assert all(torch.equal(tensor, tensor.half().float()) for tensor in weights)


def test_loads_by_name_without_a_network(sound: Path) -> None:
    """`psla.load` takes the name, finds the file in the package, and tags."""
    assert resolve(EXAMPLE) == PACKAGED[EXAMPLE].path
    assert PACKAGED[EXAMPLE].path.is_relative_to(Path(psla.__file__).parent)
    result = psla.load(EXAMPLE).tag(sound)
    assert set(result.vocabulary.ids) == CLASSES


def test_the_card_says_all() -> None:
    """Data, licence, scores with what they are of, and the commands that made it."""
    card = PACKAGED[EXAMPLE].card
    assert card.licence.startswith("CC BY 3.0")
    for words in ("ESC-10", "K. J. Piczak", "https://github.com/karolpiczak/ESC-50", "freesound.org", "CC BY 3.0"):
        assert words in card.training_data
    scores = card.scores["cross_validation"]
    low, high = scores["interval_95"]
    assert 0 < low <= scores["accuracy"] <= high <= 1
    assert "not of this model" in scores["of"]
    assert card.provenance["stored_as"] == "float16"
    corpus, train = card.provenance["commands"]
    assert corpus.startswith("psla corpus esc50 ")
    assert train.startswith("psla train esc50 --clips ")
    assert card.recipe["backbone"]["name"] == "efficientnet_lite0"


def test_trained_on_all_folds_and_scored_on_all() -> None:
    """What is given away has heard every clip, and its recipe was judged on every clip."""
    card = PACKAGED[EXAMPLE].card
    assert "400 clips of the folds 1, 2, 3, 4, 5; none is held out" in card.training_data
    assert "--all-folds" in card.provenance["commands"][0]
    assert card.scores["cross_validation"]["folds"] == [1, 2, 3, 4, 5]
    assert card.scores["cross_validation"]["clips"] == 400


def test_the_scores_of_the_card_are_those_of_the_report() -> None:
    """The card names the cross-validation that its accuracy is of, and that is the one in docs/lab/esc10."""
    report = Path(__file__).parents[1] / "docs/lab/esc10/cross_validation.json"
    scores = PACKAGED[EXAMPLE].card.scores["cross_validation"]
    assert scores["sha256"] == sha256_of(report)
    found = json.loads(report.read_text(encoding="utf-8"))["systems"][scores["system"]]["averaged"]
    assert scores["accuracy"] == round(found["accuracy"], 4)
    assert scores["interval_95"] == [round(bound, 4) for bound in found["interval"]]


def test_damage_is_found(tmp_path: Path) -> None:
    """A byte of the weights that has changed is refused."""
    data = bytearray(PACKAGED[EXAMPLE].path.read_bytes())
    data[-100_001] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match="SHA-256"):
        load_model(tmp_path / "damaged.safetensors")


def test_info_and_models_tell_of_it() -> None:
    """`psla info` prints the card; `psla models` lists it, with the scores of the card and no mAP of anybody's."""
    said = call("info", EXAMPLE).stdout
    for words in ("CC BY 3.0", "K. J. Piczak", "cross_validation", "psla train esc50"):
        assert words in said
    lines = call("models").stdout.splitlines()
    line = next(line for line in lines if line.startswith(f"{EXAMPLE} "))
    accuracy = PACKAGED[EXAMPLE].card.scores["cross_validation"]["accuracy"]
    assert PACKAGED[EXAMPLE].scores == {"cross validation accuracy": accuracy}
    assert re.search(rf"{EXAMPLE} +- +- +7\.\d +- +CC BY 3\.0 +packaged +10 classes", line)
    assert any(f"{EXAMPLE}: 10 classes, cross validation accuracy {accuracy:.3f}" in line for line in lines)
    listed = json.loads(call("models", "--json").stdout)
    packaged = [each for each in listed if each["packaged"]]
    assert [each["name"] for each in packaged] == [DEFAULT, EXAMPLE]
    assert [each["default"] for each in packaged] == [True, False]
    for entry in packaged:
        assert entry["bytes"] == PACKAGED[entry["name"]].path.stat().st_size
        assert entry["published_mean_average_precision"] is None
    assert packaged[1]["cross_validated_accuracy"] == accuracy
    assert [each["name"] for each in listed if not each["packaged"]] == list(CATALOGUE)
    assert len({tuple(each) for each in listed}) == 1, "every entry has the same keys"


def test_the_default_hears_the_world() -> None:
    """The default is small, has AudioSet's classes in their order, and every shape that the front end promises."""
    path = PACKAGED[DEFAULT].path
    assert path.stat().st_size <= MOST_BYTES
    model = load_any(DEFAULT)
    assert model.vocabulary == Vocabulary.audioset()
    assert (model.network.config.backbone, model.network.sample_rate) == ("mobilenet", 32000)


def test_tag_without_a_model(sound: Path) -> None:
    """`psla tag FILE` is `psla tag audioset-small FILE`; one line on stderr says so, and none with --quiet."""
    bare, named = call("tag", sound, "--json"), call("tag", DEFAULT, sound, "--json", "--quiet")
    assert bare.stdout == named.stdout
    assert json.loads(bare.stdout)[0]["status"] == "tagged"
    assert named.stderr == ""
    assert bare.stderr.count("\n") == 1
    for words in (DEFAULT, "527 classes", "psla models --fetch", "--model audioset", "no threshold"):
        assert words in bare.stderr
    other = call("tag", EXAMPLE, sound).stderr
    assert (f"{EXAMPLE}: 10 classes" in other, "--fetch" in other) == (True, False)


def test_tag_as_installed(sound: Path, tmp_path: Path) -> None:
    """In a process of its own, in another folder, with no address that answers."""
    environment = os.environ | {
        "PSLA_CACHE": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "psla", "tag", str(sound), "--csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert len(list(csv.DictReader(done.stdout.splitlines()))) == 5
    assert not list(tmp_path.iterdir())


def test_which_word_is_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name or a model's suffix is a model, there or not; what exists, a pattern or a sound's suffix is a source."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sounds").mkdir()
    (tmp_path / "odd").write_bytes(b"")
    for name in (DEFAULT, EXAMPLE, "audioset", "audioset-b2", "mine.safetensors", "ensemble.json", "old.pth"):
        assert split_model([name, "a.wav"]) == (name, ["a.wav"])
    for first in ("a.wav", "sounds", "odd", "*.wav", "absent.FLAC"):
        assert split_model([first]) == (None, [first])
        assert split_model([first, "b.wav", "c.json"]) == (None, [first, "b.wav", "c.json"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["esc10-lite"], r"'esc10-lite' is neither a model by name \(near it are esc10-lite0\) nor a sound file"),
        (["no/such", "a.wav"], "'no/such' is neither"),
        ([EXAMPLE], "esc10-lite0 is a model: name the sound files"),
        (["a.wav", EXAMPLE], "esc10-lite0 is a model: name it before"),
        (["a.wav", "b.safetensors"], r"b\.safetensors is a model: name it before"),
    ],
)
def test_words_that_are_refused(words: list[str], message: str) -> None:
    """What is neither, a model alone, and a model that comes late: one sentence, exit code 2."""
    with pytest.raises(SourcesError, match=message):
        split_model(words)
    assert call("tag", *words, code=2).stderr.count("\n") == 1


def test_all_folds_hold_nothing_out(tmp_path: Path) -> None:
    """With no evaluation fold every clip is to train on, and none is lost; both options at once are refused."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in esc50.FOLDS:
        name = f"{fold}-{fold}00-A-0.wav"
        soundfile.write(tmp_path / "audio" / name, np.zeros(8000, np.int16), 16000)
        lines.append(f"{name},{fold},0,dog,True,{fold}00,A")
    (tmp_path / "meta/esc50.csv").write_text("\n".join(lines) + "\n")
    assert esc50.read(tmp_path, evaluation_fold=None).counts() == {"train": 5}
    assert esc50.read(tmp_path).counts() == {"train": 4, "evaluation": 1}
    with pytest.raises(ClipsError, match="1, 2, 3, 4, 5"):
        esc50.read(tmp_path, evaluation_fold=0)
    out = tmp_path / "clips.parquet"
    assert "train 5)" in call("corpus", "esc50", tmp_path, "--all-folds", "--out", out).stdout
    both = call("corpus", "esc50", tmp_path, "--all-folds", "--evaluation-fold", 1, "--out", out, code=2)
    assert "choose one" in both.stderr


@pytest.mark.skipif(not ESC10.is_dir(), reason="needs the recordings of ESC-10")
def test_right_on_recordings_that_it_has_heard() -> None:
    """Twenty recordings, two of each class: at least 18 of them have their own class on top."""
    clips = esc50.read(ESC10, evaluation_fold=None, esc10_only=True)
    order = np.random.default_rng(0).permutation(len(clips))
    rows = [clips.frame.row(int(i), named=True) for i in order]
    tagger = psla.load(EXAMPLE)
    right = 0
    for name in sorted(CLASSES):
        for row in [row for row in rows if row["labels"] == [name]][:2]:
            right += tagger.tag(row["path"]).top(1)[0][0].id == name
    assert right >= 18


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git what it ignores")
def test_the_file_is_packed() -> None:
    """The wheel takes what is in the package and not ignored; nothing ignores model files there."""
    asked = ["git", "check-ignore", "--quiet", str(PACKAGED[EXAMPLE].path)]
    assert subprocess.run(asked, cwd=Path(__file__).parents[1], check=False).returncode != 0
