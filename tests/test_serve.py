"""Laws of the service: the numbers of `psla tag`, each to whom it belongs, whoever else asks, sends rubbish, leaves."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from malformed_audio import malformed_files
from psla.cli import app
from psla.model.ensemble import EnsembleError
from psla.serve.answers import Plan, TagQuery
from psla.serve.app import HEADERS, create_app
from psla.serve.engine import Engine, Job, Left
from psla.serve.limits import Limits
from psla.serve.schema import TagAnswer
from psla.tagging.tagger import Tagger, load
from serving import metric, post, same, served, sound
from tagging_models import CLASSES, WINDOW, noise, tiny_model, tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")

ANIMAL, RAIN, DOG = CLASSES.ids
SMALL = Limits(body_bytes=1_000_000, duration_s=8.0, workers=2, head_s=1.0, idle_s=1.0, body_s=3.0, at_work=4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's file, and recordings of several kinds."""
    home = tmp_path_factory.mktemp("serve")
    tiny_model_file(home, mel_bins=32, thresholds={DOG: 0.01})
    for name, data in {
        "a.wav": sound(0.4, 1, "WAV"),
        "b.flac": sound(3.1, 2, "FLAC", 44100, 2),
        "c.ogg": sound(1.5, 3, "OGG", 8000),
        "d.mp3": sound(2.0, 4, "MP3", 32000),
    }.items():
        (home / name).write_bytes(data)
    one = np.random.default_rng(5).uniform(-0.5, 0.5, 16000)
    soundfile.write(home / "against.wav", np.stack([one, -one], 1), 16000)
    return home


@pytest.fixture(scope="module")
def tagger(home: Path) -> Tagger:
    return load(home / "model.safetensors")


@pytest.fixture(scope="module")
def server(tagger: Tagger) -> Iterator[Any]:
    with served(tagger, SMALL) as made:
        yield made


def rows(home: Path, *args: object) -> list[dict[str, Any]]:
    """What `psla tag --json` prints."""
    words = ["tag", str(home / "model.safetensors"), *map(str, args), "--json"]
    return json.loads(CliRunner().invoke(app, words).stdout)


def test_an_answer_is_a_row_of_psla_tag(home: Path, server: Any) -> None:
    """As the body, in a form, under its own name, of any format: the element of the list, number for number."""
    files = [home / name for name in ("a.wav", "b.flac", "c.ogg", "d.mp3", "against.wav")]
    for path, row in zip(files, rows(home, *files, "--top", 3, "--events"), strict=True):
        asked = {"top": 3, "events": True}
        body = post(server.address, path.read_bytes(), name=path.name, **asked)
        assert body.status_code == 200
        assert body.json() == {**row, "path": path.name}
        form = httpx.post(
            f"{server.address}/v1/tag", files={"any": (path.name, path.read_bytes())}, params=asked, timeout=60
        )
        assert form.json() == body.json()
    assert "cancelled" in body.json()["flags"]


@pytest.mark.parametrize(
    ("query", "calibrated", "expected"),
    [
        ({}, False, (5, 0.0, False)),
        ({}, True, (None, None, False)),
        ({"top": 3}, True, (3, 0.0, True)),
        ({"threshold": 0.2}, True, (None, 0.2, False)),
    ],
)
def test_a_calibrated_model_answers_as_psla_tag_does(query: dict, calibrated: bool, expected: tuple) -> None:
    """Law: how many classes, from which probability on, and whether unfamiliar recordings get names."""
    settings = Plan.of(TagQuery(**query), CLASSES, calibrated).settings
    assert (settings.top, settings.threshold, settings.unfamiliar) == expected


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, ()),
        ({"threshold": 0.3}, ("--threshold", 0.3)),
        ({"classes": ["animal"], "top": 9}, ("--classes", "animal", "--top", 9)),
        ({"exclude": ["dog"], "roll_up": True}, ("--exclude", "dog", "--roll-up")),
        ({"deepest": True}, ("--deepest",)),
        (
            {"events": True, "threshold": 0.4, "release": 0.5, "max_gap": 1.0, "min_length": 0.4},
            ("--events", "--threshold", 0.4, "--release", 0.5, "--max-gap", 1.0, "--min-length", 0.4),
        ),
    ],
)
def test_a_query_means_what_the_option_means(home: Path, server: Any, asked: dict, options: tuple) -> None:
    """Law: the words of a query are the options of `psla tag`."""
    path = home / "b.flac"
    assert same(post(server.address, path.read_bytes(), **asked).json(), rows(home, path, *options)[0])


