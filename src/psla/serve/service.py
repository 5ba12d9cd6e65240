"""What is done with a request: taken in, decoded, tagged, answered, and given up when nobody waits for it any more.

body ──► gate ──► a thread: watched decoder ──► engine ──► row ──► JSON            (engine: one for all requests)
WebSocket ──► gate ──► a thread: `psla.Stream` ──► engine ──► events
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response, WebSocket
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool
from psla.data.ontology import Ontology
from psla.model.ensemble import EnsembleError
from psla.serve.answers import Outline, Plan, Table, TagQuery, answer, as_file, to_json
from psla.serve.decoding import DECODER, Decoded, TooLong
from psla.serve.engine import Engine, Job, Left
from psla.serve.gate import Gate, Held, Refusal, left, read_body
from psla.serve.limits import Limits
from psla.serve.metrics import Metrics
from psla.serve.stream import POLICY, Conversation, same_origin
from psla.tagging.tagger import Tagger


class Service:
    """What the addresses share.

    Args:
        tagger: whose numbers are told. name: of its model. limits: what is taken on. token: what clients must send.
    """

    def __init__(self, tagger: Tagger, name: str, limits: Limits, token: str | None) -> None:
        self.tagger, self.name, self.limits, self.token = tagger, name, limits, token
        self.gate = Gate(limits)
        self.stopping = asyncio.Event()
        self.metrics = Metrics(
            {
                "psla_in_flight": (lambda: self.gate.in_flight, "requests that were let in and not answered"),
                "psla_held_bytes": (lambda: self.gate.held, "bytes of bodies that are held"),
                "psla_streams": (lambda: self.gate.streams, "WebSockets that are open"),
                "psla_windows_waiting": (lambda: self.engine.waiting(), "windows that wait for the model"),
            }
        )
        self.engine: Engine
        self.pool: DecodePool
        self.threads: ThreadPoolExecutor
        self.stream_threads: ThreadPoolExecutor
        try:
            silence = np.zeros(tagger.window_samples, np.int16)
            tagger.embed(silence, tagger.sample_rate)
            self.features = True
        except EnsembleError:
            self.features = False

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Decoders, engine and threads, from the first request to the last."""
        limits = self.limits
        self.pool = DecodePool(limits.workers, memory_bytes=limits.worker_bytes, decoder=DECODER)
        with self.pool, Engine(self.tagger, self.metrics.batch) as self.engine:
            self.threads = ThreadPoolExecutor(limits.at_work, "request")
            self.stream_threads = ThreadPoolExecutor(limits.streams, "stream")
            try:
                yield
            finally:
                self.threads.shutdown(cancel_futures=True)
                self.stream_threads.shutdown(cancel_futures=True)

    def check(self, authorization: str | None) -> None:
        """Refuse who does not send the token."""
        sent = (authorization or "").encode("utf-8", "surrogatepass")
        if self.token is not None and not hmac.compare_digest(sent, f"Bearer {self.token}".encode()):
            raise Refusal(401, "this service asks for a token: Authorization: Bearer TOKEN")

    def facts(self) -> dict[str, Any]:
        """What `/v1/models` says."""
        model, tagger, ontology = self.tagger.model, self.tagger, Ontology.audioset()
        classes = [
            {
                "id": each.id,
                "name": each.name,
                "within": sorted(ontology.name(id) for id in ontology.ancestors(each.id))
                if each.id in ontology
                else [],
                "threshold": tagger.thresholds.get(each.id),
            }
            for each in model.vocabulary
        ]
        return {
            "name": self.name,
            "sample_rate": tagger.sample_rate,
            "window_s": tagger.window_s,
            "hop_s": tagger.hop_s,
            "step_s": tagger.step_s,
            "combine": tagger.combine,
            "features": self.features,
            "licence": model.card.licence,
            "training_data": model.card.training_data,
            "most_seconds": self.limits.duration_s,
            "most_bytes": self.limits.body_bytes,
            "classes": classes,
        }

    async def tag(self, request: Request, query: TagQuery, held: Held) -> Response:
        """The answer to one recording."""
        try:
            plan = Plan.of(query, self.tagger.model.vocabulary, bool(self.tagger.calibration))
            if plan.features is not Table.none and not self.features:
                raise ValueError("an ensemble has no features of its own: ask one of its members")
        except ValueError as error:
            raise Refusal(422, str(error)) from error
        name, data = await _recording(request, query, await read_body(request, held, self.limits))
        job, turn = Job(self.engine, plan.features is not Table.none), asyncio.Event()
        work = asyncio.create_task(self._in_turn(turn, partial(self._work, job, name, data, query, plan)))
        gone = asyncio.create_task(left(request))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                job.cancel()
                if not turn.is_set():  # else its thread ends by itself, and keeps its turn until then
                    raise ClientDisconnect
            return Response(await work, media_type="application/json")
        except Left as error:
            raise ClientDisconnect from error
        finally:
            gone.cancel()
            if not work.done():
                job.cancel()
                work.cancel()

    async def _in_turn(self, turn: asyncio.Event, work: Callable[[], bytes]) -> bytes:
        async with self.gate.turn():
            turn.set()
            return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def hear(self, websocket: WebSocket) -> None:
        """One stream, from its first message to its last."""
        if not same_origin(websocket):
            await websocket.close(POLICY)  # before it is accepted: 403
            return
        await websocket.accept()
        said = Conversation(websocket, self.engine, self.stream_threads, self.limits.idle_s, self.stopping)
        try:
            with self.gate.stream():
                start = await said.begin()
                header = authorization(websocket)
                self.check(f"Bearer {start.token}" if header is None and start.token is not None else header)
                self.metrics.sound.inc(await said.go_on(self.name, start))
        except Refusal as error:
            await said.refuse(error)
        except (WebSocketDisconnect, TimeoutError):
            self.metrics.left.inc()

    def _work(self, job: Job, name: str, data: bytes, query: TagQuery, plan: Plan) -> bytes:
        """The thread's part."""
        limits, outline = self.limits, Outline() if plan.picture else None
        try:
            file = data if query.pcm is None else as_file(data, query)
            decoded = Decoded(self.pool, file, self.tagger.sample_rate, limits.duration_s, limits.decode_s)
            with closing(decoded):
                source = decoded.info()
                blocks = decoded.blocks() if outline is None else outline.passed(decoded.blocks())
                result = job.tag(blocks, source, lambda: decoded.levels)
        except AudioError as error:
            raise Refusal(422, error.reason, path=name) from error
        except TooLong as error:
            raise Refusal(413, str(error), path=name) from error
        except ValueError as error:
            raise Refusal(422, str(error), path=name) from error
        self.metrics.sound.inc(result.duration_s)
        row = answer(name, result, plan, self.tagger.thresholds)
        if outline is not None:
            row["picture"] = outline.picture(self.tagger)
        return to_json(row)


async def _recording(request: Request, query: TagQuery, body: bytes) -> tuple[str, bytes]:
    """The name and the bytes of the file: the body, or the one file of its form."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return query.name, body

    async def again() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, again).form(max_files=1, max_fields=0) as form:
            files = [each for each in form.values() if not isinstance(each, str)]
            if len(files) != 1:
                raise Refusal(422, "a form holds one file, and nothing else; what is asked stands in the query")
            return query.name or files[0].filename or "", await files[0].read()
    except (MultiPartException, HTTPException) as error:
        sentence = error.message if isinstance(error, MultiPartException) else error.detail
        raise Refusal(422, f"the form cannot be read: {sentence}") from error


def authorization(request: HTTPConnection) -> str | None:
    """The header of that name; its bytes are UTF-8, which Starlette reads as Latin-1."""
    sent = request.headers.get("authorization")
    return None if sent is None else sent.encode("latin-1").decode("utf-8", "replace")
