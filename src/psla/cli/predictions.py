"""`psla predict`, `evaluate`, `ensemble` and `compare`: predictions are made, scored, averaged and compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, answer, part_of, spread_over, table, tell
from psla.cli.options import Cluster, Json, LabelledClips, ModelName, Precision, Truth, WithPrecision
from psla.cli.places import ADDRESSED, FETCHED, Writes
from psla.cli.progress import progress
from psla.files import few

if TYPE_CHECKING:
    from psla.data.clips import Clips
    from psla.data.labels import Labels
    from psla.data.vocabulary import Vocabulary
    from psla.metrics.compare import Comparison
    from psla.model.inference import Inference


def predict(
    model: ModelName,
    clips: Annotated[Path, typer.Argument(help="The table of clips, or a pack."), ADDRESSED],
    out: Annotated[
        Path,
        typer.Option(help="The file of predictions to write."),
        Writes("predictions", alone=("shard", "merge", "cluster")),
    ],
    split: Annotated[str | None, typer.Option(help="train, validation or evaluation; by default all.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Keep float16, for a whole training set.")] = False,
    shard: Annotated[str | None, typer.Option(help="i/n: only this part of the clips, beside OUT.")] = None,
    merge: Annotated[int | None, typer.Option(min=1, help="Join so many parts that were made with --shard.")] = None,
    cluster: Cluster = None,
    precision: WithPrecision = Precision.float32,
) -> None:
    """Write a model's probabilities for a table of clips."""
    from psla.data.clips import Clips

    if cluster is not None and (shard is not None or merge is not None):
        raise CommandError("--shard and --merge are for schedulers without Ray: give them or --cluster, not both")
    corpus = Clips.read(clips)
    chosen = corpus if split is None else corpus.split(split)
    if not len(chosen):
        raise CommandError(f"{clips}: there is no clip in the {'table' if split is None else f'split {split!r}'}")
    from psla.metrics.parts import join, part_path
    from psla.metrics.predictions import Predictions

    if merge is not None:
        if shard is not None or merge > len(chosen):
            why = "--shard makes a part" if shard is not None else f"there are {len(chosen)} clips"
            raise CommandError(f"--merge {merge}: {why}; give the number of the parts that were made, and no --shard")
        parts = [part_path(out, (number, merge)) for number in range(1, merge + 1)]
        joined = join((Predictions.read(part) for part in parts), chosen.clip_ids)
        joined.save(out)
        tell(f"{out}: {len(joined)} of {len(chosen)} clips, from {merge} parts")
        return
    if (part := part_of(shard)) is not None:
        out = part_path(out, part)
        chosen = chosen.select(chosen.clip_ids[part[0] - 1 :: part[1]])
        if not len(chosen):
            raise CommandError(f"there are fewer clips than parts: nothing is left for part {shard}")
    with progress({"predict": len(chosen)}) as report:
        told = partial(report, "predict")
        if cluster is not None:
            from psla.files import sha256_of
            from psla.tagging.predicting import PredictJob
            from psla.weights.catalogue import resolve

            job = PredictJob(model, sha256_of(resolve(model)), chosen, out, split or "", half, precision.value)
            with spread_over(cluster) as spread:
                assert spread is not None
                found = job.predict(spread, told)
        else:
            found = _predicted(model, chosen, out, split or "", half, precision, told)
    kept = found.predictions
    for id, reason in found.rejected.items():
        typer.echo(f"left out: {id}: {reason}", err=True)
    tell(f"{out}: {len(kept)} clips, {len(kept.vocabulary)} classes, {len(found.rejected)} left out")


def _predicted(
    model: str,
    clips: Clips,
    out: Path,
    split: str,
    half: bool,
    precision: Precision,
    told: Callable[[int], None],
) -> Inference:
    """Predict in this process, and write it."""
    from psla.data.source import open_source
    from psla.files import sha256_of
    from psla.metrics.predictions import Predictions
    from psla.model import inference
    from psla.model.host_memory import keep_freed_memory
    from psla.weights.catalogue import load_any, resolve

    keep_freed_memory()
    tagger = load_any(model)
    source = open_source(clips, tagger.network.sample_rate)
    found = inference.predict(
        tagger.network, source, tagger.vocabulary, split=split, progress=told, precision=precision.value
    )
    kept = found.predictions
    probabilities = kept.probabilities.astype("float16" if half else "float32")
    Predictions(probabilities, kept.clip_ids, kept.vocabulary, kept.split, sha256_of(resolve(model))).save(out)
    return found


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A file of predictions."), FETCHED],
    clips: LabelledClips,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file."), Writes("scores")] = None,
    truth: Truth = False,
) -> None:
    """Score predictions against the labels of the same clips."""
    from psla.data.clips import Clips
    from psla.files import write_json_atomic
    from psla.metrics.predictions import Predictions
    from psla.metrics.scores import score

    found, corpus = Predictions.read(predictions), Clips.read(clips)
    labels = _labels(corpus, clips, found.vocabulary, predictions, truth)
    try:
        scores = score(found, labels)
    except KeyError as error:
        raise CommandError(f"{predictions} and {clips} do not fit: {error.args[0]}") from error
    data = scores.to_dict()
    if out is not None:
        write_json_atomic(out, data)
    names = ("mean_average_precision", "mean_auc", "d_prime", "mean_d_prime", "accuracy")
    rows = [[name.replace("_", " "), data[name]] for name in names]
    rows += [["clips", scores.clips], ["classes scored", scores.classes_scored]]
    rows.append(["classes without positives", len(scores.classes_without_positives)])
    answer(as_json, data, table(["score", ""], rows))


