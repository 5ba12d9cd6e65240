"""Laws of the verdicts: a real difference is found, none is not invented, luck is counted as what it is."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from lab_fixture import write_lab
from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.lab.tables.claims import BestMember, Claim, ClaimError, Pair, load_claims
from psla.lab.tables.folder import Measured
from psla.lab.tables.rows import Catalogue
from psla.lab.tables.verdicts import CONTRADICTED, NOT_RESOLVED, NOT_TESTED, SUPPORTED, Scoring, contrast, judge
from psla.metrics.predictions import Predictions
from psla.metrics.resampling import DrawnScore, Draws, mean_score
from psla.metrics.scores import score
from psla.metrics.significance import SeedPrior, estimate, holm, seed_prior

VOCABULARY = Vocabulary([f"c{i}" for i in range(5)])
SHARES = [0.3, 0.2, 0.15, 0.1, 0.06]


def simulated(
    seed: int, gains: list[float], seeds: int = 3, clips: int = 300, luck: float = 0.15
) -> tuple[list[dict[int | None, Predictions]], Labels]:
    """A row for each gain, a file for each seed: clips are hard for all alike, a training is lucky for itself."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((clips, len(VOCABULARY))) < SHARES
    ids, common = [f"clip{i}" for i in range(clips)], rng.normal(size=matrix.shape)
    rows = []
    for gain in gains:
        row: dict[int | None, Predictions] = {}
        for each in range(seeds):
            own = 0.5 * rng.normal(size=matrix.shape)
            values = matrix * (1 + gain + luck * rng.normal()) + common + own
            row[each] = Predictions((1 / (1 + np.exp(-values))).astype(np.float32), ids, VOCABULARY)
        rows.append(row)
    return rows, Labels.from_matrix(ids, matrix, VOCABULARY)


def drawn(rows: list[dict[int | None, Predictions]], labels: Labels, resamples: int) -> tuple[list[dict], Draws]:
    draws = Draws(labels, resamples)
    return [{seed: draws.score(file) for seed, file in row.items()} for row in rows], draws


def p_values(trials: int, gain: float, seeds: int = 3, resamples: int = 60, clips: int = 300) -> np.ndarray:
    """(trials, 2) two-sided p and the sign of the difference, of one pair of rows."""
    found = []
    for trial in range(trials):
        rows, labels = simulated(trial, [0.0, gain], seeds, clips)
        (worse, better), draws = drawn(rows, labels, resamples)
        difference = contrast([(1, better), (-1, worse)], draws.units)
        found.append((difference.p, math.copysign(1, difference.value)))
    return np.array(found)


def most(trials: int, rate: float = 0.05) -> float:
    """The share of alarms that a rate exceeds once in a thousand times."""
    return stats.binom.ppf(0.999, trials, rate) / trials


def test_no_difference_raises_few_alarms():
    """Three seeds, 300 clips, no difference: at most one alarm in twenty, as far as 120 trials can tell."""
    assert (p_values(120, 0.0)[:, 0] < 0.05).mean() <= most(120)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "clips"), [(3, 300), (2, 300), (5, 300), (1, 300), (3, 1000)])
def test_no_difference_raises_few_alarms_closely(seeds: int, clips: int):
    """The same with 1000 trials and other numbers; with one seed the luck of training is left out, so none is made."""
    if seeds == 1:
        found = []
        for trial in range(1000):
            rows, labels = simulated(trial, [0.0, 0.0], 1, clips, luck=0.0)
            (worse, better), draws = drawn(rows, labels, 60)
            found.append(contrast([(1, better), (-1, worse)], draws.units).p)
        alarms = np.mean(np.array(found) < 0.05)
    else:
        alarms = (p_values(1000, 0.0, seeds, clips=clips)[:, 0] < 0.05).mean()
    assert alarms <= most(1000)


def test_percentiles_of_three_pairs_raise_too_many_alarms():
    """Why the interval is not taken from draws of pairs: those leave out zero far too often where nothing differs."""
    rng, alarms, trials = np.random.default_rng(0), 0, 2000
    for _ in range(trials):
        pairs = rng.normal(size=3)
        means = np.quantile(rng.choice(pairs, (200, 3)).mean(axis=1), [0.025, 0.975])
        alarms += not means[0] <= 0 <= means[1]
    assert alarms / trials > 3 * 0.05


