"""The sections of a recipe: every hyper-parameter with its unit, default and legal range.

The defaults are the paper's for the full AudioSet; where a key is not the paper's at all, its default does nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from psla.model.backbones.contract import BACKBONES

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FrontEndRecipe(Section):
    """Log-mel front end (section II-C); see `psla.FrontEndConfig`."""

    window: Literal["hanning", "hamming"] = "hanning"
    mel_bins: int = Field(128, ge=32, le=256)
    hop_ms: float = Field(10.0, ge=2.5, le=25.0, description="milliseconds between frames")
    frames: int = Field(1056, ge=32, le=36000, description="length that every log-mel is cut or padded to")
    mean: float = Field(-4.6476, description="mean of the log-mel over the corpus")
    deviation: float = Field(4.5699, gt=0.0, description="standard deviation of the log-mel over the corpus")
    padding: Literal["released", "masked"] = "released"


class BackboneRecipe(Section):
    """The network's trunk and its pretraining (section III)."""

    name: str = "efficientnet_b2"
    pretraining: Literal["imagenet", "none"] = "imagenet"
    stem: Literal["random", "sum"] = Field("random", description="from three input channels to one")
    weights: str | None = Field(None, description="a local file of ImageNet weights instead of the published one")
    drop_connect: float = Field(0.2, ge=0.0, lt=1.0, description="drop rate of the last block; falls to 0 at the first")
    batch_norm_momentum: float = Field(0.01, gt=0.0, le=1.0, description="share of the newest batch")
    batch_norm: Literal["device", "synchronised"] = Field(
        "device", description="statistics of a device's clips, or all"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKBONES:
            raise ValueError(f"{name!r} is none of {', '.join(BACKBONES)}")
        return name


class PoolingRecipe(Section):
    """Attention pooling (section II-C)."""

    heads: int = Field(4, ge=0, le=64, description="attention heads; 0 is mean pooling")


class SamplingRecipe(Section):
    """Balanced sampling (section IV-A, Algorithm 1)."""

    balanced: bool = Field(True, description="draw with replacement by clip weight; false: a reshuffled traversal")
    smoothing: float = Field(0.0, ge=0.0, description="added to every class count before 1 / count")


class WaveformRecipe(Section):
    """Changes of each training waveform before mixing; none of them is in the paper. See `psla.training.loader`."""

    crop_frames: int = Field(0, ge=0, description="frames of a training clip, cut out anywhere; 0: the first that fit")
    crop_by: Literal["uniform", "energy"] = Field("uniform", description="all places alike, or in proportion to energy")
    shift: Share = Field(0.0, description="largest circular shift, later or earlier, as a share of the clip")
    gain_db: float = Field(0.0, ge=0.0, le=40.0, description="largest change of level, up or down, in decibels")


class MixupRecipe(Section):
    """Mix-up training (section IV-C)."""

    rate: Share = Field(0.5, description="share of the clips that are mixed")
    alpha: float = Field(10.0, gt=0.0, description="of Beta(alpha, alpha)")


class MaskingRecipe(Section):
    """Time and frequency masking (section IV-B)."""

    frequency: int = Field(48, ge=0, description="F, largest width in mel bins")
    time: int = Field(192, ge=0, description="T, largest width in frames")
    fill: Literal["zero", "mean"] = Field("zero", description="value before normalising: 0 (released) or the mean")


class DistillationRecipe(Section):
    """A teacher's stored probabilities beside the labels; see `psla.techniques.distillation`."""

    predictions: str | None = Field(
        None, description="the teacher's predictions of the training clips; none: no teacher"
    )
    weight: Share = Field(0.5, description="share of the teacher's probability in the target")


class OptimizerRecipe(Section):
    """Adam and its schedule (section II-B)."""

    learning_rate: float = Field(1e-4, gt=0.0, le=1.0)
    batch_size: int = Field(100, ge=1, description="clips, over all devices")
    epochs: int = Field(30, ge=1)
    warmup_steps: int = Field(1000, ge=0, description="linear warm-up, moved every step")
    schedule: Literal["halving", "cosine"] = Field("halving", description="cosine: half a cosine to 0, epoch by epoch")
    halve_after: int = Field(10, ge=0, description="epochs before the first halving")
    halve_every: int = Field(5, ge=1, description="epochs between halvings")
    beta1: float = Field(0.95, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)
    weight_decay: float = Field(5e-7, ge=0.0)
    label_smoothing: Share = Field(0.0, description="share of the target that goes to all classes alike")
    precision: Literal["float32", "bf16"] = Field("bf16", description="of the backbone in training")


class AveragingRecipe(Section):
    """Weight averaging (section VI-A)."""

    first_epoch: int = Field(16, ge=1, description="weights of this epoch (counted from 1) to the last are averaged")
