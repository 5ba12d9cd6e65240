"""Laws of `psla fit` and cross-validation in tasks: what is kept and what comes out are the bytes of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import test_fit as fit_tests
import test_lab as lab_tests
from psla.cli import app
from psla.data.vocabulary import Vocabulary
from psla.lab.folds import cross_validation, fold_report
from psla.spread import Here
from psla.training import features
from psla.training.features import Apart, hear
from psla.training.fit import fit
from psla.training.own_clips import open_clips
from psla.training.recipe import Recipe
from test_spread import Backwards, Broken, contents

pytestmark = pytest.mark.usefixtures("one_thread")
home, toys = fit_tests.home, fit_tests.toys


@pytest.mark.parametrize("broken", [0, 1, 4, 12])
def test_a_fit_in_tasks(broken: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips heard in tasks, in whatever order these end, are kept in the shards of one process, and the model and its
    report are its too; broken off, with tasks or without, it goes on."""
    monkeypatch.setattr(features, "SHARD", 5)
    monkeypatch.setattr(features, "GROUP", 2)
    monkeypatch.setattr(fit_tests.psla.training.fit, "SIGNALS", 1)
    (tmp_path / "sounds").symlink_to(home / "sounds")
    damaged = home / "sounds" / "beep" / "--9.wav"
    damaged.write_bytes(b"nothing")  # a clip that is left out moves those behind it into other shards
    model, sounds = home / "trunk.safetensors", home / "sounds"
    one = fit(sounds, tmp_path / "one/my.safetensors", model, cache=tmp_path / "cache", workers=1)
    many, cache = tmp_path / "many/my.safetensors", tmp_path / "other"
    if broken < 12:  # of 13 tasks of the clips
        with pytest.raises(KeyboardInterrupt):
            fit(sounds, many, model, cache=cache, workers=1, spread=Broken(broken))
        assert len(list(cache.glob("*/*"))) == 2 * broken // 5
    told: list[int] = []
    spread = None if broken == 1 else Backwards()
    again = fit(sounds, many, model, cache=cache, workers=1, spread=spread, told=lambda what, more, of: told.append(more))
    damaged.unlink()
    assert again.report == one.report
    assert list(one.report["rejected"]) == [Path("beep/--9.wav").as_posix()] or len(one.report["rejected"]) == 1
    assert contents(cache) == contents(tmp_path / "cache")
    assert contents(many.parent) == contents(tmp_path / "one")
    assert sum(told) == 25 + 10  # the clips, and plain signals of five kinds


def test_another_model_behind_the_name(home: Path, tmp_path: Path) -> None:
    """A task that finds another file than the driver's says so, and nothing is kept."""
    clips = open_clips(home / "sounds")
    network = fit_tests.load_model(home / "trunk.safetensors").network
    with pytest.raises(ValueError, match="is not the model that the job was begun with"):
        hear(network, clips, tmp_path, apart=Apart(Here(), str(home / "trunk.safetensors"), "0" * 64))
    assert not list(tmp_path.iterdir())
    assert Vocabulary(["a"])


def test_cross_validation_in_tasks(tmp_path: Path) -> None:
    """Runs, teachers, predictions and scores of cross-validation in tasks are those of one process; broken off, too."""
    tiny = {"front_end.frames": 32, "masking.time": 8, "optimizer.epochs": 1, "averaging.first_epoch": 1}
    recipe = Recipe.load("esc50", {**tiny, "optimizer.warmup_steps": 0, "optimizer.batch_size": 4})
    root = lab_tests.write_tiny_esc50(tmp_path / "esc")
    student = cross_validation.Student(weight=0.5, seeds=(3,))

    def asked(out: str) -> cross_validation.Experiment:
        return cross_validation.Experiment(recipe, root, tmp_path / out, (2, 4), seeds=(0, 1), student=student)

    one = cross_validation.cross_validate(asked("one"))
    with pytest.raises(KeyboardInterrupt):
        cross_validation.cross_validate(asked("many"), spread=Broken(2))
    many = cross_validation.cross_validate(asked("many"), spread=Backwards())
    assert fold_report.answers_data(many.answers) == fold_report.answers_data(one.answers)
    assert [run.folder.relative_to(tmp_path / "many") for run in many.runs] == [
        run.folder.relative_to(tmp_path / "one") for run in one.runs
    ]
    kept = [
        {name: data for name, data in contents(tmp_path / out).items() if name.endswith(".safetensors")}
        for out in ("one", "many")
    ]
    assert kept[0].keys() == kept[1].keys()
    assert len(kept[0]) > 2 * 4  # a model and predictions of each of the six runs, two teachers
    assert [name for name in kept[0] if kept[0][name] != kept[1][name]] == []


def test_the_command_refuses_an_address_that_is_none(home: Path, tmp_path: Path) -> None:
    """`psla fit --cluster` takes what the other commands take, and nothing is written where it is no address."""
    out = tmp_path / "my.safetensors"
    done = CliRunner().invoke(app, ["fit", str(home / "sounds"), "--out", str(out), "--cluster", "slurm"])
    assert done.exit_code == 2
    assert "--cluster is ray, ray://HOST:PORT or ray://auto" in done.output
    assert not list(tmp_path.iterdir())