def abstract(
    rng: np.random.Generator, rows: int, effect: float, deviations: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, seeds) scores and (rows, draws) what clips do to a row's seeds alike; every second row gains `effect`."""
    clips = 0.3
    gains = effect * (np.arange(rows) % 2)
    own = clips * rng.normal(size=rows) + gains
    exact = own[:, None] + np.reshape(deviations * np.ones(rows), (-1, 1)) * rng.normal(size=(rows, 3))
    return exact, clips * rng.normal(size=(rows, 40))


def decided(exact: np.ndarray, clips: np.ndarray, borrow: bool) -> np.ndarray:
    """The Holm-corrected p-values of each row against the one before it."""
    prior = seed_prior(exact.var(axis=1, ddof=1).tolist(), [2] * len(exact)) if borrow else None
    found = []
    for a in range(0, len(exact) - 1, 2):
        shared = np.repeat((clips[a + 1] - clips[a])[None], 3, axis=0)
        found.append(estimate(exact[a + 1] - exact[a], shared, 1000, prior=prior, trainings=2).p)
    return np.array(holm(found))


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_borrowing_from_other_rows_keeps_the_rate(spread: float):
    """Twelve rows without a difference: any alarm among the corrected in at most one lab of twenty, also where one row
    has three times the luck of the others."""
    rng, labs = np.random.default_rng(1), 100
    deviations = np.ones(12)
    deviations[5] = spread
    alarms = sum(bool((decided(*abstract(rng, 12, 0.0, deviations), True) < 0.05).any()) for _ in range(labs))
    assert alarms / labs <= most(labs)


def test_borrowing_finds_what_three_seeds_alone_do_not():
    """Differences of five deviations of a training: borrowed luck resolves most of them, three seeds alone few."""
    rng, labs = np.random.default_rng(2), 12
    found = np.array([[decided(*data, b) < 0.05 for b in (True, False)] for data in
                      (abstract(rng, 12, 5.0) for _ in range(labs))])  # fmt: skip
    assert found[:, 0].mean() > 0.8
    assert found[:, 1].mean() < 0.5


def claim(worse="a", better="b", **more) -> Claim:
    return Claim(id="x", text="B helps.", where="Table I", worse=worse, better=better, **more)


class Made:
    """What `judge` needs of a lab, from scores at hand."""

    def __init__(self, rows, units: int, best=None) -> None:
        from psla.lab.tables.verdicts import Scored

        self.rows = {name: Scored(scores, (best or {}).get(name, {})) for name, scores in rows.items()}
        self.draws = type("", (), {"unit": "clip", "units": units})()
        self.lab = type("", (), {"rows": {}})()

    def __contains__(self, name):
        return name in self.rows

    def __getitem__(self, name):
        return self.rows[name]

    def prior_of(self, claim):
        return None


@pytest.mark.parametrize(("gain", "status"), [(1.5, SUPPORTED), (-1.0, CONTRADICTED), (0.0, NOT_RESOLVED)])
def test_a_known_difference_is_judged_rightly(gain: float, status: str):
    """Three seeds and 300 clips: a large gain is supported, a large loss contradicted, none is not resolved."""
    for trial in range(5):
        rows, labels = simulated(trial, [0.0, gain], luck=0.03)
        (a, b), draws = drawn(rows, labels, 100)
        (verdict,) = judge([claim()], Made({"a": a, "b": b}, draws.units))
        assert verdict.status == status
        exact = [score(row[s], labels).mean_average_precision for row in rows for s in range(3)]
        assert verdict.difference.value == pytest.approx(np.mean(exact[3:]) - np.mean(exact[:3]), abs=1e-9)
        assert (verdict.worse, verdict.better) == pytest.approx((np.mean(exact[:3]), np.mean(exact[3:])), abs=1e-9)


