"""`psla tag`: what sounds in files, and when."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.addresses import stands_for
from psla.cli.console import CommandError, keeps, warnings_told
from psla.cli.engine import Engine, WithEngine, tagger_of
from psla.cli.options import Cluster, Combine, Decoders, Json, Precision, WithPrecision
from psla.cli.places import ADDRESSED, FETCHED, Reads, Writes, check_output
from psla.cli.progress import hearing, progress
from psla.cli.tag_rows import Row, rows_of, write_rows
from psla.cli.tag_view import picture_files, write_pictures
from psla.spread import cores

if TYPE_CHECKING:
    from psla.audio.pool import DecodePool
    from psla.data.annotations import Format
    from psla.data.vocabulary import Vocabulary
    from psla.model.file import Model
    from psla.tagging.events import EventRule
    from psla.tagging.output import RowSettings
    from psla.tagging.privacy import Withheld
    from psla.tagging.tagger import Tagger
    from psla.weights.choice import Choice

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] FILES",
        help="A model file, an ensemble's file, or a name that `psla models` lists; without one, as --model says. "
        "Then sound files of any length, folders, or patterns in quotes.",
    ),
    Reads(endless=True, addresses=True),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="The model, by default $PSLA_MODEL, else that of the user's config.yaml, else audioset-small."),
    ADDRESSED,
]
Top = Annotated[
    int | None,
    typer.Option(min=1, help="How many classes to show: 5, or all that reach --threshold or a calibrated model's own."),
]
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
FormatName = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Write the events as raven, audacity, textgrid, webvtt, jams, tsv (DCASE, sed_eval) or label-studio; "
        "with several files into a folder, but for tsv and label-studio.",
    ),
]
MaxGap = Annotated[
    float | None,
    typer.Option(help="Events of a class with fewer seconds between them are one; by default: one step."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Write to this file; into this folder with --audacity or --format and several files."),
    Writes("rows", folder=True),
]
JournalFile = Annotated[
    Path | None,
    typer.Option(help="Keep the rows of finished files here; run again, they are not done again."),
    Writes("journal"),
]
ClassRules = Annotated[
    Path | None,
    typer.Option(help="YAML: for a class what its events differ in, as in 'Gunshot, gunfire: {median_steps: 1}'."),
    FETCHED,
]
Window = Annotated[
    float | None,
    typer.Option(help="Seconds of a window, if shorter than the model's own; less well heard."),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Also draw log-mel, classes and events: a .png, .svg or .pdf; a folder for several."),
    Writes("picture", folder=True),
]
Html = Annotated[
    Path | None, typer.Option(help="Also write a page that shows and plays the files, 20 at most."), Writes("page")
]
Embeddings = Annotated[
    Path | None, typer.Option(help="Also write embeddings, to .safetensors or .npz."), Writes("embeddings")
]


def _finished_files(given: Mapping[str, Any]) -> str:
    journal = given["journal"]
    if journal is None or not journal.is_file() or not (rows := journal.read_bytes().count(b"\n")):
        return "" if journal else "no result was written: with --journal FILE, what is finished is kept"
    return f"{rows} finished files are kept in {journal}: run the same command again"


@keeps(_finished_files)
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
    median: Annotated[int, typer.Option(help="First take the median of so many steps, an odd number.")] = 1,
    class_rules: ClassRules = None,
    window: Window = None,
    hop: Annotated[float | None, typer.Option(help="Seconds between windows; by default a whole window.")] = None,
    combine: Annotated[Combine, typer.Option(help="How windows become one clip.")] = Combine.mean,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    audacity: Annotated[bool, typer.Option("--audacity", help="Print events as a label track for Audacity.")] = False,
    format: FormatName = None,
    out: Out = None,
    journal: JournalFile = None,
    plot: Plot = None,
    html: Html = None,
    embeddings: Embeddings = None,
    workers: Decoders = None,
    cluster: Cluster = None,
    precision: WithPrecision = Precision.float32,
    engine: WithEngine = Engine.auto,
    quiet: Quiet = False,
) -> None:
    """Say what sounds in files; exits with 1 if one of them could not be read."""
    _check(as_json + as_csv + audacity + (format is not None), embeddings, journal, cluster, engine, plot, html)
    choice, paths = _choice(model, words)
    written_as = _format("audacity" if audacity else format, events or audacity, out, len(paths))
    plots = picture_files(plot, html, paths, journal is not None)
    _check_rule(bool(events or audacity or plot or html), release, max_gap, min_length, median, class_rules)
    _check_targets(paths, choice.model, written_as, out, plots)
    with ExitStack() as stack:
        pool = stack.enter_context(_pool(1 if cluster else workers or min(len(paths), cores())))
        from psla.tagging.job import EmbeddingFile, TagJob
        from psla.tagging.output import RowSettings, levels_of
        from psla.tagging.view import Views

        model_path, tagger = tagger_of(choice, hop, combine, precision, window, None if cluster else engine)
        own = ruled((threshold or None, release, max_gap, min_length, median), class_rules, tagger)
        rule = replace(own, threshold=threshold) if events or audacity else None
        shown = levels_of(top, threshold, bool(tagger.calibration))
        fewer = not (as_json or as_csv) if deepest is None else deepest
        chosen, withheld = asked(classes, exclude, drop_speech, speech_threshold, tagger.model.vocabulary)
        settings = RowSettings(*shown, chosen, roll_up, rule, fewer, unfamiliar=top is not None)
        kept = EmbeddingFile(embeddings) if embeddings else None
        views = Views(tagger, settings, own) if plot or html else None
        model_hash = _hash(model_path, precision) if journal or cluster else ""
        _introduce(choice, model_path, tagger.model, settings, quiet)
        silent = len(paths) < 2 or (out is None and sys.stdout.isatty())  # no bar: how far each is, is said
        job = TagJob(tagger, model_hash, settings, kept, withheld, views, stack.enter_context(hearing(silent)))
        of = choice.model, hop, precision.value, window, workers or 1
        coming = stack.enter_context(rows_of(job, pool, paths, journal, cluster, of))
        rows = _watched(coming, failed := list[Row](), len(paths), silent)
        write_rows(rows, paths, out, f"psla, {choice.model}", written_as, (as_json, as_csv, rule is not None))
        if kept is not None:
            kept.save()
        drawn_all = views is None or write_pictures(views, pool, plots, html)
    if failed or not drawn_all:
        raise typer.Exit(1)


def _pool(workers: int) -> DecodePool:
    """To be opened first: its workers start while torch is imported and the model is loaded."""
    from psla.audio.pool import decode_pool

    return decode_pool(workers)


def _hash(model: Path, precision: Precision) -> str:
    from psla.files import sha256_of

    return f"{sha256_of(model)} {precision.value}"


def _check(
    formats: int,
    embeddings: Path | None,
    journal: Path | None,
    cluster: str | None,
    engine: Engine,
    *pictures: Path | None,
) -> None:
    if formats > 1:
        raise CommandError("--json, --csv, --audacity and --format exclude each other: choose one")
    if embeddings is not None and journal is not None:
        raise CommandError("--journal skips finished files, --embeddings needs them all: choose one")
    if cluster is not None and any(path is not None for path in (embeddings, *pictures)):
        raise CommandError("--embeddings, --plot and --html gather what one machine has heard: leave --cluster out")
    if cluster is not None and engine is Engine.onnxruntime:
        raise CommandError("--engine keeps a graph on this machine alone: name the .onnx of `psla export` as the model")


def _check_rule(
    used: bool, release: float, max_gap: float | None, min_length: float, median: int, rules: Path | None
) -> None:
    """Refuse options that would change nothing, which whoever gives them does not mean."""
    given = {"--release": release != 0.8, "--max-gap": max_gap is not None, "--min-length": min_length != 0}
    given |= {"--median": median != 1, "--class-rules": rules is not None}
    if not used and (unused := [name for name, here in given.items() if here]):
        raise CommandError(f"{', '.join(unused)} says how events are made: ask for them with --events")


def _check_targets(
    paths: Sequence[str], model: str, written_as: Format | None, out: Path | None, plots: Mapping[str, Path]
) -> None:
    """Refuse files that would be written into folders, and over something."""
    from psla.tagging.output import label_file_names

    read = [("FILES", path) for path in paths] + [("MODEL", model)] * os.path.exists(model)
    for path in plots.values():
        check_output("--plot", path, Writes("picture"), read)
    if out is not None and written_as is not None and not written_as.many and (len(paths) > 1 or out.is_dir()):
        if address := stands_for(out):
            raise CommandError(
                f"--out {address}: a folder of {len(paths)} files is written: give one here, and copy it there"
            )
        for name in label_file_names(paths, written_as.suffix):
            check_output("--out", out / name, Writes("rows"), read)


def _format(name: str | None, events: bool, out: Path | None, files: int) -> Format | None:
    """The format of the annotations, if any; what it cannot write there is refused."""
    from psla.data.annotations import FORMATS

    if name is not None and not events:
        raise CommandError(f"--format {name} writes events: ask for them with --events")
    if name is not None and not FORMATS[name].many and out is None and files > 1:
        raise CommandError(f"{name} makes annotations for each of {files} files: give a folder with --out")
    if out is not None and out.is_dir() and (name is None or FORMATS[name].many):
        raise CommandError(f"{out} is a folder; give --out the name of a file, such as {out / 'tags.json'}")
    return None if name is None else FORMATS[name]


def _choice(model: str | None, words: Sequence[str]) -> tuple[Choice, list[str]]:
    """The model, and the files that are meant."""
    from psla.tagging.sources import expand_sources, split_model
    from psla.weights.choice import choose

    named, sources = split_model(words)
    if model is not None and named is not None:
        raise CommandError(f"two models are named, {model} and {named}: choose one")
    with warnings_told():
        return choose(model or named), expand_sources(sources)


def ruled(settings: Sequence[Any], file: Path | None, tagger: Tagger) -> EventRule:
    """The rule of these settings, in the order of `EventRule`; with those of single classes, where a file has some."""
    from psla.tagging.events import EventRule, class_rules

    rule = EventRule(*settings)
    return rule if file is None else class_rules(file, rule, tagger.model.vocabulary)


def asked(
    classes: list[str] | None, exclude: list[str] | None, drop: bool, level: float | None, vocabulary: Vocabulary
) -> tuple[tuple[str, ...] | None, Withheld]:
    """Ids of the classes that are looked at (None: all), and what is taken out before."""
    from psla.tagging.privacy import SPEECH_THRESHOLD, Withheld, speech_classes
    from psla.tagging.result import choose_classes

    if drop or level is not None:
        speech_classes(vocabulary)  # refuses a model that knows none, before anything is tagged
        level = SPEECH_THRESHOLD if level is None else level
    gone = tuple(choose_classes(exclude or (), vocabulary))
    chosen = choose_classes(classes or (), vocabulary)
    return tuple(id for id in chosen if id not in gone) if classes else None, Withheld(gone, level)


def _introduce(choice: Choice, path: Path, model: Model, settings: RowSettings, quiet: bool) -> None:
    """Which model speaks, by which engine if not PyTorch, the threshold in force; where no better model is here, how to
    have one."""
    from psla.tagging.events import NOTE, THRESHOLD
    from psla.weights.catalogue import known_names, named
    from psla.weights.packaged import DEFAULT

    known = choice.model in known_names() and not Path(choice.model).is_file()
    name, rule = named(choice.model).name if known else choice.model, settings.events
    none_better = name == DEFAULT == named("audioset").name
    better = "; a better one: psla models --fetch mn10_as, then --model audioset" if none_better else ""
    level = f"threshold {settings.threshold:g}" if settings.threshold else "no threshold"
    if settings.threshold is None:
        level = f"thresholds the model's own, for {model.card.calibration['goal']}"
    if rule is not None and rule.threshold is None:
        own = "the model's own, else " if model.card.thresholds else ""
        level = f"threshold of events {own}{THRESHOLD:g}"
    if not quiet:
        by = f" (by {choice.of})" if choice.of else ""
        run_by = " by ONNX Runtime" if path.suffix == ".onnx" else ""
        typer.echo(f"psla: {name}{by}{run_by}: {len(model.vocabulary)} classes{better}; {level}", err=True)
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
