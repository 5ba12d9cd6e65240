"""Published weights by family: which tensors a family has, and the network that they make.

A family is one file beside this one, with a `Reader` entered in `READERS` under the family's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.model.file import ModelCard, save_model
from psla.model.network import TaggingNetwork
from psla.model.tensor_file import read_torch_tensors
from psla.registry import Registry


class WeightsError(ValueError):
    """A file that is no checkpoint of a known family; it names the tensors."""


@dataclass(frozen=True)
class Reader:
    """How a family of published weights is known and read.

    Attributes:
        knows: whether a file with these tensors, by name, is of the family.
        read: from the path (for errors), the tensors and the frames of a log-mel (None: what the family knows) the
            network, strictly: every tensor has a place. Raises WeightsError.
        frames: the frames of a log-mel in training that the family has published weights of so many classes with;
            None: it has published none of so many.
        licence: of the published weights.
    """

    knows: Callable[[dict[str, Tensor]], bool]
    read: Callable[[Path, dict[str, Tensor], int | None], TaggingNetwork]
    frames: Callable[[int], int | None]
    licence: str


READERS: Registry[Reader] = Registry("family of weights", "psla.weights.readers")


def recognise(path: Path, tensors: dict[str, Tensor]) -> Reader:
    """The reader of the family that these tensors are of.

    Raises:
        WeightsError: no known family has such tensors.
    """
    for name in READERS:
        if READERS[name].knows(tensors):
            return READERS[name]
    raise WeightsError(
        f"{path} is not a published checkpoint: it must be of the family {' or '.join(READERS)}; "
        f"its first tensors are {', '.join(list(tensors)[:3]) or 'none'}"
    )


def read_weights(path: str | Path, frames: int | None = None) -> TaggingNetwork:
    """The network of a published checkpoint of any known family, in evaluation mode.

    Args:
        path: a file that `torch.save` wrote; its family is known by its tensors.
        frames: length of a log-mel, where the file does not tell; None: what the family knows.

    Raises:
        WeightsError: no known family; tensors that are missing, unexpected or misshapen, by name.
        TensorFileError: the file cannot be read at all.
        OSError: the file cannot be opened.
    """
    tensors = read_torch_tensors(path)
    return recognise(Path(path), tensors).read(Path(path), tensors, frames).eval()


def import_weights(
    path: str | Path,
    out: str | Path,
    vocabulary: Vocabulary,
    frames: int | None = None,
    card: ModelCard | None = None,
) -> Path:
    """Make a model file of a published checkpoint.

    Args:
        path, frames: as in `read_weights`.
        out: the model file to write.
        vocabulary: the classes, in the order of the network's outputs, which the checkpoint does not tell.
        card: provenance is completed with the file's name and SHA-256.

    Raises:
        WeightsError: as `read_weights`; also another number of classes in the file than in the vocabulary.
    """
    network = read_weights(path, frames)
    if network.classes != len(vocabulary):
        raise WeightsError(
            f"{path} has {network.classes} classes, the vocabulary {len(vocabulary)}: give the list of classes that it "
            "was trained with"
        )
    card = card or ModelCard()
    provenance = {**card.provenance, "checkpoint": Path(path).name, "sha256": sha256_of(path)}
    return save_model(out, network, vocabulary, replace(card, provenance=provenance))
