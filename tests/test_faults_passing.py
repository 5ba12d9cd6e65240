"""The law of passing failures: broken is what fails alone and again. A decoder that was killed, a disk that was away
for a moment and descriptors that the caller has closed are no faults of a file, and nobody writes them down as such."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from psla.audio import addresses, patience
from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job, SourceInfo
from psla.audio.probe import Headers
from psla.audio.sound_file import PassingError
from psla.data.clips import Clips
from psla.data.pack.format import PackError
from psla.data.pack.write import pack
from psla.data.vocabulary import Vocabulary
from psla.files import Journal
from psla.tagging.job import TagJob
from psla.tagging.output import RowSettings
from psla.tagging.tagger import Tagger
from psla.training.devices import Runtime
from psla.training.recipe import Recipe
from psla.training.session import TrainingInterrupted, resume, train
from tagging_models import noise, tiny_model, tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 16000


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What one test has seen and waited for is not the next one's."""
    monkeypatch.setattr(patience, "_seen", set())
    monkeypatch.setattr(patience, "_in_vain_s", 0.0)
    (tmp_path / "marks").mkdir()
    monkeypatch.setenv("MARKS", str(tmp_path / "marks"))


def sounds(folder: Path, *names: str, samples: int = 4000) -> list[str]:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        soundfile.write(folder / f"{name}.wav", noise(samples, seed), RATE)
    return [str(folder / f"{name}.wav") for name in names]


@contextmanager
def away(folder: Path, seconds: float, after: float = 0.0) -> Iterator[None]:
    """A disk that vanishes for a time: the folder under another name."""

    def vanish() -> None:
        time.sleep(after)
        folder.rename(folder.with_name("elsewhere"))
        time.sleep(seconds)
        folder.with_name("elsewhere").rename(folder)

    thread = threading.Thread(target=vanish)
    thread.start()
    while not after and folder.exists():
        time.sleep(0.001)
    try:
        yield
    finally:
        thread.join()


def table(paths: list[str], split: str = "train") -> Clips:
    rows = [
        {"clip_id": f"{split}{i}", "source": str(i), "path": path, "split": split, "labels": [("dog", "rain")[i % 2]]}
        for i, path in enumerate(paths)
    ]
    return Clips.from_rows(rows, Vocabulary(["dog", "rain"]))


def test_a_decoder_that_is_killed_once_costs_no_file(tmp_path: Path) -> None:
    """Whole or in blocks, each file gives the samples that it gives undisturbed, though every decoder was killed, one
    of them when it had handed out the first block."""
    paths = sounds(tmp_path / "sounds", "once_a", "b", "once_c", samples=25 * RATE)
    expected = [addresses.read(path, RATE) for path in paths]
    with DecodePool(2, decoder="faulty_decoder:whole") as pool:
        for (_, found), want in zip(pool.map(Job(path, RATE) for path in paths), expected, strict=True):
            assert isinstance(found, np.ndarray)
            assert np.array_equal(found, want)
    for note in (tmp_path / "marks").iterdir():
        note.unlink()
    with DecodePool(2, decoder="faulty_decoder:tag") as pool:
        for path, want in zip(paths, expected, strict=True):
            info, *blocks = pool.stream(path, RATE)
            assert info == SourceInfo(RATE)
            assert np.array_equal(np.concatenate(blocks), want)


def test_what_fails_alone_and_again_is_broken(tmp_path: Path) -> None:
    """A file that kills its decoder each time is tried three times, the last time alone; it is the file's fault then,
    and no other's."""
    paths = sounds(tmp_path / "sounds", "a", "always", "b")
    with DecodePool(2, decoder="faulty_decoder:whole") as pool:
        one, broken, other = (found for _, found in pool.map(Job(path, RATE) for path in paths))
    assert isinstance(one, np.ndarray)
    assert isinstance(other, np.ndarray)
    assert isinstance(broken, AudioError)
    assert not isinstance(broken, PassingError)
    assert broken.reason == "the decoder crashed (SIGKILL)"
    assert (tmp_path / "marks" / "always").read_text() == "..."


@pytest.mark.parametrize("way", ["whole", "blocks", "here"])
def test_a_disk_that_is_away_for_a_moment_costs_no_file(tmp_path: Path, way: str) -> None:
    """While the folder is away nothing fails that was there; in workers and in this process alike."""
    first, second = sounds(tmp_path / "sounds", "a", "b")
    expected = addresses.read(second, RATE)
    addresses.read(first, RATE)
    with DecodePool(1) as pool:

        def read() -> np.ndarray:
            if way == "here":
                return addresses.read(second, RATE)
            if way == "blocks":
                return np.concatenate([each for each in pool.stream(second, RATE) if isinstance(each, np.ndarray)])
            ((_, found),) = pool.map([Job(second, RATE)])
            assert isinstance(found, np.ndarray), found
            return found

        with away(tmp_path / "sounds", 0.5):
            assert np.array_equal(read(), expected)


