"""Recipe: every hyper-parameter of a training run with its unit, default and legal range.

The defaults are the paper's for the full AudioSet (sections II to VI); a preset or a user's file says what differs and
may extend another. Unknown keys, wrong types and impossible values are refused in one sentence that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.training.sections import (
    AveragingRecipe,
    BackboneRecipe,
    DistillationRecipe,
    FrontEndRecipe,
    MaskingRecipe,
    MixupRecipe,
    OptimizerRecipe,
    PoolingRecipe,
    SamplingRecipe,
    Section,
    WaveformRecipe,
)


class RecipeError(ValueError):
    """A recipe that cannot be carried out; the sentence names the key and the rule."""


class Recipe(Section):
    """A whole run.

    Example:
        >>> recipe = Recipe.load("esc50", overrides={"optimizer.epochs": 30})
        >>> recipe.optimizer.epochs, recipe.mixup.alpha
        (30, 10.0)
    """

    front_end: FrontEndRecipe = FrontEndRecipe()
    backbone: BackboneRecipe = BackboneRecipe()
    pooling: PoolingRecipe = PoolingRecipe()
    sampling: SamplingRecipe = SamplingRecipe()
    waveform: WaveformRecipe = WaveformRecipe()
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
        return Recipe.from_dict(_nest({**_read(str(name), ()), **flatten(overrides or {})}))

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """A recipe from nested plain data.

        Raises:
            RecipeError: an unknown key, a wrong type or a value outside its range.
        """
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
            "backbone.weights": self.backbone.weights
            and self.backbone.pretraining == "none"
            and "a file of weights needs backbone.pretraining: imagenet",
        }
        for key, sentence in broken.items():
            if sentence:
                raise RecipeError(f"recipe key {key}: {sentence}")

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


def presets() -> list[str]:
    """Names of the presets in the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in (files("psla.training") / "presets").iterdir() if p.name.endswith(".yaml")
    )


def parse_override(text: str) -> tuple[str, Any]:
    """`optimizer.epochs=30` -> ("optimizer.epochs", 30); the value is read as YAML.

    Raises:
        RecipeError: no `=` in the text, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"an override must read key=value, as in optimizer.epochs=30; got {text!r}")
    try:
        return key.strip(), _number(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe key {key}: the value {value!r} is not YAML") from error


def _number(value: Any) -> Any:
    if isinstance(value, str):  # YAML 1.1 reads `1e-3` as text; people write it all the time
        with suppress(ValueError):
            return float(value)
    return value


def _read(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
    """The keys, with dots, of a preset or a file and of what it extends."""
    if name in trail:
        raise RecipeError(f"recipes extend each other in a circle: {' -> '.join((*trail, name))}")
    if name in presets():
        text = (files("psla.training") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise RecipeError(f"{name!r} is neither a recipe file nor one of the presets {', '.join(presets())}")
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"recipe {name} must hold keys and values; got {type(data).__name__}")
    base = data.pop("extends", None)
    inherited = _read(str(base), (*trail, name)) if base is not None else {}
    return {**inherited, **flatten(data)}


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as keys with dots, as `--set` takes them; numbers that YAML reads as words (`5e-4`) are numbers.

    Example:
        >>> flatten({"mixup": {"rate": 0.5}, "seed": 1})
        {'mixup.rate': 0.5, 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _number(value) if key not in ("name", "weights", "init", "predictions") else value
    return flat


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise RecipeError(f"recipe key {key}: {section!r} is a value, not a section")
        inner[last] = value
    return nested


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
