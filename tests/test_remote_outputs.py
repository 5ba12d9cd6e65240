"""Laws of results at addresses of storage: what a command writes there is what it writes here, sent when it is whole.

fsspec's memory, and moto as S3. Every command of the tree is asked for every path that it takes.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from psla import remote
from psla.cli import app, predictions
from psla.cli.addresses import forget, on_this_machine
from psla.cli.places import Reads, Updates, Writes
from psla.data.clips import Clips
from psla.weights.catalogue import load_any, resolve
from test_faults_outputs import COMMANDS, OUTPUTS, digest, marks, of, typed, with_output
from test_remote import place, s3, there
from test_remote_refused import ALLOWED, examine, known, moto, user
from test_spread import MODEL, RATE, sounds, table

pytestmark = pytest.mark.usefixtures("one_thread")
__all__ = ["moto", "place", "s3", "sounds"]

BY_THEMSELVES = {  # parameters whose command reads or writes addresses: tables of clips, packs, models, live sound
    ("predict",): {"model", "clips"},
    ("calibrate",): {"model", "clips"},
    ("evaluate",): {"clips"},
    ("ensemble",): {"clips"},
    ("compare",): {"clips"},
    ("enhance",): {"clips"},
    ("stats",): {"clips"},
    ("train",): {"clips", "set_", "init"},
    ("teach",): {"clips", "set_"},
    ("lab", "run"): {"clips", "set_"},
    ("lab", "cross-validate"): {"set_"},
    ("tag",): {"words", "model"},
    ("listen",): {"words", "model"},
    ("info",): {"model"},
    ("serve",): {"model"},
    ("export",): {"model", "clips"},
    ("fit",): {"data", "model"},
    ("find",): {"words"},
    ("average",): {"sweep", "clips"},
    ("pack",): {"clips", "out"},
    ("corpus", "soundscape"): {"events"},
    ("corpus", "merge"): {"tables"},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files of this test; the test's own folder is the present one, and has the cache."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield tmp_path / "temporary"
    remote.remove("memory://law")


def call(*words: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == code, done.output
    assert "psla-out-" not in done.output or "is kept" in done.output
    return done


def labelled(sounds: Path) -> Clips:
    """Clips in the classes of the model."""
    frame = table(sounds).frame
    return Clips.from_rows([{**row, "labels": ["dog"]} for row in frame.to_dicts()], load_any(MODEL).vocabulary, "toy")


def test_predictions_and_scores_there_are_those_here(place: str, sounds: Path, tmp_path: Path, here: Path) -> None:
    """Predict and evaluate with everything at addresses: byte for byte the local files, the same words but for the
    names, and nothing else there or here."""
    labelled(sounds).write(tmp_path / "c.parquet")
    remote.write(f"{place}/c.parquet", tmp_path / "c.parquet")
    told = []
    for base in (tmp_path, place):
        done = call("predict", MODEL, f"{base}/c.parquet", "--out", f"{base}/p.safetensors")
        more = call(
            *("evaluate", f"{base}/p.safetensors", "--clips", f"{base}/c.parquet", "--out", f"{base}/s.json", "--json")
        )
        assert f"{base}/p.safetensors: 5 clips" in done.stdout
        told.append((done.output + more.output).replace(str(base), "BASE"))
    assert told[0] == told[1]
    names = ("c.parquet", "p.safetensors", "s.json")
    assert there(place) == {name: (tmp_path / name).read_bytes() for name in names}
    again = call("predict", MODEL, f"{place}/c.parquet", "--out", f"{place}/p.safetensors")  # over its own kind
    assert f"{place}/p.safetensors" in again.stdout
    one, two = f"{place}/p.safetensors", f"{place}/q.safetensors"
    call("predict", MODEL, f"{place}/c.parquet", "--out", two, "--half")
    averaged = call("ensemble", one, two, "--out", f"{place}/e.safetensors", "--json")
    assert json.loads(averaged.stdout)["members"] == [one, two]
    compared = call("compare", one, two, "--clips", f"{place}/c.parquet", "--resamples", 5)
    assert "mAP of A" in compared.stdout
    assert not list(here.iterdir())


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that are written, one after the other."""
    names: list[str] = []
    original = remote.write

    def write(address: str, source: bytes | Path) -> None:
        names.append(address.rpartition("/")[2])
        original(address, source)

    monkeypatch.setattr(remote, "write", write)
    return names


