"""The addresses of the service: `/v1/tag`, `/v1/models`, `/v1/stream`, `/healthz`, `/metrics`, and the page at `/`.

Every answer forbids the browser to load or to be framed by anything from elsewhere. What goes wrong is a sentence with
a status (`psla.serve.gate.Refusal`).
"""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from psla.serve import schema
from psla.serve.answers import TagQuery, to_json
from psla.serve.gate import Refusal
from psla.serve.limits import Limits
from psla.serve.service import Service, authorization
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
    app.add_exception_handler(Exception, partial(_failed, service))
    _add_tagging(app, service)
    _add_page(app)
    return app


def _add_tagging(app: FastAPI, service: Service) -> None:
    def allowed(token: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)], request: Request) -> None:
        service.check(authorization(request))

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

    @app.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        await service.hear(websocket)

    @app.get("/healthz", response_model=schema.Health, responses=schema.problems(503))
    async def healthz() -> JSONResponse:
        """Whether it answers: 503 once it has been told to stop."""
        if service.stopping.is_set():
            raise Refusal(503, "this service is about to stop", retry_after_s=5)
        return JSONResponse({"status": "ok"})

    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", **protected, response_class=Response, responses={**text, **schema.problems(401)})
    async def metrics() -> Response:
        """What was counted, in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


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


async def _failed(service: Service, request: Request, error: Exception) -> Response:
    """A fault of this package: its traceback goes to stderr, and not to the client."""
    service.metrics.answers.labels(getattr(request.scope.get("route"), "path", "other"), "500").inc()
    return _problem(500, "this service failed at this request: its log says where", HEADERS)


async def _gone(service: Service, request: Request, error: Exception) -> Response:
    service.metrics.left.inc()
    return Response(status_code=499)  # nobody reads it; the number is nginx's
