"""Commands that use a model: `psla predict`, `evaluate` and `info`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from psla.cli.console import CommandError, Precision, guarded, number, progress, table

ModelName = Annotated[str, typer.Argument(help="A model file, an ensemble, or a name that `psla models` lists.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@guarded
def predict(
    model: ModelName,
    clips: Annotated[Path, typer.Argument(help="The table of clips, or a pack.")],
    out: Annotated[Path, typer.Option(help="The file of predictions to write.")],
    split: Annotated[str | None, typer.Option(help="train, validation or evaluation; by default all.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Keep float16, for a whole training set.")] = False,
    shard: Annotated[str | None, typer.Option(help="i/n: only this part of the clips, beside OUT.")] = None,
    merge: Annotated[int | None, typer.Option(min=1, help="Join so many parts that were made with --shard.")] = None,
    precision: Annotated[Precision, typer.Option(help="bf16: faster, probabilities within a few hundredths.")] = (
        Precision.float32
    ),
) -> None:
    """Write a model's probabilities for a table of clips."""
    from psla.data.clips import Clips

    corpus = Clips.read(clips)
    chosen = corpus if split is None else corpus.split(split)
    if not len(chosen):
        raise CommandError(f"{clips}: there is no clip in the {'table' if split is None else f'split {split!r}'}")
    from psla.metrics.parts import join, parse_part, part_path
    from psla.metrics.predictions import Predictions

    if merge is not None:
        parts = [part_path(out, (number, merge)) for number in range(1, merge + 1)]
        joined = join((Predictions.read(part) for part in parts), chosen.clip_ids)
        joined.save(out)
        typer.echo(f"{out}: {len(joined)} of {len(chosen)} clips, from {merge} parts")
        return
    if shard is not None:
        part = parse_part(shard)
        out = part_path(out, part)
        chosen = chosen.select(chosen.clip_ids[part[0] - 1 :: part[1]])
        if not len(chosen):
            raise CommandError(f"there are fewer clips than parts: nothing is left for part {shard}")
    from psla.data.source import open_source
    from psla.files import sha256_of
    from psla.model import inference
    from psla.model.host_memory import keep_freed_memory
    from psla.weights.catalogue import load_any, resolve

    keep_freed_memory()
    tagger = load_any(model)
    with progress({"predict": len(chosen)}) as report:
        found = inference.predict(
            tagger.network,
            open_source(chosen, tagger.network.sample_rate),
            tagger.vocabulary,
            split=split or "",
            progress=lambda count: report("predict", count),
            precision=precision.value,
        )
    kept = found.predictions
    probabilities = kept.probabilities.astype("float16" if half else "float32")
    Predictions(probabilities, kept.clip_ids, kept.vocabulary, kept.split, sha256_of(resolve(model))).save(out)
    for id, reason in found.rejected.items():
        typer.echo(f"left out: {id}: {reason}", err=True)
    typer.echo(f"{out}: {len(kept)} clips, {len(kept.vocabulary)} classes, {len(found.rejected)} left out")


@guarded
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A file of predictions.")],
    clips: Annotated[Path, typer.Option(help="The table of clips, which has the labels.")],
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file.")] = None,
) -> None:
    """Score predictions against the labels of the same clips."""
    from psla.data.clips import Clips
    from psla.files import write_json_atomic
    from psla.metrics.predictions import Predictions
    from psla.metrics.scores import score

    found, corpus = Predictions.read(predictions), Clips.read(clips)
    try:
        scores = score(found, corpus.labels().part(found.vocabulary))
    except KeyError as error:
        raise CommandError(f"{predictions} and {clips} do not fit: {error.args[0]}") from error
    data = scores.to_dict()
    if out is not None:
        write_json_atomic(out, data)
    if as_json:
        typer.echo(json.dumps(data, ensure_ascii=False))
        return
    names = ("mean_average_precision", "mean_auc", "d_prime", "mean_d_prime", "accuracy")
    rows = [[name.replace("_", " "), number(data[name])] for name in names]
    rows += [["clips", str(scores.clips)], ["classes scored", str(scores.classes_scored)]]
    rows.append(["classes without positives", str(len(scores.classes_without_positives))])
    typer.echo(table(["score", ""], rows))


@guarded
def info(model: ModelName, as_json: Json = False) -> None:
    """Say what a model file or an ensemble holds: architecture, front end, classes, provenance, scores."""
    from psla.model.file import read_header
    from psla.weights.catalogue import resolve

    path = resolve(model)
    if path.suffix == ".json":
        _ensemble_info(path, as_json)
        return
    header = read_header(path)
    if as_json:
        typer.echo(json.dumps(header, ensure_ascii=False))
        return
    classes = header["vocabulary"].get("names") or header["vocabulary"]["ids"]
    lines = [f"file: {path}", f"version: {header['version']}", f"classes: {_some(classes)}"]
    for part in ("architecture", "front_end"):
        lines.append(f"{part.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in header[part].items()))
    typer.echo("\n".join([*lines, *_card_lines(header["card"])]))


def _ensemble_info(path: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from psla.model.ensemble import load_ensemble

    model = load_ensemble(path)
    card = asdict(model.card)
    if as_json:
        typer.echo(json.dumps({"vocabulary": model.vocabulary.to_dict(), "card": card}, ensure_ascii=False))
        return
    names = [each.name for each in model.vocabulary]
    typer.echo("\n".join([f"ensemble: {path}", f"classes: {_some(names)}", *_card_lines(card)]))


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:10])}{f' and {len(names) - 10} more' if len(names) > 10 else ''})"


def _card_lines(card: Mapping[str, Any]) -> list[str]:
    said = {key: value for key, value in card.items() if value and key != "recipe"}
    texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in said.items()}
    return [f"{key.replace('_', ' ')}: {text}" for key, text in texts.items()]
