"""`psla tag`: what sounds in files, and when."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, Precision, guarded, number, progress, table

if TYPE_CHECKING:
    from psla.data.vocabulary import Vocabulary


class Combine(StrEnum):
    """How several windows become one clip."""

    mean = "mean"
    max = "max"


@guarded
def tag(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] FILES",
            help="A model file, an ensemble's file, or a name that `psla models` lists; without one, the model of ten "
            "classes that comes with psla. Then sound files of any length, folders, or patterns in quotes.",
        ),
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="How many classes to show: 5, or all that reach --threshold.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Leave out what is less probable.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option(help="Only this class, by name or id, and its kinds; may be given again.")
    ] = None,
    roll_up: Annotated[bool, typer.Option("--roll-up", help="Make a class at least as probable as its kinds.")] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Onsets and offsets; approximate: the model was trained on clip labels.")
    ] = False,
    release: Annotated[float, typer.Option(help="An event goes on above this share of its threshold.")] = 0.8,
    max_gap: Annotated[
        float | None,
        typer.Option(help="Events of a class with fewer seconds between them are one; by default: one step."),
    ] = None,
    min_length: Annotated[float, typer.Option(help="Leave out events of fewer seconds.")] = 0.0,
    hop: Annotated[float | None, typer.Option(help="Seconds between windows; by default a whole window.")] = None,
    combine: Annotated[Combine, typer.Option(help="How windows become one clip.")] = Combine.mean,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    audacity: Annotated[bool, typer.Option("--audacity", help="Print events as a label track for Audacity.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write to this file; with --audacity and several files, into this folder.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Keep the rows of finished files here; run again, they are not done again.")
    ] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Also write embeddings, to .safetensors or .npz.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that decode; by default one a core.")] = None,
    precision: Annotated[Precision, typer.Option(help="bf16: faster, probabilities within a few hundredths.")] = (
        Precision.float32
    ),
) -> None:
    """Say what sounds in files; exits with 1 if one of them could not be read."""
    if as_json + as_csv + audacity > 1:
        raise CommandError("--json, --csv and --audacity exclude each other: choose one")
    if embeddings is not None and journal is not None:
        raise CommandError("--journal skips finished files, --embeddings needs them all: choose one")
    from psla.audio.pool import decode_pool
    from psla.tagging.sources import expand_sources, split_model
    from psla.weights.packaged import DEFAULT

    named, files = split_model(words)
    model, paths = named or DEFAULT, expand_sources(files)
    if audacity and out is None and len(paths) > 1:
        raise CommandError(f"--audacity makes a label track for each of {len(paths)} files: give a folder with --out")
    with ExitStack() as stack:
        # The workers start while torch is imported and the model is loaded.
        pool = stack.enter_context(decode_pool(workers or min(len(paths), os.cpu_count() or 1)))
        from psla.files import Journal, sha256_of
        from psla.model.host_memory import keep_freed_memory
        from psla.tagging.events import NOTE, EventRule
        from psla.tagging.job import EmbeddingFile, TagJob
        from psla.tagging.output import RowSettings
        from psla.tagging.tagger import load
        from psla.weights.catalogue import resolve

        model_path = resolve(model, _told_bytes(model))
        keep_freed_memory()
        tagger = load(model_path, hop, combine.value, precision.value)
        if named is None:
            known = f"{model}, which knows {len(tagger.model.vocabulary)} classes"
            typer.echo(f"psla: tagging with {known}; for another, name it before the files: `psla models`", err=True)
        rule = EventRule(threshold, release, max_gap, min_length) if events or audacity else None
        settings = RowSettings(
            top=5 if top is None and threshold is None else top,
            threshold=threshold or 0.0,
            classes=_chosen(classes, tagger.model.vocabulary),
            roll_up=roll_up,
            events=rule,
        )
        kept = None if embeddings is None else EmbeddingFile(embeddings)
        job = TagJob(tagger, f"{sha256_of(model_path)} {precision.value}" if journal else "", settings, kept)
        if rule is not None:
            typer.echo(f"psla: {NOTE}", err=True)
        written = stack.enter_context(Journal(journal)) if journal else None
        rows = _Watched(job.rows(paths, pool, written), _report(stack, len(paths), out is not None))
        if audacity:
            _write_label_tracks(rows, paths, out)
        else:
            _write(_pieces(rows, as_json, as_csv, rule is not None), out)
        if kept is not None:
            kept.save()
    if rows.failed:
        raise typer.Exit(1)


def _told_bytes(name: str) -> Callable[[int, int | None], None]:
    """Says on stderr how far a download has come, a line for every 10 MB."""
    told = -1

    def tell(received: int, total: int | None) -> None:
        nonlocal told
        if received // 10_000_000 > told:
            told = received // 10_000_000
            of = "" if total is None else f" of {total / 1e6:.0f}"
            typer.echo(f"psla: fetching {name}: {received / 1e6:.0f}{of} MB", err=True)

    return tell


def _chosen(classes: Sequence[str] | None, vocabulary: Vocabulary) -> tuple[str, ...] | None:
    if not classes:
        return None
    from psla.data.ontology import Ontology
    from psla.tagging.classes import choose_classes

    return tuple(choose_classes(classes, vocabulary, Ontology.audioset()))


def _report(stack: ExitStack, count: int, quiet: bool) -> Callable[[str, int], None] | None:
    """Progress, but for a single file, and where the rows themselves appear on the terminal."""
    if count < 2 or not (quiet or not sys.stdout.isatty()):
        return None
    return stack.enter_context(progress({"tag": count}))


class _Watched:
    """Rows on their way out: what failed is said on stderr, and counted."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], report: Callable[[str, int], None] | None) -> None:
        self._rows, self._report, self.failed = rows, report, 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for row in self._rows:
            if "error" in row:
                self.failed += 1
                typer.echo(f"psla: {row['path']}: {' '.join(row['error'].split())}", err=True)
            yield row
            if self._report is not None:
                self._report("tag", 1)


def _pieces(rows: Iterable[Mapping[str, Any]], as_json: bool, as_csv: bool, events: bool) -> Iterator[str]:
    from psla.tagging.output import csv_lines, json_array

    if as_json:
        return json_array(rows)
    return csv_lines(rows, events) if as_csv else _tables(rows, events)


def _tables(rows: Iterable[Mapping[str, Any]], events: bool) -> Iterator[str]:
    from psla.tagging.output import heading

    head = ["event", "id", "onset s", "offset s", "probability"] if events else ["class", "id", "probability"]
    for row in rows:
        if "error" in row:  # has been said on stderr
            continue
        lines = []
        for found in row["events" if events else "classes"]:
            times = [f"{found['onset_s']:.2f}", f"{found['offset_s']:.2f}"] if events else []
            lines.append([found["name"], found["id"], *times, number(found["probability"])])
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


def _write_label_tracks(rows: Iterable[Mapping[str, Any]], paths: Sequence[str], out: Path | None) -> None:
    from psla.tagging.output import audacity_labels, label_file_names

    single = len(paths) == 1 and (out is None or not out.is_dir())
    for row, name in zip(rows, label_file_names(paths), strict=True):
        if "error" not in row:
            _write([audacity_labels(row)], out if single or out is None else out / name)
