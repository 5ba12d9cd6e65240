"""A full disk ends a training with one sentence, keeps what was finished, and the run goes on afterwards."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.model import tensor_file
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.state import states

RECIPE = {
    "front_end": {"frames": 64, "mel_bins": 32},
    "backbone": {"name": "efficientnet_lite0"},
    "masking": {"frequency": 12, "time": 16},
    "optimizer": {"batch_size": 4, "epochs": 2, "warmup_steps": 1},
    "averaging": {"first_epoch": 1},
}


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: No space left on device"), OSError(errno.ENOSPC, "full")]
)
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whoever reports it, the library of the format or the system, it is a sentence, and --resume finishes the run."""
    torch.set_num_threads(1)
    (tmp_path / "recipe.yaml").write_text(Recipe.from_dict(RECIPE).to_yaml())
    Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=8), "train"), vocabulary()).write(tmp_path / "c.parquet")
    plain, written = tensor_file.save_file, []

    def full(tensors: dict, path: os.PathLike, metadata: dict | None = None) -> None:
        written.append(path)
        if len(written) == 3:  # the weights of the first epoch, its state, and then the second epoch's weights
            Path(path).write_bytes(b"half a file")
            raise error
        plain(tensors, path, metadata=metadata)

    monkeypatch.setattr(tensor_file, "save_file", full)
    run = tmp_path / "run"
    start = ["train", str(tmp_path / "recipe.yaml"), "--clips", str(tmp_path / "c.parquet"), "--out", str(run)]
    stopped = CliRunner().invoke(app, [*start, "--accelerator", "cpu"])
    assert stopped.exit_code == 2
    assert len([line for line in stopped.stderr.splitlines() if line.startswith("psla: ")]) == 1
    assert len(states(run / "checkpoints")) == 1
    assert sorted(p.name for p in (run / "checkpoints").glob("*epoch*")) == ["epoch_001.safetensors"]
    finished = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert finished.exit_code == 0, finished.output
    assert [row["epoch"] for row in Run(run).read_log()] == [1, 2]
