"""Kind 3 of the faults from the field: what could be known first is found last, or destroys something.

Law: outputs are checked against inputs and for writability before the first file; nothing that psla did not write is
ever truncated; what a message promises is so.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from psla.cli import app
from psla.cli.console import Ended, guarded, keeps
from psla.cli.places import KINDS, Reads, Updates, Writes, check_places, is_kind
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.training.loader import check_readable
from psla.training.recipe import Recipe, RecipeError
from psla.training.session import check_fit
from tagging_models import tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")


def commands(group: typer.Typer = app, before: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Every command of the tree by its words, as a function without its guard."""
    found = {(*before, str(each.name)): inspect.unwrap(each.callback) for each in group.registered_commands}
    for each in group.registered_groups:
        name = each.name or each.typer_instance.info.name
        found |= commands(each.typer_instance, (*before, str(name)))
    return found


COMMANDS = commands()
# What else a command must be given, by its words: whatever stands for an input is made in the folder of the test.
MORE: dict[tuple[str, ...], list[str]] = {
    ("train",): [],
    ("teach",): [],
    ("fit",): [],
    ("calibrate",): [],
    ("find",): [],
    ("export",): [],
    ("serve",): [],
    ("listen",): [],
    ("push",): [],
    ("doctor",): [],
    ("corpus", "annotations"): [],
    ("predict",): [],
    ("evaluate",): [],
    ("tag",): [],
    ("info",): [],
    ("demo",): [],
    ("enhance",): [],
    ("average",): [],
    ("ensemble",): [],
    ("compare",): [],
    ("pack",): [],
    ("stats",): [],
    ("import",): [],
    ("report",): [],
    ("models",): [],
    ("corpus", "audioset"): [],
    ("corpus", "fsd50k"): [],
    ("corpus", "esc50"): [],
    ("corpus", "folder"): [],
    ("corpus", "csv"): [],
    ("corpus", "soundscape"): [],
    ("corpus", "signals"): [],
    ("corpus", "merge"): [],
    ("lab", "run"): [],
    ("lab", "select"): [],
    ("lab", "cross-validate"): [],
    ("lab", "report"): [],
}


def marks(function: object) -> dict[str, list[object]]:
    hints = get_type_hints(function, include_extras=True)
    return {name: list(getattr(hint, "__metadata__", ())) for name, hint in hints.items()}


def of(function: object, kind: type) -> list[str]:
    return [name for name, found in marks(function).items() if any(isinstance(each, kind) for each in found)]


def test_every_command_is_in_this_file() -> None:
    """Law: a new command gets an entry, and with it the checks of this file."""
    assert set(COMMANDS) == set(MORE)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_path_of_every_command_is_marked(words: tuple[str, ...]) -> None:
    """Law: a parameter that holds a path says whether it is read, added to or written; so none is left unchecked."""
    plain = get_type_hints(COMMANDS[words])
    unmarked = [
        name
        for name, found in marks(COMMANDS[words]).items()
        if "Path" in str(plain[name]) and not any(isinstance(each, Reads | Updates | Writes) for each in found)
    ]
    assert not unmarked


PAIRS = [
    (words, output, source)
    for words, function in COMMANDS.items()
    for output in of(function, Writes)
    for source in of(function, Reads)
]


def typed(function: object, given: dict[str, str]) -> list[str]:
    """A call as a user types it."""
    options, arguments = [], []
    for name, found in marks(function).items():
        if name not in given:
            continue
        info = next(each for each in found if isinstance(each, typer.models.ParameterInfo))
        if isinstance(info, typer.models.ArgumentInfo):
            arguments.append(given[name])
        else:
            texts = (info.default, *(info.param_decls or ()))  # Typer moves the first when it is asked
            declared = [text for text in texts if isinstance(text, str) and text.startswith("--")]
            options += [declared[0] if declared else "--" + name.strip("_").replace("_", "-"), given[name]]
    return [*options, *arguments]


