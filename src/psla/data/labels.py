"""Labels: which classes a clip is labelled with. Sparse, with clip ids and vocabulary; joined by id, never by row.

2 million clips with 2 labels each are 16 MB here and 1 GB as a dense matrix, so the classes of all clips stand in one
array, clip after clip, and `offsets` says where each clip begins (compressed sparse rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from psla.data.vocabulary import Vocabulary, VocabularyError


class Labels:
    """The labels of a list of clips.

    Args:
        clip_ids: unique ids, one a clip.
        offsets: (clips + 1,) int64, ascending from 0: clip i has the entries offsets[i] .. offsets[i + 1].
        indices: (labels,) int32 class indices, within a clip ascending and unique.
        vocabulary: what the indices mean.

    Raises:
        ValueError: arrays that do not fit together, or a clip id given twice.
        VocabularyError: a class index outside the vocabulary.

    Example:
        >>> labels = Labels.from_sets(["a", "b"], [["rain"], [0, 1]], Vocabulary(["dog", "rain"]))
        >>> labels.matrix().astype(int).tolist(), labels.counts().tolist()
        ([[0, 1], [1, 1]], [1, 2])
    """

    def __init__(
        self, clip_ids: Sequence[str], offsets: np.ndarray, indices: np.ndarray, vocabulary: Vocabulary
    ) -> None:
        self.clip_ids = list(clip_ids)
        self.offsets = np.asarray(offsets, dtype=np.int64)
        self.indices = np.asarray(indices, dtype=np.int32)
        self.vocabulary = vocabulary
        if len(self.offsets) != len(self.clip_ids) + 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.indices):
            raise ValueError(
                f"labels: {len(self.clip_ids)} clips need {len(self.clip_ids) + 1} offsets, 0 to {len(self.indices)}"
            )
        if np.any(np.diff(self.offsets) < 0):
            raise ValueError("labels: offsets must ascend")
        if len(self.indices) and not (self.indices.min() >= 0 and self.indices.max() < len(vocabulary)):
            raise VocabularyError(f"labels: class indices must lie in 0 .. {len(vocabulary) - 1}")
        self._rows = {id: row for row, id in enumerate(self.clip_ids)}
        if len(self._rows) != len(self.clip_ids):
            raise ValueError("labels: clip ids must be unique")

    @staticmethod
    def from_sets(clip_ids: Sequence[str], label_sets: Sequence[Iterable[str | int]], vocabulary: Vocabulary) -> Labels:
        """Labels from a set of class ids or class indices for each clip.

        Raises:
            ValueError: another number of sets than clips.
            VocabularyError: a class that the vocabulary does not have.
        """
        if len(clip_ids) != len(label_sets):
            raise ValueError(f"labels: {len(clip_ids)} clip ids but {len(label_sets)} label sets")
        rows = [sorted({vocabulary[c].index for c in labels}) for labels in label_sets]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        return Labels(clip_ids, offsets, np.array([c for row in rows for c in row], dtype=np.int32), vocabulary)

    @staticmethod
    def from_matrix(clip_ids: Sequence[str], matrix: np.ndarray, vocabulary: Vocabulary) -> Labels:
        """Labels from a (clips, classes) boolean matrix."""
        if matrix.shape != (len(clip_ids), len(vocabulary)):
            raise ValueError(f"labels: matrix {matrix.shape} for {len(clip_ids)} clips, {len(vocabulary)} classes")
        rows, columns = np.nonzero(matrix)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(clip_ids)))])
        return Labels(clip_ids, offsets, columns, vocabulary)

    def matrix(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Dense labels: (clips, classes) bool, of all clips or of the given rows."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        dense = np.zeros((len(rows), len(self.vocabulary)), dtype=bool)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        ends = np.cumsum(lengths)
        # The k-th label of the selection belongs to the row whose span of k it falls into.
        position = (
            np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths) + np.repeat(self.offsets[rows], lengths)
        )
        dense[np.repeat(np.arange(len(rows)), lengths), self.indices[position]] = True
        return dense

    def counts(self) -> np.ndarray:
        """(classes,) int64: how many clips carry each class."""
        return np.bincount(self.indices, minlength=len(self.vocabulary))

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """(len(clip_ids),) int64 rows of these clips.

        Raises:
            KeyError: clips that have no labels here, counted, the first named.
        """
        missing = [id for id in clip_ids if id not in self._rows]
        if missing:
            raise KeyError(f"{len(missing)} of {len(clip_ids)} clips have no labels here, the first: {missing[0]!r}")
        return np.array([self._rows[id] for id in clip_ids], dtype=np.int64)

    def select(self, clip_ids: Sequence[str]) -> Labels:
        """The labels of these clips, in this order."""
        return Labels.from_matrix(clip_ids, self.matrix(self.rows_of(clip_ids)), self.vocabulary)

    def ids_of(self, row: int) -> list[str]:
        """Class ids of one clip, in the order of the vocabulary."""
        return [self.vocabulary[int(c)].id for c in self.indices[self.offsets[row] : self.offsets[row + 1]]]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __repr__(self) -> str:
        return f"Labels({len(self)} clips, {len(self.indices)} labels, {self.vocabulary!r})"
