"""Recipe: every hyper-parameter of a training run with its unit, default and legal range.

The defaults are the paper's for the full AudioSet (sections II to VI); where a key is not the paper's at all, its
default does nothing. A preset or a user's file says what differs and may extend another. Unknown keys, wrong types and
impossible values are refused in one sentence that names the key.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, InstanceOf, PlainSerializer, ValidationError

from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.model.backbones.contract import BACKBONES
from psla.model.frontends.contract import FRONT_ENDS, FrontEndSettings, front_end_config
from psla.model.network import NetworkConfig
from psla.model.pooling import HEADS
from psla.techniques.conditions import Conditions
from psla.training.keys import RecipeError, flatten, nest, read_keys

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _one_of(known: Iterable[str]) -> AfterValidator:
    """Only a name that is there when it is asked for."""

    def checked(name: str) -> str:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}")
        return name

    return AfterValidator(checked)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# The front end's own configuration (section II-C), of whatever kind: see `psla.model.frontends`.
FrontEndSection = Annotated[InstanceOf[FrontEndSettings], PlainSerializer(lambda front_end: front_end.to_dict())]


class BackboneRecipe(Section):
    """The network's trunk and its pretraining (section III)."""

    name: Annotated[str, _one_of(BACKBONES)] = "efficientnet_b2"
    options: dict[str, Any] = Field(default_factory=dict, description="of the backbone, such as mobilenet's width")
    pretraining: Literal["imagenet", "none"] = "imagenet"
    stem: Literal["random", "sum"] = Field("random", description="from three input channels to one")
    weights: str | None = Field(None, description="a local file of ImageNet weights instead of the published one")
    drop_connect: float = Field(0.2, ge=0.0, lt=1.0, description="drop rate of the last block; falls to 0 at the first")
    batch_norm_momentum: float = Field(0.01, gt=0.0, le=1.0, description="share of the newest batch")
    batch_norm: Literal["device", "synchronised", "frozen"] = Field("device", description="statistics of whose clips")


class PoolingRecipe(Section):
    """From features to classes: attention pooling (section II-C), or another head."""

    kind: Annotated[str, _one_of(HEADS)] = Field(
        "attention", description="or mlp, fully_convolutional, linear, softmax: see psla.model.pooling"
    )
    heads: int = Field(4, ge=0, le=64, description="attention heads; 0 is mean pooling, and for other kinds")


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
    """A teacher's probabilities beside the labels; see `psla.techniques.distillation`."""

    predictions: str | None = Field(
        None, description="the teacher's predictions of the training clips; none: no teacher"
    )
    teacher: str | None = Field(None, description="or a model, by path or name, that hears them before training")
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
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="of the backbone in training; auto: bf16 where the device computes it, else float32"
    )


class AveragingRecipe(Section):
    """Weight averaging (section VI-A)."""

    first_epoch: int = Field(16, ge=1, description="weights of this epoch (counted from 1) to the last are averaged")


