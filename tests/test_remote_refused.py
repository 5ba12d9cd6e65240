"""Laws of S3 that refuses or is overloaded, over HTTP: one sentence, what is finished stays, and the job goes on.

moto is the storage, with its own examination of who asks; a proxy before it answers 503 as often as it is told to.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import pytest

from psla import remote
from psla.data.clips import Clips
from psla.data.pack.remote import pack_remote
from psla.data.pack.write import pack
from psla.remote import RemoteError
from test_remote import there
from test_spread import RATE, contents, sounds, table

pytest.importorskip("s3fs", reason="needs the extra remote, and s3fs")
__all__ = ["sounds"]
ALLOWED = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A server with a bucket; its address."""
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    import s3fs

    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "3")  # of botocore; s3fs tries five times around it
        patch.setenv("NO_PROXY", "127.0.0.1")
        known(patch, f"http://{host}:{port}", ("testing", "testing"))
        # Its buckets are those of the process: another server of it may have made some.
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        s3fs.S3FileSystem().mkdir("bucket")
        yield f"http://{host}:{port}"
    forget()
    started.stop()


def forget() -> None:
    """What this process knows of storage, connections and objects."""
    import s3fs

    remote._system.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


def known(patch: pytest.MonkeyPatch, endpoint: str, keys: tuple[str, str]) -> None:
    """Be somebody else from now on."""
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    patch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
    forget()


def examine(moto: str, after: str) -> None:
    """From how many requests on moto asks who it is."""
    connection = http.client.HTTPConnection(moto.partition("://")[2])
    connection.request("POST", "/moto-api/reset-auth", after)
    assert connection.getresponse().status == 200
    connection.close()


def user(moto: str, name: str, policy: dict[str, Any] | None) -> tuple[str, str]:
    """A user of the storage: what it is known by."""
    import boto3

    iam = boto3.client("iam", endpoint_url=moto, aws_access_key_id="testing", aws_secret_access_key="testing")
    iam.create_user(UserName=name)
    if policy is not None:
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def test_whoever_is_refused(moto: str, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown key, a wrong secret and a user without the right are one sentence each, for writing, for reading and
    half-way; what was finished stays, and the right user's call comes to the local pack."""
    owner, stranger = user(moto, "owner", ALLOWED), user(moto, "stranger", None)
    clips, place = table(sounds), "s3://bucket/mine"
    pack(clips, tmp_path / "local", RATE, workers=1, shard_clips=2)
    refused = ("AKIAUNKNOWN", "secret"), (owner[0], "wrong"), stranger
    sentence = r"^s3://bucket/mine/[^ ]*: access is refused \(.+\); check the credentials and the bucket$"
    examine(moto, "0")
    try:
        for keys in refused:
            known(monkeypatch, moto, keys)
            with pytest.raises(RemoteError, match=sentence):
                pack_remote(clips, place, RATE, workers=1, shard_clips=2)
            with pytest.raises(RemoteError, match=sentence):
                Clips.read(place)
        known(monkeypatch, moto, owner)
        assert there(place) == {}

        def expelled(state: Any) -> None:
            if state.done >= 4 and not state.resumed:
                known(monkeypatch, moto, stranger)

        with pytest.raises(RemoteError, match=sentence):
            pack_remote(clips, place, RATE, workers=1, shard_clips=2, progress=expelled)
        known(monkeypatch, moto, owner)
        assert 0 < len(there(place)) < len(contents(tmp_path / "local"))
        states: list[Any] = []
        pack_remote(clips, place, RATE, workers=1, shard_clips=2, progress=states.append)
        assert states[0].resumed >= 2
        assert there(place) == contents(tmp_path / "local")
        assert len(Clips.read(place)) == 5
    finally:
        examine(moto, "inf")


class Storm(BaseHTTPRequestHandler):
    """Answers 503 so many times, then hands on."""

    protocol_version = "HTTP/1.1"
    behind: ClassVar[str] = ""
    left: ClassVar[float] = 0
    refused: ClassVar[int] = 0
    after: ClassVar[float] = float("inf")  # requests that are handed on before a storm without end
    lock: ClassVar[threading.Lock] = threading.Lock()

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with Storm.lock:
            Storm.after -= 1
            if Storm.after < 0:
                Storm.after, Storm.left = float("inf"), float("inf")
            refuse = Storm.left > 0
            Storm.left -= refuse
            Storm.refused += refuse
        if refuse:
            self.answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        connection = http.client.HTTPConnection(Storm.behind.partition("://")[2])
        connection.request(self.command, self.path, body, dict(self.headers))
        found = connection.getresponse()
        self.answer(found.status, found.getheaders(), found.read())
        connection.close()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(body)))
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def storm(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Storm]]:
    Storm.behind, Storm.left, Storm.refused, Storm.after = moto, 0, 0, float("inf")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Storm)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known(monkeypatch, f"http://127.0.0.1:{server.server_port}", ("testing", "testing"))
    yield Storm
    forget()
    server.shutdown()
    server.server_close()


def test_a_storm_that_passes(storm: type[Storm], sounds: Path, tmp_path: Path) -> None:
    """A few 503s at the beginning of a writing and of a reading are waited for, and nothing is said of them."""
    clips, place = table(sounds), "s3://bucket/passes"
    pack(clips, tmp_path / "local", RATE, workers=1, shard_clips=4)
    storm.left = 2
    pack_remote(clips, place, RATE, workers=1, shard_clips=4)
    assert (storm.left, storm.refused) == (0, 2)
    storm.left = 2
    assert Clips.read(place).clip_ids == clips.clip_ids[:5]
    assert there(place) == contents(tmp_path / "local")
    assert storm.refused == 4


@pytest.mark.parametrize("after", [9, pytest.param(4, marks=pytest.mark.soak)])
def test_a_storm_without_end(after: int, storm: type[Storm], sounds: Path, tmp_path: Path) -> None:
    """503 to everything after so many requests: one sentence; when it is over, the same call ends the job."""
    clips, place = table(sounds), f"s3://bucket/storm{after}"
    pack(clips, tmp_path / "local", RATE, workers=1, shard_clips=2)
    storm.after = after
    with pytest.raises(RemoteError, match=rf"^{place}/[^ ]*: the storage fails \(.+\); what is finished is kept, try"):
        pack_remote(clips, place, RATE, workers=1, shard_clips=2)
    assert storm.refused > 3
    with pytest.raises(RemoteError, match="the storage fails"):
        Clips.read(place)
    storm.left = 0
    pack_remote(clips, place, RATE, workers=1, shard_clips=2)
    assert there(place) == contents(tmp_path / "local")
