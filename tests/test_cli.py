"""Laws of the command line: the commands fit together, and what a user can mend is one sentence and an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips

pytestmark = pytest.mark.usefixtures("one_thread")

CATEGORIES = ("dog", "rain")
TOY = """
extends: esc50
front_end: {frames: 32}
backbone: {pretraining: none}
masking: {frequency: 0, time: 0}
optimizer: {epochs: 1, batch_size: 4, warmup_steps: 0, precision: float32}
averaging: {first_epoch: 1}
"""


def call(*args: object, code: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result


def refused(*args: object) -> str:
    """The sentence with which a command is refused: one line, exit code 2, nothing on stdout after it."""
    text = call(*args, code=2).stderr
    assert text.startswith("psla: ")
    assert text.count("\n") == 1
    return text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ESC-50 tree of twelve short clips, of which one is missing and one broken, and a toy recipe."""
    home = tmp_path_factory.mktemp("cli")
    (home / "esc" / "meta").mkdir(parents=True)
    (home / "esc" / "audio").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    rng = np.random.default_rng(0)
    for i in range(12):
        name, fold, target = f"{i}.wav", i % 3 + 1, i % 2
        lines.append(f"{name},{fold},{target},{CATEGORIES[target]},True,{i},A")
        soundfile.write(home / "esc" / "audio" / name, rng.uniform(-0.3, 0.3, 4000), 16000)
    (home / "esc" / "audio" / "10.wav").unlink()
    (home / "esc" / "audio" / "11.wav").write_bytes(b"not audio at all")
    (home / "esc" / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    (home / "toy.yaml").write_text(TOY)
    return home


@pytest.fixture(scope="module")
def clips(home: Path) -> Path:
    out = home / "clips.parquet"
    text = call("corpus", "esc50", home / "esc", "--evaluation-fold", 1, "--out", out).stdout
    assert "10 of 12 clips present, 1 missing, 1 unreadable" in text
    assert "train 6, evaluation 4" in text
    return out


@pytest.fixture(scope="module")
def run(home: Path, clips: Path) -> Path:
    result = call("train", home / "toy.yaml", "--clips", clips, "--out", home / "run", "--set", "seed=3")
    assert "evaluation averaged" in result.stdout
    assert "mAP" in result.stdout
    assert "train: 6 clips" in result.stderr
    return home / "run"


def test_the_run_kept_what_was_set(run: Path) -> None:
    """--set reaches the resolved recipe."""
    assert "seed: 3" in (run / "recipe.yaml").read_text()


def test_predict_then_evaluate_gives_the_scores_of_the_run(home: Path, run: Path, clips: Path) -> None:
    """Two routes agree: the run's own scores of its model file, and predict followed by evaluate."""
    out = home / "predictions.safetensors"
    call("predict", run / "model.safetensors", clips, "--out", out, "--split", "evaluation")
    printed = json.loads(call("evaluate", out, "--clips", clips, "--json", "--out", home / "scores.json").stdout)
    assert printed == json.loads((run / "scores.json").read_text())["evaluation"]["averaged"]
    assert printed == json.loads((home / "scores.json").read_text())
    assert "mean average precision" in call("evaluate", out, "--clips", clips).stdout


def test_truth_is_the_column_of_true_labels(home: Path, run: Path, clips: Path) -> None:
    """Law: --truth scores as a table whose labels are the true ones would; a table without them is refused."""
    out, given = home / "predictions.safetensors", Clips.read(clips)
    call("predict", run / "model.safetensors", clips, "--out", out, "--split", "evaluation")
    heard = given.frame["labels"].reverse()  # no clip sounds as its labels say
    Clips(given.frame.with_columns(heard.alias("true_labels")), given.vocabulary).write(home / "both.parquet")
    Clips(given.frame.with_columns(heard.alias("labels")), given.vocabulary).write(home / "heard.parquet")
    for command in (("evaluate", out), ("compare", out, out, "--resamples", 5)):
        told = call(*command, "--clips", home / "both.parquet", "--truth", "--json").stdout
        assert told == call(*command, "--clips", home / "heard.parquet", "--json").stdout
        assert told != call(*command, "--clips", home / "both.parquet", "--json").stdout
        assert "no labels in column 'true_labels'" in refused(*command, "--clips", clips, "--truth")


def test_tag_goes_on_after_a_broken_file(home: Path, run: Path) -> None:
    """A broken file is reported with its reason, the others are tagged, and the exit code is 1."""
    good, broken = home / "esc" / "audio" / "0.wav", home / "esc" / "audio" / "11.wav"
    result = call("tag", run / "model.safetensors", broken, good, "--json", "--top", 1, code=1)
    first, second = json.loads(result.stdout)
    assert "not audio" in first["error"]
    assert second["path"] == str(good)
    assert second["duration_s"] == 0.25
    assert len(second["classes"]) == 1
    assert str(broken) in result.stderr
    assert "probability" in call("tag", run / "model.safetensors", good, "--hop", 0.1).stdout


def test_info_says_what_the_model_is(run: Path) -> None:
    """info names the architecture and the classes; its JSON is the file's header."""
    text = call("info", run / "model.safetensors").stdout
    assert "efficientnet_lite0" in text
    assert "dog, rain" in text
    assert json.loads(call("info", run / "model.safetensors", "--json").stdout)["vocabulary"]["ids"] == ["dog", "rain"]


def test_corpus_folder_and_csv(home: Path) -> None:
    """A folder a class and a CSV that lists the same files give the same labels; --validation holds out."""
    rows = ["path,labels"]
    for i in range(10):
        file = home / "own" / CATEGORIES[i % 2] / f"{i}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, np.zeros(1600), 16000)
        rows.append(f"{CATEGORIES[i % 2]}/{i}.wav,{CATEGORIES[i % 2]}")
    (home / "own.csv").write_text("\n".join(rows) + "\n")
    common = ("--validation", 0.3, "--seed", 1)
    call("corpus", "folder", home / "own", "--out", home / "a.parquet", *common)
    call("corpus", "csv", home / "own.csv", "--audio-root", home / "own", "--out", home / "b.parquet", *common)
    one, two = Clips.read(home / "a.parquet"), Clips.read(home / "b.parquet")
    assert set(one.counts()) == {"train", "validation", "evaluation"}
    assert sum(one.counts().values()) == 10
    assert dict(zip(one.clip_ids, one.frame["labels"].to_list(), strict=True)) == dict(
        zip(two.clip_ids, two.frame["labels"].to_list(), strict=True)
    )


def test_corpus_soundscape_shares_no_clip_between_splits(home: Path) -> None:
    """The evaluation split comes from the next seed."""
    call("corpus", "soundscape", "--clips", 3, "--evaluation-clips", 2, "--seed", 5, "--out", home / "s.parquet")
    clips = Clips.read(home / "s.parquet")
    assert clips.counts() == {"train": 3, "evaluation": 2}
    assert [path.split("/")[2] for path in clips.frame["path"]] == ["5", "5", "5", "6", "6"]


def test_user_errors_are_one_sentence(home: Path, run: Path, clips: Path) -> None:
    """Wrong paths, keys, files and values: one line on stderr that names the thing, exit code 2."""
    model = run / "model.safetensors"
    assert "no/such" in refused("corpus", "esc50", "no/such")
    assert "1, 2, 3, 4, 5" in refused("corpus", "esc50", home / "esc", "--evaluation-fold", 9)
    assert "no such key" in refused("train", "esc50", "--clips", clips, "--out", home / "x", "--set", "nothing=1")
    assert "key=value" in refused("train", "esc50", "--clips", clips, "--out", home / "x", "--set", "nothing")
    assert "not YAML" in refused("train", "esc50", "--clips", clips, "--out", home / "x", "--set", "seed=[")
    assert "presets" in refused("train", "esc51", "--clips", clips, "--out", home / "x")
    assert "none.parquet" in refused("train", "esc50", "--clips", home / "none.parquet", "--out", home / "x")
    assert "already holds a run" in refused("train", home / "toy.yaml", "--clips", clips, "--out", run)
    assert "no such model file" in refused("tag", home / "none.safetensors", "a.wav")
    assert "not a readable model file" in refused("info", home / "toy.yaml")
    assert "hop_s" in refused("tag", model, "a.wav", "--hop", 99)
    assert "split" in refused("predict", model, clips, "--out", home / "p", "--split", "test")
    assert "no clip in" in refused("predict", model, clips, "--out", home / "p", "--split", "validation")
    assert "toy.yaml" in refused("evaluate", home / "toy.yaml", "--clips", clips)


def test_predictions_of_other_clips_are_refused(home: Path, run: Path, clips: Path) -> None:
    """Scores are joined by clip id: clips without labels are counted and named."""
    table = Clips.read(clips)
    table.select(table.clip_ids[1:]).write(home / "fewer.parquet")
    call("predict", run / "model.safetensors", clips, "--out", home / "all.safetensors")
    assert table.clip_ids[0] in refused("evaluate", home / "all.safetensors", "--clips", home / "fewer.parquet")


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    """Ctrl-C: one sentence and exit code 130."""

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("psla.model.file.read_header", interrupt)
    assert "interrupted" in call("info", run / "model.safetensors", code=130).stderr


def test_help_imports_nothing_heavy() -> None:
    """`psla --help` and `psla --version` answer without torch, polars, matplotlib or Lightning."""
    code = (
        "import sys; from psla.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'polars', 'matplotlib', 'lightning_fabric', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for option, word in (("--help", "evaluate"), ("--version", "psla 0")):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert word in done.stdout
