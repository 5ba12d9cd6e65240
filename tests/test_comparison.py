"""Laws of the comparison: a file equals itself, weights mean copies, intervals cover the truth, seeds widen them."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.metrics.compare import ComparisonError, compare
from psla.metrics.predictions import Predictions
from psla.metrics.resampling import Ranked
from psla.metrics.scores import score

VOCABULARY = Vocabulary(["dog", "rain", "siren", "nothing"])


def simulated(
    seed: int, shifts: tuple[float, ...], clips: int = 300, levels: int = 0, own_noise: float = 0.6
) -> tuple[list[Predictions], Labels]:
    """One file for each shift: positives lie that far above negatives; part of the noise is common to all files."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((clips, len(VOCABULARY))) < [0.3, 0.15, 0.1, 0.0]
    ids, common = [f"clip{i}" for i in range(clips)], rng.normal(size=matrix.shape)
    files = []
    for shift in shifts:
        values = matrix * shift + common + own_noise * rng.normal(size=matrix.shape)
        probabilities = 1 / (1 + np.exp(-values))
        if levels:
            probabilities = np.round(probabilities * levels) / levels
        files.append(Predictions(probabilities.astype(np.float32), ids, VOCABULARY))
    return files, Labels.from_matrix(ids, matrix, VOCABULARY)


@pytest.mark.parametrize("sources", [False, True])
def test_a_file_equals_itself(sources):
    """A file against itself: zero, and an interval from zero to zero, in total and for every class with positives."""
    (one,), labels = simulated(0, (1.0,))
    groups = {id: f"source{i // 3}" for i, id in enumerate(one.clip_ids)} if sources else None
    found = compare(one, one.select(one.clip_ids[::-1]), labels, resamples=50, sources=groups)
    assert (found.difference, found.low, found.high, found.share_better) == (0.0, 0.0, 0.0, 0.0)
    assert (found.wins, found.losses, found.sure_wins, found.sure_losses) == (0, 0, 0, 0)
    assert [each.difference == each.low == each.high == 0 for each in found.per_class] == [True, True, True, False]


@pytest.mark.parametrize("levels", [0, 5])
def test_weights_mean_copies(levels):
    """Average precision under integer weights equals scikit-learn's on clips copied that often, ties included."""
    (one,), labels = simulated(1, (1.0,), clips=60, levels=levels)
    weights = np.random.default_rng(2).poisson(1.0, (60, 7)).astype(np.float32)
    weights[labels.matrix()[:, 2], 6] = 0  # a draw without a positive clip of the third class
    target = np.empty((7, 4), dtype=np.float32)
    Ranked(one.probabilities, labels).average_precisions(weights, target)
    for draw in range(7):
        copies = np.repeat(np.arange(60), weights[:, draw].astype(int))
        truth, probabilities = labels.matrix()[copies], one.probabilities[copies]
        for c in range(4):
            if truth[:, c].any():
                expected = average_precision_score(truth[:, c], probabilities[:, c])
                assert target[draw, c] == pytest.approx(expected, abs=2e-6)
            else:
                assert np.isnan(target[draw, c])


def test_the_numbers_are_those_of_the_metrics():
    """Both mAPs and the classes' average precisions are what `score` says of the same clips."""
    (one, two), labels = simulated(3, (0.8, 1.4))
    found = compare(one, two, labels, resamples=100)
    first, second = score(one, labels), score(two, labels)
    assert found.first == pytest.approx(first.mean_average_precision, abs=1e-12)
    assert found.second == pytest.approx(second.mean_average_precision, abs=1e-12)
    assert found.difference == pytest.approx(found.second - found.first, abs=1e-12)
    assert found.low < found.difference < found.high
    assert [each.first for each in found.per_class[:3]] == [e.average_precision for e in first.per_class[:3]]
    assert found.wins + found.losses == 3
    assert found.clip_ids_hash == one.hash_of_ids
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["per_class"][3]["difference"] is None


def test_swapping_the_sides_changes_the_sign():
    """Sides swapped: the same draws, the opposite difference and interval; wins become losses."""
    (one, two), labels = simulated(4, (0.8, 1.2))
    there, back = compare(one, two, labels, resamples=100), compare(two, one, labels, resamples=100)
    assert back.difference == pytest.approx(-there.difference, abs=1e-12)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-6)
    assert (back.wins, back.losses) == (there.losses, there.wins)


def test_the_same_seed_draws_the_same():
    """A seed gives the same interval to the bit, whatever the order of the clips; another seed gives another."""
    (one, two), labels = simulated(5, (0.8, 1.0))
    found = compare(one, two, labels, resamples=150, seed=7).to_dict()
    mixed = list(np.random.default_rng(0).permutation(one.clip_ids))
    again = compare(one.select(mixed), two, labels.select(mixed), resamples=150, seed=7).to_dict()
    assert json.dumps(found) == json.dumps(again)
    assert compare(one, two, labels, resamples=150, seed=8).low != found["low"]


def test_different_clips_are_intersected():
    """Only clips of all files and of the labels are compared; the rest is counted and the hash names them."""
    (one, two), labels = simulated(6, (0.8, 1.0))
    ids = one.clip_ids
    part, some = two.select(ids[50:]), labels.select(ids[:200])
    found = compare(one, part, some, resamples=20)
    both = one.select(ids[50:200])
    assert (found.clips, found.left_out, found.units) == (150, [150, 100], 150)
    assert found.clip_ids_hash == both.hash_of_ids
    assert found.to_dict() == {**compare(both, two.select(ids[50:200]), labels, 20).to_dict(), "left_out": [150, 100]}


