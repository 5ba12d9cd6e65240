"""The page of a fit: is it any good, and which clips should a person look at and listen to.

Of clips that may be wrong the page has players and a field for a decision; what is decided is offered as the CSV that
`psla fit --review` carries out.

Not here: which clips those are (`psla.training.review`), how parts look (`psla.report.page`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
import torch

from psla.audio.decode import AudioError
from psla.data.clips import Clips
from psla.data.source import open_source
from psla.model.file import load_model
from psla.report import drawing
from psla.report.page import (
    Bar,
    Decision,
    Decisions,
    Folded,
    Heading,
    Numbers,
    Part,
    Picture,
    Table,
    Text,
    number,
    write_page,
)
from psla.report.view import View, player
from psla.tagging.tagger import Tagger
from psla.training.fit import Fitted
from psla.training.review import DROP, KEEP

PLAYED = 8  # clips of each kind that are played; pairs count twice
HEARD_S = 30.0  # of a clip
_CLASSES = 3  # whose curves are shown
_CONFUSED = 40  # classes in a confusion matrix


def write_fit_page(path: str | os.PathLike[str], made: Fitted) -> None:
    """Write the page of what `psla.fit` has made, in one file.

    Example:
        >>> write_fit_page("my.html", psla.fit("sounds", "my.safetensors"))  # doctest: +SKIP
    """
    tagger, report = Tagger(load_model(made.path)), made.report
    parts: list[Part] = [*_scores(report), *_suspects(report, made.clips, tagger)]
    note = (
        f"a head on the frozen features of {report['model']}; every answer is of one that has not heard the recording"
    )
    write_page(path, f"Fit: {made.path.name}", parts, note)


def _scores(report: Mapping[str, Any]) -> Iterator[Part]:
    found = report["cross_validation"]
    measure = found["measure"].replace("_", " ")
    shares = [f"{found[key]:.3f}" for key in ("value", "low", "high")]
    counts = [(key, f"{report[key]:,}") for key in ("clips", "recordings")]
    yield Numbers([(measure, shares[0]), ("95 %", f"{shares[1]} to {shares[2]}"), *counts])
    yield Text(f"Cross-validated over {found['folds']} groups of recordings.")
    if alone := report["classes_of_one_recording"]:
        yield Text(f"Of one recording, and so not asked about: {', '.join(alone)}.")
    if "tuned" in report:
        both = [f"{name} {report['tuned'][name]['value']:.3f}" for name in ("frozen", "tuned")]
        yield Text(f"On the clips of one group: {', '.join(both)}.")
    yield Heading("Classes")
    rows = [
        [row["name"], str(row["positives"]), Bar(row["average_precision"] or 0.0)]
        + [number(row[key]) for key in ("average_precision", "low", "high")]
        for row in found["per_class"]
    ]
    yield Table(["class", "clips", "", "average precision", "low", "high"], rows, sortable=True)
    curve = report["learning_curve"]
    if len(curve) > 1:
        yield Heading("More clips")
        yield Picture(_curve(curve, measure), f"{measure} by clips of a class in training", narrow=True)
        yield Text(f"Twice as many recordings would give about {report['twice_as_many']:.3f}.")
    if found["confusion"] is not None and len(found["confusion"]) <= _CONFUSED:
        names = [row["name"] for row in found["per_class"]]
        cells = [[name, *map(str, row)] for name, row in zip(names, found["confusion"], strict=True)]
        yield Folded("Confusion: rows are labels, columns answers", [Table(["label", *names], cells)])


def _suspects(report: Mapping[str, Any], clips: Clips, tagger: Tagger) -> Iterator[Part]:
    counts = report["suspects"]
    yield Decisions("decisions.csv", [KEEP, DROP, *report["classes"]])
    yield Text(f"A decision is a class, several with ; between them, {KEEP} or {DROP}. Then: psla fit … --review CSV.")
    for key, title in (("mistakes", "The most confident mistakes"), ("doubtful_labels", "Labels that look wrong")):
        yield Heading(f"{title}: {counts[key]}")
        for row in report[key][:PLAYED]:
            yield from _played(clips, row["clip_id"], tagger, _told(row))
        yield _listed(report[key])
    yield Heading(f"Near-duplicates with other labels, or of other recordings: {counts['near_duplicates']}")
    for pair in report["near_duplicates"][: PLAYED // 2]:
        what = "copies" if pair["copies"] else f"similarity {pair['similarity']:.4f}"
        for id, labels in zip(pair["clip_ids"], pair["labels"], strict=True):
            yield from _played(clips, id, tagger, [what, f"label {', '.join(labels) or 'none'}"])
    rows = [
        [*pair["clip_ids"], f"{pair['similarity']:.4f}", " / ".join(", ".join(each) for each in pair["labels"])]
        for pair in report["near_duplicates"]
    ]
    yield Folded("All of them", [Table(["clip", "clip", "similarity", "labels"], rows, text=(0, 1, 3))])


def _told(row: Mapping[str, Any]) -> list[str]:
    said = "" if row["probability"] >= 0.5 or not row["labelled"] else "not "
    return [f"label {', '.join(row['labels']) or 'none'}", f"heard as {said}{row['said']} ({row['probability']:.2f})"]


def _listed(rows: Sequence[Mapping[str, Any]]) -> Part:
    cells = [[row["clip_id"], ", ".join(row["labels"]), row["said"], f"{row['probability']:.3f}"] for row in rows]
    return Folded("All of them", [Table(["clip", "labels", "heard as", "probability"], cells, text=(0, 1, 2))])


def _played(clips: Clips, id: str, tagger: Tagger, facts: Sequence[str]) -> Iterator[Part]:
    """A player of a clip, and the field for its decision; a clip that has gone meanwhile is told."""
    try:
        wave = open_source(clips.select([id]), tagger.sample_rate).read(0)
    except AudioError as error:
        yield Text(str(error))
        return
    wave = wave[: round(HEARD_S * tagger.sample_rate)]
    result = tagger.tag(wave, tagger.sample_rate)
    part = result.part([sound.id for sound, _ in result.top(_CLASSES)])
    front_end = tagger.model.network.front_end  # of a network: an ensemble has no fit
    with torch.inference_mode():
        log_mel = front_end.log_mel(torch.from_numpy(wave.copy())[None])[0].numpy().T
    hz = front_end.config.bin_hz()
    if not log_mel.size:  # shorter than a frame
        log_mel, hz = np.zeros((1, 1), np.float32), None
    sound = io.BytesIO()
    soundfile.write(sound, wave, tagger.sample_rate, format="OGG", subtype="VORBIS")
    yield player(
        View(
            name=id,
            facts=[*facts, f"{result.duration_s:.2f} s"],
            duration_s=result.duration_s,
            log_mel=log_mel,
            hz=None if hz is None else hz.numpy(),
            classes=[(c.name, float(p)) for c, p in zip(part.vocabulary, part.clip_probabilities, strict=True)],
            times=part.times,
            curves=part.frames,
            events=[],
            sound=sound.getvalue(),
            sound_s=result.duration_s,
            media="audio/ogg",
        )
    )
    yield Decision(id)


def _curve(curve: Sequence[Mapping[str, float]], measure: str) -> bytes:
    figure = drawing.figure(drawing.WIDTH, 0.7 * drawing.WIDTH)
    axes = figure.subplots()
    sizes = [point["clips_per_class"] for point in curve]
    axes.set_xscale("log")
    drawing.plot(axes, [drawing.Curve("", sizes, [point["value"] for point in curve])], measure, "clips of a class")
    drawing.plain_numbers(axes.xaxis, sizes[-1] / sizes[0])
    return drawing.as_png(figure)
