"""The law of what is read again: everything that psla reads of its own is checked, whole, before it is used, by one
checksum and one schema each. A damaged file is refused in one sentence that names it, or gives what it gave before;
never anything else."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.pack.format import PackError, read_address
from psla.data.pack.write import pack
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.files import Journal, JournalError
from psla.metrics.predictions import Predictions
from psla.model.file import ModelFileError, load_model, read_header
from psla.model.tensor_file import read_tensors, write_sealed, write_tensors
from psla.sealed import seal_text, write_json
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.tagging.job import KEY, done_rows
from psla.techniques.aggregation import average_weights
from psla.training.devices import Runtime
from psla.training.features import FeatureCacheError, _keep, _kept
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.session import resume, train
from tagging_models import changed_header, tiny_model, tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = Vocabulary(["dog", "rain"])
ROW = {"path": "a.wav", "status": "tagged", "duration_s": 1.0, "windows": 1, "flags": ["short"]}
ROW |= {"classes": [{"id": "/m/0bt9lr", "name": "Dog", "probability": 0.25}]}


def refusal(call: Callable[[], Any], path: Path) -> str:
    """The sentence with which something is refused: one line, not long, with the file's name in it."""
    with pytest.raises(ValueError) as error:
        call()
    said = str(error.value)
    assert path.name in said, said
    assert "\n" not in said
    assert len(said) < 1000
    return said


def clips(count: int = 12) -> Clips:
    rows = [
        {
            "clip_id": f"c{i}",
            "source": str(i),
            "path": f"{i}.wav",
            "split": "train",
            "labels": ["dog"],
            "end_s": i + 1.0,
        }
        for i in range(count)
    ]
    return Clips.from_rows(rows, CLASSES, "tapes")


# --- the model file


def test_a_number_of_the_front_end_is_not_believed(tmp_path: Path) -> None:
    """One digit of `front_end.mean` changes every answer: whoever reads the file refuses it, `psla info` too."""
    path = changed_header(
        tiny_model_file(tmp_path), tmp_path / "m.safetensors", lambda h: h["front_end"].update(mean=-3)
    )
    for reader in (load_model, read_header):
        assert "its header is not the one that was written" in refusal(lambda reader=reader: reader(path), path)
    told = CliRunner().invoke(app, ["info", str(path)])
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)


def test_files_of_version_2_load_to_the_same_bits(tmp_path: Path) -> None:
    """What has no checksum of its header is read as before, and what has one of its numbers is still held to it."""
    path = tiny_model_file(tmp_path)
    old = changed_header(path, tmp_path / "old.safetensors", lambda header: None, older=True)
    new, found = load_model(path), load_model(old)
    assert (found.vocabulary, found.card, found.network.config) == (new.vocabulary, new.card, new.network.config)
    state = new.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.network.state_dict().items())
    data = bytearray(old.read_bytes())
    data[-1000] ^= 1
    old.write_bytes(data)
    refusal(lambda: load_model(old), old)


@pytest.mark.parametrize("names", [[1, 2, 3], "abc", None, [["Dog"], "Rain", "Cat"]])
def test_names_that_are_no_texts(tmp_path: Path, names: object) -> None:
    """In a file of an earlier version, which anyone may have edited."""
    path = tmp_path / "m.safetensors"
    changed_header(tiny_model_file(tmp_path), path, lambda h: h["vocabulary"].update(names=names), older=True)
    for reader in (load_model, read_header):
        refusal(lambda reader=reader: reader(path), path)
    assert CliRunner().invoke(app, ["info", str(path)]).exit_code == 2


def test_a_key_that_is_given_twice(tmp_path: Path) -> None:
    """JSON readers differ in which of two they take: none is."""
    path = tiny_model_file(tmp_path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    raw = data[8 : 8 + length].replace(b'\\"version\\": 2', b'\\"version\\": 2, \\"version\\": 2', 1)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data[8 + length :])
    assert "twice" in refusal(lambda: load_model(path), path)


# --- runs and checkpoints


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    settings = {
        "front_end": {"frames": 64, "mel_bins": 32},
        "backbone": {"name": "efficientnet_lite0", "pretraining": "none"},
        "masking": {"frequency": 12, "time": 16},
        "optimizer": {"batch_size": 4, "epochs": 2, "warmup_steps": 1},
        "averaging": {"first_epoch": 1},
    }
    config = SoundscapeConfig(seconds=0.3, clips=4)
    rows = [*table(config, "train"), *table(config, "evaluation", 100)]
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(Recipe.from_dict(settings), Clips.from_rows(rows, vocabulary()), folder, runtime=Runtime(accelerator="cpu"))
    return folder


def unfinished(finished: Path, folder: Path) -> Path:
    """As the run stood when all epochs were done and the end was not."""
    shutil.copytree(finished, folder / "run")
    (folder / "run" / "scores.json").unlink()
    return folder / "run"


