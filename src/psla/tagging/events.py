"""Events: from the probabilities of the steps to what began when and ended when.

    probability      ____
    threshold  - - -/- - \\- - - - - - - -     an event begins and ends where the probability crosses the release level,
                   /      \\      __           and is one if it reaches the threshold in between (hysteresis); the
    release    ---/--------\\----/--\\---     second hill does not
                 |  event   |

Then events of a class are joined where the gap between them is short, and those that are still short are left out.
Before all that the steps of a class may be smoothed, by a median over some of them.

There is one code for files and for streams, `EventTracker`: it takes steps as they come, in blocks of any size. A file
is one that is given all at once.

The model was trained on labels of whole clips. It was never told when anything began: the times are what its attention
needs to be right about clips, on the grid of its steps, and no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from psla.data.vocabulary import SoundClass, Vocabulary
from psla.tagging.result import THRESHOLD as THRESHOLD
from psla.tagging.result import TagResult
from psla.tagging.tracking import Change, Median, State, Track
from psla.yaml_files import parse_yaml, read_text

NOTE = "the model was trained on labels of whole clips, not on onsets and offsets: times are approximate"
_TINY = 1e-9  # seconds
_BLOCK = 4096  # steps of a file at a time


@dataclass(frozen=True)
class EventRule:
    """How events are found.

    Args:
        threshold: probability that an event must reach, above 0 to 1; None: the model's own for each class where it
            has one, else 0.5.
        release: share of the threshold above which an event goes on, above 0 to 1; 1: no hysteresis.
        max_gap_s: events of a class with no more than this between them are one, 0 or more seconds; None: one step.
        min_length_s: shorter events are left out, 0 or more seconds.
        median_steps: each step is first replaced by the median of so many around it, an odd number; at both ends of
            those that are there. 1: not smoothed.
        classes: other rules for some classes, by id: for a shot `EventRule(median_steps=1)`, say. They have none
            themselves.

    Raises:
        ValueError: a value out of its range.
    """

    threshold: float | None = None
    release: float = 0.8
    max_gap_s: float | None = None
    min_length_s: float = 0.0
    median_steps: int = 1
    classes: Mapping[str, EventRule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("threshold", "release"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {value}")
        for name in ("max_gap_s", "min_length_s"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 seconds or more, not {getattr(self, name)}")
        if self.median_steps < 1 or self.median_steps % 2 == 0:
            raise ValueError(f"median_steps must be an odd number of steps from 1 on, not {self.median_steps}")
        if nested := [id for id, rule in self.classes.items() if rule.classes]:
            raise ValueError(f"the rule of class {nested[0]!r} has rules of classes itself: give them beside it")

    def part(self, vocabulary: Vocabulary) -> EventRule:
        """The rule without those of classes that are not in a vocabulary."""
        return replace(self, classes={id: rule for id, rule in self.classes.items() if id in vocabulary})


@dataclass(frozen=True)
class Event:
    """One event: seconds from the beginning of the audio; the highest and the mean probability of its steps.

    Both are of the steps as they were smoothed, where they were.
    """

    onset_s: float
    offset_s: float
    sound: SoundClass
    probability: float
    mean_probability: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data: onset_s, offset_s, id, name, probability, mean_probability."""
        return {
            "onset_s": self.onset_s,
            "offset_s": self.offset_s,
            "id": self.sound.id,
            "name": self.sound.name,
            "probability": self.probability,
            "mean_probability": self.mean_probability,
        }


@dataclass(frozen=True)
class StreamEvent:
    """What is new about one event.

    Attributes:
        state: `opened` once, as soon as it is certain that it is one; `continued` whenever it is longer than it was
            told before; `closed` once, when nothing can be added to it.
        number: of the event, from 0 in the order in which they are opened; the same in all that is told of it.
        event: as it is known now; until it is closed, its offset, peak and mean are those so far.
    """

    state: State
    number: int
    event: Event

    def to_dict(self) -> dict[str, Any]:
        """Plain data: state, number, and what `Event.to_dict` gives."""
        return {"state": self.state, "number": self.number, **self.event.to_dict()}


