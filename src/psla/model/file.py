"""The model file: one .safetensors that holds all that is needed to tag.

Weights as tensors; the front end, the architecture, the vocabulary and the provenance as JSON in the metadata. A
checksum covers each: `header_sha256` the header, and `sha256` the tensors, their names and shapes (in files without the
first, which are older, the numbers alone). Nothing is guessed at load: an unknown version, kind or key, a key that is
missing, a tensor too many or too few, or numbers that are not those that were written are refused by name. A file of an
earlier version is brought up to this one step by step (`_STEPS`), and what such a file cannot say has one declared
value there. Whatever a file claims is compared with its size before memory is spent on it (`psla.model.tensor_file`).

Not here: several files as one model (`psla.model.ensemble`), models by name (`psla.weights.catalogue`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from psla.data.vocabulary import Vocabulary
from psla.journal import json_object
from psla.model.backbones.contract import BACKBONES
from psla.model.calibration import Calibration
from psla.model.card import ModelCard as ModelCard
from psla.model.frontends.contract import front_end_config
from psla.model.network import NetworkConfig, TaggingModel, TaggingNetwork
from psla.model.pooling import HEADS
from psla.model.tensor_file import TensorFileError, digest, read_layout, write_tensors
from psla.model.tensor_file import read_tensors as _read_tensors
from psla.sealed import checksum

VERSION = 2
_KEY = "psla"
_SUM = "header_sha256"
_PARTS = ("architecture", "front_end", "vocabulary", "card")
# Bounds on what a front end may ask for.
_LONGEST_WINDOW_S = 3600.0
_LONGEST_FRAME_S = 1.0


class ModelFileError(ValueError):
    """A file that is not a model file of this version, or does not hold what it says."""


N = TypeVar("N", bound=TaggingModel)


@dataclass(frozen=True)
class Model(Generic[N]):
    """A network (of an ensemble's file: the ensemble) in evaluation mode with its vocabulary and card."""

    network: N
    vocabulary: Vocabulary
    card: ModelCard


def save_model(
    path: str | Path,
    network: TaggingNetwork,
    vocabulary: Vocabulary,
    card: ModelCard,
    dtype: Literal["float32", "float16"] = "float32",
) -> Path:
    """Write a model file, atomically.

    Args:
        dtype: how the weights of convolutions and matrices are stored. "float16" halves the file; whoever loads it
            computes in float32 all the same. Biases, head weights and all of batch normalisation stay float32.

    Raises:
        ModelFileError: another number of classes in the network than in the vocabulary, an ensemble (which is written
            by `psla.model.ensemble.write_ensemble`), a threshold of a class that is not in the vocabulary, or weights
            that float16 cannot hold.
        ValueError: another dtype.
    """
    if not isinstance(network, TaggingNetwork):
        raise ModelFileError(f"a model file holds one network, not a {type(network).__name__}")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be float32 or float16, not {dtype!r}")
    if network.config.classes != len(vocabulary):
        raise ModelFileError(f"the network has {network.config.classes} classes, the vocabulary {len(vocabulary)}")
    _check_classes(card, vocabulary)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if dtype == "float16":
        tensors = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ModelFileError(f"{name} has numbers that float16 cannot hold: store the model as float32")
    header = {
        "architecture": {key: value for key, value in asdict(network.config).items() if key != "front_end"},
        "front_end": network.config.front_end.to_dict(),
        "vocabulary": vocabulary.to_dict(),
    }
    return _write(path, tensors, {**header, "card": asdict(card)})


def with_card(path: str | Path, out: str | Path, card: ModelCard) -> Path:
    """Write a model file with the weights of another, to the bit, and another card; atomically.

    Raises:
        ModelFileError: `path` is no model file, or the card has classes that are not in its vocabulary.
    """
    model, header = load_model(path), read_header(path)
    _check_classes(card, model.vocabulary)
    parts = {part: header[part] for part in _PARTS if part != "card"}
    return _write(out, read_tensors(path), {**parts, "card": asdict(card)})


def _write(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write tensors with a header of this version, and the checksums of both."""
    try:
        header = json.loads(json.dumps({**header, "version": VERSION, "sha256": digest(tensors, {})}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"the card cannot be written as JSON: {error}") from error
    return write_tensors(path, tensors, {_KEY: json.dumps({**header, _SUM: checksum(header)})})


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a model file, without its weights: `version` is the file's own, the rest as version 2 has it.

    Raises:
        ModelFileError: missing, not a model file, of another version, or not what was written.
    """
    header, _ = _read_header(path)
    _contents(path, header)
    return header


def _read_header(path: str | Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The header, and the shapes of the tensors that follow it."""
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: there is no such model file")
    try:
        metadata, shapes = read_layout(path)
    except (TensorFileError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable model file ({error})") from error
    if _KEY not in metadata:
        raise ModelFileError(f"{path}: a safetensors file, but not a psla model file (no {_KEY!r} in its metadata)")
    try:
        header = json_object(metadata[_KEY])
    except ValueError as error:
        raise ModelFileError(f"{path}: not a readable model file (its metadata: {error})") from error
    if (kind := header.get("format", "psla-model")) != "psla-model":
        raise ModelFileError(f"{path}: not a model file; it says that it is {kind!r:.80}")
    version = header.get("version")
    if isinstance(version, bool) or version not in (*_STEPS, VERSION):
        raise ModelFileError(f"{path}: model file version {version!r:.80}; this psla reads versions 1 to {VERSION}")
    if missing := {*_PARTS, *(["sha256"] if version > 1 else [])} - set(header):
        raise ModelFileError(f"{path}: the metadata lacks {', '.join(sorted(missing))}")
    if unknown := set(header) - {*_PARTS, "version", "sha256", *([_SUM] if version > 1 else [])}:
        raise ModelFileError(f"{path}: the metadata has the unknown parts {', '.join(sorted(unknown))}")
    for part in _PARTS:
        if not isinstance(header[part], dict):
            raise ModelFileError(f"{path}: {part} in the metadata must be a JSON object")
    another = _SUM in header and header.pop(_SUM) != checksum(header)
    for step in range(version, VERSION):
        header = _STEPS[step](header)
    header |= {part: {**missing, **header[part]} for part, missing in _LATER.items()}
    if another:
        _contents(path, header)  # what it says may be impossible: that is the better sentence
        raise ModelFileError(f"{path}: its header is not the one that was written (SHA-256): fetch or make it again")
    return header, shapes


def _from_version_1(header: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew one front end, called its `std` `deviation`, and had no checksum in its first weeks."""
    front_end = {"std" if name == "deviation" else name: value for name, value in header["front_end"].items()}
    return {**header, "front_end": {"kind": "kaldi", **front_end}, "sha256": header.get("sha256")}


# What files may lack: fields that came later, with what was meant before they were there.
_LATER: dict[str, dict[str, Any]] = {
    "architecture": {"head": "attention", "options": {}, "familiarity": 0, "fitted": 0, "fitted_head": ""},
    "front_end": {"shortest_frames": 0, "repeat_frames": 0},
}

# From each earlier version to the next.
_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_version_1}


def load_model(path: str | Path) -> Model[TaggingNetwork]:
    """Read a model file.

    Raises:
        ModelFileError: see `read_header`; also tensors that are missing, unexpected or of another shape, by name, or
            numbers that are not those that were written.
    """
    header, shapes = _read_header(path)
    config, vocabulary, card = _contents(path, header)
    # The largest that the architecture can ask for; the rest of a network is bounded by its backbone's options.
    where, kept = ("pooling.kept", config.classes - config.fitted) if config.fitted else ("pooling", config.classes)
    needed = {f"{where}.{HEADS[config.head].largest}": max(config.heads, 1) * kept}
    needed |= {"pooling.fitted.output.weight": config.fitted} if config.fitted else {}
    for name, rows in (needed | ({"familiarity.weight": config.familiarity} if config.familiarity else {})).items():
        if shapes.get(name, ())[:1] != (rows,):
            found = f"has the shape {shapes[name]}" if name in shapes else "is missing"
            raise ModelFileError(f"{path}: {name} {found}; {config_name(config)} need {rows} rows")
    network = TaggingNetwork(config)
    load_tensors(network, path)
    return Model(network.eval(), vocabulary, card)


def _contents(path: str | Path, header: dict[str, Any]) -> tuple[NetworkConfig, Vocabulary, ModelCard]:
    """What the header says, checked."""
    try:
        config = _config(header)
        vocabulary = Vocabulary.from_dict(header["vocabulary"])
        card = ModelCard.from_dict(header["card"])
        _check_classes(card, vocabulary)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: the metadata cannot be used: {error}") from error
    if config.classes != len(vocabulary):
        raise ModelFileError(f"{path}: {config.classes} outputs for a vocabulary of {len(vocabulary)} classes")
    return config, vocabulary, card


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file (a model file or a checkpoint), compared with its checksum, if it has one.

    Raises:
        ModelFileError: the file cannot be read, or does not hold what was written.
    """
    tensors, whole = _stored(path)
    if not whole:
        raise ModelFileError(f"{path}: its numbers are not those that were written (SHA-256): fetch or make it again")
    return tensors


def _stored(path: str | Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors, and whether they are those that a model file's header speaks of."""
    try:
        metadata, _ = read_layout(path)
        tensors = _read_tensors(path)
    except (TensorFileError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error
    if _KEY not in metadata:
        return tensors, True
    header, _ = _read_header(path)
    older = [] if _SUM in json_object(metadata[_KEY]) else [_digest(tensors)]
    return tensors, header["sha256"] in (None, digest(tensors, {}), *older)


def load_tensors(network: TaggingNetwork, path: str | Path) -> dict[str, Tensor]:
    """Load weights, strictly: every tensor of the network and no other, each of the right shape and kind.

    Returns: the tensors as the file has them; those of float16 are float32 in the network.

    Raises:
        ModelFileError: tensors that are missing, unexpected or misshapen, by name, or not those that were written.
    """
    (tensors, whole), expected = _stored(path), network.state_dict()
    for what, names in (
        ("finds missing", expected.keys() - tensors.keys()),
        ("has no use for", tensors.keys() - expected.keys()),
    ):
        if names:
            raise ModelFileError(
                f"{path}: the network {config_name(network.config)} {what} {len(names)} tensors: {sorted(names)[:3]}"
            )
    for name, tensor in expected.items():
        found = tensors[name]
        if tensor.shape != found.shape:
            raise ModelFileError(f"{path}: {name} has the shape {tuple(found.shape)}, not {tuple(tensor.shape)}")
        if found.dtype != tensor.dtype and (found.dtype, tensor.dtype) != (torch.float16, torch.float32):
            raise ModelFileError(f"{path}: {name} holds {found.dtype}, not {tensor.dtype}")
    if not whole:  # last, for what is missing or misshapen has a better sentence
        raise ModelFileError(f"{path}: its numbers are not those that were written (SHA-256): fetch or make it again")
    network.load_state_dict(tensors)
    return tensors


def config_name(config: NetworkConfig) -> str:
    """Backbone, heads and classes in a few words.

    >>> config_name(NetworkConfig("mobilenet", 527, 0, head="mlp", options={"width": 0.4}))
    'mobilenet (width 0.4), head mlp, 527 classes'
    """
    usual = BACKBONES[config.backbone].options
    options = ", ".join(f"{name} {value}" for name, value in config.options.items() if value != usual[name])
    head = f"{config.heads} heads" if config.head == "attention" else f"head {config.head}"
    own = f" and {config.fitted_head} for {config.fitted} classes" if config.fitted else ""
    return f"{config.backbone}{f' ({options})' if options else ''}, {head}{own}, {config.classes} classes"


def _config(header: dict[str, Any]) -> NetworkConfig:
    architecture, hears = header["architecture"], header["front_end"]
    front_end = front_end_config(hears)
    for values, kind, known in (
        (architecture, "architecture", {each.name for each in fields(NetworkConfig)} - {"front_end"}),
        (hears, "front end", set(front_end.to_dict())),
    ):
        # What a file leaves out would be guessed.
        for what, names in (("lacks", known - set(values)), ("has the unknown", set(values) - known)):
            if names:
                raise ValueError(f"the {kind} {what} {', '.join(sorted(names))}")
    window_s, hop_s = (each / front_end.sample_rate for each in (front_end.window_samples, front_end.hop_samples))
    # The window is held in memory as a whole, and so is a frame's Fourier transform: what is no hop is frame.
    frame_s = window_s - (front_end.frames - 1) * hop_s
    if window_s > _LONGEST_WINDOW_S or max(frame_s, hop_s) > _LONGEST_FRAME_S:
        raise ValueError(
            f"a window of {window_s:g} s in frames of {1000 * frame_s:g} ms, {1000 * hop_s:g} ms apart; a window may "
            f"have {_LONGEST_WINDOW_S:g} s, a frame and a hop {1000 * _LONGEST_FRAME_S:g} ms"
        )
    return NetworkConfig(**architecture, front_end=front_end)


def _check_classes(card: ModelCard, vocabulary: Vocabulary) -> None:
    if unknown := [id for id in card.thresholds if id not in vocabulary]:
        raise ModelFileError(f"thresholds of classes that are not in the vocabulary: {', '.join(unknown[:5])}")
    Calibration(card.calibration, vocabulary)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all numbers as they are stored, in the order of their names: of files whose header has none."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
