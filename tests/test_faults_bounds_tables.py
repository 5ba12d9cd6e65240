"""Kind 7 of the faults from the field, of tables and settings: no bound.

Law: every read has a limit of time, size and depth, and every message is at most a few lines.
"""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from psla.audio.decode import AudioError
from psla.cli import app
from psla.cli.console import guarded, sentence
from psla.corpora import fsd50k
from psla.corpora.csv_files import read_csv_file
from psla.corpora.folder import read_csv
from psla.data.clips import Clips, ClipsError
from psla.data.inventory import take_inventory
from psla.data.ontology import Ontology, OntologyError
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.lab.folds.candidates import load_candidates
from psla.lab.folds.selection import SelectionError
from psla.lab.tables.claims import ClaimError, load_claims
from psla.lab.tables.rows import RowError, parse_row
from psla.tagging.sources import SourcesError, expand_sources
from psla.training.keys import RecipeError, parse_override
from psla.training.recipe import Recipe
from psla.yaml_files import MOST_DEPTH, MOST_VALUES, parse_yaml
from tagging_models import noise, tiny_model_file

GUARD_S = 300  # ends a test that would otherwise last for ever, on however busy a machine
FEW = 1600  # characters of a message


@pytest.fixture(autouse=True)
def _guard() -> Iterator[None]:
    """Fails a test that hangs: a pipe waits for its writer for ever, a bomb fills the memory."""

    def end(number: int, frame: object) -> None:
        raise TimeoutError(f"not done after {GUARD_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(GUARD_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(*words: object) -> str:
    """The sentence: one line, at most a few lines long, at once."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < FEW
    return result.stderr


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    return path


def test_a_named_pipe_in_a_table_holds_nobody_up(pipe: Path, tmp_path: Path) -> None:
    """Law: a pipe is no sound file of a table: the inventory says so, and whoever reads the clip is told, at once."""
    row = {"clip_id": "p", "source": "p", "path": str(pipe), "split": "train", "labels": ["dog"]}
    clips = Clips.from_rows([row], Vocabulary(["dog"]))
    kept, found = take_inventory(clips)
    assert len(kept) == 0
    assert found.unreadable == [("p", str(pipe), "a named pipe, not a file: nobody knows where it ends")]
    with pytest.raises(AudioError, match="a named pipe, not a file"):
        open_source(clips, 16000).read(0)
    (tmp_path / "c.csv").write_text("path,labels\npipe.wav,dog\n")
    result = CliRunner().invoke(
        app, ["corpus", "csv", str(tmp_path / "c.csv"), "--evaluation", "0", "--out", str(tmp_path / "c.parquet")]
    )
    assert result.exit_code == 2
    assert "a named pipe, not a file" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["corpus", "csv", "PIPE"],
        ["corpus", "merge", "PIPE"],
        ["stats", "PIPE"],
        ["evaluate", "PIPE", "--clips", "PIPE"],
        ["predict", "PIPE", "PIPE", "--out", "OUT"],
        ["train", "PIPE", "--clips", "PIPE", "--out", "OUT"],
        ["corpus", "folder", "FOLDER", "--vocabulary", "PIPE"],
        ["enhance", "PIPE", "PIPE", "--out", "OUT"],
        ["fit", "PIPE", "--out", "OUT"],
        ["pack", "PIPE", "OUT"],
        ["info", "PIPE"],
        ["import", "PIPE", "--out", "OUT"],
    ],
    ids=" ".join,
)
def test_a_named_pipe_as_an_input_holds_no_command_up(words: list[str], pipe: Path, tmp_path: Path) -> None:
    """Law: an input that has no end is refused by every command, by its name."""
    made = {"PIPE": str(pipe), "OUT": str(tmp_path / "out"), "FOLDER": str(tmp_path)}
    assert "is a named pipe, not a file" in refused(*[made.get(word, word) for word in words])


def bomb(levels: int, width: int = 9) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


DEEP = {
    "aliases that grow without bound": (bomb(30), "holds too much"),
    "a smaller bomb": (bomb(6), "holds too much"),
    "merge keys": (
        "\n".join(
            ["m0: &m0 {k: v}", *[f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 12)]]
        ),
        "holds too much",
    ),
    "lists in lists": ("a: " + "[" * 100_000, "nested too deeply"),
    "mappings in mappings": ("a: " + "{a: " * 5000 + "1" + "}" * 5000, "nested too deeply"),
    "lines in lines": ("\n".join(" " * n + "a:" for n in range(500)), "nested too deeply"),
    "an alias that leads back": ("a: &a [*a]", "nested too deeply"),
    "a text of megabytes": ("a: " + "x" * 2_000_000, "too long"),
    "a million keys": ("\n".join(f"k{n}: 1" for n in range(15_000)), "holds too much"),
    "a key twice": ("seed: 1\nseed: 2", "gives the key 'seed' twice"),
    "a date that there is not": ("seed: 2026-02-30", "cannot be read"),
    "a number of megabytes": ("seed: " + "9" * 10_000, "cannot be read"),
    "control characters": ("a: \x00\x01", "is not YAML"),
    "a long line that is no YAML": ("a: [" + "x" * 200_000 + "}", "is not YAML"),
}


@pytest.mark.parametrize("name", DEEP)
def test_yaml_has_a_bound_of_size_and_depth(name: str, tmp_path: Path) -> None:
    """Law: whatever the text is, it is refused soon, in a short sentence, by every reader of YAML."""
    text, words = DEEP[name]
    (tmp_path / "own.yaml").write_text(text)
    for read, error in (
        (lambda: Recipe.load(str(tmp_path / "own.yaml")), RecipeError),
        (lambda: parse_row("own", text), RowError),
        (lambda: load_candidates([str(tmp_path / "own.yaml")], None), SelectionError),
        (lambda: load_claims(tmp_path / "own.yaml"), ClaimError),
        (lambda: parse_override(f"seed={text}"), RecipeError),
    ):
        with pytest.raises(error, match=words) as found:
            read()
        assert len(str(found.value)) < FEW
    assert words in refused("train", tmp_path / "own.yaml", "--clips", tmp_path / "c", "--out", tmp_path / "run")


def test_yaml_within_the_bounds_is_read() -> None:
    """Law: anchors, merge keys, a depth of dozens and thousands of values are what YAML is for."""
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", "it", ValueError)["b"] == {"x": 1, "y": 2}
    deep = "[" * (MOST_DEPTH - 1) + "]" * (MOST_DEPTH - 1)
    assert "a" in parse_yaml(f"a: {deep}", "it", ValueError)
    assert len(parse_yaml("[" + "1, " * (MOST_VALUES - 10) + "]", "it", ValueError, list)) == MOST_VALUES - 10


def test_a_million_columns_are_a_short_sentence(tmp_path: Path) -> None:
    """Law: a message names a few of many columns, of many clips, of many anything."""
    path = tmp_path / "c.csv"
    path.write_text(",".join(f"column{n}" for n in range(1_000_000)) + "\n")
    assert "1,000,000 columns, and a CSV at most 1,000" in refused("corpus", "csv", path, "--out", tmp_path / "o")
    path.write_text(",".join(f"column{n}" for n in range(900)) + "\n")
    assert "and 892 more" in refused("corpus", "csv", path, "--out", tmp_path / "o")
    path.write_text("path,labels," + "y" * 100_000 + ",z\na,b\n")
    assert "line 2 has 2 fields" in refused("corpus", "csv", path, "--out", tmp_path / "o")


def test_a_field_of_a_csv_has_a_bound(tmp_path: Path) -> None:
    """Law: a field over 131,072 characters is refused by its line, not with a traceback."""
    path = tmp_path / "c.csv"
    path.write_text("path,labels\na.wav,dog\nb.wav," + "x" * 131_073 + "\n")
    assert "line 3 has a field of more than 131,072 characters" in refused(
        "corpus", "csv", path, "--out", tmp_path / "o"
    )
    path.write_text('path,labels\na.wav,"' + "x" * 1_000_000 + "\n")
    assert "line 2 has a" in refused("corpus", "csv", path, "--out", tmp_path / "o")
    path.write_text("path,labels\na.wav," + "x" * 100_000 + "\n")
    vocabulary = tmp_path / "v.txt"
    vocabulary.write_text("dog\n")
    refused("corpus", "csv", path, "--vocabulary", vocabulary, "--out", tmp_path / "o")


def test_a_csv_has_a_bound_of_size(tmp_path: Path) -> None:
    """Law: a file of terabytes is not read into memory."""
    with open(tmp_path / "c.csv", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ClipsError, match="1,099,511,627,776 bytes, and a CSV at most"):
        read_csv_file(tmp_path / "c.csv", ["path"], "", "")


def test_json_that_is_nested_without_end_is_a_sentence(tmp_path: Path) -> None:
    """Law: a hundred thousand brackets are no traceback, in the graph of classes and in FSD50K's metadata."""
    (tmp_path / "o.json").write_text("[" * 100_000)
    with pytest.raises(OntologyError, match="is not JSON"):
        Ontology.read(tmp_path / "o.json")
    folder = tmp_path / "FSD50K.metadata"
    folder.mkdir()
    (folder / "dev_clips_info_FSD50K.json").write_text('{"a": ' * 100_000)
    with pytest.raises(ClipsError, match="does not say who uploaded each clip"):
        fsd50k.listed(tmp_path)


def test_an_empty_folder_among_files_does_not_end_the_call(tmp_path: Path) -> None:
    """Law: what can be tagged is; an empty folder and a pattern without a match are told and stay among the files, as
    ones that fail; nothing but such is refused."""
    soundfile.write(tmp_path / "a.wav", np.zeros(1600, dtype=np.int16), 16000)
    (tmp_path / "empty").mkdir()
    sources = [str(tmp_path / each) for each in ("empty", "a.wav", "*.mp3")]
    with pytest.warns(UserWarning, match="a folder without sound files|no file matches") as said:
        assert expand_sources(sources) == sources
    assert [str(each.message).partition(" (")[0] for each in said] == [
        f"{sources[0]}: a folder without sound files",
        f"{sources[2]}: no file matches this pattern",
    ]
    with pytest.raises(SourcesError, match="a folder without sound files"):
        expand_sources([sources[0], sources[2]])
    (tmp_path / "dog").mkdir()
    (tmp_path / "a.wav").rename(tmp_path / "dog" / "a.wav")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from psla.corpora.folder import read_folders

        assert len(read_folders(tmp_path, evaluation_share=0)) == 1
    assert "1 class folders hold no sound file: empty" in str(caught[-1].message)


def test_no_message_is_longer_than_a_few_lines(tmp_path: Path) -> None:
    """Law: the one place where commands say what is wrong shortens what somebody wrote without a bound."""
    assert len(sentence(ValueError("x" * 3_000_000))) < FEW
    assert len(sentence(OSError(2, "No such file", "y" * 3_000_000))) < FEW
    assert sentence(ValueError("short")) == "short"
    (tmp_path / "c.csv").write_text("path,labels,start_s\na.wav,dog," + "9x" * 50_000 + "\n")
    with pytest.raises(ClipsError, match="line 2: start_s is") as found:
        read_csv(tmp_path / "c.csv")
    assert len(str(found.value)) < FEW
    json.dumps(str(found.value))


def options(group: object = app, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, float | None]]:
    """Every option of every command: words of the command, its name, the most that it may be."""
    command = typer.main.get_command(group) if group is app else group
    for parameter in getattr(command, "params", ()):
        yield words, parameter.name or "", getattr(parameter, "max", None)
    for name, each in getattr(command, "commands", {}).items():
        yield from options(each, (*words, name))