def test_what_never_was_there_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing in a folder that is there, and a folder that nobody has seen, are told at once, as the
    file's; where waiting is in vain, it ends."""
    (here,) = sounds(tmp_path / "sounds", "a")
    addresses.read(here, RATE)
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: pytest.fail("waited"))
    for path in (tmp_path / "sounds" / "gone.wav", tmp_path / "never" / "a.wav"):
        with pytest.raises(AudioError, match="cannot be opened: No such file") as refusal:
            addresses.read(str(path), RATE)
        assert not isinstance(refusal.value, PassingError)
    monkeypatch.undo()
    monkeypatch.setattr(patience, "WAIT_S", 0.2)
    patience.seen(here)
    (tmp_path / "sounds").rename(tmp_path / "elsewhere")
    with pytest.raises(PassingError, match="its folder was there and is away"):
        addresses.read(here, RATE)


def tag_job() -> TagJob:
    return TagJob(Tagger(tiny_model()), "model", RowSettings(top=2))


def test_a_row_that_failed_in_passing_is_not_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk stays away: its files fail, and are not written down; the same call again, with the disk there, gives
    the undisturbed rows. A file that is broken is written down, and not tried again."""
    paths = sounds(tmp_path / "sounds", "a", "b", samples=RATE)
    (broken := tmp_path / "broken.wav").write_text("words")
    paths.append(str(broken))
    monkeypatch.setattr(patience, "WAIT_S", 0.2)
    with DecodePool(1, decoder="psla.audio.worker:decode_to_tag") as pool:
        expected = list(tag_job().rows(paths, pool))
        job = tag_job()
        keys = {path: job.key(path) for path in paths}
        monkeypatch.setattr(TagJob, "key", lambda self, path: keys[path])
        (tmp_path / "sounds").rename(tmp_path / "elsewhere")
        with Journal(tmp_path / "j.jsonl") as journal:
            rows = list(job.rows(paths, pool, journal))
        assert [row["status"] for row in rows] == ["failed", "failed", "failed"]
        assert [row["path"] for row in Journal.read(tmp_path / "j.jsonl")] == [str(broken)]
        (tmp_path / "elsewhere").rename(tmp_path / "sounds")
        with Journal(tmp_path / "j.jsonl") as journal:
            assert list(job.rows(paths, pool, journal)) == expected


def test_a_header_that_was_away_is_probed_again(tmp_path: Path) -> None:
    """A scan keeps what it has learnt of files: not that one could not be opened, by which nobody knows it."""
    paths = sounds(tmp_path / "sounds", "a", "b")
    stats = [os.stat(path) for path in paths]
    files = pl.DataFrame(
        {"path": paths, "size": [s.st_size for s in stats], "mtime_ns": [s.st_mtime_ns for s in stats]}
    )
    Path(paths[1]).rename(tmp_path / "b.wav")
    faults = Headers(tmp_path / "kept.parquet").probe(files)["fault"].to_list()
    assert faults == [None, "cannot be opened: No such file or directory"]
    (tmp_path / "b.wav").rename(paths[1])
    assert Headers(tmp_path / "kept.parquet").probe(files)["fault"].to_list() == [None, None]


def test_a_pack_does_not_list_what_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk away a pack stops with one sentence; with the disk there the same call makes the pack that an
    undisturbed one makes, and rejects nothing."""
    clips = table(sounds(tmp_path / "sounds", "a", "b", "c"))
    whole = pack(clips, tmp_path / "expected", RATE, workers=1)
    assert whole is not None
    monkeypatch.setattr(patience, "WAIT_S", 0.2)
    (tmp_path / "sounds").rename(tmp_path / "elsewhere")
    with pytest.raises(PackError, match="is away: run the same command again"):
        pack(clips, tmp_path / "pack", RATE, workers=1)
    (tmp_path / "elsewhere").rename(tmp_path / "sounds")
    again = pack(clips, tmp_path / "pack", RATE, workers=1)
    assert again is not None
    assert again.rejected == []
    for name in ("clips.parquet", "waveforms/00000.npy", "pack.json"):
        assert (tmp_path / "pack" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def stop_after(steps: int) -> Callable[[], bool]:
    left = iter(range(steps - 1, -1, -1))
    return lambda: next(left) == 0


def test_a_clip_that_was_read_after_all_is_not_called_rejected(tmp_path: Path) -> None:
    """Clips fail in the first steps of a run, which is stopped; they can be read when it goes on: rejected.csv and
    scores.json are those of what was used, and a clip that stays broken stays in them."""
    paths = sounds(tmp_path / "sounds", *"abcdefgh", samples=RATE // 2)
    good = {path: Path(path).read_bytes() for path in (paths[2], paths[5])}
    for path in (*good, paths[7]):
        Path(path).write_text("words")
    settings = {
        "front_end": {"frames": 64, "mel_bins": 32},
        "backbone": {"name": "efficientnet_lite0", "pretraining": "none"},
        "masking": {"frequency": 12, "time": 16},
        "mixup": {"rate": 0.0},
        "sampling": {"balanced": False},
        "optimizer": {"batch_size": 4, "epochs": 2, "warmup_steps": 1},
        "averaging": {"first_epoch": 1},
    }
    runtime = Runtime(accelerator="cpu")
    with pytest.raises(TrainingInterrupted):
        train(Recipe.from_dict(settings), table(paths), tmp_path / "run", runtime=runtime, stop=stop_after(2))
    listed = (tmp_path / "run" / "rejected.csv").read_text()
    assert all(f"train{number}," in listed for number in (2, 5, 7))
    for path, data in good.items():
        Path(path).write_bytes(data)
    run = resume(tmp_path / "run", runtime=runtime)
    assert list(run.rejected) == ["train7"]
    assert run.scores["rejected_clips"] == 1


@pytest.mark.parametrize("closed", ["2>&-", "0<&- >&- 2>&-"])
def test_closed_descriptors_are_no_fault_of_a_file(tmp_path: Path, closed: str) -> None:
    """Whatever the caller has closed, a file that can be read is tagged, and the answer is where it was asked for."""
    (path,) = sounds(tmp_path / "sounds", "a", samples=RATE)
    model = tiny_model_file(tmp_path)
    line = f'"$0" -m psla tag "$1" "$2" --json --workers 1 --out "$3" {closed}'
    subprocess.run(["bash", "-c", line, sys.executable, str(model), path, tmp_path / "out.json"], check=True)
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["status"] == "tagged"


def test_an_answer_that_nobody_can_see_is_refused(tmp_path: Path) -> None:
    """Standard output is closed and no file is named: one sentence, exit code 2."""
    (path,) = sounds(tmp_path / "sounds", "a", samples=RATE)
    line = '"$0" -m psla tag "$1" "$2" --json --workers 1 --quiet >&-'
    call = ["bash", "-c", line, sys.executable, str(tiny_model_file(tmp_path)), path]
    found = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert found.stderr.startswith("psla: standard output: closed")


JOB = """
import json, sys
from pathlib import Path
import torch
from psla.audio.pool import DecodePool
from psla.files import Journal
from psla.tagging.job import TagJob
from psla.tagging.output import RowSettings
from psla.tagging.tagger import Tagger
from tagging_models import tiny_model

torch.set_num_threads(1)
folder = Path(sys.argv[1])
paths = sorted(map(str, (folder / "sounds").glob("*.wav")))
job = TagJob(Tagger(tiny_model()), "model", RowSettings(top=2))
with DecodePool(2, decoder="faulty_decoder:tag") as pool, Journal(folder / "done.jsonl") as journal:
    for number, row in enumerate(job.rows(paths, pool, journal), start=1):
        print(json.dumps(row), flush=True)
"""


def disturbed_job(tmp_path: Path, count: int) -> None:
    """Every tenth decoder is killed, the disk vanishes for two seconds, and the process is killed twice."""
    paths = sounds(tmp_path / "sounds", *(f"s{number:04d}" for number in range(count)), samples=RATE // 2)
    with DecodePool(2, decoder="psla.audio.worker:decode_to_tag") as pool:
        expected = list(tag_job().rows(paths, pool))
    assert [row["status"] for row in expected] == ["tagged"] * count
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for number, lines in enumerate((count // 4, count // 2, count)):
        call = [sys.executable, "-c", JOB, str(tmp_path)]
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            rows = [json.loads(process.stdout.readline())]
            if number == 1:
                (tmp_path / "sounds").rename(tmp_path / "elsewhere")
                time.sleep(2)
                (tmp_path / "elsewhere").rename(tmp_path / "sounds")
            rows += [json.loads(process.stdout.readline()) for _ in range(lines - 1)]
            if number < 2:
                process.kill()
    assert rows == expected
    kept = {row["path"]: row for row in Journal.read(tmp_path / "done.jsonl")}
    assert all(kept[row["path"]]["classes"] == row["classes"] for row in expected)


def test_a_job_that_is_disturbed_all_the_way_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """Law of the kind as a whole, over 40 files; over 500 below."""
    disturbed_job(tmp_path, 40)


@pytest.mark.soak
def test_a_long_job_that_is_disturbed_all_the_way(tmp_path: Path) -> None:
    """The same over 500 files."""
    disturbed_job(tmp_path, 500)
