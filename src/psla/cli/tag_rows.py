"""What `psla tag` writes: tables, JSON, CSV and annotations, row by row, to the terminal, a file or a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from psla.cli.console import says_all, spread_over, table
from psla.cli.tag_view import screens
from psla.files import Journal

if TYPE_CHECKING:
    from psla.audio.pool import DecodePool
    from psla.data.annotations import Format
    from psla.tagging.job import TagJob

Row = Mapping[str, Any]
How = tuple[bool, bool, bool]  # JSON, CSV, events


def _pieces(rows: Iterable[Row], as_json: bool, as_csv: bool, events: bool, out: Path | None) -> Iterator[str]:
    from psla.tagging.output import csv_lines, json_array

    if as_json:
        return json_array(rows, ascii_only=out is None and not says_all())
    if as_csv:
        return csv_lines(rows, events)
    return screens(rows, events) if out is None and sys.stdout.isatty() else _tables(rows, events)


def _tables(rows: Iterable[Row], events: bool) -> Iterator[str]:
    from psla.tagging.output import heading

    head = ["event", "id", "onset s", "offset s", "probability"] if events else ["class", "id", "probability"]
    for row in rows:
        if "error" in row:  # has been said on stderr
            continue
        lines = []
        for found in row["events" if events else "classes"]:
            times = [f"{found['onset_s']:.2f}", f"{found['offset_s']:.2f}"] if events else []
            lines.append([found["name"], found["id"], *times, found["probability"]])
        yield f"{heading(row)}\n{table(head, lines) if lines else f'no {head[0]}'}\n\n"


def _write(pieces: Iterable[str], out: Path | None) -> None:
    if out is None:
        for piece in pieces:
            # A file name may hold bytes that are no text.
            typer.echo(piece.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), nl=False)
        return
    from psla.files import atomic_write

    with (
        atomic_write(out) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        file.writelines(pieces)


def write_rows(
    rows: Iterable[Row], paths: Sequence[str], out: Path | None, maker: str, written_as: Format | None, how: How
) -> None:
    """Rows into a file, a folder or to stdout, as they come."""
    from psla.tagging.output import annotated, label_file_names

    if written_as is None:
        _write(_pieces(rows, *how, out), out)
        return
    if written_as.many:
        _write([written_as.write([annotated(row) for row in rows if "error" not in row], maker)], out)
        return
    single = len(paths) == 1 and (out is None or not out.is_dir())
    for row, name in zip(rows, label_file_names(paths, written_as.suffix), strict=True):
        if "error" not in row:
            text = written_as.write([annotated(row)], maker)
            _write([text], out if single or out is None else out / name)


@contextmanager
def rows_of(
    job: TagJob, pool: DecodePool, paths: Sequence[str], journal: Path | None, cluster: str | None, of: tuple
) -> Iterator[Iterator[dict[str, Any]]]:
    """The rows; `of`: model, hop, precision, window and workers, which another machine needs to know."""
    with Journal(journal) if journal else nullcontext() as written:
        if cluster is None:
            yield job.rows(paths, pool, written)
            return
        from psla.tagging.job import TagTask, tag_apart

        with spread_over(cluster) as spread:
            assert spread is not None
            yield tag_apart(job, TagTask.of(job, *of), paths, spread, written)
