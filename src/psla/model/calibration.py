"""Calibration as a model file keeps it and a tagger applies it: for some classes a map of their probabilities.

    {"goal": "precision=0.9", "clips": 400, "recordings": 400, "hours": 1.1, "clip_ids": (as `psla.model.clip_ids`),
     "error_before": 0.08, "error_after": 0.02,
     "classes": {id: {"kind": "platt", "slope": ..., "offset": ...} or {"kind": "isotonic", "x": [...], "y": [...]},
                 each with positives, threshold and what it gives}, "left": {id: positives}, "unreached": [ids]}

It stands in the card (`ModelCard.calibration`); a file without it has none, and says what the network says. The maps do
not change the order of clips, but isotonic ones may make some equal. They are learnt on windows: so each window's
probability goes through them, and so does that of each step, on one scale with the thresholds.

Not here: how maps and thresholds are found (`psla.metrics`, `psla.training.calibrate`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from psla.data.vocabulary import Vocabulary
from psla.metrics.calibration import Isotonic, Map, Platt


class Calibration:
    """The maps of a card, for probabilities in the order of a vocabulary.

    Args:
        values: a card's `calibration`; empty: nothing is changed.

    Raises:
        ValueError: a class that is not in the vocabulary, another kind of map, or numbers that make none.

    Example:
        >>> values = {"classes": {"dog": {"kind": "platt", "slope": 1.0, "offset": -1.0}}}
        >>> Calibration(values, Vocabulary(["dog", "rain"]))(np.float32([[0.5, 0.5]])).round(3).tolist() == \\
        ...     np.float32([[0.269, 0.5]]).tolist()
        True
    """

    def __init__(self, values: Mapping[str, Any], vocabulary: Vocabulary) -> None:
        classes = values.get("classes", {})
        if not isinstance(classes, Mapping):
            raise ValueError(f"the calibration's classes must be a JSON object, not {classes!r:.80}")
        if unknown := [id for id in classes if id not in vocabulary]:
            raise ValueError(f"calibration of classes that are not in the vocabulary: {', '.join(unknown[:5])}")
        self.maps: dict[int, Map] = {vocabulary.index_of(id): map_of(id, each) for id, each in classes.items()}

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(..., classes) -> (..., classes) float32; NaN stays."""
        if not self.maps:
            return probabilities
        found = probabilities.astype(np.float32)
        for column, each in self.maps.items():
            found[..., column] = each(probabilities[..., column])
        return found

    def __bool__(self) -> bool:
        return bool(self.maps)


def map_of(id: str, values: Any) -> Map:
    """A class's map from its plain data; see the module's head."""
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if kind == "platt":
        numbers = [values.get("slope"), values.get("offset")]
        if all(map(_finite, numbers)) and numbers[0] >= 0:
            return Platt(*map(float, numbers))
    if kind == "isotonic":
        x, y = values.get("x"), values.get("y")
        if isinstance(x, list) and isinstance(y, list) and len(x) == len(y) > 0 and all(map(_finite, [*x, *y])):
            rising = np.diff(x) > 0, np.diff(y) >= 0
            if all(each.all() for each in rising) and y[0] >= 0 and y[-1] <= 1:
                return Isotonic(tuple(x), tuple(y))
    raise ValueError(f"the calibration of {id!r} is no map: {values!r:.80}")


def plain(found: Map) -> dict[str, Any]:
    """A map as plain data.

    Example:
        >>> plain(Platt(1.0, 0.5))
        {'kind': 'platt', 'slope': 1.0, 'offset': 0.5}
    """
    if isinstance(found, Platt):
        return {"kind": "platt", "slope": found.slope, "offset": found.offset}
    return {"kind": "isotonic", "x": list(found.x), "y": list(found.y)}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
