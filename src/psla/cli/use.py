"""Commands that use a model: `psla predict`, `evaluate`, `tag` and `info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from psla.cli.console import CommandError, guarded, number, progress, table

ModelPath = Annotated[Path, typer.Argument(help="A model file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@guarded
def predict(
    model: ModelPath,
    clips: Annotated[Path, typer.Argument(help="The table of clips.")],
    out: Annotated[Path, typer.Option(help="The file of predictions to write.")],
    split: Annotated[str | None, typer.Option(help="train, validation or evaluation; by default all.")] = None,
) -> None:
    """Write a model's probabilities for a table of clips."""
    from psla.data.clips import Clips

    corpus = Clips.read(clips)
    chosen = corpus if split is None else corpus.split(split)
    if not len(chosen):
        raise CommandError(f"{clips}: there is no clip in the {'table' if split is None else f'split {split!r}'}")
    from psla.data.source import open_source
    from psla.evaluation.predictions import Predictions
    from psla.files import sha256_of
    from psla.model import inference
    from psla.model.model_file import load_model

    tagger = load_model(model)
    with progress({"predict": len(chosen)}) as report:
        found = inference.predict(
            tagger.network,
            open_source(chosen),
            tagger.vocabulary,
            split=split or "",
            progress=lambda count: report("predict", count),
        )
    kept = found.predictions
    Predictions(kept.probabilities, kept.clip_ids, kept.vocabulary, kept.split, sha256_of(model)).save(out)
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
    from psla.evaluation.metrics import score
    from psla.evaluation.predictions import Predictions
    from psla.files import write_json_atomic

    found, corpus = Predictions.read(predictions), Clips.read(clips)
    from psla.recipe.training import restricted_labels

    try:
        scores = score(found, restricted_labels(corpus, found.vocabulary))
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
def tag(
    model: ModelPath,
    files: Annotated[list[Path], typer.Argument(help="Sound files of any length.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    as_json: Json = False,
    hop: Annotated[float | None, typer.Option(help="Seconds between windows; by default a whole window.")] = None,
) -> None:
    """Say what sounds in files; exits with 1 if one of them could not be read."""
    from psla.data.audio import AudioError
    from psla.tagging.tagger import load

    tagger = load(model, hop)
    results: list[dict[str, Any]] = []
    broken = 0
    for file in files:
        try:
            result = tagger.tag(file)
        except AudioError as error:
            broken += 1
            results.append({"path": str(file), "error": error.reason})
            typer.echo(f"psla: {' '.join(str(error).split())}", err=True)
            continue
        results.append({"path": str(file), **result.to_dict(top)})
        if not as_json:
            rows = [[c.name, number(probability)] for c, probability in result.top(top)]
            typer.echo(table([f"{file} ({result.duration_s:.2f} s)", "probability"], rows) + "\n")
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False))
    if broken:
        raise typer.Exit(1)


@guarded
def info(model: ModelPath, as_json: Json = False) -> None:
    """Say what a model file holds: architecture, front end, classes, provenance, scores."""
    from psla.model.model_file import read_header

    header = read_header(model)
    if as_json:
        typer.echo(json.dumps(header, ensure_ascii=False))
        return
    classes = header["vocabulary"].get("names") or header["vocabulary"]["ids"]
    shown = ", ".join(classes[:10]) + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")
    lines = [f"file: {model}", f"version: {header['version']}", f"classes: {len(classes)} ({shown})"]
    for part in ("architecture", "front_end"):
        lines.append(f"{part.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in header[part].items()))
    for key, value in header["card"].items():
        if value and key != "recipe":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append(f"{key.replace('_', ' ')}: {text}")
    typer.echo("\n".join(lines))
