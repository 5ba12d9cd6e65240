"""What label enhancement changed, for people and for machines: JSON, CSV and a page on which the clips can be heard.

    difference.json   settings, totals, every class, the most confident and the closest additions
    classes.csv       a line a class          additions.csv   a line an added label, with an empty column `decision`
    index.html        the same as a page; sounds are linked by relative path, spectrograms are embedded
    audio/            only for soundscapes, which have no file: the clips of the page as WAV

Not covered: what the change is worth, which only a training with the new labels can say.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import soundfile
import torch

from psla.audio.addresses import SYNTHESISED
from psla.audio.decode import AudioError
from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.ontology import Ontology
from psla.data.source import open_source
from psla.files import atomic_write, write_json_atomic
from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig
from psla.report.drawing import heat_png
from psla.report.page import Card, Cards, Folded, Heading, Numbers, Part, Table, Text, write_page
from psla.report.view import address
from psla.techniques.enhancement import EnhancedClips
from psla.techniques.labeling import Additions, Enhancement, candidate_labels

SHOWN = 100  # additions of either list
WIDTH, MEL_BINS = 250, 64  # pixels of a spectrogram
RANGE = 9.0  # natural log of power below the loudest point that is drawn black: 39 dB
_NAMES = {1: "I", 2: "II", 3: "I and II"}
_COLUMNS = ("clip_id", "class_id", "class_name", "type", "probability", "threshold", "path", "decision")


def difference(found: Enhancement, clips: Clips) -> dict[str, Any]:
    """Plain data on what was added.

    Args:
        found: the enhancement. clips: the enhanced clips, in the same order (`EnhancedClips.part`).

    Returns:
        Settings (`types`, `threshold`, `relation`), totals (`clips`, `clips_changed`, `labels_before`, `labels_after`,
        `labels_added`, `added_by_type`, `share_added` of the labels before, `impacted_classes`),
        `classes_without_threshold` and `classes_outside_ontology` (ids), `classes` (one mapping a class), and the
        hundred additions with the highest probability (`most_confident`) and with the least distance to the threshold
        (`closest`). A label that both types propose counts for both, once in the totals.
    """
    additions = found.additions
    before, total = found.original.counts(), len(found.original.indices)
    added = found.added.counts()
    of_type = {k: np.bincount(additions.classes[additions.of_type(k)], minlength=len(before)) for k in found.types}
    columns = {
        "class_id": found.labels.vocabulary.ids,
        "class_name": found.labels.vocabulary.names,
        "threshold": pl.Series(found.thresholds).fill_nan(None),
        "before": before,
        "after": before + added,
        "added": added,
        **{f"type_{kind}": counts for kind, counts in of_type.items()},
    }
    margins = additions.probabilities - found.thresholds[additions.classes]
    # Stable sorts: equal additions come in the order of the clips.
    confident = np.argsort(-additions.probabilities, kind="stable")[:SHOWN]
    closest = np.argsort(margins, kind="stable")[:SHOWN]
    return {
        "types": list(found.types),
        "threshold": found.threshold,
        "relation": found.relation,
        "clips": len(found.labels),
        "clips_changed": len(np.unique(additions.rows)),
        "labels_before": total,
        "labels_after": total + len(additions),
        "labels_added": len(additions),
        "added_by_type": {kind: int(counts.sum()) for kind, counts in of_type.items()},
        "share_added": len(additions) / total if total else 0.0,
        "impacted_classes": int(np.sum(added > 0)),
        "classes_without_threshold": found.classes_without_threshold,
        "classes_outside_ontology": list(found.classes_outside_ontology),
        "classes": pl.DataFrame(columns).to_dicts(),
        "most_confident": _rows(found, additions.take(confident), clips),
        "closest": _rows(found, additions.take(closest), clips),
    }


def against_truth(found: Enhancement, truth: Labels, ontology: Ontology) -> dict[str, dict[str, Any]]:
    """How right the additions are, where the truth is known: by type, and `all`.

    For each: `added` labels, how many of them are `correct`, `precision`; how many true labels were `missing` that the
    type can propose (for `all`: all that were missing, whether the ontology reaches them or not), and `recall`, the
    share of them that was added. None where there is nothing to divide by.

    Raises:
        KeyError: clips without a truth.
    """
    classes = len(found.labels.vocabulary)
    original, true = _keys(found.original), _keys(truth.select(found.labels.clip_ids))
    missing = np.setdiff1d(true, original, assume_unique=True)
    added = found.additions.rows * classes + found.additions.classes
    scores = {}
    for kind in (*found.types, "all"):
        mine, reachable = added, missing
        if kind != "all":
            mine = added[found.additions.of_type(kind)]
            candidates = candidate_labels(found.original, ontology, {kind}, found.relation)
            reachable = np.intersect1d(missing, _keys(candidates), assume_unique=True)
        correct = int(np.isin(mine, true, assume_unique=True).sum())
        scores[kind] = {
            "added": len(mine),
            "correct": correct,
            "precision": correct / len(mine) if len(mine) else None,
            "missing": len(reachable),
            "recall": correct / len(reachable) if len(reachable) else None,
        }
    return scores


def write_report(
    folder: str | os.PathLike[str],
    result: EnhancedClips,
    truth: dict[str, dict[str, Any]] | None = None,
    pictures: int = 2 * SHOWN,
    progress: Callable[[int], None] = lambda clips: None,
) -> dict[str, Any]:
    """Write difference.json, classes.csv, additions.csv and index.html; returns what difference.json holds.

    Args:
        folder: made if it is missing.
        result: what `enhance_clips` gave.
        truth: what `against_truth` gave.
        pictures: the most clips to read for a spectrogram; a clip that cannot be read says so on the page.
        progress: called with 1 for each clip that was read.
    """
    folder = Path(folder)
    data = difference(result.enhancement, result.part)
    data |= {"accepted_by_hand": result.accepted, "rejected_by_hand": result.rejected}
    if truth is not None:
        data["truth"] = truth
    write_json_atomic(folder / "difference.json", data)
    _write_csv(folder / "classes.csv", list(data["classes"][0]) if data["classes"] else [], data["classes"])
    _write_csv(folder / "additions.csv", _COLUMNS, _rows(result.enhancement, result.enhancement.additions, result.part))
    shown = list(dict.fromkeys(row["clip_id"] for row in [*data["most_confident"], *data["closest"]]))
    clips = _heard(folder, result.part.select(shown), pictures, progress)
    write_page(folder / "index.html", "Label enhancement", _parts(data, clips))
    return data


def spectrogram_png(waveform: np.ndarray, sample_rate: int) -> str:
    """The log-mel of a waveform, (samples,) int16 at `sample_rate`, as `data:image/png;base64,…`.

    The front end is the one that models hear; time runs to the right, low frequencies are at the bottom. At most 250 x
    64 pixels of 8 bits, so that a page of two hundred stays at a few megabytes; a clip too short for one frame gives a
    single column.

    Example:
        >>> spectrogram_png(np.zeros(16000, dtype=np.int16), sample_rate=16000)[:26]
        'data:image/png;base64,iVBO'
    """
    log_mel = _front_end(sample_rate).log_mel(torch.from_numpy(np.array(waveform))[None])[0]
    pixels = np.zeros((1, MEL_BINS), dtype=np.float32) if not len(log_mel) else log_mel.numpy()
    if len(pixels) > WIDTH:
        edges = np.linspace(0, len(pixels), WIDTH + 1).astype(int)
        pixels = np.maximum.reduceat(pixels, edges[:-1], axis=0)  # the loudest frame: short events stay visible
    return address("image/png", heat_png(pixels.T, RANGE))


@cache
def _front_end(sample_rate: int) -> FrontEnd:
    return FrontEnd(FrontEndConfig(mel_bins=MEL_BINS, sample_rate=sample_rate))


def _keys(labels: Labels) -> np.ndarray:
    """Row * classes + class of every label, ascending."""
    classes = len(labels.vocabulary)
    return np.repeat(np.arange(len(labels)) * classes, np.diff(labels.offsets)) + labels.indices


def _rows(found: Enhancement, additions: Additions, clips: Clips) -> list[dict[str, Any]]:
    vocabulary, ids = found.labels.vocabulary, found.labels.clip_ids
    classes = additions.classes.tolist()
    columns = {
        "clip_id": [ids[row] for row in additions.rows],
        "class_id": [vocabulary.ids[c] for c in classes],
        "class_name": [vocabulary.names[c] for c in classes],
        "type": [_NAMES[types] for types in additions.types.tolist()],
        "probability": additions.probabilities.tolist(),
        "threshold": found.thresholds[classes].tolist(),
        "path": clips.frame["path"].gather(additions.rows),
    }
    return pl.DataFrame(columns).to_dicts()


def _write_csv(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _heard(folder: Path, clips: Clips, pictures: int, progress: Callable[[int], None]) -> dict[str, Card]:
    """By clip id a card without a title that lets one hear and see the clip."""
    rate, cards = FrontEndConfig().sample_rate, {}
    source = open_source(clips, rate)
    columns = clips.frame.select("clip_id", "path", "start_s", "end_s", "labels").rows()
    for index, (clip_id, path, start_s, end_s, labels) in enumerate(columns):
        names = ", ".join(clips.vocabulary[id].name for id in labels) or "none"
        lines, picture, sound = [clip_id, f"labels before: {names}"], "", _link(folder, path, start_s, end_s)
        if index < pictures and (sound or path.startswith(SYNTHESISED)):
            progress(1)
            try:
                waveform = source.read(index)
            except AudioError as error:
                lines.append(f"cannot be read: {error.reason}")
            else:
                picture = spectrogram_png(waveform, rate)
                if not sound:
                    sound = f"audio/{index:03d}.wav"
                    with atomic_write(folder / sound) as temporary:
                        soundfile.write(temporary, waveform, rate)
        cards[clip_id] = Card("", lines, picture, sound)
    return cards


def _link(folder: Path, path: str, start_s: float | None, end_s: float | None) -> str:
    """The address of a file from the page's folder, with the span as a media fragment; empty if it is no file."""
    if "://" in path:
        return ""
    span = ""
    if start_s or end_s is not None:
        span = f"#t={start_s or 0:g}" + ("" if end_s is None else f",{end_s:g}")
    return quote(Path(os.path.relpath(path, folder)).as_posix()) + span


