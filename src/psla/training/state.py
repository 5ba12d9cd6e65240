"""TrainingState: all that a training needs to go on where it stopped, to the bit.

Masks, drop-connect and the plan of an epoch are drawn from (seed, epoch, position), so there is no generator to keep:
weights, optimizer and the position are all. A state is written aside, synced and renamed; the newest two are kept, and
a damaged newest one gives way to the one before it, with a warning. A checksum covers all of it; that of version 1, by
earlier versions of psla, covers the tensors.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psla.files import remove_leftovers
from psla.journal import json_object
from psla.model.tensor_file import TensorFileError, read_layout, read_sealed, read_tensors, write_sealed

VERSION = 2
KEPT = 2  # states on the disk: the newest, and one to fall back on
_KEY, _NETWORK, _OPTIMIZER = "psla_state", "network.", "optimizer."


class StateError(ValueError):
    """A stored state that cannot be used; the sentence names the file and the reason."""


class _DamagedError(StateError):
    """A state that a crash or a disk has spoilt: the one before it is used."""


@dataclass
class Position:
    """Where a training stands, and what it has counted of the epoch in progress.

    epoch: in progress, counted from 0. batch: batches of it that are done. step: optimizer steps of the whole run.
    loss_sum, clips, rejected: of the epoch's batches so far. reasons: {clip id: why it could not be read}.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    clips: int = 0
    rejected: int = 0
    skipped: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def next_epoch(self) -> Position:
        """The beginning of the next epoch; steps, skipped steps and reasons are of the whole run."""
        return Position(self.epoch + 1, step=self.step, skipped=self.skipped, reasons=self.reasons)


def save_state(
    folder: Path, position: Position, network: torch.nn.Module, optimizer: torch.optim.Optimizer, identity: str
) -> Path:
    """Write a state into a folder and delete all but the newest two.

    Args:
        identity: a hash of the recipe and the clips; a state is never loaded into another training.
    """
    tensors = {_NETWORK + name: tensor for name, tensor in network.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}.{key}": value for key, value in values.items()}
    header = {"version": VERSION, "identity": identity, "position": asdict(position)}
    path = folder / f"state_{position.step:09d}.safetensors"
    write_sealed(path, tensors, _KEY, header)
    prune(folder)
    return path


def prune(folder: Path) -> None:
    """Delete all states but the newest two, and what writers that were killed left of any."""
    remove_leftovers(folder)
    for old in states(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def states(folder: Path) -> list[Path]:
    """The stored states of a folder, the newest first."""
    return sorted(folder.glob(f"state_{'[0-9]' * 9}.safetensors"), reverse=True)


def load_newest(
    folder: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, identity: str
) -> Position | None:
    """Restore the newest state that is whole; None: there is no state, training starts at its beginning.

    A damaged state is reported by a warning and deleted.

    Raises:
        StateError: a state of another recipe or other clips, or of another format version.
    """
    for path in states(folder):
        try:
            header, tensors = _read(path)
        except _DamagedError as error:
            warnings.warn(f"{error}; going on from the state before it", stacklevel=2)
            path.unlink()
            continue
        if header["identity"] != identity:
            raise StateError(f"{path} belongs to another recipe or other clips; start that training in another folder")
        _restore(network, optimizer, tensors)
        return header["position"]
    return None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        header = json_object(read_layout(path)[0][_KEY])
        if (version := header["version"]) not in (1, VERSION):
            raise StateError(f"{path} has state version {version!r:.80}; this psla reads versions 1 to {VERSION}")
        if version == 1:
            tensors = read_tensors(path)
            if header["crc32"] != _checksum(tensors):
                raise TensorFileError("its content does not match its checksum")
        else:
            tensors, header = read_sealed(path, _KEY)
        header["position"] = Position(**header["position"])
    except StateError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _DamagedError(f"{path} is damaged ({' '.join(str(error).split())})") from error
    return header, tensors


def _restore(network: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    network.load_state_dict({n.removeprefix(_NETWORK): t for n, t in tensors.items() if n.startswith(_NETWORK)})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split(".", 1)
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:
                # In the parameter's memory layout, as the optimizer made it: another one may round another way.
                tensor = torch.empty_like(parameter).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """Of the states of version 1."""
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"", total)
    return total
