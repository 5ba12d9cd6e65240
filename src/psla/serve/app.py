"""The addresses of the service: `/v1/tag`, `/v1/models`, `/v1/stream`, `/healthz`, `/metrics`, and the page at `/`.

    body ──► gate ──► a thread: watched decoder ──► engine ──► row ──► JSON            (engine: one for all requests)

Every answer forbids the browser to load or to be framed by anything from elsewhere. What goes wrong is a sentence with
a status (`psla.serve.gate.Refusal`).
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool
from psla.data.ontology import Ontology
from psla.model.ensemble import EnsembleError
from psla.serve import schema
from psla.serve.answers import Outline, Plan, Table, TagQuery, answer, as_file, to_json
from psla.serve.decoding import DECODER, Decoded, TooLong
from psla.serve.engine import Engine, Job, Left
from psla.serve.gate import Gate, Held, Refusal, left, read_body
from psla.serve.limits import Limits
from psla.serve.metrics import MEDIA_TYPE, Metrics
from psla.tagging.tagger import Tagger

PAGE = Path(__file__).with_name("page")
ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "events.js": "text/javascript"}
ASSETS |= {"recording.js": "text/javascript"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_BEARER = HTTPBearer(auto_error=False, description="Where the service was given a token.")


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
            try:
                yield
            finally:
                self.threads.shutdown(cancel_futures=True)

    def check(self, authorization: str | None) -> None:
        """Refuse who does not send the token."""
        sent = (authorization or "").encode("latin-1")  # the bytes, which headers are read from so
        if self.token is not None and not hmac.compare_digest(sent, f"Bearer {self.token}".encode()):
            raise Refusal(401, "this service asks for a token: Authorization: Bearer TOKEN")

    def facts(self) -> dict[str, Any]:
        """What `/v1/models` says."""
        model, tagger, ontology = self.tagger.model, self.tagger, Ontology.audioset()
        classes = [
            {
                "id": each.id,
                "name": each.name,
                "within": sorted(ontology.name(id) for id in ontology.ancestors(each.id)) if each.id in ontology else [],
                "threshold": model.card.thresholds.get(each.id),
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
            plan = Plan.of(query, self.tagger.model.vocabulary)
            if plan.features is not Table.none and not self.features:
                raise ValueError("an ensemble has no features of its own: ask one of its members")
        except ValueError as error:
            raise Refusal(422, str(error)) from error
        name, data = await _recording(request, query, await read_body(request, held, self.limits))
        job = self.engine.job(plan.features is not Table.none)
        async with self.gate.turn():
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self.threads, partial(self._work, job, name, data, query, plan))
            gone = asyncio.create_task(left(request))
            try:
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    job.cancel()
                return Response(await work, media_type="application/json")
            except Left as error:
                raise ClientDisconnect from error
            except asyncio.CancelledError:
                job.cancel()
                raise
            finally:
                gone.cancel()

    def _work(self, job: Job, name: str, data: bytes, query: TagQuery, plan: Plan) -> bytes:
        """The thread's part."""
        limits, outline = self.limits, Outline() if plan.picture else None
        try:
            file = data if query.pcm is None else as_file(data, query)
            decoded = Decoded(self.pool, file, self.tagger.sample_rate, limits.duration_s, limits.decode_s)
            with closing(decoded):
                rate = decoded.source_rate()
                blocks = decoded.blocks() if outline is None else outline.passed(decoded.blocks())
                result = job.tag(blocks, rate)
        except AudioError as error:
            raise Refusal(422, error.reason, path=name) from error
        except TooLong as error:
            raise Refusal(413, str(error), path=name) from error
        except ValueError as error:
            raise Refusal(422, str(error), path=name) from error
        self.metrics.sound.inc(result.duration_s)
        row = answer(name, result, plan, self.tagger.model.card.thresholds)
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


class _Guard:
    """Around the addresses: the headers of every answer, and what is counted."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = getattr(scope.get("route"), "path", "other")
                self.service.metrics.answers.labels(known, str(message["status"])).inc()
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        await self.app(scope, receive, sent)


def create_app(tagger: Tagger, name: str = "", limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """The service as an ASGI application; `psla.serve.server` runs it.

    Args:
        tagger: whose numbers are told.
        name: of its model, for people.
        limits: what is taken on; by default as `Limits` says.
        token: what every request but those for the page and for `/healthz` must send; None: nothing.

    Example:
        >>> from psla.tagging.tagger import load
        >>> sorted(create_app(load("esc10-lite0"), "esc10-lite0").openapi()["paths"])
        ['/healthz', '/metrics', '/v1/models', '/v1/tag']
    """
    service = Service(tagger, name, limits or Limits(), token)
    app = FastAPI(
        title="psla",
        version=version("psla"),
        description=__doc__.splitlines()[0],
        docs_url=None,  # its page loads from elsewhere
        redoc_url=None,
        lifespan=service.running,
    )
    app.state.service = service
    app.add_middleware(_Guard, service=service)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _no_such)
    app.add_exception_handler(ClientDisconnect, partial(_gone, service))
    _add_tagging(app, service)
    _add_page(app)
    return app


def _add_tagging(app: FastAPI, service: Service) -> None:
    def allowed(token: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)], request: Request) -> None:
        service.check(request.headers.get("authorization"))

    protected: dict[str, Any] = {"dependencies": [Depends(allowed)]}

    @app.post(
        "/v1/tag",
        **protected,
        response_model=schema.TagAnswer,
        responses={
            200: {"content": {"application/json": {"example": schema.ANSWER}}},
            **schema.problems(401, 408, 413, 422, 429, 503),
        },
        openapi_extra=schema.BODY,
    )
    async def tag(request: Request, query: Annotated[TagQuery, Query()]) -> Response:
        """What sounds in a recording: the same numbers as `psla tag --json`."""
        began = time.monotonic()
        with service.gate.let_in(request.client.host if request.client else "") as held:
            service.metrics.accepted.inc()
            response = await service.tag(request, query, held)
        service.metrics.seconds.observe(time.monotonic() - began)
        return response

    facts = {"models": [service.facts()]}

    @app.get("/v1/models", **protected, response_model=schema.Models, responses=schema.problems(401))
    async def models() -> JSONResponse:
        """The model that answers, its classes and what it takes."""
        return JSONResponse(facts)

    @app.get("/healthz", response_model=schema.Health, responses=schema.problems(503))
    async def healthz() -> JSONResponse:
        """Whether it answers: 503 once it has been told to stop."""
        if service.stopping.is_set():
            raise Refusal(503, "this service is about to stop", retry_after_s=5)
        return JSONResponse({"status": "ok"})

    text = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", **protected, response_class=Response, responses={**text, **schema.problems(401)})
    async def metrics() -> Response:
        """What was counted, in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=MEDIA_TYPE)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(PAGE / "index.html", media_type="text/html")

    @app.get("/page/{name}", include_in_schema=False)
    async def asset(name: str) -> FileResponse:
        if name not in ASSETS:
            raise HTTPException(404)
        return FileResponse(PAGE / name, media_type=ASSETS[name])


def _problem(status: int, sentence: str, headers: dict[str, str] | None = None, path: str | None = None) -> Response:
    about = {} if path is None else {"path": path}
    row = {**about, "status": "failed", "error": sentence}
    return Response(to_json(row), status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return _problem(error.status, error.sentence, headers, error.path)


async def _unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = [f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in error.errors()]
    return _problem(422, "; ".join(said[:5]))


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _gone(service: Service, request: Request, error: Exception) -> Response:
    service.metrics.left.inc()
    return Response(status_code=499)  # nobody reads it; the number is nginx's