@pytest.mark.parametrize("kind", ["s16le", "s32le", "f32le"])
def test_raw_samples_are_an_array(tagger: Tagger, server: Any, kind: str) -> None:
    """PCM gets the numbers that `Tagger.tag` gives its array, at any rate and number of channels."""
    array = np.stack([noise(30000, 5), noise(30000, 6)], 1).astype(np.int64)
    array = {
        "s16le": array.astype("<i2"),
        "s32le": (array * 65537).astype("<i4"),
        "f32le": (array / 9000).astype("<f4"),
    }[kind]
    row = tagger.tag(array, 22050).to_dict(5)
    answer = post(server.address, array.tobytes(), pcm=kind, rate=22050, channels=2).json()
    assert {key: answer[key] for key in row} == row
    assert post(server.address, array.tobytes(), pcm=kind, channels=2).status_code == 422  # no rate
    assert "whole number" in post(server.address, array.tobytes()[1:], pcm=kind, rate=8000).json()["error"]


def test_tables_are_the_tagger_s(home: Path, tagger: Tagger, server: Any) -> None:
    """Frames and features, as lists and in base64, are those of `Tagger.tag` and `embed`, to the bit."""
    data = (home / "b.flac").read_bytes()
    result, embedding = tagger.tag(data), tagger.embed(data)
    plain = post(server.address, data, frames="list", features="list", picture=True).json()
    packed = post(server.address, data, frames="base64", features="base64").json()
    assert np.array_equal(np.float32(plain["frames"]["probabilities"]), result.frames)
    assert np.array_equal(plain["frames"]["times"], result.times)
    assert plain["frames"]["ids"] == list(CLASSES.ids)
    for row, column, wanted in [
        ("frames", "probabilities", result.frames),
        ("features", "clip", embedding.clip),
        ("features", "steps", embedding.steps),
    ]:
        table = packed[row][column]
        found = np.frombuffer(base64.b64decode(table["float32"]), "<f4").reshape(table["shape"])
        assert np.array_equal(found, wanted)
        assert np.array_equal(np.float32(plain[row][column]), wanted)
    image = plain["picture"]
    assert base64.b64decode(image["log_mel"])[:4] == b"\x89PNG"
    assert min(image["waveform"]["low"]) < 0 < max(image["waveform"]["high"]) <= 127
    TagAnswer.model_validate(plain, extra="forbid")  # as the description says
    TagAnswer.model_validate(packed, extra="forbid")
    one = post(server.address, data, frames="list", classes=["dog"]).json()["frames"]
    assert one["ids"] == [DOG]
    assert np.array_equal(np.float32(one["probabilities"]), result.frames[:, [2]])


def test_many_clients_get_their_own(tagger: Tagger) -> None:
    """Eight clients at once, of short and long recordings: nothing lost, nothing swapped; windows share batches."""
    files = [sound(0.2 + 0.5 * (seed % 4), seed) for seed in range(12)]
    wanted = [tagger.tag(data).to_dict(3) for data in files]
    with served(tagger, SMALL) as server:

        def client(first: int) -> list[bool]:
            with httpx.Client(timeout=60) as session:
                found = []
                for number in range(first, first + 6):
                    answer = session.post(f"{server.address}/v1/tag?top=3", content=files[number % 12]).json()
                    found.append({key: answer[key] for key in wanted[0]} == wanted[number % 12])
                return found

        with ThreadPoolExecutor(8) as clients:
            assert all(all(each) for each in clients.map(client, range(8)))
        assert metric(server.address, "psla_accepted_total") == 48
        assert metric(server.address, "psla_batch_windows_count") < metric(server.address, "psla_windows_total")


class Held(Tagger):
    """A tagger that waits for `go`, and says when it `began`."""

    def __init__(self) -> None:
        super().__init__(tiny_model(mel_bins=32))
        self.go, self.began = threading.Event(), threading.Event()

    def run(self, batch: Any, embed: bool = False) -> None:
        if threading.current_thread().name == "engine":
            self.began.set()
            assert self.go.wait(60)
        super().run(batch, embed)


def test_what_is_too_much_is_refused_with_a_time_to_come_back() -> None:
    """429 beyond what one address may have, 503 beyond what the service takes, both with Retry-After; those who were
    let in are answered."""
    for limits, status in ((Limits(per_client=2), 429), (Limits(in_flight=2), 503)):
        tagger = Held()
        with served(tagger, limits) as server, ThreadPoolExecutor(2) as clients:
            inside = [clients.submit(post, server.address, sound()) for _ in range(2)]
            wait_until(lambda server=server: server.service.gate.in_flight == 2)
            refused = post(server.address, sound())
            assert refused.status_code == status
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["status"] == "failed"
            assert httpx.get(f"{server.address}/healthz").status_code == 200  # who looks after it is let in
            tagger.go.set()
            assert [each.result().status_code for each in inside] == [200, 200]


