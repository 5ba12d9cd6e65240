"""Accuracy over folds, with an interval: what a cross-validation found, clip by clip.

An answer is the class of the highest probability. Intervals are of a bootstrap over sources (the recordings that clips
are cut from), 95 % of 2,000 draws, paired where two systems are compared: the luck of the clips, not that of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.report.html import Table

DRAWS = 2000
PAIRED = (
    ("ensemble", "single"),
    ("student", "single"),
    ("student", "ensemble"),
    ("settings", "single"),
    ("settings", "ensemble"),
    ("all", "single"),
    ("all", "ensemble"),
)


@dataclass(frozen=True)
class Answers:
    """The answers of one system: (clips, models) class indices, a model being a seed, or an epoch of a seed.

    truth: (clips,) class indices. folds: (clips,). sources: by clip.
    """

    clip_ids: list[str]
    sources: list[str]
    folds: np.ndarray
    truth: np.ndarray
    guesses: np.ndarray
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
        ids = [id for id in labels.clip_ids if all(id in set(each.clip_ids) for each in files)]
        truth = labels.select(ids).matrix().argmax(axis=1)
        guesses = np.stack([each.probabilities[each.rows_of(ids)].argmax(axis=1) for each in files], axis=1)
        by_id = dict(zip(clips.clip_ids, clips.frame["source"].to_list(), strict=True))
        return Answers(ids, [by_id[id] for id in ids], np.full(len(ids), fold), truth, guesses, labels.vocabulary)

    @property
    def right(self) -> np.ndarray:
        """(clips,) share of the models that are right."""
        return (self.guesses == self.truth[:, None]).mean(axis=1)

    @property
    def accuracy(self) -> float:
        """Mean over clips and models."""
        return float(self.right.mean())

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


def join(parts: Sequence[Answers]) -> Answers:
    """The answers of several folds as one."""
    folds, truth, guesses = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("folds", "truth", "guesses")
    )
    ids = [id for part in parts for id in part.clip_ids]
    sources = [source for part in parts for source in part.sources]
    return Answers(ids, sources, folds, truth, guesses, parts[0].vocabulary)


def to_dict(answers: Mapping[tuple[str, str], Answers]) -> dict[str, Any]:
    """Plain data for JSON: by system and variant the accuracy, its interval, the folds', confusions and mistakes."""
    data: dict[str, Any] = {}
    for (system, variant), each in answers.items():
        folds = {str(fold): each.accuracy_of_fold(fold) for fold in np.unique(each.folds)}
        data.setdefault(system, {})[variant] = {
            "accuracy": each.accuracy,
            "interval": each.interval(),
            "folds": folds,
            "clips": len(each.clip_ids),
            "models": each.guesses.shape[1],
            "confusion": np.round(each.confusion(), 4).tolist(),
            "misclassified": each.misclassified(),
        }
    return {"classes": next(iter(answers.values())).vocabulary.names, "systems": data}


def accuracies(answers: Mapping[tuple[str, str], Answers]) -> Table:
    """Accuracy by system, variant and fold, over all clips, and its interval."""
    folds = [int(fold) for fold in np.unique(next(iter(answers.values())).folds)]
    rows = []
    for (system, variant), each in answers.items():
        low, high = each.interval()
        cells = [f"{each.accuracy_of_fold(fold):.4f}" for fold in folds]
        rows.append([system, variant, *cells, f"{each.accuracy:.4f}", f"{low:.4f} .. {high:.4f}"])
    return Table(["system", "variant", *(f"fold {fold}" for fold in folds), "all", "95 %"], rows, text=(0, 1))


def differences(answers: Mapping[tuple[str, str], Answers]) -> Table:
    """Differences between systems, paired; no row where there is one system."""
    rows = []
    for one, other in PAIRED:
        for variant in dict.fromkeys(variant for _, variant in answers):
            if (one, variant) in answers and (other, variant) in answers:
                ours, theirs = answers[one, variant], answers[other, variant]
                low, high = ours.interval(theirs)
                gap = ours.accuracy - theirs.accuracy
                rows.append([f"{one} - {other}", variant, f"{gap:+.4f}", f"{low:+.4f} .. {high:+.4f}"])
    return Table(["difference", "variant", "all", "95 %"], rows, text=(0, 1))
