"""The law of leftovers: what a process that was killed leaves has an owner that removes it. After any number of kills
and a finished run no file of psla's is there that a run without them does not leave; and a full disk is named, with the
file that it did not take."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file
from typer.testing import CliRunner

from psla import files
from psla.cli import app
from psla.cli.console import sentence
from psla.data.clips import Clips
from psla.download import download
from psla.files import Journal, atomic_write, remove_leftovers, sha256_of
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.tagging.job import EmbeddingFile
from psla.tagging.result import Embedding
from psla.training.recipe import Recipe
from psla.training.state import prune, states
from tagging_models import noise, tiny_model_file

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(os.name != "posix", reason="kills processes, and relies on POSIX locks"),
]
WRITER = """
import sys, time
from psla.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_bytes(bytes(1000))
    print(temporary, flush=True)
    time.sleep(60)
"""


def writer(path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that is in the midst of an atomic write, and its temporary file."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_the_next_writer_of_a_file_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """That, and nothing else: not what a living process is writing, not a file of another name, not the user's."""
    target, users = tmp_path / "a.json", tmp_path / ".0123456789ab.b.json"
    users.write_text("mine")
    (tmp_path / ".notes.a.json").write_text("mine")
    dead, left = writer(target)
    living, busy = writer(target)
    end(dead)
    assert left.exists()
    with atomic_write(target) as temporary:
        temporary.write_text("new")
    assert not left.exists()
    assert busy.exists()
    end(living)
    remove_leftovers(tmp_path, "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [users.name, ".notes.a.json", "a.json"]
    remove_leftovers(tmp_path)  # in a folder that is psla's own
    assert not users.exists()


def test_states_that_a_killed_run_left_are_pruned(tmp_path: Path) -> None:
    """Three states, since the process was killed before it deleted the oldest, and one that is half written."""
    for step in (1, 2, 3):
        (tmp_path / f"state_{step:09d}.safetensors").write_bytes(b"x")
    (tmp_path / ".0123456789ab.state_000000004.safetensors").write_bytes(bytes(100))
    prune(tmp_path)
    assert sorted(path.name[-13:] for path in tmp_path.iterdir()) == ["2.safetensors", "3.safetensors"]
    assert len(states(tmp_path)) == 2


def test_what_a_download_left_at_its_very_end(tmp_path: Path) -> None:
    """Killed when the file had its name and the door and the notes were still there: the next call removes them."""
    path = tmp_path / "weights.bin"
    for name in ("weights.bin", "weights.bin.lock", "weights.bin.part.json"):
        (tmp_path / name).write_bytes(b"")
    assert download("http://127.0.0.1:9/weights.bin", path, sha256_of(path)) == path
    assert [each.name for each in tmp_path.iterdir()] == ["weights.bin"]


# --- every command


def corpus(folder: Path) -> list[str]:
    """Sounds, a table of clips, a recipe and a model in a folder."""
    (folder / "sounds").mkdir(parents=True)
    for seed in range(6):
        soundfile.write(folder / "sounds" / f"{seed}.wav", noise(8000, seed), 16000)
    config = SoundscapeConfig(seconds=0.3, clips=8)
    rows = [*table(config, "train"), *table(config, "evaluation", 100)]
    Clips.from_rows(rows, vocabulary()).write(folder / "clips.parquet")
    settings = {
        "front_end": {"frames": 64, "mel_bins": 32},
        "backbone": {"name": "efficientnet_lite0", "pretraining": "none"},
        "masking": {"frequency": 12, "time": 16},
        "optimizer": {"batch_size": 4, "epochs": 2, "warmup_steps": 1},
        "averaging": {"first_epoch": 1},
    }
    (folder / "recipe.yaml").write_text(Recipe.from_dict(settings).to_yaml())
    tiny_model_file(folder)
    return sorted(map(str, (folder / "sounds").iterdir()))


def commands(folder: Path) -> dict[str, list[str]]:
    """Commands that write, by name, as they are called in the folder."""
    files, out = corpus(folder), folder / "out"
    out.mkdir()
    model, clips = str(folder / "model.safetensors"), str(folder / "clips.parquet")
    tag = ["tag", model, *files, "--workers", "1"]
    train = ["train", str(folder / "recipe.yaml"), "--clips", clips, "--out", f"{out}/run", "--accelerator", "cpu"]
    return {
        "tag": [*tag, "--json", "--out", f"{out}/rows.json", "--journal", f"{out}/rows.jsonl"],
        "train": train,
        "pack": ["pack", clips, f"{out}/pack", "--sample-rate", "16000", "--workers", "1"],
        "predict": ["predict", model, clips, "--out", f"{out}/p.safetensors"],
        "embeddings": [*tag, "--embeddings", f"{out}/e.safetensors", "--out", f"{out}/rows.txt"],
        "corpus": ["corpus", "soundscape", "--out", f"{out}/c.parquet", "--clips", "50"],
    }


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def kill_and_finish(tmp_path: Path, name: str, kills: int) -> None:
    """A command is killed at so many moments, spread over the time that it takes, then let finish; its files are those
    of one that was left alone."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PSLA_CACHE": str(tmp_path / "cache")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "psla", *commands(undisturbed)[name]], check=True, **quiet)
    seconds = time.monotonic() - began
    call = commands(disturbed)[name]
    for number in range(kills):
        process = subprocess.Popen([sys.executable, "-m", "psla", *_again(call, disturbed)], **quiet)
        time.sleep(seconds * (number + 1) / (kills + 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, "-m", "psla", *_again(call, disturbed)], check=True, **quiet)
    assert files_of(disturbed) == files_of(undisturbed)
    assert {path.name for path in tmp_path.iterdir()} <= {"undisturbed", "disturbed", "cache"}


def _again(call: list[str], folder: Path) -> list[str]:
    begun = call[0] == "train" and (folder / "out" / "run" / "recipe.yaml").exists()
    return ["train", "--resume", str(folder / "out" / "run")] if begun else call


@pytest.mark.parametrize("name", ["pack"])
def test_after_kills_and_a_finished_run_nothing_else_is_left(tmp_path: Path, name: str) -> None:
    """Three kills of one command; twenty of each below."""
    kill_and_finish(tmp_path, name, 3)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["tag", "train", "pack", "predict", "embeddings", "corpus"])
def test_after_many_kills_of_each_command(tmp_path: Path, name: str) -> None:
    """Law of the kind as a whole."""
    kill_and_finish(tmp_path, name, 20)


# --- full disks


def test_a_full_disk_is_named_with_its_file(tmp_path: Path) -> None:
    """Whoever writes, whoever reports it: the sentence has the name that the user knows, and what was there stays."""
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(OSError) as error, atomic_write(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert sentence(error.value) == f"{target}: No space left on device"
    assert target.read_text() == "old"


# No file may grow beyond so many bytes: what a full disk answers, without one.
LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
sys.argv[0] = "psla"
runpy.run_module("psla", run_name="__main__")
"""


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_disk_without_room_for_embeddings(tmp_path: Path, suffix: str) -> None:
    """One sentence with the name of the file, exit code 2, nothing half written."""
    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "a.wav", noise(8000), 16000)
    out = tmp_path / f"e{suffix}"
    call = ["tag", str(tiny_model_file(tmp_path)), str(tmp_path / "sounds" / "a.wav"), "--embeddings", str(out)]
    command = [sys.executable, "-c", LIMITED, *call, "--workers", "1", "--quiet"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert found.stderr.count("\n") == 1
    assert out.name in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "sounds"]


