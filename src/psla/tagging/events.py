"""Events: from the probabilities of the steps to what began when and ended when.

    probability      ____
    threshold  - - -/- - \\- - - - - - - -     an event begins and ends where the probability crosses the release level,
                   /      \\      __           and is one if it reaches the threshold in between (hysteresis); the
    release    ---/--------\\----/--\\---     second hill does not
                 |  event   |

Then events of a class are joined where the gap between them is short, and those that are still short are left out.

The model was trained on labels of whole clips. It was never told when anything began: the times are what its attention
needs to be right about clips, on the grid of its steps, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from psla.data.vocabulary import SoundClass
from psla.tagging.result import THRESHOLD as THRESHOLD
from psla.tagging.result import TagResult

NOTE = "the model was trained on labels of whole clips, not on onsets and offsets: times are approximate"
_TINY = 1e-9  # seconds


@dataclass(frozen=True)
class EventRule:
    """How events are found.

    Args:
        threshold: probability that an event must reach, above 0 to 1; None: the model's own for each class where it
            has one, else 0.5.
        release: share of the threshold above which an event goes on, above 0 to 1; 1: no hysteresis.
        max_gap_s: events of a class with no more than this between them are one, 0 or more seconds; None: one step.
        min_length_s: shorter events are left out, 0 or more seconds.

    Raises:
        ValueError: a value out of its range.
    """

    threshold: float | None = None
    release: float = 0.8
    max_gap_s: float | None = None
    min_length_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("threshold", "release"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {value}")
        for name in ("max_gap_s", "min_length_s"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 seconds or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class Event:
    """One event: seconds from the beginning of the audio, and the highest probability of its steps."""

    onset_s: float
    offset_s: float
    sound: SoundClass
    probability: float

    def to_dict(self) -> dict[str, object]:
        """Plain data: onset_s, offset_s, id, name, probability."""
        return {
            "onset_s": self.onset_s,
            "offset_s": self.offset_s,
            "id": self.sound.id,
            "name": self.sound.name,
            "probability": self.probability,
        }


def find_events(
    result: TagResult, rule: EventRule | None = None, thresholds: Mapping[str, float] | None = None
) -> list[Event]:
    """The events of a recording, by onset, then in the vocabulary's order; none where all is unfamiliar.

    Args:
        rule: how; the defaults of `EventRule`.
        thresholds: by class id, the model's own (`ModelCard.thresholds`).

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> frames, times = np.float32([[0.1], [0.6], [0.45], [0.1]]), np.array([[0, 1], [1, 2], [2, 3], [3, 3.5]])
        >>> result = TagResult(Vocabulary(["dog"]), frames.max(0), frames, times, duration_s=3.5, windows=1)
        >>> [(event.onset_s, event.offset_s, event.sound.id) for event in find_events(result)]
        [(1.0, 3.0, 'dog')]
    """
    rule = rule or EventRule()
    events, parts, own = [], _unbroken(result.times), frozenset(result.own)
    for sound in result.vocabulary:
        threshold = rule.threshold
        if threshold is None:
            threshold = (thresholds or {}).get(sound.id, THRESHOLD)
        for part in parts:
            probability, times = result.frames[part, sound.index], result.times[part]
            if result.unfamiliar is not None and sound.id in own:
                probability = np.where(result.unfamiliar[part], 0.0, probability)
            for first, last in _spans(probability, threshold, rule, times):
                onset, offset = float(times[first, 0]), float(times[last, 1])
                events.append(Event(onset, offset, sound, float(probability[first : last + 1].max())))
    return sorted(events, key=lambda event: (event.onset_s, event.sound.index))


def _unbroken(times: np.ndarray) -> list[slice]:
    """The steps between holes, where steps were dropped: no event goes on across one."""
    holes = np.flatnonzero(times[1:, 0] > times[:-1, 1] + _TINY) + 1
    bounds = [0, *holes.tolist(), len(times)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def _spans(probability: np.ndarray, threshold: float, rule: EventRule, times: np.ndarray) -> list[tuple[int, int]]:
    """First and last step of each event of one class."""
    reached = probability >= threshold
    if not reached.any():
        return []
    max_gap_s = float(np.diff(times).max()) if rule.max_gap_s is None else rule.max_gap_s
    held = np.concatenate([[False], probability >= threshold * rule.release, [False]])
    firsts, ends = np.flatnonzero(held[1:] & ~held[:-1]), np.flatnonzero(~held[1:] & held[:-1])
    joined: list[tuple[int, int]] = []
    for first, last in zip(firsts.tolist(), (ends - 1).tolist(), strict=True):
        if not reached[first : last + 1].any():
            continue
        if joined and times[first, 0] - times[joined[-1][1], 1] <= max_gap_s + _TINY:
            first = joined.pop()[0]
        joined.append((first, last))
    return [(a, b) for a, b in joined if times[b, 1] - times[a, 0] >= rule.min_length_s - _TINY]
