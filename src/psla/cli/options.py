"""Options and arguments that several commands have: each is named, bounded and explained here, once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from psla.cli.places import ADDRESSED, FETCHED, READ, Writes


class Precision(StrEnum):
    """`--precision` of commands that run a model."""

    float32 = "float32"
    folded = "folded"
    bf16 = "bf16"


class Combine(StrEnum):
    """How several windows become one clip."""

    mean = "mean"
    max = "max"


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

LabelledClips = Annotated[Path, typer.Option(help="The table of clips, which has the labels."), ADDRESSED]
Truth = Annotated[bool, typer.Option("--truth", help="Score against what really sounds: the column true_labels.")]
OntologyFile = Annotated[Path | None, typer.Option(help="A JSON file like AudioSet's; by default AudioSet's."), FETCHED]

ModelName = Annotated[
    str, typer.Argument(help="A model file, an ensemble, or a name that `psla models` lists."), ADDRESSED
]
WithPrecision = Annotated[
    Precision,
    typer.Option(help="folded: faster, probabilities within 1e-5; bf16: faster still, within a few hundredths."),
]

Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ray[://ADDRESS]", help="Spread the work: over this machine's cores, or the Ray cluster at HOST:PORT."
    ),
]

Overrides = Annotated[list[str] | None, typer.Option("--set", help="key=value, as in optimizer.epochs=30."), ADDRESSED]
Types = Annotated[str, typer.Option(help="I (children), II (ancestors) or I,II.")]
Threshold = Annotated[str, typer.Option(help="mean, median, or a percentile such as 25.")]

HeardCache = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where what was heard is kept."), Writes(folder=True)
]

Accelerator = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
_MOST_AT_WORK = 512  # beyond the cores of any machine: it would only be filled with processes that wait
Decoders = Annotated[
    int | None,
    typer.Option(min=1, max=_MOST_AT_WORK, help="Processes that decode; by default one a core."),
]
Readers = Annotated[int, typer.Option(min=1, max=_MOST_AT_WORK, help="Threads that read clips.")]
CacheMb = Annotated[int, typer.Option(min=0, help="Megabytes of decoded clips to keep in memory.")]
CheckpointMinutes = Annotated[float, typer.Option(min=0, help="Between two states to go on from.")]

# Of `psla lab`.
Root = Annotated[Path, typer.Argument(help="ESC-50 or ESC-10: the folder that holds meta/ and audio/."), READ]
FoldShard = Annotated[
    str | None, typer.Option(help="i/n: every n-th training; a call without it, after them, ends the job.")
]
BaseRecipe = Annotated[
    str | None, typer.Option(help="What all candidates differ from, in place of what they extend."), READ
]
Candidates = Annotated[
    list[str], typer.Option(help="Names, YAML files or folders of them, or all; commas between, or repeated."), READ
]
Chosen = Annotated[
    Path | None, typer.Option(help="A selection.json: each fold with the recipe that was chosen for it."), FETCHED
]
Settings = Annotated[
    list[str] | None,
    typer.Option(help="Further settings, as --candidates of psla lab select: a run of each, ensembles with them."),
    READ,
]
