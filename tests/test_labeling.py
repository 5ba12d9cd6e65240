"""Laws of label enhancement: the released label sets are reproduced, the ontology limits, ids decide."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psla.data.labels import Labels
from psla.data.ontology import Ontology, OntologyError
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.techniques import labeling
from psla.techniques.labeling import LabelingError, candidate_labels, class_thresholds, enhance, proposals

SHARED = Path(__file__).parents[2] / "shared/data"
RELEASED = SHARED / "released/label_enhancement_2000.npz"
LISTS = SHARED / "audioset/balanced_train_segments.csv"
needs_released = pytest.mark.skipif(
    not (RELEASED.exists() and LISTS.exists()), reason="the released label sets are not beside this checkout"
)


@pytest.fixture(scope="module")
def released():
    """Labels, predictions and the arrays of the released label enhancement on 2,000 clips."""
    stored = dict(np.load(RELEASED))
    with LISTS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if not row[0].startswith("#")]
    sets = {row[0]: row[3].split(",") for row in rows}
    ids = stored["clip_ids"].tolist()
    labels = Labels.from_sets(ids, [sets[id] for id in ids], Vocabulary.audioset())
    return labels, Predictions(stored["predictions"], ids, Vocabulary.audioset()), stored


def unpacked(stored: dict, name: str) -> np.ndarray:
    return np.unpackbits(stored[name], axis=1)[:, : len(Vocabulary.audioset())].astype(bool)


@needs_released
@pytest.mark.parametrize(("row", "threshold"), list(enumerate(["mean", "median", 5, 10, 25])))
def test_released_thresholds_are_reproduced(released, row, threshold):
    """Thresholds equal the released ones to the bit, NaN where no clip carries the class."""
    labels, predictions, stored = released
    np.testing.assert_array_equal(class_thresholds(labels, predictions, threshold), stored["thresholds"][row])


@needs_released
@pytest.mark.parametrize("threshold", ["mean", "median", 25])
def test_released_label_sets_are_reproduced(released, threshold):
    """Type I, type II and their union equal what the released scripts add, in any order of the clips."""
    labels, predictions, stored = released
    one, two = (unpacked(stored, f"type{kind}_{threshold}") for kind in (1, 2))
    mixed = predictions.select(predictions.clip_ids[::-1])
    for types, expected in (({"I"}, one), ({"II"}, two), ({"I", "II"}, one | two)):
        for each in (predictions, mixed):
            found = enhance(labels, each, Ontology.audioset(), types, threshold)
            np.testing.assert_array_equal(found.labels.matrix(), expected)
            np.testing.assert_array_equal(found.added.matrix(), expected & ~labels.matrix())


GRAPH = Ontology(
    {
        "sounds": [],
        "voice": ["sounds"],  # abstract: ends the walk
        "speech": ["voice"],
        "talk": ["speech"],  # outside the vocabulary, walked through
        "whisper": ["talk"],
        "murmur": ["whisper", "hum"],
        "hum": ["both"],
        "both": ["sounds"],  # abstract and blacklisted: does not end the walk
    },
    restrictions={"voice": ["abstract"], "talk": ["blacklist"], "both": ["abstract", "blacklist"]},
)
WORDS = Vocabulary(["sounds", "speech", "whisper", "murmur", "hum"])


def names(rows: tuple[tuple[int, ...], ...]) -> dict[str, set[str]]:
    return {c.id: {WORDS[i].id for i in row} for c, row in zip(WORDS, rows, strict=True)}


def test_candidates_follow_the_graph():
    """Children are direct, ancestors all; abstract ends the walk, other classes outside are walked through."""
    assert names(proposals(GRAPH, WORDS, "I")) == {
        "sounds": set(),
        "speech": set(),
        "whisper": {"murmur"},
        "murmur": set(),
        "hum": {"murmur"},
    }
    assert names(proposals(GRAPH, WORDS, "II")) == {
        "sounds": set(),
        "speech": set(),
        "whisper": {"speech"},
        "murmur": {"whisper", "hum", "speech", "sounds"},
        "hum": {"sounds"},
    }
    assert names(proposals(GRAPH, WORDS, "II", "direct")) == {
        "sounds": set(),
        "speech": set(),
        "whisper": set(),
        "murmur": {"whisper", "hum"},
        "hum": set(),
    }


def test_an_abstract_class_in_the_vocabulary_proposes_nothing_and_is_no_ancestor():
    """A class whose restrictions are exactly abstract ends the walk wherever it stands, in a vocabulary or not."""
    words = Vocabulary(["sounds", "voice", "speech"])
    assert proposals(GRAPH, words, "I") == ((1,), (), ())
    assert proposals(GRAPH, words, "II") == ((), (0,), ())


def plain(labels: Labels, predictions: Predictions, graph: Ontology, types: set[str], threshold) -> np.ndarray:
    """Algorithm 2 as it is written: loops over clips, labels and candidates."""
    vocabulary, before = labels.vocabulary, labels.matrix()
    p = predictions.select(labels.clip_ids).probabilities.astype(np.float64)
    after = before.copy()
    for i in range(len(labels)):
        for k in np.flatnonzero(before[i]):
            id = vocabulary[int(k)].id
            near = set(graph.children(id)) if "I" in types else set()
            near |= set(graph.concrete_ancestors(id)) if "II" in types else set()
            for other in near & set(vocabulary.ids):
                n = vocabulary[other].index
                originals = p[before[:, n], n]
                if len(originals):
                    limit = {"mean": np.mean, "median": np.median}.get(threshold, lambda v: np.percentile(v, threshold))
                    after[i, n] |= p[i, n] > limit(originals)
    return after


@given(st.integers(0, 10_000), st.sampled_from([{"I"}, {"II"}, {"I", "II"}]), st.sampled_from(["mean", "median", 30]))
def test_blocks_equal_the_plain_loop(seed, types, threshold):
    """Enhancement in blocks equals Algorithm 2 as it is written; predictions tie with thresholds often."""
    rng = np.random.default_rng(seed)
    clips = int(rng.integers(0, 30))
    ids = [f"c{i}" for i in range(clips)]
    labels = Labels.from_matrix(ids, rng.random((clips, len(WORDS))) < rng.random(len(WORDS)) * 0.5, WORDS)
    levels = (rng.integers(0, 5, (clips, len(WORDS))) / 4).astype(np.float16)
    predictions = Predictions(levels, ids, WORDS).select(list(rng.permutation(ids)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labeling, "CLIPS_AT_A_TIME", 7)
        found = enhance(labels, predictions, GRAPH, types, threshold)
    np.testing.assert_array_equal(found.labels.matrix(), plain(labels, predictions, GRAPH, types, threshold))
    may = candidate_labels(labels, GRAPH, types).matrix()
    assert not (found.added.matrix() & ~may).any()
    for entry, (row, c) in enumerate(zip(found.additions.rows, found.additions.classes, strict=True)):
        assert found.additions.probabilities[entry] == predictions.select([ids[row]]).probabilities[0, c]
        for kind in types:
            alone = candidate_labels(labels, GRAPH, {kind}).matrix()[row, c]
            assert found.additions.of_type(kind)[entry] == alone


def small() -> tuple[Labels, Predictions]:
    labels = Labels.from_sets(["a", "b", "c"], [["whisper"], ["murmur"], ["speech"]], WORDS)
    return labels, Predictions(np.full((3, 5), 0.5, np.float32), ["a", "b", "c"], WORDS)


def test_greater_is_strict_and_classes_without_positives_get_nothing():
    """A probability equal to the threshold adds nothing; a class without positives has no threshold and is named."""
    labels, predictions = small()
    found = enhance(labels, predictions, GRAPH)
    assert len(found.additions) == 0
    assert found.classes_without_threshold == ["sounds", "hum"]
    high = predictions.probabilities.copy()
    high[1] = 1.0
    found = enhance(labels, Predictions(high, ["a", "b", "c"], WORDS), GRAPH)
    assert found.added.ids_of(1) == ["speech", "whisper"]


def test_one_pass_only():
    """What was added proposes nothing: candidates come from the original labels."""
    chain = Ontology({"a": [], "b": ["a"], "c": ["b"]})
    words = Vocabulary(["a", "b", "c"])
    labels = Labels.from_sets(["x", "y"], [["a"], ["b", "c"]], words)
    probabilities = np.array([[0.5, 0.9, 0.9], [0.1, 0.1, 0.1]], np.float32)
    found = enhance(labels, Predictions(probabilities, ["x", "y"], words), chain, {"I"})
    assert found.labels.ids_of(0) == ["a", "b"]


def test_additions_can_be_kept_in_part():
    """Keeping all additions changes nothing; keeping none gives back the original labels."""
    labels, predictions = small()
    high = predictions.probabilities.copy()
    high[1] = 1.0
    found = enhance(labels, Predictions(high, ["a", "b", "c"], WORDS), GRAPH)
    every = np.ones(len(found.additions), bool)
    np.testing.assert_array_equal(found.keep(every).labels.matrix(), found.labels.matrix())
    np.testing.assert_array_equal(found.keep(~every).labels.matrix(), labels.matrix())


def test_what_does_not_belong_together_is_refused():
    """Other clips are counted both ways; other vocabularies, evaluation and wrong settings are refused by name."""
    labels, predictions = small()
    with pytest.raises(LabelingError, match=r"2 in common, 1 have labels .*'c'.*, 0 have predictions"):
        enhance(labels, predictions.select(["a", "b"]), GRAPH)
    with pytest.raises(LabelingError, match=r"1 in common, 0 have labels .*, 2 have predictions .*'b'"):
        enhance(labels.select(["a"]), predictions, GRAPH)
    other = Predictions(predictions.probabilities, predictions.clip_ids, Vocabulary(WORDS.ids[::-1]))
    with pytest.raises(LabelingError, match="in another order"):
        enhance(labels, other, GRAPH)
    held = Predictions(predictions.probabilities, predictions.clip_ids, WORDS, split="evaluation")
    with pytest.raises(LabelingError, match="evaluation"):
        enhance(labels, held, GRAPH)
    assert len(enhance(labels, held, GRAPH, force=True).additions) == 0
    for wrong in ({"types": set()}, {"types": "II"}, {"types": {"III"}}, {"relation": "near"}):
        with pytest.raises(LabelingError):
            enhance(labels, predictions, GRAPH, **wrong)
    for wrong in ("25", "max", -1, 101, True, float("nan"), None):
        with pytest.raises(LabelingError, match="threshold"):
            enhance(labels, predictions, GRAPH, threshold=wrong)


def test_classes_outside_the_ontology_are_named():
    """A class that the ontology does not have proposes nothing, keeps its labels and is named."""
    words = Vocabulary(["speech", "whisper", "own"])
    labels = Labels.from_sets(["a"], [["own"]], words)
    found = enhance(labels, Predictions(np.ones((1, 3), np.float32), ["a"], words), GRAPH)
    assert found.classes_outside_ontology == ("own",)
    assert found.labels.ids_of(0) == ["own"]


def test_an_ontology_file_gives_the_same_graph(tmp_path):
    """A graph read from AudioSet's layout proposes what the same graph in memory proposes; bad files are refused."""
    path = tmp_path / "ontology.json"
    rows = [
        {"id": id, "name": id, "child_ids": list(GRAPH.children(id)), "restrictions": sorted(GRAPH.restrictions(id))}
        for id in reversed(GRAPH.ids)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    read = Ontology.read(path)
    assert set(read.ids) == set(GRAPH.ids)
    for id in GRAPH.ids:
        assert read.concrete_ancestors(id) == GRAPH.concrete_ancestors(id) <= GRAPH.ancestors(id)
        assert set(read.children(id)) == set(GRAPH.children(id))
    for text, message in (
        ("{", "not JSON"),
        ("{}", "list of classes"),
        ('[{"id": "a"}, {"id": "a"}]', "more than once"),
        ('[{"id": "a", "child_ids": ["b"]}]', "not listed"),
        ('[{"id": "a", "child_ids": ["b"]}, {"id": "b", "child_ids": ["a"]}]', "cycle"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(OntologyError, match=message):
            Ontology.read(path)
