"""`psla average`, `psla ensemble` and `psla compare`: several models or predictions at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, guarded, number, progress, table

if TYPE_CHECKING:
    from torch import Tensor

    from psla.data.clips import Clips
    from psla.data.vocabulary import Vocabulary
    from psla.lab.sweep import StartScore
    from psla.metrics.compare import Comparison
    from psla.metrics.predictions import Predictions

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@guarded
def average(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints, model files, or a run's folder.")],
    out: Annotated[Path, typer.Option(help="The model file to write.")],
    from_epoch: Annotated[int | None, typer.Option(min=1, help="Leave out earlier epochs.")] = None,
    like: Annotated[Path | None, typer.Option(help="A model file of the same architecture; else the run's.")] = None,
    sweep: Annotated[Path | None, typer.Option(help="Clips: score averages from each checkpoint on.")] = None,
    split: Annotated[str, typer.Option(help="Of the clips of --sweep.")] = "validation",
    batchnorm: Annotated[
        str, typer.Option(help="BatchNorm's statistics: average them, or reestimate them on the clips of --clips.")
    ] = "average",
    clips: Annotated[Path | None, typer.Option(help="Clips whose split train --batchnorm reestimate hears.")] = None,
    as_json: Json = False,
) -> None:
    """Average the weights of checkpoints into one model."""
    if batchnorm not in ("average", "reestimate") or (batchnorm == "reestimate") != (clips is not None):
        raise CommandError("--batchnorm is average, or reestimate with --clips, the table of the training clips")
    from psla.techniques.aggregation import average_model, checkpoints_from

    chosen = checkpoints_from(checkpoints, from_epoch)
    average_model(chosen, out, like)
    if clips is not None:
        _reestimate(out, clips)
    data: dict[str, Any] = {"out": str(out), "checkpoints": [str(path) for path in chosen]}
    if sweep is not None:
        points = _sweep(chosen, out, sweep, split)
        data["sweep"] = [asdict(point) for point in points]
    if as_json:
        typer.echo(json.dumps(data, ensure_ascii=False))
        return
    typer.echo(f"{out}: the average of {len(chosen)} ({', '.join(path.stem for path in chosen)})")
    if sweep is not None:
        rows = [
            [p.first, str(p.checkpoints), number(p.weights), number(p.predictions), number(p.alone)] for p in points
        ]
        typer.echo(table(["averaged from", "checkpoints", "weights", "predictions", "alone"], rows))


def _reestimate(model: Path, clips: Path) -> None:
    """Replace a model file's BatchNorm statistics by those of training clips."""
    from dataclasses import replace

    from psla.data.clips import Clips
    from psla.data.source import open_source
    from psla.model.file import load_model, save_model
    from psla.training.batch_norm import reestimate

    part, found = Clips.read(clips).split("train"), load_model(model)
    source = open_source(part, found.network.sample_rate)
    with progress({"BatchNorm": min(len(part), 2000)}) as tell:
        rejected = reestimate(found.network, source, progress=lambda count: tell("BatchNorm", count))
    for id, reason in rejected.items():
        typer.echo(f"left out: {id}: {reason}", err=True)
    provenance = {**found.card.provenance, "batch_norm": "estimated again on training clips"}
    save_model(model, found.network, found.vocabulary, replace(found.card, provenance=provenance))


def _sweep(checkpoints: list[Path], model: Path, clips: Path, split: str) -> list[StartScore]:
    """Scores of the averages that start at each checkpoint; predictions that the run has kept are not made again."""
    from psla.data.clips import Clips
    from psla.data.source import open_source
    from psla.lab.sweep import start_sweep
    from psla.model import inference
    from psla.model.file import load_model

    part = Clips.read(clips).split(split)
    if not len(part):
        raise CommandError(f"{clips}: there is no clip in the split {split!r}")
    tagger = load_model(model)
    labels = part.labels().part(tagger.vocabulary)
    kept = {path.stem: path.parent.parent / "predictions" / split / path.name for path in checkpoints}
    stored = {stem: path for stem, path in kept.items() if path.is_file()}
    source = open_source(part, tagger.network.sample_rate)

    def predict(weights: Mapping[str, Tensor]) -> Predictions:
        tagger.network.load_state_dict(weights)
        return inference.predict(tagger.network, source, tagger.vocabulary, split=split).predictions

    with progress({"sweep": len(checkpoints)}) as tell:
        return start_sweep(checkpoints, predict, labels, stored, lambda count: tell("sweep", count))


