"""Files of tensors by name: writes .safetensors whole or not at all, reads them and what `torch.save` wrote.

Neither is trusted. A .safetensors (https://huggingface.co/docs/safetensors) has 8 bytes, the length n of the header,
little-endian; n bytes of JSON, a tensor's name -> its dtype, shape and place in what follows, and `__metadata__`, texts
by name; then the numbers. Its header is checked here, against bounds and the file's size, before the library sees it.

Of what `torch.save` wrote nothing is executed (`weights_only`), and nothing is allocated that the file does not hold:
storages are mapped from the file, compressed parts are refused, no tensor may claim more numbers than there are bytes.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from psla.files import atomic_write

# A vocabulary of 527 classes, its scores and a recipe take 150 KB, the hashes of two million clip ids 16 MB.
MOST_HEADER_BYTES = 32 << 20
_MOST_PICKLE_BYTES = 64 << 20  # names and shapes; a network of a thousand tensors has 100 KB
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class TensorFileError(ValueError):
    """A file that is damaged, or holds anything else than plain tensors by name."""


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write tensors, from any device, atomically.

    Raises:
        OSError: the file cannot be written, such as on a full disk; what stood at `path` stays.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_write(path) as temporary:
            save_file(plain, temporary, metadata=metadata)
    except SafetensorError as error:  # its own wrapping of what the system said
        raise OSError(f"{path} cannot be written: {error}") from error
    return Path(path)


def read_layout(path: str | Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The metadata of a .safetensors file and the shape of each tensor, without the numbers.

    Raises:
        TensorFileError: a header that is too long for its file or for this program, that is not of the format, or whose
            tensors do not fill the rest of the file exactly.
        OSError: the file cannot be opened.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > size - 8:
            raise TensorFileError(f"the header claims {length} bytes, the file has {size}")
        if length > MOST_HEADER_BYTES:
            raise TensorFileError(f"a header of {length} bytes; at most {MOST_HEADER_BYTES} are read")
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"the header is no JSON: {str(error)[:200]}") from error
    if not isinstance(header, dict):
        raise TensorFileError("the header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise TensorFileError("the metadata must be texts by name")
    spans = [_span(name, entry) for name, entry in header.items()]
    end = 0
    for name, begin, stop in sorted(spans, key=lambda span: span[1:]):
        if begin != end:
            raise TensorFileError(f"the numbers of {name!r} begin at byte {begin}, not {end}")
        end = stop
    if 8 + length + end != size:
        raise TensorFileError(f"its tensors claim {8 + length + end} bytes, the file has {size}")
    return metadata, {name: tuple(entry["shape"]) for name, entry in header.items()}


def _span(name: str, entry: Any) -> tuple[str, int, int]:
    """Name, first byte and byte after the last; refuses an entry whose parts contradict each other."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"the entry of {name!r} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise TensorFileError(f"{name!r} has the dtype {dtype!r:.40}; known are {', '.join(_ITEM_BYTES)}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 60 for n in numbers):
            raise TensorFileError(f"shape and data_offsets of {name!r} must be lists of whole numbers")
    if len(shape) > 8 or len(offsets) != 2:
        raise TensorFileError(f"{name!r} has {len(shape)} dimensions and {len(offsets)} offsets")
    if offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise TensorFileError(f"{name!r} of shape {tuple(shape)} does not fill its {offsets[1] - offsets[0]} bytes")
    return name, offsets[0], offsets[1]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file.

    Raises:
        TensorFileError: as `read_layout`.
        OSError: the file cannot be opened.
    """
    read_layout(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as error:
        raise TensorFileError(str(error)) from error


def read_torch_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote of a dictionary of names to tensors, on the CPU.

    Raises:
        TensorFileError: the file is damaged, holds anything else than plain tensors, or tensors that claim more numbers
            than the file has.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        if zipped:
            _refuse_inflated(path, size)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (OSError, TensorFileError):
        raise
    except Exception as error:  # a damaged pickle can raise whatever its bytes spell
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TensorFileError(f"{path} is not a file of plain tensors: {reason[:300]}") from error
    if not isinstance(state, dict) or not state:
        raise TensorFileError(f"{path} must hold a dictionary of names to tensors, not {type(state).__name__}")
    claimed = 0
    for name, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not isinstance(name, str) or not plain or tensor.is_quantized:
            kind = type(tensor).__name__
            raise TensorFileError(
                f"{path} must hold plain tensors by name, without further levels; {name!r} is a {kind}"
            )
        claimed += tensor.numel() * tensor.element_size()
    if claimed > size:
        raise TensorFileError(f"{path}: its tensors claim {claimed} bytes, the file has {size}")
    return state


def _refuse_inflated(path: Path, size: int) -> None:
    """torch.save compresses nothing: what unpacks to more than the file's size was made to fill the memory."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise TensorFileError(f"{path}: its part {entry.filename!r} is packed as torch.save does not pack")
            if entry.filename.endswith("data.pkl") and entry.file_size > _MOST_PICKLE_BYTES:
                raise TensorFileError(f"{path}: {entry.file_size} bytes of names and shapes; that is no checkpoint")


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Which tensors are missing, unexpected or misshapen, by name, for a sentence; empty where all are as expected.

    Example:
        >>> import torch
        >>> misfits({"stem": torch.zeros(7), "extra": torch.zeros(1)}, {"stem": (8,), "head": (2,)})
        'missing: head; unexpected: extra; misshapen: stem (7,), not (8,)'
    """
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "misshapen": [
            f"{name} {tuple(found[name].shape)}, not {shape}"
            for name, shape in expected.items()
            if name in found and tuple(found[name].shape) != shape
        ],
    }
    return "; ".join(f"{word}: {first_few(names)}" for word, names in problems.items() if names)


def first_few(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, for a sentence, and how many more there are.

    Example:
        >>> first_few(["stem", "head", "bias"], 2)
        'stem, head and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