def recordings() -> str:
    """A folder of sounds of two classes."""
    generator = np.random.default_rng(0)
    for number in range(24):
        folder = Path("sounds") / ("dog", "rain")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{number}.wav", generator.normal(0, 0.1, RATE // 2), RATE)
    return "sounds"


def test_models_and_tables_there(place: str, here: Path) -> None:
    """A table of corpus and a model of average are the local ones and are read back from there, and name neither a
    temporary folder nor the cache."""
    recordings()
    model = resolve(MODEL)
    remote.write(f"{place}/a.safetensors", model)
    remote.write("memory://law/classes.txt", b"dog\nrain\n")
    for base in (".", place):
        line = ("corpus", "folder", "sounds", "--vocabulary", "memory://law/classes.txt")
        call(*line, "--out", f"{base}/c.parquet")
        call("average", f"{place}/a.safetensors", model, "--out", f"{base}/b.safetensors")
    assert Clips.read(f"{place}/c.parquet").frame.equals(Clips.read("c.parquet").frame)
    assert len(load_any(f"{place}/b.safetensors").vocabulary) == 10
    found = there(place)
    assert set(found) == {"c.parquet", "a.safetensors", "b.safetensors"}
    assert found["b.safetensors"] == Path("b.safetensors").read_bytes()
    assert not [name for name, data in found.items() if b"psla-out-" in data or b"/cache/" in data]
    assert not list(here.iterdir())


def test_what_stands_beside_a_file_is_sent_before_it(here: Path, order: list[str]) -> None:
    """Law: the file itself comes last, so that where it is, all is there; a model that was calibrated there is one."""
    Path("classes.txt").write_text("dog\nrain\n")
    call("corpus", "folder", recordings(), "--vocabulary", "classes.txt", "--out", "c.parquet")
    call("calibrate", MODEL, "c.parquet", "--out", "memory://law/m.safetensors", "--plot", "memory://law/m.png")
    assert order == [*("m.safetensors.begun", "m.png.begun"), *("m.calibration.json", "m.safetensors", "m.png")]
    assert load_any("memory://law/m.safetensors").card.calibration
    assert set(there("memory://law")) == {"m.calibration.json", "m.safetensors", "m.png"}
    assert not list(here.iterdir())


@pytest.mark.slow
def test_a_model_of_own_sounds_there(here: Path, order: list[str]) -> None:
    """What `psla fit` makes is sent with its report before it and its page after it, and is a model there."""
    line = (
        "fit",
        recordings(),
        "--from",
        MODEL,
        "--out",
        "memory://law/m.safetensors",
        "--html",
        "memory://law/m.html",
    )
    assert "memory://law/m.safetensors: 2 classes" in call(*line).stdout
    assert order[2:] == ["m.fit.json", "m.safetensors", "m.html"]
    assert [each.name for each in load_any("memory://law/m.safetensors").vocabulary] == ["dog", "rain"]
    assert not list(here.iterdir())


ABROAD = [
    *((words, name) for words, name in OUTPUTS),
    *((words, name) for words, function in COMMANDS.items() for name in of(function, Updates)),
    *((words, name) for words, function in COMMANDS.items() for name in of(function, Reads)),
]
NOTES = b"do not forget\n"


def mark_of(words: tuple[str, ...], name: str) -> Any:
    return next(each for each in marks(COMMANDS[words])[name] if isinstance(each, Reads | Updates | Writes))


