"""The process: a socket, uvicorn on it, time limits for those who are slow, and an end that loses nothing.

Told to stop (SIGTERM, Ctrl-C), it takes no more connections, lets every answer say `Connection: close`, reads for a
moment what is on its way on connections that are open, finishes what it has accepted, and ends with exit code 0. A
second Ctrl-C, or `drain_s` seconds, end it as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from psla.serve.limits import Limits

_ON_ITS_WAY_S = 0.5  # for requests that are sent on connections that are open when the service is told to stop
WS_BYTES = 1 << 20  # of one message of a WebSocket
_LINGER_S = 5.0  # in which a client that was refused may go on sending its body, so that it reads why


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: any that is free.

    Raises:
        ValueError: it cannot be had.

    Example:
        >>> with listen("127.0.0.1", 0) as made:
        ...     made.getsockname()[0]
        '127.0.0.1'
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1024)
    except (OSError, OverflowError) as error:
        raise ValueError(f"{host} port {port} cannot be listened to: {error}; choose another with --port") from error
    return made


class Server(uvicorn.Server):
    """Answers on a socket until it is told to stop; what stops it is an end, and not the signal again.

    Args:
        app: what `psla.serve.app.create_app` gives.
        made: what `listen` gives.
        told: called when the first request can be answered.
    """

    def __init__(self, app: FastAPI, made: socket.socket, told: Callable[[], None] = lambda: None) -> None:
        self._service, self._socket, self._told = app.state.service, made, told
        limits: Limits = self._service.limits
        config = uvicorn.Config(
            app,
            http=_protocol(limits),
            ws="websockets-sansio",
            ws_max_size=WS_BYTES,
            lifespan="on",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=max(1, int(limits.idle_s)),
            timeout_graceful_shutdown=max(1, int(limits.drain_s)),
        )
        super().__init__(config)

    def answer(self) -> None:
        """Answer; returns when it was told to stop, by a signal in the main thread or by `stop`."""
        asyncio.run(self.serve(sockets=[self._socket]))

    def stop(self) -> None:
        """As SIGTERM does, from any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._told()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = {each: signal.signal(each, self.handle_exit) for each in signals}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for each in self.servers:
            each.close()
        self._service.stopping.set()
        # In place: answers that are being made have this very list.
        self.server_state.default_headers.append((b"connection", b"close"))
        await asyncio.sleep(_ON_ITS_WAY_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._service.limits.drain_s):
                while self._service.gate.streams:  # uvicorn would cut them off in mid-word
                    await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _protocol(limits: Limits) -> type[H11Protocol]:
    """HTTP/1.1 with the limits of these connections."""

    class Guarded(H11Protocol):
        """Closes connections whose head does not come, and those that do not take their answer."""

        _slow: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._abort_in(limits.head_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._abort_in(None)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.transport.get_protocol() is not self:  # a WebSocket by now
                self._abort_in(None)
            elif self.conn.their_state is not h11.IDLE:
                if self.cycle is not None and not self.cycle.response_complete:
                    self._abort_in(None)
            elif self._slow is None:  # a head has begun, and is not whole
                self._abort_in(limits.head_s)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:
                self._abort_in(_LINGER_S)

        def timeout_keep_alive_handler(self) -> None:
            if self.transport.get_write_buffer_size():
                self.transport.abort()
            super().timeout_keep_alive_handler()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._abort_in(limits.idle_s)

        def resume_writing(self) -> None:
            self._abort_in(None)
            super().resume_writing()

        def _abort_in(self, seconds: float | None) -> None:
            """Once so many seconds have gone by; None: not."""
            if self._slow is not None:
                self._slow.cancel()
            self._slow = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    return Guarded
