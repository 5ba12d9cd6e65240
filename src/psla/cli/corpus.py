"""`psla corpus`: from a corpus on the disk, a synthesised one, or several, to a table of clips and an inventory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, answer, keeps, tell, warnings_told
from psla.cli.places import ADDRESSED, FETCHED, READ, Updates, Writes
from psla.cli.progress import scanning
from psla.files import shortened

if TYPE_CHECKING:
    from psla.data.clips import Clips
    from psla.data.inventory import Inventory

INVENTORY = ("inventory.txt", "inventory.json", "inventory.html", "missing.txt")
Out = Annotated[Path, typer.Option(help="The Parquet file to write."), Writes("clips")]
Validation = Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of train held out as validation.")]
Evaluation = Annotated[float, typer.Option(min=0.0, max=0.99, help="Share held out where no split is given.")]
SCANNED = Writes("clips", beside=((".headers.parquet", "headers"),))
VocabularyName = Annotated[str | None, typer.Option(help="'audioset', or a text file with a class a line."), FETCHED]
Seed = Annotated[int, typer.Option(min=0, help="Chooses what is held out.")]
InventoryFolder = Annotated[
    Path | None,
    typer.Option("--inventory", help="A folder for the inventory: text, JSON and a page with a picture."),
    Writes(folder=True, names=INVENTORY, marker=("inventory.txt", "inventory")),
]
Decode = Annotated[bool, typer.Option("--decode", help="Decode every file, and not only its header (slow).")]
Json = Annotated[bool, typer.Option("--json", help="Print the inventory as JSON.")]

_WORST = 10  # classes that the inventory names on the terminal
_CLASSES = 12  # classes whose clips are counted on the terminal


def _scanned(given: Mapping[str, Any]) -> str:
    headers = given["out"].with_suffix(".headers.parquet")
    return (
        f"what was learnt of sound files is kept in {headers}: run the same command again" if headers.is_file() else ""
    )


@keeps(_scanned)
def audioset(
    lists: Annotated[
        Path, typer.Argument(metavar="LISTS", help="The folder with the segment lists, plain or .gz."), Updates()
    ],
    audio: Annotated[
        list[Path] | None, typer.Option(help="A folder with sound files, at any depth; may be given again."), READ
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--list", help="balanced, unbalanced or evaluation; all three by default.")
    ] = None,
    class_list: Annotated[Path | None, typer.Option(help="Else the one in LISTS, else psla's own."), FETCHED] = None,
    ontology: Annotated[
        Path | None, typer.Option(help="Else ontology.json in LISTS, else psla's own."), FETCHED
    ] = None,
    keep_wrong_length: Annotated[
        bool, typer.Option("--keep-wrong-length", help="Keep clips whose file is too short or too long.")
    ] = False,
    download_lists: Annotated[
        bool, typer.Option("--download-lists", help="First fetch into LISTS what is not there.")
    ] = False,
    out: Annotated[Path, typer.Option(help="The Parquet file to write."), SCANNED] = Path("clips.parquet"),
    validation: Validation = 0.0,
    seed: Seed = 0,
    inventory: InventoryFolder = None,
    decode: Decode = False,
    json: Json = False,
) -> None:
    """AudioSet: the published lists, and the sound files that you have.

    Names known: ID.wav, YID.wav, ID_START.wav, ID_START_END.wav (seconds or milliseconds), in any format and any
    folders. What is learnt of the files is kept beside OUT (….headers.parquet): an interrupted scan goes on there.
    Without --audio the table names no files; it serves `psla stats`.
    """
    from psla.corpora import audioset as corpus

    if download_lists:
        for path in corpus.download_lists(lists):
            typer.echo(f"{path}: fetched", err=True)
    names = tuple(only or corpus.LISTS)
    vocabulary, _ = corpus.open_classes(lists, class_list, ontology)
    with warnings_told():
        if not audio:
            clips = corpus.read_lists(lists, names, vocabulary)
            _write(clips, out, validation, seed, quiet=json)
            return
        with scanning() as report:
            clips, found = corpus.scan(
                lists,
                audio,
                names,
                vocabulary,
                headers=out.with_suffix(".headers.parquet"),
                decode=decode,
                keep_wrong_length=keep_wrong_length,
                report=report,
            )
    _finish(clips, found, out, validation, seed, inventory, json)


def fsd50k(
    root: Annotated[Path, typer.Argument(help="Holds FSD50K.ground_truth, FSD50K.dev_audio, FSD50K.eval_audio."), READ],
    out: Out = Path("clips.parquet"),
    inventory: InventoryFolder = None,
    decode: Decode = False,
    json: Json = False,
) -> None:
    """FSD50K as published: 51,197 clips in 200 classes, with its own validation split."""
    from psla.corpora import fsd50k as corpus

    _take(corpus.listed(root), out, 0.0, 0, inventory, decode, json)


def esc50(
    root: Annotated[Path, typer.Argument(help="The folder that holds meta/ and audio/."), READ],
    evaluation_fold: Annotated[int | None, typer.Option(help="1 to 5; by default 1.")] = None,
    all_folds: Annotated[
        bool, typer.Option("--all-folds", help="Hold no fold out: all clips are to train on, for a model to give away.")
    ] = False,
    esc10: Annotated[bool, typer.Option("--esc10", help="Only the 10 classes of ESC-10.")] = False,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
    seed: Seed = 0,
    inventory: InventoryFolder = None,
    decode: Decode = False,
    json: Json = False,
) -> None:
    """ESC-50 as published: 2,000 clips in five folds."""
    from psla.corpora import esc50 as corpus

    if all_folds and evaluation_fold is not None:
        raise CommandError("--all-folds holds no fold out, --evaluation-fold names one: choose one")
    fold = None if all_folds else 1 if evaluation_fold is None else evaluation_fold
    _take(corpus.listed(root, fold, esc10), out, validation, seed, inventory, decode, json)


def folder(
    root: Annotated[Path, typer.Argument(help="Holds a folder for each class, or one for each split."), READ],
    vocabulary: VocabularyName = None,
    evaluation: Evaluation = 0.2,
    as_classes: Annotated[
        bool, typer.Option("--as-classes", help="Take folders for classes though they look like splits or folds.")
    ] = False,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
    seed: Seed = 0,
    inventory: InventoryFolder = None,
    decode: Decode = False,
    json: Json = False,
) -> None:
    """Your own sounds, a folder for each class."""
    from psla.corpora.folder import read_folders

    with warnings_told():
        clips = read_folders(root, vocabulary, evaluation, seed, as_classes)
    _take(clips, out, validation, seed, inventory, decode, json)


def csv(
    file: Annotated[Path, typer.Argument(help="With the columns path and labels, and any others of a clip."), READ],
    audio_root: Annotated[
        Path | None, typer.Option(help="What paths are relative to; else FILE's folder."), READ
    ] = None,
    vocabulary: VocabularyName = None,
    evaluation: Evaluation = 0.2,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
    seed: Seed = 0,
    inventory: InventoryFolder = None,
    decode: Decode = False,
    json: Json = False,
) -> None:
    """Your own sounds, a line of a CSV for each clip."""
    from psla.corpora.folder import read_csv

    with warnings_told():
        clips = read_csv(file, audio_root, vocabulary, evaluation, seed)
    _take(clips, out, validation, seed, inventory, decode, json)


def annotations_(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Annotation files, or folders of them."), READ],
    audio: Annotated[
        Path | None, typer.Option(help="Where the recordings are; else beside the annotations."), READ
    ] = None,
    vocabulary: VocabularyName = None,
    label_column: Annotated[str | None, typer.Option(help="The column with the labels, of a table of Raven.")] = None,
    format: Annotated[str | None, typer.Option(help="By default known by what is in the file.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Cut recordings into clips so long; else one each.")] = None,
    evaluation: Evaluation = 0.2,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
    seed: Seed = 0,
    inventory: InventoryFolder = None,
    decode: Decode = False,
    json: Json = False,
) -> None:
    """Recordings that people labelled over time: tables of Raven, tracks of Audacity, TSV, TextGrids, JAMS.

    Clips have the annotations as events, and their classes as labels. `psla tag --events --format` writes such files.
    """
    from psla.corpora.annotations import read

    clips = read(files, audio, vocabulary, label_column, format, seconds, evaluation, seed)
    _take(clips, out, validation, seed, inventory, decode, json)


def soundscape(
    clips: Annotated[int, typer.Option(min=1, help="Clips of the split train.")] = 1000,
    evaluation_clips: Annotated[int, typer.Option(min=0, help="Clips of the split evaluation.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of train; evaluation has the next one.")] = 0,
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 2.56,
    imbalance: Annotated[float, typer.Option(help="The most frequent class by the rarest.")] = 20.0,
    classes: Annotated[int, typer.Option(min=0, help="Only so many classes, the most frequent; 0: all.")] = 0,
    missing_children: Annotated[float, typer.Option(help="Probability that a child's label is left out.")] = 0.0,
    missing_parents: Annotated[float, typer.Option(help="Probability that a parent's label is left out.")] = 0.0,
    events: Annotated[
        Path | None,
        typer.Option(metavar="CLIPS", help="A table of recordings: they sound in place of synthesised events."),
        ADDRESSED,
    ] = None,
    out: Annotated[Path, typer.Option(help="The Parquet file to write."), Writes("clips", alone=("events",))] = Path(
        "clips.parquet"
    ),
    validation: Validation = 0.0,
) -> None:
    """The embedded corpus: synthesised, nothing to download; or, with --events, mixed from recordings.

    The classes of the recordings must be AudioSet's (id or name) or ESC-50's; their splits decide which soundscapes
    they sound in. Their sounding parts are listed beside OUT (….events-HASH.parquet). `psla pack` renders the result.
    """
    from psla.data.clips import Clips
    from psla.synth import corpus as soundscape_corpus
    from psla.synth.config import SoundscapeConfig

    config = SoundscapeConfig(
        seed=seed,
        seconds=seconds,
        clips=clips,
        imbalance=imbalance,
        missing_children=missing_children,
        missing_parents=missing_parents,
        classes=classes,
    )
    if events is None:
        made = soundscape_corpus.make(config, evaluation_clips, validation)
    else:
        with warnings_told(), scanning() as report:
            recordings = Clips.read(events)
            made = soundscape_corpus.make_recorded(config, evaluation_clips, recordings, out, validation, report)
    _take(made, out, 0.0, seed, None, False, False)


def signals(
    count: Annotated[int, typer.Option(min=1, help="Clips, the kinds of signals in turn.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other clips.")] = 0,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
) -> None:
    """Plain signals, synthesised: silence, noises, hum, tones, sweeps, clicks, 0.05 to 10 s long, at -70 to 0 dBFS.

    Their classes are AudioSet's. `psla corpus merge` puts them beside another corpus; `psla pack` renders them.
    """
    from psla.synth.plain_signals import make

    _take(make(count, seed), out, validation, seed, None, False, False)


def merge(
    tables: Annotated[list[Path], typer.Argument(metavar="CLIPS...", help="Tables of clips, or packs."), ADDRESSED],
    vocabulary: VocabularyName = None,
    map: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Class id of a table=of the result; may be given again.")
    ] = None,
    out: Out = Path("clips.parquet"),
) -> None:
    """One table of several, to train on more than one corpus.

    Tables of one vocabulary are joined as they are; else --vocabulary names that of the result, and --map the class ids
    that it does not have: --vocabulary audioset --map dog=/m/0bt9lr. Clip ids must differ.
    """
    from psla.corpora.folder import open_vocabulary
    from psla.data.clips import Clips
    from psla.data.inventory import remarks
    from psla.data.merge import merge as merged

    target = None if vocabulary is None else open_vocabulary(vocabulary)
    pairs = [text.partition("=")[::2] for text in map or []]
    if not all(old and new for old, new in pairs) or len(dict(pairs)) < len(pairs):
        raise CommandError(f"--map is OLD_ID=NEW_ID, as in dog=/m/0bt9lr, each OLD_ID once; got {', '.join(map or [])}")
    whole = merged([Clips.read(path) for path in tables], target, dict(pairs))
    for remark in remarks(whole):
        typer.echo(f"psla: {remark}", err=True)
    _write(whole, out, 0.0, 0, quiet=False)


def _take(
    listed: Clips, out: Path, validation: float, seed: int, folder: Path | None, decode: bool, as_json: bool
) -> None:
    """Look for the files of a table of clips, then as `_finish`."""
    from psla.data.inventory import take_inventory

    with scanning() as report:
        clips, found = take_inventory(listed, decode, report=report)
    _finish(clips, found, out, validation, seed, folder, as_json)


def _finish(
    clips: Clips, found: Inventory, out: Path, validation: float, seed: int, folder: Path | None, as_json: bool
) -> None:
    """Print the inventory, write it and the clips that can be used."""
    from psla.report.inventory import class_table, write_inventory

    told = [found.summary()]
    if worst := [share for share in found.classes if share.missing]:
        told += ["", f"{len(worst)} classes miss clips, the worst first:", class_table(worst[:_WORST])]
        if len(worst) > _WORST:
            told.append(f"… and {len(worst) - _WORST} more classes" + ("" if folder else "; --inventory lists all"))
        told.append("")
    answer(as_json, found.to_dict(), *told)
    if folder is not None:
        written = write_inventory(found, folder)
        typer.echo(f"{folder}: {', '.join(path.name for path in written)}", err=as_json)
    if not len(clips):
        raise CommandError("no clip is left: none of the files can be read")
    _write(clips, out, validation, seed, quiet=as_json)


def _write(clips: Clips, out: Path, validation: float, seed: int, quiet: bool) -> None:
    if validation:
        clips = clips.hold_out(validation, seed)
    clips.write(out)
    counts = ", ".join(f"{split} {count}" for split, count in clips.counts().items())
    tell(f"{out}: {len(clips)} clips ({counts}), {len(clips.vocabulary)} classes", err=quiet)
    labels = clips.labels().counts()
    ranked = sorted(clips.vocabulary, key=lambda each: -labels[each.index])
    shown = [f"{shortened(each.name, 40)} {labels[each.index]}" for each in ranked[:_CLASSES]]
    if len(ranked) > _CLASSES:
        shown.append(f"… and {len(ranked) - _CLASSES} more, down to {labels[ranked[-1].index]}")
    typer.echo(f"classes: {', '.join(shown) or 'none'}", err=quiet)
