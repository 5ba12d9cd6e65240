"""Predictions: the probabilities that a model gave to clips, with clip ids and vocabulary, in one file.

A row means nothing without its clip id and a column means nothing without its class id, so both travel with the
numbers, and whatever meets predictions joins by id or refuses. Labels are not in the file: they come from the clips.

The file is a safetensors file: `probabilities`, and `clip_ids` as UTF-8 bytes, one id a line; under the metadata key
`psla`, JSON with format, version, vocabulary, split, model hash and the CRC-32 of everything else in the file.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.files import atomic_write
from psla.journal import json_object

FORMAT = "psla-predictions"
VERSION = 1
ROWS_AT_A_TIME = 65536  # bounds the memory of the check for finite numbers: a whole training set has 2 million rows


class PredictionsError(ValueError):
    """Predictions that contradict themselves or each other, or a file that does not hold predictions."""


class Predictions:
    """What a model says about a list of clips.

    Args:
        probabilities: (clips, classes) float16 or float32, finite. Not held to [0, 1]: the head weights of the
            published models are unconstrained, so a weighted sum of probabilities may leave that range a little.
        clip_ids: unique ids, one a row; not empty, no line breaks.
        vocabulary: the classes of the columns.
        split: which split the clips are, such as `evaluation`; may be empty.
        model_hash: which model gave the probabilities; may be empty.
        look_for_nan: whether to read all numbers once to see that they are finite.

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
        *,
        look_for_nan: bool = True,
    ) -> None:
        if not isinstance(probabilities, np.ndarray) or probabilities.dtype not in (np.float16, np.float32):
            found = probabilities.dtype if isinstance(probabilities, np.ndarray) else type(probabilities).__name__
            raise PredictionsError(f"probabilities must be a numpy array of float16 or float32; got {found}")
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
        if look_for_nan:
            self._check_finite()

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
        ids = np.frombuffer("\n".join(self.clip_ids).encode(), dtype=np.uint8)
        header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "vocabulary": self.vocabulary.to_dict()}
        header |= {"split": self.split, "model_hash": self.model_hash}
        header["crc32"] = _checksum(header, self.probabilities, ids)
        with atomic_write(path) as temporary:
            _write_safetensors(temporary, self.probabilities, ids, json.dumps(header, sort_keys=True))

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
        header, probabilities, ids = _read_file(path, mapped, verify)
        try:
            clip_ids = ids.tobytes().decode().split("\n") if ids.size else []
            stated = (Vocabulary.from_dict(header["vocabulary"]), header["split"], header["model_hash"])
            return Predictions(probabilities, clip_ids, *stated, look_for_nan=verify)
        except (KeyError, UnicodeDecodeError, VocabularyError, PredictionsError) as error:
            raise PredictionsError(f"{fspath(path)!r} does not hold valid predictions: {error}") from error

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __repr__(self) -> str:
        split = f", split {self.split!r}" if self.split else ""
        return f"Predictions({len(self)} clips, {len(self.vocabulary)} classes, {self.probabilities.dtype}{split})"


def is_predictions(path: str | PathLike[str]) -> bool:
    """Whether a file says that it holds predictions, and not a model or something else; it may still be damaged."""
    try:
        with safe_open(fspath(path), framework="numpy") as file:
            header = json_object((file.metadata() or {}).get("psla", "{}"))
    except (SafetensorError, ValueError):
        return False
    return header.get("format") == FORMAT


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
        raise PredictionsError(f"predictions 1 and {number} have {unlike(first.vocabulary, other.vocabulary)}")
    here, there = set(first.clip_ids), set(other.clip_ids)
    if here != there:
        raise PredictionsError(
            f"predictions 1 and {number} are of different clips: {len(here & there)} in common, "
            f"{len(here - there)} only in 1, {len(there - here)} only in {number}"
        )


