"""Laws of fetching when something is wrong: it gives up in time, says what it is, and leaves nothing half for whole."""

from __future__ import annotations

import ast
import csv
import errno
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

import psla
from psla import download as download_module
from psla.cli import app
from psla.download import DownloadError, download
from psla.files import alone, sha256_of
from psla.weights import catalogue
from psla.weights.catalogue import ALIASES, CATALOGUE, PublishedError, load_any, named, resolve
from psla.weights.packaged import DEFAULT
from psla.weights.readers.contract import READERS
from test_published import NAME, checkpoint_bytes

BODY = b"0123456789" * 20_000
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `answer` does; counts the requests."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.server.answer(self)  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def begin(self, length: int, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def rest(self, seconds: float) -> None:
        """Says nothing for so long, or until the test ends."""
        self.server.ended.wait(seconds)  # type: ignore[attr-defined]


def sends(body: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin(len(body))
        handler.wfile.write(body)

    return answer


@contextmanager
def serving(answer: Answer) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.answer, server.asked = True, answer, []  # type: ignore[attr-defined]
        server.ended = threading.Event()  # type: ignore[attr-defined]
        server.url = f"http://127.0.0.1:{server.server_address[1]}/a.pth"  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.ended.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PSLA_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return checkpoint_bytes(tmp_path_factory.mktemp("fetching") / "a.pth")


# The server


def silent(handler: Handler) -> None:
    handler.rest(5)


def stuck(handler: Handler) -> None:
    handler.begin(len(BODY))
    handler.wfile.write(BODY[:50_000])
    handler.rest(5)


def dribbling(handler: Handler) -> None:
    handler.begin(len(BODY))
    for at in range(100):
        if handler.server.ended.is_set():  # type: ignore[attr-defined]
            return
        handler.wfile.write(BODY[at : at + 1])
        handler.rest(0.05)


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def circle(handler: Handler) -> None:
    handler.begin(0, 302, Location=handler.path)


def hangs_up(handler: Handler) -> None:
    handler.begin(len(BODY))
    handler.wfile.write(BODY[:50_000])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (silent, r"no byte came in 0\.2 s"),
        (stuck, r"no byte came in 0\.2 s"),
        (dribbling, "only [3-9] bytes came in 0 s"),
        (hangs_up, "ended after 50000 of 200000 bytes"),
        (status(404), "404"),
        (status(500), "500"),
        (circle, "infinite loop"),
    ],
)
def test_a_bad_server_is_given_up(answer: Answer, reason: str, tmp_path: Path) -> None:
    """Each ends in one sentence with the reason, the URL and the place, and no file; a good server mends it."""
    target = tmp_path / "folder" / "a.bin"
    with serving(answer) as server:
        with pytest.raises(DownloadError, match=reason) as refusal:
            download(server.url, target, stall_s=0.2, stall_bytes=1000)
        assert f"cannot download {server.url} " in str(refusal.value)
        assert str(refusal.value).endswith(f"put the file at {target}")
        assert {path.name for path in target.parent.iterdir()} <= {"a.bin.part"}
        server.answer = sends(BODY)  # type: ignore[attr-defined]
        assert download(server.url, target).read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def test_slow_is_not_stalled(tmp_path: Path) -> None:
    """A body that takes longer than `stall_s` arrives, if enough bytes come in each such time."""

    def slow(handler: Handler) -> None:
        handler.begin(8000)
        for at in range(0, 8000, 1000):
            handler.wfile.write(BODY[at : at + 1000])
            handler.rest(0.05)

    with serving(slow) as server:
        path = download(server.url, tmp_path / "a.bin", stall_s=0.2, stall_bytes=1000)
    assert path.read_bytes() == BODY[:8000]


def test_redirects_are_followed(tmp_path: Path) -> None:
    """What stands at the other address is the file."""

    def elsewhere(handler: Handler) -> None:
        (sends(BODY) if handler.path == "/b" else lambda asked: asked.begin(0, 302, Location="/b"))(handler)

    with serving(elsewhere) as server:
        assert download(server.url, tmp_path / "a.bin").read_bytes() == BODY
        assert server.asked == ["/a.pth", "/b"]  # type: ignore[attr-defined]


# The disk


