"""What a decoding worker tells of sound files: how long they are, or why they cannot be read.

`inspect` runs at the far end of a `DecodePool`, in the place of a decoder: its source is a JSON object of paths, its
"samples" are the bytes of a JSON list. So a file that crashes or stalls its decoder costs that file, here as there.
This module is imported in every worker: it imports no polars. `headers.py` is its other end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from psla.audio import decode as audio
from psla.audio.decode import AudioError, AudioStream, Source


def inspect(source: Source, rate: int, start_s: float | None, end_s: float | None) -> Iterator[np.ndarray]:
    """Blocks whose bytes, joined, are a JSON list with [seconds, reason] for each path: one of the two is null.

    Args:
        source: JSON `{"paths": [...], "decode": bool}` as bytes; `decode`: decode each file to its end (slow, finds all
            damage) and not only its header.
        rate, start_s, end_s: not used; a decoder has them.

    Shape:
        each block: (values,) int16, and white space where it only says that the worker lives.

    Example:
        >>> blocks = inspect(b'{"paths": ["gone.wav"], "decode": false}', 1, None, None)
        >>> json.loads(b"".join(block.tobytes() for block in blocks))
        [[None, 'cannot be opened: No such file or directory']]
    """
    assert isinstance(source, bytes)
    asked: dict[str, Any] = json.loads(source)
    yield _block("[")
    for number, path in enumerate(asked["paths"]):
        comma = "," if number else ""
        try:
            found = audio.probe(path)
            if asked["decode"]:
                with AudioStream(path, found.sample_rate) as stream:
                    for _ in stream:
                        yield _block(" ")
            answer: list[Any] = [found.duration_s, None]
        except AudioError as error:
            answer = [None, error.reason]
        yield _block(comma + json.dumps(answer))
    yield _block("]")


def _block(text: str) -> np.ndarray:
    data = text.encode("ascii")
    return np.frombuffer(data + b" " * (len(data) % 2), dtype=np.int16)
