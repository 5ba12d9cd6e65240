"""Laws of balanced sampling and of the plan of an epoch."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.techniques.sampling import EpochPlan, clip_weights, positional_uniforms

CLASSES = 5
VOCABULARY = Vocabulary([f"c{i}" for i in range(CLASSES)])


def labels_of(sets: list) -> Labels:
    return Labels.from_sets([f"clip{i}" for i in range(len(sets))], sets, VOCABULARY)


@given(
    st.lists(st.sets(st.integers(0, CLASSES - 1)), min_size=1, max_size=20), st.sampled_from([0.0, 0.01, 1.0, 100.0])
)
@settings(deadline=None, max_examples=60)
def test_weights_are_the_formula(sets: list[set[int]], smoothing: float) -> None:
    """A clip's weight is the sum over its classes of 1 / (clips with the class + smoothing)."""
    want = []
    for own in sets:
        weight = 0.0
        for c in own:
            weight += 1 / (sum(c in other for other in sets) + smoothing)
        want.append(weight)
    np.testing.assert_allclose(clip_weights(labels_of(sets), smoothing), want, rtol=1e-12)


@given(st.lists(st.sets(st.integers(0, CLASSES - 1)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_weights_sum_to_the_classes(sets: list[set[int]]) -> None:
    """Without smoothing, each class that occurs contributes exactly 1 to the sum of all weights."""
    assert clip_weights(labels_of(sets)).sum() == pytest.approx(len(set().union(*sets)))


def test_smoothing_flattens() -> None:
    """The larger the smoothing, the nearer the weights of a rare and a frequent class."""
    labels = labels_of([[0]] * 90 + [[1]] * 10)
    ratios = [(w := clip_weights(labels, s))[-1] / w[0] for s in (0, 10, 100, 1e6)]
    assert ratios[0] == pytest.approx(9)
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx(1, abs=1e-3)


def plan(weights: np.ndarray | int, seed: int = 0, epoch: int = 0, rate: float = 0.5) -> EpochPlan:
    return EpochPlan(weights, rate, 10.0, seed, epoch)


def same(one: EpochPlan, other: EpochPlan) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("first", "second", "share"))


@pytest.mark.parametrize("weights", [100, np.arange(100.0)], ids=["traversal", "weighted"])
def test_a_plan_is_its_seed_and_epoch(weights: np.ndarray | int) -> None:
    """The same (seed, epoch) gives the same plan; another epoch or another seed another."""
    one = plan(weights, 3, 7)
    assert same(one, plan(weights, 3, 7))
    for other in (plan(weights, 3, 8), plan(weights, 4, 7), plan(weights, 7, 3)):
        assert not np.array_equal(one.first, other.first)
        assert not np.array_equal(one.second, other.second)
        assert not np.array_equal(one.share, other.share)


def test_a_plan_stays_as_it_was() -> None:
    """A plan that was drawn once is drawn again by every later version: a run resumes into the same epoch."""
    one, other = plan(np.arange(12.0), 3, 2), plan(12, 3, 2)
    assert one.first.tolist() == [2, 10, 10, 4, 1, 2, 8, 6, 2, 5, 1, 11]
    assert one.second.tolist() == [11, -1, -1, 9, 1, 7, -1, 10, 9, -1, 2, 6]
    np.testing.assert_allclose(one.share[[0, 3, 11]], [0.417883, 0.448500, 0.639188], atol=1e-6)
    assert other.first.tolist() == [2, 7, 9, 0, 4, 1, 10, 6, 11, 8, 3, 5]
    assert other.second.tolist() == [9, 9, 10, -1, 9, 2, -1, 11, 7, 1, -1, -1]
    assert one.first.dtype == one.second.dtype == other.first.dtype == np.int32


def test_a_draw_is_the_clip_whose_span_it_falls_into() -> None:
    """The multinomial draw is the inverse of the cumulated weights, one look-up a uniform number."""
    weights = np.random.default_rng(5).random(3000) ** 6
    uniform = np.random.default_rng([1, 4, 0]).random(3000)
    want = [int(np.searchsorted(np.cumsum(weights), u * weights.cumsum()[-1], side="right")) for u in uniform]
    assert plan(weights, 1, 4).first.tolist() == want


@given(st.integers(1, 50), st.integers(1, 5), st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_the_parts_are_the_plan(count: int, world: int, size: int) -> None:
    """The strides of all processes are disjoint, and together every position once, batch by batch."""
    one = plan(count)
    for start in range(0, count, size):
        parts = [one.part(start, start + size, rank, world) for rank in range(world)]
        span = np.arange(start, min(start + size, count))
        assert all(np.array_equal(part, span[rank::world]) for rank, part in enumerate(parts))
        assert sorted(np.concatenate(parts)) == span.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 2), "0 <= start <= stop; got -1 to 2"),
        ((3, 2), "got 3 to 2"),
        ((0, 2, 2, 2), r"0 \.\. 1 for 2 processes; got 2"),
        ((0, 2, -1, 2), "got -1"),
    ],
)
def test_parts_that_are_none(arguments: tuple[int, ...], message: str) -> None:
    """A span or a rank out of range is refused with its value."""
    with pytest.raises(ValueError, match=message):
        plan(5).part(*arguments)


