"""The family `psla`: the checkpoints (.pth) that the authors of the paper published.

Format: the state of `EffNetAttention` of https://github.com/YuanGongND/psla (src/models/Models.py and HigherModels.py),
mostly under DataParallel's prefix `module.`: `effnet` is an EfficientNet-B0..B7 of `efficientnet_pytorch` with one
input channel, `attention` its pooling. Variant, heads and classes are read off the tensors. Every tensor of the file
has one place in ours and every tensor of ours one in the file; only the left-over ImageNet classifier is left out.

Not covered: the ResNet-50 and MobileNet of the same code, of which no weights were published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psla.data.vocabulary import Vocabulary
from psla.model.backbones.efficientnet import EfficientNet, foreign_name, our_name
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.model.tensor_file import misfits, read_torch_tensors
from psla.weights.readers.contract import READERS, Reader, WeightsError, as_ours

LICENCE = "BSD-3-Clause (of the repository that published them; none is stated for the weights themselves)"
_BLOCKS = {f"efficientnet_b{i}": blocks for i, blocks in enumerate((16, 23, 23, 26, 32, 39, 45, 55))}
_CLASSIFIER = re.compile(r"effnet\._fc\.(weight|bias)")
_BLOCK = re.compile(r"effnet\._blocks\.(\d{1,3})\.")
_HEAD = re.compile(r"attention\.(?:att|cla)\.(\d{1,3})\.")


def read_released(path: str | Path, frames: int | None = None) -> TaggingNetwork:
    """The network of a published checkpoint, in evaluation mode, with the front end that its weights were trained with.

    Args:
        path: a .pth file.
        frames: length of a log-mel in 10 ms frames, which the file does not tell; by default 3000 where it has 200
            classes (FSD50K), else 1056 (AudioSet).

    Raises:
        WeightsError: not such a file; tensors that are missing, unexpected or misshapen, by name.
        TensorFileError: the file cannot be read at all.
        OSError: the file cannot be opened.

    Example:
        >>> network = read_released("as_mdl_0_wa.pth")  # doctest: +SKIP
        >>> network.config.backbone, network.config.heads, network.config.classes  # doctest: +SKIP
        ('efficientnet_b2', 4, 527)
    """
    return _read(Path(path), read_torch_tensors(path), {} if frames is None else {"frames": frames}).eval()


def _frames(classes: int) -> int | None:
    """Frames of a log-mel in training, by the number of classes: those of AudioSet and of FSD50K."""
    known = ((Vocabulary.audioset(), 1056), (Vocabulary.fsd50k(), 3000))
    return next((frames for vocabulary, frames in known if len(vocabulary) == classes), None)


def _knows(tensors: dict[str, Tensor]) -> bool:
    names = _without_prefix(tensors)
    return all(any(name.startswith(part) for name in names) for part in ("effnet.", "attention."))


def _read(path: Path, tensors: dict[str, Tensor], given: Mapping[str, Any]) -> TaggingNetwork:
    tensors = _without_prefix(tensors)
    kept = {name: tensor for name, tensor in tensors.items() if not _CLASSIFIER.fullmatch(name)}
    if not _knows(kept):
        raise WeightsError(
            f"{path} is not a published checkpoint: its tensors must be named effnet.… and attention.…; "
            f"its first are {', '.join(list(tensors)[:3]) or 'none'}"
        )
    layout = _layout(kept, path)
    if wrong := misfits(kept, _shapes(layout)):
        raise WeightsError(f"{path} does not fit {layout}: {wrong}")
    front_end = FrontEndConfig(frames=given.get("frames") or _frames(layout.classes) or 1056)
    # A list of one head has a weight; our single head has none. As two heads, of which the second weighs nothing, it
    # is the same function.
    heads = max(layout.heads, 2) if layout.listed else layout.heads
    network = TaggingNetwork(NetworkConfig(layout.variant, layout.classes, heads, front_end=front_end))
    plain = {name: as_ours(tensor, name, path) for name, tensor in kept.items()}
    own = {
        f"backbone.{our_name(name.removeprefix('effnet.'))}": tensor
        for name, tensor in plain.items()
        if name.startswith("effnet.")
    }
    network.load_state_dict(own | _pooling(plain, layout))
    return network


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


@dataclass(frozen=True)
class _Layout:
    """What the tensors' names and shapes tell: B0..B7, heads (0: mean pooling), whether the heads are a list, classes.

    A single head is `att` and `cla`; several are the lists `att.0`, `att.1`, ... and `cla.0`, ... with `head_weight`.
    """

    variant: str
    heads: int
    listed: bool
    classes: int

    def __str__(self) -> str:
        return f"{self.variant} with {f'{self.heads} heads' if self.heads else 'mean pooling'}, {self.classes} classes"

    def places(self, kind: str) -> list[str]:
        """Where `cla` or `att` stands: once, or once a head."""
        if self.listed:
            return [f"attention.{kind}.{head}" for head in range(self.heads)]
        return [f"attention.{kind}"] if self.heads or kind == "cla" else []


def _layout(tensors: dict[str, Tensor], path: Path) -> _Layout:
    indices = [int(match[1]) for name in tensors if (match := _HEAD.match(name))]
    listed = bool(indices) or "attention.head_weight" in tensors
    if listed:
        weight = tensors.get("attention.head_weight")
        heads = max([*indices, (weight.numel() if weight is not None else 0) - 1]) + 1
        if heads > len(tensors):  # each head has tensors of its own
            raise WeightsError(f"{path}: {heads} heads in {len(tensors)} tensors")
    else:
        heads = int(any(name.startswith("attention.att.") for name in tensors))
    outputs = [tensor for name, tensor in tensors.items() if name.startswith("attention.cla.") and tensor.ndim]
    if not outputs or not len(outputs[0]):
        raise WeightsError(f"{path} has no classification: attention.cla is missing or empty")
    return _Layout(_variant(tensors), heads, listed, len(outputs[0]))


@cache
def _trunk_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes without numbers
        state = EfficientNet(variant).state_dict()
    return {f"effnet.{foreign_name(name)}": tuple(tensor.shape) for name, tensor in state.items()}


def _variant(tensors: dict[str, Tensor]) -> str:
    """The B0..B7 that agrees with the most tensors; those with the file's number of blocks go first."""
    blocks = 1 + max((int(match[1]) for name in tensors if (match := _BLOCK.match(name))), default=-1)
    candidates = [name for name, count in _BLOCKS.items() if count == blocks] or list(_BLOCKS)

    def agreement(name: str) -> int:
        shapes = _trunk_shapes(name).items()
        return sum(foreign in tensors and tuple(tensors[foreign].shape) == shape for foreign, shape in shapes)

    return max(candidates, key=agreement)


