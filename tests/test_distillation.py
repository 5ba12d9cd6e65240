"""Laws of distillation: targets are the stated mixture, joined by clip id; a teacher that does not fit is refused."""

from pathlib import Path

import numpy as np
import pytest

from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.techniques.distillation import DistillationError, Targets, targets_of

VOCABULARY = Vocabulary(["dog", "rain", "siren"])
LABELS = Labels.from_sets(["a", "b", "c"], [["dog"], ["rain", "siren"], []], VOCABULARY)


def saved(folder: Path, ids: list[str], vocabulary: Vocabulary = VOCABULARY) -> str:
    probabilities = np.random.default_rng(0).random((len(ids), len(vocabulary)), dtype=np.float32)
    Predictions(probabilities, ids, vocabulary).save(folder / "teacher.safetensors")
    return str(folder / "teacher.safetensors")


def test_without_a_teacher_targets_are_the_labels() -> None:
    """No predictions: zeros and ones."""
    assert targets_of(LABELS, None, 0.5).of(np.array([1, 0])).tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_targets_are_joined_by_id_and_class(tmp_path: Path, weight: float) -> None:
    """In whatever order the teacher has clips and classes, and whatever else it knows, each target is its mixture."""
    ids, classes = ["c", "x", "a", "b"], Vocabulary(["siren", "wind", "dog", "rain"])
    path = saved(tmp_path, ids, classes)
    teacher = Predictions.read(path).probabilities
    found = targets_of(LABELS, path, weight).of(np.array([0, 2]))
    for row, id in enumerate(["a", "c"]):
        for column, name in enumerate(VOCABULARY.ids):
            hard = float(id == "a" and name == "dog")
            soft = float(teacher[ids.index(id), classes.index_of(name)])
            assert found[row, column] == pytest.approx((1 - weight) * hard + weight * soft, abs=1e-6)


def test_a_teacher_that_leaves_the_range_is_clipped() -> None:
    """Published head weights let a probability leave [0, 1]; a target never does."""
    assert Targets(LABELS, np.array([[1.5, -0.5, 0.5]] * 3), 1.0).of(np.array([0])).tolist() == [[1.0, 0.0, 0.5]]


def test_refusals(tmp_path: Path) -> None:
    """A clip, a class or a file that is not there is counted or named."""
    with pytest.raises(DistillationError, match="lacks 1 of the 3 training clips, the first: 'b'"):
        targets_of(LABELS, saved(tmp_path, ["a", "c"]), 0.5)
    with pytest.raises(DistillationError, match="nothing of 1 classes, the first: 'siren'"):
        targets_of(LABELS, saved(tmp_path, ["a", "b", "c"], Vocabulary(["dog", "rain"])), 0.5)
    with pytest.raises(FileNotFoundError):
        targets_of(LABELS, str(tmp_path / "absent"), 0.5)
