"""Backbones by name: the networks that turn a log-mel spectrogram into a map of features.

A backbone is one file beside this one: a subclass of `Backbone`, and a `BackboneKind` entered in `BACKBONES` under each
name that recipes and model files call it by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from psla.registry import Registry


class FoldingError(ValueError):
    """A backbone that has no faster form for inference."""


class Backbone(nn.Module):
    """What every backbone says of itself.

    Attributes:
        channels: number of feature channels.
        stride: frames of the log-mel that one step of the features stands for.
        drop_connect_units: number of residual branches that drop connect may drop; 0: it has none.
        hidden_channels: units of an `mlp` head behind it.

    Shape:
        forward(x, keep=None): x (batch, 1, mel bins, frames), keep (batch, drop_connect_units), factors on the residual
        branches, None keeps all at 1 -> (batch, channels, mel bins / stride, frames / stride), rounded.
    """

    channels: int
    stride: int
    drop_connect_units: int = 0
    hidden_channels: int = 1280

    def keep_probabilities(self, rate: float) -> Tensor:
        """The probability that each unit keeps its residual branch: from 1 at the first nearly down to 1 - rate.

        Args:
            rate: drop-connect rate in [0, 1).

        Shape:
            -> (drop_connect_units,)

        Example:
            >>> build_backbone("efficientnet_b0").keep_probabilities(0.16)[:3]
            tensor([1.0000, 0.9900, 0.9800])
        """
        if not 0 <= rate < 1:
            raise ValueError(f"the drop-connect rate is {rate}; it must lie in [0, 1)")
        return 1 - rate * torch.arange(self.drop_connect_units) / self.drop_connect_units

    def fold(self) -> None:
        """Change in place into the form for inference: batch normalisation becomes part of the convolutions.

        Raises:
            FoldingError: it has no such form.
        """
        raise FoldingError(f"the backbone {type(self).__name__} has no form for inference: leave the precision float32")

    def _check(self, x: Tensor, keep: Tensor | None) -> None:
        if x.ndim != 4 or x.shape[1] != 1:
            raise ValueError(f"the input has shape {tuple(x.shape)}; it must be (batch, 1, mel bins, frames)")
        if self.drop_connect_units and keep is not None and keep.shape != (len(x), self.drop_connect_units):
            raise ValueError(f"keep has shape {tuple(keep.shape)}; it must be {(len(x), self.drop_connect_units)}")


@dataclass(frozen=True)
class ImageNetWeights:
    """Where the ImageNet weights of a backbone are published.

    Attributes:
        url: of the file; None if it comes within a Python package.
        sha256_prefix: first hexadecimal digits of the file's SHA-256.
        licence: as the publisher states it.
        source: a page about the weights.
        packaged: import name of the Python package, and the file's path within it; None if it is downloaded.
    """

    url: str | None
    sha256_prefix: str
    licence: str
    source: str
    packaged: tuple[str, str] | None = None


@dataclass(frozen=True)
class BackboneKind:
    """A backbone by name.

    Attributes:
        build: makes it, from the weight of the newest batch in the running statistics, in (0, 1], and its options by
            name; ValueError for an option out of its range.
        options: what can be chosen of it beside its name, with the defaults; plain values.
        imagenet: where its ImageNet weights are published; None: nowhere in a format that is read here.
        our_name: the name of one of its tensors for the name in a file of foreign weights; None: it has no such tensor.
        stem: of its first convolution's weight, the name here and in such a file. That tensor has three input channels
            in the file and one here.
    """

    build: Callable[..., Backbone]
    imagenet: ImageNetWeights | None = None
    our_name: Callable[[str], str | None] = lambda foreign: foreign
    stem: tuple[str, str] = ("", "")
    options: Mapping[str, Any] = field(default_factory=dict)


BACKBONES: Registry[BackboneKind] = Registry("backbone", "psla.model.backbones")


def backbone_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a backbone: those given, defaults for the rest.

    Raises:
        ValueError: an unknown backbone, or an option that it does not have.

    Example:
        >>> backbone_options("mobilenet", {"width": 0.4})
        {'width': 0.4, 'strides': [2, 2, 2, 2]}
    """
    known = BACKBONES[name].options
    if unknown := sorted(str(key) for key in given if key not in known):
        has = f"its options are {', '.join(known)}" if known else "it has no options"
        raise ValueError(f"the backbone {name} has no option {', '.join(unknown)}; {has}")
    return {**known, **given}


def build_backbone(
    name: str, batch_norm_momentum: float = 0.01, options: Mapping[str, Any] = MappingProxyType({})
) -> Backbone:
    """A backbone with PyTorch's random initialisation.

    Args:
        name: one of `BACKBONES`.
        batch_norm_momentum: weight of the newest batch in the running statistics, in (0, 1].
        options: see `backbone_options`.

    Raises:
        ValueError: an unknown name, or a momentum or an option out of its range.

    Example:
        >>> build_backbone("efficientnet_b2").channels
        1408
    """
    if not 0 < batch_norm_momentum <= 1:
        raise ValueError(f"batch_norm_momentum is {batch_norm_momentum}; it must lie in (0, 1]")
    return BACKBONES[name].build(batch_norm_momentum, **backbone_options(name, options))
