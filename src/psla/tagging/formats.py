"""Rows as text: a table for people, JSON, CSV, and label tracks for Audacity.

Each writer takes rows as they come, so that thousands of files need no memory here.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psla.tagging.rows import FAILED

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
        yield lead + (text if _is_text(text) else json.dumps(row, allow_nan=False))
        lead = ",\n "
    yield "]\n" if lead != "[" else "[]\n"


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def csv_lines(rows: Iterable[Mapping[str, Any]], events: bool) -> Iterator[str]:
    """A head, then a line for each class of each file, or each event; a file without any has one line, too.

    Example:
        >>> row = {"path": "a.wav", "status": "failed", "error": "not audio"}
        >>> print("".join(csv_lines([row], events=False)), end="")
        path,status,duration_s,flags,class_id,name,probability,error
        a.wav,failed,,,,,,not audio
    """
    columns = EVENT_COLUMNS if events else CLASS_COLUMNS
    yield _csv_line(columns)
    for row in rows:
        common = {name: row.get(name, "") for name in ("path", "status", "duration_s", "error")}
        common["flags"] = " ".join(row.get("flags", ()))
        for found in row.get("events" if events else "classes") or [{}]:
            values = {**common, **found, "class_id": found.get("id", "")}
            yield _csv_line([values.get(name, "") for name in columns])


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def audacity_labels(row: Mapping[str, Any]) -> str:
    """The events of one file as a label track: onset, offset and name, in Audacity's own form.

    Source: https://manual.audacityteam.org/man/importing_and_exporting_labels.html

    Example:
        >>> audacity_labels({"events": [{"onset_s": 0.32, "offset_s": 1.0, "name": "Dog", "probability": 0.75}]})
        '0.320000\\t1.000000\\tDog 0.75\\n'
    """
    return "".join(
        f"{event['onset_s']:.6f}\t{event['offset_s']:.6f}\t{event['name']} {event['probability']:.2f}\n"
        for event in row.get("events", ())
    )


def label_file_names(paths: Sequence[str]) -> list[str]:
    """A name for each file's label track: its path below the folder that all share, with `.txt`; all different.

    Example:
        >>> label_file_names(["day/a.wav", "day/night/a.wav"])
        ['a.wav.txt', 'night/a.wav.txt']
    """
    if not paths:
        return []
    whole = [os.path.abspath(path) for path in paths]
    shared = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [os.path.relpath(path, shared) + ".txt" for path in whole]


def heading(row: Mapping[str, Any]) -> str:
    """The first line of a file in a table.

    Example:
        >>> heading({"path": "a.wav", "duration_s": 1.5, "windows": 1, "flags": ["short"]})
        'a.wav (1.50 s, short)'
    """
    if row.get("status") == FAILED:
        return f"{row['path']} (failed)"
    facts = [
        f"{row['duration_s']:.2f} s",
        *([f"{row['windows']} windows"] if row["windows"] > 1 else []),
        *row["flags"],
    ]
    return f"{row['path']} ({', '.join(facts)})"
