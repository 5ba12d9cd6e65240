"""`psla import` and `psla models`: published checkpoints as model files, and which models there are by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, guarded, table

if TYPE_CHECKING:
    from psla.data.vocabulary import Vocabulary


@guarded
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A published .pth file, or a folder of them.")],
    out: Annotated[
        Path, typer.Option(help="The model file to write (.safetensors); for a folder an ensemble (.json).")
    ],
    vocabulary: Annotated[
        str | None, typer.Option(help="audioset, fsd50k, or a class list (index,mid,display_name).")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip in training, 10 ms each.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    training_data: Annotated[str, typer.Option(help="What the weights were trained on, and its licence.")] = "",
) -> None:
    """Make a model file of a published checkpoint, or an ensemble of a folder of them."""
    if out.suffix != (".json" if checkpoint.is_dir() else ".safetensors"):
        raise CommandError(f"{out}: a model file's name ends in .safetensors, that of a folder's ensemble in .json")
    from psla.weights.readers.contract import import_weights
    from psla.weights.readers.psla import FRAMES, LICENCE, read_released

    files = sorted(checkpoint.glob("*.pth")) if checkpoint.is_dir() else [checkpoint]
    if not files:
        raise CommandError(f"{checkpoint}: there is no .pth file in this folder")
    from psla.model.file import ModelCard

    network = read_released(files[0]).config
    count = network.classes
    classes = _vocabulary(vocabulary, count, files[0])
    if frames is None and count not in FRAMES:
        raise CommandError(f"{files[0]} has {count} classes: say with --frames how many frames a clip had in training")
    if licence is None:  # of files that the authors of the paper can have published, theirs
        licence = LICENCE if count in FRAMES else "not stated"
    card = ModelCard(licence=licence, training_data=training_data)
    made = []
    for file in files:
        target = out if not checkpoint.is_dir() else out.parent / f"{file.stem}.safetensors"
        made.append(import_weights(file, target, classes, frames, card))
    if checkpoint.is_dir():
        from psla.model.ensemble import write_ensemble

        write_ensemble(out, made)
    members = f", {len(made)} members" if checkpoint.is_dir() else ""
    typer.echo(
        f"{out}: {network.backbone}, {network.heads} heads, {count} classes ({classes[0].name}, …), "
        f"{network.front_end.frames if frames is None else frames} frames{members}"
    )


def _vocabulary(given: str | None, count: int, file: Path) -> Vocabulary:
    from psla.corpora.audioset import read_class_list
    from psla.data.vocabulary import Vocabulary

    known = {"audioset": Vocabulary.audioset, "fsd50k": Vocabulary.fsd50k}
    if given is None:
        for make in known.values():
            if len(make()) == count:
                return make()
        raise CommandError(f"{file} has {count} classes: give their list with --vocabulary")
    return known[given]() if given in known else read_class_list(given)


@guarded
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models that can be loaded by name."""
    entries = [*_shipped(), *_published()]
    if as_json:
        typer.echo(json.dumps(entries, ensure_ascii=False))
        return
    rows = []
    for entry in entries:
        score = entry["published_mean_average_precision"]
        size = "-" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.1f} MB"
        by_hand = "by hand" if entry["models"] > 1 else "no"
        here = "shipped" if entry["shipped"] else "yes" if entry["cached"] else by_hand
        mean = "-" if score is None else f"{score:.3f}"
        rows.append([entry["name"], mean, size, here, entry["what"], entry["url"] or "psla"])
    typer.echo(table(["model", "mAP", "size", "here", "what", "from"], rows))
    typer.echo("mAP: as published, on the evaluation set of its corpus; each such is EfficientNet-B2 with four heads")
    for name in (entry["name"] for entry in entries if entry["shipped"]):
        typer.echo(f"{name}: comes with psla; its data, licence and scores: `psla info {name}`")


def _shipped() -> list[dict[str, Any]]:
    from psla.data.vocabulary import Vocabulary
    from psla.model.file import read_header
    from psla.weights.packaged import SHIPPED

    entries = []
    for entry in SHIPPED.values():
        classes, accuracy = len(Vocabulary.from_dict(read_header(entry.path)["vocabulary"])), entry.accuracy
        scored = "" if accuracy is None else f", cross-validated accuracy {accuracy:.3f}"
        entries.append(
            {
                "name": entry.name,
                "what": f"{classes} classes{scored}",
                "corpus": entry.corpus,
                "classes": classes,
                "published_mean_average_precision": None,
                "cross_validated_accuracy": accuracy,
                "models": 1,
                "bytes": entry.path.stat().st_size,
                "url": None,
                "cached": True,
                "shipped": True,
            }
        )
    return entries


def _published() -> list[dict[str, Any]]:
    from psla.weights.catalogue import CATALOGUE

    return [
        {
            "name": entry.name,
            "what": entry.what,
            "corpus": entry.corpus,
            "classes": len(entry.vocabulary),
            "published_mean_average_precision": entry.mean_average_precision,
            "cross_validated_accuracy": None,
            "models": entry.models,
            "bytes": entry.checkpoint.stat().st_size if entry.checkpoint.is_file() else None,
            "url": entry.url,
            "cached": entry.cached,
            "shipped": False,
        }
        for entry in CATALOGUE.values()
    ]
