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

from psla.data.annotations import Annotated, Annotation
from psla.files import is_text
from psla.tagging.batch import FileResult
from psla.tagging.events import EventRule, find_events
from psla.tagging.recording import UNFAMILIAR
from psla.tagging.result import TagResult, roll_up

TAGGED, FAILED = "tagged", "failed"


@dataclass(frozen=True)
class RowSettings:
    """What of a result goes into its row.

    Args:
        top: so many classes of the clip, 0 or more; None: all.
        threshold: only classes at least so probable, 0 to 1; of them the `top` are taken. None: as the model's own
            thresholds say, and 0.5 where it has none.
        classes: ids of the classes that are looked at; None: all.
        roll_up: first make every class at least as probable as its kinds in AudioSet's ontology.
        events: also the events that this rule finds.
        deepest: leave out classes that a kind of theirs stands for; see `TagResult.top`.
        unfamiliar: name classes, too, of a recording that is flagged `unfamiliar`.

    Raises:
        ValueError: a value out of its range.
    """

    top: int | None = 5
    threshold: float | None = 0.0
    classes: tuple[str, ...] | None = None
    roll_up: bool = False
    events: EventRule | None = None
    deepest: bool = False
    unfamiliar: bool = False

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 0:
            raise ValueError(f"top must be 0 classes or more, not {self.top}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a probability from 0 to 1, not {self.threshold}")


def row_of(file: FileResult, settings: RowSettings, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """The row of one file.

    Args:
        thresholds: the model's own, by class id, for events and where the settings have none.
    """
    if file.result is None:
        return {"path": file.path, "status": FAILED, "error": file.reason}
    result = looked_at(file.result, settings)
    named, top = result, len(result.vocabulary) if settings.top is None else settings.top
    if UNFAMILIAR in result.flags and not settings.unfamiliar:
        # What is like none of the classes gets the name of none; others may have been kept beside them.
        others = [id for id in result.vocabulary.ids if id not in result.own]
        named, top = result.part(others) if others else result, top if others else 0
    level = thresholds if settings.threshold is None else settings.threshold
    row = {"path": file.path, "status": TAGGED, **named.to_dict(top, level, settings.deepest)}
    if settings.events is not None:
        rule = settings.events.part(result.vocabulary)
        row["events"] = [event.to_dict() for event in find_events(result, rule, thresholds)]
    return row


def looked_at(result: TagResult, settings: RowSettings) -> TagResult:
    """The result that a row is made of: rolled up, and of the chosen classes only, as the settings say."""
    if settings.roll_up:
        result = roll_up(result)
    return result if settings.classes is None else result.part(settings.classes)


_Fields = Mapping[str, type | tuple[type, ...]]
_NUMBER = (int, float)
_CLASS: _Fields = {"id": str, "name": str, "probability": _NUMBER}
_EVENT: _Fields = {**_CLASS, "onset_s": _NUMBER, "offset_s": _NUMBER}
_EVENT_MORE: _Fields = {"mean_probability": _NUMBER}  # which rows of before do not have
_NEEDED: Mapping[str, _Fields] = {
    TAGGED: {"path": str, "status": str, "duration_s": _NUMBER, "windows": int, "flags": list, "classes": list},
    FAILED: {"path": str, "status": str, "error": str},
}
_OPTIONAL: _Fields = {"events": list, "speech_dropped_s": _NUMBER}


def levels_of(top: int | None, threshold: float | None, calibrated: bool) -> tuple[int | None, float | None]:
    """How many classes are shown, and from which probability on; None: all, and the thresholds of the model's own.

    Example:
        >>> levels_of(None, None, False), levels_of(None, None, True), levels_of(3, None, True)
        ((5, 0.0), (None, None), (3, 0.0))
    """
    if top is None and threshold is None:
        return (None, None) if calibrated else (5, 0.0)
    return top, threshold or 0.0


def check_row(row: Mapping[str, Any]) -> None:
    """Refuse what is no row, such as one that has been kept in a file.

    Raises:
        ValueError: which field is missing, unknown or of another type.

    Example:
        >>> check_row({"path": "a.wav", "status": "failed", "error": 7})
        Traceback (most recent call last):
        ValueError: its error is no str: 7
    """
    status = row.get("status")
    needed = _NEEDED.get(status) if isinstance(status, str) else None
    if needed is None:
        raise ValueError(f"its status is {status!r:.40}")
    _check_fields(row, needed, _OPTIONAL if status == TAGGED else {})
    for name, fields, more in (("classes", _CLASS, {}), ("events", _EVENT, _EVENT_MORE)):
        for found in row.get(name, ()):
            if not isinstance(found, Mapping):
                raise ValueError(f"its {name} hold {found!r:.40}")
            _check_fields(found, fields, more)
    if not all(isinstance(flag, str) for flag in row.get("flags", ())):
        raise ValueError("its flags are no texts")


def _check_fields(row: Mapping[str, Any], needed: _Fields, optional: _Fields) -> None:
    if odd := sorted((needed.keys() - row.keys()) | (row.keys() - needed.keys() - optional.keys())):
        raise ValueError(f"its field {odd[0]!r:.40} is missing or unknown")
    for name, value in row.items():
        kind = needed[name] if name in needed else optional[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"its {name} is no {kind.__name__ if isinstance(kind, type) else 'number'}: {value!r:.40}")


CLASS_COLUMNS = ("path", "status", "duration_s", "flags", "class_id", "name", "probability", "error")
EVENT_COLUMNS = ("path", "status", "flags", "onset_s", "offset_s", "class_id", "name", "probability", "error")


def json_array(rows: Iterable[Mapping[str, Any]], ascii_only: bool = False) -> Iterator[str]:
    """An array of rows, one a line, as pieces of text; with escapes for all that is not ASCII where it is asked for.

    Example:
        >>> print("".join(json_array([{"path": "a.wav"}, {"path": "b.wav"}])), end="")
        [{"path": "a.wav"},
         {"path": "b.wav"}]
    """
    lead = "["
    for row in rows:
        text = json.dumps(row, ensure_ascii=ascii_only, allow_nan=False)
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
    """The events of one file, for the formats of `psla.data.annotations`.

    Example:
        >>> from psla.data.annotations import FORMATS
        >>> row = {"events": [{"onset_s": 0.32, "offset_s": 1.0, "name": "Dog", "probability": 0.75}]}
        >>> FORMATS["audacity"].write([annotated(row)], "")
        '0.320000\\t1.000000\\tDog 0.75\\n'
    """
    events = [Annotation(e["onset_s"], e["offset_s"], e["name"], e["probability"]) for e in row.get("events", ())]
    return Annotated(row.get("path", ""), events, row.get("duration_s"))


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
