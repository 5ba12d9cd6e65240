"""`psla export`: a model as an ONNX file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from psla.cli.console import answer, table
from psla.cli.options import Json, ModelName
from psla.cli.places import ADDRESSED, Writes
from psla.cli.progress import fetching, stages

_SHOWN = 20  # classes that are printed, those that differ most


class ExportPrecision(StrEnum):
    """`--precision` of the file."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


def export(
    model: ModelName,
    out: Annotated[
        Path,
        typer.Argument(help="The file to write, NAME.onnx; its report is NAME.parity.json."),
        Writes("onnx", beside=((".parity.json", "json"),)),
    ],
    precision: Annotated[
        ExportPrecision, typer.Option(help="float16: weights at half the size; int8: convolutions in 8 bits.")
    ] = ExportPrecision.float32,
    frames: Annotated[
        bool,
        typer.Option("--frames/--no-frames", help="Probabilities and features of the steps, too; psla needs them."),
    ] = True,
    clips: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare by these: a table of labelled clips, or sound files, folders, patterns; again for more."
        ),
        ADDRESSED,
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write int8 whatever it loses.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model as an ONNX file, and say by how much its answers differ."""
    from psla.export.write import check, labelled, recordings
    from psla.export.write import export as write
    from psla.tagging.sources import expand_sources
    from psla.weights.catalogue import load_any

    with fetching(model) as told:
        loaded = load_any(model, told)
    check(loaded, out, precision.value)
    with stages() as progress:
        sounds = None
        if clips and len(clips) == 1 and Path(clips[0]).suffix == ".parquet":
            sounds = labelled(clips[0], loaded, progress)
        elif clips:
            sounds = recordings(expand_sources(clips), loaded.network.sample_rate, progress)
        parity = write(loaded, out, precision.value, frames, sounds, force, progress)
    said = parity.to_dict()
    answer(
        as_json, {"file": str(out), "precision": precision.value, **said}, *_lines(said), f"{out}: {precision.value}"
    )


def _lines(said: dict[str, Any]) -> list[str]:
    both = said["mean_average_precision"]
    head = [
        f"{said['clips']} recordings: probabilities differ by {said['largest']:.1e} at most, "
        f"{said['mean']:.1e} on average, frames by {said['frames_largest']:.1e}",
        f"same most probable class: {said['same_class']:.1%}; rank agreement: {said['rank_agreement']}",
    ]
    if both is not None:
        head.append(f"mean average precision: {both[0]:.4f} before, {both[1]:.4f} after")
    worst = sorted(said["per_class"], key=lambda each: -each["largest"])[:_SHOWN]
    rows = [
        [
            each["name"],
            f"{each['largest']:.1e}",
            f"{each['mean']:.1e}",
            each["rank_agreement"],
            *(each["average_precision"] or (None, None)),
        ]
        for each in worst
    ]
    return [*head, table(["class", "largest", "mean", "rank", "AP before", "after"], rows)]
