"""Laws of the statistics: counts, label errors, coverage and moments are their definitions; the lists' figures."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pictures import check_drawn
from psla.audio.decode import AudioError
from psla.cli import app
from psla.corpora.audioset import read_lists
from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.ontology import Ontology
from psla.data.source import ArraySource
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.lab.moments import MomentsError, measure
from psla.lab.statistics import StatisticsError, audit, audit_all, child_classes, count, coverage
from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig
from psla.report import figures
from psla.techniques.sampling import EpochPlan, clip_weights, expected_unseen, simulated_unseen

pytestmark = pytest.mark.usefixtures("one_thread")

LISTS = Path(__file__).parents[2] / "shared/data/audioset"
needs_lists = pytest.mark.skipif(not LISTS.is_dir(), reason="the published segment lists are not here")
SPEECH, MALE, FEMALE, CHILD = "/m/09x0r", "/m/05zppz", "/m/02zsn", "/m/0ytgt"


# d is below b through the outside class x, and below c directly; e is below x and below d.
GRAPH = Ontology({"a": [], "b": ["a"], "c": ["a"], "x": ["b"], "d": ["x", "c"], "e": ["x", "d"], "alone": []})
VOCABULARY = Vocabulary(["alone", "a", "b", "c", "d", "e"])


def labels_of(sets: list) -> Labels:
    return Labels.from_sets([f"clip{i}" for i in range(len(sets))], sets, VOCABULARY)


label_sets = st.lists(st.sets(st.sampled_from(VOCABULARY.ids)), min_size=1, max_size=25)


@given(label_sets, st.sampled_from([0.0, 10.0]))
@settings(max_examples=60)
def test_counts_are_the_definition(sets: list[set[str]], smoothing: float) -> None:
    """Clips a class, labels a clip, and the expected draws: clips times the class's share of the weight."""
    if not any(sets):
        with pytest.raises(StatisticsError, match=f"{len(sets)} clips without one label"):
            count(labels_of(sets))
        return
    counts = count(labels_of(sets), smoothing)
    weights = clip_weights(labels_of(sets), smoothing)
    assert counts.clips == len(sets)
    assert counts.labels == sum(map(len, sets))
    assert counts.unlabelled == sum(not own for own in sets)
    assert [sum(len(own) == n for own in sets) for n in range(len(counts.labels_per_clip))] == list(
        counts.labels_per_clip
    )
    for each in counts.classes:
        has = np.array([each.id in own for own in sets])
        assert each.clips == has.sum()
        assert each.drawn == pytest.approx(len(sets) * weights[has].sum() / weights.sum())
        assert each.heard(0.5) == pytest.approx(each.drawn + 0.5 * each.clips)
    occurring = [each.clips for each in counts.classes if each.clips]
    assert counts.imbalance == max(occurring) / min(occurring)
    assert [each.clips for each in counts.ranked] == sorted(occurring, reverse=True)
    assert {each.id for each in counts.absent} == set(VOCABULARY.ids) - set().union(*sets)


def test_draws_are_those_of_plans() -> None:
    """The expected draws of a class are, within five deviations, what plans draw on average."""
    sets = [["a"]] * 300 + [["a", "b"]] * 60 + [["c"]] * 30 + [[]] * 10
    labels = labels_of(sets)
    matrix, runs = labels.matrix(), []
    for epoch in range(100):
        plan = EpochPlan(clip_weights(labels), 1.0, 10.0, 0, epoch)
        runs.append([matrix[plan.first].sum(0), matrix[plan.second].sum(0)])
    first, second = np.mean(runs, axis=0)
    drawn = np.array([each.drawn for each in count(labels).classes])
    assert np.abs(first - drawn).max() <= 5 * math.sqrt(100 / 100)
    assert np.abs(first + second - [each.heard(1.0) for each in count(labels).classes]).max() <= 8


@pytest.mark.parametrize(
    ("parent", "children"), [("a", ["b", "c"]), ("b", ["d", "e"]), ("c", ["d"]), ("d", ["e"]), ("e", []), ("alone", [])]
)
def test_children_pass_through_what_is_outside(parent: str, children: list[str]) -> None:
    """The children of a class are the nearest of the vocabulary below it; a class of the vocabulary ends the walk."""
    assert child_classes(GRAPH, VOCABULARY, parent) == children