def test_a_cache_that_is_a_file(own_cache: Path) -> None:
    """A file where the cache folder should be is named, with the mend, and not touched."""
    own_cache.write_text("mine")
    result = CliRunner().invoke(app, ["models", "--fetch", "audioset-b2"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"psla: cannot write {own_cache / 'published' / 'audioset-b2.safetensors'} (")
    assert result.stderr.count("\n") == 1
    assert "PSLA_CACHE" in result.stderr
    assert own_cache.read_text() == "mine"


def test_a_full_disk(tmp_path: Path) -> None:
    """A disk that takes no more is named as what it is, not as a fault of the server."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("only Linux has /dev/full")
    (tmp_path / "a.bin.part").symlink_to(full)
    with (
        serving(sends(BODY)) as server,
        pytest.raises(DownloadError, match=r"cannot write .*a\.bin \(No space left.*PSLA_CACHE"),
    ):
        download(server.url, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_a_folder_that_takes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder without the right to write: one sentence (root may write anywhere, so the refusal is played)."""

    def refuse(path: object, *args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DownloadError, match=r"cannot write .*a\.bin \(Permission denied: .*a\.bin\.lock\)"):
        download("http://127.0.0.1:9/a.bin", tmp_path / "a.bin")


# Others at the same file


def test_processes_at_the_same_file(tmp_path: Path) -> None:
    """Several processes that want one file at once all get it whole, and one of them asks the server."""

    def slow(handler: Handler) -> None:
        handler.begin(len(BODY))
        handler.wfile.write(BODY[:1000])
        handler.rest(0.5)
        handler.wfile.write(BODY[1000:])

    code = "import sys; from psla.download import download; print(download(*sys.argv[1:]).stat().st_size)"
    with serving(slow) as server:
        command = [sys.executable, "-c", code, server.url, str(tmp_path / "a.bin")]
        others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert [other.communicate(timeout=60)[0] for other in others] == [f"{len(BODY)}\n"] * 3
        assert len(server.asked) == 1  # type: ignore[attr-defined]
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_one_at_a_time(tmp_path: Path) -> None:
    """Of threads that come and go through `alone`, never two are inside, and no lock file stays."""
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(30):
            with alone(tmp_path / "a"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                threading.Event().wait(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert list(tmp_path.iterdir()) == []


# The model


@pytest.fixture
def model_server(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    with serving(sends(content)) as server:
        monkeypatch.setitem(CATALOGUE, NAME, replace(CATALOGUE[NAME], url=server.url))
        yield server


def test_a_model_of_two_threads(model_server: ThreadingHTTPServer) -> None:
    """Two at once make one model file, fetched once."""
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(resolve(NAME))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CATALOGUE[NAME].model_file] * 2
    assert len(model_server.asked) == 1  # type: ignore[attr-defined]
    assert load_any(NAME).network.classes == 200


@pytest.mark.parametrize("wrong", ["family", "parameters", "checksum", "page"])
def test_what_is_not_the_model_is_refused(
    model_server: ThreadingHTTPServer, content: bytes, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Tensors of another family or another size, another checksum than the published one, an error page: nothing of
    it stays in the cache, and the right file is taken afterwards."""
    right = CATALOGUE[NAME]
    with monkeypatch.context() as patch:
        if wrong == "family":
            patch.setitem(READERS._found, "psla", replace(READERS["psla"], knows=lambda tensors: False))
        elif wrong == "parameters":
            patch.setitem(CATALOGUE, NAME, replace(right, parameters=4.88))
        elif wrong == "checksum":
            patch.setitem(CATALOGUE, NAME, replace(right, sha256="0" * 64))
        else:
            model_server.answer = sends(b"<html>Try again later</html>")  # type: ignore[attr-defined]
        sentence = {
            "family": "not of the family psla",
            "parameters": r"has 4\.\d+ million parameters, not 4\.88",
            "checksum": "its SHA-256 begins with",
            "page": "is not the published model",
        }
        with pytest.raises((PublishedError, DownloadError), match=sentence[wrong]) as refusal:
            resolve(NAME)
        assert model_server.url in str(refusal.value)  # type: ignore[attr-defined]
        assert list(right.checkpoint.parent.iterdir()) == []
    model_server.answer = sends(content)  # type: ignore[attr-defined]
    assert load_any(NAME).network.classes == 200


def test_what_was_put_there_by_hand_is_checked(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """A file of one's own that is not the model is refused with the mend, and left to its owner."""
    entry = CATALOGUE[NAME]
    entry.checkpoint.parent.mkdir(parents=True)
    entry.checkpoint.write_bytes(b"something else")
    with pytest.raises(PublishedError, match=f"delete {entry.checkpoint} to have it fetched"):
        resolve(NAME)
    entry.checkpoint.write_bytes(content)
    monkeypatch.setitem(CATALOGUE, NAME, replace(entry, sha256="0" * 64))
    with pytest.raises(PublishedError, match=r"is not what was published .*: delete"):
        resolve(NAME)
    assert entry.checkpoint.read_bytes() == content


# Offline


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """With PSLA_OFFLINE no socket is opened; the sentence has the URL and the place; what is cached works."""
    entry = CATALOGUE[NAME]
    with pytest.raises(AssertionError, match="socket"):
        resolve(NAME)
    monkeypatch.setenv("PSLA_OFFLINE", "1")
    with pytest.raises(DownloadError, match="PSLA_OFFLINE is set") as refusal:
        resolve(NAME)
    assert entry.url in str(refusal.value)
    assert str(refusal.value).endswith(f"put the file at {entry.checkpoint}")
    assert "\n" not in str(refusal.value)
    entry.checkpoint.write_bytes(content)
    assert load_any(NAME).network.classes == 200
    monkeypatch.setenv("PSLA_OFFLINE", "0")
    with pytest.raises(AssertionError, match="socket"):
        resolve("audioset-b2")


def test_one_door_to_the_network() -> None:
    """No module but `psla.download` opens an address unasked: the service waits at one, and events are told at those
    that the user names."""
    doors = {"urllib.request", "http.client", "socket", "requests", "httpx", "aiohttp", "torch.hub", "ftplib"}
    found = []
    for path in sorted(Path(psla.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [each.name for each in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if doors & {module, *named, *(f"{module}.{each}" for each in named)}:
                found.append(str(path))
    root = Path(psla.__file__).parent
    told = {str(root / "serve" / "server.py"), str(root / "tagging" / "live" / "deliver.py")}
    assert set(found) == {download_module.__file__, *told}


# Names


def test_every_row_has_what_its_family_needs() -> None:
    """Names and addresses are one model's each; a reader says the same licence as the catalogue."""
    assert len({entry.url for entry in CATALOGUE.values()}) == len(CATALOGUE)
    for name, entry in CATALOGUE.items():
        assert name == entry.name
        assert entry.corpus in entry.family.training_data
        assert 0 < entry.mean_average_precision < 1
        if entry.family.name in READERS:
            assert READERS[entry.family.name].licence == entry.family.licence


def test_the_catalogue_states_what_efficientat_published() -> None:
    """The twenty rows are those of the list that was taken from its page."""
    listed = Path(__file__).parents[1] / "../shared/data/efficientat/published.csv"
    if not listed.exists():
        pytest.skip("the list is not beside the checkout")
    rows = {row["name"]: row for row in csv.DictReader(listed.open(encoding="utf-8"))}
    found = {name: entry for name, entry in CATALOGUE.items() if entry.family.name == "efficientat"}
    assert list(found) == list(rows)
    for name, entry in found.items():
        row = rows[name]
        assert (entry.url, entry.mean_average_precision) == (row["address"], float(row["mAP"]))
        told = {"hop_samples": int(row["hop_samples"]), "mel_bins": int(row["mel_bins"])}
        strides = [int(each) for each in row["strides"].split()]
        assert entry.given == (told if strides == [2, 2, 2, 2] else told | {"strides": strides})
        assert entry.parameters is None or entry.parameters == float(row["parameters_M"])
    file, entry = listed.with_name("mn04_as_mAP_432.pt"), found["mn04_as"]
    if file.exists():
        assert (file.stat().st_size, sha256_of(file)) == (entry.bytes, entry.sha256)
        from psla.model.tensor_file import read_torch_tensors

        with pytest.MonkeyPatch.context() as patch:  # its size is what its page says; mn05's is not its
            patch.setitem(READERS._found, "efficientat", replace(READERS["psla"], knows=lambda tensors: True))
            catalogue._check_tensors(entry, read_torch_tensors(file))
            with pytest.raises(ValueError, match="million parameters"):
                catalogue._check_tensors(found["mn05_as"], read_torch_tensors(file))


def test_a_name_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias is asked at each use what it stands for."""
    stands = [DEFAULT]
    monkeypatch.setitem(ALIASES, "best", lambda: stands[0])
    assert resolve("best") == resolve(DEFAULT)
    stands[0] = NAME
    assert named("best") == CATALOGUE[NAME]


call = partial(CliRunner().invoke, app)


def test_fetch_command(model_server: ThreadingHTTPServer) -> None:
    """`psla models --fetch`: fetches, says the file and how to use it; what is here is said to be; names that are not
    known are refused before anything is fetched."""
    unknown = call(["models", "--fetch", NAME, "--fetch", "mn10_ass"])
    assert unknown.exit_code == 2
    assert "near it are mn10_as" in unknown.stderr
    assert model_server.asked == []  # type: ignore[attr-defined]
    first = call(["models", "--fetch", NAME])
    assert f"{NAME}: fetched: {CATALOGUE[NAME].model_file}\n" in first.stdout
    assert f"psla tag {NAME} FILE" in first.stdout
    assert f"fetching {NAME}" in first.stderr
    both = json.loads(call(["models", "--fetch", NAME, "--fetch", DEFAULT, "--json"]).stdout)
    assert [each["state"] for each in both] == ["cached already", "packaged"]
    assert all(Path(each["path"]).is_file() for each in both)
    assert len(model_server.asked) == 1  # type: ignore[attr-defined]
