"""`psla find`: what sounds alike in recordings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, answer, table
from psla.cli.options import Decoders, HeardCache, Json
from psla.cli.places import ADDRESSED, FETCHED, Writes
from psla.cli.progress import stages
from psla.spread import cores

if TYPE_CHECKING:
    from psla.training.similar import Place

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] RECORDINGS",
        help="A model whose features are compared, by default that of `psla tag`; then sound files, folders, or "
        "patterns in quotes.",
    ),
    ADDRESSED,
]


def find(
    words: Words,
    like: Annotated[Path | None, typer.Option(help="The sound to look for."), FETCHED] = None,
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="Pairs of windows that are nearly the same.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="How many matches to show.")] = 20,
    near: Annotated[float, typer.Option(min=0, max=1, help="Of near-duplicates: the least similarity.")] = 0.99,
    cache: HeardCache = None,
    workers: Decoders = None,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Write the matches to this CSV file."), Writes("matches")] = None,
) -> None:
    """Find what sounds like a sound, or what is nearly the same, in recordings; up to a million windows."""
    if (like is None) != near_duplicates:
        raise CommandError("give --like SOUND, or --near-duplicates, one of the two")
    from psla.tagging.sources import expand_sources, split_model
    from psla.training.similar import find as run_find

    named, sources = split_model(words)
    with stages() as told:
        count = workers or cores()
        paths = expand_sources(sources)
        found = run_find(named, paths, like, top=top, near=near, cache=cache, workers=count, told=told)
    for path, reason in list(found.rejected.items())[:3]:
        typer.echo(f"psla: left out: {reason if path in reason else f'{path}: {reason}'}", err=True)
    rows = [[_where(m.place), *([_where(m.other)] if m.other else []), m.similarity] for m in found.matches]
    head = ["window", *(["window"] if near_duplicates else []), "similarity"]
    data = {"windows": found.windows, "matches": [asdict(match) for match in found.matches]}
    if out is not None:
        _write(out, head, rows)
    answer(as_json, data, table(head, rows) if rows else "no match", f"{found.windows} windows were searched")


def _where(place: Place) -> str:
    from psla.report.view import clock

    if place.start_s is None or place.end_s is None:
        return place.path
    return f"{place.path} {clock(place.start_s, 2)}-{clock(place.end_s, 2)}"


def _write(out: Path, head: list[str], rows: list[list[Any]]) -> None:
    import csv
    import io

    from psla.files import write_text_atomic

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *rows])
    write_text_atomic(out, text.getvalue())