def test_a_flipped_bit_does_not_go_from_a_checkpoint_into_a_model(finished: Path, tmp_path: Path) -> None:
    """`--resume`, `average` and the model that they would make: refused, with the name of the checkpoint."""
    run = unfinished(finished, tmp_path)
    path = run / "checkpoints" / "epoch_001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    refusal(lambda: resume(run, runtime=Runtime(accelerator="cpu")), path)
    both = [path, run / "checkpoints" / "epoch_002.safetensors"]
    refusal(lambda: average_weights(both), path)
    told = CliRunner().invoke(app, ["average", *map(str, both), "--out", str(tmp_path / "a.safetensors")])
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "a.safetensors").exists()
    model = bytearray((finished / "model.safetensors").read_bytes())
    model[-1000] ^= 1
    (tmp_path / "m.safetensors").write_bytes(model)
    refusal(lambda: average_weights([tmp_path / "m.safetensors"]), tmp_path / "m.safetensors")


@pytest.mark.parametrize("length", [0, 30, 150, -1])
def test_a_recipe_that_was_cut_is_refused(finished: Path, tmp_path: Path, length: int) -> None:
    """Of a run's recipe.yaml every part is YAML: a resume that took it would go on with the defaults. One of an earlier
    version, without a checksum, is read while it is whole."""
    run = unfinished(finished, tmp_path)
    path = run / "recipe.yaml"
    for text in (path.read_text(), Run(finished).recipe.to_yaml()):
        path.write_text(text)
        assert Run(run).recipe == Run(finished).recipe
        path.write_text(text[:length])
        refusal(lambda: resume(run, runtime=Runtime(accelerator="cpu")), path)


@pytest.mark.parametrize("name", ["scores.json", "environment.json", "pretraining.json", "log.csv"])
def test_other_files_of_a_run(finished: Path, tmp_path: Path, name: str) -> None:
    """Empty, cut, or something else: each reader says which file it is."""
    shutil.copytree(finished, tmp_path / "run")
    run, path = Run(tmp_path / "run"), tmp_path / "run" / name
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"[]", b"[" * 100_000, b"\xff\xfe" + whole, whole.replace(b"1", b"x")):
        path.write_bytes(data)
        refusal(lambda: run.read_log() if name == "log.csv" else run._json(name), path)


# --- tables, packs, predictions, caches


@pytest.mark.parametrize("stored", ["[]", '{"version": 1}', "[" * 100_000, "null", "", '{"version": 1, "version": 1}'])
def test_metadata_that_is_not_the_expected_object(tmp_path: Path, stored: str) -> None:
    """In a table of clips."""
    path = tmp_path / "c.parquet"
    clips().frame.write_parquet(path, metadata={"psla_clips": stored})
    refusal(lambda: Clips.read(path), path)
    told = CliRunner().invoke(app, ["stats", str(path)])
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)


def test_a_table_without_a_checksum_is_still_read(tmp_path: Path) -> None:
    """One of an earlier version; with flipped bytes it may make polars panic, which ends in a sentence, too."""
    path, header = tmp_path / "c.parquet", {"version": 1, "name": "tapes", "vocabulary": CLASSES.to_dict()}
    clips().frame.write_parquet(path, metadata={"psla_clips": json.dumps(header)})
    assert Clips.read(path) == clips()
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(whole)
        data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        path.write_bytes(data)
        said = ""
        try:
            Clips.read(path)
        except ValueError as error:
            said = str(error)
        assert "\n" not in said


def small_pack(folder: Path) -> Path:
    config = SoundscapeConfig(seconds=0.3, clips=4)
    packed = pack(
        Clips.from_rows(table(config, "train"), vocabulary()), folder / "pack", 16000, workers=1, shard_clips=2
    )
    assert packed is not None
    return packed.folder


def test_swapped_shards(tmp_path: Path) -> None:
    """They are as long as each other, and their clips would have the labels of others."""
    folder = small_pack(tmp_path)
    one, two = folder / "waveforms" / "00000.npy", folder / "waveforms" / "00001.npy"
    assert one.stat().st_size == two.stat().st_size
    source = open_source(Clips.read(folder), 16000)
    assert len(source.read(0))
    one.rename(tmp_path / "x")
    two.rename(one)
    (tmp_path / "x").rename(two)
    with pytest.raises(PackError, match=r"00000\.npy: clip .* is not what was packed"):
        open_source(Clips.read(folder), 16000).read(0)
    address = Clips.read(folder).frame["path"][0]
    with pytest.raises(ValueError, match="is not what was packed"):
        read_address(address, 16000)


