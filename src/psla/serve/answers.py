"""What is asked of a recording, and what is answered: an element of the list that `psla tag --json` prints.

The words of a query are those of `psla tag`'s options, and mean the same. More, where it is asked for:

`frames`    {"times": [[begin, end], ...], "ids": [...], "probabilities": [[...], ...]}: each step, in seconds
`features`  {"times": ..., "clip": [...], "steps": [[...], ...]}: what `psla tag --embeddings` keeps
`picture`   {"log_mel": a PNG in base64, "hz": [[share of the height, words], ...], "waveform": {"low", "high"}}

As `base64`, a table is {"shape": [rows, columns], "float32": its rows, little-endian, in base64}, a fifth of the bytes.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import soundfile
from pydantic import BaseModel, ConfigDict, Field

from psla.data.vocabulary import Vocabulary
from psla.report import drawing
from psla.report.view import RANGE, hz_marks
from psla.tagging.batch import FileResult
from psla.tagging.events import EventRule
from psla.tagging.output import RowSettings, levels_of, looked_at, row_of
from psla.tagging.privacy import SPEECH_THRESHOLD, Withheld, speech_classes
from psla.tagging.result import TagResult, choose_classes, kinds_of
from psla.tagging.tagger import Tagger
from psla.tagging.view import COLUMNS, Views


class Table(StrEnum):
    """Whether a table is in the answer, and how."""

    none = "none"
    list = "list"
    base64 = "base64"


class Samples(StrEnum):
    """Raw PCM, little-endian, channels interleaved: whole numbers of 16 or 32 bits, or float32 in [-1, 1]."""

    s16le = "s16le"
    s32le = "s32le"
    f32le = "f32le"


SAMPLE_TYPES = {Samples.s16le: "<i2", Samples.s32le: "<i4", Samples.f32le: "<f4"}
_SUBTYPE = {Samples.s16le: "PCM_16", Samples.s32le: "PCM_32", Samples.f32le: "FLOAT"}


class TagQuery(BaseModel):
    """The query of `/v1/tag`; a word that it does not know is refused."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", max_length=1000, description="What the answer calls a recording that is the body.")
    top: int | None = Field(None, ge=0, le=100000, description="How many classes: 5, or all that reach `threshold`.")
    threshold: float | None = Field(None, ge=0, le=1, allow_inf_nan=False, description="Leave out what is below.")
    classes: list[str] = Field([], max_length=1000, description="Only this class, by name or id, and its kinds.")
    exclude: list[str] = Field([], max_length=1000, description="Nothing of this class and its kinds.")
    deepest: bool = Field(False, description="No class if a kind of it at least half as probable is told.")
    roll_up: bool = Field(False, description="A class is at least as probable as its kinds.")
    drop_speech: bool = Field(False, description="Nothing of moments with a human voice.")
    speech_threshold: float | None = Field(None, gt=0, le=1, allow_inf_nan=False, description="How probable a voice.")
    events: bool = Field(False, description="Onsets and offsets of sounds.")
    release: float = Field(0.8, gt=0, le=1, allow_inf_nan=False, description="An event goes on above this share.")
    max_gap: float | None = Field(None, ge=0, allow_inf_nan=False, description="Seconds; shorter gaps are closed.")
    min_length: float = Field(0.0, ge=0, allow_inf_nan=False, description="Seconds; shorter events are left out.")
    frames: Table = Field(Table.none, description="The probabilities of each step, of all classes looked at.")
    features: Table = Field(Table.none, description="The backbone's features, for the clip and for each step.")
    picture: bool = Field(False, description="The log-mel that the model hears, as a PNG, and the waveform's outline.")
    pcm: Samples | None = Field(None, description="The body is raw PCM of this kind, and no file.")
    rate: int | None = Field(None, ge=1000, le=768000, description="Of raw PCM, in Hz.")
    channels: int = Field(1, ge=1, le=64, description="Of raw PCM.")


