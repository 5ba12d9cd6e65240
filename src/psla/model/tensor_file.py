"""Files of tensors by name: writes .safetensors whole or not at all, reads them and what `torch.save` wrote.

Neither is trusted. A .safetensors (https://huggingface.co/docs/safetensors) has 8 bytes, the length n of the header,
little-endian; n bytes of JSON, a tensor's name -> its dtype, shape and place in what follows, and `__metadata__`, texts
by name; then the numbers. Its header is checked here, against bounds and the file's size, before the library sees it.

What psla writes for itself alone, such as checkpoints, carries a SHA-256 of all that it holds (`write_sealed`); a file
with such a checksum is compared with it whenever it is read, and one without is read as it is.

Of what `torch.save` wrote nothing is executed (`weights_only`), and nothing is allocated that the file does not hold:
storages are mapped from the file, compressed parts are refused, no tensor may claim more numbers than there are bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from psla.files import atomic_write
from psla.journal import json_object
from psla.sealed import ANOTHER

CHECKPOINT = "psla_checkpoint"
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


def write_sealed(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    key: str = CHECKPOINT,
    header: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Write tensors with a header as JSON under a key of the metadata, and in it the checksum of both; atomically.

    Raises:
        OSError: as `write_tensors`.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_tensors(path, plain, {key: json.dumps({**header, "sha256": digest(plain, header)})})


def read_sealed(path: str | Path, key: str = CHECKPOINT) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header that `write_sealed` wrote.

    Raises:
        TensorFileError: as `read_layout`; also no header under this key, or another content than was written.
        OSError: the file cannot be opened.
    """
    metadata, _ = read_layout(path)
    if key not in metadata:
        raise TensorFileError(f"it has no {key!r} in its metadata")
    tensors = _numbers(path)
    return tensors, _unsealed(tensors, metadata[key])


def _unsealed(tensors: Mapping[str, Tensor], text: str) -> dict[str, Any]:
    """The header, if it and the tensors are what was written."""
    try:
        header = json_object(text)
        if header.pop("sha256", None) != digest(tensors, header):
            raise ValueError(ANOTHER)
    except ValueError as error:
        raise TensorFileError(str(error)) from error
    return header


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of a header, and of the names, types, shapes and numbers of tensors on the CPU, in the order of names.

    Example:
        >>> digest({"a": torch.zeros(2)}, {}) == digest({"a": torch.zeros(1, 2)}, {})
        False
    """
    total = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


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
        header = json_object(raw)
    except ValueError as error:
        raise TensorFileError(f"the header cannot be used: {error}") from error
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
    """All tensors of a .safetensors file; of a checkpoint, compared with its checksum.

    Raises:
        TensorFileError: as `read_layout`; also another content than was written.
        OSError: the file cannot be opened.
    """
    metadata, _ = read_layout(path)
    tensors = _numbers(path)
    if CHECKPOINT in metadata:
        _unsealed(tensors, metadata[CHECKPOINT])
    return tensors


def _numbers(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file whose layout has been checked."""
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
        first = file.read(512)
    zipped = first[:4] == b"PK\x03\x04"
    if not zipped and not first.startswith(b"\x80"):  # with which every pickle of the older format begins
        raise TensorFileError(f"{path} is no file that torch.save wrote: it {_what_it_is(first)}")
    try:
        if zipped:
            _refuse_inflated(path, size)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (OSError, TensorFileError):
        raise
    except Exception as error:  # a damaged pickle can raise whatever its bytes spell
        # Not torch's own words: they advise to switch off what keeps a file from running code.
        asked = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        reason = f"it asks for {asked[1]:.100}, which is no tensor" if asked else "it is damaged"
        raise TensorFileError(f"{path} is not a file of plain tensors: {reason}; nothing of it was run") from error
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


def _what_it_is(first: bytes) -> str:
    """What a file is by its first bytes, for a sentence."""
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not first:
        return "is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, such as a server sends in place of a file: fetch the file again"
    if text.startswith((b"{", b"[")):
        return "is JSON"
    if first[8:10] == b'{"':
        return "is a .safetensors file"
    if first.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        return "is a compressed file: unpack it first"
    return f"begins with {first[:8]!r}"


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
