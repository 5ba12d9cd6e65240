"""Annotations as JSON: JAMS, and tasks of Label Studio with pre-annotations.

JAMS holds onset and duration, Label Studio beginning and end; both hold the name as it is, and the probability.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from typing import Any

from psla.data.annotations import FORMATS, Annotated, Annotation, AnnotationError, Format

JAMS_VERSION = "0.3.4"


def _write_jams(recordings: Sequence[Annotated], maker: str) -> str:
    (recording,) = recordings
    data = [
        {"time": a.onset_s, "duration": a.offset_s - a.onset_s, "value": a.label, "confidence": a.probability}
        for a in recording.annotations
    ]
    about = {"corpus": "", "version": "", "curator": {"name": "", "email": ""}, "annotator": {}, "data_source": "psla"}
    about |= {"annotation_tools": maker, "annotation_rules": "", "validation": ""}
    file: dict[str, Any] = {
        "title": os.path.basename(recording.path),
        "artist": "",
        "release": "",
        "duration": recording.duration_s,
    }
    file |= {"identifiers": {}, "jams_version": JAMS_VERSION}
    whole = {"time": 0, "duration": recording.duration_s}
    annotation = {"namespace": "segment_open", "data": data, "annotation_metadata": about, "sandbox": {}, **whole}
    document = {"annotations": [annotation], "file_metadata": file, "sandbox": {"path": recording.path}}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _read_jams(text: str, label_column: str | None) -> list[Annotated]:
    document = _parsed(text)
    found = []
    for each in document["annotations"]:
        for row in each["data"]:
            # Scaper's value is a mapping; what sounds behind the events is none of them.
            value = row["value"] if isinstance(row["value"], dict) else {"label": row["value"]}
            if value.get("role") != "background" and not isinstance(value.get("label"), str):
                raise AnnotationError(f"a value of the namespace {each.get('namespace')!r} is no name: leave it out")
            if value.get("role") != "background":
                end = row["time"] + row["duration"]
                found.append(Annotation(row["time"], end, value["label"], row.get("confidence")))
    path = document.get("sandbox", {}).get("path") or document["file_metadata"].get("title", "")
    return [Annotated(path, found, document["file_metadata"].get("duration"))]


def _write_label_studio(recordings: Sequence[Annotated], maker: str) -> str:
    tasks = []
    for recording in recordings:
        result = []
        for place, each in enumerate(recording.annotations):
            id = hashlib.sha256(f"{recording.path} {place}".encode("utf-8", "surrogateescape")).hexdigest()[:10]
            value = {"start": each.onset_s, "end": each.offset_s, "channel": 0, "labels": [each.label]}
            region = {"id": id, "from_name": "label", "to_name": "audio", "type": "labels", "value": value}
            known = {} if recording.duration_s is None else {"original_length": recording.duration_s}
            result.append({**region, **known, **({} if each.probability is None else {"score": each.probability})})
        scores = [each.probability for each in recording.annotations if each.probability is not None]
        score = {"score": sum(scores) / len(scores)} if scores else {}
        task = {"data": {"audio": recording.path}, "predictions": [{"model_version": maker, **score, "result": result}]}
        tasks.append(task)
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def _read_label_studio(text: str, label_column: str | None) -> list[Annotated]:
    found = []
    for task in _parsed(text):
        own, length = [], None
        # What a person has made of it goes before what was proposed.
        made = [part for part in task.get("annotations") or [] if not part.get("was_cancelled")]
        if task.get("annotations") and not made:
            warnings.warn(
                f"{task['data'].get('audio', '')!r} was skipped by who labelled: it is left out", stacklevel=3
            )
            continue
        for part in made or task.get("predictions") or []:
            for region in part["result"]:
                if "labels" not in region["value"]:
                    kind = region.get("type", "unknown")
                    raise AnnotationError(f"a result of the type {kind!r} has no labels over time: export those alone")
                value, length = region["value"], region.get("original_length", length)
                own += [
                    Annotation(value["start"], value["end"], label, region.get("score")) for label in value["labels"]
                ]
        found.append(Annotated(task["data"].get("audio", ""), own, length))
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"is no JSON: {error}") from error


FORMATS.add("jams", Format(".jams", False, _write_jams, _read_jams, lambda text: '"file_metadata"' in text))
FORMATS.add(
    "label-studio",
    Format(".json", True, _write_label_studio, _read_label_studio, lambda text: text.lstrip()[:1] == "["),
)