@guarded
def ensemble(
    members: Annotated[list[Path], typer.Argument(help="Files of predictions, or model files.")],
    out: Annotated[Path, typer.Option(help="Averaged predictions; of models an ensemble, ENSEMBLE.json.")],
    clips: Annotated[Path | None, typer.Option(help="The table of clips, to score members and ensemble.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Choose members, on validation clips only.")] = False,
    as_json: Json = False,
) -> None:
    """Average predictions, or make an ensemble of models."""
    if out.suffix == ".json":
        if clips is not None or greedy:
            raise CommandError("an ensemble of models is written as it is: --clips and --greedy are for predictions")
        from psla.model.ensemble import write_ensemble

        write_ensemble(out, members)
        typer.echo(json.dumps({"out": str(out), "members": [str(m) for m in members]}) if as_json else str(out))
        return
    from psla.data.clips import Clips
    from psla.metrics.predictions import Predictions
    from psla.techniques import aggregation

    if len(set(members)) != len(members):
        raise CommandError("a file of predictions is given twice; each counts once")
    readers = {str(path): partial(Predictions.read, path, mapped=True) for path in members}
    if clips is None:
        if greedy:
            raise CommandError("--greedy needs the labels of the clips: give --clips")
        averaged = aggregation.average_predictions(read() for read in readers.values())
        averaged.save(out)
        data = {"out": str(out), "members": list(readers), "clips": len(averaged)}
        typer.echo(json.dumps(data) if as_json else f"{out}: the average of {len(members)}, {len(averaged)} clips")
        return
    corpus = Clips.read(clips)
    vocabulary = next(iter(readers.values()))().vocabulary
    labels = corpus.labels().part(vocabulary)
    chosen = list(readers.items())
    if greedy:
        names = [name for name, _ in aggregation.greedy_selection(readers, _restricted(corpus, vocabulary))]
        chosen = [(name, readers[name]) for name in names]
    averaged, scores = aggregation.ensemble(dict(chosen), labels)
    averaged.save(out)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "chosen_from": len(members), **scores.to_dict()}, ensure_ascii=False))
        return
    rows = [[name, number(value)] for name, value in scores.members.items()]
    rows += [["average", number(scores.average)], ["best", number(scores.best)], ["ensemble", number(scores.ensemble)]]
    typer.echo(table([f"{len(chosen)} of {len(members)} members, {scores.clips} clips", "mAP"], rows))
    typer.echo(f"predictions: {out}")


@guarded
def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of side A.")],
    second: Annotated[Path, typer.Argument(help="Predictions of side B.")],
    clips: Annotated[Path, typer.Option(help="The table of clips, which has the labels.")],
    also_a: Annotated[list[Path] | None, typer.Option(help="Side A with another seed; repeat it.")] = None,
    also_b: Annotated[list[Path] | None, typer.Option(help="Side B with another seed; as many as of A.")] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Draws of clips.")] = 1000,
    unit: Annotated[str, typer.Option(help="What is drawn: clip, or source (all clips of a recording).")] = "clip",
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    confidence: Annotated[float, typer.Option(help="Level of the interval.")] = 0.95,
    as_json: Json = False,
) -> None:
    """Say whether B is better than A, with an interval: a paired bootstrap over clips (and pairs of seeds)."""
    from psla.data.clips import Clips
    from psla.metrics.compare import compare as run
    from psla.metrics.predictions import Predictions

    if unit not in ("clip", "source"):
        raise CommandError(f"--unit must be clip or source, not {unit!r}")
    side_a = [Predictions.read(path) for path in (first, *(also_a or []))]
    side_b = [Predictions.read(path) for path in (second, *(also_b or []))]
    corpus = Clips.read(clips)
    sources = None
    if unit == "source":
        sources = dict(zip(corpus.clip_ids, corpus.frame["source"].to_list(), strict=True))
    labels = corpus.labels().part(side_a[0].vocabulary)
    with progress({"compare": resamples}) as tell:
        found = run(side_a, side_b, labels, resamples, sources, seed, confidence, lambda count: tell("compare", count))
    typer.echo(json.dumps(found.to_dict(), ensure_ascii=False) if as_json else _comparison(found))


def _restricted(corpus: Clips, vocabulary: Vocabulary) -> Clips:
    """The clips with the labels of a part of their vocabulary."""
    import polars as pl

    from psla.data.clips import Clips

    if corpus.vocabulary == vocabulary:
        return corpus
    kept = pl.col("labels").list.eval(pl.element().filter(pl.element().is_in(vocabulary.ids)))
    columns = [c for c in corpus.frame.columns if c not in ("true_labels", "events")]
    return Clips(corpus.frame.select(columns).with_columns(kept), vocabulary, corpus.name)


def _comparison(found: Comparison) -> str:
    level = f"{100 * found.confidence:g} %"
    rows = [
        ["mAP of A", number(found.first)],
        ["mAP of B", number(found.second)],
        ["B minus A", f"{found.difference:+.4f}"],
        [f"{level} interval", f"{found.low:+.4f} .. {found.high:+.4f}"],
        ["share of draws with B better", f"{found.share_better:.3f}"],
        ["classes won, lost by B", f"{found.wins}, {found.losses}"],
        ["of them sure", f"{found.sure_wins}, {found.sure_losses}"],
    ]
    parts = [table(["comparison", ""], rows)]
    ranked = sorted((c for c in found.per_class if c.positives), key=lambda c: -c.difference)
    shown = [c for c in [*ranked[:5], *ranked[5:][-5:]] if c.difference != 0]
    if shown:
        lines = [
            [
                c.name,
                str(c.positives),
                number(c.first),
                number(c.second),
                f"{c.difference:+.4f}",
                f"{c.low:+.4f}",
                f"{c.high:+.4f}",
            ]
            for c in shown
        ]
        parts.append(table(["most won and lost", "positives", "A", "B", "B - A", "low", "high"], lines))
    drawn = f"{found.resamples} draws of {found.units} {found.unit}s"
    if found.pairs > 1:
        drawn += f" and of {found.pairs} pairs of seeds"
    left_out = f"; left out of the files: {', '.join(map(str, found.left_out))}" if any(found.left_out) else ""
    parts.append(f"{drawn}; {found.clips} clips in common, SHA-256 of their ids {found.clip_ids_hash}{left_out}")
    return "\n\n".join(parts)
