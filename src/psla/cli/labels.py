"""`psla enhance`: labels that annotators left out, proposed by a teacher and limited by an ontology."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from psla.cli.console import CommandError, guarded, number, progress, table

TypesOption = Annotated[str, typer.Option(help="I (children), II (ancestors) or I,II.")]
ThresholdOption = Annotated[str, typer.Option(help="mean, median, or a percentile such as 25.")]


@guarded
def enhance(
    clips: Annotated[Path, typer.Argument(help="The table of clips.")],
    predictions: Annotated[Path, typer.Argument(help="A teacher's predictions of these clips.")],
    out: Annotated[Path, typer.Option(help="The table of clips to write.")],
    types: TypesOption = "I,II",
    threshold: ThresholdOption = "mean",
    relation: Annotated[str, typer.Option(help="For type II: all ancestors, or direct parents.")] = "all",
    ontology: Annotated[Path | None, typer.Option(help="A JSON file like AudioSet's; by default AudioSet's.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write what changed into this folder.")] = None,
    review: Annotated[Path | None, typer.Option(help="CSV: clip_id, class_id, decision (accept or reject).")] = None,
    truth: Annotated[bool, typer.Option("--truth", help="Score the additions against the clips' true labels.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Enhance evaluation clips, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Add labels that a teacher is sure of and the ontology makes plausible; say what changed."""
    from psla.data.clips import Clips
    from psla.data.ontology import Ontology
    from psla.metrics.predictions import Predictions
    from psla.techniques.enhancement import enhance_clips, read_decisions

    corpus, graph = Clips.read(clips), Ontology.audioset() if ontology is None else Ontology.read(ontology)
    decisions = None if review is None else read_decisions(review)
    teacher = Predictions.read(predictions, mapped=True)
    from psla.report.enhancement import against_truth, difference, write_report

    if relation not in ("all", "direct"):
        raise CommandError(f"--relation must be all or direct, not {relation!r}")
    with progress({"enhance": len(teacher)}) as tell:
        result = enhance_clips(
            corpus,
            teacher,
            graph,
            {kind.strip().upper() for kind in types.split(",")},
            threshold_of(threshold),
            "all" if relation == "all" else "direct",
            decisions,
            force,
            lambda count: tell("enhance", count),
        )
    scores = None
    if truth:
        scores = against_truth(result.enhancement, result.part.labels("true_labels"), graph)
    result.clips.write(out)
    if report is None:
        data = difference(result.enhancement, result.part)
        data |= {"accepted_by_hand": result.accepted, "rejected_by_hand": result.rejected}
        data |= {} if scores is None else {"truth": scores}
    else:
        data = write_report(report, result, scores)
    typer.echo(json.dumps(data, ensure_ascii=False) if as_json else _summary(data, out, report))


def threshold_of(text: str) -> str | float:
    """`mean`, `median` or a percentile from what was typed.

    Example:
        >>> threshold_of("mean"), threshold_of("25")
        ('mean', 25.0)
    """
    if text in ("mean", "median"):
        return text
    try:
        return float(text)
    except ValueError as error:
        raise CommandError(f"--threshold must be mean, median or a percentile such as 25, not {text!r}") from error


def _summary(data: dict[str, Any], out: Path, report: Path | None) -> str:
    share = f"{100 * data['share_added']:.2f} %"
    by_type = [[f"of type {kind}", str(count)] for kind, count in data["added_by_type"].items()]
    rows = [
        ["clips", str(data["clips"])],
        ["clips with added labels", str(data["clips_changed"])],
        ["labels before", str(data["labels_before"])],
        ["labels added", f"{data['labels_added']} ({share})"],
        *by_type,
        ["impacted classes", f"{data['impacted_classes']} of {len(data['classes'])}"],
        ["classes without positives", str(len(data["classes_without_threshold"]))],
    ]
    if data["classes_outside_ontology"]:
        rows.append(["classes outside the ontology", str(len(data["classes_outside_ontology"]))])
    if data["accepted_by_hand"] or data["rejected_by_hand"]:
        rows.append(["accepted, rejected by hand", f"{data['accepted_by_hand']}, {data['rejected_by_hand']}"])
    parts = [table(["label enhancement", ""], rows)]
    grown = sorted((each for each in data["classes"] if each["added"]), key=lambda each: -each["added"])[:10]
    if grown:
        lines = [[g["class_name"], *(str(g[k]) for k in ("added", "before", "after"))] for g in grown]
        parts.append(table(["most impacted", "added", "before", "after"], lines))
    named = {each["class_id"]: each["class_name"] for each in data["classes"]}
    if silent := [named[id] for id in data["classes_without_threshold"]]:
        more = f" and {len(silent) - 10} more" if len(silent) > 10 else ""
        parts.append(f"no positives, hence no threshold and no label: {', '.join(silent[:10])}{more}")
    if "truth" in data:
        keys = ("added", "correct", "precision", "missing", "recall")
        lines = [
            [kind, *(number(e[k]) if k in ("precision", "recall") else str(e[k]) for k in keys)]
            for kind, e in data["truth"].items()
        ]
        parts.append(table(["against the truth", *keys], lines))
    parts.append(f"clips: {out}")
    if report is not None:
        parts.append(f"report: {report / 'index.html'}")
    return "\n\n".join(parts)
