"""`psla tag`: what sounds in files, and when."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, fetching, progress, spread_over, table
from psla.cli.options import Cluster, Json, Precision, WithPrecision
from psla.cli.tag_view import picture_files, screens, views_of, write_pictures

if TYPE_CHECKING:
    from psla.audio.pool import DecodePool
    from psla.data.vocabulary import Vocabulary
    from psla.files import Journal
    from psla.model.file import Model
    from psla.tagging.job import TagJob
    from psla.tagging.output import RowSettings
    from psla.tagging.privacy import Withheld
    from psla.tagging.tagger import Tagger
    from psla.weights.choice import Choice

Row = Mapping[str, Any]


class Combine(StrEnum):
    """How several windows become one clip."""

    mean = "mean"
    max = "max"


Words = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] FILES",
        help="A model file, an ensemble's file, or a name that `psla models` lists; without one, as --model says. "
        "Then sound files of any length, folders, or patterns in quotes.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="The model, by default $PSLA_MODEL, else that of the user's config.yaml, else audioset-small."),
]
Top = Annotated[int | None, typer.Option(min=1, help="How many classes to show: 5, or all that reach --threshold.")]
Classes = Annotated[
    list[str] | None, typer.Option(help="Only this class, by name or id, and its kinds; may be given again.")
]
Exclude = Annotated[list[str] | None, typer.Option(help="Tell nothing of this class and its kinds; as --classes.")]
Deepest = Annotated[
    bool | None,
    typer.Option("--deepest/--all-levels", help="No class if a kind of it at least half as probable is shown; tables."),
]
DropSpeech = Annotated[bool, typer.Option("--drop-speech", help="Write nothing of moments with a human voice.")]
SpeechThreshold = Annotated[float | None, typer.Option(help="Drop moments with a voice so probable; default 0.3.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not say which model speaks, and from which threshold on.")]
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
Plot = Annotated[
    Path | None, typer.Option(help="Also draw log-mel, classes and events: a .png, .svg or .pdf; a folder for several.")
]
Html = Annotated[Path | None, typer.Option(help="Also write a page that shows and plays the files, 20 at most.")]


def tag(
    words: Words,
    model: ModelOption = None,
    top: Top = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Leave out what is less probable.")] = None,
    classes: Classes = None,
    exclude: Exclude = None,
    deepest: Deepest = None,
    drop_speech: DropSpeech = False,
    speech_threshold: SpeechThreshold = None,
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
    plot: Plot = None,
    html: Html = None,
    embeddings: Annotated[Path | None, typer.Option(help="Also write embeddings, to .safetensors or .npz.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that decode; by default one a core.")] = None,
    cluster: Cluster = None,
    precision: WithPrecision = Precision.float32,
    quiet: Quiet = False,
) -> None:
    """Say what sounds in files; exits with 1 if one of them could not be read."""
    _check(as_json + as_csv + audacity, embeddings, journal, cluster, plot, html)
    from psla.audio.pool import decode_pool

    choice, paths = _choice(model, words)
    _check_tracks(audacity and out is None, len(paths))
    plots = picture_files(plot, html, paths, journal is not None)
    with ExitStack() as stack:
        # The workers start while torch is imported and the model is loaded.
        pool = stack.enter_context(decode_pool(1 if cluster else workers or min(len(paths), os.cpu_count() or 1)))
        from psla.files import Journal, sha256_of
        from psla.tagging.events import EventRule
        from psla.tagging.job import EmbeddingFile, TagJob
        from psla.tagging.output import RowSettings

        model_path, tagger = _tagger(choice, hop, combine, precision)
        rule = EventRule(threshold, release, max_gap, min_length) if events or audacity else None
        shown = 5 if top is None and threshold is None else top
        chosen, withheld = _asked(classes, exclude, drop_speech, speech_threshold, tagger.model.vocabulary)
        fewer = not (as_json or as_csv) if deepest is None else deepest
        settings = RowSettings(shown, threshold or 0.0, chosen, roll_up, rule, fewer)
        kept = None if embeddings is None else EmbeddingFile(embeddings)
        views = views_of(tagger, settings, threshold, release, max_gap, min_length) if plot or html else None
        model_hash = f"{sha256_of(model_path)} {precision.value}" if journal or cluster else ""
        job = TagJob(tagger, model_hash, settings, kept, withheld, views)
        _introduce(choice, tagger.model, settings, quiet)
        written = stack.enter_context(Journal(journal)) if journal else None
        silent = len(paths) < 2 or (out is None and sys.stdout.isatty())  # where the rows appear, no bar does
        failed: list[Row] = []
        of = choice.model, hop, precision.value, workers or 1
        rows = _watched(stack.enter_context(_rows(job, pool, paths, written, cluster, of)), failed, len(paths), silent)
        if audacity:
            _write_label_tracks(rows, paths, out)
        else:
            _write(_pieces(rows, as_json, as_csv, rule is not None, out is None and sys.stdout.isatty()), out)
        if kept is not None:
            kept.save()
        drawn_all = views is None or write_pictures(views, pool, plots, html)
    if failed or not drawn_all:
        raise typer.Exit(1)


def _check(
    formats: int, embeddings: Path | None, journal: Path | None, cluster: str | None, *pictures: Path | None
) -> None:
    if formats > 1:
        raise CommandError("--json, --csv and --audacity exclude each other: choose one")
    if embeddings is not None and journal is not None:
        raise CommandError("--journal skips finished files, --embeddings needs them all: choose one")
    if cluster is not None and any(path is not None for path in (embeddings, *pictures)):
        raise CommandError("--embeddings, --plot and --html gather what one machine has heard: leave --cluster out")


@contextmanager
def _rows(
    job: TagJob, pool: DecodePool, paths: Sequence[str], journal: Journal | None, cluster: str | None, of: tuple
) -> Iterator[Iterator[dict[str, Any]]]:
    """The rows; `of`: model, hop, precision and workers, which another machine needs to know."""
    if cluster is None:
        yield job.rows(paths, pool, journal)
        return
    from psla.tagging.apart import TagTask, tag_apart

    with spread_over(cluster) as spread:
        assert spread is not None
        yield tag_apart(job, TagTask.of(job, *of), paths, spread, journal)


def _check_tracks(printed: bool, files: int) -> None:
    if printed and files > 1:
        raise CommandError(f"--audacity makes a label track for each of {files} files: give a folder with --out")


def _choice(model: str | None, words: Sequence[str]) -> tuple[Choice, list[str]]:
    """The model, and the files that are meant."""
    from psla.tagging.sources import expand_sources, split_model
    from psla.weights.choice import choose

    named, sources = split_model(words)
    if model is not None and named is not None:
        raise CommandError(f"two models are named, {model} and {named}: choose one")
    return choose(model or named), expand_sources(sources)


def _tagger(choice: Choice, hop: float | None, combine: Combine, precision: Precision) -> tuple[Path, Tagger]:
    """The model's file, fetched if need be, and its tagger."""
    from psla.model.host_memory import keep_freed_memory
    from psla.tagging.tagger import load
    from psla.weights.catalogue import resolve

    with fetching(choice.model) as told:
        path = resolve(choice.model, told)
    keep_freed_memory()
    return path, load(path, hop, combine.value, precision.value)


