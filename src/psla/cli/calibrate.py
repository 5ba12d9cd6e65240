"""`psla calibrate`: probabilities that mean something, and thresholds for a stated goal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from psla.cli.console import CommandError, answer, table
from psla.cli.options import Json, ModelName
from psla.cli.places import ADDRESSED, Writes
from psla.cli.progress import fetching, progress

_SHOWN = 30  # classes that are printed
_MEASURES = {"f1": "F1", "precision": "precision", "recall": "recall", "false-alarms": "false alarms an hour"}


def calibrate(
    model: ModelName,
    clips: Annotated[Path, typer.Argument(help="A table of clips, or a pack, that it was not trained on."), ADDRESSED],
    out: Annotated[
        Path,
        typer.Option(help="The model file to write; its report stands beside it."),
        Writes("model", beside=((".calibration.json", "json"),)),
    ],
    goal: Annotated[
        str, typer.Option("--for", help="f1, precision=0.9, recall=0.9 or false-alarms=1/h: what thresholds are for.")
    ] = "f1",
    split: Annotated[str | None, typer.Option(help="train, validation or evaluation; by default all.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the reliability before and after: a .png, .svg or .pdf."),
        Writes("picture"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a model's probabilities and thresholds mean something, by clips that it was not trained on."""
    from psla.data.clips import Clips
    from psla.metrics.thresholds import Goal
    from psla.report.drawing import FORMATS
    from psla.report.figures import reliability
    from psla.training.calibrate import calibrate as run_calibrate
    from psla.weights.catalogue import resolve

    Goal.parse(goal)
    if plot is not None and plot.suffix.lower() not in FORMATS:
        raise CommandError(f"--plot takes a file that ends in {', '.join(FORMATS)}; not {plot}")
    chosen = Clips.read(clips) if split is None else Clips.read(clips).split(split)
    with fetching(model) as told:
        path = resolve(model, told)
    with progress({"hear": len(chosen)}) as report:
        made = run_calibrate(path, chosen, out, goal, progress=lambda count: report("hear", count))
    found = made.report
    if plot is not None:
        reliability(found["reliability"]["before"], found["reliability"]["after"], plot)
    known = "the model does not say which clips it was trained on: see to it"
    if found["training_clips_known"]:
        known = "none of the clips is one that the model lists as trained on; what it was made of may have heard others"
    answer(as_json, found, known, *told_of(found, found["names"]), f"{out}: thresholds for {goal}")
    for id, reason in list(found["rejected"].items())[:3]:
        typer.echo(f"psla: left out: {id}: {reason}", err=True)


def told_of(found: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """What a card's calibration says, as lines; names: of the classes, by id."""
    before, after = found["error_before"], found["error_after"]
    lines = [
        f"calibrated on {found['clips']} clips of {found['recordings']} recordings for {found['goal']}: "
        f"expected calibration error {before:.4f} before, {after:.4f} after (cross-validated)"
    ]
    if len(found["classes"]) <= _SHOWN:
        measure = _MEASURES[found["goal"].partition("=")[0]]
        head = ["class", "positives", "map", "threshold", "low", "high", measure, "low", "high"]
        keys = ("positives", "kind", "threshold", "threshold_low", "threshold_high", "gives", "gives_low", "gives_high")
        rows = [[names[id], *(row[key] for key in keys)] for id, row in found["classes"].items()]
        lines += ["", table(head, rows), ""]
    else:
        lines.append(f"{len(found['classes'])} classes are calibrated; --json shows each")
    if found["unreached"]:
        lines.append(f"out of reach of so few clips, never named: {_some(found['unreached'], names)}")
        if found["goal"].startswith("recall"):
            lines[-1] = lines[-1].replace("never", "always")
    if found["left"]:
        lines.append(f"left as they are, for too few positives: {_some(list(found['left']), names)}")
    return lines


def _some(ids: list[str], names: Mapping[str, str]) -> str:
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(names[id] for id in ids[:10]) + more
