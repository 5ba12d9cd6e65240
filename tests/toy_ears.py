"""A front end, a backbone and a family of weights that psla has never heard of: what a user's own module registers.

The front end hears 24,000 Hz in 40 bins, the backbone has a stride of 16 and no form for inference, the family's files
hold the network's tensors under names that begin with `toy.`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psla.model.backbones.contract import BACKBONES, Backbone, BackboneKind
from psla.model.frontends.contract import (
    FRONT_ENDS,
    FrontEndModule,
    FrontEndSettings,
    unit_waveform,
)
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.weights.readers.contract import READERS, Reader

RATE, STRIDE = 24_000, 16
HOP, FRAME = 240, 600  # samples: 10 and 25 ms


@dataclass(frozen=True)
class ToyConfig(FrontEndSettings):
    """Bands of equal width; `floor` is added to their power."""

    kind: ClassVar[str] = "toy"
    sample_rate: int = RATE
    mel_bins: int = 40
    frames: int = 64
    mean: float = -6.0
    std: float = 4.0
    floor: float = 1e-6

    @property
    def hop_samples(self) -> int:
        return HOP

    @property
    def window_samples(self) -> int:
        return (self.frames - 1) * HOP + FRAME


class ToyFrontEnd(FrontEndModule[ToyConfig]):
    """The log of the power in 40 bands."""

    config_type = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config

    def frame_counts(self, lengths: Tensor) -> Tensor:
        return (torch.div(lengths - FRAME, HOP, rounding_mode="floor") + 1).clamp_(min=0)

    @torch.no_grad()
    def log_mel(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        waveform = unit_waveform(waveform)
        if waveform.shape[1] < FRAME:
            return waveform.new_zeros((len(waveform), 0, self.config.mel_bins))
        frames = waveform.unfold(1, FRAME, HOP) * torch.hann_window(FRAME, device=waveform.device)
        power = torch.fft.rfft(frames)[..., 1:].abs().square()  # (batch, frames, 300)
        bands = F.adaptive_avg_pool1d(power.flatten(0, 1)[:, None], self.config.mel_bins)
        return torch.log(bands.view(*power.shape[:2], -1) + self.config.floor)


class ToyBackbone(Backbone):
    """Four convolutions that halve time and frequency."""

    channels = 24
    stride = STRIDE

    def __init__(self, momentum: float) -> None:
        super().__init__()
        sizes = (1, 8, 16, 24, 24)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b, momentum=momentum), nn.ReLU())
                for a, b in pairwise(sizes)
            )
        )

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        self._check(x, keep)
        return self.layers(x)


def _knows(tensors: dict[str, Tensor]) -> bool:
    return all(name.startswith("toy.") for name in tensors)


def _read(path: Path, tensors: dict[str, Tensor], given: Mapping[str, Any]) -> TaggingNetwork:
    own = {name.removeprefix("toy."): tensor for name, tensor in tensors.items()}
    classes = len(own["pooling.classification.bias"]) // 2
    network = TaggingNetwork(
        NetworkConfig("toy", classes, heads=2, front_end=ToyConfig(frames=given.get("frames", 64)))
    )
    network.load_state_dict(own)
    return network


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    """For a module of tests that takes it over: the toys are known as long as its tests run."""
    register()
    yield
    forget()


def register() -> None:
    """What a user's own module does when it is imported; here it waits, so that other tests do not meet the toys."""
    FRONT_ENDS.add("toy", ToyFrontEnd)
    BACKBONES.add("toy", BackboneKind(ToyBackbone))
    READERS.add("toy", Reader(_knows, _read, "none", options=("frames",)))


def forget() -> None:
    """Undo `register`."""
    for registry in (FRONT_ENDS, BACKBONES, READERS):
        registry._found.pop("toy")
