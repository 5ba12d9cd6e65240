"""Laws of listening: whatever the source, the stream's events; gaps are told; so is what could not be delivered."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
from rich.console import Console
from typer.testing import CliRunner

from psla.audio.decode import AudioError
from psla.audio.live import Block, Feed, container, microphone, raw_pcm
from psla.cli import app
from psla.cli.listen import _split
from psla.cli.listen_view import Screen
from psla.tagging.events import EventRule, find_events
from psla.tagging.live.deliver import Delivery, Refused, command, webhook, worth_telling
from psla.tagging.live.listen import listen
from psla.tagging.live.mqtt import Mqtt
from psla.tagging.live.recorder import Recorder
from psla.tagging.stream import Stream
from psla.tagging.tagger import Tagger
from tagging_models import CLASSES, noise, tiny_model, tiny_model_file
from test_stream import sound

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 16000
BEGAN = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
RULE = EventRule(0.35)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


class Pipe(io.BytesIO):
    """What cannot seek, and gives little at a time."""

    def seekable(self) -> bool:
        return False

    def seek(self, *args: Any) -> int:
        raise OSError("a pipe")

    def read(self, size: int = -1) -> bytes:
        return super().read(min(size, 1234) if size >= 0 else 1234)

    read1 = read


def heard(blocks: Iterator[Block], tagger: Tagger, **more: Any) -> list[dict]:
    told: list[dict] = []
    listen(blocks, Stream(tagger, rule=RULE), told.append, began=BEGAN, **more)
    return told


def spans(told: list[dict]) -> list[tuple]:
    return sorted(
        (m["id"], m["onset_s"], m["offset_s"]) for m in told if m["type"] == "event" and m["state"] == "closed"
    )


def test_raw_samples_and_containers_are_the_file() -> None:
    """Law: raw PCM of each kind and a container through a pipe give the events that the file gives."""
    tagger, samples = Tagger(tiny_model(), 0.4), sound(2.3, channels=2)
    expected = sorted((e.sound.id, e.onset_s, e.offset_s) for e in find_events(tagger.tag(samples, RATE), RULE))
    assert expected
    kinds = {
        "s16le": samples,
        "s32le": samples.astype("<i4") << 16,
        "f32le": (samples / np.float32(32768)).astype("<f4"),
    }
    for kind, values in kinds.items():
        assert spans(heard(raw_pcm(Pipe(values.tobytes()), RATE, 2, kind), tagger)) == expected
    assert spans(heard(container(Pipe(wav(samples))), tagger)) == expected
    eight = (samples[:, 0] // 256 + 128).astype(np.uint8)
    (block,) = raw_pcm(io.BytesIO(eight.tobytes()[:100]), RATE, 1, "u8")
    assert np.array_equal(block.samples[:, 0], samples[:100, 0] // 256 * 256)
    with pytest.raises(ValueError, match="raw sound is one of"):
        next(raw_pcm(io.BytesIO(b"ab"), RATE, 1, "s24"))
    for wrong in (Pipe(b"nothing that is sound at all" * 50), "/no/such/address"):
        with pytest.raises(AudioError, match="ffmpeg says"):
            next(container(wrong))


def test_messages_say_what_happened(tmp_path: Path) -> None:
    """Law: the first message and the last stand around the others; times are the clock's; JSON takes them all."""
    tagger, samples = Tagger(tiny_model()), sound(3.0)
    told = heard(raw_pcm(io.BytesIO(samples.tobytes()), RATE), tagger, about={"source": "pipe", "model": "tiny"})
    assert [m["type"] for m in (told[0], told[-1])] == ["started", "ended"]
    assert told[0]["source"] == "pipe"
    events = [m for m in told if m["type"] == "event"]
    assert told[-1]["events"] == sum(m["state"] == "closed" for m in events) > 0
    assert told[-1]["position_s"] == 3.0
    for m in events:
        assert datetime.fromisoformat(m["onset_time"]).timestamp() == pytest.approx(
            BEGAN.timestamp() + m["onset_s"], abs=2e-3
        )
    assert [json.loads(json.dumps(m)) for m in told] == told