@pytest.mark.parametrize(("words", "name"), ABROAD, ids=lambda each: each if isinstance(each, str) else " ".join(each))
def test_every_path_of_every_command_has_a_decision(words: tuple[str, ...], name: str, tmp_path: Path) -> None:
    """Law: an address is handled by the command itself (those are listed above); or fetched; or sent, and refused where
    something else stands; or refused in one sentence. After a refusal nothing is new here or there."""
    mark = mark_of(words, name)
    assert getattr(mark, "addresses", False) == (name in BY_THEMSELVES.get(words, set()))
    if getattr(mark, "addresses", False):
        return
    remote.write("memory://law/notes.txt", NOTES)
    is_file = isinstance(mark, Writes) and mark.kind not in ("", "journal")
    address = "memory://law/notes.txt" if is_file else "memory://law/absent"
    for each, sentence in (
        (address, "is there already and is not " if is_file else "(here|no such object)"),
        ("az://box/notes.txt", "an address begins with|this address is of no storage|read and added to"),
    ):
        done = with_output(words, name, each, tmp_path)  # type: ignore[arg-type]
        assert done.exit_code == 2, done.output  # type: ignore[attr-defined]
        said = done.stderr  # type: ignore[attr-defined]
        assert each in said
        assert said.count("\n") == 1
        assert re.search(sentence, said), said
        made = [path for path in digest(tmp_path) if not path.endswith(".new") and "/cache" not in path]
        assert made == [str(tmp_path / "temporary")]
        assert there("memory://law") == {"notes.txt": NOTES}


def given_folders(words: tuple[str, ...]) -> list[str]:
    return [name for name in of(COMMANDS[words], Writes) if mark_of(words, name).folder]


def test_what_takes_folders_alone_is_known() -> None:
    """Law: a folder, a journal, what is added to, ensembles, parts and many label files are refused by that rule."""
    folders = {(words, name) for words in COMMANDS for name in given_folders(words)}
    assert {(("train",), "out"), (("fit",), "cache"), (("find",), "cache"), (("lab", "run"), "out")} <= folders
    address = "memory://law/absent.safetensors"
    Path("a.wav").write_bytes(b"RIFF")
    Path("b.wav").write_bytes(b"RIFF")
    for line, rule in (
        (("find", "a.wav", "--near-duplicates", "--cache", address), "a folder is written here"),
        (("fit", "x", "--out", "m.safetensors", "--cache", address), "a folder is written here"),
        (("tag", "a.wav", "--journal", address), "a journal grows line by line"),
        (("tag", "a.wav", "--out", "memory://law/folder"), "a folder is written here"),
        (("tag", "a.wav", "b.wav", "--events", "--format", "raven", "--out", address), "a folder of 2 files"),
        (("train", "--resume", address), "this folder is read and added to"),
        (("ensemble", "a.safetensors", "--out", "memory://law/e.json"), "an ensemble has its members beside it"),
        (("predict", MODEL, "c", "--out", address, "--shard", "1/2"), "with --shard further files are kept beside"),
        (("predict", MODEL, "c", "--out", address, "--merge", "2"), "with --merge further files are kept beside"),
        (("predict", MODEL, "c", "--out", address, "--cluster", "ray"), "with --cluster further files are kept"),
        (("corpus", "soundscape", "--events", "c", "--out", "memory://law/c.parquet"), "with --events further files"),
        (("corpus", "csv", "memory://law/c.csv"), "this is read from this machine only"),
        (("lab", "select", "x", "--out", "y", "--candidates", "esc50,memory://law/r.yaml"), "from this machine only"),
        (("predict", MODEL, "c", "--out", "https://127.0.0.1/p.safetensors"), "this address can only be read"),
        (("predict", MODEL, "c", "--out", "memory:/law/" + "n" * 250), "a name of more than"),
    ):
        done = call(*line, code=2)
        assert rule in done.stderr
        assert "memory://law" in done.stderr or "https://" in done.stderr
        assert not there("memory://law")
    assert sorted(path.name for path in Path().iterdir()) == ["a.wav", "b.wav", "temporary"]


