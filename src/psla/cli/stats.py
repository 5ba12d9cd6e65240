"""`psla stats`: what a table of clips is made of."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, guarded, progress, table

if TYPE_CHECKING:
    from psla.data.labels import Labels
    from psla.lab.moments import Moments
    from psla.lab.statistics import Audit, Counts, Coverage
    from psla.model.frontends.kaldi import FrontEndConfig

_NAMED = 8  # classes at either end that are named
_EPOCHS = (1, 2, 3, 5, 10, 20, 30, 60, 100)  # of the curve that are printed
_SPLITS = ("train", "validation", "evaluation", "all")


@guarded
def stats(
    clips: Annotated[Path, typer.Argument(help="A table of clips, or a pack.")],
    split: Annotated[str, typer.Option(help="train, validation, evaluation, or all.")] = "train",
    parent: Annotated[
        list[str] | None, typer.Option(help="Audit the labels of this class, by id or name; may be given again.")
    ] = None,
    child: Annotated[
        list[str] | None, typer.Option(help="Of the audited class look at these classes below it only.")
    ] = None,
    ontology: Annotated[Path | None, typer.Option(help="A JSON file like AudioSet's; by default AudioSet's.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of the coverage curve.")] = 30,
    mixup_rate: Annotated[list[float] | None, typer.Option(help="Of a coverage curve; else 0, 0.5 and 1.")] = None,
    simulate: Annotated[bool, typer.Option(help="Count the coverage in the plans of a run, too.")] = True,
    smoothing: Annotated[float, typer.Option(min=0.0, help="Added to every class count before 1 / count.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the plans, and of the clips that are measured.")] = 0,
    log_mel: Annotated[bool, typer.Option("--log-mel", help="Measure the log-mel; reads the sound.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Clips that are measured, drawn at random; 0: all.")] = 1000,
    recipe: Annotated[str | None, typer.Option(help="Measure with this recipe's front end.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for stats.json and the pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
    audits = _audits(labels, ontology, parent, child)
    rates = mixup_rate or [0.0, 0.5, 1.0]
    with progress({"coverage": len(part) * epochs} if simulate else {}) as tell:
        curves = statistics.coverage(
            labels, epochs, rates, smoothing, seed, simulate, lambda done: tell("coverage", done * len(part))
        )
    moments = None
    if log_mel:
        front_end = _front_end(recipe)
        source = open_source(part, front_end.sample_rate)
        with progress({"log-mel": min(sample or len(part), len(part))}) as tell:
            from psla.lab.moments import measure

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
    written = [] if out is None else _write(out, data, counts, curves, title)
    if as_json:
        typer.echo(json.dumps(data, ensure_ascii=False, allow_nan=False))
        return
    texts = [title, _counts_text(counts), _audit_text(audits, parent is not None), _coverage_text(curves, epochs)]
    if moments is not None:
        texts.append(_moments_text(moments))
    texts.append("\n".join(f"written: {path}" for path in written))
    typer.echo("\n\n".join(text for text in texts if text))


def _audits(labels: Labels, ontology: Path | None, parent: list[str] | None, child: list[str] | None) -> list[Audit]:
    from psla.data.ontology import Ontology
    from psla.lab.statistics import audit, audit_all

    graph = Ontology.audioset() if ontology is None else Ontology.read(ontology)
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


def _front_end(recipe: str | None) -> FrontEndConfig:
    from psla.model.frontends.kaldi import FrontEndConfig
    from psla.training.recipe import Recipe

    return FrontEndConfig() if recipe is None else FrontEndConfig(**Recipe.load(recipe).front_end.model_dump())


def _write(out: Path, data: dict[str, Any], counts: Counts, curves: list[Coverage], title: str) -> list[Path]:
    from psla.files import write_json_atomic
    from psla.report import figures

    paths = [out / "stats.json", out / "class_counts.png", out / "coverage.png"]
    write_json_atomic(paths[0], data)
    clips, drawn, names = zip(*((each.clips, each.drawn, each.name) for each in counts.classes), strict=True)
    figures.class_counts(clips, drawn, names, paths[1], title)
    named = {f"mixup rate {each.mixup_rate:g}": each for each in curves}
    simulated = {name: each.simulated for name, each in named.items() if each.simulated is not None}
    figures.unseen({name: each.expected for name, each in named.items()}, simulated, paths[2])
    return paths


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


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
        share = _share(each.parent_without_child, each.clips)
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
    return table(head, [[str(epoch), *(f"{column[epoch - 1]:.4f}" for column in columns)] for epoch in chosen])


def _moments_text(moments: Moments) -> str:
    lines = [
        f"log-mel: mean {moments.mean:.4f}, deviation {moments.deviation:.4f}, over {moments.frames:,} frames of "
        f"{moments.clips:,} of {moments.clips_total:,} clips (seed {moments.seed})",
        f"  --set front_end.mean={moments.mean:.4f} --set front_end.deviation={moments.deviation:.4f}",
    ]
    for count, what in ((moments.silent, "silent"), (moments.too_short, "shorter than a frame")):
        if count:
            lines.append(f"  {count:,} clips are {what}")
    if moments.rejected:
        first = next(iter(moments.rejected.items()))
        lines.append(f"  {len(moments.rejected):,} clips cannot be read; the first: {first[0]} ({first[1]})")
    return "\n".join(lines)
