"""`psla info`, `models`, `import` and `average`: model files, and what they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.calibrate import told_of
from psla.cli.console import CommandError, answer, table, tell
from psla.cli.options import Json, ModelName
from psla.cli.places import ADDRESSED, FETCHED, Writes
from psla.cli.progress import fetching, progress

if TYPE_CHECKING:
    from torch import Tensor

    from psla.data.labels import Labels
    from psla.data.vocabulary import Vocabulary
    from psla.lab.sweep import StartScore
    from psla.metrics.predictions import Predictions


def push(
    model: Annotated[Path, typer.Argument(help="A model file."), FETCHED],
    address: Annotated[str, typer.Argument(metavar="hf://ORG/NAME", help="Where it goes on the hub.")],
    onnx: Annotated[Path | None, typer.Option(help="The same model as an ONNX file, to go with it."), FETCHED] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that others do not see.")] = False,
) -> None:
    """Put a model file on the hub, with a card that says what it is; others load it by the same address."""
    from psla.weights.hub import push as run_pushing

    typer.echo(run_pushing(model, address, onnx, private))


def info(model: ModelName, as_json: Json = False) -> None:
    """Say what a model file or an ensemble holds: architecture, front end, classes, provenance, scores."""
    from psla.model.clip_ids import count
    from psla.model.ensemble import load_ensemble
    from psla.model.file import read_header
    from psla.weights.catalogue import resolve

    with fetching(model) as report:
        path = resolve(model, report)
    if path.suffix == ".json":
        found = load_ensemble(path)
        header = {"vocabulary": found.vocabulary.to_dict(), "card": asdict(found.card)}
        told = [f"ensemble: {path}", f"classes: {_some([each.name for each in found.vocabulary])}"]
    else:
        header = read_header(path)
        classes = header["vocabulary"].get("names") or header["vocabulary"]["ids"]
        told = [f"file: {path}", f"version: {header['version']}", f"classes: {_some(classes)}"]
        for part in ("architecture", "front_end"):
            told.append(f"{part.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in header[part].items()))
    ids = header["vocabulary"]["ids"]
    names = dict(zip(ids, header["vocabulary"].get("names") or ids, strict=True))
    for key, value in header["card"].items():
        if key == "calibration" and value:
            told += told_of(value, names)
        elif key == "training_clips" and value:
            told.append(f"training clips: {count(value)}, by the hashes of their ids")
        elif value and key != "recipe":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            told.append(f"{key.replace('_', ' ')}: {text}")
    answer(as_json, header, *told)


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:10])}{f' and {len(names) - 10} more' if len(names) > 10 else ''})"


def models(
    fetch: Annotated[
        list[str] | None, typer.Option(help="Fetch this published model into the cache; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models that can be loaded by name, or fetch some of them."""
    from psla.weights.catalogue import listing

    if fetch:
        _fetch(fetch, as_json)
        return
    entries = listing()
    rows = []
    for entry in entries:
        score, count = entry["published_mean_average_precision"], entry["parameters"]
        size = "-" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.1f}"
        absent = "by hand" if entry["models"] > 1 else "-"
        here = "packaged" if entry["packaged"] else "cached" if entry["cached"] else absent
        mean, licence = "-" if score is None else f"{score:.3f}", entry["licence"].partition(" (")[0]
        facts = [mean, size, "-" if count is None else f"{count:.2f}", licence, here, entry["what"]]
        rows.append([entry["name"], entry["family"] or "-", *facts])
    told = [
        table(["model", "family", "mAP", "MB", "M par.", "licence", "here", "what"], rows),
        "mAP: as published, on the evaluation set of its corpus; M par.: parameters in millions; more: --json",
        "to fetch one: `psla models --fetch NAME`; its first use, as in `psla tag NAME FILE`, does it too",
    ]
    for entry in entries:
        if entry["packaged"]:
            scored = "".join(f", {words} {value:.3f}" for words, value in list(entry["scores"].items())[:1])
            told.append(f"{entry['name']}: {entry['what']}{scored}; `psla info {entry['name']}`")
        for alias in entry["aliases"]:
            which = "the cached one of the highest mAP, else the packaged one"
            told.append(f"{alias}: at present {entry['name']}; {which}")
    pages = {entry["family"]: entry["page"] for entry in entries if entry["family"]}
    told += [f"{family}: {page}" for family, page in pages.items()]
    answer(as_json, entries, *told)