def test_another_kind_stays(place: str, sounds: Path, here: Path) -> None:
    """What is of another kind, also where something is written beside, and what is a folder, is refused in the words
    of a local file and unchanged; an object without bytes is written."""
    labelled(sounds).write("c.parquet")
    remote.write(f"{place}/p.safetensors", NOTES)
    Path("p.safetensors").write_bytes(NOTES)
    one, two = (
        call("predict", MODEL, "c.parquet", "--out", f"{base}p.safetensors", code=2).stderr
        for base in ("", f"{place}/")
    )
    assert two.replace(f"{place}/", "") == one
    remote.write(f"{place}/m.calibration.json", NOTES)
    done = call("calibrate", MODEL, "c.parquet", "--out", f"{place}/m.safetensors", code=2)
    assert f"--out {place}/m.calibration.json is there already and is not JSON" in done.stderr
    done = call("predict", MODEL, "c.parquet", "--out", place, code=2)
    assert f"{place} is a folder; give --out the name of a file" in done.stderr
    assert there(place) == {"p.safetensors": NOTES, "m.calibration.json": NOTES}
    remote.write(f"{place}/p.safetensors", b"")
    call("predict", MODEL, "c.parquet", "--out", f"{place}/p.safetensors")
    assert len(there(place)["p.safetensors"]) > len(NOTES)
    assert not list(here.iterdir())


def test_no_input_is_written_over_there(sounds: Path) -> None:
    """Law: an address that is read, and one that is written twice, is refused, whether it was given with its slashes
    or not."""
    labelled(sounds).write("c.parquet")
    remote.write("memory://law/c.parquet", Path("c.parquet"))
    before = there("memory://law")
    for line in (
        ("corpus", "merge", "memory://law/c.parquet", "--out", "memory:///law/c.parquet"),
        ("calibrate", "memory://law/m.safetensors", "c.parquet", "--out", "memory://law/m.safetensors"),
        ("evaluate", "memory://law/p.safetensors", "--clips", "c.parquet", "--out", "memory:/law/p.safetensors"),
    ):
        assert "is an input of this command" in call(*line, code=2).stderr
    done = call("tag", "a.wav", "--out", "memory://law/t.html", "--html", "memory://law/t.html", code=2)
    assert "give each a place of its own" in done.stderr
    assert there("memory://law") == before


def no_work(*arguments: object) -> None:
    raise AssertionError("the work was begun")


