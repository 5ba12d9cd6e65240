"""A stand-in of the hub's HTTP interface, as far as `huggingface_hub` needs it to make repositories, commit, fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub(ThreadingHTTPServer):
    """Repositories by name, each {file: bytes}; `fails`: the status that everything is answered with, if any."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.fails = 0
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repository: str) -> str:
        files = self.repositories[repository]
        return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers in the block."""
    with FakeHub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *args: Any) -> None:
        return None

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, data: Any, status: int = 200, **headers: str) -> None:
        self._answer(status, json.dumps(data).encode(), Content_Type="application/json", **headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"POST {self.path}")
        parts = self.path.strip("/").split("/")
        if self.server.fails:
            self._json({"error": "no"}, self.server.fails, X_Error_Message="You may not write here")
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repositories.setdefault(name, {})
            self._json({"url": f"{self.server.url}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            self._json({"files": [{**each, "shouldIgnore": False, "oid": None} for each in files]})
        elif parts[4] == "commit":
            name = "/".join(parts[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[name][line["value"]["path"]] = content
            commit = self.server.commit(name)
            self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"})
        else:
            self._json({"error": "unknown"}, 404)

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        if self.server.fails:
            self._json({"error": "no"}, self.server.fails)
            return
        if parts[0] == "api" and "/".join(parts[2:4]) in self.server.repositories:
            name = "/".join(parts[2:4])
            files = [{"rfilename": each} for each in self.server.repositories[name]]
            self._json({"id": name, "sha": self.server.commit(name), "siblings": files, "private": False, "tags": []})
            return
        name = "/".join(parts[:2])
        files = self.server.repositories.get(name)
        if files is None:
            self._json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif len(parts) < 5 or parts[4] not in files:
            self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        else:
            body, commit = files[parts[4]], self.server.commit(name)
            self._answer(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET
