"""What is told of files: rows of plain data, and rows as text for people, machines and other programs.

{"path": ..., "status": "tagged", "duration_s": ..., "windows": ..., "flags": [...], "classes": [{id, name,
 probability}, ...], "events": [{onset_s, offset_s, id, name, probability, mean_probability}, ...]}
                                                                                        (events where asked for)
{"path": ..., "status": "failed", "error": why}

"speech_dropped_s": where speech was to be dropped (`psla.tagging.privacy`). The cut to so many classes comes last.

Every output format and the journal are made of rows. Writers take them as they come, so that thousands of files need no
memory here.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from psla.data.annotations import FORMATS, Annotated, Annotation
from psla.data.ontology import Ontology
from psla.files import is_text
from psla.tagging.batch import FileResult
from psla.tagging.events import EventRule, find_events
from psla.tagging.result import TagResult, roll_up

TAGGED, FAILED = "tagged", "failed"


@dataclass(frozen=True)
class RowSettings:
    """What of a result goes into its row.

    Args:
        top: so many classes of the clip, 0 or more; None: all.
        threshold: only classes at least so probable, 0 to 1; of them the `top` are taken.
        classes: ids of the classes that are looked at; None: all.
        roll_up: first make every class at least as probable as its kinds in AudioSet's ontology.
        events: also the events that this rule finds.
        deepest: leave out classes that a kind of theirs stands for; see `TagResult.top`.

    Raises:
        ValueError: a value out of its range.
    """

    top: int | None = 5
    threshold: float = 0.0
    classes: tuple[str, ...] | None = None
    roll_up: bool = False
    events: EventRule | None = None
    deepest: bool = False

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 0:
            raise ValueError(f"top must be 0 classes or more, not {self.top}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a probability from 0 to 1, not {self.threshold}")


def row_of(file: FileResult, settings: RowSettings, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """The row of one file.

    Args:
        thresholds: the model's own, by class id, for events.
    """
    if file.result is None:
        return {"path": file.path, "status": FAILED, "error": file.reason}
    result = looked_at(file.result, settings)
    top = len(result.vocabulary) if settings.top is None else settings.top
    row = {"path": file.path, "status": TAGGED, **result.to_dict(top, settings.threshold, settings.deepest)}
    if settings.events is not None:
        rule = settings.events.part(result.vocabulary)
        row["events"] = [event.to_dict() for event in find_events(result, rule, thresholds)]
    return row


def looked_at(result: TagResult, settings: RowSettings) -> TagResult:
    """The result that a row is made of: rolled up, and of the chosen classes only, as the settings say."""
    if settings.roll_up:
        result = roll_up(result, Ontology.audioset())
    return result if settings.classes is None else result.part(settings.classes)


CLASS_COLUMNS = ("path", "status", "duration_s", "flags", "class_id", "name", "probability", "error")
EVENT_COLUMNS = ("path", "status", "flags", "onset_s", "offset_s", "class_id", "name", "probability", "error")


def json_array(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """An array of rows, one a line, as pieces of text.

    Example:
        >>> print("".join(json_array([{"path": "a.wav"}, {"path": "b.wav"}])), end="")
        [{"path": "a.wav"},
         {"path": "b.wav"}]
    """
    lead = "["
    for row in rows:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        # A file name may hold bytes that are no text: only the escapes of ASCII can carry them.
        yield lead + (text if is_text(text) else json.dumps(row, allow_nan=False))
        lead = ",\n "
    yield "]\n" if lead != "[" else "[]\n"


def csv_lines(rows: Iterable[Mapping[str, Any]], events: bool) -> Iterator[str]:
    """A head, then a line for each class of each file, or each event; a file without any has one line, too.

    Example:
        >>> row = {"path": "a.wav", "status": "failed", "error": "not audio"}
        >>> print("".join(csv_lines([row], events=False)), end="")
        path,status,duration_s,flags,class_id,name,probability,error
        a.wav,failed,,,,,,not audio
    """
    columns = EVENT_COLUMNS if events else CLASS_COLUMNS
    # A writer gives back what the file's `write` does: here the line itself.
    writer = csv.DictWriter(SimpleNamespace(write=str), columns, extrasaction="ignore", lineterminator="\n")
    yield writer.writeheader()
    for row in rows:
        common = {name: row.get(name, "") for name in ("path", "status", "duration_s", "error")}
        common["flags"] = " ".join(row.get("flags", ()))
        for found in row.get("events" if events else "classes") or [{}]:
            yield writer.writerow({**common, **found, "class_id": found.get("id", "")})


def annotated(row: Mapping[str, Any]) -> Annotated:
    """The events of one file, for the formats of `psla.data.annotations`."""
    events = [Annotation(e["onset_s"], e["offset_s"], e["name"], e["probability"]) for e in row.get("events", ())]
    return Annotated(row.get("path", ""), events, row.get("duration_s"))


def audacity_labels(row: Mapping[str, Any]) -> str:
    """The events of one file as a label track: onset, offset and name, in Audacity's own form.

    Example:
        >>> audacity_labels({"events": [{"onset_s": 0.32, "offset_s": 1.0, "name": "Dog", "probability": 0.75}]})
        '0.320000\\t1.000000\\tDog 0.75\\n'
    """
    return FORMATS["audacity"].write([annotated(row)], "")


def label_file_names(paths: Sequence[str], suffix: str = ".txt") -> list[str]:
    """A name for each file's annotations: its path below the folder that all share, with a suffix; all different.

    Example:
        >>> label_file_names(["day/a.wav", "day/night/a.wav"])
        ['a.wav.txt', 'night/a.wav.txt']
    """
    if not paths:
        return []
    whole = [os.path.abspath(path) for path in paths]
    shared = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [os.path.relpath(path, shared) + suffix for path in whole]


def heading(row: Mapping[str, Any]) -> str:
    """The first line of a file in a table.

    Example:
        >>> heading({"path": "a.wav", "duration_s": 1.5, "windows": 1, "flags": ["short"]})
        'a.wav (1.50 s, short)'
    """
    if row.get("status") == FAILED:
        return f"{row['path']} (failed)"
    windows = [f"{row['windows']} windows"] if row["windows"] > 1 else []
    dropped = [f"{row['speech_dropped_s']:.2f} s with speech dropped"] if "speech_dropped_s" in row else []
    facts = [f"{row['duration_s']:.2f} s", *windows, *dropped, *row["flags"]]
    return f"{row['path']} ({', '.join(facts)})"
