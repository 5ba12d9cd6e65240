"""Laws of resuming: a training killed anywhere that goes on gives, byte for byte, what an undisturbed one gives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from psla.data.clips import Clips
from psla.sealed import unseal_text
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training.devices import Runtime
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.session import TrainingInterrupted, resume, train
from psla.training.state import StateError, states

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY_STEP = Runtime(accelerator="cpu", checkpoint_minutes=0)
# What a run is judged by; clock times are in timing.csv and elsewhere.
RESULTS = ("*.safetensors", "checkpoints/epoch_*", "checkpoints/averaged*", "predictions/*/*", "scores.json", "log.csv")


def recipe() -> Recipe:
    return Recipe.from_dict(
        {
            "front_end": {"frames": 64, "mel_bins": 32},
            "backbone": {"name": "efficientnet_lite0"},
            "masking": {"frequency": 12, "time": 16},
            "optimizer": {"batch_size": 4, "epochs": 3, "warmup_steps": 2},
            "averaging": {"first_epoch": 2},
        }
    )


def clips(folder: Path) -> Clips:
    """10 clips to train on and 5 to predict; one of each is broken."""
    config = SoundscapeConfig(seconds=0.3, clips=10)
    rows = [*table(config, "train"), *table(SoundscapeConfig(seconds=0.3, clips=5), "evaluation", 100)]
    (folder / "broken.wav").write_text("words")
    for index in (3, 12):
        rows[index] = {**rows[index], "clip_id": f"broken{index}", "path": str(folder / "broken.wav")}
    return Clips.from_rows(rows, vocabulary())


def results(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for pattern in RESULTS for p in folder.glob(pattern)}
    assert len(found) == 2 + 3 + 1 + 5 + 2, sorted(found)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return results(train(recipe(), clips(folder), folder / "run", runtime=Runtime(accelerator="cpu")).folder)


class Stop:
    """Says stop when it has been asked this often."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_stopped_again_and_again(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Stopped after 1, 2, 3, ... more steps, a run goes on to the bytes of an undisturbed one; finished, it stays."""
    run, steps = tmp_path / "run", 1
    corpus = clips(tmp_path)
    with pytest.raises(TrainingInterrupted, match="--resume"):
        train(recipe(), corpus, run, runtime=Runtime(accelerator="cpu"), stop=Stop(1))
    while True:
        try:
            resume(run, runtime=Runtime(accelerator="cpu"), stop=Stop(steps))
            break
        except TrainingInterrupted:
            steps += 1
    assert steps > 2, "the law needs several interruptions"
    log = Run(run).read_log()
    assert [row["epoch"] for row in log] == [1, 2, 3]
    assert results(run) == undisturbed
    assert resume(run).folder == run


@pytest.mark.parametrize("spoil", ["cut", "flip", "text"])
def test_a_damaged_state_gives_way(undisturbed: dict[str, bytes], tmp_path: Path, spoil: str) -> None:
    """A damaged newest state is reported, the one before it is used, and the outcome is the same."""
    with pytest.raises(TrainingInterrupted):
        train(recipe(), clips(tmp_path), tmp_path / "run", runtime=EVERY_STEP, stop=Stop(5))
    newest, older = states(tmp_path / "run" / "checkpoints")
    assert older.stat().st_size > 0
    data = bytearray(newest.read_bytes())
    if spoil == "cut":
        del data[len(data) // 2 :]
    elif spoil == "flip":
        data[-5] ^= 1
    else:
        data = bytearray(b"not a state")
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged .* the state before it"):
        resume(tmp_path / "run", runtime=Runtime(accelerator="cpu"))
    assert results(tmp_path / "run") == undisturbed


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    """A state is never loaded into a run with another recipe."""
    with pytest.raises(TrainingInterrupted):
        train(recipe(), clips(tmp_path), tmp_path / "run", runtime=EVERY_STEP, stop=Stop(1))
    path = tmp_path / "run" / "recipe.yaml"
    path.write_text(unseal_text(path.read_text(), path, ValueError).replace("seed: 0", "seed: 1"))
    with pytest.raises(StateError, match="another recipe"):
        resume(tmp_path / "run")


def test_no_run_to_resume(tmp_path: Path) -> None:
    """A folder without a run is named."""
    with pytest.raises(FileNotFoundError, match="holds no run"):
        resume(tmp_path)


def test_only_two_states_are_kept(tmp_path: Path) -> None:
    """However often the state is written, two are on the disk."""
    run = train(recipe(), clips(tmp_path), tmp_path / "run", runtime=EVERY_STEP)
    assert len(states(run.checkpoints)) == 2


def test_an_absurd_state_executes_nothing(tmp_path: Path) -> None:
    """A pickle that is called a state is damaged, not loaded."""
    with pytest.raises(TrainingInterrupted):
        train(recipe(), clips(tmp_path), tmp_path / "run", runtime=Runtime(accelerator="cpu"), stop=Stop(1))
    (path,) = states(tmp_path / "run" / "checkpoints")

    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"weights": Bomb()}, path)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(TrainingInterrupted):
        resume(tmp_path / "run", stop=Stop(1))
    assert not (tmp_path / "exploded").exists()


