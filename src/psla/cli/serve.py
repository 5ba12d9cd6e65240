"""`psla serve`: the Tagger over HTTP and a WebSocket, and a page to look at what it hears."""

from __future__ import annotations

from typing import Annotated

import typer

from psla.cli.engine import tagger_of
from psla.cli.options import Combine, Decoders, Precision, WithPrecision
from psla.cli.places import ADDRESSED
from psla.spread import cores


def serve(
    model: Annotated[
        str | None,
        typer.Argument(help="A model file or a name; by default that of `psla tag`.", show_default=False),
        ADDRESSED,
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0: for all who can reach it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
    token: Annotated[
        str | None, typer.Option(envvar="PSLA_TOKEN", help="What clients must send: Authorization: Bearer TOKEN.")
    ] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds between windows; by default a whole window.")] = None,
    combine: Annotated[Combine, typer.Option(help="How windows become one clip.")] = Combine.mean,
    precision: WithPrecision = Precision.float32,
    workers: Decoders = None,
    max_seconds: Annotated[float, typer.Option(help="Of one recording.")] = 600.0,
    max_mb: Annotated[float, typer.Option(help="Of one request's body.")] = 64.0,
    at_work: Annotated[int, typer.Option(min=1, help="Requests that are decoded and tagged at one time.")] = 16,
    queue: Annotated[int, typer.Option(min=1, help="Requests in flight in all; beyond: 503.")] = 128,
    per_client: Annotated[int, typer.Option(min=1, help="Of them, of one address; beyond: 429.")] = 64,
    streams: Annotated[int, typer.Option(min=1, help="WebSockets at one time.")] = 8,
    drain: Annotated[float, typer.Option(help="Seconds for requests in flight when told to stop.")] = 60.0,
) -> None:
    """Answer over HTTP what sounds in recordings, with a page at /; until Ctrl-C or SIGTERM."""
    from psla.extras import needed

    for module in ("fastapi", "uvicorn", "python_multipart", "websockets", "prometheus_client"):
        needed(module, "serve")
    from psla.serve.app import create_app
    from psla.serve.limits import Limits
    from psla.serve.server import Server, listen
    from psla.weights.choice import choose

    limits = Limits(
        body_bytes=round(max_mb * (1 << 20)),
        held_bytes=max(Limits.held_bytes, round(max_mb * (1 << 20))),
        duration_s=max_seconds,
        per_client=per_client,
        in_flight=queue,
        at_work=at_work,
        streams=streams,
        workers=workers or cores(),
        drain_s=drain,
    )
    with listen(host, port) as socket:
        chosen = choose(model)
        _, tagger = tagger_of(chosen, hop, combine, precision)
        app = create_app(tagger, chosen.model, limits, token or None)
        at, there = socket.getsockname()[:2]
        shown = f"[{at}]" if ":" in at else at
        asks = "" if token else "" if at in ("127.0.0.1", "::1") else "; anyone who can reach it may ask: see --token"
        words = f"psla: {chosen.model} at http://{shown}:{there}/{asks}"
        Server(app, socket, lambda: typer.echo(words, err=True)).answer()
    typer.echo("psla: every request that was accepted has been answered", err=True)