@given(label_sets)
@settings(max_examples=60)
def test_the_audit_is_the_definition(sets: list[set[str]]) -> None:
    """Type I: the parent and none of its children; type II: a child and not the parent; child by child, too."""
    labels = labels_of(sets)
    found = {each.id: each for each in audit_all(labels, GRAPH)}
    assert set(found) == {"a", "b", "c", "d"}
    for parent, each in found.items():
        children = set(child_classes(GRAPH, VOCABULARY, parent))
        assert each.clips == sum(parent in own for own in sets)
        assert each.parent_without_child == sum(parent in own and not own & children for own in sets)
        assert each.child_without_parent == sum(parent not in own and bool(own & children) for own in sets)
        assert {child.id for child in each.children} == children
        for child in each.children:
            assert child.clips == sum(child.id in own for own in sets)
            assert child.without_parent == sum(child.id in own and parent not in own for own in sets)


def test_audits_are_sorted_and_can_be_narrowed() -> None:
    """All audits come with the most type II errors first; one may look at chosen classes below the parent only."""
    labels = labels_of([["b"], ["b"], ["d"], ["a", "d"], ["a"]])
    assert [each.id for each in audit_all(labels, GRAPH)][:2] == ["a", "b"]
    narrow = audit(labels, GRAPH, "a", ["d"])
    assert [child.id for child in narrow.children] == ["d"]
    assert (narrow.parent_without_child, narrow.child_without_parent) == (1, 1)


def test_what_cannot_be_audited() -> None:
    """A class without children, one that is not below the parent, and unknown ones are refused by name."""
    labels = labels_of([["a"]])
    with pytest.raises(StatisticsError, match=r"'alone' \(alone\) has no child in this vocabulary"):
        audit(labels, GRAPH, "alone")
    with pytest.raises(StatisticsError, match=r"'a' \(a\) is not below 'b' \(b\)"):
        audit(labels, GRAPH, "b", ["d", "a"])
    with pytest.raises(VocabularyError, match="'x'"):
        audit(labels, GRAPH, "x")


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.0]), min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=40)
def test_expected_coverage_is_the_definition(weights: list[float], epochs: int) -> None:
    """A clip is unheard after k epochs if it was neither drawn nor mixed in at any of the N k places."""
    if not any(weights):
        return
    n, total = len(weights), sum(weights)
    found = expected_unseen(np.array(weights), epochs, [0.0, 0.3, 1.0])
    for rate, curve in found.items():
        for k in range(1, epochs + 1):
            want = [((1 - w / total) * (1 - rate / n)) ** (n * k) for w in weights]
            assert curve[k - 1] == pytest.approx(sum(want) / n, rel=1e-9, abs=1e-12)


def test_simulated_coverage_is_counted_in_plans() -> None:
    """The simulated curve is what the plans of the run leave out, at every rate, also where they are asked together."""
    weights = np.random.default_rng(0).random(400) ** 4
    rates = [0.0, 0.5, 1.0]
    together = simulated_unseen(weights, 4, rates, seed=3)
    for rate in rates:
        heard: set[int] = set()
        alone = simulated_unseen(weights, 4, [rate], seed=3)[rate]
        assert np.array_equal(alone, together[rate])
        for epoch in range(4):
            plan = EpochPlan(weights, rate, 10.0, 3, epoch)
            heard |= {*plan.first.tolist(), *plan.second.tolist()} - {-1}
            assert together[rate][epoch] == pytest.approx(1 - len(heard) / 400)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_both_routes_agree(rate: float) -> None:
    """Expected and simulated coverage agree within what 20,000 clips let them differ."""
    weights = np.random.default_rng(1).random(20_000) ** 8
    expected = expected_unseen(weights, 6, [rate])[rate]
    simulated = simulated_unseen(weights, 6, [rate], seed=2)[rate]
    assert np.abs(expected - simulated).max() < 0.01
    assert (np.diff(expected) <= 0).all()
    assert (np.diff(simulated) <= 0).all()


@pytest.mark.parametrize(
    ("weights", "epochs", "rate", "message"),
    [
        ([1.0], 0, 0.0, "1 epoch or more; got 0"),
        ([0.0, 0.0], 1, 0.0, "not all 0"),
        ([1.0, -1.0], 1, 0.0, "not negative"),
        ([1.0, math.nan], 1, 0.0, "finite"),
        ([1.0], 1, 1.1, r"must lie in \[0, 1\]; got 1.1"),
    ],
)
def test_coverage_refusals(weights: list[float], epochs: int, rate: float, message: str) -> None:
    """Coverage of nothing, or at a rate that is none, is refused."""
    for route in (expected_unseen, simulated_unseen):
        with pytest.raises(ValueError, match=message):
            route(np.array(weights), epochs, [rate])


