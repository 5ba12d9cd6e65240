"""Fine-tuning: a network starts from a model file, whose classes are carried over by their ids.

The checkpoints of the paper's authors are such files once imported (`psla.weights.readers.psla`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.model.file import load_model
from psla.model.network import TaggingNetwork
from psla.model.tensor_file import first_few
from psla.techniques.pretraining import PretrainingError
from psla.weights.catalogue import resolve


@dataclass(frozen=True)
class InitReport:
    """What a network took over from a model file.

    Attributes:
        source: path of the file that was read; sha256: of that file.
        backbone: its name; all of its tensors were loaded, the statistics of batch normalisation too.
        carried: ids of the classes whose rows in every head were loaded.
        new: ids of the classes that keep the values they have.
        dropped: ids of the file's classes that are none of the network's.
        remark: why no class was carried, if that has another reason than the ids; else empty.
        front_end: fields of the front end -> the file's value and the network's, where they differ.
    """

    source: str
    sha256: str
    backbone: str
    carried: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    remark: str
    front_end: dict[str, tuple[Any, Any]]

    def summary(self) -> str:
        """One line for a log."""
        parts = [
            f"{self.backbone} from {Path(self.source).name} (sha256 {self.sha256[:8]})",
            f"classes carried over: {_some(self.carried)}",
            f"new: {_some(self.new)}",
        ]
        parts += [self.remark] if self.remark else []
        parts += [f"{name} was {theirs}, is {ours}" for name, (theirs, ours) in self.front_end.items()]
        return "; ".join(parts)


def _some(ids: tuple[str, ...]) -> str:
    return f"{len(ids)} ({first_few(ids)})" if ids else "none"


@torch.no_grad()
def load_init(network: TaggingNetwork, vocabulary: Vocabulary, model: str | Path) -> InitReport:
    """Start a network from a model file: its backbone, and of its pooling the rows of the classes that both know.

    Classes are matched by id. With as many heads in both, each head's classification and attention rows are carried
    over, and the heads' weights if there is any such class; with other heads, all classes are new.

    Args:
        network: to be trained; its values change in place, all or (on a refusal) none.
        vocabulary: its classes.
        model: path of a model file, or the name of a published model.

    Raises:
        PretrainingError: another backbone, another number of mel bins, an ensemble, or a vocabulary that is not the
            network's.
        ModelFileError, PublishedError, DownloadError: as `psla.weights.catalogue.load_any`.
    """
    path = resolve(model)
    if path.suffix == ".json":
        raise PretrainingError(f"{path} is an ensemble: start from one of its members")
    found = load_model(path)
    theirs, ours = found.network.config, network.config
    if ours.classes != len(vocabulary):
        raise PretrainingError(f"the network has {ours.classes} classes, the vocabulary {len(vocabulary)}")
    if theirs.backbone != ours.backbone:
        raise PretrainingError(f"{path} has the backbone {theirs.backbone}, the recipe {ours.backbone}: set it alike")
    if theirs.front_end.mel_bins != ours.front_end.mel_bins:
        raise PretrainingError(
            f"{path} hears {theirs.front_end.mel_bins} mel bins, the recipe {ours.front_end.mel_bins}: set them alike"
        )
    same_heads = theirs.heads == ours.heads
    carried = [id for id in vocabulary.ids if same_heads and id in found.vocabulary]
    network.backbone.load_state_dict(found.network.backbone.state_dict())
    if carried:
        rows = _rows(vocabulary, carried, ours.heads)
        their_rows = _rows(found.vocabulary, carried, ours.heads)
        values = found.network.pooling.state_dict()
        for name, parameter in network.pooling.named_parameters():
            if name == "head_weight":
                parameter.copy_(values[name])
            else:
                parameter[rows] = values[name][their_rows].to(parameter.device)
    kept = set(carried)
    before, after = theirs.front_end.to_dict(), ours.front_end.to_dict()
    return InitReport(
        source=str(path),
        sha256=sha256_of(path),
        backbone=ours.backbone,
        carried=tuple(carried),
        new=tuple(id for id in vocabulary.ids if id not in kept),
        dropped=tuple(id for id in found.vocabulary.ids if id not in kept),
        remark="" if same_heads else f"{theirs.heads} heads in the file, {ours.heads} here: the pooling is new",
        front_end={name: (before[name], after[name]) for name in after if before[name] != after[name]},
    )


def _rows(vocabulary: Vocabulary, ids: list[str], heads: int) -> Tensor:
    """Rows of these classes in the pooling's matrices, where the heads stand one after the other."""
    within = torch.tensor([vocabulary.index_of(id) for id in ids])
    return (torch.arange(max(heads, 1))[:, None] * len(vocabulary) + within).flatten()