class Recipe(Section):
    """A whole run.

    Example:
        >>> recipe = Recipe.load("esc50", overrides={"optimizer.epochs": 30})
        >>> recipe.optimizer.epochs, recipe.mixup.alpha
        (30, 10.0)
    """

    front_end: FrontEndSection = Field(default_factory=lambda: front_end_config({}))
    backbone: BackboneRecipe = BackboneRecipe()
    pooling: PoolingRecipe = PoolingRecipe()
    sampling: SamplingRecipe = SamplingRecipe()
    waveform: WaveformRecipe = WaveformRecipe()
    conditions: Conditions = Conditions()
    mixup: MixupRecipe = MixupRecipe()
    masking: MaskingRecipe = MaskingRecipe()
    distillation: DistillationRecipe = DistillationRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    averaging: AveragingRecipe = AveragingRecipe()
    init: str | None = Field(None, description="a model file that training starts from, in place of ImageNet weights")
    classes: list[str] | None = Field(None, description="ids of the classes to train; all of the clips' vocabulary")
    seed: int = Field(0, ge=0, lt=2**63)

    @property
    def training_frames(self) -> int:
        """Length of a training clip's log-mel; evaluation always has `front_end.frames`."""
        return self.waveform.crop_frames or self.front_end.frames

    @staticmethod
    def load(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """A preset by name or a YAML file by path, with dotted keys overridden.

        Raises:
            RecipeError: no such preset or file, or a value that the recipe refuses.
        """
        return Recipe.from_dict(nest({**read_keys(str(name)), **flatten(overrides or {})}))

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """A recipe from nested plain data.

        Raises:
            RecipeError: an unknown key, a wrong type or a value outside its range.
        """
        if isinstance(data.get("front_end"), Mapping):
            data = {**data, "front_end": _front_end(data["front_end"])}
        try:
            recipe = Recipe.model_validate(dict(data))
        except ValidationError as error:
            raise RecipeError(_sentence(error)) from error
        recipe._check_relations()
        return recipe

    def _check_relations(self) -> None:
        epochs, first, frames = self.optimizer.epochs, self.averaging.first_epoch, self.front_end.frames
        bins, crop = self.front_end.mel_bins, self.waveform.crop_frames
        broken = {
            "averaging.first_epoch": first > epochs and f"averaging cannot begin at epoch {first} of a run of {epochs}",
            "masking.frequency": self.masking.frequency > bins
            and f"a mask of {self.masking.frequency} bins is wider than the {bins} bins of the front end",
            "waveform.crop_frames": crop > frames
            and f"a part of {crop} frames is longer than the {frames} frames of the front end",
            "masking.time": self.masking.time > self.training_frames
            and f"a mask of {self.masking.time} frames is longer than the {self.training_frames} frames of a "
            "training clip",
            "pooling.heads": self.pooling.heads
            and self.pooling.kind != "attention"
            and f"only the head attention has heads; set 0 for {self.pooling.kind}",
            "backbone.weights": self.backbone.weights
            and self.backbone.pretraining == "none"
            and "a file of weights needs backbone.pretraining: imagenet",
            "backbone.batch_norm": self.backbone.batch_norm == "frozen"
            and (self.backbone.pretraining, self.init) == ("none", None)
            and "frozen statistics are those that training starts with: give init or backbone.pretraining: imagenet",
            "distillation.teacher": self.distillation.teacher is not None
            and self.distillation.predictions is not None
            and "a teacher and the stored predictions of one exclude each other; give one of them",
        }
        for key, sentence in broken.items():
            if sentence:
                raise RecipeError(f"recipe key {key}: {sentence}")

    def at(self, precision: str) -> Recipe:
        """What is carried out on a machine where `auto` is this precision.

        Example:
            >>> Recipe.load("demo").at("float32").optimizer.precision
            'float32'
        """
        if self.optimizer.precision != "auto":
            return self
        return self.model_copy(update={"optimizer": self.optimizer.model_copy(update={"precision": precision})})

    def is_carried_out_by(self, other: Recipe) -> bool:
        """Whether `other` is this recipe as some machine carries it out."""
        return other == self.at(other.optimizer.precision)

    def network_config(self, classes: int) -> NetworkConfig:
        """The network of so many classes.

        Raises:
            RecipeError: options that the backbone does not have.
        """
        try:
            return NetworkConfig(
                backbone=self.backbone.name,
                classes=classes,
                heads=self.pooling.heads,
                batch_norm_momentum=self.backbone.batch_norm_momentum,
                front_end=self.front_end,
                head=self.pooling.kind,
                options=self.backbone.options,
            )
        except ValueError as error:
            raise RecipeError(f"recipe key backbone.options: {error}") from error

    def check(self, clips_count: int, vocabulary: Vocabulary) -> None:
        """Refuse, before any work, what does not fit so many training clips and their vocabulary.

        Raises:
            RecipeError: contradicting keys, warm-up longer than the run, or a class outside the vocabulary.
        """
        self._check_relations()  # a recipe put together in Python has not been through `from_dict`
        steps = -(-clips_count // self.optimizer.batch_size) * self.optimizer.epochs
        if self.optimizer.warmup_steps > steps:
            raise RecipeError(
                f"recipe key optimizer.warmup_steps: a warm-up of {self.optimizer.warmup_steps} steps is longer than "
                f"the run of {steps} steps; set it lower or train for more epochs"
            )
        if self.classes == []:
            raise RecipeError("recipe key classes: an empty list leaves nothing to train; leave the key out for all")
        try:
            vocabulary.part(self.classes or [])
        except VocabularyError as error:
            raise RecipeError(f"recipe key classes: {error}") from error

    def to_yaml(self) -> str:
        """All values, resolved, as YAML; `load` reads it back to an equal recipe."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


def is_key(key: str) -> bool:
    """Whether a dotted key is one of a recipe's values.

    Example:
        >>> is_key("front_end.frames"), is_key("mixup"), is_key("mixup.colour")
        (True, False, False)
    """
    section, _, name = key.partition(".")
    if section == "front_end":
        return name == "kind" or any(name in FRONT_ENDS[kind].config_type.__dataclass_fields__ for kind in FRONT_ENDS)
    if (section, name.partition(".")[0]) == ("backbone", "options"):
        return any(name == f"options.{option}" for kind in BACKBONES for option in BACKBONES[kind].options)
    field = Recipe.model_fields.get(section)
    if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
        return field is not None and not name
    return name in field.annotation.model_fields


def _front_end(values: Mapping[str, Any]) -> FrontEndSettings:
    if "deviation" in values:
        warnings.warn("front_end.deviation is called front_end.std now", FutureWarning, stacklevel=4)
        values = {"std" if key == "deviation" else key: value for key, value in values.items()}
    try:
        return front_end_config(values)
    except (TypeError, ValueError) as error:
        rule = str(error)
        own = rule.partition(" ")[0] in values
        raise RecipeError(f"recipe key front_end{'.' if own else ': '}{rule}") from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] = Recipe
        for part in first["loc"][:-1]:
            annotation = section.model_fields[str(part)].annotation
            assert isinstance(annotation, type)
            section = annotation
        return f"recipe key {key}: no such key; known here: {', '.join(section.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"recipe key {key}: {message[0].lower()}{message[1:]} (got {first['input']!r})"