def test_memory_of_a_plan() -> None:
    """A plan takes at most 60 bytes a clip while it is drawn (2 million clips: 125 MB), and keeps 12."""
    count = 300_000
    weights = np.random.default_rng(0).random(count)
    plan(weights)  # what is imported or cached at the first call does not count
    tracemalloc.start()
    one = plan(weights)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert one.first.nbytes + one.second.nbytes + one.share.nbytes == 12 * count
    assert kept <= 12.1 * count
    assert peak <= 60 * count


def test_no_global_random_state() -> None:
    """A plan neither reads nor moves numpy's global generator."""
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = plan(50)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert same(one, plan(50))


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_traversal_is_a_permutation(count: int) -> None:
    """Without weights every clip comes once."""
    assert sorted(plan(count).first.tolist()) == list(range(count))


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_draws_follow_the_weights() -> None:
    """Of 200,000 draws, ten groups of clips get their shares of the weight (chi-square, 9 degrees: 34 is p = 1e-4)."""
    group = np.arange(200_000) % 10
    drawn = np.bincount(group[plan(group + 1.0, seed=1).first], minlength=10)
    assert chi_square(drawn, 200_000 * np.arange(1, 11) / 55) < 34


def test_classes_are_balanced() -> None:
    """Single-label clips of very unequal classes are drawn equally often by class (4 degrees: 24 is p = 1e-4)."""
    of_clip = np.repeat(np.arange(CLASSES), [10_000, 5000, 4000, 900, 100])
    drawn = np.bincount(of_clip[plan(clip_weights(labels_of([[int(c)] for c in of_clip]))).first])
    assert chi_square(drawn, np.full(CLASSES, 4000.0)) < 24


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_mixup_rate(rate: float) -> None:
    """The share of mixed clips is the rate (within five deviations); where nothing is mixed the share is 1."""
    one = plan(50_000, rate=rate)
    mixed = one.second >= 0
    assert abs(mixed.mean() - rate) <= 5 * np.sqrt(rate * (1 - rate) / 50_000)
    assert (one.second[~mixed] == -1).all()
    assert (one.share[~mixed] == 1).all()
    assert one.share.dtype == np.float32


def test_mixup_does_not_change_who_is_read() -> None:
    """The first clips of a plan are the same whatever the mixup."""
    assert np.array_equal(plan(1000, rate=0).first, plan(1000, rate=1).first)


@pytest.mark.parametrize("alpha", [0.5, 10.0])
def test_shares_are_beta(alpha: float) -> None:
    """Shares lie in [0, 1] with the mean 1/2 and the variance 1 / (4 (2 alpha + 1)) of Beta(alpha, alpha)."""
    share = EpochPlan(200_000, 1.0, alpha, 0, 0).share.astype(np.float64)
    variance = 1 / (4 * (2 * alpha + 1))
    assert share.min() >= 0
    assert share.max() <= 1
    assert share.mean() == pytest.approx(0.5, abs=5 * np.sqrt(variance / 200_000))
    assert share.var() == pytest.approx(variance, rel=0.02)