def test_processes_and_draws_have_a_bound_in_every_command() -> None:
    """Law: a number by which processes are begun or arrays allocated is refused above its bound, before any work."""
    found = [each for each in options() if each[1] in ("workers", "resamples", "devices")]
    assert len(found) > 5
    assert not [(words, name) for words, name, most in found if most is None]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pack", "clips.parquet", "out", "--shard-mb", "inf"], "--shard-mb"),
        (["pack", "clips.parquet", "out", "--sample-rate", "9" * 30], "no front end hears more"),
        (["pack", "clips.parquet", "out", "--workers", "1000000"], "--workers"),
        (["predict", "model.safetensors", "clips.parquet", "--out", "p.safetensors", "--merge", "1000000000"], "clips"),
        (
            ["predict", "model.safetensors", "clips.parquet", "--out=p.safetensors", "--merge=1", "--shard=1/1"],
            "--shard makes a part",
        ),
        (["tag", "model.safetensors", "a.wav", "--window", "inf"], "window_s must be"),
        (["tag", "model.safetensors", "a.wav", "--window", "nan"], "window_s must be"),
        (["tag", "model.safetensors", "a.wav", "--hop", "1e-9"], "a sample"),
    ],
)
def test_numbers_without_bound_are_refused_in_a_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: whatever the number is, it is refused at once; nothing is made of it."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", noise(16000), 16000)
    rows = [{"clip_id": "a", "source": "a", "path": "a.wav", "split": "train", "labels": ["dog"], "end_s": 1.0}]
    Clips.from_rows(rows, Vocabulary(["dog"])).write("clips.parquet")
    tiny_model_file(tmp_path)
    there = sorted(os.listdir())
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert sorted(os.listdir()) == there


def test_memory_that_is_not_there_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Law: what is asked for beyond the memory ends in one sentence and code 2, not in a traceback."""

    def command() -> None:
        np.ones(1 << 50)

    with pytest.raises(typer.Exit) as ended:
        guarded(command)()
    assert ended.value.exit_code == 2
    assert "not enough memory" in capsys.readouterr().err
