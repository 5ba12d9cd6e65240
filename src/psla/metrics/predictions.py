"""Predictions: the probabilities that a model gave to clips, with clip ids and vocabulary, in one file.

A row means nothing without its clip id and a column means nothing without its class id, so both travel with the
numbers, and whatever meets predictions joins by id or refuses. Labels are not in the file: they come from the clips.

The file and its format: `predictions_file.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from os import PathLike, fspath

import numpy as np

from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.metrics.predictions_file import PredictionsError, is_predictions, read_file, write_file

__all__ = ["Predictions", "PredictionsError", "average", "is_predictions"]

ROWS_AT_A_TIME = 65536  # bounds the memory of the check for finite numbers: a whole training set has 2 million rows


class Predictions:
    """What a model says about a list of clips.

    Args:
        probabilities: (clips, classes) float16 or float32, finite. Not held to [0, 1]: the head weights of the
            published models are unconstrained, so a weighted sum of probabilities may leave that range a little.
        clip_ids: unique ids, one a row; not empty, no line breaks.
        vocabulary: the classes of the columns.
        split: which split the clips are, such as `evaluation`; may be empty.
        model_hash: which model gave the probabilities; may be empty.

    Raises:
        PredictionsError: another shape or dtype, a number that is not finite (the first such clip is named), a clip id
            that is empty, given twice or that the file could not hold.

    Example:
        >>> probabilities = np.array([[0.9, 0.2], [0.1, 0.7]], dtype=np.float32)
        >>> predictions = Predictions(probabilities, ["a", "b"], Vocabulary(["dog", "rain"]), split="evaluation")
        >>> predictions
        Predictions(2 clips, 2 classes, float32, split 'evaluation')
        >>> predictions.select(["b"]).probabilities.round(1).tolist() == [[np.float32(0.1), np.float32(0.7)]]
        True
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        clip_ids: Sequence[str],
        vocabulary: Vocabulary,
        split: str = "",
        model_hash: str = "",
    ) -> None:
        if not isinstance(probabilities, np.ndarray) or probabilities.dtype not in (np.float16, np.float32):
            found = probabilities.dtype if isinstance(probabilities, np.ndarray) else type(probabilities).__name__
            raise PredictionsError(f"probabilities must be a numpy array of float16 or float32; got {found}")
        self._set(probabilities, clip_ids, vocabulary, split, model_hash)
        self._check_finite()

    def _set(
        self, probabilities: np.ndarray, clip_ids: Sequence[str], vocabulary: Vocabulary, split: str, model_hash: str
    ) -> None:
        self.probabilities = np.ascontiguousarray(probabilities)
        self.clip_ids = list(clip_ids)
        self.vocabulary = vocabulary
        self.split = split
        self.model_hash = model_hash
        if probabilities.shape != (len(self.clip_ids), len(vocabulary)):
            raise PredictionsError(
                f"{len(self.clip_ids)} clips and {len(vocabulary)} classes need probabilities of shape "
                f"({len(self.clip_ids)}, {len(vocabulary)}); got {probabilities.shape}"
            )
        _check_ids(self.clip_ids)

    @cached_property
    def _rows(self) -> dict[str, int]:
        # Made when it is asked for: of 2 million ids it is 2 s and 200 MB.
        return {id: row for row, id in enumerate(self.clip_ids)}

    def _check_finite(self) -> None:
        bad: list[int] = []
        for first in range(0, len(self), ROWS_AT_A_TIME):
            block = self.probabilities[first : first + ROWS_AT_A_TIME]
            if not _surely_finite(block):
                bad.extend((first + np.flatnonzero(~np.isfinite(block).all(axis=1))).tolist())
        if bad:
            raise PredictionsError(
                f"probabilities must be finite; {len(bad)} of {len(self)} clips have NaN or infinity, "
                f"the first: {self.clip_ids[bad[0]]!r}"
            )

    @property
    def hash_of_ids(self) -> str:
        """SHA-256 of the sorted clip ids: two results with the same hash speak of the same clips."""
        return hashlib.sha256("\n".join(sorted(self.clip_ids)).encode()).hexdigest()

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """(len(clip_ids),) int64 rows of these clips.

        Raises:
            KeyError: clips that have no predictions here, counted, the first named.
        """
        missing = [id for id in clip_ids if id not in self._rows]
        if missing:
            raise KeyError(f"{len(missing)} of {len(clip_ids)} clips have no predictions here, first: {missing[0]!r}")
        return np.array([self._rows[id] for id in clip_ids], dtype=np.int64)

    def select(self, clip_ids: Sequence[str]) -> Predictions:
        """The predictions of these clips, in this order.

        Raises:
            KeyError: clips that have no predictions here, counted, the first named.
            PredictionsError: a clip id given twice.
        """
        rows = self.rows_of(clip_ids)
        return Predictions(self.probabilities[rows], clip_ids, self.vocabulary, self.split, self.model_hash)

    def save(self, path: str | PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all; equal predictions give equal bytes."""
        stated = {"vocabulary": self.vocabulary.to_dict(), "split": self.split, "model_hash": self.model_hash}
        write_file(path, stated, self.probabilities, self.clip_ids)

    @staticmethod
    def read(path: str | PathLike[str], mapped: bool = False, verify: bool = True) -> Predictions:
        """The predictions in a file, to the bit as they were saved.

        Args:
            path: the file.
            mapped: leave the probabilities on the disk, read-only, and let the system page them in as they are used: a
                whole training set has 2 GB.
            verify: compare the checksum and look for numbers that are not finite, for which the whole file is read
                once (2 GB: a few seconds). Without it a damaged file may pass for a sound one.

        Raises:
            FileNotFoundError: no such file.
            PredictionsError: another format or version, a missing or additional tensor, or a damaged file.
        """
        stated, probabilities, ids = read_file(path, mapped, verify)
        try:
            clip_ids = ids.tobytes().decode().split("\n") if ids.size else []
            vocabulary = Vocabulary.from_dict(stated["vocabulary"])
            found = object.__new__(Predictions)
            found._set(probabilities, clip_ids, vocabulary, stated["split"], stated["model_hash"])
            if verify:
                found._check_finite()
            return found
        except (KeyError, UnicodeDecodeError, VocabularyError, PredictionsError) as error:
            raise PredictionsError(f"{fspath(path)!r} does not hold valid predictions: {error}") from error

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __repr__(self) -> str:
        split = f", split {self.split!r}" if self.split else ""
        return f"Predictions({len(self)} clips, {len(self.vocabulary)} classes, {self.probabilities.dtype}{split})"


def average(predictions: Iterable[Predictions]) -> Predictions:
    """The mean of the predictions of several models for the same clips.

    Summed in float64 one after the other, so an iterable that reads its files one by one needs the memory of one file
    and of the sum; the mean is float32. Joined by clip id; the clips come in the order of the first.
    `split` is kept if all agree. `model_hash` is kept if all agree and is else the SHA-256 of the sorted hashes (empty
    if one of them is unknown).

    Source: PSLA, section VI-B (ensemble).

    Raises:
        PredictionsError: nothing to average, another vocabulary, or other clips than the first (counted both ways).

    Example:
        >>> vocabulary = Vocabulary(["dog"])
        >>> one = Predictions(np.array([[0.0], [1.0]], dtype=np.float32), ["a", "b"], vocabulary)
        >>> two = Predictions(np.array([[0.5], [0.5]], dtype=np.float32), ["b", "a"], vocabulary)
        >>> average([one, two]).probabilities.tolist()
        [[0.25], [0.75]]
    """
    first: Predictions | None = None
    hashes: list[str] = []
    splits: set[str] = set()
    for number, each in enumerate(predictions, start=1):
        if first is None:
            first, total = each, each.probabilities.astype(np.float64)
        else:
            _check_same(first, each, number)
            total += each.probabilities[each.rows_of(first.clip_ids)]
        hashes.append(each.model_hash)
        splits.add(each.split)
    if first is None:
        raise PredictionsError("an average needs at least one set of predictions; got none")
    mean = (total / len(hashes)).astype(np.float32)
    split = splits.pop() if len(splits) == 1 else ""
    return Predictions(mean, first.clip_ids, first.vocabulary, split, _joint_hash(hashes))


def _joint_hash(hashes: list[str]) -> str:
    if len(set(hashes)) == 1:
        return hashes[0]
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest() if all(hashes) else ""


def _check_same(first: Predictions, other: Predictions, number: int) -> None:
    if first.vocabulary != other.vocabulary:
        ours, theirs = set(first.vocabulary.ids), set(other.vocabulary.ids)
        raise PredictionsError(
            f"predictions 1 and {number} have different vocabularies: {len(ours)} and {len(theirs)} classes, "
            f"{len(ours & theirs)} in common{', in another order' if ours == theirs else ''}"
        )
    here, there = set(first.clip_ids), set(other.clip_ids)
    if here != there:
        raise PredictionsError(
            f"predictions 1 and {number} are of different clips: {len(here & there)} in common, "
            f"{len(here - there)} only in 1, {len(there - here)} only in {number}"
        )


def _check_ids(clip_ids: list[str]) -> None:
    for id in clip_ids:
        if not isinstance(id, str) or not id or "\n" in id:
            raise PredictionsError(f"a clip id must be text, not empty, without line breaks; got {id!r}")
    try:
        "\n".join(clip_ids).encode()
    except UnicodeEncodeError as error:
        raise PredictionsError(f"clip ids must be valid Unicode: {error}") from error
    if len(set(clip_ids)) != len(clip_ids):
        twice = [id for id, count in Counter(clip_ids).items() if count > 1]
        raise PredictionsError(f"clip ids must be unique; {len(twice)} given more than once, the first: {twice[0]!r}")


def _surely_finite(block: np.ndarray) -> bool:
    """Whether all numbers are finite, quicker than asking each; False where only asking each can tell."""
    if block.dtype == np.float16:
        # Of infinity and NaN all five bits of the exponent are set.
        return not block.size or int((block.view(np.uint16) & 0x7FFF).max()) < 0x7C00
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(block.sum()))  # a sum is not finite if one of its terms is not
