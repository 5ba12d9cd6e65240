"""Distillation: a student learns from a teacher's probabilities beside the labels.

    target = (1 - weight) * label + weight * teacher's probability        for each clip; then mixed as the waveforms are

The teacher, most often an ensemble, is not run in training: its probabilities come from a predictions file and are
joined by clip id; that file is given, or made before the first epoch (`psla.training.teacher`). Mixup keeps a target
consistent, since it mixes targets and not labels. Source: G. Hinton et al., https://arxiv.org/abs/1503.02531, without a
temperature, for independent classes. Beyond the PSLA paper.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions


class DistillationError(ValueError):
    """A teacher's predictions that do not fit the clips; the sentence counts or names what is missing."""


@dataclass(frozen=True)
class Targets:
    """What the network is to say of each clip: its labels, or labels and a teacher's probabilities.

    labels: of the training clips. teacher: (clips, classes) probabilities in the order of the labels, or None.
    weight: share of the teacher's, in [0, 1].
    """

    labels: Labels
    teacher: np.ndarray | None = None
    weight: float = 0.0

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Targets of these clips.

        Shape: rows: (batch,) int, >= 0. Returns (batch, classes) float32.

        Example:
            >>> from psla.data.vocabulary import Vocabulary
            >>> labels = Labels.from_sets(["a", "b"], [["dog"], []], Vocabulary(["dog"]))
            >>> Targets(labels, np.array([[0.5], [0.5]]), weight=0.5).of(np.array([0, 1])).tolist()
            [[0.75], [0.25]]
        """
        hard = self.labels.matrix(rows).astype(np.float32)
        if self.teacher is None:
            return hard
        soft = np.clip(self.teacher[rows].astype(np.float32), 0.0, 1.0)
        return np.float32(1.0 - self.weight) * hard + np.float32(self.weight) * soft


def columns_of(classes: Vocabulary, teacher: Vocabulary, name: str) -> list[int]:
    """The teacher's columns for these classes.

    Raises:
        DistillationError: classes that the teacher, of this name, does not know (counted, the first named).
    """
    unknown = [id for id in classes.ids if id not in teacher]
    if unknown:
        raise DistillationError(f"{name} knows nothing of {len(unknown)} classes, the first: {unknown[0]!r}")
    return [teacher.index_of(id) for id in classes.ids]


def targets_of(
    labels: Labels, predictions: str | None, weight: float, never_read: Collection[str] = frozenset()
) -> Targets:
    """The targets of training clips.

    Args:
        labels: of the clips.
        predictions: path of the teacher's predictions; None: the labels alone.
        weight: share of the teacher's probabilities.
        never_read: clips that no training can read; they need no predictions and get zeros.

    Raises:
        DistillationError: clips that the teacher has not predicted (counted), or classes it does not know (named).
        FileNotFoundError: no such file.
    """
    if predictions is None:
        return Targets(labels)
    if not Path(predictions).is_file():
        raise FileNotFoundError(2, "no such file of predictions", predictions)
    teacher = Predictions.read(predictions)
    known = set(teacher.clip_ids)
    absent = [id for id in labels.clip_ids if id not in known and id not in never_read]
    if absent:
        raise DistillationError(
            f"{predictions} lacks {len(absent)} of the {len(labels)} training clips, the first: {absent[0]!r}; "
            "predict the split train with the teacher: psla predict TEACHER CLIPS --split train"
        )
    columns = columns_of(labels.vocabulary, teacher.vocabulary, predictions)
    here = [row for row, id in enumerate(labels.clip_ids) if id in known]
    found = np.zeros((len(labels), len(columns)), dtype=teacher.probabilities.dtype)
    found[here] = teacher.probabilities[teacher.rows_of([labels.clip_ids[row] for row in here])][:, columns]
    return Targets(labels, found, weight)
