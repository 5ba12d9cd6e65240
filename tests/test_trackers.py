"""Laws of trackers: they hold what the run's folder holds, in one run of theirs however often it was broken off."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.session import TrainingInterrupted, resume, train
from psla.training.trackers.contract import TRACKERS, Trackers, class_scores, final_scores
from test_lab_run import CPU, TINY, clips


class FakeWandb(ModuleType):
    """Weights & Biases as far as it is used: what it was told, by the id of the run."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.began: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.told: list[tuple[int | None, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **options: Any) -> Any:
        self.began.append(options)
        return SimpleNamespace(
            config=SimpleNamespace(update=self.settings.update),
            log=lambda values, step=None: self.told.append((step, values)),
            finish=self._finish,
        )

    def _finish(self) -> None:
        self.finished += 1

    def Image(self, path: str) -> Path:
        return Path(path)


class Failing:
    """A tracker whose server is gone."""

    module = ""

    def __init__(self, folder: Path, id: str, epochs: int) -> None:
        self.id = "x"

    def settings(self, recipe: Any, environment: Any) -> None:
        return None

    def scalars(self, values: Any, epoch: int) -> None:
        raise ConnectionError("nobody\nanswers")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, FakeWandb, list[str], Path]]:
    """A training that was interrupted in its second epoch and went on, followed by all trackers and one that fails."""
    before, out, wandb = torch.get_num_threads(), tmp_path_factory.mktemp("run") / "mine", FakeWandb()
    torch.set_num_threads(1)
    store = out.parent / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", wandb)
        patch.setenv("MLFLOW_TRACKING_URI", str(out.parent / "mlruns"))
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setitem(TRACKERS._found, "failing", Failing)
        names = [name for name in TRACKERS if name != "mlflow" or _has("mlflow")]
        warned: list[str] = []
        steps = iter(range(100))
        recipe = Recipe.load("demo", TINY)
        with pytest.raises(TrainingInterrupted):
            train(recipe, clips(), out, runtime=CPU, log=Trackers(names, warned.append), stop=lambda: next(steps) == 2)
        run = resume(out, runtime=CPU, log=Trackers((), warned.append))
        yield run, wandb, warned, store
    torch.set_num_threads(before)


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def expected(run: Run) -> dict[tuple[int, str], float]:
    """By epoch and name all numbers that a tracker is told."""
    rows = {(int(row["epoch"]), key): value for row in run.read_log() for key, value in row.items() if key != "epoch"}
    last = max(epoch for epoch, _ in rows)
    final = final_scores(run.scores) | class_scores(run.scores)
    assert {epoch for epoch, _ in rows} == {1, 2}
    assert any("average_precision/" in name for name in final)
    return rows | {(last, name): value for name, value in final.items()}


def test_a_table(followed: Any) -> None:
    """metrics.csv holds every number of the folder once, to the last digit."""
    run = followed[0]
    with (run.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(int(row["epoch"]), row["name"]): float(row["value"]) for row in rows}
    assert found == expected(run)
    assert len(rows) == len(found)


def test_tensorboard_reads_back_what_the_folder_holds(followed: Any) -> None:
    """Its own reader finds in the event files what log.csv and scores.json hold, each once, as float32."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = followed[0]
    events = reading.EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    told = [(each.step, tag, each.value) for tag in tags["scalars"] for each in events.Scalars(tag)]
    found = {(step, tag): value for step, tag, value in told}
    assert found == {key: float(np.float32(value)) for key, value in expected(run).items()}
    assert len(told) == len(found)
    assert {"learning_curve", "average_precision"} <= set(tags["images"])
    assert {"recipe/text_summary", "environment/text_summary"} <= set(tags["tensors"])
    shown = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "optimizer.epochs: 2" in shown


def test_weights_and_biases(followed: Any) -> None:
    """A training that goes on is the same run there; settings are told once, numbers once, and it is finished once."""
    run, wandb, _, _ = followed
    first, second = wandb.began
    assert first["id"] == second["id"] == json.loads((run.folder / "trackers.json").read_text())["wandb"]["id"]
    assert first["resume"] == "allow"
    assert wandb.settings["optimizer.epochs"] == 2
    assert wandb.settings["environment"] == run.environment
    numbers = [(step, name, value) for step, values in wandb.told if step for name, value in values.items()]
    assert {(step, name): value for step, name, value in numbers} == expected(run)
    assert len(numbers) == len(expected(run))
    assert {name for step, values in wandb.told if step is None for name in values} >= {"learning_curve"}
    assert wandb.finished == 1


def test_mlflow(followed: Any) -> None:
    """MLflow's own store has one run with every number, the recipe, the environment and the pictures."""
    mlflow = pytest.importorskip("mlflow")
    run = followed[0]
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("psla")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.data.params["optimizer.epochs"] == "2"
    assert kept.info.status == "FINISHED"
    for (epoch, name), value in expected(run).items():
        history = {each.step: each.value for each in client.get_metric_history(kept.info.run_id, _mlflow_name(name))}
        assert history[epoch] == value
    assert {each.path for each in client.list_artifacts(kept.info.run_id)} == {"environment.json", "figures"}


def _mlflow_name(name: str) -> str:
    from psla.training.trackers.mlflow import _plain

    return _plain(name)


def test_a_tracker_that_fails_is_left_behind(followed: Any) -> None:
    """One sentence for a tracker that fails, and the training comes to its end; nothing of it is noted as told."""
    run, _, warned, _ = followed
    assert run.is_finished
    assert warned == ["the tracker failing is left behind, the training goes on: nobody answers"]
    assert "failing" not in json.loads((run.folder / "trackers.json").read_text())


def test_what_is_no_tracker_is_refused_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, and one whose module is not installed, are one sentence, and no folder is begun."""
    with pytest.raises(ValueError, match="no tracker is called 'paper'"):
        train(Recipe.load("demo", TINY), clips(), tmp_path / "run", runtime=CPU, log=["paper"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb is not installed: pip install 'psla\[wandb\]'"):
        train(Recipe.load("demo", TINY), clips(), tmp_path / "run", runtime=CPU, log=["wandb"])
    assert not (tmp_path / "run").exists()
