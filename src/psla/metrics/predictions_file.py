"""The file of predictions, safetensors: `probabilities`, and `clip_ids` as UTF-8 bytes, one id a line.

Under the metadata key `psla`, JSON with format, version, vocabulary, split, model hash and the CRC-32 of everything
else in the file.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from psla.files import atomic_write

FORMAT = "psla-predictions"
VERSION = 1


class PredictionsError(ValueError):
    """Predictions that contradict themselves or each other, or a file that does not hold predictions."""


def write_file(
    path: str | PathLike[str], stated: Mapping[str, Any], probabilities: np.ndarray, clip_ids: Sequence[str]
) -> None:
    """Write the file, whole or not at all; `stated` goes into its header. Equal content gives equal bytes."""
    ids = np.frombuffer("\n".join(clip_ids).encode(), dtype=np.uint8)
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, **stated}
    header["crc32"] = _checksum(header, probabilities, ids)
    with atomic_write(path) as temporary:
        _write_safetensors(temporary, probabilities, ids, json.dumps(header, sort_keys=True))


def read_file(path: str | PathLike[str], mapped: bool, verify: bool) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The header, the probabilities and the bytes of the clip ids; the arguments are those of `Predictions.read`.

    Raises:
        FileNotFoundError: no such file.
        PredictionsError: another format or version, a missing or additional tensor, or a damaged file.
    """
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


def is_predictions(path: str | PathLike[str]) -> bool:
    """Whether a file says that it holds predictions, and not a model or something else; it may still be damaged."""
    try:
        with safe_open(fspath(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("psla", "{}"))
    except (SafetensorError, json.JSONDecodeError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


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
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise PredictionsError(f"{where} is damaged: its header is not JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise PredictionsError(f"{where} does not hold predictions: its header must say format {FORMAT!r}")
    if header.get("version") != VERSION:
        raise PredictionsError(
            f"{where} has version {header.get('version')!r} of the predictions format; this psla reads {VERSION}"
        )
    return header
