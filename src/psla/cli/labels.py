"""`psla enhance` and `psla stats`: labels that annotators left out, and what a table of clips is made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, answer, table
from psla.cli.options import Json, OntologyFile, Threshold, Types
from psla.cli.places import ADDRESSED, FETCHED, Writes
from psla.cli.progress import progress

if TYPE_CHECKING:
    from psla.data.labels import Labels
    from psla.data.ontology import Ontology
    from psla.lab.moments import Moments
    from psla.lab.statistics import Audit, Counts, Coverage

Parents = Annotated[
    list[str] | None, typer.Option(help="Audit the labels of this class, by id or name; may be given again.")
]
Children = Annotated[list[str] | None, typer.Option(help="Of the audited class look at these classes below it only.")]

ENHANCEMENT = ("index.html", "difference.json", "classes.csv", "additions.csv")
STATISTICS = ("stats.json", "class_counts.png", "coverage.png")
_NAMED = 8  # classes at either end that are named
_EPOCHS = (1, 2, 3, 5, 10, 20, 30, 60, 100)  # of the curve that are printed
_SPLITS = ("train", "validation", "evaluation", "all")


def enhance(
    clips: Annotated[Path, typer.Argument(help="The table of clips."), ADDRESSED],
    predictions: Annotated[Path, typer.Argument(help="A teacher's predictions of these clips."), FETCHED],
    out: Annotated[Path, typer.Option(help="The table of clips to write."), Writes("clips")],
    types: Types = "I,II",
    threshold: Threshold = "mean",
    relation: Annotated[str, typer.Option(help="For type II: all ancestors, or direct parents.")] = "all",
    ontology: OntologyFile = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write what changed into this folder."),
        Writes(folder=True, names=ENHANCEMENT, marker=("difference.json", "difference")),
    ] = None,
    review: Annotated[
        Path | None, typer.Option(help="CSV: clip_id, class_id, decision (accept or reject)."), FETCHED
    ] = None,
    truth: Annotated[bool, typer.Option("--truth", help="Score the additions against the clips' true labels.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Enhance evaluation clips, too.")] = False,
    as_json: Json = False,
) -> None:
    """Add labels that a teacher is sure of and the ontology makes plausible; say what changed."""
    from psla.data.clips import Clips
    from psla.metrics.predictions import Predictions
    from psla.techniques.enhancement import enhance_clips, read_decisions

    corpus, graph = Clips.read(clips), _graph(ontology)
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
            types_of(types),
            threshold_of(threshold),
            "all" if relation == "all" else "direct",
            decisions,
            force,
            lambda count: tell("enhance", count),
        )
    scores = against_truth(result.enhancement, result.part.labels("true_labels"), graph) if truth else None
    result.clips.write(out)
    if report is None:
        data = difference(result.enhancement, result.part)
        data |= {"accepted_by_hand": result.accepted, "rejected_by_hand": result.rejected}
        data |= {} if scores is None else {"truth": scores}
    else:
        data = write_report(report, result, scores)
    answer(as_json, data, _summary(data, out, report))


def types_of(text: str) -> set[str]:
    """Types of label enhancement from what was typed.

    Example:
        >>> sorted(types_of("i, II"))
        ['I', 'II']
    """
    return {kind.strip().upper() for kind in text.split(",")}


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
    rows = [
        ["clips", data["clips"]],
        ["clips with added labels", data["clips_changed"]],
        ["labels before", data["labels_before"]],
        ["labels added", f"{data['labels_added']} ({share})"],
        *([f"of type {kind}", count] for kind, count in data["added_by_type"].items()),
        ["impacted classes", f"{data['impacted_classes']} of {len(data['classes'])}"],
        ["classes without positives", len(data["classes_without_threshold"])],
    ]
    if data["classes_outside_ontology"]:
        rows.append(["classes outside the ontology", len(data["classes_outside_ontology"])])
    if data["accepted_by_hand"] or data["rejected_by_hand"]:
        rows.append(["accepted, rejected by hand", f"{data['accepted_by_hand']}, {data['rejected_by_hand']}"])
    parts = [table(["label enhancement", ""], rows)]
    grown = sorted((each for each in data["classes"] if each["added"]), key=lambda each: -each["added"])[:10]
    if grown:
        lines = [[g["class_name"], *(g[k] for k in ("added", "before", "after"))] for g in grown]
        parts.append(table(["most impacted", "added", "before", "after"], lines))
    named = {each["class_id"]: each["class_name"] for each in data["classes"]}
    if silent := [named[id] for id in data["classes_without_threshold"]]:
        more = f" and {len(silent) - 10} more" if len(silent) > 10 else ""
        parts.append(f"no positives, hence no threshold and no label: {', '.join(silent[:10])}{more}")
    if "truth" in data:
        keys = ("added", "correct", "precision", "missing", "recall")
        lines = [[kind, *(scores[key] for key in keys)] for kind, scores in data["truth"].items()]
        parts.append(table(["against the truth", *keys], lines))
    parts.append(f"clips: {out}")
    if report is not None:
        parts.append(f"report: {report / 'index.html'}")
    return "\n\n".join(parts)


def stats(
    clips: Annotated[Path, typer.Argument(help="A table of clips, or a pack."), ADDRESSED],
    split: Annotated[str, typer.Option(help="train, validation, evaluation, or all.")] = "train",
    parent: Parents = None,
    child: Children = None,
    ontology: OntologyFile = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of the coverage curve.")] = 30,
    mixup_rate: Annotated[list[float] | None, typer.Option(help="Of a coverage curve; else 0, 0.5 and 1.")] = None,
    simulate: Annotated[bool, typer.Option(help="Count the coverage in the plans of a run, too.")] = True,
    smoothing: Annotated[float, typer.Option(min=0.0, help="Added to every class count before 1 / count.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the plans, and of the clips that are measured.")] = 0,
    log_mel: Annotated[bool, typer.Option("--log-mel", help="Measure the log-mel; reads the sound.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Clips that are measured, drawn at random; 0: all.")] = 1000,
    recipe: Annotated[str | None, typer.Option(help="Measure with this recipe's front end."), FETCHED] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for stats.json and the pictures."),
        Writes(folder=True, names=STATISTICS, marker=("stats.json", "statistics")),
    ] = None,
    as_json: Json = False,
) -> None:
    """Class counts, label errors, which clips a training hears, mean and deviation of the log-mel."""
    from psla.data.clips import Clips
    from psla.data.source import open_source
    from psla.lab import statistics

    if split not in _SPLITS:
        raise CommandError(f"--split must be one of {', '.join(_SPLITS)}, not {split!r}")
    corpus = Clips.read(clips)
    part = corpus if split == "all" else corpus.split(split)
    if not len(part):
        raise CommandError(f"{clips} has no clip in the split {split!r}; it has {corpus.counts()}")
    labels = part.labels()
    counts = statistics.count(labels, smoothing)
    audits = _audits(labels, _graph(ontology), parent, child)
    rates = mixup_rate or [0.0, 0.5, 1.0]
    with progress({"coverage": len(part) * epochs} if simulate else {}) as tell:
        curves = statistics.coverage(
            labels, epochs, rates, smoothing, seed, simulate, lambda done: tell("coverage", done * len(part))
        )
    moments = None
    if log_mel:
        with progress({"log-mel": min(sample or len(part), len(part))}) as tell:
            from psla.lab.moments import measure
            from psla.model.frontends.contract import front_end_config
            from psla.training.recipe import Recipe

            front_end = front_end_config({}) if recipe is None else Recipe.load(recipe).front_end
            source = open_source(part, front_end.sample_rate)
            moments = measure(source, front_end, sample or len(part), seed, lambda count: tell("log-mel", count))
    data: dict[str, Any] = {
        "source": str(clips),
        "split": split,
        **counts.to_dict(),
        "label_errors": [asdict(each) for each in audits],
        "coverage": [asdict(each) for each in curves],
        "log_mel": None if moments is None else moments.to_dict(),
    }
    title = (
        f"{clips}, split {split}: {counts.clips:,} clips, {counts.labels:,} labels, {len(labels.vocabulary)} classes"
    )
    written = [] if out is None else statistics.write_statistics(out, data, counts, curves, title)
    texts = [title, _counts_text(counts), _audit_text(audits, parent is not None), _coverage_text(curves, epochs)]
    texts += ["" if moments is None else _moments_text(moments), "\n".join(f"written: {path}" for path in written)]
    answer(as_json, data, "\n\n".join(filter(None, texts)), allow_nan=False)


def _graph(ontology: Path | None) -> Ontology:
    from psla.data.ontology import Ontology

    return Ontology.audioset() if ontology is None else Ontology.read(ontology)


def _audits(labels: Labels, graph: Ontology, parent: list[str] | None, child: list[str] | None) -> list[Audit]:
    from psla.lab.statistics import audit, audit_all

    if child and not parent:
        raise CommandError("--child needs --parent: the class whose labels are audited")
    if not parent:
        return audit_all(labels, graph)
    parents = [labels.vocabulary.find(text).id for text in parent]
    children = [labels.vocabulary.find(text) for text in child or []]
    below = {id: graph.descendants(id) for id in parents}
    for each in children:
        if not any(each.id in ids for ids in below.values()):
            raise CommandError(f"--child {each.name!r} ({each.id}) is below no class of --parent in the ontology")
    # With several parents, each is audited with the given classes below it, or with all its children if there are none.
    return [audit(labels, graph, id, [c.id for c in children if c.id in below[id]] or None) for id in parents]


def _counts_text(counts: Counts) -> str:
    several = [f"{number}: {clips:,}" for number, clips in enumerate(counts.labels_per_clip) if clips]
    ranked = counts.ranked
    lines = [
        f"labels per clip: {counts.labels / counts.clips:.3f} on average ({', '.join(several)})",
        f"most frequent by rarest class: {counts.imbalance:,.1f}; of draws by balanced sampling: "
        f"{counts.imbalance_drawn():,.1f}, with mixup at rate 0.5: {counts.imbalance_drawn(0.5):,.1f}",
    ]
    if counts.absent:
        names = ", ".join(each.name for each in counts.absent[:_NAMED])
        lines.append(f"classes without a clip: {len(counts.absent)} ({names}{', …' * (len(counts.absent) > _NAMED)})")
    apart = len(ranked) > 2 * _NAMED
    rows = [
        [each.name, f"{each.clips:,}", f"{each.drawn:,.0f}", f"{each.heard(0.5):,.0f}"]
        for each in (ranked[:_NAMED] + ranked[-_NAMED:] if apart else ranked)
    ]
    if apart:
        rows.insert(_NAMED, [f"… {len(ranked) - 2 * _NAMED} classes …", "", "", ""])
    head = ["class, most frequent first", "clips", "drawn an epoch", "with mixup 0.5"]
    return "\n".join([*lines, "", table(head, rows)])


def _audit_text(audits: list[Audit], asked: bool) -> str:
    if not audits:
        return "label errors: no class has a child in the ontology (AudioSet's, unless --ontology names another)"
    shown = audits if asked else audits[:_NAMED]
    rows = []
    for each in shown:
        share = f"{100 * each.parent_without_child / each.clips:.1f} %" if each.clips else "-"
        counts = [f"{each.clips:,}", f"{each.parent_without_child:,}", share, f"{each.child_without_parent:,}"]
        rows.append([each.name, *counts])
        if asked:
            rows.extend([f"  {c.name}", f"{c.clips:,}", "", "", f"{c.without_parent:,}"] for c in each.children)
    parts = sum(each.child_without_parent > 0 for each in audits)
    note = "" if asked else f"\n({len(audits)} classes have children, {parts} a child without its parent; all: --json)"
    head = ["label errors (parent)", "clips", "without a child (I)", "", "child without it (II)"]
    return table(head, rows) + note


def _coverage_text(curves: list[Coverage], epochs: int) -> str:
    chosen = sorted({epoch for epoch in _EPOCHS if epoch <= epochs} | {epochs})
    head, columns = ["clips not heard after epochs"], []
    for each in curves:
        head.append(f"mixup {each.mixup_rate:g}")
        columns.append(each.expected)
        if each.simulated is not None:
            head.append("simulated")
            columns.append(each.simulated)
    return table(head, [[epoch, *(column[epoch - 1] for column in columns)] for epoch in chosen])


def _moments_text(moments: Moments) -> str:
    lines = [
        f"log-mel: mean {moments.mean:.4f}, std {moments.std:.4f}, over {moments.frames:,} frames of "
        f"{moments.clips:,} of {moments.clips_total:,} clips (seed {moments.seed})",
        f"  --set front_end.mean={moments.mean:.4f} --set front_end.std={moments.std:.4f}",
    ]
    for count, what in ((moments.silent, "silent"), (moments.too_short, "shorter than a frame")):
        if count:
            lines.append(f"  {count:,} clips are {what}")
    if moments.rejected:
        first = next(iter(moments.rejected.items()))
        lines.append(f"  {len(moments.rejected):,} clips cannot be read; the first: {first[0]} ({first[1]})")
    return "\n".join(lines)