class Clippings(ArraySource):
    """Waveforms of many lengths, one silent, one too short, one that cannot be read."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        lengths = [*generator.integers(400, 40_000, 20).tolist(), 5000, 399, 5000]
        waves = [generator.integers(-9000, 9000, length, dtype=np.int16) for length in lengths]
        waves[20][:] = 7
        super().__init__([f"c{i}" for i in range(23)], waves, 16000)

    def read(self, index: int) -> np.ndarray:
        if index == 22:
            raise AudioError("c22.wav", "is broken")
        return super().read(index)


def test_moments_are_those_of_all_values() -> None:
    """Mean and deviation are those of the log-mels of all clips put together, cut as the network is given them."""
    config = FrontEndConfig(frames=150, mel_bins=32)
    front, source = FrontEnd(config), Clippings()
    values = []
    for index in range(21):
        wave = torch.from_numpy(source.read(index)[: config.window_samples].copy())
        values.append(front.log_mel(wave[None]).double().flatten())
    together = torch.cat(values)
    done: list[int] = []
    found = measure(source, config, clips=50, progress=done.append)
    assert found.mean == pytest.approx(together.mean().item(), rel=1e-9)
    assert found.std == pytest.approx(together.std(correction=0).item(), rel=1e-9)
    assert (found.clips, found.clips_total, found.silent, found.too_short) == (21, 23, 1, 1)
    assert found.rejected == {"c22": "c22.wav: is broken"}
    assert found.frames == len(together) // 32
    assert sum(done) == 23


def test_moments_normalise() -> None:
    """A front end with the measured mean and deviation gives log-mels of mean 0 and deviation 1."""
    generator = np.random.default_rng(2)
    waves = [generator.integers(-500, 500, 17_000, dtype=np.int16) for _ in range(4)]
    found = measure(ArraySource(list("abcd"), waves, 16000))
    front = FrontEnd(FrontEndConfig(mean=found.mean, std=found.std))
    normal = front.normalise(front.log_mel(torch.from_numpy(np.stack(waves)))).double()
    assert normal.mean().item() == pytest.approx(0, abs=1e-5)
    assert normal.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_the_sample_is_its_seed() -> None:
    """The same seed draws the same clips, another seed others; the sample is stated."""
    source = Clippings()
    one, same, other = (measure(source, clips=5, seed=seed) for seed in (1, 1, 3))
    assert one == same
    assert one.mean != other.mean
    assert one.clips + one.too_short + len(one.rejected) == 5


def test_nothing_to_measure() -> None:
    """Clips without one frame, or none that can be read, are refused with the reason."""
    with pytest.raises(MomentsError, match=r"none of 1 clips.*shorter than a frame"):
        measure(ArraySource(["a"], [np.zeros(10, dtype=np.int16)], 16000))
    with pytest.raises(ValueError, match="1 clip or more; got 0"):
        measure(Clippings(), clips=0)


def test_rows_of_a_class() -> None:
    """The rows of a class are the clips that carry it; a selection of clips keeps their labels."""
    labels = labels_of([["a", "c"], [], ["c"], ["a"]])
    assert [labels.rows_with(id).tolist() for id in ("a", "b", "c")] == [[0, 3], [], [0, 2]]
    chosen = labels.select(["clip3", "clip1", "clip0"])
    assert np.array_equal(chosen.matrix(), labels.matrix(np.array([3, 1, 0])))
    assert chosen.clip_ids == ["clip3", "clip1", "clip0"]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Soundscapes: a table of clips whose sound can be measured."""
    path = tmp_path_factory.mktemp("corpus") / "clips.parquet"
    run("corpus", "soundscape", "--clips", 40, "--evaluation-clips", 5, "--seconds", 0.3, "--out", path)
    return path


def test_stats_prints_what_it_counts(corpus: Path, tmp_path: Path) -> None:
    """`psla stats` gives the same figures as text, as JSON and in the folder, and draws the pictures."""
    options = ["stats", corpus, "--log-mel", "--sample", 6, "--epochs", 4, "--out", tmp_path / "s"]
    options += ["--parent", "Animal"]
    text, data = run(*options), json.loads(run(*options, "--json"))
    clips = Clips.read(corpus).split("train")
    counts = count(clips.labels())
    assert data["clips"] == 40
    assert data["labels"] == counts.labels
    assert {each["id"]: each["clips"] for each in data["classes"]} == {each.id: each.clips for each in counts.classes}
    assert json.loads((tmp_path / "s/stats.json").read_text()) == data
    for name in ("class_counts.png", "coverage.png"):
        check_drawn(tmp_path / "s" / name)
    assert "40 clips" in text
    assert f"front_end.mean={data['log_mel']['mean']:.4f}" in text
    assert "6 of 40 clips (seed 0)" in text
    assert data["log_mel"]["clips"] == 6
    assert [each["mixup_rate"] for each in data["coverage"]] == [0.0, 0.5, 1.0]
    assert len(data["coverage"][0]["simulated"]) == 4
    (animal,) = data["label_errors"]
    assert animal["clips"] == len(clips.labels().rows_with(animal["id"]))
    assert all(child["name"] in text for child in animal["children"])
    assert counts.ranked[0].name in text
    assert counts.ranked[-1].name in text