@dataclass(frozen=True)
class Plan:
    """What is done with one recording.

    Attributes:
        settings, withheld: as in `psla.tagging.job.TagJob`. frames, features: how they are told. picture: with one.
    """

    settings: RowSettings
    withheld: Withheld
    frames: Table
    features: Table
    picture: bool

    @staticmethod
    def of(query: TagQuery, vocabulary: Vocabulary, calibrated: bool = False) -> Plan:
        """The plan of a query; calibrated: the model has thresholds of its own that `psla tag` would use.

        Raises:
            ValueError: a value out of its range, a class that the model does not have, or what it cannot do.

        Example:
            >>> Plan.of(TagQuery(top=3, events=True), Vocabulary(["dog"])).settings.top
            3
        """
        level = None
        if query.drop_speech or query.speech_threshold is not None:
            speech_classes(vocabulary)  # refuses a model that knows none
            level = SPEECH_THRESHOLD if query.speech_threshold is None else query.speech_threshold
        if query.roll_up:
            kinds_of(vocabulary)  # refuses a model whose classes have no kin
        gone = tuple(choose_classes(query.exclude, vocabulary))
        chosen = choose_classes(query.classes, vocabulary)
        rule = EventRule(query.threshold or None, query.release, query.max_gap, query.min_length)
        top, threshold = levels_of(query.top, query.threshold, calibrated)
        settings = RowSettings(
            top=top,
            threshold=threshold,
            classes=tuple(id for id in chosen if id not in gone) if query.classes else None,
            roll_up=query.roll_up,
            events=rule if query.events else None,
            deepest=query.deepest,
            unfamiliar=query.top is not None,
        )
        return Plan(settings, Withheld(gone, level), query.frames, query.features, query.picture)


def as_file(pcm: bytes, query: TagQuery) -> bytes:
    """Raw PCM as a WAV file: it goes the way that files go, and gets the numbers that an array gets.

    Raises:
        ValueError: no sample rate, or bytes that are no whole number of samples of all channels.

    Example:
        >>> as_file(bytes(8), TagQuery(pcm="s16le", rate=8000, channels=2))[:4]
        b'RIFF'
    """
    assert query.pcm is not None
    if query.rate is None:
        raise ValueError("raw PCM does not say how fast it was sampled: give its rate in Hz")
    whole = np.dtype(SAMPLE_TYPES[query.pcm]).itemsize * query.channels
    if not pcm or len(pcm) % whole:
        raise ValueError(f"{len(pcm)} bytes are no whole number of {query.pcm} samples of {query.channels} channels")
    file = io.BytesIO()
    samples = np.frombuffer(pcm, SAMPLE_TYPES[query.pcm]).reshape(-1, query.channels)
    soundfile.write(file, samples, query.rate, format="WAV", subtype=_SUBTYPE[query.pcm])
    return file.getvalue()


class Outline:
    """Keeps the blocks of a recording as they pass, for its picture."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []

    def passed(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks."""
        for block in blocks:
            self._blocks.append(block)
            yield block

    def picture(self, tagger: Tagger) -> dict[str, Any]:
        """The log-mel and the waveform's lowest and highest samples in each of some columns, in 127ths."""
        samples = np.concatenate(self._blocks)
        image, hz = Views(tagger, RowSettings()).log_mel([samples], len(samples))
        firsts = np.unique(np.arange(min(COLUMNS, len(samples))) * len(samples) // min(COLUMNS, len(samples)))
        low, high = np.minimum.reduceat(samples, firsts), np.maximum.reduceat(samples, firsts)
        return {
            "log_mel": _text(drawing.heat_png(image, RANGE)),
            "hz": [[share, words] for share, words in hz_marks(hz)],
            "waveform": {"low": (low // 258).tolist(), "high": (-(high // -258)).tolist()},
        }


def answer(name: str, result: TagResult, plan: Plan, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """The row of a recording, with the tables that were asked for."""
    file = plan.withheld.of(FileResult(name, result))
    assert file.result is not None
    row = row_of(file, plan.settings, thresholds)
    if plan.frames is not Table.none:
        seen = looked_at(file.result, plan.settings)
        probabilities = _table(seen.frames, plan.frames)
        row["frames"] = {"times": seen.times.tolist(), "ids": list(seen.vocabulary.ids), "probabilities": probabilities}
    if plan.features is not Table.none and (embedding := file.result.embedding) is not None:
        if np.isnan(embedding.clip).any():  # nothing remained
            row["features"] = None
        else:
            clip, steps = (_table(each, plan.features) for each in (embedding.clip, embedding.steps))
            row["features"] = {"times": file.result.times.tolist(), "clip": clip, "steps": steps}
    return row


def to_json(row: Mapping[str, Any]) -> bytes:
    """A row in ASCII: a name may hold what is no text, and only escapes can carry that."""
    return json.dumps(row, allow_nan=False).encode("ascii")


def _table(values: np.ndarray, how: Table) -> Any:
    if how is Table.list:
        return values.tolist()
    return {"shape": list(values.shape), "float32": _text(np.ascontiguousarray(values, "<f4").tobytes())}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
