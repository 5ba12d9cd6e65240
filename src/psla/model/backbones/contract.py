"""Backbones by name: the networks that turn a log-mel spectrogram into a map of features.

The contract of every backbone: `.channels`, the number of feature channels; `.drop_connect_units`, the number of
residual branches that drop connect may drop (0: it has none); and `forward(x, keep=None)` with x (batch, 1, mel bins,
frames), keep (batch, drop_connect_units) -> (batch, channels, mel bins / 32, frames / 32), rounded.
"""

from __future__ import annotations

from torch import nn

from psla.model.backbones.efficientnet import VARIANTS, EfficientNet
from psla.model.backbones.resnet import ResNet50

BACKBONES: tuple[str, ...] = (*VARIANTS, "resnet50")


def build_backbone(name: str, batch_norm_momentum: float = 0.01) -> nn.Module:
    """A backbone with PyTorch's random initialisation.

    Args:
        name: one of `BACKBONES`.
        batch_norm_momentum: weight of the newest batch in the running statistics, in (0, 1].

    Raises:
        ValueError: an unknown name, or a momentum out of its range.

    Example:
        >>> build_backbone("efficientnet_b2").channels
        1408
    """
    if name in VARIANTS:
        return EfficientNet(name, batch_norm_momentum)
    if name == "resnet50":
        return ResNet50(batch_norm_momentum)
    raise ValueError(f"no backbone is called {name!r}; there are {', '.join(BACKBONES)}")
