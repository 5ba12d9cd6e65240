"""Laws of what is told: the deepest classes, thresholds before cuts, and nothing of what is withheld."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from psla.audio.pool import decode_pool
from psla.data.annotations import FORMATS
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.files import Journal
from psla.model.file import ModelCard
from psla.tagging.events import EventRule, find_events
from psla.tagging.job import EmbeddingFile, TagJob
from psla.tagging.output import RowSettings, annotated, csv_lines
from psla.tagging.privacy import Withheld, drop_speech, speech_classes
from psla.tagging.recording import Recording
from psla.tagging.result import Embedding, TagResult, choose_classes, roll_up
from psla.tagging.tagger import cut_windows

WORLD, GRAPH = Vocabulary.audioset(), Ontology.audioset()
ANIMAL, DOMESTIC, DOG, BARK, RAIN = (WORLD.find(name).id for name in (
    "Animal", "Domestic animals, pets", "Dog", "Bark", "Rain",
))  # fmt: skip
SPEECH, LAUGHTER = "/m/09x0r", WORLD.find("Laughter").id
KIN = WORLD.part([ANIMAL, DOMESTIC, DOG, BARK, RAIN])


def result_of(vocabulary: Vocabulary, frames: Sequence[Sequence[float]], clip: Sequence[float] | None = None):
    """Steps of half a second."""
    table = np.array(frames, np.float32).reshape(len(frames), len(vocabulary))
    times = np.arange(len(table))[:, None] * 0.5 + [0.0, 0.5]
    probabilities = table.max(axis=0) if clip is None else np.array(clip, np.float32)
    return TagResult(vocabulary, probabilities, table, times, duration_s=len(table) / 2, windows=1)


def names(result: TagResult, *args: float, **kwargs: bool) -> list[str]:
    return [c.name for c, _ in result.top(*args, **kwargs)]  # type: ignore[arg-type]


def test_a_shown_kind_stands_for_its_ancestors() -> None:
    """From half of their probability on, through every level; below that, and below the threshold, it does not."""
    result = result_of(KIN, [[0.9, 0.8, 0.7, 0.45, 0.3]])
    assert names(result, 5, deepest=True) == ["Bark", "Rain"]
    assert names(result, 5) == ["Animal", "Domestic animals, pets", "Dog", "Bark", "Rain"]
    # Bark stands for the pets, not for Animal; the pets are not shown, and stand for nothing.
    result = result_of(KIN, [[1.0, 0.6, 0.5, 0.3, 0.1]])
    assert names(result, 5, deepest=True) == ["Animal", "Bark", "Rain"]
    assert names(result, 5, threshold=0.4, deepest=True) == ["Dog"]


def test_threshold_before_the_cut_and_places_are_inherited() -> None:
    """With one place, Bark has Animal's, though Rain is likelier than Bark; printed by probability."""
    result = result_of(KIN, [[0.9, 0.8, 0.7, 0.5, 0.6]])
    assert names(result, 1, deepest=True) == ["Bark"]
    assert names(result, 2, deepest=True) == ["Rain", "Bark"]
    assert [p for _, p in result.top(2, deepest=True)] == pytest.approx([0.6, 0.5])
    assert names(result, 1, threshold=0.55, deepest=True) == ["Dog"], "what is below the threshold stands for nothing"


@given(st.lists(st.floats(0, 1, width=32), min_size=40, max_size=40), st.integers(1, 12), st.floats(0, 0.5))
def test_nothing_of_the_top_is_lost(values: list[float], n: int, threshold: float) -> None:
    """Each of the n most probable is there, or a kind of it of at least half its probability; never more than n."""
    part = WORLD.part([WORLD[i].id for i in range(0, 160, 4)])
    result = result_of(part, [values])
    deepest = {c.id: p for c, p in result.top(n, threshold, deepest=True)}
    assert len(deepest) <= n
    assert list(deepest.values()) == sorted(deepest.values(), reverse=True)
    for sound, probability in result.top(n, threshold):
        heirs = {sound.id, *GRAPH.descendants(sound.id)} & deepest.keys()
        assert any(deepest[id] >= probability / 2 for id in heirs)
    shown = result.top(len(part), threshold, deepest=True)
    for sound, probability in shown:
        below = [p for c, p in shown if c.id in GRAPH.descendants(sound.id)]
        assert all(each < probability / 2 for each in below), "nothing shown has a shown kind that stands for it"


def test_classes_of_own_ids_have_no_kin() -> None:
    """Of a vocabulary that is not AudioSet's the deepest are all, and only its own names are known."""
    result = result_of(Vocabulary(["dog", "rain"]), [[0.5, 0.75]])
    assert names(result, 2, deepest=True) == names(result, 2) == ["rain", "dog"]
    assert names(result.without("DOG"), 2) == names(result.only("rain"), 2) == ["rain"]
    with pytest.raises(VocabularyError, match="'Animal' is not a class"):
        result.without("Animal")