def test_whoever_is_refused_is_told_before_any_work(
    moto: str, sounds: Path, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong secret, a user without the right, a bucket that is not there and PSLA_OFFLINE: one sentence, code 2, no
    work, nothing here or there; the right user's call comes to the local file."""
    labelled(sounds).write("c.parquet")
    owner, stranger = user(moto, "writer", ALLOWED), user(moto, "reader", None)
    address = "s3://bucket/outputs/p.safetensors"
    before = digest(tmp_path)

    def refused(sentence: str, to: str = address) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(predictions, "_predicted", no_work)
            done = call("predict", MODEL, "c.parquet", "--out", to, code=2)
        assert to in done.stderr
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
        assert digest(tmp_path) == before

    examine(moto, "0")
    try:
        for keys in ((owner[0], "wrong"), stranger):
            known(monkeypatch, moto, keys)
            refused("access is refused")
        known(monkeypatch, moto, owner)
        refused("cannot be written", "s3://not-there/p.safetensors")
        with monkeypatch.context() as patch:
            patch.setenv("PSLA_OFFLINE", "1")
            refused("no server is asked while PSLA_OFFLINE is set")
        assert not there("s3://bucket/outputs")
        call("predict", MODEL, "c.parquet", "--out", address)
        call("predict", MODEL, "c.parquet", "--out", "p.safetensors")
        assert there("s3://bucket/outputs") == {"p.safetensors": Path("p.safetensors").read_bytes()}
    finally:
        examine(moto, "inf")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(5, "no more"), 2, "the storage fails .*no more.*; "),
        (PermissionError("expelled"), 2, "access is refused .expelled.; check the credentials and the bucket; "),
        (KeyboardInterrupt(), 130, "interrupted; "),
    ],
)
def test_a_sending_that_fails_loses_nothing(
    error: BaseException, code: int, words: str, sounds: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made stays on this machine, and one sentence says where, and where it should go."""
    import fsspec

    labelled(sounds).write("c.parquet")
    call("predict", MODEL, "c.parquet", "--out", "p.safetensors")

    def fail(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(fsspec.filesystem("memory"), "put_file", fail)  # the small object is no file
    done = call("predict", MODEL, "c.parquet", "--out", "memory://law/p.safetensors", code=code)
    (kept,) = (path for path in here.rglob("*") if path.is_file())
    assert kept.read_bytes() == Path("p.safetensors").read_bytes()
    said = done.stderr.splitlines()[-1]
    assert re.search(words, said)
    assert said.endswith(f"{kept} is kept: copy it to memory://law/p.safetensors")
    assert not there("memory://law")


def test_a_failed_or_interrupted_command_sends_nothing(
    sounds: Path, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before stays, nothing is new here or there, and what is said of it is so."""
    labelled(sounds).write("c.parquet")
    address = "memory://law/p.safetensors"
    call("predict", MODEL, "c.parquet", "--out", address)
    before, local = there("memory://law"), digest(tmp_path)

    for failure, code, sentence in (
        (KeyboardInterrupt(), 130, "psla: interrupted; no result was written\n"),
        (ValueError("no"), 2, "psla: no\n"),
    ):

        def half(model: object, clips: object, out: Path, *more: object, error: BaseException = failure) -> None:
            out.write_bytes(b"half")
            raise error

        monkeypatch.setattr(predictions, "_predicted", half)
        done = call("predict", MODEL, "c.parquet", "--out", address, code=code)
        assert done.stderr == sentence
        assert there("memory://law") == before
        assert digest(tmp_path) == local


def test_rows_of_a_job_that_failed_in_part_are_sent(sounds: Path, here: Path) -> None:
    """`psla tag` that ends with 1, because a file could not be read, has done its work: rows, page and picture of the
    others are there."""
    done = call(
        *("tag", MODEL, sounds / "a.wav", sounds / "gone.wav", "--json", "--out", "memory://law/t.json"),
        *("--html", "memory://law/t.html", "--embeddings", "memory://law/e.npz"),
        code=1,
    )
    assert "gone.wav" in done.stderr
    found = there("memory://law")
    assert set(found) == {"t.json", "t.html", "e.npz"}
    assert [row["status"] for row in json.loads(found["t.json"])] == ["tagged", "failed"]
    assert not list(here.iterdir())


def test_a_reader_that_has_enough_loses_no_result(here: Path) -> None:
    """Law: what was written before the answer could not be printed (`| head -0`) is sent, as it stays here."""
    given = {"predictions": Path("p"), "clips": Path("c"), "out": Path("memory:/law/s.json")}

    def print_into_nothing() -> None:
        with on_this_machine(COMMANDS["evaluate",], given) as moved:  # type: ignore[arg-type]
            moved["out"].write_bytes(b"{}")
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        print_into_nothing()
    forget()
    assert there("memory://law") == {"s.json": b"{}"}
    assert not list(here.iterdir())


def test_an_input_that_is_not_there_is_said_by_its_address(tmp_path: Path) -> None:
    """Law: of an object that is missing or a folder the address is said, not a path of the cache."""
    remote.write("memory://law/run/model.safetensors", NOTES)
    done = call("evaluate", "memory://law/gone.safetensors", "--clips", "c", code=2)
    assert done.stderr.startswith("psla: memory://law/gone.safetensors: there is no such object")
    done = call("average", "memory://law/run", "--out", "m.safetensors", code=2)
    assert "CHECKPOINTS memory://law/run is a folder; copy it here" in done.stderr
    done = call("average", "memory://law/run/model.safetensors", "--out", "m.safetensors", code=2)
    assert "memory://law/run/model.safetensors" in done.stderr
    assert str(tmp_path) not in done.stderr


def test_typed_calls_reach_every_parameter() -> None:
    """The calls above give each parameter a value: none is left out of the law by how it is declared."""
    for words, name in ABROAD:
        assert name in inspect.signature(COMMANDS[words]).parameters
        assert typed(COMMANDS[words], {name: "x"})[-1] == "x"
