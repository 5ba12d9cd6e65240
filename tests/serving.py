"""A service in a thread of the tests' own process, a plain client of it, and recordings to send."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import soundfile

from psla.serve.app import create_app
from psla.serve.limits import Limits
from psla.serve.server import Server, listen
from psla.tagging.tagger import Tagger
from tagging_models import noise


@contextmanager
def served(tagger: Tagger, limits: Limits | None = None, token: str | None = None, name: str = "tiny") -> Iterator[Any]:
    """A service on a port of its own; hands out its `server`, with `server.address`."""
    app = create_app(tagger, name, limits, token)
    ready = threading.Event()
    with listen("127.0.0.1", 0) as made:
        server: Any = Server(app, made, ready.set)
        server.port = made.getsockname()[1]
        server.address = f"http://127.0.0.1:{server.port}"
        server.service = app.state.service
        thread = threading.Thread(target=server.answer)
        thread.start()
        assert ready.wait(60)
        try:
            yield server
        finally:
            server.stop()
            thread.join(90)
            assert not thread.is_alive()


def sound(seconds: float = 1.0, seed: int = 0, kind: str = "FLAC", rate: int = 16000, channels: int = 1) -> bytes:
    """Noise as a file."""
    file = io.BytesIO()
    count = round(seconds * rate)
    soundfile.write(file, np.stack([noise(count, seed + 1000 * i) for i in range(channels)], 1), rate, format=kind)
    return file.getvalue()


def post(address: str, data: bytes, **query: Any) -> httpx.Response:
    """A recording as the body."""
    return httpx.post(f"{address}/v1/tag", content=data, params=query, timeout=120)


def metric(address: str, name: str) -> float:
    """A number of `/metrics`."""
    lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)


def same(answer: Any, row: dict[str, Any]) -> bool:
    """Whether an answer is a row as JSON has it, to the bit, whatever it is called."""
    return {**answer, "path": ""} == {**json.loads(json.dumps(row)), "path": ""}
