"""The model file: one .safetensors that holds all that is needed to tag.

Weights as tensors; the front end, the architecture, the vocabulary and the provenance as JSON in the metadata. Nothing
is guessed at load: another version, an unknown key or a tensor too many or too few is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from psla.data.vocabulary import Vocabulary
from psla.files import atomic_write
from psla.model.front_end import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork

VERSION = 1
_KEY = "psla"


class ModelFileError(ValueError):
    """A file that is not a model file of this version, or does not hold what it says."""


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself beside its weights.

    recipe: the resolved recipe, as plain data. scores: as in scores.json. licence: of the weights. training_data: what
    they were trained on, and its licence. provenance: the run, the epochs averaged, the software. thresholds: for each
    class id, where one was fitted.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    training_data: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode with its vocabulary and card."""

    network: TaggingNetwork
    vocabulary: Vocabulary
    card: ModelCard


def save_model(path: str | Path, network: TaggingNetwork, vocabulary: Vocabulary, card: ModelCard) -> Path:
    """Write a model file, atomically.

    Raises:
        ModelFileError: another number of classes in the network than in the vocabulary.
    """
    if network.config.classes != len(vocabulary):
        raise ModelFileError(f"the network has {network.config.classes} classes, the vocabulary {len(vocabulary)}")
    header = {
        "version": VERSION,
        "architecture": {key: value for key, value in asdict(network.config).items() if key != "front_end"},
        "front_end": network.config.front_end.to_dict(),
        "vocabulary": vocabulary.to_dict(),
        "card": asdict(card),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
    return Path(path)


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a model file, without its weights.

    Raises:
        ModelFileError: missing, not a model file, or of another version.
    """
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: there is no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
        header = json.loads(text) if text is not None else None
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable model file ({error})") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path}: a safetensors file, but not a psla model file (no {_KEY!r} in its metadata)")
    if header.get("version") != VERSION:
        raise ModelFileError(f"{path}: model file version {header.get('version')}; this psla reads version {VERSION}")
    missing = {"architecture", "front_end", "vocabulary", "card"} - set(header)
    if missing:
        raise ModelFileError(f"{path}: the metadata lacks {', '.join(sorted(missing))}")
    return header


def load_model(path: str | Path) -> Model:
    """Read a model file.

    Raises:
        ModelFileError: see `read_header`; also tensors that are missing, unexpected or of another shape, by name.
    """
    header = read_header(path)
    try:
        config = NetworkConfig(**header["architecture"], front_end=FrontEndConfig.from_dict(header["front_end"]))
        vocabulary = Vocabulary.from_dict(header["vocabulary"])
        card = ModelCard(**header["card"])
        network = TaggingNetwork(config)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: the metadata cannot be used: {error}") from error
    if config.classes != len(vocabulary):
        raise ModelFileError(f"{path}: {config.classes} outputs for a vocabulary of {len(vocabulary)} classes")
    load_tensors(network, path)
    return Model(network.eval(), vocabulary, card)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file (a model file or a checkpoint).

    Raises:
        ModelFileError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error


def load_tensors(network: TaggingNetwork, path: str | Path) -> None:
    """Load weights, strictly: every tensor of the network and no other, each of the right shape.

    Raises:
        ModelFileError: tensors that are missing, unexpected or misshapen, by name.
    """
    tensors, expected = read_tensors(path), network.state_dict()
    for what, names in (
        ("finds missing", expected.keys() - tensors.keys()),
        ("has no use for", tensors.keys() - expected.keys()),
    ):
        if names:
            raise ModelFileError(
                f"{path}: the network {config_name(network)} {what} {len(names)} tensors: {sorted(names)[:3]}"
            )
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise ModelFileError(
                f"{path}: {name} has the shape {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
            )
    network.load_state_dict(tensors)


def config_name(network: TaggingNetwork) -> str:
    """Backbone, heads and classes in a few words."""
    config = network.config
    return f"{config.backbone}, {config.heads} heads, {config.classes} classes"
