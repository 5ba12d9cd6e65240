"""TaggingNetwork: front end, backbone and attention pooling as one module.

Training, evaluation, tagging and export go through this one module tree, so they cannot disagree about the input
(paper, Figure 2). What belongs to training alone (mixing, masks, drop-connect) is drawn elsewhere and handed in.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from psla.model.augmentation import Masks, apply_masks
from psla.model.backbones.contract import BACKBONES, FoldingError, backbone_options, build_backbone
from psla.model.familiarity import Familiarity
from psla.model.frontends.contract import FrontEndSettings, build_front_end, front_end_config
from psla.model.pooling import HEADS, Beside, Tagging, build_head

Precision = Literal["float32", "folded", "bf16"]


class TaggingModel(Protocol):
    """What can tag: a network, an ensemble of them, or whatever takes waveforms at a stated rate and gives a `Tagging`.

    Attributes:
        sample_rate: of the waveforms that it takes, in Hz.
        window_samples: how many of them one pass hears; longer waveforms are cut.
        shortest_samples: shorter waveforms are padded with zeros to so many, 1 to `window_samples`.
        step_samples: samples from one step of the frame probabilities to the next.
        classes: number of outputs.
    """

    @property
    def sample_rate(self) -> int: ...
    @property
    def window_samples(self) -> int: ...
    @property
    def shortest_samples(self) -> int: ...
    @property
    def step_samples(self) -> int: ...
    @property
    def classes(self) -> int: ...
    def __call__(self, waveform: Tensor, lengths: Tensor | None = None) -> Tagging: ...
    def for_inference(self, precision: Precision = "float32") -> TaggingModel: ...


@dataclass(frozen=True)
class NetworkConfig:
    """What is needed to build a network: all of it stands in the model file.

    backbone: a name that `psla.model.backbones.contract.BACKBONES` has.
    classes: number of outputs.
    heads: attention heads; 0 is mean pooling. Without meaning for other heads than `attention`, and 0 there.
    batch_norm_momentum: share of the newest batch in the running statistics, in (0, 1].
    front_end: the front end.
    head: from features to classes, one of `psla.model.pooling.HEADS`.
    options: of the backbone; those left out are given their defaults here.
    familiarity: rows of `psla.model.familiarity`, one a class and then its backgrounds; 0: the network has no such
        score.
    fitted: how many classes, the first ones, have a head of their own, of the kind `fitted_head` (linear or softmax);
        the others have `head`. 0: all have `head`.

    Raises:
        ValueError: a field out of its range.
    """

    backbone: str
    classes: int
    heads: int = 4
    batch_norm_momentum: float = 0.01
    front_end: FrontEndSettings = field(default_factory=lambda: front_end_config({}))
    head: str = "attention"
    options: Mapping[str, Any] = field(default_factory=dict)
    familiarity: int = 0
    fitted: int = 0
    fitted_head: str = ""

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"no backbone is called {self.backbone!r}; there are {', '.join(BACKBONES)}")
        for name, least in (("classes", 1), ("heads", 0), ("familiarity", 0), ("fitted", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
        momentum = self.batch_norm_momentum
        if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 < momentum <= 1:
            raise ValueError(f"batch_norm_momentum is {momentum!r}; it must lie in (0, 1]")
        if self.head not in HEADS:
            raise ValueError(f"no head is called {self.head!r}; there are {', '.join(HEADS)}")
        if self.heads and self.head != "attention":
            raise ValueError(f"heads is {self.heads}; only the head attention has heads, {self.head} takes 0")
        if self.fitted >= self.classes or self.fitted_head not in (("linear", "softmax") if self.fitted else ("",)):
            raise ValueError(
                f"of {self.classes} classes {self.fitted} have the head {self.fitted_head!r} of their own; that is "
                "linear or softmax and leaves some to the other, or there is none"
            )
        object.__setattr__(self, "options", backbone_options(self.backbone, self.options))


class TaggingNetwork(nn.Module):
    """Waveforms in, `Tagging` out.

    Args:
        config: the architecture and the front end.

    Attributes:
        sample_rate, window_samples, shortest_samples, step_samples, classes: see `TaggingModel`.

    Shape:
        waveform: (batch, samples) int16, or float32 in [-1, 1], at `sample_rate`; lengths: (batch,) true numbers of
            samples.

    Raises:
        ValueError: a backbone that does not exist, fewer than one class.

    Example:
        >>> network = TaggingNetwork(NetworkConfig("efficientnet_lite0", 3, front_end=front_end_config({"frames": 64})))
        >>> network.eval()(torch.zeros(2, 8000)).clip_probabilities.shape
        torch.Size([2, 3])
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = build_front_end(config.front_end)
        momentum = config.batch_norm_momentum
        self.backbone = build_backbone(config.backbone, momentum, config.options)
        self.pooling = build_head(config.head, self.backbone, config.classes - config.fitted, config.heads, momentum)
        if config.fitted:
            own = build_head(config.fitted_head, self.backbone, config.fitted, 0, momentum)
            self.pooling = Beside(own, self.pooling)
        rows, channels = config.familiarity, self.backbone.channels
        self.familiarity = Familiarity(channels, config.fitted or config.classes, rows) if rows else None
        self.sample_rate, self.window_samples = config.front_end.sample_rate, config.front_end.window_samples
        self.shortest_samples = config.front_end.shortest_samples
        self.step_samples = self.backbone.stride * config.front_end.hop_samples
        self.classes = config.classes

    def for_inference(self, precision: Precision = "float32") -> TaggingNetwork:
        """A copy that is faster and cannot be trained; this network is left as it is.

        Args:
            precision: of the backbone; `float32` and `folded` are one here (where a network is run as it is unless this
                is asked for, `folded` asks for it); `bf16` is twice as fast on a CPU that has it and moves a
                probability by up to a few hundredths.

        Raises:
            FoldingError: a backbone that has no form for inference.

        Example:
            >>> network = TaggingNetwork(NetworkConfig("efficientnet_lite0", 3)).eval()
            >>> network.for_inference().parameters_count < network.parameters_count
            True
        """
        copied = copy.deepcopy(self).eval().requires_grad_(False)
        copied.backbone.fold()
        if precision == "bf16":
            copied.backbone.to(torch.bfloat16)
        return copied

    def for_export(self) -> TaggingNetwork:
        """A copy whose `traced` asks no number what to do, which a graph of it is made from."""
        copied = copy.deepcopy(self).eval().requires_grad_(False)
        copied.front_end = self.front_end.for_export()
        # Without such a form it is exported as it is: engines that run graphs fold what they can.
        with suppress(FoldingError):
            copied.backbone.fold()
        return copied

    def traced(self, waveform: Tensor, lengths: Tensor) -> Tagging:
        """As `forward` in evaluation, of waveforms of one length, padded to the shortest; after `for_export`."""
        log_mel, frame_counts = self.front_end.traced(waveform, lengths)
        return self.from_log_mel(self.front_end.normalise(log_mel), frame_counts)

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor | None = None,
        masks: Masks | None = None,
        mask_fill: float = 0.0,
        keep: Tensor | None = None,
        frames: int | None = None,
    ) -> Tagging:
        """Tag a batch of waveforms.

        In training only: masks, `keep` (drop-connect, see the backbone), and `frames`, the length of the log-mel where
        it is not the front end's.
        """
        log_mel, frame_counts = self.front_end.fitted(waveform, lengths, frames)
        if masks is not None:
            log_mel = apply_masks(log_mel, masks, mask_fill)
        return self.from_log_mel(self.front_end.normalise(log_mel), frame_counts, keep)

    def from_log_mel(self, log_mel: Tensor, frame_counts: Tensor | None = None, keep: Tensor | None = None) -> Tagging:
        """Tag normalised log-mels.

        Shape:
            log_mel: (batch, frames, mel bins) float32; frame_counts: (batch,) real frames of each clip, which matter
            only where padding is left out of the pooling.
        """
        valid_steps = None
        if frame_counts is not None and self.config.front_end.padding != "released":
            valid_steps = (frame_counts + self.backbone.stride - 1) // self.backbone.stride
        tagging = self.pooling(self.features(log_mel, keep), valid_steps)
        if self.familiarity is None:
            return tagging
        return tagging._replace(familiarity=self.familiarity(tagging.features))

    def features(self, log_mel: Tensor, keep: Tensor | None = None) -> Tensor:
        """Backbone features: (batch, frames, bins) -> (batch, channels, bins / stride, frames / stride)."""
        image = log_mel.transpose(1, 2).unsqueeze(1)  # (batch, 1, bins, frames): one plane, frequency upright
        kind = next(self.backbone.parameters()).dtype  # float64 where the whole network is; bfloat16 for inference
        features = self.backbone(image.to(kind).contiguous(memory_format=torch.channels_last), keep)
        if torch.is_autocast_enabled(features.device.type):
            return features
        return features.to(next(self.pooling.parameters()).dtype)

    @property
    def parameters_count(self) -> int:
        """Number of trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())
