"""Judging: which folds decide on the settings for a fold, how a candidate does there, and the rule that chooses.

The folds stand on a ring, 1 2 3 4 5 and 1 again. There is a training without each pair of neighbours; it is asked about
both. Fold 2 is judged for by its neighbours: by fold 1, as the training without 1 and 2 answers, and by fold 3, as the
one without 2 and 3 does. So nothing that decides on the settings of a fold has heard it or been scored on it, and five
trainings a candidate are enough for five folds.

Source: nested cross-validation, G. C. Cawley and N. L. C. Talbot, JMLR 11 (2010), section 5,
https://jmlr.org/papers/v11/cawley10a.html. Trainings and files: `selection.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from psla.corpora import esc50
from psla.data.clips import Clips
from psla.lab.folds import fold_accuracy
from psla.lab.folds.candidates import SelectionError
from psla.lab.folds.fold_accuracy import Answers
from psla.metrics.predictions import Predictions
from psla.training.trainer import binary_cross_entropy

FOLDS = esc50.FOLDS
Pair = tuple[int, int]
PAIRS: tuple[Pair, ...] = tuple((fold, fold % len(FOLDS) + 1) for fold in FOLDS)
VARIANTS = ("final", "averaged")
RULE = (
    "for each fold, the candidate whose last epoch's model is right on the most clips of the two neighbouring folds, "
    "each asked of the training that has heard neither it nor the fold; in a tie the one of the lower mean binary log "
    "loss there, then the one that was given first"
)


def judges_of(fold: int) -> list[tuple[Pair, int]]:
    """By which training, and on which fold, settings for `fold` are judged.

    Example:
        >>> judges_of(1)
        [((1, 2), 2), ((5, 1), 5)]
    """
    return [(pair, sum(pair) - fold) for pair in PAIRS if fold in pair]


def pairs_of(folds: Sequence[int]) -> list[Pair]:
    """The pairs that choices for these folds need.

    Example:
        >>> pairs_of([2])
        [(1, 2), (2, 3)]
    """
    return [pair for pair in PAIRS if set(pair) & set(folds)]


def run_name(pair: Pair) -> str:
    """The folder of a pair's run."""
    return f"without_{pair[0]}_{pair[1]}"


@dataclass(frozen=True)
class Judged:
    """How a candidate answered on folds that judge it.

    Attributes:
        answers: a model for each of `VARIANTS`. losses: (clips, 2) binary log loss of each, the mean over the classes.
    """

    answers: Answers
    losses: np.ndarray

    @staticmethod
    def of(files: Sequence[Predictions], clips: Clips, fold: int) -> Judged:
        """From the predictions of the variants, for the clips of one fold."""
        answers = Answers.of(files, clips, fold)
        truth = torch.nn.functional.one_hot(torch.from_numpy(answers.truth), len(clips.vocabulary)).double()
        said = [torch.from_numpy(each.probabilities[each.rows_of(answers.clip_ids)]).double() for each in files]
        return Judged(answers, torch.stack([binary_cross_entropy(each, truth) for each in said], dim=1).numpy())

    def accuracy(self, variant: str = "final") -> float:
        """Share of the clips that are answered rightly."""
        i = VARIANTS.index(variant)
        return float((self.answers.guesses[:, i] == self.answers.truth).mean())

    def log_loss(self, variant: str = "final") -> float:
        """Mean over the clips."""
        return float(self.losses[:, VARIANTS.index(variant)].mean())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "clips": len(self.answers.clip_ids),
            "accuracy": {variant: self.accuracy(variant) for variant in VARIANTS},
            "log_loss": {variant: self.log_loss(variant) for variant in VARIANTS},
        }


def join(parts: Sequence[Judged]) -> Judged:
    """Several folds as one."""
    return Judged(fold_accuracy.join([part.answers for part in parts]), np.concatenate([part.losses for part in parts]))


def choose(scores: Mapping[str, Judged]) -> str:
    """The name that `RULE` takes, from candidates in their given order.

    Raises:
        SelectionError: they have not answered on the same clips.
    """
    first = next(iter(scores))
    for name, each in scores.items():
        if each.answers.clip_ids != scores[first].answers.clip_ids:
            raise SelectionError(f"candidates {first} and {name} have answered on different clips; run both again")
    return min(scores, key=lambda name: (-scores[name].accuracy(), scores[name].log_loss()))  # the first of equals
