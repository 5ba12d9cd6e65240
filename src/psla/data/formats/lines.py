r"""Annotations a line each: Raven's selection tables, Audacity's label tracks, the TSV of DCASE and sed_eval.

Raven and Audacity take a line as it stands, so tabs and line ends in names are escaped (`psla.data.annotations`). TSV
is read by csv readers: cells that need it stand in quotes. In Raven's tables a selection has a line for each view; it
counts once.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from psla.data.annotations import (
    FORMATS,
    Annotated,
    Annotation,
    AnnotationError,
    Format,
    caption,
    escaped,
    from_caption,
    number,
    seconds,
    unescaped,
)

RAVEN_COLUMNS = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Begin File", "Annotation", "Score")
RAVEN_LABELS = ("Annotation", "Species", "Common Name", "Label", "Class", "Tags", "Call Type", "Type", "Species Code")
_EVENT = {"Begin Time (s)", "End Time (s)", "Begin File", "Begin Path", *RAVEN_LABELS}
TSV_COLUMNS = ("filename", "onset", "offset", "event_label", "probability")


def _lines(text: str) -> list[str]:
    """The lines that are not empty; only line ends part them, not what else Unicode calls one."""
    return [line for line in re.split(r"\r\n|\n|\r", text) if line]


def _chance(text: str | None) -> float | None:
    """A probability, if it is one: scores of other programs may be anything."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _write_raven(recordings: Sequence[Annotated], maker: str) -> str:
    (recording,) = recordings
    rows: list[Sequence[str]] = [RAVEN_COLUMNS]
    for place, each in enumerate(recording.annotations, 1):
        score = "" if each.probability is None else repr(each.probability)
        times = seconds(each.onset_s), seconds(each.offset_s)
        rows.append(
            (f"{place}", "Spectrogram 1", "1", *times, escaped(recording.path), escaped(each.label), score),
        )
    return "".join("\t".join(row) + "\n" for row in rows)


def _read_raven(text: str, label_column: str | None) -> list[Annotated]:
    head, *lines = [line.split("\t") for line in _lines(text)]
    named = [label_column] if label_column else RAVEN_LABELS
    column = next((name for name in named if name in head), None)
    if column is None:
        wanted = "that column" if label_column else "a column for labels that is known"
        raise AnnotationError(f"has not {wanted}; it has {', '.join(head)}: name the one with the labels")
    found: dict[str, list[Annotation]] = {}
    seen = set()
    for place, line in enumerate(lines, 2):
        cells = _cells(head, line, f"line {place}")
        if (number_of := cells.get("Selection")) is not None:
            view = (number_of, *(value for name, value in cells.items() if name in _EVENT))
            if number_of and view in seen:
                continue  # the same in another view; of tables that were joined the numbers begin anew
            seen.add(view)
        begin, end = (number(cells.get(name, ""), f"{name} of line {place}") for name in RAVEN_COLUMNS[3:5])
        chance = _chance(cells.get("Score") or cells.get("Confidence"))
        path = unescaped(cells.get("Begin Path") or cells.get("Begin File") or "")
        found.setdefault(path, []).append(Annotation(begin, end, unescaped(cells.get(column, "")), chance))
    return [Annotated(path, each) for path, each in found.items()] or [Annotated("")]


def _knows_raven(text: str) -> bool:
    return {"Begin Time (s)", "End Time (s)"} <= set(_lines(text)[0].split("\t") if text.strip() else ())


def _write_audacity(recordings: Sequence[Annotated], maker: str) -> str:
    (recording,) = recordings
    return "".join(
        f"{seconds(each.onset_s)}\t{seconds(each.offset_s)}\t{_track_label(each)}\n" for each in recording.annotations
    )


def _track_label(annotation: Annotation) -> str:
    text = escaped(caption(annotation))
    # A name that ends as a probability would is told from one by the space before it.
    if annotation.probability is None and from_caption(0, 0, annotation.label).probability is not None:
        before, _, last = text.rpartition(" ")
        return f"{before}\\s{last}"
    return text


def _read_audacity(text: str, label_column: str | None) -> list[Annotated]:
    found = []
    for place, line in enumerate(_lines(text), 1):
        begin, _, rest = line.partition("\t")
        end, _, label = rest.partition("\t")
        if begin == "\\":
            continue  # the frequencies of the label above
        onset, offset = (number(each, f"time in line {place}") for each in (begin, end))
        parted = from_caption(onset, offset, label)
        found.append(Annotation(onset, offset, unescaped(parted.label), parted.probability))
    return [Annotated("", found)]


def _knows_audacity(text: str) -> bool:
    try:
        return all(
            len(cells) >= 2 and (cells[0] == "\\" or float(cells[0]) <= float(cells[1]))
            for cells in (line.split("\t") for line in _lines(text))
        )
    except ValueError:
        return False


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in '\t\n\r"') else text


def _write_tsv(recordings: Sequence[Annotated], maker: str) -> str:
    rows: list[Sequence[str]] = [TSV_COLUMNS]
    for recording in recordings:
        for each in recording.annotations:
            chance = "" if each.probability is None else repr(each.probability)
            rows.append((recording.path, seconds(each.onset_s), seconds(each.offset_s), each.label, chance))
        if not recording.annotations:
            rows.append((recording.path, "", "", "", ""))  # it was listened to, and has none
    return "".join("\t".join(map(_cell, row)) + "\n" for row in rows)


def _read_tsv(text: str, label_column: str | None) -> list[Annotated]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True) if row]
    except csv.Error as error:
        raise AnnotationError(f"is no table: {error}") from error
    head = rows.pop(0) if "onset" in rows[0] else TSV_COLUMNS[:4]
    label, found = label_column or "event_label", dict[str, list[Annotation]]()
    if missing := [name for name in ("onset", "offset", label) if name not in head]:
        raise AnnotationError(f"has no column {' and '.join(missing)}; it has {', '.join(head)}")
    for place, row in enumerate(rows, 1):
        cells = _cells(head, row, f"event {place}")
        own = found.setdefault(cells.get("filename", ""), [])
        if any(cells.get(name, "").strip() for name in ("onset", "offset", label)):
            begin, end = (number(cells.get(name, ""), f"{name} of event {place}") for name in ("onset", "offset"))
            own.append(Annotation(begin, end, cells.get(label, ""), _chance(cells.get("probability"))))
    return [Annotated(path, each) for path, each in found.items()]


def _cells(head: Sequence[str], fields: Sequence[str], where: str) -> dict[str, str]:
    """The fields under the names of the head; fewer may be there, for the last may be empty, but none beyond it."""
    if any(field.strip() for field in fields[len(head) :]):
        raise AnnotationError(f"{where} has {len(fields)} fields, the head line {len(head)}: give it as many")
    return dict(zip(head, fields, strict=False))


def _knows_tsv(text: str) -> bool:
    try:
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter="\t"), [])
    except csv.Error:  # a line longer than a field may be
        return False
    if {"onset", "offset"} <= set(cells):
        return True
    return (
        len(cells) == 4 and _chance(cells[0]) is None and all(each.replace(".", "", 1).isdigit() for each in cells[1:3])
    )


FORMATS.add("raven", Format(".txt", False, _write_raven, _read_raven, _knows_raven))
FORMATS.add("tsv", Format(".tsv", True, _write_tsv, _read_tsv, _knows_tsv))
FORMATS.add("audacity", Format(".txt", False, _write_audacity, _read_audacity, _knows_audacity))
