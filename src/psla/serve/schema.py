"""What the answers look like, for the description at `/openapi.json` and those who make clients of it; with examples.

The answers themselves are made of rows (`psla.tagging.output`); the tests hold the two together.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class FoundClass(BaseModel):
    """A class of the whole recording."""

    id: str
    name: str
    probability: float


class FoundEvent(FoundClass):
    """A class from its onset to its offset, in seconds; the highest and the mean probability of its steps."""

    onset_s: float
    offset_s: float
    mean_probability: float


class Floats(BaseModel):
    """A table in base64: float32, little-endian, row by row."""

    shape: list[int]
    float32: str


class Frames(BaseModel):
    """The probabilities of each step; times: begin and end in seconds."""

    times: list[list[float]]
    ids: list[str]
    probabilities: list[list[float]] | Floats


class Features(BaseModel):
    """The backbone's features."""

    times: list[list[float]]
    clip: list[float] | Floats
    steps: list[list[float]] | Floats


class Waveform(BaseModel):
    """Lowest and highest samples of each column, -127 to 127."""

    low: list[int]
    high: list[int]


class Picture(BaseModel):
    """The log-mel as a PNG in base64; hz: marks, as a share of its height from below and words."""

    log_mel: str
    hz: list[tuple[float, str]]
    waveform: Waveform


class TagAnswer(BaseModel):
    """An element of the list that `psla tag --json` prints."""

    path: str
    status: str
    duration_s: float
    windows: int
    flags: list[str]
    speech_dropped_s: float | None = None
    classes: list[FoundClass]
    events: list[FoundEvent] | None = None
    frames: Frames | None = None
    features: Features | None = None
    picture: Picture | None = None


class Problem(BaseModel):
    """Why there is no result."""

    status: str = "failed"
    path: str | None = None
    error: str


class ClassFact(BaseModel):
    """A class of the model; within: names of all that it is a kind of; threshold: the model's own, for events."""

    id: str
    name: str
    within: list[str]
    threshold: float | None


class ModelFact(BaseModel):
    """The model that answers; rates in Hz, lengths in seconds."""

    name: str
    sample_rate: int
    window_s: float
    hop_s: float
    step_s: float
    combine: str
    features: bool
    licence: str
    training_data: str
    most_seconds: float
    most_bytes: int
    classes: list[ClassFact]


class Models(BaseModel):
    """The models that answer: one."""

    models: list[ModelFact]


class Health(BaseModel):
    """Whether it answers."""

    status: str


_CLASS = {"id": "/m/0bt9lr", "name": "Dog", "probability": 0.8437500596046448}
ANSWER: dict[str, Any] = {
    "path": "street.flac",
    "status": "tagged",
    "duration_s": 10.0,
    "windows": 1,
    "flags": [],
    "classes": [_CLASS],
    "events": [{"onset_s": 1.28, "offset_s": 2.24, **_CLASS, "mean_probability": 0.7216796875}],
}
_WORDS = {
    401: (
        "no token, or another than that of the service",
        "this service asks for a token: Authorization: ...",
    ),
    408: ("the body came too slowly", "the body came too slowly: a byte within 20 s, all within 300 s"),
    413: ("a body or a recording beyond the limits", "it lasts longer than the 600 s that this service takes: ..."),
    422: ("no recording, or no query, that can be answered", "holds NaN or infinite samples"),
    429: ("too many requests of one address; Retry-After says when", "64 requests of this address are in flight, ..."),
    503: ("full, or about to stop; Retry-After says when", "this service has 128 requests in flight, ..."),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How these answers are described."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        meaning, example = _WORDS[status]
        value = {"status": "failed", "error": example}
        found[status] = {
            "model": Problem,
            "description": meaning,
            "content": {"application/json": {"example": value}},
        }
        if status in (429, 503):
            found[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return found


_BINARY = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A sound file, or with `pcm` raw samples; or a form with one file.",
        "content": {
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": _BINARY},
                }
            },
        },
    }
}
