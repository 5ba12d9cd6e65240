"""Parity: by how much an exported model's answers differ from those of the model that it was made of.

Both tag the same recordings, whole, under the same Tagger. Differences are of the recordings' probabilities; where the
recordings have labels, the mean average precision of both is told, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from psla.data.labels import Labels
from psla.metrics.predictions import Predictions
from psla.metrics.scores import nan_to_none, score
from psla.model.file import Model
from psla.tagging.tagger import Tagger


@dataclass(frozen=True)
class Parity:
    """What was found, over all recordings.

    clips: how many. largest, mean: difference of a probability. frames_largest: of a frame probability.
    same_class: share of recordings whose most probable class is the same. rank_agreement: mean over the recordings of
    Spearman's correlation of the classes' order, -1 to 1. mean_average_precision: before and after, None without
    labels. per_class: id, name, largest and mean difference, rank_agreement of the recordings' order (None: it says
    the same of all), average_precision before and after (None without labels).
    """

    clips: int
    largest: float
    mean: float
    frames_largest: float
    same_class: float
    rank_agreement: float | None
    mean_average_precision: tuple[float, float] | None
    per_class: list[dict[str, Any]] = field(default_factory=list)

    @property
    def loss(self) -> float | None:
        """Mean average precision that is lost; None without labels."""
        both = self.mean_average_precision
        return None if both is None else both[0] - both[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return nan_to_none(asdict(self))


def compare(
    before: Model,
    after: Model,
    waveforms: Sequence[np.ndarray],
    clip_ids: Sequence[str] = (),
    labels: Labels | None = None,
    progress: Callable[[int], None] = lambda clips: None,
) -> Parity:
    """Tag recordings with both models.

    Args:
        waveforms: at least one, (samples,) int16 each, at the models' rate.
        clip_ids: one each; needed with labels.
        labels: of these ids, in the models' vocabulary.
        progress: told after each recording.

    Raises:
        ValueError: no recording.
    """
    if not waveforms:
        raise ValueError("parity needs at least one recording")
    taggers = Tagger(before), Tagger(after)
    clips: list[list[np.ndarray]] = [[], []]
    frames = 0.0
    for wave in waveforms:
        results = [tagger.tag_blocks([wave]) for tagger in taggers]
        for kept, result in zip(clips, results, strict=True):
            kept.append(result.clip_probabilities)
        frames = max(frames, float(np.abs(results[0].frames - results[1].frames).max()))
        progress(1)
    first, second = (np.stack(each) for each in clips)
    scored = None
    if labels is not None and labels.counts().any():
        scored = [score(Predictions(each, list(clip_ids), before.vocabulary), labels) for each in (first, second)]
    difference = np.abs(first.astype(np.float64) - second)
    ranks = [_agreement(a, b) for a, b in zip(first, second, strict=True)]
    known = [each for each in ranks if each is not None]
    precisions = None if scored is None else (scored[0].mean_average_precision, scored[1].mean_average_precision)
    per_class = [
        {
            "id": sound.id,
            "name": sound.name,
            "largest": float(difference[:, row].max()),
            "mean": float(difference[:, row].mean()),
            "rank_agreement": _agreement(first[:, row], second[:, row]),
            "average_precision": None if scored is None else [each.per_class[row].average_precision for each in scored],
        }
        for row, sound in enumerate(before.vocabulary)
    ]
    return Parity(
        clips=len(waveforms),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        frames_largest=frames,
        same_class=float((first.argmax(1) == second.argmax(1)).mean()),
        rank_agreement=float(np.mean(known)) if known else None,
        mean_average_precision=precisions,
        per_class=per_class,
    )


def _agreement(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's correlation; None where one of both is all the same."""
    a, b = (rankdata(each) - (len(each) + 1) / 2 for each in (first, second))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else None