def test_what_is_too_large_or_too_long_is_refused(server: Any) -> None:
    """413: a body beyond the limit, whether it says so or not; a recording beyond it, whether its header says so."""
    large = b"x" * (SMALL.body_bytes + 1)
    assert post(server.address, large).status_code == 413
    chunks = httpx.post(f"{server.address}/v1/tag", content=iter([large[:500_000], large[500_000:]]), timeout=60)
    assert chunks.status_code == 413
    bomb = io.BytesIO()
    with soundfile.SoundFile(bomb, "w", 8000, 1, format="FLAC") as file:
        for _ in range(48):
            file.write(np.zeros(8000 * 300, np.int16))  # four hours in 200 kB
    assert len(bomb.getvalue()) < SMALL.body_bytes
    said = post(server.address, bomb.getvalue(), name="bomb.flac")
    assert said.status_code == 413
    assert "8 s" in said.json()["error"]
    assert said.json()["path"] == "bomb.flac"
    undeclared = bytearray(bomb.getvalue())
    undeclared[21] &= 0xF0  # the header's number of samples: 36 bits from here on; 0: not known
    undeclared[22:26] = bytes(4)
    assert post(server.address, bytes(undeclared)).status_code == 413
    assert post(server.address, sound(8.0)).status_code == 200
    assert post(server.address, sound(8.2)).status_code == 413
    assert httpx.get(f"{server.address}/metrics").status_code == 200


def test_a_token_is_asked_for(tagger: Tagger) -> None:
    """With a token: 401 without it and with another; the page and /healthz need none, and tell nothing."""
    with served(tagger, SMALL, token="s3cret-ß") as server:
        for address in ("/v1/models", "/metrics"):
            assert httpx.get(server.address + address).status_code == 401
            for token in ("s3cret", "x", "s3cret-ßß"):
                headers = {"authorization": f"Bearer {token}".encode()}
                assert httpx.get(server.address + address, headers=headers).status_code == 401
            right = {"authorization": "Bearer s3cret-ß".encode()}
            assert httpx.get(server.address + address, headers=right).status_code == 200
        refused = post(server.address, sound())
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{server.address}/").status_code == httpx.get(f"{server.address}/healthz").status_code == 200


def test_every_answer_forbids_the_world(server: Any) -> None:
    """The policy, and what else keeps a page to itself, stand in every answer; the page names no other address."""
    for path in ("/", "/page/page.css", "/page/page.js", "/v1/models", "/nothing", "/page/../app.py", "/openapi.json"):
        answer = httpx.get(server.address + path)
        assert HEADERS.items() <= dict(answer.headers).items(), path
    assert httpx.get(f"{server.address}/page/%2e%2e/app.py").status_code == 404
    assert httpx.get(f"{server.address}/docs").status_code == 404
    for name in ("", "page/page.css", "page/page.js", "page/recording.js", "page/events.js"):
        text = httpx.get(f"{server.address}/{name}").text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text


