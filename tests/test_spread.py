"""Laws of jobs that are spread: whatever does the tasks, and however often the job is broken off, the same bytes come.

`Here` does the tasks in this process; Ray does them in `test_cluster.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import test_lab_run as lab_tests
from psla.audio.pool import decode_pool
from psla.cli import app
from psla.data.clips import Clips
from psla.data.pack.write import Progress, pack
from psla.data.vocabulary import Vocabulary
from psla.files import Journal, sha256_of
from psla.metrics.parts import part_path
from psla.spread import Ended, Here, Link, Task, Watch, in_turn
from psla.tagging.job import TagJob, TagTask, tag_apart
from psla.tagging.output import RowSettings
from psla.tagging.predicting import GONE, PredictJob
from psla.tagging.tagger import load
from psla.weights.catalogue import resolve

MODEL = "esc10-lite0"
RATE = 16000


class Broken(Here):
    """Gives up after so many tasks, as a driver that is killed."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def ended(self, watch: Watch) -> Ended:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().ended(watch)


class Backwards(Here):
    """Does first what was begun last."""

    room = 3

    def ended(self, watch: Watch) -> Ended:
        self._begun.reverse()
        found = super().ended(watch)
        self._begun.reverse()
        return found


class Away(Here):
    """Its disk is away: every file fails, for the moment."""

    def ended(self, watch: Watch) -> Ended:
        found = super().ended(watch)
        failed = {"status": "failed", "error": "away"}
        return Ended(found.task, [({**failed, "path": row["path"]}, True) for row, _ in found.result])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sound files, one of which is none."""
    folder = tmp_path_factory.mktemp("sounds")
    generator = np.random.default_rng(0)
    for name in "abcde":
        soundfile.write(folder / f"{name}.wav", generator.normal(0, 0.1, RATE // 2), RATE)
    (folder / "f.wav").write_bytes(b"nothing")
    return folder


def table(folder: Path) -> Clips:
    row = {"split": "evaluation", "labels": ["dog"]}
    rows = [row | {"clip_id": p.stem, "source": p.stem, "path": str(p)} for p in sorted(folder.glob("*.wav"))]
    return Clips.from_rows(rows, Vocabulary(["dog"]), "sounds")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def double(number: int, link: Link) -> int:
    if number == 13:
        raise ValueError("thirteen")
    link.tell(number)
    return 2 * number


def test_tasks_are_taken_as_there_is_room_and_each_once() -> None:
    """No more tasks are taken from the iterator than there is room for; each comes out once, whatever the order."""
    taken: list[int] = []
    told: dict[str, int] = {}

    def tasks() -> Iterator[Task]:
        for number in range(8):
            taken.append(number)
            yield Task(f"task {number}", double, (number,))

    found = {}
    for count, (task, result) in enumerate(in_turn(Backwards(), tasks(), Watch(told.__setitem__)), start=1):
        assert len(taken) <= count + 3
        found[task.name] = result
    assert found == {f"task {number}": 2 * number for number in range(8)}
    assert told == {f"task {number}": number for number in range(8)}


def test_what_a_task_raises_is_raised_and_the_others_are_called_off() -> None:
    """The error of a task comes out as it was raised; nothing is left begun."""
    spread = Backwards()
    with pytest.raises(ValueError, match="thirteen"):
        list(in_turn(spread, [Task(f"{number}", double, (number,)) for number in (1, 13, 2, 3)]))
    with pytest.raises(LookupError):
        spread.ended(Watch())


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_pack_in_tasks(broken: int, sounds: Path, tmp_path: Path) -> None:
    """A pack whose shards are tasks is that of one process; begun as tasks it goes on without, and the reverse."""
    clips = table(sounds)
    pack(clips, tmp_path / "one", RATE, workers=1, shard_clips=2)
    with pytest.raises(KeyboardInterrupt):
        pack(clips, tmp_path / "broken", RATE, workers=1, shard_clips=2, spread=Broken(broken))
    states: list[Progress] = []
    made = pack(
        clips, tmp_path / "broken", RATE, workers=1, shard_clips=2, progress=states.append,
        spread=None if broken == 1 else Backwards(),
    )  # fmt: skip
    assert made is not None
    assert (states[0].resumed, states[-1].done) == (2 * broken, 6)
    assert contents(tmp_path / "broken") == contents(tmp_path / "one")


def job(clips: Clips, out: Path, **more: Any) -> PredictJob:
    return PredictJob(MODEL, sha256_of(resolve(MODEL)), clips, out, "evaluation", **more)


def test_predictions_in_tasks(sounds: Path, tmp_path: Path) -> None:
    """Predictions in parts are those of `psla predict` to the byte; parts that are there are kept."""
    table(sounds).write(tmp_path / "c.parquet")
    clips = Clips.read(tmp_path / "c.parquet")
    command = ["predict", MODEL, str(tmp_path / "c.parquet"), "--split", "evaluation", "--out"]
    assert CliRunner().invoke(app, [*command, str(tmp_path / "one.safetensors")]).exit_code == 0
    expected = (tmp_path / "one.safetensors").read_bytes()

    out, told = tmp_path / "many.safetensors", []
    with pytest.raises(KeyboardInterrupt):
        job(clips, out).predict(Broken(1), part_clips=2)
    assert part_path(out, (1, 3)).exists()
    written = part_path(out, (1, 3)).stat().st_mtime_ns
    shard = CliRunner().invoke(app, [*command, str(out), "--shard", "2/3"])
    assert shard.exit_code == 0, shard.output
    found = job(clips, out).predict(Backwards(), told.append, part_clips=5)  # the parts that are there count
    assert out.read_bytes() == expected
    assert sum(told) == 6
    assert list(found.rejected) == ["f"]
    assert not list(tmp_path.glob("many.*of*"))
    assert written

    with pytest.raises(KeyboardInterrupt):
        job(clips, out, half=True).predict(Broken(1), part_clips=2)
    with pytest.raises(ValueError, match=r"many.1of3.safetensors is a part of other predictions .* delete it first"):
        job(clips, out).predict(Here())


def test_a_part_of_which_nothing_can_be_read(sounds: Path, tmp_path: Path) -> None:
    """A part without a readable clip is a part; if all are so, that is the sentence of `psla predict`."""
    found = job(table(sounds), tmp_path / "p.safetensors").predict(Here(), part_clips=1)
    assert len(found.predictions) == 5
    assert found.rejected["f"] != GONE
    with pytest.raises(ValueError, match="none of 1 clips could be read; the first: "):
        job(table(sounds).select(["f"]), tmp_path / "q.safetensors").predict(Here(), part_clips=1)


def test_a_small_job_has_parts_for_all_that_there_is_room_for(tmp_path: Path) -> None:
    """Parts are of 500 clips, of fewer where more could be at work, and never so few that tasks cost as much."""
    row = {"split": "evaluation", "labels": ["dog"]}
    rows = [row | {"clip_id": str(n), "source": str(n), "path": f"{n}.wav"} for n in range(1000)]
    mine = job(Clips.from_rows(rows, Vocabulary(["dog"]), "many"), tmp_path / "p.safetensors")
    assert [mine._fitting(room) for room in (1, 4, 1000)] == [500, 250, 50]


def test_another_model_behind_the_name_is_refused(sounds: Path, tmp_path: Path) -> None:
    """A task that finds another model than the driver's says so, and predicts nothing."""
    wrong = PredictJob(MODEL, "0" * 64, table(sounds), tmp_path / "p.safetensors", "evaluation")
    with pytest.raises(ValueError, match="is not the model that the job was begun with"):
        wrong.predict(Here())
    assert not list(tmp_path.glob("p*.safetensors"))


