"""Laws of files: whole or absent; a download resumes, and its checksum decides."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from psla.download import DownloadError, cache_folder, download
from psla.files import atomic_write, sha256_of, write_json_atomic, write_text_atomic

CONTENT = np.random.default_rng(0).bytes(50_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under every path but /missing; remembers the Range headers it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.resumes = True
        self.stops_after: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.resumes else 0
        if self.path == "/missing" or begin >= len(CONTENT):
            self.send_error(404 if self.path == "/missing" else 416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin:][: self.server.stops_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def interrupted_write(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"two")
        raise KeyboardInterrupt


def test_an_atomic_write_is_whole_or_absent(tmp_path: Path) -> None:
    """The target changes only at the end of the block; an error leaves it as it was and nothing beside it."""
    path = tmp_path / "new" / "a.bin"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"one")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_bytes() == b"one"
    assert list(path.parent.iterdir()) == [path]


def test_text_and_json_come_back(tmp_path: Path) -> None:
    """What is written is what is read, line ends and non-ASCII letters too; NaN is refused."""
    write_text_atomic(tmp_path / "a.txt", "é\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n".encode()
    data = {"z": [1, 0.1, None], "a": "é"}
    write_json_atomic(tmp_path / "a.json", data)
    assert list(json.loads((tmp_path / "a.json").read_text(encoding="utf-8")).items()) == list(data.items())
    with pytest.raises(ValueError):
        write_json_atomic(tmp_path / "a.json", {"loss": float("nan")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"]


def test_the_cache_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$PSLA_CACHE, else ~/.cache/psla."""
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("PSLA_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "psla"


@pytest.mark.parametrize("prefix", [None, DIGEST[:8], DIGEST.upper()])
def test_a_download_is_the_file(server: Server, tmp_path: Path, prefix: str | None) -> None:
    """The bytes arrive, no .part stays, and a second call asks the server for nothing."""
    path = tmp_path / "cache" / "weights.bin"
    assert download(server.url, path, prefix) == path
    assert sha256_of(path) == DIGEST
    assert list(path.parent.iterdir()) == [path]
    download(server.url, path, prefix)
    assert server.ranges == [None]


def test_a_broken_download_resumes(server: Server, tmp_path: Path) -> None:
    """After a connection that broke, the next call asks only for what is missing."""
    path = tmp_path / "weights.bin"
    server.stops_after = 20_000
    with pytest.raises(DownloadError, match="20000 of 50000 bytes"):
        download(server.url, path, DIGEST[:8])
    assert not path.exists()
    server.stops_after = None
    download(server.url, path, DIGEST[:8])
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=20000-"]


@pytest.mark.parametrize(
    ("part", "resumes", "requests"),
    [
        (CONTENT[:100], False, 1),  # a server without Range sends all
        (CONTENT, True, 1),  # complete already: "range not satisfiable"
        (b"of an older version", True, 2),  # the checksum finds out
        (CONTENT + b"longer", True, 2),
    ],
)
def test_any_left_over_part_ends_well(
    server: Server, tmp_path: Path, part: bytes, resumes: bool, requests: int
) -> None:
    """Whatever .part an earlier run left, the file is right in the end."""
    server.resumes = resumes
    (tmp_path / "a.bin.part").write_bytes(part)
    download(server.url, tmp_path / "a.bin", DIGEST)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.ranges) == requests


def test_without_a_checksum_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    """Two parts that nothing proves to belong together are not joined."""
    (tmp_path / "a.bin.part").write_bytes(b"of an older version")
    assert download(server.url, tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_failed_download_says_what_to_do(server: Server, tmp_path: Path) -> None:
    """A wrong checksum, a missing page and a dead server name the URL and the place; no file appears."""
    path = tmp_path / "a.bin"
    dead = "http://127.0.0.1:9/weights.bin"
    missing = server.url.replace("weights.bin", "missing")
    for url, prefix, reason in ((server.url, "00000000", "SHA-256"), (missing, None, "404"), (dead, None, "refused")):
        with pytest.raises(DownloadError, match=reason) as caught:
            download(url, path, prefix)
        assert f"cannot download {url} " in str(caught.value)
        assert str(caught.value).endswith(f"by hand and put the file at {path}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_another_checksum_is_replaced(server: Server, tmp_path: Path) -> None:
    """A file that stands there but is not the one asked for is fetched again."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"spoiled")
    assert download(server.url, path, DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize("prefix", ["", "xyz", "0" * 65])
def test_a_checksum_that_is_none_is_refused(tmp_path: Path, prefix: str) -> None:
    """A prefix is 1 to 64 hex digits."""
    with pytest.raises(ValueError, match="hex digits"):
        download("http://127.0.0.1:9/a", tmp_path / "a", prefix)