def _labels(corpus: Clips, clips: Path, vocabulary: Vocabulary, predictions: Path, truth: bool = False) -> Labels:
    """Of the clips, for the classes of predictions; refused by both names where the table does not have them."""
    if absent := [each.name for each in vocabulary if each.id not in corpus.vocabulary]:
        raise CommandError(
            f"{predictions} and {clips} do not fit: {len(absent)} of the {len(vocabulary)} classes of the predictions "
            f"are none of the table's {len(corpus.vocabulary)}, by their ids: {few(absent)}"
        )
    return corpus.labels("true_labels" if truth else "labels").part(vocabulary)


def ensemble(
    members: Annotated[list[Path], typer.Argument(help="Files of predictions, or model files."), FETCHED],
    out: Annotated[
        Path,
        typer.Option(help="Averaged predictions; of models an ensemble, ENSEMBLE.json."),
        Writes("predictions or ensemble"),
    ],
    clips: Annotated[
        Path | None, typer.Option(help="The table of clips, to score members and ensemble."), ADDRESSED
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Choose members, on validation clips only.")] = False,
    as_json: Json = False,
) -> None:
    """Average predictions, or make an ensemble of models."""
    if out.suffix == ".json":
        if clips is not None or greedy:
            raise CommandError("an ensemble of models is written as it is: --clips and --greedy are for predictions")
        from psla.model.ensemble import write_ensemble

        write_ensemble(out, members)
        answer(as_json, {"out": str(out), "members": [str(m) for m in members]}, str(out), ensure_ascii=True)
        return
    from psla.data.clips import Clips
    from psla.files import sha256_of
    from psla.metrics.predictions import Predictions
    from psla.techniques import aggregation

    if len({sha256_of(member) for member in members}) != len(members):  # under whatever names
        raise CommandError("a file of predictions is given twice; each counts once")
    readers = {str(path): partial(Predictions.read, path, mapped=True) for path in members}
    if clips is None:
        if greedy:
            raise CommandError("--greedy needs the labels of the clips: give --clips")
        averaged = aggregation.average_predictions(read() for read in readers.values())
        averaged.save(out)
        data = {"out": str(out), "members": list(readers), "clips": len(averaged)}
        told = f"{out}: the average of {len(members)}, {len(averaged)} clips"
        answer(as_json, data, told, ensure_ascii=True)
        return
    corpus = Clips.read(clips)
    vocabulary = next(iter(readers.values()))().vocabulary
    labels = _labels(corpus, clips, vocabulary, members[0])
    chosen = list(readers.items())
    if greedy:
        names = [name for name, _ in aggregation.greedy_selection(readers, corpus.part(vocabulary))]
        chosen = [(name, readers[name]) for name in names]
    averaged, scores = aggregation.ensemble(dict(chosen), labels)
    averaged.save(out)
    rows = [[name, value] for name, value in scores.members.items()]
    rows += [["average", scores.average], ["best", scores.best], ["ensemble", scores.ensemble]]
    told = table([f"{len(chosen)} of {len(members)} members, {scores.clips} clips", "mAP"], rows)
    data = {"out": str(out), "chosen_from": len(members), **scores.to_dict()}
    answer(as_json, data, told, f"predictions: {out}")


def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of side A."), FETCHED],
    second: Annotated[Path, typer.Argument(help="Predictions of side B."), FETCHED],
    clips: LabelledClips,
    also_a: Annotated[list[Path] | None, typer.Option(help="Side A with another seed; repeat it."), FETCHED] = None,
    also_b: Annotated[
        list[Path] | None, typer.Option(help="Side B with another seed; as many as of A."), FETCHED
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, max=1_000_000, help="Draws of clips.")] = 1000,
    unit: Annotated[str, typer.Option(help="What is drawn: clip, or source (all clips of a recording).")] = "clip",
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    confidence: Annotated[float, typer.Option(help="Level of the interval.")] = 0.95,
    truth: Truth = False,
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
    labels = _labels(corpus, clips, side_a[0].vocabulary, first, truth)
    with progress({"compare": resamples}) as report:
        found = run(
            side_a, side_b, labels, resamples, sources, seed, confidence, lambda count: report("compare", count)
        )
    answer(as_json, found.to_dict(), _comparison(found))


def _comparison(found: Comparison) -> str:
    level = f"{100 * found.confidence:g} %"
    rows: list[list[Any]] = [
        ["mAP of A", found.first],
        ["mAP of B", found.second],
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
            [c.name, c.positives, c.first, c.second, *(f"{x:+.4f}" for x in (c.difference, c.low, c.high))]
            for c in shown
        ]
        parts.append(table(["most won and lost", "positives", "A", "B", "B - A", "low", "high"], lines))
    drawn = f"{found.resamples} draws of {found.units} {found.unit}s"
    if found.pairs > 1:
        drawn += f" and of {found.pairs} pairs of seeds"
    left_out = f"; left out of the files: {', '.join(map(str, found.left_out))}" if any(found.left_out) else ""
    parts.append(f"{drawn}; {found.clips} clips in common, SHA-256 of their ids {found.clip_ids_hash}{left_out}")
    return "\n\n".join(parts)
