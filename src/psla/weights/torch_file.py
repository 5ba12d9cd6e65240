"""Reads what `torch.save` wrote of a dictionary of names to tensors, without trusting it.

Nothing in the file is executed (`weights_only`), and nothing is allocated that the file does not hold: storages are
mapped from the file, compressed parts are refused, and no tensor may claim more numbers than there are bytes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

_MOST_PICKLE_BYTES = 64 << 20  # names and shapes; a network of a thousand tensors has 100 KB


class TorchFileError(ValueError):
    """A file that is damaged, or holds anything else than plain tensors by name."""


def read_torch_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote of a dictionary of names to tensors, on the CPU.

    Raises:
        TorchFileError: the file is damaged, holds anything else than plain tensors, or tensors that claim more numbers
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
    except (OSError, TorchFileError):
        raise
    except Exception as error:  # a damaged pickle can raise whatever its bytes spell
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TorchFileError(f"{path} is not a file of plain tensors: {reason[:300]}") from error
    if not isinstance(state, dict) or not state:
        raise TorchFileError(f"{path} must hold a dictionary of names to tensors, not {type(state).__name__}")
    claimed = 0
    for name, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not isinstance(name, str) or not plain or tensor.is_quantized:
            kind = type(tensor).__name__
            raise TorchFileError(
                f"{path} must hold plain tensors by name, without further levels; {name!r} is a {kind}"
            )
        claimed += tensor.numel() * tensor.element_size()
    if claimed > size:
        raise TorchFileError(f"{path}: its tensors claim {claimed} bytes, the file has {size}")
    return state


def _refuse_inflated(path: Path, size: int) -> None:
    """torch.save compresses nothing: what unpacks to more than the file's size was made to fill the memory."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise TorchFileError(f"{path}: its part {entry.filename!r} is packed as torch.save does not pack")
            if entry.filename.endswith("data.pkl") and entry.file_size > _MOST_PICKLE_BYTES:
                raise TorchFileError(f"{path}: {entry.file_size} bytes of names and shapes; that is no checkpoint")
