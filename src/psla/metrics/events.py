"""Event-based scores: events that were found against events that are known, matched by class, onset and offset.

An event that was found matches a known one of the same recording and class if its onset is at most `collar` away, and
its offset at most `collar` or a share of the known event's length, whichever is more. Each matches at most one other;
of all such matchings the largest counts.

Source: Mesaros, Heittola, Virtanen, "Metrics for polyphonic sound event detection", Applied Sciences 6(6), 2016,
section 3.1.2, https://doi.org/10.3390/app6060162. Not here: substitutions, and scores by segment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_TINY = 1e-9  # seconds


class TimedEvent(NamedTuple):
    """Something that sounds: its class id, and when, in seconds from the beginning of the recording."""

    class_id: str
    onset_s: float
    offset_s: float


@dataclass(frozen=True)
class EventScores:
    """How well events were found.

    Attributes:
        matched: pairs of a known and a found event; known, found: how many there are of each.
        per_class: the same three by class id, for every class that is known or found.
    """

    matched: int
    known: int
    found: int
    per_class: dict[str, tuple[int, int, int]]

    @property
    def precision(self) -> float:
        """Matched of all that were found; NaN where nothing was."""
        return self.matched / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        """Matched of all that are known; NaN where nothing is."""
        return self.matched / self.known if self.known else math.nan

    @property
    def f1(self) -> float:
        """2 matched / (known + found), over all events; NaN where there is none of either."""
        return _f1(self.matched, self.known, self.found)

    @property
    def mean_f1(self) -> float:
        """The mean of the classes' F1, over the classes that are known or found."""
        values = [_f1(*counts) for counts in self.per_class.values()]
        return sum(values) / len(values) if values else math.nan


def score_events(
    known: Mapping[str, Iterable[TimedEvent]],
    found: Mapping[str, Iterable[TimedEvent]],
    collar_s: float = 0.5,
    offset_share: float = 0.2,
) -> EventScores:
    """Score the events found in recordings against the known ones, by recording id.

    Args:
        known: for every recording its events; one without any may be left out.
        found: likewise.
        collar_s: seconds that an onset or offset may be off, 0 or more.
        offset_share: share of the known event's length that its offset may be off, where that is more; 0 or more.

    Raises:
        ValueError: a negative collar or share, or an event that ends before it begins.

    Example:
        >>> known = {"a": [TimedEvent("dog", 1.0, 2.0), TimedEvent("dog", 4.0, 5.0)]}
        >>> scores = score_events(known, {"a": [TimedEvent("dog", 1.4, 2.2), TimedEvent("rain", 4.0, 5.0)]})
        >>> scores.matched, scores.f1, scores.per_class
        (1, 0.5, {'dog': (1, 2, 1), 'rain': (0, 0, 1)})
    """
    if not (collar_s >= 0 and offset_share >= 0):
        raise ValueError(f"collar_s and offset_share must be 0 or more, not {collar_s} and {offset_share}")
    per_class: dict[str, tuple[int, int, int]] = {}
    grouped_known, grouped_found = _grouped(known), _grouped(found)
    for key in sorted({*grouped_known, *grouped_found}):
        truth, claimed = grouped_known.get(key, []), grouped_found.get(key, [])
        matched = _largest_matching(truth, claimed, collar_s, offset_share)
        before = per_class.get(key[0], (0, 0, 0))
        per_class[key[0]] = (before[0] + matched, before[1] + len(truth), before[2] + len(claimed))
    totals = [sum(counts[i] for counts in per_class.values()) for i in range(3)]
    return EventScores(totals[0], totals[1], totals[2], per_class)


def _grouped(recordings: Mapping[str, Iterable[TimedEvent]]) -> dict[tuple[str, str], list[TimedEvent]]:
    """Events by (class id, recording)."""
    groups: dict[tuple[str, str], list[TimedEvent]] = defaultdict(list)
    for id, events in recordings.items():
        for event in events:
            if not event.onset_s <= event.offset_s:
                raise ValueError(f"recording {id!r}: an event of {event.class_id!r} ends before it begins: {event}")
            groups[event.class_id, id].append(event)
    return groups


def _largest_matching(known: list[TimedEvent], found: list[TimedEvent], collar_s: float, share: float) -> int:
    """Size of the largest matching (Kuhn's augmenting paths)."""
    fits = [[i for i, one in enumerate(found) if _fit(truth, one, collar_s, share)] for truth in known]
    partner: dict[int, int] = {}  # of a found event: the known one

    def place(truth: int, tried: set[int]) -> bool:
        for one in fits[truth]:
            if one not in tried:
                tried.add(one)
                if one not in partner or place(partner[one], tried):
                    partner[one] = truth
                    return True
        return False

    return sum(place(truth, set()) for truth in range(len(known)))


def _fit(known: TimedEvent, found: TimedEvent, collar_s: float, share: float) -> bool:
    offset_collar = max(collar_s, share * (known.offset_s - known.onset_s))
    return (
        abs(known.onset_s - found.onset_s) <= collar_s + _TINY
        and abs(known.offset_s - found.offset_s) <= offset_collar + _TINY
    )


def _f1(matched: int, known: int, found: int) -> float:
    return 2 * matched / (known + found) if known + found else math.nan
