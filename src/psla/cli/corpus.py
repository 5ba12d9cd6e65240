"""`psla corpus`: from a corpus on the disk, or a synthesised one, to a table of clips."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psla.cli.console import CommandError, guarded

if TYPE_CHECKING:
    from psla.data.clips import Clips

app = typer.Typer(help="Make a table of clips from a corpus.", no_args_is_help=True, rich_markup_mode=None)

Out = Annotated[Path, typer.Option(help="The Parquet file to write.")]
Validation = Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of train held out as validation.")]
Evaluation = Annotated[float, typer.Option(min=0.0, max=0.99, help="Share held out where no split is given.")]
VocabularyName = Annotated[str | None, typer.Option(help="'audioset', or a text file with a class a line.")]
Seed = Annotated[int, typer.Option(min=0, help="Chooses what is held out.")]


@app.command()
@guarded
def esc50(
    root: Annotated[Path, typer.Argument(help="The folder that holds meta/ and audio/.")],
    evaluation_fold: Annotated[int, typer.Option(help="1 to 5.")] = 1,
    esc10: Annotated[bool, typer.Option("--esc10", help="Only the 10 classes of ESC-10.")] = False,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
    seed: Seed = 0,
) -> None:
    """ESC-50 as published: 2,000 clips in five folds."""
    from psla.data.corpora import esc50 as corpus

    with warnings.catch_warnings():  # the missing files are printed with the broken ones
        warnings.simplefilter("ignore", UserWarning)
        clips = corpus.read(root, evaluation_fold, esc10)
    _finish(clips, out, validation, seed, corpus.inventory(root, esc10).missing)


@app.command()
@guarded
def folder(
    root: Annotated[Path, typer.Argument(help="Holds a folder for each class, or one for each split.")],
    vocabulary: VocabularyName = None,
    evaluation: Evaluation = 0.2,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
    seed: Seed = 0,
) -> None:
    """Your own sounds, a folder for each class."""
    from psla.data.corpora.folder import read_folders

    _finish(read_folders(root, vocabulary, evaluation, seed), out, validation, seed)


@app.command()
@guarded
def csv(
    file: Annotated[Path, typer.Argument(help="With the columns path and labels, and any others of a clip.")],
    audio_root: Annotated[Path | None, typer.Option(help="What paths are relative to; else FILE's folder.")] = None,
    vocabulary: VocabularyName = None,
    evaluation: Evaluation = 0.2,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
    seed: Seed = 0,
) -> None:
    """Your own sounds, a line of a CSV for each clip."""
    from psla.data.corpora.folder import read_csv

    _finish(read_csv(file, audio_root, vocabulary, evaluation, seed), out, validation, seed)


@app.command()
@guarded
def soundscape(
    clips: Annotated[int, typer.Option(min=1, help="Clips of the split train.")] = 1000,
    evaluation_clips: Annotated[int, typer.Option(min=0, help="Clips of the split evaluation.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of train; evaluation has the next one.")] = 0,
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 2.56,
    imbalance: Annotated[float, typer.Option(help="The most frequent class by the rarest.")] = 20.0,
    missing_children: Annotated[float, typer.Option(help="Probability that a child's label is left out.")] = 0.0,
    missing_parents: Annotated[float, typer.Option(help="Probability that a parent's label is left out.")] = 0.0,
    out: Out = Path("clips.parquet"),
    validation: Validation = 0.0,
) -> None:
    """The embedded corpus: synthesised, nothing to download."""
    from psla.data.clips import Clips
    from psla.data.corpora.soundscape import SoundscapeConfig, table, vocabulary

    def rows(count: int, seed: int, split: str) -> list[dict]:
        config = SoundscapeConfig(
            seed=seed,
            seconds=seconds,
            clips=count,
            imbalance=imbalance,
            missing_children=missing_children,
            missing_parents=missing_parents,
        )
        return table(config, split)

    found = rows(clips, seed, "train")
    if evaluation_clips:
        found += rows(evaluation_clips, seed + 1, "evaluation")
    _finish(Clips.from_rows(found, vocabulary(), "soundscape"), out, validation, seed)


def _finish(
    clips: Clips, out: Path, validation: float, seed: int, missing: list[tuple[str, str]] | None = None
) -> None:
    """Leave out what cannot be read, hold out, write and print; `missing` is what was left out before."""
    from dataclasses import replace

    from psla.data.inventory import take_inventory

    clips, inventory = take_inventory(clips)
    inventory = replace(inventory, missing=[*(missing or []), *inventory.missing])
    typer.echo(inventory.summary())
    if not len(clips):
        raise CommandError("no clip is left: none of the files can be read")
    if validation:
        clips = clips.hold_out(validation, seed)
    clips.write(out)
    counts = ", ".join(f"{split} {count}" for split, count in clips.counts().items())
    typer.echo(f"{out}: {len(clips)} clips ({counts}), {len(clips.vocabulary)} classes")