def _fetch(names: Sequence[str], as_json: bool) -> None:
    from psla.weights.catalogue import fetch, named
    from psla.weights.packaged import Packaged

    data = []
    for name, entry in [(name, named(name)) for name in names]:  # all names are known before anything is fetched
        if isinstance(entry, Packaged):
            path, state = entry.path, "packaged"
        else:
            state = "cached already" if entry.cached else "fetched"
            with fetching(name) as report:
                path = fetch(entry, report)
        data.append({"name": name, "path": str(path), "state": state})
        if not as_json:
            typer.echo(f"{name}: {state}: {path}\nto tag with it: psla tag {name} FILE")
    if as_json:
        answer(True, data)


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A published .pth file, or a folder of them."), FETCHED],
    out: Annotated[
        Path,
        typer.Option(help="The model file to write (.safetensors); for a folder an ensemble (.json)."),
        Writes("model or ensemble"),
    ],
    vocabulary: Annotated[
        str | None, typer.Option(help="audioset, fsd50k, or a class list (index,mid,display_name)."), FETCHED
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="As --set frames=N: frames of a clip in training.")] = None,
    said: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="What the tensors do not tell, as hop_samples=160."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    training_data: Annotated[str, typer.Option(help="What the weights were trained on, and its licence.")] = "",
) -> None:
    """Make a model file of a published checkpoint, or an ensemble of a folder of them."""
    if out.suffix != (".json" if checkpoint.is_dir() else ".safetensors"):
        raise CommandError(f"{out}: a model file's name ends in .safetensors, that of a folder's ensemble in .json")
    from psla.training.keys import parse_override
    from psla.weights.readers.contract import READERS, import_weights, read_weights

    files = sorted([*checkpoint.glob("*.pth"), *checkpoint.glob("*.pt")]) if checkpoint.is_dir() else [checkpoint]
    if not files:
        raise CommandError(f"{checkpoint}: there is no .pth or .pt file in this folder")
    from psla.model.file import ModelCard, config_name

    given = dict(parse_override(text) for text in said or []) | ({} if frames is None else {"frames": frames})
    first = read_weights(files[0], given=given)
    network, family = first.network.config, READERS[first.card.provenance["family"]]
    count = network.classes
    classes = _vocabulary(vocabulary, count, files[0])
    if not family.published(count) and (missing := [name for name in family.required if name not in given]):
        raise CommandError(
            f"{files[0]} has {count} classes: say with {' '.join(f'--{name}' for name in missing)} "
            "how many frames a clip had in training"
        )
    card = ModelCard(licence=licence or "", training_data=training_data)
    made = []
    for file in files:
        target = out if not checkpoint.is_dir() else out.parent / f"{file.stem}.safetensors"
        made.append(import_weights(file, target, classes, given, card))
    if checkpoint.is_dir():
        from psla.model.ensemble import write_ensemble

        write_ensemble(out, made)
    members = f", {len(made)} members" if checkpoint.is_dir() else ""
    tell(f"{out}: {config_name(network)} ({classes[0].name}, …), {network.front_end.frames} frames{members}")


def _vocabulary(given: str | None, count: int, file: Path) -> Vocabulary:
    from psla.corpora.audioset import read_class_list
    from psla.data.vocabulary import Vocabulary
    from psla.weights.readers.contract import vocabulary_of

    if given is not None:
        known = {"audioset": Vocabulary.audioset, "fsd50k": Vocabulary.fsd50k}
        return known[given]() if given in known else read_class_list(given)
    if (found := vocabulary_of(count)) is None:
        raise CommandError(f"{file} has {count} classes: give their list with --vocabulary")
    return found


def average(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints, model files, or a run's folder."), FETCHED],
    out: Annotated[Path, typer.Option(help="The model file to write."), Writes("model")],
    from_epoch: Annotated[int | None, typer.Option(min=1, help="Leave out earlier epochs.")] = None,
    like: Annotated[
        Path | None, typer.Option(help="A model file of the same architecture; else the run's."), FETCHED
    ] = None,
    share: Annotated[
        list[str] | None, typer.Option(help="Of each file, in order; of two files the last's will do: 0.3.")
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(help="Clips: score averages from each checkpoint on; with --share 0,0.5,1 with each share."),
        ADDRESSED,
    ] = None,
    split: Annotated[str, typer.Option(help="Of the clips of --sweep.")] = "validation",
    batchnorm: Annotated[
        str, typer.Option(help="BatchNorm's statistics: average them, or reestimate them on the clips of --clips.")
    ] = "average",
    clips: Annotated[
        Path | None, typer.Option(help="Clips whose split train --batchnorm reestimate hears."), ADDRESSED
    ] = None,
    as_json: Json = False,
) -> None:
    """Average the weights of checkpoints into one model, all alike or by their shares."""
    if batchnorm not in ("average", "reestimate") or (batchnorm == "reestimate") != (clips is not None):
        raise CommandError("--batchnorm is average, or reestimate with --clips, the table of the training clips")
    from psla.techniques.aggregation import average_model, checkpoints_from

    chosen = checkpoints_from(checkpoints, from_epoch)
    trials, tried = _shares(share, len(chosen), None if sweep is None else split), []
    shares = None if trials is None else trials[0]
    if trials is not None and sweep is not None:
        tried = _sweep_shares(chosen, trials, like, sweep, out)
        shares = max(zip(tried, trials, strict=True), key=lambda pair: pair[0][1])[1]
    average_model(chosen, out, like, shares)
    if clips is not None:
        _reestimate(out, clips)
    data: dict[str, Any] = {"out": str(out), "checkpoints": [str(path) for path in chosen]}
    told = [f"{out}: the average of {len(chosen)} ({', '.join(path.stem for path in chosen)})"]
    if shares is not None:
        data["shares"] = shares
        told[0] += f", their shares {', '.join(f'{each:g}' for each in shares)}"
    if tried:
        data["sweep"] = [{"share": each, "mean_average_precision": value} for each, value in tried]
        told.append(table([f"share of {chosen[-1].stem}", "mAP"], [[f"{each:g}", value] for each, value in tried]))
    elif sweep is not None:
        points = _sweep(chosen, out, sweep, split)
        data["sweep"] = [asdict(point) for point in points]
        told.append(table(["averaged from", "checkpoints", "weights", "predictions", "alone"], map(astuple, points)))
    answer(as_json, data, *told)


