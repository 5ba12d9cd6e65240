"""Laws of the WebSocket: it is `psla.Stream`, for whoever keeps to what is said of it, and ends in a sentence."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from psla.serve.limits import Limits
from psla.tagging.events import EventRule
from psla.tagging.stream import Stream
from psla.tagging.tagger import Tagger
from serving import metric, post, served, sound
from tagging_models import noise, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

TAGGER = Tagger(tiny_model(mel_bins=32))
LIMITS = Limits(streams=2, idle_s=2.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with served(TAGGER, LIMITS) as made:
        yield made


@contextmanager
def begin(server: Any, first: Any = None, **start: Any) -> Iterator[ClientConnection]:
    """A client that has sent its first message."""
    with connect(f"ws://127.0.0.1:{server.port}/v1/stream", open_timeout=30, close_timeout=30) as client:
        client.send(json.dumps({"rate": TAGGER.sample_rate, **start}) if first is None else first)
        yield client


def all_said(client: ClientConnection) -> list[dict[str, Any]]:
    """Everything up to the end."""
    said = []
    try:
        while True:
            said.append(json.loads(client.recv(timeout=60)))
    except ConnectionClosed:
        return said


def test_a_stream_is_the_stream(server: Any) -> None:
    """Cut anywhere, in the middle of a sample too: events and frames are those of `psla.Stream`, to the bit."""
    sent = np.stack([noise(70000, 1), noise(70000, 2)], 1)
    rule = {"threshold": 0.6, "release": 0.7}
    with begin(server, channels=2, frames=True, **rule) as client:
        data, at = sent.tobytes(), 0
        for length in (1, 2, 4999, 40001, 100000, 1 << 20):
            client.send(data[at : at + length])
            at += length
        client.send(json.dumps({"gap_s": 1.5}))
        client.send(data[:80000])
        client.send(json.dumps({"end": True}))
        ready, *said, end = all_said(client)
    assert (ready["type"], end["type"]) == ("ready", "end")
    own = Stream(TAGGER, rule=EventRule(0.6, 0.7))
    assert ready["latency_s"] == own.latency_s
    told, frames, times = [], [], []
    for step in (lambda: own.push(sent), lambda: own.gap(1.5), lambda: own.push(sent[:20000]), own.close):
        told += step()
        frames.append(own.frames)
        times.append(own.times)
    found = [event for each in said for event in each["events"]]
    closed = [each for each in found if each["state"] == "closed"]
    assert closed == [each.to_dict() for each in told if each.state == "closed"]
    assert len(closed) == 3
    heard = [row for each in said if "frames" in each for row in each["frames"]["probabilities"]]
    assert np.array_equal(np.float32(heard), np.concatenate(frames))
    seen = [row for each in said if "frames" in each for row in each["frames"]["times"]]
    assert np.array_equal(seen, np.concatenate(times))
    assert end["position_s"] == own.position_s


def test_what_is_wrong_is_said(server: Any) -> None:
    """Another first message, an unknown word, no class, samples that are none: a sentence, and the end."""
    wrong: list[tuple[Any, Any, str]] = [
        (b"\0\0", None, "first message"),
        ("{", None, "JSON"),
        ({"rate": 1}, None, "rate"),
        ({"rate": 16000, "speed": 2}, None, "speed"),
        ({"rate": 16000, "classes": ["unicorn"]}, None, "unicorn"),
        ({"rate": 16000, "pcm": "f32le"}, np.float32([np.nan] * 9000).tobytes(), "NaN"),
        ({"rate": 16000}, '{"gap_s": -1}', "gap_s"),
    ]
    for first, second, word in wrong:
        with begin(server, json.dumps(first) if isinstance(first, dict) else first) as client:
            if second is not None:
                client.send(second)
            *_, last = all_said(client)
        assert last["type"] == "error"
        assert word in last["error"], last
        assert client.protocol.close_code == 1008
    assert server.service.gate.streams == 0


def test_streams_have_a_limit_and_a_home(server: Any) -> None:
    """A third is told to come back; one from another site's page is not let in; one that is silent is ended."""
    with begin(server) as first, begin(server) as second:
        assert json.loads(first.recv(timeout=30))["type"] == json.loads(second.recv(timeout=30))["type"] == "ready"
        address = f"ws://127.0.0.1:{server.port}/v1/stream"
        with connect(address) as third:  # it is told before it says anything
            [refused] = all_said(third)
        assert "2 streams" in refused["error"]
        assert third.protocol.close_code == 1013
        with pytest.raises(InvalidStatus), connect(address, origin="http://elsewhere.example"):
            pass
        first.socket.shutdown(socket.SHUT_RDWR)  # gone without a word
        [silent] = all_said(second)
        assert "nothing came for 2 s" in silent["error"]
    end = time.monotonic() + 30
    while server.service.gate.streams:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert post(server.address, sound()).status_code == 200
    assert metric(server.address, "psla_streams") == 0


def test_a_stream_asks_for_the_token() -> None:
    """In the header, or where a browser cannot set one in the first message."""
    with served(TAGGER, LIMITS, token="s3cret") as server:
        for start, answer in (({}, "error"), ({"token": "other"}, "error"), ({"token": "s3cret"}, "ready")):
            with begin(server, **start) as client:
                assert json.loads(client.recv(timeout=30))["type"] == answer
        headers = {"authorization": "Bearer s3cret"}
        with connect(f"ws://127.0.0.1:{server.port}/v1/stream", additional_headers=headers) as client:
            client.send('{"rate": 16000}')
            assert json.loads(client.recv(timeout=30))["type"] == "ready"


def test_stopping_closes_a_stream_in_order() -> None:
    """Told to stop, the service tells what is left of a stream, and that it ends: nothing that was heard is lost."""
    with served(TAGGER, LIMITS) as server:
        with begin(server, threshold=0.01) as client:
            client.send(noise(30000, 3).tobytes())
            said = [json.loads(client.recv(timeout=60)) for _ in range(2)]  # ready, and what is told at once
            server.stop()
            said += all_said(client)
            assert client.protocol.close_code == 1001
        assert said[-1] == {"type": "end", "position_s": 30000 / TAGGER.sample_rate}
        events = [event for each in said if each["type"] == "events" for event in each["events"]]
        assert {each["state"] for each in events} >= {"opened", "closed"}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.address}/healthz")
