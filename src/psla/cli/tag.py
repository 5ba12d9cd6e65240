"""`psla tag`: what sounds in files, and when."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, fetching, progress, table
from psla.cli.options import Json, Precision, WithPrecision

if TYPE_CHECKING:
    from psla.data.vocabulary import Vocabulary

Row = Mapping[str, Any]


class Combine(StrEnum):
    """How several windows become one clip."""

    mean = "mean"
    max = "max"


Words = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] FILES",
        help="A model file, an ensemble's file, or a name that `psla models` lists; without one, the model of ten "
        "classes that comes with psla. Then sound files of any length, folders, or patterns in quotes.",
    ),
]
Top = Annotated[int | None, typer.Option(min=1, help="How many classes to show: 5, or all that reach --threshold.")]
Classes = Annotated[
    list[str] | None, typer.Option(help="Only this class, by name or id, and its kinds; may be given again.")
]
Events = Annotated[
    bool, typer.Option("--events", help="Onsets and offsets; approximate: the model was trained on clip labels.")
]
MaxGap = Annotated[
    float | None,
    typer.Option(help="Events of a class with fewer seconds between them are one; by default: one step."),
]
Out = Annotated[
    Path | None, typer.Option(help="Write to this file; with --audacity and several files, into this folder.")
]
JournalFile = Annotated[
    Path | None, typer.Option(help="Keep the rows of finished files here; run again, they are not done again.")
]


def tag(
    words: Words,
    top: Top = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Leave out what is less probable.")] = None,
    classes: Classes = None,
    roll_up: Annotated[bool, typer.Option("--roll-up", help="Make a class at least as probable as its kinds.")] = False,
    events: Events = False,
    release: Annotated[float, typer.Option(help="An event goes on above this share of its threshold.")] = 0.8,
    max_gap: MaxGap = None,
    min_length: Annotated[float, typer.Option(help="Leave out events of fewer seconds.")] = 0.0,
    hop: Annotated[float | None, typer.Option(help="Seconds between windows; by default a whole window.")] = None,
    combine: Annotated[Combine, typer.Option(help="How windows become one clip.")] = Combine.mean,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    audacity: Annotated[bool, typer.Option("--audacity", help="Print events as a label track for Audacity.")] = False,
    out: Out = None,
    journal: JournalFile = None,
    embeddings: Annotated[Path | None, typer.Option(help="Also write embeddings, to .safetensors or .npz.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that decode; by default one a core.")] = None,
    precision: WithPrecision = Precision.float32,
) -> None:
    """Say what sounds in files; exits with 1 if one of them could not be read."""
    _check(as_json + as_csv + audacity, embeddings, journal)
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

        with fetching(model) as told:
            model_path = resolve(model, told)
        keep_freed_memory()
        tagger = load(model_path, hop, combine.value, precision.value)
        if named is None:
            known = f"{model}, which knows {len(tagger.model.vocabulary)} classes"
            typer.echo(f"psla: tagging with {known}; for another, name it before the files: `psla models`", err=True)
        rule = EventRule(threshold, release, max_gap, min_length) if events or audacity else None
        shown = 5 if top is None and threshold is None else top
        chosen = _chosen(classes, tagger.model.vocabulary)
        settings = RowSettings(shown, threshold or 0.0, chosen, roll_up, rule)
        kept = None if embeddings is None else EmbeddingFile(embeddings)
        job = TagJob(tagger, f"{sha256_of(model_path)} {precision.value}" if journal else "", settings, kept)
        if rule is not None:
            typer.echo(f"psla: {NOTE}", err=True)
        written = stack.enter_context(Journal(journal)) if journal else None
        # No bar for a single file, nor where the rows themselves appear on the terminal.
        silent = len(paths) < 2 or (out is None and sys.stdout.isatty())
        failed: list[Row] = []
        rows = _watched(job.rows(paths, pool, written), failed, len(paths), silent)
        if audacity:
            _write_label_tracks(rows, paths, out)
        else:
            _write(_pieces(rows, as_json, as_csv, rule is not None), out)
        if kept is not None:
            kept.save()
    if failed:
        raise typer.Exit(1)


def _check(formats: int, embeddings: Path | None, journal: Path | None) -> None:
    if formats > 1:
        raise CommandError("--json, --csv and --audacity exclude each other: choose one")
    if embeddings is not None and journal is not None:
        raise CommandError("--journal skips finished files, --embeddings needs them all: choose one")


def _chosen(classes: Sequence[str] | None, vocabulary: Vocabulary) -> tuple[str, ...] | None:
    if not classes:
        return None
    from psla.data.ontology import Ontology
    from psla.tagging.result import choose_classes

    return tuple(choose_classes(classes, vocabulary, Ontology.audioset()))


def _watched(rows: Iterable[Row], failed: list[Row], count: int, silent: bool) -> Iterator[Row]:
    """Rows on their way out, of so many files: those that failed are said on stderr, and kept."""
    with progress({"tag": count}, silent=silent) as report:
        for row in rows:
            if "error" in row:
                failed.append(row)
                typer.echo(f"psla: {row['path']}: {' '.join(row['error'].split())}", err=True)
            yield row
            report("tag", 1)


def _pieces(rows: Iterable[Row], as_json: bool, as_csv: bool, events: bool) -> Iterator[str]:
    from psla.tagging.output import csv_lines, json_array

    if as_json:
        return json_array(rows)
    return csv_lines(rows, events) if as_csv else _tables(rows, events)


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


def _write_label_tracks(rows: Iterable[Row], paths: Sequence[str], out: Path | None) -> None:
    from psla.tagging.output import audacity_labels, label_file_names

    single = len(paths) == 1 and (out is None or not out.is_dir())
    for row, name in zip(rows, label_file_names(paths), strict=True):
        if "error" not in row:
            _write([audacity_labels(row)], out if single or out is None else out / name)