def test_a_non_finite_loss_may_be_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with a non-finite loss is left out and its clips are listed, up to the number that is forgiven."""
    from psla.training.trainer import Trainer, TrainingError

    original = Trainer.loss

    def poisoned(self: Trainer, batch: object, epoch: int) -> torch.Tensor:
        loss = original(self, batch, epoch)  # type: ignore[arg-type]
        return loss * float("nan") if self.position.step in (1, 4) else loss

    monkeypatch.setattr(Trainer, "loss", poisoned)
    corpus = clips(tmp_path)
    run = train(recipe(), corpus, tmp_path / "run", runtime=Runtime(accelerator="cpu", skip_non_finite=2))
    listed = (run.folder / "non_finite.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in listed] == ["step", "1", "4"]
    assert set(listed[1].split(",")[1].split()) <= set(corpus.clip_ids)
    assert np.isfinite(load_file(run.model_file)["pooling.classification.weight"].numpy()).all()
    with pytest.raises(TrainingError, match="loss is nan"):
        train(recipe(), corpus, tmp_path / "second", runtime=Runtime(accelerator="cpu", skip_non_finite=1))


COMMAND = [sys.executable, "-m", "psla", "train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(folder: Path, *more: str) -> subprocess.Popen:
    options = ["--accelerator", "cpu", "--checkpoint-minutes", "0", *more]
    return subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, cwd=folder)


def wait_for(found: object, process: subprocess.Popen, seconds: float = 120) -> bool:
    """Until `found()` or the process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found():  # type: ignore[operator]
            return True
        time.sleep(0.005)
    return bool(found())  # type: ignore[operator]


def written(folder: Path) -> list[str]:
    (folder / "recipe.yaml").write_text(recipe().to_yaml())
    clips(folder).write(folder / "clips.parquet")
    return ["recipe.yaml", "--clips", "clips.parquet", "--out", "run"]


def kill_at_random(folder: Path, kills: int, seed: int) -> None:
    """Start the command, kill it after a random number of states, a little later; again; then let it finish."""
    generator = np.random.default_rng(seed)
    arguments = written(folder)
    for _ in range(kills):
        process = start(folder, *arguments)
        before = {p.name for p in states(folder / "run" / "checkpoints")}
        wait_for(lambda: {p.name for p in states(folder / "run" / "checkpoints")} - before, process)  # noqa: B023
        time.sleep(float(generator.uniform(0, 0.3)))
        process.kill()
        process.communicate()
        if (folder / "run" / "recipe.yaml").exists():
            arguments = ["--resume", "run"]
    process = start(folder, *arguments)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors


def test_killed_three_times(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """SIGKILL at random moments costs nothing: the results are byte-identical to an undisturbed run's."""
    kill_at_random(tmp_path, kills=3, seed=0)
    assert results(tmp_path / "run") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_killed_five_times(undisturbed: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    """Twenty kills in all, at other moments."""
    kill_at_random(tmp_path, kills=5, seed=seed)
    assert results(tmp_path / "run") == undisturbed


def test_sigterm_keeps_the_state(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """A scheduler's warning ends the command with exit code 75; --resume gives the undisturbed results."""
    process = start(tmp_path, *written(tmp_path))
    assert wait_for(lambda: states(tmp_path / "run" / "checkpoints"), process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "--resume" in errors
    finished = subprocess.run(
        [*COMMAND, "--resume", "run"], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert results(tmp_path / "run") == undisturbed
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["rejected_clips"] == 2
    shutil.rmtree(tmp_path / "run")