def digest(root: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


FORMS = ("a link", "a hard link", "by another way")
CASES = [(*pair, "the same") for pair in PAIRS]
CASES += [(*pair, form) for pair in PAIRS if pair[0] in {("evaluate",), ("corpus", "csv")} for form in FORMS]


@pytest.mark.parametrize(
    ("words", "output", "source", "form"), CASES, ids=lambda each: each if isinstance(each, str) else " ".join(each)
)
def test_no_input_is_ever_written_over(
    words: tuple[str, ...], output: str, source: str, form: str, tmp_path: Path
) -> None:
    """Law: each input given as each output, under whatever name, changes nothing and ends with code 2."""
    function = COMMANDS[words]
    parameters = inspect.signature(function).parameters
    suffix = ".json" if output == "out" and words == ("ensemble",) else ".safetensors"
    given: dict[str, str] = {}
    for name in marks(function):
        needed = name in parameters and parameters[name].default is inspect.Parameter.empty
        if name in (output, source) or needed or (words == ("train",) and name in ("recipe", "clips", "out")):
            file = tmp_path / f"{name}{suffix}"
            if name not in of(function, Writes):
                file.write_bytes(f"what {name} holds".encode())
            given[name] = str(file)
    target = Path(given[source])
    if form == "a link":
        target = tmp_path / "link.safetensors"
        target.symlink_to(given[source])
    elif form == "a hard link":
        target = tmp_path / "hard.safetensors"
        os.link(given[source], target)
    elif form == "by another way":
        (tmp_path / "side").mkdir()
        target = tmp_path / "side" / ".." / Path(given[source]).name
    given[output] = str(target)
    if source == "set_":
        given[source] = f"backbone.weights={given[source]}"
    before = digest(tmp_path)
    result = CliRunner().invoke(app, [*words, *typed(function, given)])
    assert result.exit_code == 2, result.output
    assert "is an input of this command" in result.stderr, result.stderr
    assert digest(tmp_path) == before


def with_output(words: tuple[str, ...], output: str, target: Path, folder: Path) -> object:
    """A call whose inputs are there, whatever they hold, and whose output is the target."""
    function = COMMANDS[words]
    parameters = inspect.signature(function).parameters
    given = {}
    for name in marks(function):
        needed = name in parameters and parameters[name].default is inspect.Parameter.empty
        if needed or (words == ("train",) and name in ("recipe", "clips", "out")):
            given[name] = str(folder / f"{name}.new")
            if name not in of(function, Writes):
                Path(given[name]).write_text("input")
    given[output] = str(target)
    return CliRunner().invoke(app, [*words, *typed(function, given)])


OUTPUTS = [(words, output) for words, function in COMMANDS.items() for output in of(function, Writes)]


@pytest.mark.parametrize(
    ("words", "output"), OUTPUTS, ids=lambda each: each if isinstance(each, str) else " ".join(each)
)
def test_what_psla_did_not_write_is_never_truncated(words: tuple[str, ...], output: str, tmp_path: Path) -> None:
    """Law: where a file of somebody else stands, a command ends with code 2 before any work, and the file stays."""
    for name, data in (
        ("notes.txt", b"do not forget\n"),
        ("clips.csv", b"path,labels\na.wav,dog\n"),
        ("a.wav", b"RIFF"),
    ):
        (tmp_path / name).write_bytes(data)
        before = (tmp_path / name).read_bytes()
        result = with_output(words, output, tmp_path / name, tmp_path)
        assert result.exit_code == 2, result.output
        assert str(tmp_path / name) in result.stderr
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("words", "output"), OUTPUTS, ids=lambda each: each if isinstance(each, str) else " ".join(each)
)
def test_places_that_cannot_be_written_are_told_first(words: tuple[str, ...], output: str, tmp_path: Path) -> None:
    """Law: below a file, under a name that is too long, at a device, at a pipe: nothing is begun or made."""
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path / "file" / "below", tmp_path / ("n" * 250), Path(os.devnull), tmp_path / "pipe"):
        result = with_output(words, output, target, tmp_path)
        assert result.exit_code == 2, result.output
        assert str(target) in result.stderr or f"cannot write into {target.parent} " in result.stderr
        assert result.stderr.count("\n") == 1
        assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (words, output)
        for words, output in OUTPUTS
        if not next(m for m in marks(COMMANDS[words])[output] if isinstance(m, Writes)).folder
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_a_folder_is_no_file_to_write(words: tuple[str, ...], output: str, tmp_path: Path) -> None:
    """Law: an output that is a folder is refused first, in one sentence that says what to give."""
    (tmp_path / "folder").mkdir()
    result = with_output(words, output, tmp_path / "folder", tmp_path)
    assert result.exit_code == 2
    assert "is a folder; give --out the name of a file" in re.sub("give (--[a-z]+|OUT)", "give --out", result.stderr)


