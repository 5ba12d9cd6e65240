"""Laws of events: where they begin and end; and of classes as kinds of each other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.tagging.events import EventRule, find_events
from psla.tagging.result import TagResult, choose_classes, roll_up

STEP = 0.32


def result_of(frames: np.ndarray, vocabulary: Vocabulary | None = None) -> TagResult:
    """A result with these steps, (steps, classes) or (steps,)."""
    frames = np.asarray(frames, np.float32).reshape(len(frames), -1)
    times = np.arange(len(frames))[:, None] * STEP + [0, STEP]
    vocabulary = vocabulary or Vocabulary([f"c{i}" for i in range(frames.shape[1])])
    return TagResult(vocabulary, frames.max(axis=0), frames, times, duration_s=len(frames) * STEP, windows=1)


def spans(frames: list[float], **rule: float) -> list[tuple[int, int]]:
    """First step and the step after the last, of each event."""
    events = find_events(result_of(np.array(frames)), EventRule(**rule))
    return [(round(e.onset_s / STEP), round(e.offset_s / STEP)) for e in events]


def test_hysteresis() -> None:
    """An event reaches the threshold somewhere and lasts while the probability is at least the release level."""
    hill = [0.1, 0.3, 0.6, 0.4, 0.2, 0.1, 0.1, 0.4, 0.4, 0.1]
    assert spans(hill, threshold=0.5, release=0.5) == [(1, 4)]
    assert spans(hill, threshold=0.5, release=1.0) == [(2, 3)]
    assert spans(hill, threshold=0.5, release=0.1) == [(0, 10)]
    assert spans(hill, threshold=0.7) == []
    assert spans([0.9, 0.9, 0.9], threshold=0.5) == [(0, 3)]


def test_gaps_are_joined_before_short_events_are_left_out() -> None:
    """Events of a class with a gap of at most max_gap_s are one; then those under min_length_s go."""
    frames = [0.9, 0.1, 0.9, 0.1, 0.1, 0.9]
    plain = {"threshold": 0.5, "release": 1.0}
    assert spans(frames, **plain, max_gap_s=0.0) == [(0, 1), (2, 3), (5, 6)]
    assert spans(frames, **plain, max_gap_s=STEP) == [(0, 3), (5, 6)]
    assert spans(frames, **plain, max_gap_s=2 * STEP) == [(0, 6)]
    assert spans(frames, **plain, max_gap_s=STEP, min_length_s=2 * STEP) == [(0, 3)]
    assert spans(frames, **plain, max_gap_s=0.0, min_length_s=2 * STEP) == []
    assert spans(frames, **plain, max_gap_s=0.0, min_length_s=STEP) == [(0, 1), (2, 3), (5, 6)]


def test_thresholds_are_the_classes_own_unless_one_is_given() -> None:
    """The rule's threshold, else the model's for the class, else 0.5; events come by onset, with their peak."""
    result = result_of(np.array([[0.3, 0.3], [0.1, 0.6]]))
    found = find_events(result, EventRule(release=1.0), {"c0": 0.2})
    assert [(e.sound.id, round(e.onset_s, 2), round(e.probability, 2)) for e in found] == [
        ("c0", 0, 0.3),
        ("c1", 0.32, 0.6),
    ]
    assert [e.sound.id for e in find_events(result, EventRule(threshold=0.55), {"c0": 0.2})] == ["c1"]
    assert len(find_events(result, EventRule(threshold=0.3), {"c0": 0.9})) == 2


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), st.floats(0.01, 1), st.floats(0.01, 1))
def test_events_tile(frames: list[float], threshold: float, release: float) -> None:
    """Events do not touch, hold every step that reaches the threshold, and no step below the release level."""
    found = spans(frames, threshold=threshold, release=release, max_gap_s=0.0)
    values = np.asarray(frames, np.float32)
    assert all(a[1] < b[0] for a, b in pairwise(found))
    inside = np.zeros(len(frames), bool)
    for begin, end in found:
        inside[begin:end] = True
        assert (values[begin:end] >= threshold).any()
    assert inside[values >= threshold].all()
    assert not inside[values < threshold * release].any()


@pytest.mark.parametrize("rule", [{"threshold": 0}, {"threshold": 1.1}, {"release": 0}, {"max_gap_s": -1}])
def test_a_rule_out_of_range_is_refused(rule: dict[str, float]) -> None:
    """Each field has its range, and the sentence names it."""
    with pytest.raises(ValueError, match=next(iter(rule))):
        EventRule(**rule)


def test_a_class_brings_its_kinds() -> None:
    """By name, id or a name outside the vocabulary; in the vocabulary's order; what means nothing is refused."""
    vocabulary = Vocabulary.audioset()
    dog = choose_classes(["dog"], vocabulary)
    assert {"Dog", "Bark", "Howl"} <= {vocabulary[id].name for id in dog}
    assert set(dog) < set(choose_classes(["/m/0jbk"], vocabulary))
    voices = choose_classes(["Human voice"], vocabulary)
    assert "/m/09x0r" in voices
    assert "Human voice" not in vocabulary.names
    assert choose_classes(["dog", "Human voice"], vocabulary) == [id for id in vocabulary.ids if id in {*dog, *voices}]
    own = Vocabulary(["siren", "my dog"])
    assert choose_classes(["My Dog"], own) == ["my dog"]
    for wanted in ("Bark", "nothing like it"):
        with pytest.raises(VocabularyError):
            choose_classes([wanted], own)


def test_roll_up_raises_parents_only() -> None:
    """Every class becomes the maximum of itself and all kinds of it, in clip and steps; leaves stay as they are."""
    vocabulary, ontology = Vocabulary.audioset(), Ontology.audioset()
    frames = np.random.default_rng(0).random((3, 527), dtype=np.float32)
    result = result_of(frames, vocabulary)
    rolled = roll_up(result)
    for values, before in ((rolled.clip_probabilities, result.clip_probabilities[None]), (rolled.frames, frames)):
        for c in vocabulary:
            kin = [c.index, *(vocabulary.index_of(id) for id in ontology.descendants(c.id) if id in vocabulary)]
            assert np.array_equal(np.atleast_2d(values)[:, c.index], before[:, kin].max(axis=1))
    assert np.array_equal(roll_up(rolled).frames, rolled.frames)
    assert not np.array_equal(rolled.frames, frames)
    with pytest.raises(VocabularyError, match="nothing to roll up"):
        roll_up(result_of(frames[:, :2]))


def test_a_part_of_a_result_is_the_same_numbers() -> None:
    """part(ids): these classes in this order, with their own numbers."""
    result = result_of(np.array([[0.1, 0.2, 0.3], [0.4, 0.1, 0.2]]))
    part = result.part(["c2", "c0"])
    assert part.vocabulary.ids == ["c2", "c0"]
    assert np.array_equal(part.frames, result.frames[:, [2, 0]])
    assert np.array_equal(part.clip_probabilities, result.clip_probabilities[[2, 0]])
    assert part.top(1)[0][0].id == "c0"