def class_rules(path: str | os.PathLike[str], rule: EventRule, vocabulary: Vocabulary) -> EventRule:
    """A rule with those of single classes from a YAML file: for a name or an id, what differs from the rule.

        Gunshot, gunfire: {median_steps: 1, threshold: 0.3}
        /m/06mb1: {min_length_s: 2.0}

    Raises:
        ValueError: no such mapping, a class that is not in the vocabulary, a setting that is not one or out of range.
        OSError: the file cannot be read.
    """
    given = parse_yaml(read_text(path, str(path), ValueError), str(path), ValueError)
    known = [name for name in asdict(rule) if name != "classes"]
    own = {}
    if not given:
        raise ValueError(f"{path} must hold classes, each with its settings, as in 'Rain: {{threshold: 0.3}}'")
    for name, settings in given.items():
        if not isinstance(settings, dict) or set(settings) - set(known):
            raise ValueError(f"{path}: the settings of {name!r} are of {', '.join(known)}; not {settings!r}")
        try:
            own[vocabulary.find(str(name)).id] = replace(rule, classes={}, **settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {name!r}: {error}") from error
    return replace(rule, classes=own)


def find_events(
    result: TagResult, rule: EventRule | None = None, thresholds: Mapping[str, float] | None = None
) -> list[Event]:
    """The events of a recording, by onset, then in the vocabulary's order; none where all is unfamiliar.

    Args:
        rule: how; the defaults of `EventRule`.
        thresholds: by class id, the model's own (`Tagger.thresholds`).

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> frames, times = np.float32([[0.1], [0.6], [0.45], [0.1]]), np.array([[0, 1], [1, 2], [2, 3], [3, 3.5]])
        >>> result = TagResult(Vocabulary(["dog"]), frames.max(0), frames, times, duration_s=3.5, windows=1)
        >>> [(event.onset_s, event.offset_s, event.sound.id) for event in find_events(result)]
        [(1.0, 3.0, 'dog')]
    """
    told: list[StreamEvent] = []
    heard = result.familiar_frames()
    for part in _unbroken(result.times):
        frames, times = heard[part], result.times[part]
        if len(times):
            tracker = EventTracker(result.vocabulary, float(np.diff(times).max()), rule, thresholds)
            for at in range(0, len(times), _BLOCK):
                told += tracker.push(frames[at : at + _BLOCK], times[at : at + _BLOCK])
            told += tracker.close()
    return sorted((each.event for each in told if each.state == "closed"), key=_order)


def _order(event: Event) -> tuple[float, int]:
    return event.onset_s, event.sound.index


def _unbroken(times: np.ndarray) -> list[slice]:
    """The steps between holes, where steps were dropped: no event goes on across one."""
    holes = np.flatnonzero(times[1:, 0] > times[:-1, 1] + _TINY) + 1
    bounds = [0, *holes.tolist(), len(times)]
    return [slice(a, b) for a, b in pairwise(bounds)]


class EventTracker:
    """Finds events in steps that come block by block, one after the other without a hole.

    What is closed does not depend on the blocks. `continued` is told at most once a block of each event.

    Args:
        vocabulary: the classes of the columns.
        step_s: seconds of a step: the gap that is bridged where the rule names none.
        rule, thresholds: as `find_events` takes them.

    Example:
        >>> tracker = EventTracker(Vocabulary(["dog"]), step_s=1.0)
        >>> told = tracker.push(np.float32([[0.1], [0.6]]), np.array([[0.0, 1.0], [1.0, 2.0]]))
        >>> told += tracker.push(np.float32([[0.7], [0.1], [0.1]]), np.array([[2.0, 3.0], [3.0, 4.0], [4.0, 5.0]]))
        >>> [(each.state, each.number, each.event.onset_s, each.event.offset_s) for each in told]
        [('opened', 0, 1.0, 2.0), ('closed', 0, 1.0, 3.0)]
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        step_s: float,
        rule: EventRule | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        rule, own = rule or EventRule(), thresholds or {}
        if unknown := [id for id in rule.classes if id not in vocabulary]:
            raise ValueError(f"events: there is a rule for {unknown[0]!r}, which is none of {len(vocabulary)} classes")
        self._rules = [rule.classes.get(sound.id, rule) for sound in vocabulary]
        levels = [
            own.get(sound.id, THRESHOLD) if each.threshold is None else each.threshold
            for sound, each in zip(vocabulary, self._rules, strict=True)
        ]
        self._vocabulary, self._step_s = vocabulary, step_s
        self._levels = np.array(levels, np.float32)  # (classes,)
        held = [level * each.release for level, each in zip(levels, self._rules, strict=True)]
        self._releases = np.array(held, np.float32)
        widths = np.array([each.median_steps for each in self._rules])
        self._groups = [(np.flatnonzero(widths == width), Median(width)) for width in np.unique(widths).tolist()]
        self._tracks: dict[int, Track] = {}  # of the classes of which anything is going on
        self._count = 0

    def push(self, frames: np.ndarray, times: np.ndarray) -> list[StreamEvent]:
        """The next steps: frames (steps, classes) float32, times (steps, 2) seconds -> what is new, by onset."""
        changes: list[Change] = []
        for columns, median in self._groups:
            changes += self._track(columns, *median.push(frames[:, columns], times))
        return self._told(changes)

    def close(self) -> list[StreamEvent]:
        """The end of the steps, or a hole in them: all events are closed. More may follow."""
        changes: list[Change] = []
        for columns, median in self._groups:
            frames, times = median.close()
            if len(times):
                changes += self._track(columns, frames, times)
        changes += [change for track in self._tracks.values() for change in track.close()]
        self._tracks.clear()
        return self._told(changes)

    def _track(self, columns: np.ndarray, frames: np.ndarray, times: np.ndarray) -> Iterator[Change]:
        """Changes of these classes; most have none."""
        held = (frames >= self._releases[columns]).any(axis=0)
        for place, column in enumerate(columns.tolist()):
            if not held[place] and column not in self._tracks:
                continue
            if column not in self._tracks:
                rule = self._rules[column]
                gap = self._step_s if rule.max_gap_s is None else rule.max_gap_s
                self._tracks[column] = Track(self._vocabulary[column], gap, rule.min_length_s)
            track = self._tracks[column]
            yield from track.push(frames[:, place], times, self._levels[column], self._releases[column])
            if track.idle:
                del self._tracks[column]

    def _told(self, changes: list[Change]) -> list[StreamEvent]:
        changes.sort(key=lambda change: (change.span.onset, change.sound.index))  # stable: opened before closed
        told = []
        for change in changes:
            if change.state == "opened":
                change.span.number, self._count = self._count, self._count + 1
            span = change.span
            event = Event(span.onset, span.offset, change.sound, span.peak, span.mean)
            told.append(StreamEvent(change.state, span.number, event))
        return told