def test_two_outputs_are_not_one(tmp_path: Path) -> None:
    """Law: what is written twice in one call would be written over."""
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    out = tmp_path / "x.html"
    result = CliRunner().invoke(app, ["tag", str(tmp_path / "a.wav"), "--out", str(out), "--html", str(out)])
    assert result.exit_code == 2
    assert "give each a place of its own" in result.stderr


def test_a_run_is_made_in_no_folder_that_holds_other_files_of_its_names(tmp_path: Path) -> None:
    """Law: `--out .` beside recipe.yaml or clips.parquet would write over them: refused, they stay."""
    table(tmp_path).write(tmp_path / "clips.parquet")
    (tmp_path / "toy.yaml").write_text("extends: esc50\n")
    before = digest(tmp_path)
    words = ["train", tmp_path / "toy.yaml", "--clips", tmp_path / "clips.parquet", "--out", tmp_path]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 2
    assert "clips.parquet" in result.stderr
    words[3] = tmp_path / "other.parquet"
    (tmp_path / "clips.parquet").rename(words[3])
    (tmp_path / "environment.json").write_text("{}")
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 2
    assert "holds environment.json, which psla did not write there" in result.stderr
    assert len(digest(tmp_path)) == len(before) + 1


def table(folder: Path, labels: tuple[tuple[str, ...], ...] = (("dog",), ("rain",), ("dog",))) -> Clips:
    rows = []
    for number, each in enumerate(labels):
        path = folder / f"{number}.wav"
        soundfile.write(path, np.zeros(1600, dtype=np.int16), 16000)
        split = "evaluation" if number == len(labels) - 1 else "train"
        rows.append({"clip_id": str(number), "source": str(number), "path": str(path), "split": split, "labels": each})
    return Clips.from_rows([{**row, "labels": list(row["labels"])} for row in rows], Vocabulary(["dog", "rain"]), "toy")


def test_what_psla_wrote_is_written_again(tmp_path: Path) -> None:
    """Law: the same command may be run again: its own outputs are known by their first bytes, each kind by its own."""
    clips = table(tmp_path)
    clips.write(tmp_path / "clips.parquet")
    assert is_kind(tmp_path / "clips.parquet", "clips")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    assert not is_kind(tmp_path / "other.parquet", "clips")
    for _ in range(2):
        (tmp_path / "sounds" / "dog").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "sounds" / "dog" / "a.wav", np.zeros(1600, dtype=np.int16), 16000)
        words = ["corpus", "folder", tmp_path / "sounds", "--evaluation", 0, "--out", tmp_path / "own.parquet"]
        words += ["--inventory", tmp_path / "inventory"]
        result = CliRunner().invoke(app, list(map(str, words)))
        assert result.exit_code == 0, result.output
    assert {"scores", "rows", "journal", "page", "picture", "embeddings", "model", "predictions"} <= KINDS.keys()
    for kind, text in (
        ("rows", '[{"path": "a.wav", "status": "failed"}]'),
        ("rows", "path,status,duration_s\n"),
        ("rows", "a (1).wav (12.50 s, 2 windows)\nclass  id\n"),
        ("rows", "0.000000\t1.000000\tDog 0.75\n"),
        ("journal", '{"key": "0f", "path": "a.wav"}\n'),
        ("journal", '{"key": "0f", "pa'),
        ("inventory", "3 of 4 clips present, 1 missing, 0 unreadable\n"),
        ("environment", '{\n  "python": "3.11.7"'),
        ("scores", '{\n  "mean_average_precision": 0.5\n}'),
    ):
        (tmp_path / "file").write_text(text)
        assert is_kind(tmp_path / "file", kind), (kind, text)


