"""Laws of the teacher loop: two rounds, each step once, and a table that its files reproduce."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from psla.data.clips import Clips
from psla.lab import experiment, teaching
from psla.lab.teaching import Teaching, teach
from psla.metrics.predictions import Predictions
from psla.metrics.scores import score
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training.devices import Runtime
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run

CPU = Runtime(accelerator="cpu")


def recipe() -> Recipe:
    return Recipe.from_dict(
        {
            "front_end": {"frames": 64, "mel_bins": 32},
            "backbone": {"name": "efficientnet_lite0"},
            "masking": {"frequency": 12, "time": 16},
            "optimizer": {"batch_size": 4, "epochs": 1, "warmup_steps": 1},
            "averaging": {"first_epoch": 1},
        }
    )


def clips(evaluation: int = 8) -> Clips:
    train = SoundscapeConfig(seconds=0.3, clips=12, missing_children=0.5, missing_parents=0.5)
    rows = table(train, "train")
    rows += table(SoundscapeConfig(seconds=0.3, clips=evaluation, seed=5), "evaluation") if evaluation else []
    return Clips.from_rows(rows, vocabulary())


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("taught")
    return out, teach(recipe(), clips(), out, seeds=(0, 1), runtime=CPU)


def test_the_table_is_what_the_files_say(taught: tuple[Path, dict]) -> None:
    """Counts, shares and scores of the table are recomputed from the runs and the two tables of clips."""
    out, found = taught
    assert json.loads((out / "teaching.json").read_text()) == found
    for row in found["seeds"]:
        folder = out / f"seed_{row['seed']}"
        old, new = clips().split("train").labels(), Clips.read(folder / "enhanced.parquet").split("train").labels()
        added = new.counts() - old.counts()
        assert (added >= 0).all()
        assert row["impacted_classes"] == (added > 0).sum() > 0
        assert row["labels_added_percent"] == pytest.approx(100 * added.sum() / old.counts().sum())
        held_out = clips().split("evaluation").labels()
        for name, key in (("first", "map_before"), ("second", "map_after")):
            predictions = Predictions.read(folder / name / "predictions" / "evaluation" / "averaged.safetensors")
            assert row[key] == score(predictions, held_out).mean_average_precision
    values = [row["map_after"] for row in found["seeds"]]
    assert found["summary"]["map_after"]["mean"] == pytest.approx(np.mean(values))
    assert found["summary"]["map_after"]["std"] == pytest.approx(np.std(values, ddof=1))


def test_evaluation_labels_stay(taught: tuple[Path, dict]) -> None:
    """No label of a clip that is scored on is touched."""
    held_out = Clips.read(taught[0] / "seed_0" / "enhanced.parquet").split("evaluation")
    assert held_out.frame["labels"].to_list() == clips().split("evaluation").frame["labels"].to_list()


def test_what_is_finished_is_not_done_again(taught: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call gives the same table without a training."""
    out, found = taught
    for name in ("train", "resume", "predict"):
        monkeypatch.setattr(
            experiment if name in ("train", "resume") else teaching,
            name,
            lambda *a, **k: pytest.fail("nothing is left to do"),
        )
    assert teach(recipe(), clips(), out, seeds=(0, 1), runtime=CPU) == found


def test_a_teacher_from_elsewhere(taught: tuple[Path, dict], tmp_path: Path) -> None:
    """A model given as the teacher gives the labels that its predictions give."""
    out, _ = taught
    first = Run(out / "seed_0" / "first")
    for teacher in (first.model_file, out / "seed_0" / "teacher.safetensors"):
        folder = tmp_path / teacher.parent.name
        teach(recipe(), clips(), folder, seeds=(0,), teaching=Teaching(teacher=teacher), runtime=CPU)
        assert Clips.read(folder / "seed_0" / "enhanced.parquet") == Clips.read(out / "seed_0" / "enhanced.parquet")


def test_refusals(taught: tuple[Path, dict], tmp_path: Path) -> None:
    """Clips that hold nothing out, and a folder of another recipe or of other clips; where they lie is no matter."""
    with pytest.raises(RecipeError, match="hold nothing out"):
        teach(recipe(), clips(evaluation=0), tmp_path, runtime=CPU)
    other = Recipe.from_dict({**recipe().model_dump(), "mixup": {"rate": 1.0}})
    with pytest.raises(RecipeError, match="another recipe"):
        teach(other, clips(), taught[0], runtime=CPU)
    for others in (
        clips(evaluation=7),
        Clips(clips().frame.filter(pl.col("clip_id") != clips().clip_ids[0]), vocabulary()),
    ):
        with pytest.raises(RecipeError, match="on other clips"):
            teach(recipe(), others, taught[0], runtime=CPU)
    moved = Clips(clips().frame.with_columns(path="elsewhere/" + pl.col("clip_id")), vocabulary())
    assert experiment.material(moved) == experiment.material(clips())
