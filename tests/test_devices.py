"""Laws of several processes: together they take the steps, and give the predictions, of one."""

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from distributed_worker import tiny
from psla.cli import app
from psla.data.clips import Clips
from psla.lab.experiment import changed, check_run
from psla.metrics.predictions import Predictions
from psla.model.file import load_model
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.techniques.sampling import EpochPlan
from psla.training.devices import Runtime, StrideSource, open_fabric, settled
from psla.training.recipe import RecipeError
from psla.training.run import Run
from psla.training.session import build_network, resume, train

WORKER = Path(__file__).with_name("distributed_worker.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def finished(*commands: list[str], folder: Path) -> None:
    """Run commands at the same time, to their end."""
    started = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT, text=True, cwd=folder)
        for c in commands
    ]
    for process in started:
        text, _ = process.communicate(timeout=280)
        assert process.returncode == 0, text


def work(processes: int, folder: Path, batch_size: int, broken: str = "", norms: str = "") -> dict[str, np.ndarray]:
    """What the worker finds, with so many processes."""
    out = folder / f"{processes}_{batch_size}{norms}.npz"
    start = [*TORCHRUN, "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else [sys.executable]
    finished([*start, str(WORKER), str(out), str(batch_size), broken, norms], folder=folder)
    with np.load(out) as found:
        return dict(found)


# 20 clips in batches of 7: 7, 7 and 6, none of them a multiple of 2 for all; 3 processes: 3 + 2 + 2, and 2 + 2 + 2.
@pytest.mark.parametrize(
    ("processes", "batch_size", "broken"),
    [(2, 7, ""), pytest.param(3, 7, "0,1,2,3,4,5,6,7,8,9,10", marks=pytest.mark.slow)],
)
def test_processes_take_the_steps_of_one(tmp_path: Path, processes: int, batch_size: int, broken: str) -> None:
    """The first step's gradients, the losses, and the weights after 20 steps of SGD are those of one process, also
    where a global batch does not divide, and where a process has nothing readable; each clip is predicted once."""
    one = work(1, tmp_path, batch_size, broken)
    many = work(processes, tmp_path, batch_size, broken)
    gradients = [name for name in one if name.startswith("gradient.")]
    assert len(gradients) > 100
    largest = max(np.linalg.norm(one[name]) for name in gradients)
    for name in gradients:
        # Some gradients are nothing but rounding errors: what is small beside the largest is measured by that one.
        unit = max(np.linalg.norm(one[name]), 1e-3 * largest)
        assert np.linalg.norm(many[name] - one[name]) <= 1e-6 * unit, name
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-6)
    for name in (n for n in one if n.startswith("weight.")):
        np.testing.assert_allclose(many[name], one[name], atol=1e-5, rtol=0, err_msg=name)
    assert many["ids"].tolist() == one["ids"].tolist()
    assert len(set(many["ids"].tolist())) == 7
    np.testing.assert_allclose(many["probabilities"], one["probabilities"], atol=1e-5)


def furthest(one: dict[str, np.ndarray], many: dict[str, np.ndarray], kind: str) -> float:
    """The largest distance between arrays of a kind, in units of the array's norm, or a thousandth of the largest."""
    names = [name for name in one if name.startswith(kind)]
    assert len(names) > 80
    norms = {name: np.linalg.norm(one[name]) for name in names}
    floor = 1e-3 * max(norms.values())
    return float(max(np.linalg.norm(many[name] - one[name]) / max(norms[name], floor) for name in names))


def test_statistics_of_all_processes_are_those_of_one(tmp_path: Path) -> None:
    """With norms over all processes a batch of 7 in two of them (4 + 3) gives loss, gradients and running statistics of
    one process with the whole batch; with norms of each device it does not.

    torch has kernels for such norms on GPUs only, so the worker computes them from their definition; that a training
    takes torch's is `test_synchronised_is_converted`.
    """
    one = work(1, tmp_path, 7, norms="device")
    synchronised, device = (work(2, tmp_path, 7, norms=norms) for norms in ("synchronised", "device"))
    # The front end is float32, and sums of 4 and of 7 clips may round differently, by the processor's vectors.
    np.testing.assert_allclose(synchronised["losses"], one["losses"], rtol=1e-6)
    assert abs(device["losses"][0, 0] / one["losses"][0, 0] - 1) > 1e-4
    for kind in ("gradient.", "statistics."):
        assert furthest(one, synchronised, kind) < 1e-6
        assert furthest(one, device, kind) > 1e-3


@pytest.mark.slow
def test_frozen_statistics_are_frozen_in_every_process(tmp_path: Path) -> None:
    """Two processes with frozen norms take the steps of one, also where one of them has nothing readable, and the
    statistics are those that training began with, to the bit."""
    broken = "0,1,2,3,4,5,6,7,8,9,10"
    one, many = (work(processes, tmp_path, 4, broken, norms="frozen") for processes in (1, 2))
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-6)
    start, _ = build_network(tiny(4), vocabulary())
    found = {name: value for name, value in many.items() if name.startswith("statistics.")}
    assert len(found) > 80
    buffers = dict(start.double().named_buffers())
    for name, value in found.items():
        assert np.array_equal(value, buffers[name.removeprefix("statistics.")].numpy()), name


def test_synchronised_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training with the key `synchronised` goes through torch's SyncBatchNorm, and on one device it is, bit for bit,
    the training with `device`. (`train` refuses it on a CPU; a run that was begun elsewhere can go on there.)"""
    seen = set()
    plain = torch.nn.SyncBatchNorm.forward
    monkeypatch.setattr(
        torch.nn.SyncBatchNorm, "forward", lambda self, x: (seen.add((id(self), self.training)), plain(self, x))[1]
    )
    clips = Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=8), "train"), vocabulary())
    found = {}
    for norms in ("device", "synchronised"):
        assert not seen
        run = Run.create(tmp_path / norms, tiny(4, norms, epochs=1), clips)
        model_file = resume(run.folder, runtime=Runtime(accelerator="cpu")).model_file
        found[norms] = load_model(model_file).network.state_dict()
    assert len({norm for norm, training in seen if training}) > 40
    assert list(found["device"]) == list(found["synchronised"])
    assert all(torch.equal(found["device"][name], found["synchronised"][name]) for name in found["device"])


@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_is_bf16_where_the_processor_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool
) -> None:
    """What `auto` means is asked of the device; the run's recipe says what it was, and is known for the recipe that was
    given; who asks for bf16 by name gets it, with a warning where it is emulated."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bf16)
    assert settled("auto", "cpu") == ("bf16" if has_bf16 else "float32")
    assert settled("float32", "cpu") == "float32"
    with nullcontext() if has_bf16 else pytest.warns(UserWarning, match="precision=float32"):
        assert settled("bf16", "cpu") == "bf16"
    clips = Clips.from_rows(
        [
            *table(SoundscapeConfig(seconds=0.3, clips=8), "train"),
            *table(SoundscapeConfig(seconds=0.3, clips=4), "evaluation", 9),
        ],
        vocabulary(),
    )
    recipe = changed(tiny(4, epochs=1), {"optimizer.precision": "auto"})
    seen = []
    monkeypatch.setattr(
        "psla.training.session.open_fabric", lambda r, p: (seen.append(p), open_fabric(r, "float32"))[1]
    )
    run = train(recipe, clips, tmp_path / "run", runtime=Runtime(accelerator="cpu"))
    assert seen == [settled("auto", "cpu")]
    assert run.recipe.optimizer.precision == load_model(run.model_file).card.recipe["optimizer"]["precision"] == seen[0]
    check_run(run, recipe, clips)
    with pytest.raises(RecipeError, match="another recipe"):
        check_run(run, changed(recipe, {"seed": 5}), clips)
    with pytest.raises(RecipeError, match="another recipe"):
        check_run(run, changed(recipe, {"optimizer.precision": "float32" if has_bf16 else "bf16"}), clips)


def test_synchronised_is_refused_on_a_cpu(tmp_path: Path) -> None:
    """The command says in one sentence that CUDA devices are needed, and begins nothing."""
    (tmp_path / "recipe.yaml").write_text(tiny(4, "synchronised").to_yaml())
    clips = Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=8), "train"), vocabulary())
    clips.write(tmp_path / "clips.parquet")
    command = ["train", str(tmp_path / "recipe.yaml"), "--clips", str(tmp_path / "clips.parquet")]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run"), "--accelerator", "cpu"])
    assert result.exit_code == 2
    assert "backbone.batch_norm: synchronised needs CUDA devices, this run is on cpu; set it to device" in " ".join(
        result.stderr.split()
    )
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("processes", range(1, 6))
def test_the_strides_are_the_whole(processes: int) -> None:
    """The strides of 1 to 5 processes put together are every clip once, for 1 to 50 clips."""

    class Source:
        def __init__(self, count: int) -> None:
            self.clip_ids, self.sample_rate = [str(i) for i in range(count)], 16000

        def __len__(self) -> int:
            return len(self.clip_ids)

        def read(self, index: int) -> np.ndarray:
            return np.array([index], dtype=np.int16)

    for count in range(1, 51):
        parts = [StrideSource(Source(count), rank, processes) for rank in range(processes)]
        assert sorted(int(part.read(i)[0]) for part in parts for i in range(len(part))) == list(range(count))
        assert all(part.clip_ids[i] == str(part.read(i)[0]) for part in parts for i in range(len(part)))
        plan = EpochPlan(count, 0.5, 10.0, 0, 0)
        assert len(plan) == count


@pytest.mark.parametrize("name", ["devices", "nodes", "workers", "cache_bytes", "checkpoint_minutes"])
def test_runtime_refusals(name: str) -> None:
    """A value out of its range is refused and named."""
    with pytest.raises(ValueError, match=name.replace("_", " ")):
        Runtime(**{name: -1})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_nodes_on_the_loopback(tmp_path: Path) -> None:
    """torchrun with two nodes trains one run: a log, a model, and each of an odd number of clips predicted once."""
    (tmp_path / "recipe.yaml").write_text(tiny(7).to_yaml())
    rows = table(SoundscapeConfig(seconds=0.3, clips=20), "train")
    rows += table(SoundscapeConfig(seconds=0.3, clips=5, seed=1), "evaluation")
    Clips.from_rows(rows, vocabulary()).write(tmp_path / "clips.parquet")
    command = ["-m", "psla", "train", "recipe.yaml", "--clips", "clips.parquet", "--out", "run", "--accelerator", "cpu"]
    rendezvous = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "loopback"]
    endpoint = ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    node = [*TORCHRUN, *rendezvous, *endpoint, *command]
    finished(node, node, folder=tmp_path)
    run = Run(tmp_path / "run")
    assert [row["epoch"] for row in run.read_log()] == [1, 2, 3]
    assert [row["clips"] for row in run.read_log()] == [20, 20, 20]
    assert run.model_file.exists()
    for path in (run.predictions / "evaluation").iterdir():
        assert len(Predictions.read(path)) == 5