def test_what_is_held_out_and_cannot_be_scored_is_told_before_the_first_epoch(tmp_path: Path) -> None:
    """Law: held-out clips without a label of the classes are refused by the training's first check, by their split."""
    recipe = Recipe.load("esc50", {"optimizer.batch_size": 1})
    with pytest.raises(RecipeError, match="none of the 1 clips of the split 'evaluation' has a label"):
        check_fit(recipe, table(tmp_path, (("dog",), ("rain",), ())))
    with pytest.raises(RecipeError, match=r"none of the 2 clips of the split 'train' has a label .* trained on"):
        check_fit(recipe, table(tmp_path, ((), (), ("dog",))))
    check_fit(recipe, table(tmp_path))


def test_held_out_clips_that_cannot_be_read_are_told_before_the_first_epoch(tmp_path: Path) -> None:
    """Law: a split of which no clip can be read ends no training after its first epoch, and each resume again."""
    clips = table(tmp_path)
    check_readable(clips, 16000)
    (tmp_path / "2.wav").write_bytes(b"not audio")
    with pytest.raises(RecipeError, match="none of the 1 clips of the split 'evaluation' can be read; the first: "):
        check_readable(clips, 16000)


def sentence_of(command: object, error: BaseException, **given: object) -> str:
    def broken(**given: object) -> None:
        raise error

    broken.__signature__ = inspect.signature(command)  # type: ignore[attr-defined]
    broken.__annotations__ = get_type_hints(command, include_extras=True)
    if hasattr(command, "kept"):
        broken.kept = command.kept  # type: ignore[attr-defined]
    probe = typer.Typer()
    probe.command()(lambda: guarded(broken)(**given))
    result = CliRunner().invoke(probe, [])
    return f"{result.exit_code} {result.stderr}"