def test_a_source_that_breaks_off_closes_its_events() -> None:
    """Law: an error of the source is raised after the events were closed and the end was told."""

    def broken() -> Iterator[Block]:
        yield Block(sound(2.0), RATE)
        raise AudioError("camera", "gone")

    told: list[dict] = []
    with pytest.raises(AudioError, match="gone"):
        listen(broken(), Stream(Tagger(tiny_model()), threshold=0.1), told.append, began=BEGAN)
    assert told[-1]["type"] == "ended"
    assert "gone" in told[-1]["error"]
    states = [m["state"] for m in told if m["type"] == "event"]
    assert states.count("opened") == states.count("closed") > 0


def test_what_does_not_fit_is_told() -> None:
    """Law: a live source that comes too fast loses blocks, and every second of them stands in a gap; a pipe waits."""

    def blocks() -> Iterator[Block]:
        for number in range(100):
            yield Block(np.full((1600, 1), number, np.int16), RATE)

    with Feed(blocks(), live=False, queue_s=0.5) as feed:
        assert [int(block.samples[0, 0]) for block in feed] == list(range(100))
    with Feed(blocks(), live=True, queue_s=1.0) as feed:
        feed._thread.join()  # nobody takes anything before the source has ended
        got = list(feed)
    kept, lost = sum(block.seconds for block in got), sum(block.lost_s or 0.0 for block in got)
    assert kept == pytest.approx(1.0)
    assert kept + lost == pytest.approx(10.0)
    told = heard(iter(got), Tagger(tiny_model()))
    (gap,) = [m for m in told if m["type"] == "gap"]
    assert gap["lost_s"] == pytest.approx(9.0)
    assert gap["at_s"] == pytest.approx(1.0)
    assert "faster" in gap["reason"]
    assert told[-1]["position_s"] == pytest.approx(10.0)

    def failing() -> Iterator[Block]:
        yield Block(np.zeros((10, 1), np.int16), RATE)
        raise AudioError("camera", "gone")

    with Feed(failing(), live=True) as feed, pytest.raises(AudioError, match="gone"):
        list(feed)
    stopped = threading.Event()
    with Feed(blocks(), live=False, queue_s=0.5, stopped=stopped.is_set) as feed:
        next(feed)
        stopped.set()
        assert list(feed) == []
        until(lambda: feed.held_s > 0.4)  # what was read ahead is not handed out, and is counted


class FakeMicrophone:
    """What `sounddevice` is to `microphone`: three blocks, the second missing."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, lacks: bool = False) -> None:
        self.lacks = lacks

    def query_devices(self, device: object, kind: str) -> dict:
        if self.lacks:
            raise self.PortAudioError("no such device")
        return {"default_samplerate": 8000.0}

    def InputStream(self, **settings: Any) -> Any:
        self.settings = settings

        class Opened:
            def __enter__(opened) -> None:
                for number, began in enumerate((0.0, 0.1, 0.9)):
                    data = np.full((settings["blocksize"], 1), number / 10, np.float32)
                    settings["callback"](
                        data,
                        len(data),
                        SimpleNamespace(inputBufferAdcTime=began),
                        SimpleNamespace(input_overflow=began > 0.5),
                    )

            def __exit__(opened, *error: object) -> None:
                pass

        return Opened()


def test_a_microphone_tells_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: blocks at the microphone's own rate; what ran over is a gap of the length that the card's clock says."""
    fake = FakeMicrophone()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)  # type: ignore[arg-type]
    blocks = microphone()
    got = [next(blocks) for _ in range(3)]
    blocks.close()
    assert [block.sample_rate for block in got] == [8000] * 3
    assert [block.lost_s for block in got[:2]] == [None, None]
    assert got[2].lost_s == pytest.approx(0.7)
    assert fake.settings["channels"] == 1
    monkeypatch.setitem(sys.modules, "sounddevice", FakeMicrophone(lacks=True))  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="cannot be opened"):
        next(microphone("studio"))
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"psla\[listen\]"):
        next(microphone())


