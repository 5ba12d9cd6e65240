"""Laws of `psla fit` and cross-validation in tasks: what is kept and what comes out are the bytes of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import test_fit as fit_tests
import test_lab as lab_tests
from distributed_worker import tiny
from psla.cli import app
from psla.lab.folds import cross_validation, fold_report
from psla.model.file import load_model
from psla.spread import Here
from psla.synth.plain_signals import KINDS as PLAIN
from psla.training import features
from psla.training.features import Apart, hear
from psla.training.fit import fit
from psla.training.own_clips import open_clips
from test_spread import Backwards, Broken, contents

pytestmark = pytest.mark.usefixtures("one_thread")
home, toys = fit_tests.home, fit_tests.toys


@pytest.mark.parametrize(("broken", "goes_on"), [(0, Backwards), (3, lambda: None)])
def test_a_fit_in_tasks(broken: int, goes_on: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips heard in tasks, in whatever order these end, are kept in the shards of one process, and the model and its
    report are its too; broken off, with tasks or without, it goes on."""
    monkeypatch.setattr(features, "SHARD", 4)
    monkeypatch.setattr(features, "GROUP", 5)
    monkeypatch.setattr(fit_tests.psla.training.fit, "SIGNALS", 1)
    damaged = home / "sounds" / "beep" / "--9.wav"
    damaged.write_bytes(b"nothing")  # a clip that is left out moves those behind it into other shards
    model, sounds = home / "trunk.safetensors", home / "sounds"
    one = fit(sounds, tmp_path / "one/my.safetensors", model, cache=tmp_path / "cache", workers=1)
    many, cache = tmp_path / "many/my.safetensors", tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        fit(sounds, many, model, cache=cache, workers=1, spread=Broken(broken))
    assert len(list(cache.glob("*/*"))) == broken  # of fourteen clips that could be read
    told: list[int] = []

    def tell(what: str, more: int, total: int) -> None:
        told.append(more)

    again = fit(sounds, many, model, cache=cache, workers=1, spread=goes_on(), told=tell)
    damaged.unlink()
    assert again.report == one.report
    assert len(one.report["rejected"]) == 1
    assert contents(cache) == contents(tmp_path / "cache")
    assert contents(many.parent) == contents(tmp_path / "one")
    assert sum(told) == 25 + 2 * len(PLAIN)  # the clips, and plain signals


def test_another_model_behind_the_name(home: Path, tmp_path: Path) -> None:
    """A task that finds another file than the driver's says so, and nothing is kept."""
    clips = open_clips(home / "sounds")
    network = load_model(home / "trunk.safetensors").network
    with pytest.raises(ValueError, match="is not the model that the job was begun with"):
        hear(network, clips, tmp_path, apart=Apart(Here(), str(home / "trunk.safetensors"), "0" * 64))
    assert not list(tmp_path.iterdir())


def test_cross_validation_in_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, teachers, predictions and scores of cross-validation in tasks are those of one process; broken off, too."""
    monkeypatch.setattr("psla.training.run.Run.draw", lambda *args, **options: None)
    recipe = tiny(4, epochs=1)
    root = lab_tests.write_tiny_esc50(tmp_path / "esc")
    student = cross_validation.Student(weight=0.5, seeds=(3,))

    def asked(out: str) -> cross_validation.Experiment:
        return cross_validation.Experiment(recipe, root, tmp_path / out, (2,), seeds=(0, 1), student=student)

    one = cross_validation.cross_validate(asked("one"))
    with pytest.raises(KeyboardInterrupt):
        cross_validation.cross_validate(asked("many"), spread=Broken(2))
    many = cross_validation.cross_validate(asked("many"), spread=Backwards())
    assert fold_report.answers_data(many.answers) == fold_report.answers_data(one.answers)
    assert [run.folder.relative_to(tmp_path / "many") for run in many.runs] == [
        run.folder.relative_to(tmp_path / "one") for run in one.runs
    ]
    kept = [predictions(tmp_path / out) for out in ("one", "many")]
    assert len(kept[0]) > 3  # of each run, and of the teacher
    assert kept[0] == kept[1]
    for run, same in zip(one.runs, many.runs, strict=True):
        weights, others = (load_model(each.model_file).network.state_dict() for each in (run, same))
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def predictions(out: Path) -> dict[str, bytes]:
    found = [*out.glob("*/*/predictions/*/*.safetensors"), *out.glob("*/teacher.safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def test_the_command_refuses_an_address_that_is_none(home: Path, tmp_path: Path) -> None:
    """`psla fit --cluster` takes what the other commands take, and nothing is written where it is no address."""
    out = tmp_path / "my.safetensors"
    done = CliRunner().invoke(app, ["fit", str(home / "sounds"), "--out", str(out), "--cluster", "slurm"])
    assert done.exit_code == 2
    assert "--cluster is ray, ray://HOST:PORT or ray://auto" in done.output
    assert not list(tmp_path.iterdir())
