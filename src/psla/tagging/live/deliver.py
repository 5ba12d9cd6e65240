"""Messages to somebody who may be slow, away or broken: a bounded queue, retries, and a word of what was lost.

Listening never waits for who is told. Each of them has a thread and a queue of so many messages; a message that does
not fit, or that could not be delivered after all tries, is lost, and that is told (`failed`).

Who is told: a command that is run, and a webhook that is posted to; a broker is in `psla.tagging.live.mqtt`.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
_AGAIN = {408, 425, 429}  # of the answers 4xx those that may be another the next time


class Refused(ValueError):
    """A message that will never be taken: it is not tried again."""


class Delivery:
    """A thread that delivers messages in their order.

    Args:
        name: who is told, as `failed` calls it.
        send: delivers one; raises OSError or ValueError where it could not, `Refused` where it never will.
        failed: told (name, reason, messages lost), from that thread.
        size: messages that wait.
        tries: of each message, 1 or more.
        pause_s: after the first failure; twice as long after each further one, a minute at most.

    Example:
        >>> got = []
        >>> delivery = Delivery("list", got.append)
        >>> delivery.put({"type": "event"}), delivery.close()
        (True, 0)
        >>> got
        [{'type': 'event'}]
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Message], None],
        failed: Callable[[str, str, int], None] = lambda name, reason, lost: None,
        size: int = 1000,
        tries: int = 5,
        pause_s: float = 1.0,
    ) -> None:
        self.name, self._send, self._failed = name, send, failed
        self._tries, self._pause = tries, pause_s
        self._queue: queue.Queue[Message | None] = queue.Queue(size)
        self._stop = threading.Event()
        self._over = 0  # messages that did not fit since that was told last
        self._thread = threading.Thread(target=self._work, name=f"deliver-{name}", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> bool:
        """Whether there was room for it; where not, it is lost, and that is told once there is room again."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._over += 1
            return False
        self._tell_over()
        return True

    def close(self, within_s: float = 10.0) -> int:
        """Deliver what waits, for so many seconds at most; how many messages were left. Those are told as lost."""
        ends = time.monotonic() + within_s
        self._tell_over()
        try:
            self._queue.put(None, timeout=within_s)
            self._thread.join(max(0.0, ends - time.monotonic()))
        except queue.Full:
            pass
        self._stop.set()  # no more tries
        left = self._left()
        if left:
            self._failed(self.name, "there was no time left to deliver them", left)
        return left

    def _left(self) -> int:
        left = 0
        while True:
            try:
                left += self._queue.get_nowait() is not None
            except queue.Empty:
                return left

    def _tell_over(self) -> None:
        if self._over:
            over, self._over = self._over, 0
            self._failed(self.name, "they came faster than they could be delivered", over)

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        pause = self._pause
        for attempt in range(1, self._tries + 1):
            try:
                self._send(message)
                return
            except (OSError, ValueError) as error:
                if isinstance(error, Refused) or attempt == self._tries or self._stop.wait(pause):
                    self._failed(self.name, " ".join(str(error).split()) or type(error).__name__, 1)
                    return
                pause = min(60.0, 2 * pause)


def worth_telling(message: Message) -> bool:
    """Events that begin and end, and gaps: what commands, webhooks and brokers are told."""
    return message["type"] == "gap" or (message["type"] == "event" and message["state"] != "continued")


def command(text: str, timeout_s: float = 60.0) -> Callable[[Message], None]:
    """Runs a command for each message: JSON on its standard input, the main fields in its environment.

    The words are taken as they are, without a shell. PSLA_TYPE, PSLA_STATE, PSLA_NUMBER, PSLA_ID, PSLA_NAME,
    PSLA_PROBABILITY, PSLA_ONSET_S, PSLA_OFFSET_S, PSLA_ONSET_TIME, PSLA_RECORDING and so on: a variable a field.

    Raises:
        ValueError: no command, or quotes that do not end; later `Refused`, where it fails or takes too long.
    """
    words = shlex.split(text)
    if not words:
        raise ValueError("the command to run is empty")

    def run(message: Message) -> None:
        fields = {f"PSLA_{key.upper()}": str(value).replace("\0", "") for key, value in message.items()}
        try:
            done = subprocess.run(
                words,
                input=json.dumps(message).encode(),
                env={**os.environ, **fields},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Refused(f"it did not end within {timeout_s:g} s") from error
        except OSError as error:
            raise Refused(f"it cannot be run: {error}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise Refused(f"it ended with code {done.returncode}{': ' if said else ''}{''.join(said)[:200]}")

    return run


def webhook(address: str, timeout_s: float = 10.0) -> Callable[[Message], None]:
    """Posts each message as JSON.

    Raises:
        ValueError: an address that is not http or https; later OSError, and `Refused` where it is not taken.
    """
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"a webhook is an http or https address, not {address!r}")

    def post(message: Message) -> None:
        body, head = json.dumps(message).encode(), {"Content-Type": "application/json", "User-Agent": "psla"}
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, head), timeout=timeout_s):
                pass
        except urllib.error.HTTPError as error:
            with error:
                if 400 <= error.code < 500 and error.code not in _AGAIN:
                    raise Refused(f"it answers {error.code} {error.reason}") from error
                raise OSError(f"it answers {error.code} {error.reason}") from error

    return post