def _cards(rows: Sequence[Mapping[str, Any]], clips: Mapping[str, Card]) -> Cards:
    """Additions that can be heard and seen."""
    cards = []
    for row in rows:
        clip = clips[row["clip_id"]]
        text = f"type {row['type']}, probability {row['probability']:.3f}, threshold {row['threshold']:.3f}"
        cards.append(replace(clip, title=f"+ {row['class_name']}", lines=[text, *clip.lines]))
    return Cards(cards)


def _parts(data: Mapping[str, Any], clips: Mapping[str, Card]) -> list[Part]:
    """The page, from top to bottom."""
    threshold = data["threshold"] if isinstance(data["threshold"], str) else f"{data['threshold']:g}th percentile"
    facts = {
        "clips": data["clips"],
        "clips with added labels": data["clips_changed"],
        "labels before": data["labels_before"],
        "labels after": data["labels_after"],
        **{f"added as type {kind}": count for kind, count in data["added_by_type"].items()},
        "threshold": threshold,
        "relation of type II": data["relation"],
        "rejected by hand": data["rejected_by_hand"],
    }
    numbers = [
        ("labels added", str(data["labels_added"])),
        ("of the labels before", f"{100 * data['share_added']:.2f} %"),
        ("impacted classes", f"{data['impacted_classes']} of {len(data['classes'])}"),
    ]
    parts: list[Part] = [Numbers(numbers), _table(["settings and totals", ""], facts.items())]
    if "truth" in data:
        keys = ["added", "correct", "precision", "missing", "recall"]
        rows = [[k if k == "all" else f"type {k}", *map(each.get, keys)] for k, each in data["truth"].items()]
        parts += [Heading("Against the truth"), _table(["", *keys], rows)]
    by_type = [f"type_{kind}" for kind in data["types"]]
    keys = ["class_name", "added", *by_type, "before", "after", "threshold"]
    changed = sorted((each for each in data["classes"] if each["added"]), key=lambda each: -each["added"])
    head = ["class", *(key.replace("_", " ") for key in keys[1:])]
    parts += [Heading("Classes with added labels"), _table(head, [map(each.get, keys) for each in changed])]
    named = {each["class_id"]: each["class_name"] for each in data["classes"]}
    for title, key in (
        ("Classes without positives, which have no threshold and get no label", "classes_without_threshold"),
        ("Classes outside the ontology, which propose nothing", "classes_outside_ontology"),
    ):
        if data[key]:
            parts.append(Folded(f"{title}: {len(data[key])}", [Text(", ".join(named[id] for id in data[key]))]))
    for title, name in (("Most confident additions", "most_confident"), ("Closest to the threshold", "closest")):
        parts += [Heading(title), _cards(data[name], clips)]
    return parts


def _table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> Table:
    shown = [["-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    return Table(head, shown)