def test_the_variance_has_its_two_parts():
    """Where only trainings differ there is no part from clips; where all seeds agree there is none from seeds."""
    rng = np.random.default_rng(0)
    clips = rng.normal(size=500)
    training = estimate(np.array([0.0, 1.0, 2.0]), np.array([[0.0] * 500, [1.0] * 500, [2.0] * 500]), 100)
    assert training.clips_std == 0
    assert training.seeds_std == pytest.approx(1 / math.sqrt(3))
    assert training.p == pytest.approx(stats.ttest_1samp([0.0, 1.0, 2.0], 0).pvalue)
    steady = estimate(np.array([1.0, 1.0, 1.0]), np.tile(clips, (3, 1)), 100)
    assert (steady.seeds_std, steady.training_std) == (0, 0)
    assert steady.clips_std == pytest.approx(clips.std(ddof=1))
    own = estimate(np.zeros(1), clips[None], 100)
    assert own.seeds_std is None
    assert own.high == pytest.approx(stats.t.ppf(0.975, 99) * clips.std(ddof=1))


def test_one_seed_says_what_it_leaves_out():
    """With one pair of models the verdict says that the variance of training is left out."""
    rows, labels = simulated(3, [0.0, 2.0], seeds=1)
    (a, b), draws = drawn(rows, labels, 100)
    (verdict,) = judge([claim()], Made({"a": a, "b": b}, draws.units))
    assert verdict.status == SUPPORTED
    assert "variance of training is left out" in verdict.reason


def test_what_is_missing_is_not_tested():
    """A missing row, no seed in common and no ensemble: not tested, with the reason; they do not count for Holm."""
    rows, labels = simulated(4, [0.0, 2.0], luck=0.03)
    (a, b), draws = drawn(rows, labels, 100)
    made = Made({"a": a, "b": b, "c": {7: a[0]}}, draws.units)
    claims = [claim(), claim("a", "z"), claim("a", "c"), claim(BestMember(best_member_of="a"), "b")]
    verdicts = judge(claims, made)
    assert [verdict.status for verdict in verdicts] == [SUPPORTED, NOT_TESTED, NOT_TESTED, NOT_TESTED]
    assert "row z: not run" in verdicts[1].reason
    assert "no seed in common" in verdicts[2].reason
    assert "no ensemble" in verdicts[3].reason
    assert verdicts[0].p == pytest.approx(verdicts[0].difference.p)
    assert judge([claim(), claim()], made)[0].p == pytest.approx(2 * verdicts[0].difference.p)


def test_a_gain_beyond_another_is_a_difference_of_differences():
    """`beyond` takes the other pair's gain away, seed by seed; what pools all seeds goes with each of them."""
    scores = {name: {s: DrawnScore(x + s, np.full(9, x)) for s in range(3)} for name, x in zip("abcd", (1, 5, 2, 3),
              strict=True)}  # fmt: skip
    pooled = {**scores, "d": {None: DrawnScore(3.0, np.full(9, 3.0))}}
    for rows in (scores, pooled):
        (verdict,) = judge([claim(beyond=Pair(worse="c", better="d"))], Made(rows, 100))
        expected = [(5 - 1) - ((3 + (s if rows is scores else 0)) - (2 + s)) for s in range(3)]
        assert verdict.difference.value == pytest.approx(np.mean(expected))
        assert (verdict.worse, verdict.better) == (2.0, 6.0)


def test_interval_and_p_value_are_those_of_student():
    """With one part alone, interval and p-value are Student's, whole degrees of freedom or not, far out or near; with
    two, the interval at the level of the p-value just reaches 0."""
    flat = np.zeros((2, 9))
    for degrees in (0.7, 1, 2.5, 30, 1e6):
        prior = SeedPrior(variance=1.0, degrees=degrees)
        student = stats.t(1 + degrees, scale=math.sqrt((degrees + 0.5) / (1 + degrees) / 2))
        for value in (0.0, 0.1, 1.0, 4.0):
            exact = np.array([value - 0.5, value + 0.5])
            for level in (0.5, 0.95, 0.9999):
                found = estimate(exact, flat, 100, level, prior)
                assert found.p == pytest.approx(2 * student.sf(value), rel=1e-6)
                half = student.ppf((1 + level) / 2)
                assert (found.low, found.high) == pytest.approx((value - half, value + half))
    drawn = np.random.default_rng(0).normal(size=(1, 50)) + np.zeros((2, 1))
    for value in (0.5, 3.0, 30.0):
        exact = np.array([value - 0.5, value + 0.5])
        level = 1 - estimate(exact, drawn, 100).p
        assert estimate(exact, drawn, 100, level).low == pytest.approx(0, abs=1e-6)


