"""Answers: how a system answers fold by fold, which folds decide on the settings for a fold, and the rule that chooses.

An answer is the class of the highest probability. Intervals are of a bootstrap over sources (the recordings that clips
are cut from), 95 % of 2,000 draws, paired where two systems are compared: the luck of the clips, not that of training.

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
from psla.data.vocabulary import Vocabulary
from psla.lab.folds.candidates import SelectionError
from psla.metrics.predictions import Predictions
from psla.training.trainer import binary_cross_entropy

DRAWS = 2000
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
class Answers:
    """The answers of one system: of several models, each a seed, an epoch of a seed, or a variant of a run.

    Shape:
        folds, truth: (clips,), a class index as truth. guesses: (clips, models) class indices. losses: (clips, models)
        binary log loss, the mean over the classes.
    """

    clip_ids: list[str]
    sources: list[str]
    folds: np.ndarray
    truth: np.ndarray
    guesses: np.ndarray
    losses: np.ndarray
    vocabulary: Vocabulary

    @staticmethod
    def of(files: Sequence[Predictions], clips: Clips, fold: int) -> Answers:
        """From the predictions of one fold's clips, a file for each model.

        Raises:
            ValueError: a clip has none or several labels.
        """
        labels = clips.labels()
        several = [id for id, count in zip(labels.clip_ids, np.diff(labels.offsets), strict=True) if count != 1]
        if several:
            raise ValueError(
                f"accuracy needs one label a clip; {len(several)} clips have none or several, as {several[0]!r}"
            )
        answered = set.intersection(*(set(each.clip_ids) for each in files))
        ids = [id for id in labels.clip_ids if id in answered]
        truth = labels.select(ids).matrix()
        said = [each.probabilities[each.rows_of(ids)] for each in files]
        guesses = np.stack([each.argmax(axis=1) for each in said], axis=1)
        wanted = torch.from_numpy(truth).double()
        losses = [binary_cross_entropy(torch.from_numpy(each).double(), wanted).numpy() for each in said]
        by_id = dict(zip(clips.clip_ids, clips.frame["source"].to_list(), strict=True))
        sources, folds = [by_id[id] for id in ids], np.full(len(ids), fold)
        return Answers(ids, sources, folds, truth.argmax(axis=1), guesses, np.stack(losses, axis=1), labels.vocabulary)

    @property
    def right(self) -> np.ndarray:
        """(clips,) share of the models that are right."""
        return (self.guesses == self.truth[:, None]).mean(axis=1)

    @property
    def accuracy(self) -> float:
        """Mean over clips and models."""
        return float(self.right.mean())

    @property
    def of_models(self) -> list[tuple[float, float]]:
        """Of each model the accuracy and the mean log loss."""
        columns = zip(self.guesses.T, self.losses.T, strict=True)
        return [(float((guesses == self.truth).mean()), float(losses.mean())) for guesses, losses in columns]

    def accuracy_of_fold(self, fold: int) -> float:
        """Mean over the clips of a fold."""
        return float(self.right[self.folds == fold].mean())

    def interval(self, other: Answers | None = None) -> tuple[float, float]:
        """95 % of the draws of the accuracy, or of this accuracy minus that of `other` on the same clips."""
        right = self.right
        if other is not None:
            if other.clip_ids != self.clip_ids:
                raise ValueError("two systems that answered on different clips cannot be compared")
            right = right - other.right
        _, group = np.unique(self.sources, return_inverse=True)
        sums, counts = np.bincount(group, right), np.bincount(group)
        drawn = np.random.default_rng(0).integers(0, len(counts), (DRAWS, len(counts)))
        low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
        return float(low), float(high)

    def confusion(self) -> np.ndarray:
        """(classes, classes) clips by true class and answer, the mean over models."""
        found = np.zeros((len(self.vocabulary),) * 2)
        for guess in self.guesses.T:
            np.add.at(found, (self.truth, guess), 1 / self.guesses.shape[1])
        return found

    def misclassified(self) -> list[dict[str, Any]]:
        """Clips that at least half of the models get wrong: id, fold, true name, the most frequent answer's name."""
        names, found = self.vocabulary.names, []
        for i in np.flatnonzero(self.right <= 0.5):
            answer = int(np.bincount(self.guesses[i]).argmax())
            if answer != self.truth[i]:
                row = {"clip_id": self.clip_ids[i], "fold": int(self.folds[i])}
                found.append({**row, "label": names[self.truth[i]], "answer": names[answer]})
        return found

    @staticmethod
    def join(parts: Sequence[Answers]) -> Answers:
        """The answers of several folds as one."""
        folds, truth, guesses, losses = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("folds", "truth", "guesses", "losses")
        )
        ids = [id for part in parts for id in part.clip_ids]
        sources = [source for part in parts for source in part.sources]
        return Answers(ids, sources, folds, truth, guesses, losses, parts[0].vocabulary)


def choose(scores: Mapping[str, Answers]) -> str:
    """The name that `RULE` takes, from candidates in their given order, which have a model for each of `VARIANTS`.

    Raises:
        SelectionError: they have not answered on the same clips.
    """
    first = next(iter(scores))
    for name, answers in scores.items():
        if answers.clip_ids != scores[first].clip_ids:
            raise SelectionError(f"candidates {first} and {name} have answered on different clips; run both again")

    def rank(name: str) -> tuple[float, float]:
        accuracy, loss = scores[name].of_models[VARIANTS.index("final")]
        return -accuracy, loss

    return min(scores, key=rank)  # the first of equals