def test_only_and_without_share_out_the_classes() -> None:
    """By subtree of any class of the ontology, abstract ones, too, by name or id, in any case; near names are told."""
    result = result_of(WORLD, [[0.0] * len(WORLD)])
    for wanted in (
        "Domestic sounds, home sounds",
        "domestic SOUNDS, home sounds",
        "/t/dd00071",
        "/T/DD00071",
        "Speech",
    ):
        one, other = result.only(wanted), result.without(wanted)
        assert sorted(one.vocabulary.ids + other.vocabulary.ids) == sorted(WORLD.ids)
        assert one.frames.shape[1] == len(one.vocabulary) > 1
    assert "Domestic sounds, home sounds" not in WORLD.names
    assert set(result.only("Human voice", "Rain").vocabulary.ids) > set(result.only("Speech").vocabulary.ids)
    with pytest.raises(VocabularyError, match=r"'Dommestic sounds' is not a class .*Domestic sounds, home sounds"):
        result.only("Dommestic sounds")


def test_what_is_excluded_lifts_nothing() -> None:
    """Excluded classes are gone before a roll-up, too."""
    result = result_of(KIN, [[0.25, 0.25, 0.5, 0.75, 0.0]])
    assert roll_up(result.without("Bark")).clip_probabilities[0] == 0.5


def test_speech_is_dropped_by_its_law() -> None:
    """A step goes where any voice reaches the threshold; the clip is the mean of the rest."""
    vocabulary = WORLD.part([DOG, SPEECH, LAUGHTER])
    frames = [[0.8, 0.0, 0.0], [0.9, 0.3, 0.0], [0.6, 0.2, 0.0], [0.9, 0.0, 0.9], [0.4, 0.29, 0.0]]
    result = result_of(vocabulary, frames, clip=[0.9, 0.3, 0.9])
    steps = np.arange(10, dtype=np.float32).reshape(5, 2)
    result = replace(result, embedding=Embedding(steps.mean(0), steps))
    rest = drop_speech(result)
    assert rest.times[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert np.array_equal(rest.frames, result.frames[[0, 2, 4]])
    assert rest.clip_probabilities == pytest.approx(result.frames[[0, 2, 4]].mean(0))
    assert rest.embedding is not None
    assert np.array_equal(rest.embedding.steps, steps[[0, 2, 4]])
    assert rest.embedding.clip == pytest.approx(steps[[0, 2, 4]].mean(0))
    assert rest.to_dict(3)["speech_dropped_s"] == rest.dropped_s == 1.0
    assert "speech_dropped_s" not in result.to_dict(3)
    again = drop_speech(rest)
    assert again.dropped_s == 1.0
    assert again.clip_probabilities is rest.clip_probabilities, "without speech nothing moves"


def test_a_last_step_weighs_by_its_length() -> None:
    """What remains of the clip is the mean over time, not over steps."""
    result = result_of(WORLD.part([DOG, SPEECH]), [[0.0, 0.9], [0.25, 0.0], [1.0, 0.0]])
    result.times[2, 1] = 1.25
    assert drop_speech(result).clip_probabilities[0] == pytest.approx((0.5 * 0.25 + 0.25 * 1.0) / 0.75)


def test_nothing_remains() -> None:
    """A recording that is all speech has no classes, no events, and an embedding that is no number."""
    result = result_of(WORLD.part([DOG, SPEECH]), [[0.9, 0.9]] * 3)
    result = replace(result, embedding=Embedding(np.ones(2, np.float32), np.ones((3, 2), np.float32)))
    rest = drop_speech(result)
    assert rest.to_dict(5, 0.0)["classes"] == rest.to_dict(5, 0.0, deepest=True)["classes"] == []
    assert rest.dropped_s == 1.5
    assert find_events(rest, EventRule(0.1)) == []
    assert rest.frames.shape == (0, 2)
    assert rest.embedding is not None
    assert rest.embedding.steps.shape == (0, 2)
    assert np.isnan(rest.embedding.clip).all()
    assert roll_up(rest).top(5) == rest.without("Speech").top(5) == []


def test_no_event_goes_on_across_dropped_steps() -> None:
    """However long a gap may be: a dog that barks before, in and after speech barks twice."""
    result = result_of(WORLD.part([DOG, SPEECH]), [[0.9, 0], [0.9, 0.9], [0.9, 0], [0.1, 0], [0.9, 0]])
    assert len(find_events(result.only("Dog"), EventRule(0.5, max_gap_s=9.0))) == 1
    spans = [(e.onset_s, e.offset_s) for e in find_events(drop_speech(result), EventRule(0.5, max_gap_s=9.0))]
    assert spans == [(0.0, 0.5), (1.0, 2.5)]


def test_which_classes_are_speech() -> None:
    """Human voice with all below it, in AudioSet and FSD50K; classes of that name; else one sentence."""
    voices = {GRAPH.name(id) for id in speech_classes(WORLD)}
    assert {"Speech", "Whispering", "Child speech, kid speaking", "Singing", "Laughter"} < voices
    assert not {"Dog", "Rain", "Whistling", "Music"} & voices
    assert "Speech" in {Vocabulary.fsd50k()[id].name for id in speech_classes(Vocabulary.fsd50k())}
    assert speech_classes(Vocabulary(["rain", "x"], ["rain", "Human_voice"])) == ["x"]
    with pytest.raises(VocabularyError, match="none of the model's 2 classes is speech"):
        speech_classes(Vocabulary(["dog", "rain"]))
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            Withheld(speech=threshold)


class Stub:
    """Hears a dog everywhere, and speech where a step is loud; no network."""

    sample_rate, hop_samples, window_samples, combine = 16000, 16000, 16000, "mean"
    thresholds: ClassVar[dict[str, float]] = {}
    vocabulary = WORLD.part([ANIMAL, DOG, SPEECH])
    model = SimpleNamespace(card=ModelCard(), vocabulary=vocabulary)

    def recording(self, source_rate: float | None = None) -> Recording:
        lengths = {"step": 1600, "window": 16000, "hop": 16000, "shortest": 1600}
        return Recording(self.vocabulary, **lengths, sample_rate=16000, source_rate=source_rate)

    def windows(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return cut_windows(blocks, 16000, 16000)

    def run(self, batch: Sequence[tuple[Recording, np.ndarray]], embed: bool = False) -> None:
        for recording, window in batch:
            loud = np.abs(window.reshape(-1, 1600)).max(axis=1) > 10000
            frames = np.stack([np.full(len(loud), 0.5), np.full(len(loud), 0.75), loud * 0.9], 1).astype(np.float32)
            features = np.stack([np.arange(len(loud)), loud], 1).astype(np.float32)
            recording.add(window, frames.max(0), frames, features if embed else None)


@pytest.fixture
def sounds(tmp_path: Path) -> list[str]:
    """One second that is loud from 0.3 to 0.6 s, one that is quiet, and one that is loud throughout."""
    paths = []
    for name, loud in (("some", slice(4800, 9600)), ("none", slice(0)), ("all", slice(None))):
        wave = np.full(16000, 1000, np.int16)
        wave[loud] = 20000
        soundfile.write(tmp_path / f"{name}.wav", wave, 16000)
        paths.append(str(tmp_path / f"{name}.wav"))
    return paths


def test_nothing_withheld_is_written(sounds: list[str], tmp_path: Path) -> None:
    """Rows, events, CSV, label tracks, journal and embeddings: no class, moment or step of what is withheld."""
    settings = RowSettings(events=EventRule(0.25))
    withheld = Withheld(tuple(choose_classes(["speech"], Stub.vocabulary)), speech=0.3)
    embeddings = EmbeddingFile(tmp_path / "e.npz")
    stub = Stub()
    with decode_pool(1) as pool, Journal(tmp_path / "j.jsonl") as journal:
        rows = list(TagJob(stub, "stub", settings, withheld=withheld).rows(sounds, pool, journal))  # type: ignore[arg-type]
        told = list(TagJob(stub, "stub", settings, embeddings, withheld).rows(sounds, pool))  # type: ignore[arg-type]
        plain = list(TagJob(stub, "stub", settings).rows(sounds, pool, journal))  # type: ignore[arg-type]
    assert told == rows
    assert [row["speech_dropped_s"] for row in rows] == pytest.approx([0.3, 0.0, 1.0])
    assert [[c["id"] for c in row["classes"]] for row in rows] == [[DOG, ANIMAL], [DOG, ANIMAL], []]
    dogs = [[(e["onset_s"], e["offset_s"]) for e in row["events"] if e["id"] == DOG] for row in rows]
    assert dogs == [[(0.0, 0.3), (0.6, 1.0)], [(0.0, 1.0)], []]
    tracks = "".join(FORMATS["audacity"].write([annotated(row)], "") for row in rows)
    written = "".join([*csv_lines(rows, True), tracks, json.dumps(rows)])
    assert SPEECH not in written
    assert "Speech" not in written
    assert [SPEECH in {c["id"] for c in row["classes"]} for row in plain] == [True] * 3, "asked for, it is told"
    records = Journal.read(tmp_path / "j.jsonl")
    assert [{k: v for k, v in record.items() if k != "key"} for record in records[:3]] == rows
    assert len({record["key"] for record in records}) == 6, "what is withheld is part of a row's key"
    embeddings.save()
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["offsets"].tolist() == [0, 7, 17, 17]
        assert not arrays["steps"][:, 1].any(), "no step in which speech was heard"
        assert arrays["steps"][:7, 0].tolist() == [0, 1, 2, 6, 7, 8, 9]
        assert np.isnan(arrays["clips"][2]).all()