def test_what_is_said_of_an_interruption_is_so(tmp_path: Path) -> None:
    """Law: only what is on the disk is said to be kept, and where; the code is 130, or the signal's."""
    tag = COMMANDS["tag",]
    assert sentence_of(tag, KeyboardInterrupt(), words=["a.wav"]).startswith(
        "130 psla: interrupted; no result was written: with --journal FILE"
    )
    journal = tmp_path / "j.jsonl"
    said = sentence_of(tag, Ended(signal.SIGTERM), words=["a.wav"], journal=journal)
    assert said == "143 psla: ended by SIGTERM; no result was written\n"
    journal.write_text('{"key": "0", "path": "a.wav"}\n')
    said = sentence_of(tag, KeyboardInterrupt(), words=["a.wav"], journal=journal)
    assert f"1 finished files are kept in {journal}" in said
    train = COMMANDS["train",]
    assert "no result was written" in sentence_of(train, KeyboardInterrupt(), out=tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 0\n")
    (tmp_path / "run" / "environment.json").write_text('{"python": "3.11"}')
    said = sentence_of(train, KeyboardInterrupt(), out=tmp_path / "run")
    assert f"no epoch was finished; go on with: psla train --resume {tmp_path / 'run'}" in said
    (tmp_path / "run" / "checkpoints" / "epoch_001.safetensors").touch()
    assert "1 finished epochs are kept" in sentence_of(train, KeyboardInterrupt(), out=tmp_path / "run")
    for words in (("corpus", "folder"), ("predict",), ("enhance",)):
        assert "what was finished before is kept" not in sentence_of(COMMANDS[words], KeyboardInterrupt())


def test_an_output_that_was_written_before_the_interruption_is_named(tmp_path: Path) -> None:
    """Law: a command that is interrupted after its first output says that this one is written."""

    @keeps(lambda given: "")
    def command(out: typer.Option(default=None), READ=None) -> None:  # type: ignore[valid-type]
        pass

    enhance = COMMANDS["enhance",]

    def broken(**given: object) -> None:
        Path(str(given["out"])).write_text("written")
        raise KeyboardInterrupt

    broken.__signature__ = inspect.signature(enhance)  # type: ignore[attr-defined]
    broken.__annotations__ = get_type_hints(enhance, include_extras=True)
    probe = typer.Typer()
    probe.command()(lambda: guarded(broken)(out=tmp_path / "new.parquet"))
    result = CliRunner().invoke(probe, [])
    assert result.stderr == f"psla: interrupted; {tmp_path / 'new.parquet'} is written\n"


ENDED = """
import sys, time
from pathlib import Path
from psla import cli
from psla.files import atomic_write

def slow(out: Path) -> None:
    with atomic_write(out) as temporary:
        temporary.write_bytes(b"half")
        print("begun", flush=True)
        time.sleep(60)

cli.app.command("slow")(cli.guarded(slow))
cli.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_leave_no_hidden_file(name: str, tmp_path: Path) -> None:
    """Law: SIGTERM and SIGHUP end a command as Ctrl-C does: half-written files are removed, and it says so."""
    number = getattr(signal, name)
    job = subprocess.Popen(
        [sys.executable, "-c", ENDED, "slow", tmp_path / "out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert job.stdout is not None
    assert job.stdout.readline() == b"begun\n"
    job.send_signal(number)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 128 + number
    assert b"no result was written" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_nohup_is_left_as_it_is(tmp_path: Path) -> None:
    """Law: a job that was begun under nohup goes on when the terminal is closed."""
    script = ENDED.replace("time.sleep(60)", "time.sleep(1)")
    job = subprocess.Popen(
        [sys.executable, "-c", script, "slow", tmp_path / "out"],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert job.stdout is not None
    job.stdout.readline()
    time.sleep(0.1)
    job.send_signal(signal.SIGHUP)
    assert job.wait(60) == 0
    assert (tmp_path / "out").read_bytes() == b"half"


NAMES = """
import sys, typer
from psla import cli
from psla.cli.console import answer

def names(as_json: bool = False) -> None:
    answer(as_json, {"name": "\\u0100\\U0001f600.wav"}, "\\u0100\\U0001f600.wav")
    typer.echo("end")

cli.app.command("names")(cli.guarded(names))
cli.main()
"""


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "utf-8"])
def test_a_name_that_stdout_cannot_encode_ends_no_job(encoding: str) -> None:
    """Law: what the terminal does not have is printed as an escape, and JSON stays JSON."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for more in ([], ["--as-json"]):
        done = subprocess.run([sys.executable, "-c", NAMES, "names", *more], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        first, end = done.stdout.splitlines()
        assert end == b"end"
        if more:
            import json

            assert (
                json.loads(first.decode(encoding if encoding != "ascii" else "utf-8"))["name"] == "\u0100\U0001f600.wav"
            )


def test_an_input_that_is_not_there_is_an_input(tmp_path: Path) -> None:
    """Law: the check needs no work of the command: a place is refused though the input does not exist either."""
    given = {"predictions": tmp_path / "gone", "out": tmp_path / "gone", "clips": tmp_path / "clips"}
    with pytest.raises(ValueError, match="is an input of this command"):
        check_places(COMMANDS["evaluate",], given)


def test_predictions_and_classes_that_do_not_fit_are_told_by_both_names(tmp_path: Path) -> None:
    """Law: whoever scores is told which file has which classes, not that an id is absent from "this vocabulary"."""
    Predictions(np.float32([[0.5]]), ["a"], Vocabulary(["dog"])).save(tmp_path / "p.safetensors")
    rows = [{"clip_id": "a", "source": "a", "path": "a.wav", "split": "train", "labels": ["cat"], "end_s": 1.0}]
    Clips.from_rows(rows, Vocabulary(["cat"])).write(tmp_path / "c.parquet")
    predictions, table = str(tmp_path / "p.safetensors"), str(tmp_path / "c.parquet")
    for words in (["evaluate"], ["compare", predictions], ["ensemble", "--out", str(tmp_path / "e.safetensors")]):
        result = CliRunner().invoke(app, [*words, predictions, "--clips", table])
        assert result.exit_code == 2, result.output
        assert all(name in result.stderr for name in ("p.safetensors", "c.parquet", "dog")), result.stderr


@pytest.mark.parametrize("made", [os.link, shutil.copy])
def test_one_file_under_two_names_counts_once(made: Callable, tmp_path: Path) -> None:
    """Law: a member of an ensemble given twice is refused, whether by its name, a hard link or a copy."""
    Predictions(np.float32([[0.5]]), ["a"], Vocabulary(["dog"])).save(tmp_path / "p.safetensors")
    tiny_model_file(tmp_path)
    for first, out in (("p.safetensors", "e.safetensors"), ("model.safetensors", "e.json")):
        made(tmp_path / first, tmp_path / f"other.{first}")
        members = [str(tmp_path / first), str(tmp_path / f"other.{first}")]
        result = CliRunner().invoke(app, ["ensemble", *members, "--out", str(tmp_path / out)])
        assert result.exit_code == 2, result.output
        assert "each counts once" in result.stderr
        assert not (tmp_path / out).exists()


def test_settings_of_events_that_nobody_asked_for(tmp_path: Path) -> None:
    """Law: an option that would change nothing is refused before anything is heard."""
    for option in (["--median", "3"], ["--max-gap", "0"], ["--min-length", "1"], ["--release", "0.5"]):
        result = CliRunner().invoke(app, ["tag", "model.safetensors", "a.wav", *option])
        assert result.exit_code == 2, result.output
        assert f"{option[0]} says how events are made" in result.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--init": "a.wav"}, "not a readable model file"),
        ({"--init": "model.safetensors"}, "mel bins"),
        ({"--accelerator": "tpu"}, "accelerator must be one of auto, cpu"),
        ({"--accelerator": "cuda"}, "accelerator"),
        ({"--set": "distillation.predictions=a.wav"}, "a.wav"),
    ],
)
def test_a_training_that_cannot_begin_leaves_no_run(
    changed: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: what a recipe names is read before the run's folder is made, so that the mended command can be given."""
    monkeypatch.chdir(tmp_path)
    if changed.get("--accelerator") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    rows = [
        {"clip_id": str(i), "source": str(i), "path": "a.wav", "split": "train", "labels": ["dog"], "end_s": 1.0}
        for i in range(4)
    ]
    soundfile.write("a.wav", np.zeros(16000), 16000)
    Clips.from_rows(rows, Vocabulary(["dog"])).write("clips.parquet")
    tiny_model_file(tmp_path)
    Path("r.yaml").write_text(
        "front_end: {frames: 64, mel_bins: 32}\nbackbone: {name: efficientnet_lite0, pretraining: none}\n"
        "masking: {frequency: 12, time: 16}\noptimizer: {batch_size: 4, epochs: 1, warmup_steps: 1}\n"
        "averaging: {first_epoch: 1}\n"
    )
    given = {"--clips": "clips.parquet", "--out": "run", "--accelerator": "cpu"} | changed
    result = CliRunner().invoke(app, ["train", "r.yaml", *(word for pair in given.items() for word in pair)])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not Path("run").exists()
