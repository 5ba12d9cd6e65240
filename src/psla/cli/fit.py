"""`psla fit`: your own classes on the features of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from psla.cli.console import answer, spread_over, table, tell, warnings_told
from psla.cli.options import Cluster, Decoders, HeardCache, Json
from psla.cli.places import ADDRESSED, FETCHED, READ, Writes
from psla.cli.progress import stages
from psla.spread import cores

_SHOWN = 30  # classes whose scores are printed


Background = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Sounds that are of none of the classes."), READ
]


def fit(
    data: Annotated[
        Path,
        typer.Argument(help="A folder of a folder for each class, a CSV of path and labels, a table or a pack."),
        ADDRESSED,
    ],
    out: Annotated[
        Path,
        typer.Option(help="The model file to write; its report stands beside it."),
        Writes("model", beside=((".fit.json", "fit"),)),
    ],
    model: Annotated[
        str | None,
        typer.Option("--from", help="The model whose features are used; by default that of `psla tag`."),
        ADDRESSED,
    ] = None,
    background: Background = None,
    cache: HeardCache = None,
    keep_classes: Annotated[
        bool, typer.Option("--keep-classes", help="Keep the outputs of the model's own classes beside the new ones.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Train the trunk, too, and say what that is worth; slow.")
    ] = False,
    review: Annotated[
        Path | None, typer.Option(help="A CSV of corrections, clip_id and decision: a class, keep or drop."), FETCHED
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a page: scores, and clips to look at, hear and correct."),
        Writes("page"),
    ] = None,
    workers: Decoders = None,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Make a model of your own sounds, in a minute; say how good it is, by cross-validation over your recordings."""
    from psla.training.fit import fit as run_fit

    with warnings_told(), stages() as told, spread_over(cluster) as spread:
        count = workers or (1 if cluster else cores())  # on a cluster, of each task
        given: dict[str, Any] = {"background": background, "keep_classes": keep_classes, "tuned": tune}
        given |= {"review": review, "cache": cache, "workers": count, "spread": spread}
        made = run_fit(data, out, model, told=told, **given)
    report = made.report
    if html is not None:
        from psla.tagging.fit_page import write_fit_page

        write_fit_page(html, made)
    answer(as_json, report, *_lines(report), f"{out}: {len(report['classes'])} classes")
    for id, reason in list(report["rejected"].items())[:3]:
        typer.echo(f"psla: left out: {id}: {reason}", err=True)
    if (count := len(report["rejected"])) > 3:
        tell(f"psla: left out: {count - 3} more, which {out.with_suffix('.fit.json')} names", err=True)


def _lines(report: dict[str, Any]) -> list[str]:
    known, found, lines = report["familiarity"], report["cross_validation"], []
    if not report["single_label"]:
        lines.append(f"every class by itself, for {report['why_not']}")
    for name in report["classes_of_one_recording"]:
        lines.append(f"{name!r} has one recording: it is learnt, but nothing of it is left to ask")
    what = "of {clips} clips right" if report["single_label"] else "mean average precision of {clips} clips"
    text = "{value:.2f} " + what + " (95 % {low:.2f} to {high:.2f}), cross-validated over {folds} groups of sources"
    lines.append(text.format(**found))
    if len(report["classes"]) <= _SHOWN:
        rows = found["per_class"]
        keys = ("name", "positives", "average_precision", "low", "high")
        lines += [
            "",
            table(["class", "clips", "precision", "low", "high"], [[row[key] for key in keys] for row in rows]),
        ]
    curve = ", ".join(f"{point['value']:.2f} of {point['clips_per_class']}" for point in report["learning_curve"])
    lines += ["", f"by clips of a class: {curve}"] if curve else [""]
    if (twice := report["twice_as_many"]) is not None:
        lines[-1] += f"; twice as many would give about {twice:.2f}"
    counts = report["suspects"]
    lines.append(
        f"to look at: {counts['mistakes']} mistakes, {counts['doubtful_labels']} labels that look wrong, "
        f"{counts['near_duplicates']} near-duplicates of other labels or recordings"
    )
    if "tuned" in report:
        frozen, tuned = (report["tuned"][name] for name in ("frozen", "tuned"))
        text = "of {clips} clips held out: {value:.3f} (95 % {low:.3f} to {high:.3f})"
        lines += [f"frozen {text.format(**frozen)}", f"tuned {text.format(**tuned)}"]
    kept, signals = known["familiar_in_cross_validation"], known["familiar_of_other_plain_signals"]
    lines.append(
        f"flagged unfamiliar: {1 - kept:.2f} of these clips, {1 - signals:.2f} of silence, noise, hum and tones"
    )
    return lines