@pytest.mark.parametrize(
    ("before", "after"), [('"sample_rate": 16000', '"sample_rate": 32000'), ('"clips"', '"clipz"')]
)
def test_a_pack_json_that_was_edited(tmp_path: Path, before: str, after: str) -> None:
    """At another rate than it was packed at, everything would be heard at half its speed."""
    path = small_pack(tmp_path) / "pack.json"
    path.write_text(path.read_text().replace(before, after))
    refusal(lambda: Clips.read(path.parent), path)


def test_a_table_of_another_pack(tmp_path: Path) -> None:
    """clips.parquet of a pack is the one that its pack.json lists."""
    folder = small_pack(tmp_path)
    table_ = Clips.read(folder / "clips.parquet")
    table_.filter(pl.col("shard") == 0).write(folder / "clips.parquet")
    refusal(lambda: Clips.read(folder), folder / "clips.parquet")


def test_predictions_with_nan_and_flipped(tmp_path: Path) -> None:
    """Refused whether the numbers are none, or others than were written."""
    path = tmp_path / "p.safetensors"
    predictions = Predictions(np.float32([[0.5, 0.25]]), ["a"], CLASSES)
    predictions.probabilities[0, 0] = np.nan
    predictions.save(path)
    refusal(lambda: Predictions.read(path), path)


def test_a_flipped_feature_of_the_cache(tmp_path: Path) -> None:
    """`psla fit` would learn from it."""
    _keep(tmp_path, ["k1", "k2"], {"k1": np.float32([1, 2]), "k2": np.float32([3, 4])})
    (path,) = tmp_path.iterdir()
    assert _kept(tmp_path, {"k2"})["k2"].tolist() == [3, 4]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FeatureCacheError, match=path.name):
        _kept(tmp_path, {"k1"})


@pytest.mark.parametrize(
    "row",
    [
        {"path": "a.wav"},
        {**ROW, KEY: 7},
        {KEY: "k", **ROW, "classes": [{"id": "a"}]},
        {KEY: "k", **ROW, "classes": {"id": "a"}},
        {KEY: "k", **ROW, "probability": 1},
        {KEY: "k", **ROW, "duration_s": "1"},
        {KEY: "k", "path": "a.wav", "status": "failed"},
        {KEY: "k", "path": "a.wav", "status": ["tagged"]},
    ],
)
def test_a_row_of_a_journal_that_is_none(tmp_path: Path, row: dict) -> None:
    """Fields that are missing, unknown or of another type, by their line; in a row of an earlier version, too."""
    path = tmp_path / "j.jsonl"
    path.write_text(json.dumps({KEY: "k0", **ROW}) + "\n" + json.dumps(row) + "\n")
    with Journal(path) as journal:
        assert "line 2" in refusal(lambda: done_rows(journal), path)
    path.unlink()
    with Journal(path) as journal:
        journal.append(row)
    with Journal(path) as journal:
        assert "line 1" in refusal(lambda: done_rows(journal), path)