def test_the_prior_is_where_the_spread_of_the_variances_is_explained():
    """Half the degrees of freedom is where trigamma is the spread of the log variances beyond that of their seeds."""
    variances, degrees = [0.2, 1.0, 9.0, 0.5, 30.0, 2.0], [2, 2, 3, 2, 4, 2]
    prior, half = seed_prior(variances, degrees), np.array(degrees) / 2
    logs = np.log(variances) - special.digamma(half) + np.log(half)
    excess = logs.var(ddof=1) - special.polygamma(1, half).mean()
    assert special.polygamma(1, prior.degrees / 2) == pytest.approx(excess, rel=1e-6)
    mean = logs.mean() + special.digamma(prior.degrees / 2) - math.log(prior.degrees / 2)
    assert prior.variance == pytest.approx(math.exp(mean), rel=1e-6)


def test_holm_is_the_known_example():
    """Steps of m, m - 1, ... and never falling; bounded by 1; the order of the input does not matter."""
    assert holm([0.005, 0.01, 0.03, 0.04]) == pytest.approx([0.02, 0.03, 0.06, 0.06])
    assert holm([0.04, 0.005, 0.03, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_paper_claims_name_rows_that_exist():
    """Every claim's rows are rows of the package, so that a lab with all rows leaves no claim untested for a name."""
    rows = Catalogue.load().rows
    claims = load_claims()
    assert len(claims) >= 30
    for each in claims:
        assert set(each.rows) <= set(rows), each.id
        for worse, better in each.paper.values():
            assert 0 < worse < 1
            assert 0 < better < 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "must hold a list"),
        ("- {id: a}", "claim 1: "),
        ("- {id: a, text: t, where: w, worse: x, better: y, colour: red}", "colour"),
        ("- {id: a, text: t, where: w, worse: x, better: y, paper: {full: [0.1]}}", "two numbers"),
        ("- &c {id: a, text: t, where: w, worse: x, better: y}\n- *c", "more than once: a"),
        ("- [", "not YAML"),
    ],
)
def test_bad_claims_are_refused(tmp_path: Path, text: str, message: str):
    """A list of claims that breaks a rule is refused in one sentence."""
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ClaimError, match=message) as error:
        load_claims(path)
    assert "\n" not in str(error.value)


def test_rows_of_the_same_runs_borrow_nothing(tmp_path: Path):
    """The luck of other rows is borrowed for rows trained apart, not within an ensemble; rows of one run count once."""
    scores = Scoring(Measured(write_lab(tmp_path / "lab", held_out=60)), resamples=20)
    assert scores.prior_of(claim("masking", "mixup")) is scores.prior
    assert scores.prior_of(claim("mixup", "start_sweep")) is None  # the same runs
    assert scores.prior_of(claim(BestMember(best_member_of="ensemble_pretraining"), "ensemble_pretraining")) is None
    names = (
        "baseline",
        "pretraining",
        "sampling",
        "masking",
        "mixup",
        "share_10_none",
        "share_10_imagenet",
        "pooling_4",
    )
    variances = [np.var([each.exact for each in scores[name].by_seed.values()], ddof=1) for name in names]
    assert scores.prior == seed_prior(variances, [2] * 8)


def test_scores_are_those_of_the_files(tmp_path: Path):
    """A row's score is the mean of its files' scores, an ensemble's that of the mean of probabilities."""
    lab = Measured(write_lab(tmp_path / "lab", held_out=60))
    scores = Scoring(lab, resamples=20)
    for name in ("mixup", "ensemble_pretraining", "ensemble_seeds"):
        for entry in lab.rows[name].seeds:
            found = scores[name].by_seed[entry.seed].exact
            assert found == pytest.approx(entry.scores["mean_average_precision"], abs=1e-6)
    files = [Predictions.read(lab.path(path)) for path in lab.rows["mixup"].seeds[0].predictions]
    again = mean_score([scores.draws.score(file) for file in files])
    assert np.array_equal(again.drawn, scores["mixup"].by_seed[0].drawn)
