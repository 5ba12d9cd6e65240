"""Laws of streams: the numbers of the file, however the sound is cut; each event opened and closed once; gaps told."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import psla
from psla.audio.decode import AudioError
from psla.data.vocabulary import Vocabulary
from psla.tagging.events import Event, EventRule, EventTracker, StreamEvent, class_rules, find_events
from psla.tagging.result import TagResult
from psla.tagging.stream import Stream
from psla.tagging.tagger import Tagger
from tagging_models import CLASSES, STEP, WINDOW, noise, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 16000
DOG = CLASSES.ids[2]


def sound(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise whose level changes every tenth of a second, so that events come and go: (samples, channels) int16."""
    generator = np.random.default_rng(seed)
    samples = round(seconds * rate)
    level = np.repeat(10 ** generator.uniform(-4, 0, samples * 10 // rate + 1), rate // 10)[:samples, None]
    level = np.resize(level, (samples, 1))
    return (generator.uniform(-1, 1, (samples, channels)) * level * 30000).astype(np.int16)


def cuts(total: int, seed: int) -> Iterator[slice]:
    """Blocks of random lengths, some of one sample, some of none, some of several windows."""
    generator, at = np.random.default_rng(seed), 0
    while at < total:
        length = int(generator.choice([0, 1, 7, 160, 1024, 4800, WINDOW, 3 * WINDOW]))
        yield slice(at, at + length)
        at += length


def heard(
    stream: Stream, samples: np.ndarray, rate: int, seed: int
) -> tuple[list[StreamEvent], np.ndarray, np.ndarray]:
    """All that is told of these samples, and all steps with their times."""
    told, frames, times = [], [], []
    for part in cuts(len(samples), seed):
        told += stream.push(samples[part], rate)
        frames, times = [*frames, stream.frames], [*times, stream.times]
    told += stream.close()
    return told, np.concatenate([*frames, stream.frames]), np.concatenate([*times, stream.times])


def closed(told: list[StreamEvent]) -> list[Event]:
    return sorted((e.event for e in told if e.state == "closed"), key=lambda e: (e.onset_s, e.sound.index))


def well_told(told: list[StreamEvent]) -> None:
    """Each event is opened once, first, closed once, last; its onset stays, its offset never falls, numbers count."""
    by_number: dict[int, list[StreamEvent]] = {}
    for each in told:
        by_number.setdefault(each.number, []).append(each)
    assert sorted(by_number) == list(range(len(by_number)))
    for each in by_number.values():
        states = [one.state for one in each]
        assert states[0] == "opened"
        assert states[-1] == "closed"
        assert set(states[1:-1]) <= {"continued"}
        assert len({(one.event.onset_s, one.event.sound) for one in each}) == 1
        offsets = [one.event.offset_s for one in each]
        assert offsets == sorted(offsets)


@pytest.mark.parametrize("hop", [WINDOW, WINDOW // 2, 2111])
@pytest.mark.parametrize("seconds", [0.05, 0.7, 2.7])
def test_a_stream_is_the_file_to_the_bit(hop: int, seconds: float) -> None:
    """Law: at the model's rate, however the samples are cut: steps, times and events of a stream are the file's."""
    tagger = Tagger(tiny_model(), hop / RATE)
    rule = EventRule(0.35, 0.9, classes={DOG: EventRule(0.5, max_gap_s=0.0, median_steps=3)})
    samples = sound(seconds, channels=2)
    result = tagger.tag(samples, RATE)
    expected = find_events(result, rule)
    told_before: list[StreamEvent] | None = None
    for seed in range(2):
        told, frames, times = heard(Stream(tagger, rule=rule), samples, RATE, seed)
        assert frames.dtype == result.frames.dtype
        assert frames.tobytes() == result.frames.tobytes()
        assert times.tobytes() == result.times.tobytes()
        assert closed(told) == expected
        well_told(told)
        assert told_before in (None, told)  # what is told while it comes does not depend on the cuts either
        told_before = told
    assert expected or seconds < 2


class Doubtful(Tagger):
    """To it a window is like none of its classes if its loudest sample is odd."""

    def _said(self, windows: Sequence[np.ndarray], embed: bool) -> list:
        said = zip(super()._said(windows, embed), windows, strict=True)
        return [(*each[:3], -1.0 if np.abs(window.astype(int)).max() % 2 else 1.0) for each, window in said]


@pytest.mark.parametrize("hop", [WINDOW, 2111])
def test_what_is_unfamiliar_is_no_event_of_a_stream_either(hop: int) -> None:
    """Law: windows that are like none of the classes make no events in a stream, as in the file; the steps stay."""
    tagger, rule, samples = Doubtful(tiny_model(), hop / RATE), EventRule(0.35, 0.9), sound(4.0)
    result = tagger.tag(samples, RATE)
    assert result.unfamiliar is not None
    assert set(result.unfamiliar.tolist()) == {False, True}
    expected = find_events(result, rule)
    assert expected != find_events(replace(result, unfamiliar=None), rule)
    told, frames, _ = heard(Stream(tagger, rule=rule), samples, RATE, 0)
    assert closed(told) == expected
    assert frames.tobytes() == result.frames.tobytes()


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 6), (22050, 1)])
def test_a_stream_is_the_file_at_other_rates(rate: int, channels: int) -> None:
    """Law: at other rates and numbers of channels the steps are the file's within 1e-4, the events the same steps."""
    tagger = Tagger(tiny_model(), 0.3)
    samples = sound(2.5, rate, channels).astype(np.float32) / 32768
    result = tagger.tag(samples, rate)
    expected = find_events(result, EventRule(0.35))
    for seed in range(2):
        told, frames, times = heard(Stream(tagger, threshold=0.35), samples, rate, seed)
        assert np.abs(frames - result.frames).max() <= 1e-4
        assert np.array_equal(times, result.times)
        assert [(e.onset_s, e.offset_s, e.sound) for e in closed(told)] == [
            (e.onset_s, e.offset_s, e.sound) for e in expected
        ]


def test_a_step_is_final_in_time() -> None:
    """Law: no step that began `latency_s` before what was pushed last is still to come, and none comes twice."""
    for hop, rule in ((WINDOW, EventRule()), (2000, EventRule(median_steps=5))):
        stream = Stream(Tagger(tiny_model(), hop / RATE), rule=rule)
        samples, given = noise(4 * WINDOW), 0
        for at in range(0, len(samples), 500):
            stream.push(samples[at : at + 500])
            given += len(stream.frames)
            assert given * STEP / RATE > stream.position_s - stream.latency_s


def test_a_gap_ends_what_came_before() -> None:
    """Law: the parts around a gap are the files of the parts, at their place in time; no event goes on across it."""
    tagger, rule = Tagger(tiny_model(), 0.4), EventRule(0.2, max_gap_s=60.0)
    first, second = sound(1.3, seed=1), sound(2.1, seed=2)
    stream = Stream(tagger, rule=rule)
    told = stream.push(first, RATE)
    told += stream.gap(10.5)
    before = len(told)
    assert {e.state for e in told[-len(CLASSES) :]} == {"closed"}
    told += stream.push(second, RATE) + stream.close()
    well_told(told)
    expected = find_events(tagger.tag(first, RATE), rule)
    assert closed(told[:before]) == expected
    later = find_events(tagger.tag(second, RATE), rule)
    found = closed(told[before:])
    assert [(e.sound, e.probability, e.mean_probability) for e in found] == [
        (e.sound, e.probability, e.mean_probability) for e in later
    ]
    shift = 1.3 + 10.5
    assert [e.onset_s for e in found] == pytest.approx([e.onset_s + shift for e in later], abs=1e-9)
    assert stream.position_s == pytest.approx(1.3 + 10.5 + 2.1, abs=1e-9)


def test_what_is_refused_changes_nothing() -> None:
    """Law: a block with NaN, of another shape, type or rate is refused in a sentence, and the stream goes on."""
    tagger, samples = Tagger(tiny_model()), sound(2.0)
    plain, tried = Stream(tagger, threshold=0.3), Stream(tagger, threshold=0.3)
    expected = plain.push(samples[:20000], RATE) + plain.push(samples[20000:], RATE) + plain.close()
    told = tried.push(samples[:20000], RATE)
    for bad, rate in (
        (np.full(100, np.nan, np.float32), RATE),
        (np.full(100, np.inf), 44100),
        (np.zeros((2, 3, 4)), RATE),
        (np.zeros((2, 4800)), RATE),
        (np.zeros(10, np.int8), RATE),
        (np.zeros(10), 10),
    ):
        with pytest.raises(AudioError):
            tried.push(bad, rate)
    with pytest.raises(ValueError, match="0 or more seconds"):
        tried.gap(-1)
    assert told + tried.push(samples[20000:], RATE) + tried.close() == expected
    assert tried.close() == []
    with pytest.raises(ValueError, match="closed"):
        tried.push(samples, RATE)
    with pytest.raises(ValueError, match="threshold"):
        Stream(tagger, threshold=1.5)
    assert psla.Stream is Stream


def test_a_change_of_rate_goes_on() -> None:
    """Law: another rate begins another resampler: no sample is lost, events go on."""
    stream = Stream(Tagger(tiny_model()), threshold=0.01)
    stream.push(sound(1.0, 44100, 2), 44100)
    stream.push(sound(0.5), RATE)
    stream.push(sound(0.3, 8000), 8000)
    told = stream.close()
    assert stream.position_s == 1.8
    assert max(e.event.offset_s for e in told) == 1.8


def test_only_chosen_classes_are_told() -> None:
    """Law: events are of the chosen classes, the steps of all."""
    samples = sound(2.0)
    told, frames, _ = heard(Stream(Tagger(tiny_model()), threshold=0.1, classes=[DOG]), samples, RATE, 0)
    assert {e.event.sound.id for e in told} == {DOG}
    assert frames.shape[1] == 3
    whole, _, _ = heard(Stream(Tagger(tiny_model()), threshold=0.1), samples, RATE, 0)
    assert [e.onset_s for e in closed(told)] == [e.onset_s for e in closed(whole) if e.sound.id == DOG]


def plain_events(frames: np.ndarray, times: np.ndarray, threshold: float, rule: EventRule) -> list[tuple]:
    """The same by another route: whole arrays, one class, run by run."""
    half = rule.median_steps // 2
    smooth = np.array([np.median(frames[max(0, i - half) : i + half + 1]) for i in range(len(frames))], np.float32)
    gap = float(np.diff(times).max()) if rule.max_gap_s is None else rule.max_gap_s
    held = np.concatenate([[False], smooth >= np.float32(threshold * rule.release), [False]])
    joined: list[list[int]] = []
    for first, end in zip(np.flatnonzero(held[1:] & ~held[:-1]), np.flatnonzero(~held[1:] & held[:-1]), strict=True):
        if (smooth[first:end] >= np.float32(threshold)).any():
            if joined and times[first, 0] - times[joined[-1][1] - 1, 1] <= gap + 1e-9:
                joined[-1][1] = end
            else:
                joined.append([first, end])
    spans = [(a, b) for a, b in joined if times[b - 1, 1] - times[a, 0] >= rule.min_length_s - 1e-9]
    return [(times[a, 0], times[b - 1, 1], smooth[a:b].max(), smooth[a:b].mean(dtype=float)) for a, b in spans]


RULES = st.builds(
    EventRule,
    threshold=st.sampled_from([0.2, 0.5, 0.9]),
    release=st.sampled_from([0.3, 0.8, 1.0]),
    max_gap_s=st.sampled_from([None, 0.0, 1.0, 2.0, 5.0]),
    min_length_s=st.sampled_from([0.0, 2.0, 4.0]),
    median_steps=st.sampled_from([1, 3, 5]),
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), RULES, RULES)
def test_events_do_not_depend_on_blocks(seed: int, steps: int, rule: EventRule, own: EventRule) -> None:
    """Law: steps in blocks of any sizes give the events of a plain second route over all of them at once."""
    generator = np.random.default_rng(seed)
    frames = np.clip(np.cumsum(generator.normal(0, 0.3, (steps, 2)), axis=0) % 2 - 0.5, 0, 1).astype(np.float32)
    times = np.arange(steps)[:, None] + [0.0, 1.0]
    vocabulary = Vocabulary(["a", "b"])
    rules = EventRule(rule.threshold, rule.release, rule.max_gap_s, rule.min_length_s, rule.median_steps, {"b": own})
    tracker, told, at = EventTracker(vocabulary, 1.0, rules), [], 0
    while at < steps:
        length = int(generator.integers(0, 9))
        told += tracker.push(frames[at : at + length], times[at : at + length])
        at += length
    told += tracker.close()
    well_told(told)
    for column, each in ((0, rule), (1, own)):
        expected = plain_events(frames[:, column], times, each.threshold or 0, each)
        found = [e for e in closed(told) if e.sound.index == column]
        assert [(e.onset_s, e.offset_s, np.float32(e.probability)) for e in found] == [e[:3] for e in expected]
        assert [e.mean_probability for e in found] == pytest.approx([e[3] for e in expected], abs=1e-9)
    result = TagResult(vocabulary, frames.max(0), frames, times, duration_s=float(steps), windows=1)
    assert find_events(result, rules) == closed(told)