def unlike(first: Vocabulary, second: Vocabulary) -> str:
    """How two vocabularies differ, as the end of a sentence.

    Example:
        >>> unlike(Vocabulary(["dog", "rain"]), Vocabulary(["rain", "dog"]))
        'different vocabularies: 2 and 2 classes, 2 in common, in another order'
    """
    ours, theirs = set(first.ids), set(second.ids)
    order = ", in another order" if ours == theirs else ""
    return f"different vocabularies: {len(ours)} and {len(theirs)} classes, {len(ours & theirs)} in common{order}"


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


def _read_file(path: str | PathLike[str], mapped: bool, verify: bool) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The header, the probabilities and the bytes of the clip ids; arguments and errors as of `Predictions.read`."""
    where = f"{fspath(path)!r}"
    try:
        with safe_open(fspath(path), framework="numpy") as file:
            header = _parse_header((file.metadata() or {}).get("psla"), where)
            if set(file.keys()) != {"probabilities", "clip_ids"}:
                raise PredictionsError(
                    f"{where} must hold exactly the tensors 'clip_ids' and 'probabilities'; it has "
                    f"{', '.join(map(repr, sorted(file.keys()))) or 'none'}"
                )
            ids = file.get_tensor("clip_ids")
            probabilities = _map_probabilities(path) if mapped else file.get_tensor("probabilities")
    except (SafetensorError, TypeError) as error:  # TypeError: a tensor in a type that numpy does not have
        raise PredictionsError(f"{where} is damaged or no safetensors file: {error}") from error
    crc32 = header.pop("crc32", None)
    if verify and crc32 != _checksum(header, probabilities, ids):
        raise PredictionsError(f"{where} is damaged: its content does not match the checksum in its header")
    return header, probabilities, ids


def _checksum(header: dict[str, Any], probabilities: np.ndarray, ids: np.ndarray) -> int:
    sum_of_header = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    # Bytes seen as uint8: zlib takes no float16 buffers, and an empty array has none.
    data = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in (probabilities, ids)]
    return zlib.crc32(data[1], zlib.crc32(data[0], sum_of_header))


def _write_safetensors(path: Path, probabilities: np.ndarray, ids: np.ndarray, metadata: str) -> None:
    """The two tensors as a safetensors file, without the copy in memory that the library's own writer makes.

    One metadata key: the library keeps several in no fixed order, and the bytes would differ from run to run.
    """
    kind = "F16" if probabilities.dtype == np.float16 else "F32"
    size = probabilities.nbytes
    header = {
        "__metadata__": {"psla": metadata},
        "probabilities": {"dtype": kind, "shape": list(probabilities.shape), "data_offsets": [0, size]},
        "clip_ids": {"dtype": "U8", "shape": [ids.size], "data_offsets": [size, size + ids.size]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data begins at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(probabilities.reshape(-1).view(np.uint8).data)
        file.write(ids.data)


def _map_probabilities(path: str | PathLike[str]) -> np.ndarray:
    """The tensor `probabilities` of a file that safetensors has found sound, not read but mapped."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))["probabilities"]
    kinds: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
    if entry["dtype"] not in kinds:
        raise PredictionsError(f"{fspath(path)!r} holds probabilities of type {entry['dtype']}, not F16 or F32")
    shape = tuple(entry["shape"])
    kind = kinds[entry["dtype"]]
    if 0 in shape:  # nothing to map
        return np.zeros(shape, kind)
    return np.memmap(path, kind, "r", offset=8 + length + entry["data_offsets"][0], shape=shape)


def _parse_header(text: str | None, where: str) -> dict[str, Any]:
    if text is None:
        raise PredictionsError(f"{where} is a safetensors file without the metadata of predictions")
    try:
        header = json_object(text)
    except ValueError as error:
        raise PredictionsError(f"{where} is damaged: its header cannot be used ({error})") from error
    if header.get("format") != FORMAT:
        raise PredictionsError(f"{where} does not hold predictions: its header must say format {FORMAT!r}")
    if header.get("version") != VERSION:
        raise PredictionsError(
            f"{where} has version {header.get('version')!r} of the predictions format; this psla reads {VERSION}"
        )
    return header
