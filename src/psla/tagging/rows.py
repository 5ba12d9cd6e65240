"""Rows: what is told of a file, as plain data. Every output format and the journal are made of them.

{"path": ..., "status": "tagged", "duration_s": ..., "windows": ..., "flags": [...], "classes": [{id, name,
 probability}, ...], "events": [{onset_s, offset_s, id, name, probability}, ...]}      (events where asked for)
{"path": ..., "status": "failed", "error": why}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psla.data.ontology import Ontology
from psla.tagging.batch import FileResult
from psla.tagging.classes import roll_up
from psla.tagging.events import EventRule, find_events
from psla.tagging.result import TagResult

TAGGED, FAILED = "tagged", "failed"


@dataclass(frozen=True)
class RowSettings:
    """What of a result goes into its row.

    Args:
        top: so many classes of the clip, 0 or more; None: all.
        threshold: of these only classes at least so probable, 0 to 1.
        classes: ids of the classes that are looked at; None: all.
        roll_up: first make every class at least as probable as its kinds in AudioSet's ontology.
        events: also the events that this rule finds.

    Raises:
        ValueError: a value out of its range.
    """

    top: int | None = 5
    threshold: float = 0.0
    classes: tuple[str, ...] | None = None
    roll_up: bool = False
    events: EventRule | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 0:
            raise ValueError(f"top must be 0 classes or more, not {self.top}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a probability from 0 to 1, not {self.threshold}")

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def row_of(file: FileResult, settings: RowSettings, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """The row of one file.

    Args:
        thresholds: the model's own, by class id, for events.
    """
    if file.result is None:
        return {"path": file.path, "status": FAILED, "error": file.reason}
    return {"path": file.path, "status": TAGGED, **_described(file.result, settings, thresholds)}


def _described(result: TagResult, settings: RowSettings, thresholds: Mapping[str, float]) -> dict[str, Any]:
    if settings.roll_up:
        result = roll_up(result, Ontology.audioset())
    if settings.classes is not None:
        result = result.part(settings.classes)
    top = len(result.vocabulary) if settings.top is None else settings.top
    row = result.to_dict(top, settings.threshold)
    if settings.events is not None:
        row["events"] = [event.to_dict() for event in find_events(result, settings.events, thresholds)]
    return row