def test_sources_are_drawn_whole():
    """Copies of a clip under one source add nothing: the interval is that of the sources, not of the clips."""
    (one, two), labels = simulated(7, (0.8, 1.1), clips=100)
    copies = [(f"{id}/{k}", id) for id in one.clip_ids for k in range(4)]
    ids, origins = [a for a, _ in copies], [b for _, b in copies]
    many = [Predictions(each.select_rows(origins), ids, VOCABULARY) for each in (_Rows(one), _Rows(two))]
    matrix = np.repeat(labels.matrix(), 4, axis=0)
    grown = Labels.from_matrix(ids, matrix, VOCABULARY)
    single = compare(one, two, labels, 300)
    whole = compare(*many, grown, 300, sources=dict(copies))
    apart = compare(*many, grown, 300)
    assert (whole.unit, whole.units, apart.units) == ("source", 100, 400)
    assert whole.high - whole.low == pytest.approx(single.high - single.low, rel=0.25)
    assert apart.high - apart.low < 0.7 * (single.high - single.low)


class _Rows:
    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions

    def select_rows(self, ids: list[str]) -> np.ndarray:
        return self.predictions.probabilities[self.predictions.rows_of(ids)]


def coverage(trials: int, clips: int, resamples: int) -> float:
    """Share of intervals that cover the known difference: the mean over many more samples of the same size."""
    shifts = (0.8, 1.1)
    known = []
    for trial in range(3 * trials):
        files, labels = simulated(10_000 + trial, shifts, clips)
        one, two = (score(each, labels).mean_average_precision for each in files)
        known.append(two - one)
    truth, covered = np.mean(known), 0
    for trial in range(trials):
        (one, two), labels = simulated(trial, shifts, clips)
        found = compare(one, two, labels, resamples, seed=trial)
        covered += found.low <= truth <= found.high
    return covered / trials


def test_intervals_cover_a_known_difference():
    """About 95 of 100 intervals contain the true difference (80 trials: 0.95 give or take three deviations)."""
    assert 0.87 <= coverage(80, 250, 200) <= 1.0


@pytest.mark.slow
def test_intervals_cover_a_known_difference_closely():
    """The same with 600 trials: between 0.92 and 0.98."""
    assert 0.92 <= coverage(600, 600, 400) <= 0.98


def test_clips_alone_leave_out_the_variance_of_training():
    """Where seeds differ, intervals over pairs and clips cover the true difference, those of one pair do not."""
    rng, pairs, trials = np.random.default_rng(0), 8, 40
    with_pairs = one_pair = 0
    for trial in range(trials):
        # Both sides are the same training, so the true difference is zero; each seed's model is a little different.
        shifts = tuple(1.0 + 0.3 * rng.normal(size=2 * pairs))
        files, labels = simulated(trial, shifts, clips=250)
        found = compare(files[:pairs], files[pairs:], labels, resamples=128)
        with_pairs += found.low <= 0 <= found.high
        alone = compare(files[0], files[pairs], labels, resamples=128)
        one_pair += alone.low <= 0 <= alone.high
    assert with_pairs / trials >= 0.85
    assert one_pair / trials <= 0.75


def test_several_identical_pairs_are_one():
    """A pair given three times changes neither the difference nor, with no variance between pairs, the interval."""
    (one, two), labels = simulated(8, (0.8, 1.0))
    single, triple = compare(one, two, labels, 100), compare([one] * 3, [two] * 3, labels, 100)
    assert triple.pairs == 3
    assert triple.difference == pytest.approx(single.difference, abs=1e-12)
    assert triple.high - triple.low == pytest.approx(single.high - single.low, rel=0.4)


def test_what_cannot_be_compared_is_refused():
    """Unequal numbers of files, strange vocabularies, no common clip, no positives, no source: refused."""
    (one, two), labels = simulated(9, (0.8, 1.0), clips=20)
    with pytest.raises(ComparisonError, match="got 1 and 2"):
        compare(one, [one, two], labels)
    with pytest.raises(ComparisonError, match="got 0 and 0"):
        compare([], [], labels)
    other = Predictions(one.probabilities, one.clip_ids, Vocabulary(list("abcd")))
    with pytest.raises(ComparisonError, match=r"file 2 .* 0 in common"):
        compare(one, other, labels)
    with pytest.raises(ComparisonError, match="no clip in common"):
        compare(one.select(one.clip_ids[:5]), two.select(two.clip_ids[5:]), labels)
    nothing = Labels.from_sets(one.clip_ids, [[]] * 20, VOCABULARY)
    with pytest.raises(ComparisonError, match="positives"):
        compare(one, two, nothing)
    with pytest.raises(ComparisonError, match="19 of 20 clips have no source"):
        compare(one, two, labels, sources={one.clip_ids[0]: "tape"})
    for wrong in ({"resamples": 0}, {"confidence": 1.0}, {"confidence": 0.0}):
        with pytest.raises(ComparisonError, match="needs 1 resample"):
            compare(one, two, labels, **wrong)
