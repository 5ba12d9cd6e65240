"""Laws of the metrics: scikit-learn agrees, order does not matter, undefined classes are named and left out."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.metrics.scores import Scores, d_prime, score


def pair(probabilities: np.ndarray, matrix: np.ndarray) -> tuple[Predictions, Labels]:
    clip_ids = [f"clip{i}" for i in range(len(matrix))]
    vocabulary = Vocabulary([f"class{c}" for c in range(matrix.shape[1])])
    return Predictions(probabilities, clip_ids, vocabulary), Labels.from_matrix(clip_ids, matrix, vocabulary)


def random_pair(seed: int, clips: int = 60, classes: int = 5, levels: int = 0) -> tuple[Predictions, Labels]:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((clips, classes)).astype(np.float32)
    if levels:
        probabilities = np.floor(probabilities * levels).astype(np.float32) / np.float32(levels)
    return pair(probabilities, rng.random((clips, classes)) < 0.2)


def check_against_sklearn(probabilities: np.ndarray, matrix: np.ndarray) -> None:
    for c, each in enumerate(score(*pair(probabilities, matrix)).per_class):
        truth, column = matrix[:, c], probabilities[:, c]
        assert each.positives == truth.sum()
        if truth.any():
            assert each.average_precision == pytest.approx(average_precision_score(truth, column), abs=1e-9)
        if truth.any() and not truth.all():
            assert each.auc == pytest.approx(roc_auc_score(truth, column), abs=1e-9)
            margin = 0.5 / (truth.sum() * (~truth).sum())
            assert each.d_prime == d_prime(each.auc, margin)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 25), st.sampled_from([1, 2, 5, 1000]))
def test_scikit_learn_agrees(data, clips, levels):
    """Average precision and AUC equal scikit-learn's to 1e-9, heavy ties and values outside [0, 1] included."""
    rows = st.lists(st.tuples(st.integers(-1, levels), st.booleans()), min_size=clips, max_size=clips)
    column = data.draw(rows)
    probabilities = np.array([[value / levels] for value, _ in column], dtype=np.float32)
    check_against_sklearn(probabilities, np.array([[label] for _, label in column]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scikit_learn_agrees_on_many_classes(dtype):
    """The same holds across more classes than one block of columns, in both stored types."""
    rng = np.random.default_rng(3)
    probabilities = (rng.random((300, 37)) ** 6).astype(dtype)
    check_against_sklearn(probabilities, rng.random((300, 37)) < rng.random(37) * 0.3)


@pytest.mark.parametrize("levels", [0, 3])
def test_the_order_of_clips_does_not_matter(levels):
    """A permutation of the predictions' or of the labels' clips changes no bit of the scores."""
    predictions, labels = random_pair(1, levels=levels)
    expected = score(predictions, labels).to_dict()
    mixed = list(np.random.default_rng(5).permutation(predictions.clip_ids))
    assert score(predictions.select(mixed), labels).to_dict() == expected
    assert score(predictions, labels.select(mixed)).to_dict() == expected


@pytest.mark.parametrize("classes", [1, 3])
def test_scoring_changes_no_input(classes):
    """The probabilities are the same bits after scoring, also where a single column needs no transposing."""
    predictions, labels = random_pair(1, classes=classes)
    before = predictions.probabilities.tobytes()
    score(predictions, labels)
    assert predictions.probabilities.tobytes() == before


def test_labels_may_cover_more_clips_but_not_fewer():
    """Only the predicted clips are scored; a predicted clip without labels is refused."""
    predictions, labels = random_pair(1)
    some = predictions.clip_ids[10:40]
    assert (
        score(predictions.select(some), labels).to_dict()
        == score(predictions.select(some), labels.select(some)).to_dict()
    )
    with pytest.raises(KeyError, match="30 of 60 clips"):
        score(predictions, labels.select(some))


def test_perfect_and_worst():
    """Perfect ranking scores 1, reversed ranking has AUC 0, and d-prime stays finite and antisymmetric."""
    matrix = np.arange(24).reshape(12, 2) % 3 == 0
    best, worst = score(*pair(matrix.astype(np.float32), matrix)), score(*pair(1 - matrix.astype(np.float32), matrix))
    assert best.mean_average_precision == best.mean_auc == 1.0
    assert worst.mean_auc == 0.0
    assert 2 < best.d_prime < math.inf
    assert worst.d_prime == pytest.approx(-best.d_prime)
    assert best.mean_d_prime == pytest.approx(best.d_prime)  # equal pairs in both classes
    assert best.per_class[0].d_prime == d_prime(1 - 0.5 / (4 * 8))


def test_constant_predictions_know_nothing():
    """Equal probabilities give the share of positives as average precision, AUC one half and d-prime 0."""
    matrix = np.random.default_rng(0).random((40, 3)) < 0.3
    scores = score(*pair(np.full((40, 3), 0.5, np.float32), matrix))
    assert [each.average_precision for each in scores.per_class] == pytest.approx(matrix.mean(axis=0).tolist())
    assert (scores.mean_auc, scores.d_prime, scores.mean_d_prime) == (0.5, 0.0, 0.0)


def test_a_rising_curve_keeps_ranks():
    """A strictly rising function of the probabilities changes no score."""
    predictions, labels = random_pair(2, levels=16)
    squashed = Predictions(predictions.probabilities / 4 - 2, predictions.clip_ids, predictions.vocabulary)
    assert score(squashed, labels).to_dict() == score(predictions, labels).to_dict()


def test_classes_without_positives_or_negatives():
    """A class without positives is NaN, named, in no mean; one without negatives has average precision, no AUC."""
    rng = np.random.default_rng(4)
    matrix = rng.random((50, 4)) < 0.3
    matrix[:, 1], matrix[:, 2] = False, True
    scores = score(*pair(rng.random((50, 4)).astype(np.float32), matrix))
    one, none, every, other = scores.per_class
    assert (scores.classes_without_positives, scores.classes_scored) == (["class1"], 3)
    assert all(math.isnan(value) for value in (none.average_precision, none.auc, none.d_prime, every.auc))
    assert every.average_precision == 1.0
    precisions = [one.average_precision, every.average_precision, other.average_precision]
    assert scores.mean_average_precision == pytest.approx(np.mean(precisions))
    assert scores.mean_auc == pytest.approx((one.auc + other.auc) / 2)
    assert scores.d_prime == pytest.approx(d_prime(scores.mean_auc))
    assert scores.mean_d_prime == pytest.approx((one.d_prime + other.d_prime) / 2)


def test_nothing_is_defined_without_labels():
    """Without any label every mean is NaN, and nothing warns or breaks."""
    scores = score(*pair(np.zeros((3, 2), np.float32), np.zeros((3, 2), bool)))
    assert scores.classes_scored == 0
    assert all(math.isnan(value) for value in (scores.mean_average_precision, scores.mean_auc, scores.d_prime))


def test_accuracy_needs_one_label_a_clip():
    """Accuracy is the share of clips whose most probable class is the label, and None for multi-label clips."""
    matrix = np.eye(3, dtype=bool)[[0, 1, 2, 0]]
    probabilities = np.array([[0.9, 0, 0], [0, 0.2, 0.1], [0.5, 0, 0.4], [0.3, 0, 0.2]], dtype=np.float32)
    assert score(*pair(probabilities, matrix)).accuracy == 0.75
    matrix[0, 1] = True
    assert score(*pair(probabilities, matrix)).accuracy is None
    matrix[0] = False
    assert score(*pair(probabilities, matrix)).accuracy is None


@pytest.mark.parametrize("single_label", [True, False])
def test_scores_survive_json(single_label):
    """Scores go through strict JSON and come back the same, undefined values included; other keys are refused."""
    matrix = np.eye(4, dtype=bool)[[0, 1, 0, 1, 0]]
    matrix[0, 1] = not single_label
    scores = score(*pair(np.random.default_rng(0).random((5, 4)).astype(np.float32), matrix))
    data = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    back = Scores.from_dict(data)
    assert back.to_dict() == scores.to_dict() == data
    assert math.isnan(back.per_class[2].auc)
    assert (back.accuracy is None) == (not single_label)
    with pytest.raises(ValueError, match="extra"):
        Scores.from_dict(data | {"extra": 1})
    with pytest.raises(ValueError, match="auc"):
        Scores.from_dict(data | {"per_class": [{"id": "a"}]})


def test_vocabularies_must_agree():
    """Labels in another order of classes, and predictions without clips, are refused."""
    predictions, labels = random_pair(1)
    turned = Labels(labels.clip_ids, labels.offsets, labels.indices, Vocabulary(labels.vocabulary.ids[::-1]))
    with pytest.raises(ValueError, match="different vocabularies"):
        score(predictions, turned)
    with pytest.raises(ValueError, match="at least one clip"):
        score(predictions.select([]), labels)


def test_d_prime_is_the_distance_of_two_normals():
    """Two unit normals d apart have AUC Phi(d / sqrt 2), which d-prime turns back into d; bad values are refused."""
    for distance in (-3.0, -0.5, 0.0, 1.0, 2.5):
        assert d_prime(0.5 * math.erfc(-distance / 2)) == pytest.approx(distance, abs=1e-9)
    assert (d_prime(1.0), d_prime(0.0), d_prime(1.0, 0.5)) == (math.inf, -math.inf, 0.0)
    for bad in ((1.1, 0.0), (-0.1, 0.0), (0.5, 0.6)):
        with pytest.raises(ValueError, match="AUC in"):
            d_prime(*bad)
