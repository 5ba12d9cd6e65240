"""Laws of `psla listen --reconnect`: an address that breaks off is opened again; what was missed is told as a gap."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from psla.audio.decode import AudioError
from psla.audio.live import Block, again, container
from psla.cli import app
from tagging_models import tiny_model_file
from test_listen import RATE, listen_command, wav
from test_stream import sound

pytestmark = pytest.mark.usefixtures("one_thread")


class Radio(BaseHTTPRequestHandler):
    """Sends a second of sound and drops the connection; every second call it is away."""

    calls: ClassVar[int] = 0

    def do_GET(self) -> None:
        Radio.calls += 1
        if Radio.calls % 2 == 0:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "audio/wav")
        self.end_headers()
        self.wfile.write(wav(sound(9.0))[: 44 + 2 * RATE])  # the header promises more

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def radio() -> Iterator[str]:
    Radio.calls = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Radio)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/live.wav"
    server.shutdown()
    server.server_close()


def test_what_was_missed_is_told() -> None:
    """Law: that it is gone is told at once, how long once it is back, by the clock; what is opened in vain is tried
    again; the very first time it is an error; the source's own gaps count."""
    now, waited = [0.0], []
    block = Block(np.ones((RATE, 1), np.int16), RATE)

    def one(*given: Block, error: str = "") -> Iterator[Block]:
        for each in given:
            now[0] += 1.0  # it comes as fast as it sounds
            yield each
        if error:
            now[0] += 10.0  # it was silent for so long
            raise AudioError("camera", error)

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    mine = Block(block.samples, RATE, 0.5, "a hole")
    opened = iter([one(block, mine, error="gone"), one(error="away"), one(mine), one(block)])
    blocks = again(lambda: next(opened), 5.0, lambda: now[0], wait)
    got = [next(blocks) for _ in range(6)]
    assert [(len(each.samples), each.lost_s) for each in got] == [
        *((RATE, None), (RATE, 0.5), (0, 0.0)),
        *((RATE, 30.5), (0, 0.0), (RATE, 5.0)),
    ]
    assert got[2].reason == "the connection was lost (gone); it is tried again every 5 s"
    assert "the source ended" in got[4].reason
    assert waited == [5.0] * 3
    blocks.close()
    with pytest.raises(AudioError, match="mistyped"):
        next(again(lambda: one(error="mistyped"), 5.0, lambda: now[0], wait))
    assert list(again(lambda: one(), 5.0, lambda: now[0], wait)) == []
    with pytest.raises(ValueError, match="above 0 s, not 0"):
        next(again(lambda: one(), 0.0))


def test_a_server_that_drops_the_connection(radio: str) -> None:
    """Law: all that a server sends between its breaks is heard, once, and in the order of its coming."""
    blocks, samples = again(partial(container, radio), 0.05), 0
    got = []
    while samples < 3 * RATE:
        got.append(next(blocks))
        samples += len(got[-1].samples)
    blocks.close()
    assert Radio.calls == 5  # twice it was away
    sent = np.concatenate([each.samples for each in got])
    expected = sound(9.0)[:RATE].reshape(-1, 1) / np.float32(32768)
    assert np.array_equal(sent, np.concatenate([expected] * 3))
    lost = [each.lost_s for each in got if each.lost_s is not None]
    assert lost[::2] == [0.0, 0.0]
    assert all(seconds >= 0 for seconds in lost[1::2])
    assert len(lost) == 4


def test_the_command_goes_on(radio: str, tmp_path: Path) -> None:
    """Law: `--reconnect` tells gaps and listens on until it is stopped; without it the end of the source is the end; it
    is refused for what cannot be opened again, and a wrong address stays an error."""
    process = listen_command(tmp_path, radio, "--json", "--threshold", 0.2, "--reconnect", 0.1)
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(json.loads(line))
        if sum(m["type"] == "gap" and m["reason"] == "the connection was lost" for m in told) == 2:
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=60)
    told += [json.loads(line) for line in rest.splitlines()]
    assert process.returncode == 0, errors
    assert (told[-1]["type"], told[-1]["error"]) == ("ended", "")
    states = [m["state"] for m in told if m["type"] == "event"]
    assert states.count("opened") == states.count("closed") > 0
    assert "tried again every 0.1 s" in next(m["reason"] for m in told if m["type"] == "gap")

    model = str(tiny_model_file(tmp_path, mel_bins=32))
    Radio.calls = 0
    done = CliRunner().invoke(app, ["listen", model, radio, "--json"])
    assert (Radio.calls, json.loads(done.stdout.splitlines()[-1])["type"]) == (1, "ended")
    for source, match in (("-", "--reconnect is of an address"), ("http://127.0.0.1:9/x", "psla: http://127.0.0.1:9")):
        done = CliRunner().invoke(app, ["listen", model, source, "--reconnect", "0.1"])
        assert done.exit_code == 2
        assert match in done.stderr