def test_tagging_in_tasks(sounds: Path, tmp_path: Path) -> None:
    """Rows of files in tasks are those of one process, in order; a journal goes on from one to the other."""
    paths = [str(path) for path in sorted(sounds.glob("*.wav"))]
    mine = TagJob(load(MODEL), sha256_of(resolve(MODEL)), RowSettings(top=3))
    task = TagTask.of(mine, MODEL, None, "float32", None, 1)
    with decode_pool(1) as pool:
        expected = list(mine.rows(paths, pool))
        assert list(tag_apart(mine, task, paths, Backwards())) == expected
        with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(KeyboardInterrupt):
            list(tag_apart(mine, task, paths, Broken(1), journal))
        with Journal(tmp_path / "j.jsonl") as journal:
            assert 0 < len(journal.records) < len(paths)
            assert list(mine.rows(paths[:5], pool, journal)) == expected[:5]
    with Journal(tmp_path / "away.jsonl") as journal:
        assert {row["error"] for row in tag_apart(mine, task, paths, Away(), journal)} == {"away"}
        assert not journal.records  # what passes is not written down
    with Journal(tmp_path / "j.jsonl") as journal:
        assert list(tag_apart(mine, task, paths, Backwards(), journal)) == expected
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len(journal.records) == len(paths)
        assert list(tag_apart(mine, task, paths, Broken(0), journal)) == expected


def test_a_lab_in_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab whose trainings are tasks has the results of one process, teachers first; broken off, it goes on."""
    monkeypatch.setattr("psla.training.run.Run.draw", lambda *args, **options: None)
    lab_tests.do(tmp_path / "one", ["labels_12"])  # and its teacher
    with pytest.raises(KeyboardInterrupt):
        lab_tests.do(tmp_path / "many", ["labels_12"], spread=Broken(1))
    found = lab_tests.do(tmp_path / "many", ["labels_12"], spread=Backwards())
    assert (found.done[-1], found.trained, found.waiting) == ("labels_12", 1, [])
    assert lab_tests.results(tmp_path / "many") == lab_tests.results(tmp_path / "one")
    assert lab_tests.predictions(tmp_path / "many") == lab_tests.predictions(tmp_path / "one")


def test_a_training_that_fails_is_a_row_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training raises is the reason of its row, and of those it teaches; the lab comes to its end."""

    def refuse(*args: Any, **options: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr("psla.lab.tables.runner.train", refuse)
    found = lab_tests.do(tmp_path / "lab", ["mixup", "labels_12"], spread=Here())
    assert found.done == []
    assert found.not_run["mixup"] == "seed 0: no such thing"
    assert found.not_run["labels_12"].startswith("it needs the row mixup, which was not run")


@pytest.mark.parametrize(
    "command",
    [
        ["pack", "c.parquet", "out", "--shard", "1/2"],
        ["predict", MODEL, "c.parquet", "--out", "o.safetensors", "--shard", "1/2"],
        ["predict", MODEL, "c.parquet", "--out", "o.safetensors", "--merge", "2"],
        ["tag", MODEL, "a.wav", "--embeddings", "e.npz"],
        ["lab", "run", "soundscape", "--out", "lab", "--shard", "1/2"],
    ],
)
def test_what_excludes_a_cluster(command: list[str]) -> None:
    """What cannot be spread, or is spread by hand, is refused beside --cluster, before anything is done."""
    result = CliRunner().invoke(app, [*command, "--cluster", "ray"])
    assert result.exit_code == 2
    assert "--cluster" in result.output