def test_embeddings_that_the_library_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of the format wraps what the system said in an error of its own."""
    from safetensors import SafetensorError

    from psla.tagging import job

    def full(arrays: dict, path: Path) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(job, "save_file", full)
    kept = EmbeddingFile(tmp_path / "e.safetensors")
    kept.add("a.wav", Embedding(np.zeros(4, np.float32), np.zeros((2, 4), np.float32)))
    with pytest.raises(OSError, match=r"e\.safetensors cannot be written: .*No space left"):
        kept.save()


def test_a_journal_on_a_full_disk_keeps_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the journal; what was written of the row is taken back; the next row is a line of its own."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append({"a": 1})
        monkeypatch.setattr(os, "fsync", _full)
        with pytest.raises(OSError) as error:
            journal.append({"b": 2})
        monkeypatch.undo()
        assert sentence(error.value) == f"{path}: No space left on device"
        journal.append({"c": 3})
    assert Journal.read(path) == [{"a": 1}, {"c": 3}]


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_command_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the user sees it."""
    corpus(tmp_path)
    monkeypatch.setattr(os, "fsync", _full)
    out = tmp_path / "new.parquet"
    told = CliRunner().invoke(app, ["corpus", "soundscape", "--out", str(out), "--clips", "4"])
    assert (told.exit_code, told.stderr) == (2, f"psla: {out}: No space left on device\n")
    assert not list(tmp_path.glob(".*"))


def test_a_library_that_renames_a_file_to_ours(tmp_path: Path) -> None:
    """Law: what safetensors writes and renames is held, so that nobody takes it for a leftover while it goes to the
    disk, and whoever may read other files of psla may read models and embeddings."""
    tensors = {"a": np.zeros(3, np.float32)}
    seen = []
    before = files.rename_synced

    def another_writer_comes(temporary: Path, target: Path) -> None:
        remove_leftovers(tmp_path)
        seen.append(temporary.exists())
        before(temporary, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "rename_synced", another_writer_comes)
        with atomic_write(tmp_path / "a.safetensors") as temporary:
            save_file(tensors, temporary)
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("as others are")
    assert seen == [True]
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.txt").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
def test_a_table_on_a_full_disk(tmp_path: Path) -> None:
    """Law: polars wraps what the system said in an error of its own: it is an OSError with the name of the table."""
    code = (
        "import resource, signal, sys\nfrom psla.data.clips import Clips\n"
        "from psla.data.vocabulary import Vocabulary\n"
        "rows = [{'clip_id': 'a', 'source': 'a', 'path': 'a.wav', 'split': 'train', 'labels': ['dog'], 'end_s': 1.0}]\n"
        "clips = Clips.from_rows(rows, Vocabulary(['dog']))\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n    clips.write(sys.argv[1])\n"
        "except OSError as error:\n    print(error.filename, error.strerror)\n"
    )
    out = tmp_path / "clips.parquet"
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{out} File too large"
    assert not os.listdir(tmp_path)
