"""A tagger small enough for tests: 64 frames, three classes of AudioSet, random weights that hear."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psla.data.vocabulary import Vocabulary
from psla.model import file as model_file
from psla.model.file import Model, ModelCard, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork

CLASSES = Vocabulary.audioset().part(["/m/0jbk", "/m/06mb1", "/m/0bt9lr"])  # Animal, Rain, Dog
WINDOW = 63 * 160 + 400  # samples of 64 frames
STEP = 32 * 160


@cache
def tiny_model(padding: str = "released", mel_bins: int = 128) -> Model:
    """A random network whose norms have seen a batch, so that different audio gives different numbers."""
    front_end = FrontEndConfig(frames=64, padding=padding, mel_bins=mel_bins)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = TaggingNetwork(NetworkConfig("efficientnet_lite0", 3, batch_norm_momentum=1.0, front_end=front_end))
        network.train()(torch.randn(4, WINDOW) * torch.tensor([[0.001], [0.01], [0.1], [0.3]]))
    with torch.no_grad():
        network.pooling.classification.bias.view(-1, 3)[:, 2] += 1.0  # dogs are likelier than animals: no roll-up yet
    return Model(network.eval(), CLASSES, ModelCard())


def tiny_model_file(
    folder: Path, padding: str = "released", mel_bins: int = 128, thresholds: dict[str, float] | None = None
) -> Path:
    """The same as a file."""
    card = ModelCard(thresholds=thresholds or {})
    return save_model(folder / "model.safetensors", tiny_model(padding, mel_bins).network, CLASSES, card)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """White noise, a quarter of full scale, (samples,) int16."""
    return np.random.default_rng(seed).integers(-8000, 8000, samples).astype(np.int16)


def changed_header(path: Path, out: Path, change: Callable[[dict[str, Any]], Any], older: bool = False) -> Path:
    """A copy of a model file whose header says something else, under the checksum of before; `older`: as files were
    before the header had one, with the checksum of the numbers alone."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    outer = json.loads(data[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["psla"])
    if older:
        header["sha256"] = model_file._digest(model_file.read_tensors(path))
        del header["header_sha256"]
    change(header)
    outer["__metadata__"]["psla"] = json.dumps(header)
    raw = json.dumps(outer).encode()
    out.write_bytes(struct.pack("<Q", len(raw)) + raw + data[8 + length :])
    return out