def _shares(given: Sequence[str] | None, files: int, sweep: str | None) -> list[list[float]] | None:
    """The shares of the files, or all that are to be tried on the split `sweep`; None: all files alike."""
    if given is None:
        return None
    texts = [text.strip() for each in given for text in each.split(",")]
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if not numbers or not all(0.0 <= number <= 1.0 for number in numbers):
        raise CommandError(f"--share takes numbers in [0, 1], as in 0.3 or 0,0.5,1; got {','.join(given)!r}")
    if sweep is not None and files != 2:
        raise CommandError(f"--sweep over shares is for two files, the second's share is tried; got {files}")
    if sweep not in (None, "validation"):
        raise CommandError(
            f"--split {sweep}: the share with the best score is taken, on validation clips only, since a choice makes "
            "the score of the clips it was made on too good"
        )
    if sweep is not None or (len(numbers) == 1 and files == 2):
        return [[1.0 - number, number] for number in numbers]
    return [numbers]


def _reestimate(model: Path, clips: Path) -> None:
    """Replace a model file's BatchNorm statistics by those of training clips."""
    from psla.data.clips import Clips
    from psla.data.source import open_source
    from psla.model.file import load_model, save_model
    from psla.training.batch_norm import reestimate

    part, found = Clips.read(clips).split("train"), load_model(model)
    if found.card.recipe.get("backbone", {}).get("batch_norm") == "frozen":
        raise CommandError(
            f"{model}: BatchNorm's statistics were frozen in its training (recipe key backbone.batch_norm) and stay: "
            "the average is written with them; leave out --batchnorm reestimate"
        )
    source = open_source(part, found.network.sample_rate)
    with progress({"BatchNorm": min(len(part), 2000)}) as report:
        rejected = reestimate(found.network, source, progress=lambda count: report("BatchNorm", count))
    for id, reason in rejected.items():
        typer.echo(f"left out: {id}: {reason}", err=True)
    provenance = {**found.card.provenance, "batch_norm": "estimated again on training clips"}
    save_model(model, found.network, found.vocabulary, replace(found.card, provenance=provenance))


def _sweep(checkpoints: list[Path], model: Path, clips: Path, split: str) -> list[StartScore]:
    """Scores of the averages that start at each checkpoint; predictions that the run has kept are not made again."""
    from psla.lab.sweep import start_sweep

    labels, predict = _held_out(model, clips, split)
    kept = {path.stem: path.parent.parent / "predictions" / split / path.name for path in checkpoints}
    stored = {stem: path for stem, path in kept.items() if path.is_file()}
    with progress({"sweep": len(checkpoints)}) as report:
        return start_sweep(checkpoints, predict, labels, stored, lambda count: report("sweep", count))


def _sweep_shares(
    files: list[Path], trials: list[list[float]], like: Path | None, clips: Path, out: Path
) -> list[tuple[float, float]]:
    """The share of the last file and the score of the average, for each of the shares, on the validation clips."""
    from psla.files import scratch
    from psla.lab.sweep import share_sweep
    from psla.techniques.aggregation import average_model

    with scratch(out) as temporary:
        labels, predict = _held_out(average_model(files, temporary, like, trials[0]), clips, "validation")
    if not labels.counts().any():
        raise CommandError(f"{clips}: no validation clip has a label of these classes: there is no score to choose by")
    with progress({"sweep": len(trials)}) as report:
        return share_sweep(files, [each[-1] for each in trials], predict, labels, lambda count: report("sweep", count))


def _held_out(model: Path, clips: Path, split: str) -> tuple[Labels, Callable[[Mapping[str, Tensor]], Predictions]]:
    """The labels of a split, and what predicts it with the weights that it is given."""
    from psla.data.clips import Clips
    from psla.data.source import open_source
    from psla.model import inference
    from psla.model.file import load_model

    part = Clips.read(clips).split(split)
    if not len(part):
        raise CommandError(f"{clips}: there is no clip in the split {split!r}")
    tagger = load_model(model)
    labels = part.labels().part(tagger.vocabulary)
    source = open_source(part, tagger.network.sample_rate)

    def predict(weights: Mapping[str, Tensor]) -> Predictions:
        tagger.network.load_state_dict(weights)
        return inference.predict(tagger.network, source, tagger.vocabulary, split=split).predictions

    return labels, predict