def test_what_is_no_journal_is_not_touched(tmp_path: Path) -> None:
    """Notes without a line end would be taken for a torn line, and thrown away."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    with pytest.raises(JournalError, match=r"notes\.txt"):
        Journal(path)
    assert path.read_text() == "my notes"


# --- files of nothing, and of something else

READERS: dict[str, Callable[[Path], Any]] = {
    "m.safetensors": load_model,
    "c.parquet": Clips.read,
    "p.safetensors": Predictions.read,
    "epoch_001.safetensors": lambda path: average_weights([path]),
    "e.json": lambda path: __import__("psla.model.ensemble", fromlist=["x"]).load_ensemble(path),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_nothing_and_of_another_kind(tmp_path: Path, name: str) -> None:
    """Empty files, and files of each other kind under the name: one sentence."""
    made = tmp_path / "made"
    made.mkdir()
    tiny_model_file(made).rename(made / "m.safetensors")
    clips().write(made / "c.parquet")
    Predictions(np.float32([[0.5, 0.25]]), ["a"], CLASSES).save(made / "p.safetensors")
    write_sealed(made / "epoch_001.safetensors", {"a": torch.zeros(3)})
    write_json(made / "e.json", {"format": "something"})
    path = tmp_path / name
    for other in (None, *made.iterdir()):
        if name == "epoch_001.safetensors" and other is not None and other.suffix == ".safetensors":
            if other.name != "p.safetensors":
                continue  # weights of a model file are weights
        elif other is not None and other.name == name:
            continue
        path.write_bytes(b"" if other is None else other.read_bytes())
        refusal(lambda: READERS[name](path), path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
        (b"", "is empty"),
        (b'{"error": "not found"}', "is JSON"),
        (b"\x80\x02cos\nsystem\n(S'true'\ntR.", "no"),
    ],
)
def test_what_is_no_checkpoint_is_named_for_what_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    """`psla import` says what the file is, and never how to switch off what keeps a file from running code."""
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    told = CliRunner().invoke(app, ["import", str(path), "--out", str(tmp_path / "m.safetensors")])
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
    assert said in told.stderr
    assert "weights_only" not in told.stderr
    assert "x.pth" in told.stderr


# --- mutations


def mutated(data: bytes, generator: np.random.Generator, head: int) -> bytes:
    """A file with a bit, a byte, a piece changed, gone, doubled or zeroed, or cut; half the time within its head."""
    new = bytearray(data)
    end = min(head, len(data)) if generator.random() < 0.5 else len(data)
    at, count = int(generator.integers(end)), int(generator.integers(1, 40))
    match generator.integers(7):
        case 0:
            new[at] ^= 1 << int(generator.integers(8))
        case 1:
            new[at] = int(generator.integers(256))
        case 2:
            del new[at : at + count]
        case 3:
            new[at:at] = new[at : at + count]
        case 4:
            new[at : at + count] = bytes(len(new[at : at + count]))
        case 5:
            del new[at:]
        case _:
            for place in generator.integers(end, size=count):
                new[place] ^= 1 << int(generator.integers(8))
    return bytes(new)


def made_model(folder: Path) -> tuple[Path, Callable[[Path], Any], int]:
    path = tiny_model_file(folder)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])

    def read(path: Path) -> Any:
        model = load_model(path)
        state = model.network.state_dict()
        numbers = {name: tensor.numpy().tobytes() for name, tensor in state.items()}
        return numbers, model.card, model.vocabulary.to_dict(), model.network.config

    return path, read, 8 + length


def made_checkpoint(folder: Path) -> tuple[Path, Callable[[Path], Any], int]:
    state = {name: tensor for name, tensor in tiny_model().network.state_dict().items() if tensor.numel() < 200}
    path = write_sealed(folder / "epoch_001.safetensors", state)
    return path, lambda path: {n: t.numpy().tobytes() for n, t in average_weights([path]).items()}, 2000


def made_journal(folder: Path) -> tuple[Path, Callable[[Path], Any], int]:
    path = folder / "j.jsonl"
    with Journal(path) as journal:
        journal.append(*({KEY: f"k{i}", **ROW, "path": f"{i}.wav"} for i in range(8)))

    def read(path: Path) -> Any:
        """What a job gives that goes on from it: rows that are not in it are done again."""
        with Journal(path) as journal:
            done = done_rows(journal)
        return [done.get(f"k{i}", {**ROW, "path": f"{i}.wav"}) for i in range(8)]

    return path, read, 300


def made_clips(folder: Path) -> tuple[Path, Callable[[Path], Any], int]:
    clips().write(folder / "c.parquet")
    return (
        folder / "c.parquet",
        lambda path: (lambda c: (c.frame.rows(), c.vocabulary.to_dict(), c.name))(Clips.read(path)),
        99,
    )


def made_recipe(folder: Path) -> tuple[Path, Callable[[Path], Any], int]:
    (folder / "recipe.yaml").write_text(seal_text(Recipe.load("esc50").to_yaml()))
    return folder / "recipe.yaml", lambda path: Run(path.parent).recipe, 200


MAKERS = [made_model, made_checkpoint, made_journal, made_clips, made_recipe]


def no_mutation_changes_anything(folder: Path, maker: Callable, count: int) -> None:
    path, read, head = maker(folder)
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    expected, refused = read(path), 0
    for number in range(count):
        path.write_bytes(data := mutated(whole, generator, head))
        found, said = None, ""
        try:
            found = read(path)
        except (ValueError, FileNotFoundError) as error:
            said = str(error)
        if said:
            refused += 1
            assert path.name in said, (number, said)
            assert "\n" not in said, (number, said)
            assert len(said) < 2000
        else:
            assert found == expected, (number, len(data))
    assert refused > count // 2


@pytest.mark.parametrize("maker", MAKERS)
def test_mutations(tmp_path: Path, maker: Callable) -> None:
    """60 of each kind of file; 1,000 below."""
    no_mutation_changes_anything(tmp_path, maker, 60)


@pytest.mark.soak
@pytest.mark.parametrize("maker", MAKERS)
def test_many_mutations(tmp_path: Path, maker: Callable) -> None:
    """Law of the kind as a whole: a changed file never gives a changed result."""
    no_mutation_changes_anything(tmp_path, maker, 1000)


def test_a_file_of_tensors_by_others_is_read_as_it_is(tmp_path: Path) -> None:
    """What has no checksum is not refused for that."""
    path = write_tensors(tmp_path / "x.safetensors", {"a": torch.arange(3)})
    assert read_tensors(path)["a"].tolist() == [0, 1, 2]
    with pytest.raises(ModelFileError):
        load_model(path)
