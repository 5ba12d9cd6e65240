"""What programs hand over as a recording, in the forms in which other libraries have it, as one of ours.

    a path, bytes, a file object, an array                      as they are
    torch.Tensor (CPU or not), JAX, a list of numbers           an array
    (array, rate) of soundfile, librosa, torchaudio             an array and its rate; also (rate, array) of scipy
    {"array": ..., "sampling_rate": ...} of Hugging Face        an array and its rate; also {"bytes": ..., "path": ...}

A tensor and Hugging Face's array of two axes are (channels, samples), as their libraries have it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from psla.audio.sound_file import Source

Given = Source | np.ndarray | Mapping[str, Any] | tuple[Any, Any] | list[Any] | Any
"""All that `sound_of` takes."""

_WANTED = "give a path, bytes, a file object, an array, an (array, rate) pair or {'array': ..., 'sampling_rate': ...}"


def sound_of(given: Given, sample_rate: float | None = None) -> tuple[Source | np.ndarray, float | None]:
    """A source, or an array, and the sample rate in Hz that came with it or is given beside it.

    Raises:
        ValueError: it is none of these, or comes with another rate than the given.

    Example:
        >>> sound_of(([0.0, 0.5], 8000))
        (array([0. , 0.5]), 8000)
        >>> sound_of({"array": np.zeros(3), "sampling_rate": 16000, "path": None})
        (array([0., 0., 0.]), 16000)
    """
    if isinstance(sample_rate, str | bytes | bool):
        raise ValueError(f"the sample rate must be a number of Hz, not {sample_rate!r}")
    if isinstance(given, str | os.PathLike | bytes):
        return given, sample_rate
    if isinstance(given, bytearray | memoryview):
        return bytes(given), sample_rate
    if isinstance(given, Mapping):
        return _of_mapping(given, sample_rate)
    if isinstance(given, tuple | list):
        if len(given) == 2 and sum(numbers := [_is_number(each) for each in given]) == 1:
            rate, array = (given[0], given[1]) if numbers[0] else (given[1], given[0])
            return sound_of(array, _agreed(rate, sample_rate))
        return _array(given), sample_rate
    if isinstance(given, np.ndarray):
        return given, sample_rate
    if hasattr(given, "read"):
        return given, sample_rate
    if hasattr(given, "detach"):
        return _samples_first(_of_tensor(given)), sample_rate
    if hasattr(given, "__array__"):
        return np.asarray(given), sample_rate
    raise ValueError(f"a {type(given).__name__} is no recording: {_WANTED}")


def _of_mapping(given: Mapping[str, Any], sample_rate: float | None) -> tuple[Source | np.ndarray, float | None]:
    if given.get("array") is not None:
        array = _of_tensor(given["array"]) if hasattr(given["array"], "detach") else _array(given["array"])
        rate = given.get("sampling_rate", given.get("sample_rate"))
        return _samples_first(array), sample_rate if rate is None else _agreed(rate, sample_rate)
    for key in ("bytes", "path"):
        if given.get(key) is not None:
            return sound_of(given[key], sample_rate)
    keys = ", ".join(map(repr, list(given)[:5])) or "nothing in it"
    raise ValueError(f"a dict with {keys} is no recording: {_WANTED}")


def _of_tensor(tensor: Any) -> np.ndarray:
    if getattr(tensor, "is_meta", False) or getattr(tensor, "is_sparse", False):
        raise ValueError("a sparse tensor, or one without its values, is no recording: give a dense one")
    tensor = tensor.detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:  # NumPy has no bfloat16
        return np.asarray(tensor.float())


def _array(values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"these lists are no array: {error}") from error
    if array.dtype.kind not in "fiub":
        what = f"{type(values).__name__} of {type(values[0]).__name__}" if len(values) else "empty list"
        raise ValueError(f"a {what} is no recording: {_WANTED}; of many recordings call tag_files")
    return array


def _samples_first(array: np.ndarray) -> np.ndarray:
    return array.T if array.ndim == 2 and array.shape[0] < array.shape[1] else array


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _agreed(rate: float, given: float | None) -> float:
    if given is not None and given != rate:
        raise ValueError(f"the recording comes with a sample rate of {rate} Hz, but {given} Hz is given beside it")
    return rate