def _shapes(layout: _Layout) -> dict[str, tuple[int, ...]]:
    """Every tensor that the file must hold."""
    shapes = dict(_trunk_shapes(layout.variant))
    channels = shapes["effnet._conv_head.weight"][0]
    for place in layout.places("att") + layout.places("cla"):
        shapes |= {f"{place}.weight": (layout.classes, channels, 1, 1), f"{place}.bias": (layout.classes,)}
    if layout.listed:
        shapes["attention.head_weight"] = (layout.heads,)
    return shapes


def _pooling(tensors: dict[str, Tensor], layout: _Layout) -> dict[str, Tensor]:
    """Our pooling's tensors: a 1 x 1 convolution is a matrix, and all heads stand in one, head after head."""
    lone = layout.listed and layout.heads == 1
    own = {}
    for theirs, ours in (("cla", "classification"), ("att", "attention")):
        for leaf in ("weight", "bias"):
            parts = [tensors[f"{place}.{leaf}"] for place in layout.places(theirs)]
            parts = [part.flatten(1) if leaf == "weight" else part for part in parts]
            if parts:
                own[f"pooling.{ours}.{leaf}"] = torch.cat(parts * 2 if lone else parts)
    if layout.listed:
        weight = tensors["attention.head_weight"]
        own["pooling.head_weight"] = torch.cat([weight, torch.zeros(1)]) if lone else weight
    return own


READERS.add(
    "psla",
    Reader(
        _knows,
        _read,
        LICENCE,
        options=("frames",),
        required=("frames",),
        published=lambda classes: _frames(classes) is not None,
    ),
)