def test_the_second_is_uniform() -> None:
    """The second clip is uniform whatever the weights (9 degrees: 34 is p = 1e-4), and does not follow the first."""
    group = np.arange(100_000) % 10
    one = plan(group.astype(np.float64), rate=1.0)
    assert chi_square(np.bincount(group[one.second], minlength=10), np.full(10, 10_000.0)) < 34
    assert abs(np.corrcoef(one.first, one.second)[0, 1]) < 0.02


@given(st.lists(st.sampled_from([0.0, 0.0, 1e-300, 0.5, 3.0]), min_size=1, max_size=30), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_weight_zero_is_never_first(weights: list[float], seed: int) -> None:
    """A clip of weight 0 is never drawn, wherever it stands."""
    if not any(weights):
        return
    assert (np.array(weights)[plan(np.array(weights), seed).first] > 0).all()


@pytest.mark.parametrize("epochs", [1, 3])
def test_unseen_share(epochs: int) -> None:
    """The share of clips not drawn in k epochs is, on average, the mean of (1 - p)^(N k)."""
    weights = np.array([1.0] * 30 + [5.0] * 15 + [0.0] * 5)
    p = weights / weights.sum()
    runs = []
    for seed in range(300):
        seen = np.unique(np.concatenate([plan(weights, seed, e).first for e in range(epochs)]))
        runs.append(1 - len(seen) / 50)
    assert np.mean(runs) == pytest.approx(((1 - p) ** (50 * epochs)).mean(), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.5, 10.0), "at least one clip; got 0"),
        ((np.zeros(0), 0.5, 10.0), r"shape \(0,\)"),
        ((np.ones((2, 2)), 0.5, 10.0), r"shape \(2, 2\)"),
        ((np.array([1.0, -1.0]), 0.5, 10.0), "not negative"),
        ((np.array([1.0, np.nan]), 0.5, 10.0), "finite"),
        ((np.array([1.0, np.inf]), 0.5, 10.0), "finite"),
        ((np.zeros(3), 0.5, 10.0), "all weights are 0"),
        ((5, 1.5, 10.0), r"mixup_rate must lie in \[0, 1\]; got 1.5"),
        ((5, float("nan"), 10.0), "mixup_rate"),
        ((5, 0.5, 0.0), "mixup_alpha must be above 0; got 0.0"),
        ((5, 0.5, float("nan")), "mixup_alpha"),
    ],
)
def test_refusals(arguments: tuple, message: str) -> None:
    """A plan that cannot be drawn is refused with its reason."""
    with pytest.raises(ValueError, match=message):
        EpochPlan(*arguments, seed=0, epoch=0)


def test_smoothing_below_zero_is_refused() -> None:
    """A negative smoothing is refused with its value."""
    with pytest.raises(ValueError, match="smoothing must be 0 or more; got -1"):
        clip_weights(labels_of([[0]]), -1)


@given(
    st.integers(1, 17), st.lists(st.integers(0, 40), min_size=2, max_size=6), st.sampled_from(["masks", "drop_connect"])
)
@settings(deadline=None, max_examples=60)
def test_uniforms_do_not_depend_on_the_cuts(width: int, cuts: list[int], stream: str) -> None:
    """The numbers of a position are the same in whatever pieces they are asked for."""
    cuts = sorted(cuts)
    whole = positional_uniforms(5, 2, stream, 0, 40, width)
    pieces = [positional_uniforms(5, 2, stream, a, b, width) for a, b in pairwise(cuts)]
    assert np.array_equal(np.concatenate(pieces), whole[cuts[0] : cuts[-1]])
    assert whole.shape == (40, width)


def test_uniforms_are_uniform_and_apart() -> None:
    """The numbers fill [0, 1) evenly; seeds, epochs, streams and positions have different ones."""
    drawn = positional_uniforms(0, 0, "masks", 0, 20_000, 5)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert chi_square(np.histogram(drawn, 10, (0, 1))[0], np.full(10, 10_000.0)) < 34
    assert len(np.unique(drawn)) == drawn.size
    for key in ((1, 0, "masks"), (0, 1, "masks"), (0, 0, "drop_connect")):
        assert not np.isin(positional_uniforms(*key, 0, 1000, 5), drawn[:1000]).any()
    with pytest.raises(KeyError):
        positional_uniforms(0, 0, "weather", 0, 1, 1)