def test_a_hole_in_time_stamps_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a container whose time stamps jump has lost so much; one that cannot be decoded there, an unknown time."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        track = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for number in (0, 1, 2, 7, 8):  # blocks 3 to 6 are lost
            frame = av.AudioFrame.from_ndarray(np.full((1, 1600), 100 * number, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 1600 * number
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    got = list(container(Pipe(buffer.getvalue())))
    assert sum(len(block.samples) for block in got) == 8000
    assert [round(block.lost_s, 3) for block in got if block.lost_s is not None] == [0.4]


def test_the_sound_of_events_is_kept(tmp_path: Path) -> None:
    """Law: a file an event: from some seconds before its onset to as many after its offset, sample for sample."""
    tagger = Tagger(tiny_model(), 0.4)
    samples = sound(6.0, 8000, 2, seed=3)
    stream = Stream(tagger, rule=RULE)
    recorder = Recorder(tmp_path, 0.2, stream.latency_s + 2.0)
    told: list[dict] = []
    blocks = (Block(samples[at : at + 777], 8000) for at in range(0, len(samples), 777))
    listen(blocks, stream, told.append, began=BEGAN, recorder=recorder)
    closed = [m for m in told if m["type"] == "event" and m["state"] == "closed"]
    assert closed
    assert len(list(tmp_path.iterdir())) == len(closed)
    for m in closed:
        kept, rate = soundfile.read(m["recording"], dtype="int16", always_2d=True)
        first, last = max(0, round((m["onset_s"] - 0.2) * 8000)), round((m["offset_s"] + 0.2) * 8000)
        assert rate == 8000
        assert not m["cut"]
        assert np.array_equal(kept, samples[first : min(last, len(samples))])
    shutil.rmtree(tmp_path)
    failures: list[str] = []
    recorder = Recorder(tmp_path, 0.2, 5.0, failures.append)
    shutil.rmtree(tmp_path)  # the disk went away
    stream = Stream(tagger, rule=RULE)
    listen(iter([Block(samples, 8000)]), stream, told.append, began=BEGAN, recorder=recorder)
    assert failures
    assert "is not kept" in failures[0]


def test_a_delivery_waits_tries_again_and_says_what_it_lost() -> None:
    """Law: messages come in order, after failures too; what did not fit, was refused or had no time is told as lost."""
    got, failures, tried = [], [], []

    def send(message: dict) -> None:
        tried.append(message["n"])
        if message["n"] == 1 and tried.count(1) < 3:
            raise OSError("away")
        if message["n"] == 2:
            raise Refused("never")
        got.append(message["n"])

    delivery = Delivery("door", send, lambda *lost: failures.append(lost), pause_s=0.001)
    assert all(delivery.put({"n": n}) for n in range(5))
    assert delivery.close() == 0
    assert got == [0, 1, 3, 4]
    assert failures == [("door", "never", 1)]
    gate = threading.Event()
    slow = Delivery("slow", lambda message: gate.wait(5) and None, lambda *lost: failures.append(lost), size=3)
    taken = [slow.put({"n": n}) for n in range(10)]
    assert taken.count(True) in (3, 4)
    assert slow.close(within_s=0.05) >= 2
    gate.set()
    lost = sum(n for name, _, n in failures if name == "slow")
    assert lost >= 8  # but for one that is under way


class Hook(BaseHTTPRequestHandler):
    answers: ClassVar[list[int]] = []
    got: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        code = Hook.answers.pop(0) if Hook.answers else 200
        if code == 200:
            Hook.got.append(body)
        self.send_response(code)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_a_webhook_and_a_command_are_told(tmp_path: Path) -> None:
    """Law: what begins and ends is posted, and again after 503, not after 404; a command has it in its environment."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        Hook.answers, Hook.got = [503, 429, 200, 404], []
        failures: list[tuple] = []
        post = webhook(f"http://127.0.0.1:{server.server_port}/")
        delivery = Delivery("hook", post, lambda *lost: failures.append(lost), pause_s=0.001)
        for n in range(3):
            delivery.put({"n": n})
        assert delivery.close() == 0
        assert [m["n"] for m in Hook.got] == [0, 2]
        assert [(name, lost) for name, _, lost in failures] == [("hook", 1)]
        assert "404" in failures[0][1]
    finally:
        server.shutdown()
        server.server_close()
    out = tmp_path / "told"
    script = f"import os, sys; open({str(out)!r}, 'a').write(os.environ['PSLA_NAME'] + sys.stdin.read())"
    run = command(f'"{sys.executable}" -c "{script}"')
    message = {"type": "event", "state": "opened", "name": 'a "b" $(c)\n'}
    run(message)
    assert out.read_text() == message["name"] + json.dumps(message)
    for text, match in (("/no/such/program", "cannot be run"), ("false", "code 1")):
        with pytest.raises(Refused, match=match):
            command(text)(message)
    with pytest.raises(Refused, match="did not end"):
        command("sleep 5", timeout_s=0.05)(message)
    with pytest.raises(ValueError, match="empty"):
        command("  ")
    with pytest.raises(ValueError, match="http"):
        webhook("ftp://a")
    states = [worth_telling({"type": "event", "state": state}) for state in ("opened", "continued", "closed")]
    assert states == [True, False, True]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[int, Any]]:
    """A mosquitto of our own; its port, and a client that has subscribed to everything."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    client_module = pytest.importorskip("paho.mqtt.client")
    if program is None:
        pytest.skip("mosquitto is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", tmp_path / "mosquitto.conf"], stderr=subprocess.DEVNULL)
    seen: list[tuple[str, str]] = []
    client = client_module.Client(client_module.CallbackAPIVersion.VERSION2)
    client.on_message = lambda c, u, m: seen.append((m.topic, m.payload.decode()))
    client.on_connect = lambda c, *rest: c.subscribe("#", qos=1)
    for _ in range(100):
        try:
            client.connect("127.0.0.1", port)
            break
        except OSError:
            time.sleep(0.05)
    client.loop_start()
    yield port, seen
    client.disconnect()
    client.loop_stop()
    process.terminate()
    process.wait()


def until(condition: Any, seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.02)


def test_home_assistant_finds_the_sounds(broker: tuple[int, list[tuple[str, str]]]) -> None:
    """Law: on a real broker a class is announced once, is ON while its event goes on and OFF after it, and the
    listener is online until it ends."""
    port, seen = broker
    mqtt = Mqtt(f"mqtt://127.0.0.1:{port}", "attic", "tiny", [CLASSES[1]])
    delivery = Delivery("mqtt", mqtt.send, pause_s=0.05, tries=100)
    dog = {"type": "event", "number": 0, "id": CLASSES.ids[2], "name": "Dog", "onset_s": 1.0}
    delivery.put({**dog, "state": "opened"})
    delivery.put({"type": "gap", "at_s": 2.0, "lost_s": 0.5})
    delivery.put({**dog, "state": "closed"})
    assert delivery.close(20) == 0
    mqtt.close()
    base = "psla/attic"
    until(lambda: (f"{base}/availability", "offline") in seen)
    topics = [topic for topic, _ in seen]
    slug = "_2f_m_2f_0bt9lr"
    config = f"homeassistant/binary_sensor/psla_attic/{slug}/config"
    assert topics.count(config) == 1
    told = json.loads(dict(seen)[config])
    assert (told["name"], told["device_class"], told["state_topic"]) == ("Dog", "sound", f"{base}/{slug}/state")
    assert told["availability_topic"] == f"{base}/availability"
    assert [payload for topic, payload in seen if topic == told["state_topic"]] == ["ON", "OFF"]
    assert [json.loads(p)["type"] for t, p in seen if t == f"{base}/events"] == ["event", "gap", "event"]
    assert [payload for topic, payload in seen if topic == f"{base}/availability"] == ["online", "offline"]
    assert any("06mb1" in topic for topic in topics)  # the class that was asked for, before it was heard
    assert topics.index(config) < topics.index(told["state_topic"])
    for address, name in (("http://a", "x"), ("mqtt://", "x"), ("mqtt://a", "a/b")):
        with pytest.raises(ValueError, match=r"a broker is|the name of"):
            Mqtt(address, name, "tiny")


def test_a_broker_that_is_away_is_an_error() -> None:
    """Law: nobody there: each message is tried again, and told as lost."""
    pytest.importorskip("paho.mqtt.client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mqtt, failures = Mqtt(f"mqtt://127.0.0.1:{port}", "attic", "tiny"), []
    delivery = Delivery("mqtt", mqtt.send, lambda *lost: failures.append(lost), tries=2, pause_s=0.01)
    delivery.put({"type": "gap", "at_s": 0.0, "lost_s": 0.0})
    delivery.close()
    mqtt.close()
    assert failures == [("mqtt", "the broker is not connected", 1)]


def test_model_and_source_are_told_apart() -> None:
    """Law: [MODEL] [SOURCE]; without a source, the microphone."""
    assert _split([]) == (None, "")
    assert _split(["-"]) == (None, "-")
    assert _split(["audioset-small"]) == ("audioset-small", "")
    assert _split(["own.safetensors", "rtsp://camera/1"]) == ("own.safetensors", "rtsp://camera/1")
    for wrong in (["-", "audioset-small"], ["audioset-small", "nowhere"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="source"):
            _split(wrong)


def test_the_view_shows_what_goes_on() -> None:
    """Law: level, classes, what goes on and what was, as text of the terminal's width; names cannot steer it."""
    stream = Stream(Tagger(tiny_model()), threshold=0.1)
    console = Console(width=70, force_terminal=False, file=io.StringIO())
    screen = Screen(stream, console)
    block = Block(sound(2.0), RATE)
    screen.tell({"type": "started", "model": "tiny", "source": "pipe", "latency_s": 1.0})
    for each in stream.push(block.samples, RATE):
        screen.tell({"type": "event", **each.to_dict(), "name": each.event.sound.name + "\x1b[2J"})
    screen.heard(block)
    screen.tell({"type": "gap", "at_s": 2.0, "lost_s": 0.5, "reason": "it ran over"})
    screen.failed("hook", "away", 3)
    with console.capture() as captured:
        console.print(screen._drawn())
    text = captured.get()
    for word in ("tiny hears pipe", "dBFS", "Dog", "2.00 s  now", "gap: 0.50 s lost", "hook: 3 messages lost"):
        assert word in text
    assert "\x1b[2J" not in text
    assert max(map(len, text.splitlines())) <= 70


def listen_command(home: Path, *options: object, **more: Any) -> subprocess.Popen:
    model = tiny_model_file(home, mel_bins=32)
    words = [sys.executable, "-m", "psla", "listen", str(model), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, env=environment, **pipes, **more)


def test_the_command_ends_cleanly(tmp_path: Path) -> None:
    """Law: `ffmpeg | psla listen -`, stopped by Ctrl-C while sound still comes: events are closed, the last message
    stands, what was recorded is whole, and the exit code is 0."""
    options = ("-", "--rate", RATE, "--json", "--threshold", 0.2, "--record-events", tmp_path / "kept", "--before", 0.1)
    process = listen_command(tmp_path, *options)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(sound(3.0).tobytes())
    process.stdin.flush()
    told = []
    for line in process.stdout:  # the pipe stays open: only the signal ends it
        told.append(json.loads(line))
        if told[-1]["type"] == "event":
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=60)
    told += [json.loads(line) for line in rest.splitlines()]
    assert process.returncode == 0, errors
    assert told[0]["type"] == "started"
    assert told[-1]["type"] == "ended"
    states = [m["state"] for m in told if m["type"] == "event"]
    assert states.count("opened") == states.count("closed") > 0
    assert all(soundfile.info(path).frames for path in (tmp_path / "kept").iterdir())
    assert not list((tmp_path / "kept").glob(".*"))


def test_the_command_hears_a_file_and_refuses_nonsense(tmp_path: Path) -> None:
    """Law: an address that ends, ends; one that is not there is a sentence and exit code 2; the last message stands."""
    soundfile.write(tmp_path / "a.wav", noise(16000), RATE)
    model = tiny_model_file(tmp_path, mel_bins=32)

    def called(*options: object) -> Any:
        return CliRunner().invoke(app, ["listen", str(model), *map(str, options)])

    done = called(tmp_path / "a.wav", "--threshold", 0.2)
    assert done.exit_code == 0, done.output
    assert "begins" in done.stdout
    assert "psla: 1.00 s, " in done.stderr
    done = called("rtsp://127.0.0.1:9/none", "--json")
    assert done.exit_code == 2
    assert "psla: rtsp://127.0.0.1:9/none" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["type"] == "ended"
    for options, match in (
        (["rtsp://a", "--rate", 8000], "--rate"),
        (["-", "--device", "x"], "--device"),
        (["-", "--channels", 2], "--rate"),
        (["-", "--rate", 8000, "--pcm", "mp3"], "--pcm is one of"),
        (["-", "--rate", 8000, "--exec", ""], "empty"),
        (["-", "--rate", 8000, "--mqtt", "broker"], "mqtt://HOST"),
        (["-", "--rate", 8000, "--window", 99], "window_s"),
    ):
        done = called(*options)
        assert done.exit_code == 2
        assert match in done.stderr
