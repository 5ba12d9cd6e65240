"""Laws of a teacher that hears the training clips itself: once, as they are; what it says is then as stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.pack.write import pack
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.model.ensemble import write_ensemble
from psla.model.file import load_model
from psla.model.inference import tag_waveforms
from psla.techniques.distillation import DistillationError
from psla.training import teacher as teacher_module
from psla.training.devices import Runtime
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.training.session import TrainingInterrupted, resume, train
from tagging_models import CLASSES, WINDOW, noise, tiny_model, tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Runtime(accelerator="cpu", checkpoint_minutes=0)
# All that changes a waveform on its way to the student: the teacher must hear nothing of it.
BASE: dict[str, Any] = {
    "front_end": {"frames": 48, "mel_bins": 32},
    "backbone": {"name": "efficientnet_lite0"},
    "pooling": {"heads": 1},
    "sampling": {"balanced": False},
    "waveform": {"crop_frames": 32, "shift": 1.0, "gain_db": 12.0},
    "masking": {"frequency": 8, "time": 8},
    "optimizer": {"batch_size": 3, "epochs": 2, "warmup_steps": 0, "precision": "float32"},
    "averaging": {"first_epoch": 1},
}


def recipe(**distillation: Any) -> Recipe:
    return Recipe.from_dict({**BASE, "distillation": distillation})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Six clips to train on, the first longer than the teacher's window and the last shorter, and two held out."""
    folder = tmp_path_factory.mktemp("sounds")
    rows = []
    for index in range(8):
        path = folder / f"{index}.wav"
        soundfile.write(path, noise(2 * WINDOW - 2500 * index, index), 16000, subtype="PCM_16")
        rows.append({"clip_id": f"c{index}", "source": f"s{index}", "path": str(path)})
        rows[-1] |= {"split": "train" if index < 6 else "validation", "labels": [CLASSES[index % 3].id]}
    return Clips.from_rows(rows, CLASSES)