def _asked(
    classes: list[str] | None, exclude: list[str] | None, drop: bool, level: float | None, vocabulary: Vocabulary
) -> tuple[tuple[str, ...] | None, Withheld]:
    """Ids of the classes that are looked at (None: all), and what is taken out before."""
    from psla.data.ontology import Ontology
    from psla.tagging.privacy import SPEECH_THRESHOLD, Withheld, speech_classes
    from psla.tagging.result import choose_classes

    if drop or level is not None:
        speech_classes(vocabulary)  # refuses a model that knows none, before anything is tagged
        level = SPEECH_THRESHOLD if level is None else level
    gone = tuple(choose_classes(exclude or (), vocabulary, Ontology.audioset()))
    chosen = choose_classes(classes or (), vocabulary, Ontology.audioset())
    return tuple(id for id in chosen if id not in gone) if classes else None, Withheld(gone, level)


def _introduce(choice: Choice, model: Model, settings: RowSettings, quiet: bool) -> None:
    """Which model speaks, how to have a better one than the packaged where none is here, the threshold in force."""
    from psla.tagging.events import NOTE, THRESHOLD
    from psla.weights.catalogue import known_names, named
    from psla.weights.packaged import DEFAULT

    known = choice.model in known_names() and not Path(choice.model).is_file()
    name, rule = named(choice.model).name if known else choice.model, settings.events
    none_better = name == DEFAULT == named("audioset").name
    better = "; a better one: psla models --fetch mn10_as, then --model audioset" if none_better else ""
    level = f"threshold {settings.threshold:g}" if settings.threshold else "no threshold"
    if rule is not None and rule.threshold is None:
        own = "the model's own, else " if model.card.thresholds else ""
        level = f"threshold of events {own}{THRESHOLD:g}"
    if not quiet:
        by = f" (by {choice.of})" if choice.of else ""
        typer.echo(f"psla: {name}{by}: {len(model.vocabulary)} classes{better}; {level}", err=True)
    if rule is not None:
        typer.echo(f"psla: {NOTE}", err=True)


def _watched(rows: Iterable[Row], failed: list[Row], count: int, silent: bool) -> Iterator[Row]:
    """Rows on their way out, of so many files: those that failed are said on stderr, and kept."""
    with progress({"tag": count}, silent=silent) as report:
        for row in rows:
            if "error" in row:
                failed.append(row)
                typer.echo(f"psla: {row['path']}: {' '.join(row['error'].split())}", err=True)
            yield row
            report("tag", 1)


def _pieces(rows: Iterable[Row], as_json: bool, as_csv: bool, events: bool, screen: bool) -> Iterator[str]:
    from psla.tagging.output import csv_lines, json_array

    if as_json:
        return json_array(rows)
    if as_csv:
        return csv_lines(rows, events)
    return screens(rows, events) if screen else _tables(rows, events)


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
