"""The card of a model: what its file says of it beside its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from psla.model import clip_ids


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself beside its weights.

    recipe: the resolved recipe, as plain data. scores: as in scores.json. licence: of the weights. training_data: what
    they were trained on, and its licence. provenance: the run, the epochs averaged, the software. thresholds: for each
    class id, where one was fitted. calibration: see `psla.model.calibration`. training_clips: `psla.model.clip_ids`.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    training_data: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    training_clips: str = ""

    @classmethod
    def texts(cls) -> list[str]:
        """The fields that are text; the others are plain data for JSON."""
        return [each.name for each in fields(cls) if each.type == "str"]

    @property
    def raw_thresholds(self) -> dict[str, float]:
        """Those of classes that are not calibrated, which hold for what the network says."""
        return {id: value for id, value in self.thresholds.items() if id not in self.calibration.get("classes", {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """The card with these values; ValueError for a key that is no field, or a value of another kind.

        >>> ModelCard.from_dict({"licence": 3})
        Traceback (most recent call last):
        ValueError: the card's licence must be text, not 3
        """
        known = [each.name for each in fields(cls)]
        if unknown := sorted(str(key) for key in values if key not in known):
            raise ValueError(f"the card has the unknown fields {', '.join(unknown)}; known are {', '.join(known)}")
        for name, value in values.items():
            text = name in cls.texts()
            if not isinstance(value, str if text else dict):
                raise ValueError(f"the card's {name} must be {'text' if text else 'a JSON object'}, not {value!r:.80}")
        for id, threshold in values.get("thresholds", {}).items():
            if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
                raise ValueError(f"the threshold of {id!r} must be a finite number, not {threshold!r:.80}")
        clip_ids.count(values.get("training_clips", ""))  # refuses what is none
        return cls(**values)