def changed(clips: Clips, **rows: Mapping[str, Any]) -> Clips:
    """The clips with values of some rows changed, by clip id; `all`: of every row."""
    found = [{**row, **rows.get("all", {}), **rows.get(row["clip_id"], {})} for row in clips.frame.to_dicts()]
    return Clips.from_rows(found, clips.vocabulary)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_file(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def hearings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An item for each time that the teacher has heard the clips."""
    counted, heard = [], teacher_module.predict_together
    monkeypatch.setattr(teacher_module, "predict_together", lambda *given: (counted.append(1), heard(*given))[1])
    return counted


def weights(run: Run) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(run.model_file).items()}


def test_a_heard_teacher_is_a_stored_one(corpus: Clips, model: Path, tmp_path: Path, hearings: list[int]) -> None:
    """It hears each clip as it lies on the disk, cut at its own window, in the order of the table; the training is, to
    the bit, that with these predictions stored, also stopped and resumed, and the teacher is not heard again."""
    told: list[tuple[str, int]] = []
    taught = recipe(teacher=str(model))
    run = train(taught, corpus, tmp_path / "run", runtime=CPU, progress=lambda *each: told.append(each))
    said = Predictions.read(run.teacher)
    assert said.clip_ids == [f"c{index}" for index in range(6)]
    assert sum(count for stage, count in told if stage == "teacher") == 6
    assert told[0][0] == "teacher"
    for index, row in enumerate(said.probabilities):
        whole = noise(2 * WINDOW - 2500 * index, index)[:WINDOW]
        want = tag_waveforms(tiny_model().network, [whole], 16000).clip_probabilities[0].numpy()
        assert np.array_equal(row, want)
    stored = train(recipe(predictions=str(run.teacher)), corpus, tmp_path / "stored", runtime=CPU)
    assert weights(stored) == weights(run)
    assert weights(train(recipe(), corpus, tmp_path / "alone", runtime=CPU)) != weights(run)
    assert len(hearings) == 1
    asked = iter([False, True])
    with pytest.raises(TrainingInterrupted):
        train(taught, corpus, tmp_path / "again", runtime=CPU, stop=lambda: next(asked))
    again = resume(tmp_path / "again", runtime=CPU)
    assert (weights(again), len(hearings)) == (weights(run), 2)


def test_another_teacher_is_refused(corpus: Clips, tmp_path: Path) -> None:
    """A run goes on with the teacher that it was begun with, known by its SHA-256, and with no other."""
    path = tiny_model_file(tmp_path)
    with pytest.raises(TrainingInterrupted):
        train(recipe(teacher=str(path)), corpus, tmp_path / "run", runtime=CPU, stop=lambda: True)
    tiny_model_file(tmp_path, thresholds={CLASSES[0].id: 0.5})
    with pytest.raises(DistillationError, match="is not the teacher that this run was begun with"):
        resume(tmp_path / "run", runtime=CPU)


def test_labels_may_be_empty(corpus: Clips, model: Path, tmp_path: Path) -> None:
    """With the weight 1 the labels are nothing: clips without any give the training of clips that have some."""
    with_labels = train(recipe(teacher=str(model), weight=1.0), corpus, tmp_path / "with", runtime=CPU)
    bare = changed(corpus, all={"labels": []})
    without = train(recipe(teacher=str(model), weight=1.0), bare, tmp_path / "without", runtime=CPU)
    assert weights(with_labels) == weights(without)
    assert without.is_finished


def test_an_ensemble_and_a_part_of_its_classes(corpus: Clips, model: Path, tmp_path: Path) -> None:
    """An ensemble teaches as a model does; the clips may have a part of its classes, but none that it does not know."""
    tiny_model_file(tmp_path)
    teacher = str(write_ensemble(tmp_path / "both.json", [tmp_path / "model.safetensors"]))
    part = recipe(teacher=teacher).model_copy(update={"classes": [CLASSES[2].id]})
    run = train(part, corpus, tmp_path / "run", runtime=CPU)
    assert Predictions.read(run.teacher).vocabulary == CLASSES
    assert load_model(run.model_file).vocabulary.ids == [CLASSES[2].id]
    unknown = Clips.from_rows(changed(corpus, all={"labels": []}).frame.to_dicts(), Vocabulary(["dog", "siren"]))
    with pytest.raises(DistillationError, match=r"model\.safetensors knows nothing of 2 classes, the first: 'dog'"):
        train(recipe(teacher=str(model)), unknown, tmp_path / "unknown", runtime=CPU)


def test_a_clip_that_the_teacher_cannot_read_teaches_nothing(
    corpus: Clips, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken clip is left out and listed as in any training; so is one that can be read again after the hearing,
    since it has no target."""
    absent = changed(corpus, c2={"path": str(tmp_path / "late.wav")})
    run = train(recipe(teacher=str(model)), absent, tmp_path / "run", runtime=CPU)
    assert set(run.rejected) == {"c2"}
    assert "late.wav" in run.rejected["c2"]
    assert Predictions.read(run.teacher).clip_ids == ["c0", "c1", "c3", "c4", "c5"]
    heard = teacher_module.predict_together

    def then_it_is_there(*given: Any) -> Any:
        found = heard(*given)
        soundfile.write(tmp_path / "late.wav", noise(WINDOW), 16000)
        return found

    monkeypatch.setattr(teacher_module, "predict_together", then_it_is_there)
    late = train(recipe(teacher=str(model)), absent, tmp_path / "late", runtime=CPU)
    assert weights(late) == weights(run)
    assert set(late.rejected) == {"c2"}


def test_refusals(corpus: Clips, tmp_path: Path, model: Path) -> None:
    """A teacher beside stored predictions, and a pack of another rate than it hears."""
    with pytest.raises(RecipeError, match=r"distillation\.teacher: a teacher and the stored predictions"):
        recipe(teacher=str(model), predictions="said.safetensors")
    pack(corpus, tmp_path / "pack", 8000)
    slow = Recipe.from_dict({**BASE, "front_end": {**BASE["front_end"], "sample_rate": 8000}})
    taught = slow.model_copy(update={"distillation": recipe(teacher=str(model)).distillation})
    with pytest.raises(DistillationError, match="hears 16000 Hz, and the clips are in a pack of another rate"):
        train(taught, Clips.read(tmp_path / "pack"), tmp_path / "run", runtime=CPU)


def test_the_command_tells_of_the_teacher(corpus: Clips, model: Path, tmp_path: Path) -> None:
    """`psla train` reports the hearing as it does the epochs, with the teacher given by `--set`."""
    (tmp_path / "recipe.yaml").write_text(recipe().to_yaml())
    corpus.write(tmp_path / "clips.parquet")
    command = ["train", str(tmp_path / "recipe.yaml"), "--clips", str(tmp_path / "clips.parquet")]
    more = ["--out", str(tmp_path / "run"), "--accelerator", "cpu", "--set", f"distillation.teacher={model}"]
    result = CliRunner().invoke(app, [*command, *more])
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[:2] == ["teacher: 6 clips", "train 1 of 2: 6 clips"]
    assert torch.isfinite(load_file(tmp_path / "run" / "model.safetensors")["pooling.classification.weight"]).all()
