"""The WebSocket `/v1/stream`: `psla.Stream` for a client that sends sound as it comes.

    client   {"rate": 48000, "pcm": "s16le", "channels": 1, "threshold": 0.5, ...}           first: a `Start`
    service  {"type": "ready", "model": ..., "latency_s": ..., "step_s": ...}
    client   binary: samples, cut anywhere    {"gap_s": 0.5}: so much was lost    {"end": true}: that was all
    service  {"type": "events", "position_s": ..., "events": [...], "frames": {"times": ..., "probabilities": ...}}
    service  {"type": "end", "position_s": ...}, and closes; on any fault {"type": "error", "error": why}, and closes

Events are `StreamEvent.to_dict`'s, told when there are any; frames, all classes of the steps that became final, where
they are asked for. Windows go through the engine, with those of everybody else. The service reads on when it has heard
what it read: who sends faster than that has to wait.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
from fastapi import WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from psla.serve.answers import SAMPLE_TYPES, Samples
from psla.serve.engine import Engine, Left, Through
from psla.serve.gate import Refusal
from psla.tagging.events import EventRule
from psla.tagging.result import choose_classes
from psla.tagging.stream import Stream

DONE, GOING, POLICY, LATER, FAULT = 1000, 1001, 1008, 1013, 1011  # RFC 6455, and IANA's list


class Start(BaseModel):
    """The first message."""

    model_config = ConfigDict(extra="forbid")

    rate: int = Field(ge=1000, le=768000)
    pcm: Samples = Samples.s16le
    channels: int = Field(1, ge=1, le=64)
    threshold: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    release: float = Field(0.8, gt=0, le=1, allow_inf_nan=False)
    max_gap: float | None = Field(None, ge=0, allow_inf_nan=False)
    min_length: float = Field(0.0, ge=0, allow_inf_nan=False)
    classes: list[str] = Field([], max_length=1000)
    frames: bool = False
    token: str | None = None


class Said(BaseModel):
    """A later message of text."""

    model_config = ConfigDict(extra="forbid")

    gap_s: float | None = Field(None, ge=0, le=1e9, allow_inf_nan=False)
    end: bool = False


def same_origin(websocket: WebSocket) -> bool:
    """Whether a page of this service asks, or no page at all: those of others have no business here."""
    origin = websocket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == websocket.headers.get("host", "")


class Heard:
    """One client's stream, as a thread works at it."""

    def __init__(self, engine: Engine, start: Start) -> None:
        vocabulary = engine.tagger.model.vocabulary
        classes = choose_classes(start.classes, vocabulary) if start.classes else None
        rule = EventRule(start.threshold, start.release, start.max_gap, start.min_length)
        self.stream = Stream(cast(Any, Through(engine)), rule=rule, classes=classes)
        self._type, self._start, self._left = np.dtype(SAMPLE_TYPES[start.pcm]), start, b""

    def take(self, message: bytes | Said) -> str | None:
        """What is to be said of the next message; raises ValueError, Left."""
        if isinstance(message, bytes):
            whole = self._type.itemsize * self._start.channels
            data = self._left + message
            self._left = data[len(data) // whole * whole :]
            samples = np.frombuffer(data[: len(data) - len(self._left)], self._type).reshape(-1, self._start.channels)
            told = self.stream.push(samples, self._start.rate)
        elif message.gap_s is not None:
            self._left = b""
            told = self.stream.gap(message.gap_s)
        else:
            told = self.stream.close()
        with_frames = self._start.frames and len(self.stream.times)
        if not told and not with_frames:
            return None
        row: dict[str, Any] = {"type": "events", "position_s": self.stream.position_s}
        row["events"] = [each.to_dict() for each in told]
        if with_frames:
            row["frames"] = {"times": self.stream.times.tolist(), "probabilities": self.stream.frames.tolist()}
        return json.dumps(row, allow_nan=False)


class Conversation:
    """What is said on one WebSocket.

    Args:
        idle_s: seconds in which something must come, and in which what is said must be taken.
        stopping: set when the service is told to stop: the stream is then closed, its last events are told.
    """

    def __init__(
        self, websocket: WebSocket, engine: Engine, threads: Executor, idle_s: float, stopping: asyncio.Event
    ) -> None:
        self._socket, self._engine, self._threads = websocket, engine, threads
        self._idle_s, self._stopping = idle_s, stopping

    async def begin(self) -> Start:
        """The first message; raises Refusal."""
        message = await self._next()
        if not isinstance(message, str):
            raise Refusal(422, "the first message is text: JSON with the rate of the samples that follow")
        return _read(Start, message)

    async def go_on(self, name: str, start: Start) -> float:
        """Everything after the first message; gives the seconds that were heard, raises Refusal."""
        loop = asyncio.get_running_loop()
        try:
            heard = await loop.run_in_executor(self._threads, Heard, self._engine, start)
            stream = heard.stream
            ready = {"type": "ready", "model": name, "latency_s": stream.latency_s, "step_s": stream.tagger.step_s}
            await self._say(json.dumps(ready))
            while True:
                message = await self._next()
                said = Said(end=True) if message is None else message if isinstance(message, bytes) else None
                said = said or _read(Said, cast(str, message))
                if words := await loop.run_in_executor(self._threads, heard.take, said):
                    await self._say(words)
                if isinstance(said, Said) and said.end:
                    break
            await self._say(json.dumps({"type": "end", "position_s": stream.position_s}))
            await self._socket.close(GOING if message is None else DONE)
            return stream.position_s
        except (ValueError, Left) as error:
            raise Refusal(422, str(error) or "this service is about to stop") from error

    async def refuse(self, error: Refusal) -> None:
        """Say why, and close."""
        code = {429: LATER, 503: LATER, 500: FAULT}.get(error.status, POLICY)
        with suppress(WebSocketDisconnect, TimeoutError, RuntimeError):  # it has gone meanwhile
            await self._say(json.dumps({"type": "error", "error": error.sentence}))
            await self._socket.close(code)

    async def _say(self, words: str) -> None:
        async with asyncio.timeout(self._idle_s):
            await self._socket.send_text(words)

    async def _next(self) -> bytes | str | None:
        """The next message; None: the service is told to stop."""
        coming = asyncio.ensure_future(self._socket.receive())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            wanted = (coming, stopping)
            done, _ = await asyncio.wait(wanted, timeout=self._idle_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not coming.done():
                coming.cancel()
        if coming in done:
            message = coming.result()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", DONE))
            text = message.get("text")
            return message["bytes"] if text is None else text
        if not done:
            raise Refusal(408, f"nothing came for {self._idle_s:g} s")
        return None


def _read(kind: type[Any], message: str) -> Any:
    try:
        return kind.model_validate_json(message)
    except ValidationError as error:
        said = [f"{'.'.join(map(str, each['loc'])) or 'the message'}: {each['msg']}" for each in error.errors()]
        raise Refusal(422, "; ".join(said[:5])) from error
