"""Headless Chromium over a pipe: the DevTools protocol, of which the tests need four methods.

Protocol: https://chromedevtools.github.io/devtools-protocol/ (messages end in a zero byte; Chromium reads descriptor 3
and writes descriptor 4). No other package is needed. Chromium draws no narrower window than 500 pixels, so a
telephone's width is emulated.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]


def _moved(descriptor: int) -> int:
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20)
    os.close(descriptor)
    return high


class Page:
    """A page in a browser of its own: a file, or an address.

    Attributes:
        requests: the addresses it asked for. complaints: errors of its scripts and messages of its console.
    """

    def __init__(self, path: Path | str, width: int, height: int = 900, flags: Sequence[str] = ()) -> None:
        self.profile = tempfile.mkdtemp()
        to_browser, ours = os.pipe()
        theirs, from_browser = os.pipe()
        # Away from 3 and 4, which the shell is about to set.
        to_browser, from_browser = (_moved(each) for each in (to_browser, from_browser))
        shell = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        command = ["bash", "-c", shell, CHROMIUM, *FLAGS, *flags, f"--user-data-dir={self.profile}"]
        self.process = subprocess.Popen(
            command, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.write, self.read, self.buffer, self.number = ours, theirs, b"", 0
        self.session, self.events = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Page.navigate", url=path if isinstance(path, str) else path.resolve().as_uri())
        self.wait("Page.loadEventFired")
        self.evaluate("new Promise(done => setTimeout(done, 200))")

    @property
    def requests(self) -> list[str]:
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    @property
    def complaints(self) -> list[dict]:
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [e["params"] for e in self.events if e["method"] in kinds]

    def evaluate(self, expression: str):
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path, whole: bool = True) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png", **self._clip(whole))
        path.write_bytes(base64.b64decode(data["data"]))

    def _clip(self, whole: bool) -> dict:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def call(self, method: str, **params) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda each: each.get("id") == self.number)
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, method: str) -> None:
        if not any(event["method"] == method for event in self.events):
            self._until(lambda each: each.get("method") == method)

    def _until(self, wanted) -> dict:
        end = time.monotonic() + 60
        while True:
            *messages, self.buffer = self.buffer.split(b"\0")
            for place, raw in enumerate(messages):
                message = json.loads(raw)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    self.buffer = b"\0".join([*messages[place + 1 :], self.buffer])
                    return message
            assert time.monotonic() < end, "Chromium does not answer"
            if select.select([self.read], [], [], 1)[0]:
                data = os.read(self.read, 1 << 20)
                assert data, "Chromium has ended"
                self.buffer += data

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self.write)
        os.close(self.read)
        shutil.rmtree(self.profile, ignore_errors=True)