def test_an_event_is_told_while_it_lasts() -> None:
    """Law: opened as soon as it is as long as it must be; continued; closed when the gap is too long."""
    tracker = EventTracker(Vocabulary(["a"]), 1.0, EventRule(0.5, min_length_s=2.0, max_gap_s=1.0))
    told = []
    for step, probability in enumerate([0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1]):
        new = tracker.push(np.float32([[probability]]), np.array([[step, step + 1.0]]))
        told.append([each.state for each in new])
    assert told == [[], ["opened"], ["continued"], [], ["continued"], [], ["closed"]]


def test_rules_of_classes_come_from_a_file(tmp_path: Path) -> None:
    """Law: what a class's own settings leave out is the rule's; names and ids; what is wrong is refused by name."""
    file = tmp_path / "rules.yaml"
    file.write_text("Dog: {threshold: 0.25, median_steps: 1}\n/m/06mb1: {min_length_s: 2}\n")
    base = EventRule(0.5, 0.9, median_steps=5)
    rule = class_rules(file, base, CLASSES)
    assert rule.classes == {
        DOG: EventRule(0.25, 0.9, median_steps=1),
        "/m/06mb1": EventRule(0.5, 0.9, min_length_s=2, median_steps=5),
    }
    assert rule.part(CLASSES.part([DOG])).classes.keys() == {DOG}
    for text, match in (
        ("Cat: {}", "Cat"),
        ("Dog: {speed: 1}", "'Dog' are of threshold, release"),
        ("Dog: {release: 2}", "release must be"),
        ("Dog: {classes: {}}", "not {'classes'"),
        ("Dog: {release: high}", "Dog"),
        ("- Dog", "must hold"),
        ("Dog: [", "is not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=re.escape(match)):
            class_rules(file, base, CLASSES)


def test_a_rule_for_no_class_is_refused() -> None:
    """Law: a rule names a class that there is; a median is over an odd number; rules do not nest."""
    with pytest.raises(ValueError, match="'z'"):
        EventTracker(Vocabulary(["a"]), 1.0, EventRule(classes={"z": EventRule()}))
    with pytest.raises(ValueError, match="median_steps"):
        EventRule(median_steps=2)
    with pytest.raises(ValueError, match="beside it"):
        EventRule(classes={"a": EventRule(classes={"a": EventRule()})})


def test_shorter_windows_are_heard_alike() -> None:
    """Law: a window from the model's shortest to its own; file and stream agree there, too; others are refused."""
    model = psla.load("audioset-small").model
    tagger = Tagger(model, hop_s=1.0, window_s=2.0)
    samples = sound(5.3, tagger.sample_rate)
    result = tagger.tag(samples, tagger.sample_rate)
    _, frames, times = heard(Stream(tagger), samples, tagger.sample_rate, 0)
    assert frames.tobytes() == result.frames.tobytes()
    assert np.array_equal(times, result.times)
    assert Stream(tagger).latency_s < 2.5
    for wrong in (1.9, 10.1):
        with pytest.raises(ValueError, match="2 to 10 s"):
            Tagger(model, window_s=wrong)


class Meter(SimpleNamespace):
    """A tagger that costs nothing, with windows of 10.24 s: the probability of a step is its highest sample."""

    def __init__(self, hop: int) -> None:
        window = 32 * STEP
        super().__init__(sample_rate=RATE, window_samples=window, hop_samples=hop, step_samples=STEP)
        self.window_s, self.step_s, self.shortest_samples, self.thresholds = window / RATE, STEP / RATE, window, {}
        self.model, self.own_classes = SimpleNamespace(vocabulary=Vocabulary(["loud", "louder"])), 2

    def run(self, batch: list) -> None:
        for hearer, window in batch:
            padded = np.zeros(self.window_samples, np.int16)
            padded[: len(window)] = window
            peaks = padded.reshape(-1, STEP).max(axis=1)[:, None] / 32768
            hearer.add(window, peaks[0], np.concatenate([peaks, peaks / 2], axis=1).astype(np.float32))


PERIOD, BEGIN, END = (steps * STEP for steps in (60, 20, 24))  # a beep of 1.28 s every 19.2 s, in samples at RATE


def long_stream(seconds: int, rate: int, hop: int) -> tuple[list[tuple[int, int]], int, float, list[int]]:
    """Onset and offset of each event in samples, how many were opened, the position, and the memory at each hour."""
    stream = Stream(Meter(hop), threshold=0.5)  # type: ignore[arg-type]
    events, opened, held, at = [], 0, [], 0
    period, begin, end = (each * rate // RATE for each in (PERIOD, BEGIN, END))
    tracemalloc.start()
    while at < seconds * rate:
        block = min(30 * rate + 7, seconds * rate - at)
        place = (at + np.arange(block)) % period
        told = stream.push(np.where((place >= begin) & (place < end), 0.9, 0.0).astype(np.float32), rate)
        if at + block == seconds * rate:
            told += stream.close()
        opened += sum(each.state == "opened" for each in told)
        for each in told:
            if each.state == "closed":
                edges = each.event.onset_s * RATE, each.event.offset_s * RATE
                assert max(abs(edge - round(edge)) for edge in edges) < 1e-6
                events.append((round(edges[0]), round(edges[1])))
        if (at + block) // rate // 3600 > at // rate // 3600:
            held.append(tracemalloc.get_traced_memory()[0] - 200 * len(events))
        at += block
    tracemalloc.stop()
    return events, opened, stream.position_s, held


def check_beeps(found: list[tuple[int, int]], count: int, off: int) -> None:
    """Every beep is one event, at its place, or wider by so many samples on each side."""
    assert len(found) == count
    for k, (onset, offset) in enumerate(found):
        assert 0 <= k * PERIOD + BEGIN - onset <= off
        assert 0 <= offset - (k * PERIOD + END) <= off


@pytest.mark.parametrize(("rate", "hop", "off"), [(RATE, 17 * STEP, 0), (24000, 32 * STEP, STEP)])
def test_twenty_minutes(rate: int, hop: int, off: int) -> None:
    """Law: as the day below."""
    events, opened, position, _ = long_stream(1200, rate, hop)
    check_beeps(events, 63, off)
    assert (opened, position) == (63, 1200)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("rate", "hop", "off"),
    [(RATE, 32 * STEP, 0), (RATE, 13 * STEP, 0), (RATE, 4 * RATE + 1, STEP), (24000, 32 * STEP, STEP)],
)
def test_a_day(rate: int, hop: int, off: int) -> None:
    """Law: 24 hours as fast as they go: every event told once, at its place to the sample, in memory that stays flat.

    Where windows begin off the grid, or a resampler rings, an event may be wider by a step.
    """
    events, opened, position, held = long_stream(86400, rate, hop)
    check_beeps(events, 4500, off)
    assert (opened, position) == (4500, 86400)  # exactly: positions are whole numbers of samples
    assert len(held) == 24
    assert max(held) - held[1] < 2e6
