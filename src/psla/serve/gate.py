"""Who may come in, and how a body is taken in: the limits of size, number and time, each with its own answer.

    let in (in_flight, per_client) ──► body (held_bytes, body_bytes, idle_s, body_s) ──► turn (at_work) ──► work

A refusal is one sentence with a status; where it helps to come back, Retry-After says after how many seconds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import Request

from psla.serve.limits import Limits

_LONGEST_S = 60  # that anybody is told to wait


class Refusal(Exception):
    """A request that is not answered with a result: why, with which status, and when to come back.

    `path`: the name of the file, where it is about one.
    """

    def __init__(self, status: int, sentence: str, retry_after_s: int | None = None, path: str | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after_s, self.path = status, sentence, retry_after_s, path


class Gate:
    """Counts who is in. All of it happens in the event loop's thread.

    Example:
        >>> gate = Gate(Limits(in_flight=1))
        >>> with gate.let_in("10.0.0.1"):
        ...     with gate.let_in("10.0.0.2"):
        ...         pass
        Traceback (most recent call last):
        psla.serve.gate.Refusal: this service has 1 requests in flight, as many as it takes: come back later
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.inside: Counter[str] = Counter()  # requests by address
        self.held = 0  # bytes of bodies
        self.streams = 0
        self._turn = asyncio.Semaphore(limits.at_work)
        self._pace_s = 1.0  # a running mean of how long a request is at work

    @property
    def in_flight(self) -> int:
        """Requests that were let in and are not answered."""
        return self.inside.total()

    @contextmanager
    def let_in(self, client: str) -> Iterator[Held]:
        """Room for one request of this address; raises Refusal."""
        if self.in_flight >= self.limits.in_flight:
            many = self.limits.in_flight
            self._refuse(503, f"this service has {many} requests in flight, as many as it takes: come back later")
        if self.inside[client] >= self.limits.per_client:
            many = self.limits.per_client
            self._refuse(429, f"{many} requests of this address are in flight, as many as it may have: wait for one")
        self.inside[client] += 1
        held = Held(self)
        try:
            yield held
        finally:
            self.held -= held.bytes
            self.inside[client] -= 1
            self.inside += Counter()  # those that are gone are forgotten

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until it is this request's turn to be worked at, first come, first served."""
        async with self._turn:
            began = time.monotonic()
            try:
                yield
            finally:
                self._pace_s += 0.1 * (time.monotonic() - began - self._pace_s)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Room for one WebSocket; raises Refusal."""
        if self.streams >= self.limits.streams:
            self._refuse(503, f"this service hears {self.limits.streams} streams at a time: come back later")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    def hold(self, count: int) -> None:
        """Room for so many more bytes; raises Refusal."""
        if self.held + count > self.limits.held_bytes:
            self._refuse(503, "this service holds as many bytes as it may: come back later")
        self.held += count

    def _refuse(self, status: int, sentence: str) -> None:
        seconds = math.ceil(self._pace_s * max(1, self.in_flight) / self.limits.at_work)
        raise Refusal(status, sentence, retry_after_s=min(_LONGEST_S, max(1, seconds)))


class Held:
    """The bytes of one request's body."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self.bytes = gate, 0

    def grow(self, count: int) -> None:
        """So many more; raises Refusal."""
        if self.bytes + count > (most := self._gate.limits.body_bytes):
            raise Refusal(413, f"the body has more than the {most} bytes that this service takes: send it in parts")
        self._gate.hold(count)
        self.bytes += count


async def read_body(request: Request, held: Held, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413, 503, and 408 of one that comes too slowly. ClientDisconnect: the client left.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        held.grow(int(declared))  # refused before a byte of it is read
    body = bytearray()
    stream = request.stream()
    try:
        async with asyncio.timeout(limits.body_s):
            while True:
                async with asyncio.timeout(limits.idle_s):
                    chunk = await anext(stream, None)
                if chunk is None:
                    return bytes(body)
                held.grow(len(chunk))
                body += chunk
    except TimeoutError as error:
        sentence = f"the body came too slowly: a byte within {limits.idle_s:g} s, all within {limits.body_s:g} s"
        raise Refusal(408, sentence) from error


async def left(request: Request) -> None:
    """Returns when the client has gone; to be asked once the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
