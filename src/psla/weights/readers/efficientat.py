"""The family `efficientat`: MobileNets trained on AudioSet by F. Schmid, K. Koutini and G. Widmer.

Format: the state of `MN` of https://github.com/fschmid56/EfficientAT (models/mn/model.py): `features` is the network,
`classifier` its head, of two layers (`mlp`) or one convolution (`fully_convolutional`). Width, head and classes are
read off the tensors; hop, mel bins and strides cannot be, and are those of most of their models unless said otherwise.
Every tensor of the file has one place in ours and every tensor of ours one in the file.

Not covered: their networks of dynamic convolutions (`dymn`), and other heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from psla.data.vocabulary import Vocabulary
from psla.model.backbones.mobilenet import MobileNet, channels
from psla.model.frontends.stft import StftConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.model.tensor_file import misfits
from psla.weights.readers.contract import READERS, Reader, WeightsError, as_ours

LICENCE = "MIT (Florian Schmid, Khaled Koutini, Gerhard Widmer)"
# What is shorter is repeated, and if it is very short, followed by silence: networks that were trained on 10 s call
# very short recordings anything (docs/LOG.md, "audioset-small", has the measurement).
SHORTEST_S, REPEAT_S = 2.0, 0.5
_FRONT_END = (
    *("hop_samples", "mel_bins", "frames", "shortest_frames", "repeat_frames"),
    *("peak_dbfs", "most_gain_db"),
)
# Widths that are looked for, the roundest first: several give the same network.
_WIDTHS = sorted((number / 100 for number in range(5, 801)), key=lambda width: (round(width * 100) % 10 > 0, width))
_OUTPUTS = {"mlp": "classifier.5.weight", "fully_convolutional": "classifier.0.weight"}
_HEADS = {
    "mlp": {"classifier.2": "hidden", "classifier.5": "output"},
    "fully_convolutional": {"classifier.0": "output", "classifier.1": "norm"},
}


def _knows(tensors: dict[str, Tensor]) -> bool:
    return "features.0.0.weight" in tensors or _is_dynamic(tensors)


def _is_dynamic(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith("in_c.") for name in tensors) and any(name.startswith("layers.") for name in tensors)


def _read(path: Path, tensors: dict[str, Tensor], given: Mapping[str, Any]) -> TaggingNetwork:
    if _is_dynamic(tensors):
        raise WeightsError(
            f"{path} is a network of dynamic convolutions (dymn), which is not supported: take one of the mn models"
        )
    head = "mlp" if _OUTPUTS["mlp"] in tensors else "fully_convolutional"
    output = tensors.get(_OUTPUTS[head])
    if output is None or output.ndim < 2 or not len(output):
        raise WeightsError(f"{path} has no classification: {' or '.join(_OUTPUTS.values())} is missing or empty")
    options = {"width": _width(tensors), "strides": list(given.get("strides", (2, 2, 2, 2)))}
    try:
        front_end = _front_end({name: given[name] for name in _FRONT_END if name in given})
        config = NetworkConfig("mobilenet", len(output), 0, front_end=front_end, head=head, options=options)
        network = TaggingNetwork(config)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from error
    own = network.state_dict()
    places = {_foreign_name(name, network): name for name in own}
    expected = {
        foreign: (*own[name].shape, 1, 1) if foreign == _OUTPUTS["fully_convolutional"] else tuple(own[name].shape)
        for foreign, name in places.items()
    }
    # Files written before PyTorch counted batches, or averaged since, may lack the counters, which nothing here reads.
    counters = {name for name in expected if name.endswith("num_batches_tracked") and name not in tensors}
    if wrong := misfits(tensors, {name: shape for name, shape in expected.items() if name not in counters}):
        raise WeightsError(f"{path} does not fit a mobilenet of width {options['width']} with head {head}: {wrong}")
    found = {places[name]: as_ours(tensor, name, path) for name, tensor in tensors.items()}
    network.load_state_dict(
        {name: found[name].reshape(value.shape) if name in found else value for name, value in own.items()}
    )
    return network


def _front_end(given: Mapping[str, Any]) -> StftConfig:
    """Of weights that were trained on 10 s, at whatever hop."""
    usual = StftConfig()
    hop = given.get("hop_samples", usual.hop_samples)
    if not isinstance(hop, int) or hop < 1:
        return StftConfig(hop_samples=hop)  # which refuses it
    frames = given.get("frames", usual.window_samples // hop)
    shortest = min(frames, given.get("shortest_frames", round(SHORTEST_S * usual.sample_rate / hop)))
    repeat = min(shortest, round(REPEAT_S * usual.sample_rate / hop))
    return StftConfig(**{"frames": frames, "shortest_frames": shortest, "repeat_frames": repeat, **given})


def _width(tensors: dict[str, Tensor]) -> float:
    """The width that agrees with the most convolutions of the file."""
    sizes = [len(tensors["features.0.0.weight"])]
    for number in range(1, len(channels(1.0).blocks) + 1):
        kernels = {
            int(match[1]): tensor
            for name, tensor in tensors.items()
            if tensor.ndim == 4 and (match := re.fullmatch(rf"features\.{number}\.block\.(\d)\.0\.weight", name))
        }
        depthwise = [len(tensor) for tensor in kernels.values() if tensor.shape[1] == 1 and tensor.shape[2] > 1]
        sizes += [depthwise[0] if depthwise else 0, len(kernels[max(kernels)]) if kernels else 0]

    def agreement(width: float) -> int:
        plan = channels(width)
        own = [plan.stem, *(size for block in plan.blocks for size in block)]
        return sum(one == other for one, other in zip(own, sizes, strict=True))

    return max(_WIDTHS, key=agreement)


def _foreign_name(ours: str, network: TaggingNetwork) -> str:
    """Their name of one of our tensors: what stands in a block is numbered in the order of its parts."""
    module, _, leaf = ours.rpartition(".")
    room, _, module = module.partition(".")
    if room == "pooling":
        return f"{next(foreign for foreign, own in _HEADS[network.config.head].items() if own == module)}.{leaf}"
    parts = {"conv": "0", "bn": "1", "reduce": "fc1", "expand": "fc2"}
    where, *rest = module.split(".")
    backbone = network.backbone
    assert isinstance(backbone, MobileNet)
    if where != "blocks":
        return f"features.{0 if where == 'stem' else len(backbone.blocks) + 1}.{parts[rest[0]]}.{leaf}"
    number, part, inner = rest
    place = [name for name, _ in backbone.blocks[int(number)].named_children()].index(part)
    within = "conc_se_layers.0." if part == "squeeze_excite" else ""
    return f"features.{int(number) + 1}.block.{place}.{within}{parts[inner]}.{leaf}"


READERS.add(
    "efficientat",
    Reader(
        _knows,
        _read,
        LICENCE,
        options=(*_FRONT_END, "strides"),
        published=lambda classes: classes == len(Vocabulary.audioset()),
    ),
)
