"""Labels: which classes a clip is labelled with. Sparse, with clip ids and vocabulary; joined by id, never by row.

2 million clips with 2 labels each are 16 MB here and 1 GB as a dense matrix, so the classes of all clips stand in one
array, clip after clip, and `offsets` says where each clip begins (compressed sparse rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from psla.data.vocabulary import Vocabulary, VocabularyError

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array


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
        self.vocabulary = vocabulary
        if len(set(self.clip_ids)) != len(self.clip_ids):
            raise ValueError("labels: clip ids must be unique")
        self.offsets = np.asarray(offsets, dtype=np.int64)
        self.indices = np.asarray(indices, dtype=np.int32)
        if len(self.offsets) != len(self.clip_ids) + 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.indices):
            raise ValueError(
                f"labels: {len(self.clip_ids)} clips need {len(self.clip_ids) + 1} offsets, 0 to {len(self.indices)}"
            )
        if np.any(np.diff(self.offsets) < 0):
            raise ValueError("labels: offsets must ascend")
        if len(self.indices) and not (self.indices.min() >= 0 and self.indices.max() < len(self.vocabulary)):
            raise VocabularyError(f"labels: class indices must lie in 0 .. {len(self.vocabulary) - 1}")

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
        return self._sparse[rows].toarray()

    def counts(self) -> np.ndarray:
        """(classes,) int64: how many clips carry each class."""
        return np.bincount(self.indices, minlength=len(self.vocabulary))

    def rows_with(self, class_id: str) -> np.ndarray:
        """(clips that carry a class,) int64: their rows, ascending.

        Raises:
            VocabularyError: a class id that the vocabulary does not have.

        Example:
            >>> labels = Labels.from_sets(["a", "b"], [["rain"], [0, 1]], Vocabulary(["dog", "rain"]))
            >>> labels.rows_with("rain").tolist()
            [0, 1]
        """
        index = self.vocabulary.index_of(class_id)
        begins, rows = self._transposed.indptr, self._transposed.indices
        return rows[begins[index] : begins[index + 1]].astype(np.int64)

    @cached_property
    def _sparse(self) -> csr_array:
        from scipy.sparse import csr_array  # tagging imports this module and has no labels: it starts without SciPy

        shape = len(self), len(self.vocabulary)
        return csr_array((np.ones(len(self.indices), dtype=bool), self.indices, self.offsets), shape=shape)

    @cached_property
    def _transposed(self) -> csc_array:
        return self._sparse.tocsc()

    @cached_property
    def _rows(self) -> dict[str, int]:
        # Made when it is asked for: of 2 million ids it is 2 s and 200 MB, which training has no use for.
        return {id: row for row, id in enumerate(self.clip_ids)}

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
        chosen = self._sparse[self.rows_of(clip_ids)]
        return Labels(clip_ids, chosen.indptr, chosen.indices, self.vocabulary)

    def part(self, vocabulary: Vocabulary) -> Labels:
        """The labels of the same clips in a part of their vocabulary; labels of other classes are left out.

        Raises:
            VocabularyError: a class that these labels' vocabulary does not have.

        Example:
            >>> labels = Labels.from_sets(["a", "b"], [["rain"], [0, 1]], Vocabulary(["dog", "rain"]))
            >>> labels.part(Vocabulary(["rain"])).matrix().astype(int).tolist()
            [[1], [1]]
        """
        if vocabulary == self.vocabulary:
            return self
        chosen = self._sparse[:, [self.vocabulary.index_of(id) for id in vocabulary.ids]].sorted_indices()
        return Labels(self.clip_ids, chosen.indptr, chosen.indices, vocabulary)

    def ids_of(self, row: int) -> list[str]:
        """Class ids of one clip, in the order of the vocabulary."""
        return [self.vocabulary[int(c)].id for c in self.indices[self.offsets[row] : self.offsets[row + 1]]]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __repr__(self) -> str:
        return f"Labels({len(self)} clips, {len(self.indices)} labels, {self.vocabulary!r})"


def choose_sources(source: np.ndarray, label: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Which sources to hold out so that each class loses `share` of its clips: (sources,) bool; rarest class first.

    Greedy, as in Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data (2011), but over sources.
    `source` and `label` are (entries,) ints: one entry for each label of each clip. A class with two or more sources
    keeps one. Two million sources take seconds: only the sources that are looked at cost Python's time.
    """
    chosen = np.zeros(int(source.max()) + 1, dtype=bool)
    rank = generator.permutation(len(chosen))
    # One row a source and class that occur together, in that order: so many clips.
    total = np.bincount(label)
    keys = np.sort(source.astype(np.int64) * len(total) + label)
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    owners, classes = np.divmod(keys[starts], len(total))
    sizes = np.diff(np.append(starts, len(keys)))
    begins = np.searchsorted(owners, np.arange(len(chosen) + 1))  # source s has the rows begins[s] .. begins[s + 1]
    by_class = np.lexsort((rank[owners], classes))
    left = np.bincount(classes, minlength=len(total))  # sources, where `total` counts clips
    class_begins = np.concatenate([[0], np.cumsum(left)])
    held = np.zeros(len(total))
    decided = np.zeros_like(chosen)

    def spare(s: int) -> bool:
        # A class must stay in train: a source that is the last of any class may not go.
        return bool((left[classes[begins[s] : begins[s + 1]]] > 1).all())

    def take(s: int) -> None:
        chosen[s] = True
        of_source = slice(begins[s], begins[s + 1])
        held[classes[of_source]] += sizes[of_source]
        left[classes[of_source]] -= 1

    for c in sorted(np.flatnonzero(total), key=lambda c: (total[c], c)):
        target = share * total[c]
        rows = by_class[class_begins[c] : class_begins[c + 1]]
        rows = rows[~decided[owners[rows]]]
        for s, size in zip(owners[rows], sizes[rows], strict=True):
            if 2 * (target - held[c]) < 1:
                break  # not even a source of one clip comes nearer to the target
            if held[c] + size - target <= target - held[c] and spare(s):
                take(s)
        if not held[c]:
            for row in np.argsort(sizes[rows], kind="stable"):  # the smallest that may go
                if spare(s := owners[rows[row]]):
                    take(s)
                    break
        decided[owners[rows]] = True
    return chosen