def test_stats_of_a_recipe_and_of_a_split(corpus: Path) -> None:
    """Another split, other rates, another recipe's front end and no simulation are what they say."""
    data = json.loads(
        run("stats", corpus, "--split", "evaluation", "--mixup-rate", 0.25, "--no-simulate", "--epochs", 2,
            "--log-mel", "--sample", 0, "--recipe", "demo", "--json")
    )  # fmt: skip
    assert data["clips"] == data["log_mel"]["clips"] == 5
    assert [(each["mixup_rate"], each["simulated"]) for each in data["coverage"]] == [(0.25, None)]
    assert data["log_mel"]["front_end"]["mel_bins"] == 128
    assert json.loads(run("stats", corpus, "--split", "all", "--epochs", 1, "--json"))["clips"] == 45


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "test"], "--split must be one of"),
        (["--split", "validation"], "no clip in the split 'validation'"),
        (["--parent", "Animl"], "'Animl' is not a class"),
        (["--parent", "Cricket"], "has no child in this vocabulary"),
        (["--child", "Animal"], "--child needs --parent"),
        (["--parent", "Insect", "--child", "Animal"], "is below no class of --parent"),
        (["--mixup-rate", "1.5"], "mixup rate must lie in [0, 1]; got 1.5"),
    ],
)
def test_stats_refusals(corpus: Path, options: list[str], message: str) -> None:
    """What cannot be counted ends in one sentence and exit code 2."""
    result = CliRunner().invoke(app, ["stats", str(corpus), "--epochs", "1", *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize("classes", [5, 90])
def test_pictures(tmp_path: Path, classes: int) -> None:
    """Counts and coverage are drawn for few classes and many, odd names and all; nothing to draw is refused."""
    names = [f"class $n_{i}" for i in range(classes)]
    clips = [2**i % 9973 for i in range(classes - 1)] + [0]
    figures.class_counts(clips, [each + 0.5 for each in clips], names, tmp_path / "counts.svg")
    figures.unseen({"rate 0": [0.5, 0.2], "rate 1": [0.1, 0.01]}, {"rate 1": [0.1, 0.02]}, tmp_path / "unseen.svg")
    assert "class $n_1" in (tmp_path / "counts.svg").read_text()
    text = (tmp_path / "unseen.svg").read_text()
    assert "rate 0: expected" in text
    assert "rate 0: simulated" not in text
    assert "rate 1: simulated" in text
    with pytest.raises(ValueError, match="at least one class"):
        figures.class_counts([0], [0.0], ["a"], tmp_path / "none.svg")
    with pytest.raises(ValueError, match="at least one curve"):
        figures.unseen({}, {}, tmp_path / "none.svg")


@needs_lists
def test_the_balanced_list() -> None:
    """The balanced list has the published counts."""
    labels = read_lists(LISTS, ["balanced"]).labels()
    counts, speech = count(labels), audit(labels, Ontology.audioset(), SPEECH, [MALE, FEMALE, CHILD])
    assert (counts.clips, counts.labels) == (22_160, 52_882)
    assert speech.clips == 5735
    assert [child.clips for child in speech.children] == [60, 60, 154]
    assert speech.child_without_parent == 45


@needs_lists
@pytest.mark.slow
def test_the_full_lists() -> None:
    """Balanced and unbalanced list together have the published counts and the coverage of Figure 5."""
    clips = read_lists(LISTS, ["balanced", "unbalanced"])
    labels = clips.labels()
    counts, speech = count(labels), audit(labels, Ontology.audioset(), SPEECH, [MALE, FEMALE, CHILD])
    assert (counts.clips, counts.labels) == (2_063_949, 4_073_094)
    assert speech.clips == 1_005_156
    assert [child.clips for child in speech.children] == [17_653, 8438, 11_605]
    assert speech.child_without_parent == 3429
    assert (counts.ranked[0].name, counts.ranked[0].clips) == ("Music", 1_005_610)
    assert counts.ranked[-1].clips == 67
    found = {each.mixup_rate: each for each in coverage(labels, 5, [0.5])}
    assert found[0.5].expected[4] == pytest.approx(0.0435, abs=0.001)
    assert found[0.5].simulated is not None
    assert found[0.5].simulated[4] == pytest.approx(0.0435, abs=0.001)
    (plain,) = coverage(labels, 30, [0.0], simulate=False)
    assert plain.expected[29] == pytest.approx(0.4105, abs=0.001)