def test_models_and_metrics(server: Any, tagger: Tagger) -> None:
    """The model says its classes and what they are kinds of; the metrics are Prometheus' format."""
    [model] = httpx.get(f"{server.address}/v1/models").json()["models"]
    assert [each["id"] for each in model["classes"]] == list(CLASSES.ids)
    dog = model["classes"][2]
    assert "Animal" in dog["within"]
    assert dog["threshold"] == 0.01
    assert (model["sample_rate"], model["most_seconds"]) == (tagger.sample_rate, 8.0)
    answer = httpx.get(f"{server.address}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"psla_answers", "psla_in_flight", "psla_batch_windows", "psla_answer_seconds"} <= names


def wait_until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def talk(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 30)


def head(length: int) -> bytes:
    return f"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def hostile(server: Any, bodies: int, seed: int = 0) -> None:
    """Rubbish, and clients that are slow, half closed, or leave at any point; then nothing of them is left."""
    rng = np.random.default_rng(seed)
    for _, data in malformed_files(bodies, seed):
        answer = post(server.address, data[: SMALL.body_bytes], name="rubbish", frames="base64")
        assert answer.status_code in (200, 413, 422), answer.text
        assert answer.status_code == 200 or answer.json()["status"] == "failed"
    for place in rng.integers(0, 2000, 12):
        with talk(server) as client:  # leaves
            client.sendall((head(len(sound())) + sound())[:place])
            if place % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    slow = [talk(server) for _ in range(6)]
    for client, data in zip(
        slow, (b"", b"POST /v1", head(5000), head(5000) + b"x", b"\0" * 50, b"GET / HTTP/9\r\n"), strict=False
    ):
        client.sendall(data)
    with talk(server) as client:  # closes its half: nobody may be waiting any more
        client.sendall(head(len(sound())) + sound())
        client.shutdown(socket.SHUT_WR)
        client.settimeout(30)
        while client.recv(4096):
            pass
    for client in slow:
        client.settimeout(30)
        said = b""
        while part := client.recv(4096):
            said += part
        assert said[:12] in (b"", b"HTTP/1.1 408", b"HTTP/1.1 400"), said
        client.close()
    wait_until(lambda: server.service.gate.in_flight == 0 and not server.server_state.connections)
    assert server.service.gate.held == 0
    assert server.service.engine.waiting() == 0


def test_hostile_clients_cost_nobody_else(tagger: Tagger) -> None:
    """While some send rubbish, dawdle and leave, another is answered, rightly; afterwards no thread, no byte and no
    place is taken, and the pool has its decoders."""
    data, row = sound(2.0, 7), tagger.tag(sound(2.0, 7)).to_dict(3)
    before = threading.active_count()
    with served(tagger, SMALL) as server:
        over = threading.Event()

        def polite() -> int:
            count = 0
            while not over.is_set():
                answer = post(server.address, data, top=3)
                assert {key: answer.json()[key] for key in row} == row
                count += 1
            return count

        with ThreadPoolExecutor(1) as other:
            answered = other.submit(polite)
            try:
                hostile(server, 60)
            finally:
                over.set()
            assert answered.result() > 5
    wait_until(lambda: threading.active_count() <= before)


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_a_thousand_malformed_bodies(tagger: Tagger) -> None:
    """A thousand: no crash, no leak of memory or of files, whole recordings answered as before."""
    row = tagger.tag(sound(2.0, 7)).to_dict(3)

    def taken() -> tuple[float, int]:
        """MiB of this process, and its open files."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))

    with served(tagger, SMALL) as server:
        hostile(server, 500)
        memory, files = taken()
        hostile(server, 500, 1)
        assert taken()[0] < memory + 32
        assert taken()[1] <= files + 4
        answer = post(server.address, sound(2.0, 7), top=3).json()
        assert {key: answer[key] for key in row} == row


def test_sigterm_under_load_loses_nothing(home: Path, tagger: Tagger) -> None:
    """`psla serve` as users run it, four clients that ask without a pause, SIGTERM in the midst: each gets an answer,
    and a right one, to all that it sent; what it cannot send any more is refused before a byte of it was taken."""
    data, row = sound(1.2, 9), tagger.tag(sound(1.2, 9)).to_dict(3)
    command = [sys.executable, "-m", "psla", "serve", str(home / "model.safetensors"), "--port", "0", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PSLA_TOKEN": "s3cret"}
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert service.stderr is not None
    address = re.search(r"http://127\.0\.0\.1:\d+", service.stderr.readline())
    assert address is not None
    began = threading.Barrier(5)

    def client() -> int:
        count = 0
        headers = {"authorization": "Bearer s3cret"}
        with httpx.Client(timeout=60, headers=headers) as session:
            while True:
                try:
                    answer = session.post(f"{address[0]}/v1/tag?top=3", content=data)
                except httpx.ConnectError:
                    return count  # it listens no more
                assert {key: answer.json()[key] for key in row} == row
                count += 1
                if count == 3:
                    began.wait(60)

    try:
        with ThreadPoolExecutor(4) as clients:
            asking = [clients.submit(client) for _ in range(4)]
            began.wait(60)
            service.send_signal(signal.SIGTERM)
            assert sum(each.result() for each in asking) >= 12
        said = service.communicate(timeout=60)[1]
        assert service.returncode == 0, said
        assert "every request that was accepted has been answered" in said
    finally:
        service.kill()
        service.wait()


@pytest.mark.soak
def test_thirty_two_clients_for_a_minute(tagger: Tagger) -> None:
    """Zero lost or swapped answers, each checked against the file's own."""
    files = [sound(0.3 + 0.23 * seed, seed) for seed in range(32)]
    wanted = [tagger.tag(data).to_dict(3) for data in files]
    limits = Limits(body_bytes=1 << 20)
    with served(tagger, limits) as server:
        end = time.monotonic() + 60

        def client(number: int) -> int:
            count = 0
            with httpx.Client(timeout=120) as session:
                while time.monotonic() < end:
                    number = (number * 5 + 1) % 32
                    answer = session.post(f"{server.address}/v1/tag?top=3", content=files[number])
                    assert answer.status_code == 200
                    assert {key: answer.json()[key] for key in wanted[0]} == wanted[number]
                    count += 1
            return count

        with ThreadPoolExecutor(32) as clients:
            count = sum(clients.map(client, range(32)))
        assert metric(server.address, "psla_accepted_total") == count > 32


def test_a_client_that_leaves_frees_its_place() -> None:
    """Law: who leaves while its recording waits for the model, or for its turn, is out at once; the model never hears
    the rest of it."""
    tagger = Held()
    with served(tagger, Limits(at_work=1)) as server:
        long = sound(30.0)
        with talk(server) as client:
            client.sendall(head(len(long)) + long)
            assert tagger.began.wait(60)
            with talk(server) as second:
                second.sendall(head(len(long)) + long)
                wait_until(lambda: server.service.gate.held == 2 * len(long))
            wait_until(lambda: server.service.gate.in_flight == 1)
        wait_until(lambda: server.service.gate.in_flight == 0)
        tagger.go.set()
        assert post(server.address, sound()).status_code == 200
        assert metric(server.address, "psla_left_total") == 2
        assert metric(server.address, "psla_windows_total") < 20  # of 46


def test_stopping_answers_what_was_accepted() -> None:
    """Told to stop with requests at work, waiting, and on their way: every one that was sent is answered."""
    tagger = Held()
    data = sound()
    row = {**tagger.tag(data).to_dict(3)}
    with served(tagger, Limits(at_work=2)) as server, ThreadPoolExecutor(6) as clients:
        sent = [clients.submit(post, server.address, data, top=3) for _ in range(5)]
        wait_until(lambda: server.service.gate.in_flight == 5)
        server.stop()
        wait_until(server.service.stopping.is_set)
        threading.Timer(1.0, tagger.go.set).start()
        for each in sent:
            answer = each.result().json()
            assert {key: answer[key] for key in row} == row
    with pytest.raises(httpx.ConnectError):
        post(server.address, data)


def test_an_engine_s_fault_costs_its_batch(tagger: Tagger) -> None:
    """What the network raises is raised where the windows came from; the next recording is tagged. Closed: Left."""

    class Broken(Tagger):
        def run(self, batch: Any, embed: bool = False) -> None:
            if batch[0][1].max() == 0:
                raise EnsembleError("broken")
            super().run(batch, embed)

    with Engine(Broken(tagger.model)) as engine:
        with pytest.raises(EnsembleError):
            Job(engine).tag([np.zeros(WINDOW, np.int16)])
        result = Job(engine).tag([noise(3 * WINDOW)])
        assert np.array_equal(result.frames, tagger.tag(noise(3 * WINDOW), tagger.sample_rate).frames)
        cancelled = Job(engine)
        cancelled.cancel()
        with pytest.raises(Left):
            cancelled.tag([noise(WINDOW)])
    with pytest.raises(Left):
        Job(engine).tag([noise(WINDOW)])


def test_limits_are_above_nothing() -> None:
    """A limit of nothing is refused by its name."""
    with pytest.raises(ValueError, match="at_work must be above 0"):
        Limits(at_work=0)


def test_the_command_refuses_in_one_sentence(home: Path) -> None:
    """A port that is taken, and a model that is none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = CliRunner().invoke(
            app, ["serve", str(home / "model.safetensors"), "--port", str(taken.getsockname()[1])]
        )
    assert found.exit_code == 2
    assert "choose another with --port" in found.output
    found = CliRunner().invoke(app, ["serve", "no-such-model", "--port", "0"])
    assert found.exit_code == 2
    assert "no-such-model" in found.output


def test_questions_that_cannot_be_answered(tagger: Tagger, server: Any) -> None:
    """A class that is not there, a word that is none, a form without a file, an empty body: 422 and a sentence."""
    for asked, word in [
        ({"classes": ["unicorn"]}, "unicorn"),
        ({"tpo": 3}, "tpo"),
        ({"drop_speech": True}, "speech"),
        ({"threshold": "nan"}, "threshold"),
        ({"pcm": "s24le"}, "pcm"),
    ]:
        answer = post(server.address, sound(), **asked)
        assert answer.status_code == 422
        assert word in answer.json()["error"]
    assert post(server.address, b"").status_code == 422
    for form in ({"data": {"a": "b"}, "files": {"f": ("", b"")}}, {"files": [("f", b"1"), ("g", b"2")]}):
        assert httpx.post(f"{server.address}/v1/tag", timeout=60, **form).status_code == 422
    broken = httpx.post(
        f"{server.address}/v1/tag", content=b"no form", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert broken.status_code == 422
    assert create_app(tagger).state.service.features
