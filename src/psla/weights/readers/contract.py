"""Published weights by family: which tensors a family has, and the network that they make.

A family is one file beside this one, with a `Reader` entered in `READERS` under the family's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.model.file import Model, ModelCard, save_model
from psla.model.network import TaggingNetwork
from psla.model.tensor_file import read_torch_tensors
from psla.registry import Registry
from psla.weights.published import by_file


class WeightsError(ValueError):
    """A file that is no checkpoint of a known family; it names the tensors."""


@dataclass(frozen=True)
class Reader:
    """How a family of published weights is known and read.

    Attributes:
        knows: whether a file with these tensors, by name, is of the family.
        read: from the path (for errors), the tensors and what is said of them (some of `options`) the network,
            strictly: every tensor has a place. Raises WeightsError.
        licence: of the published weights.
        options: what the tensors do not tell and may be said: fields of the front end, and of the backbone.
        required: those of them that must be said of weights that the family has not published.
        published: whether the family has published weights of so many classes.
    """

    knows: Callable[[dict[str, Tensor]], bool]
    read: Callable[[Path, dict[str, Tensor], Mapping[str, Any]], TaggingNetwork]
    licence: str
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    published: Callable[[int], bool] = lambda classes: False


READERS: Registry[Reader] = Registry("family of weights", "psla.weights.readers")


def recognise(path: Path, tensors: dict[str, Tensor]) -> str:
    """The name of the family that these tensors are of.

    Raises:
        WeightsError: no known family has such tensors.
    """
    for name in READERS:
        if READERS[name].knows(tensors):
            return name
    raise WeightsError(
        f"{path} is not a published checkpoint: it must be of the family {' or '.join(READERS)}; "
        f"its first tensors are {', '.join(list(tensors)[:3]) or 'none'}"
    )


def read_weights(
    path: str | Path,
    vocabulary: Vocabulary | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
    card: ModelCard | None = None,
) -> Model[TaggingNetwork]:
    """The model of a published checkpoint of any known family, in evaluation mode.

    Args:
        path: a file that `torch.save` wrote; its family is known by its tensors.
        vocabulary: the classes, in the order of the network's outputs, which no checkpoint tells. None: AudioSet's
            where there are 527, FSD50K's where there are 200, and otherwise `class_0`, `class_1`, ...
        given: what the tensors do not tell, by name, such as `{"hop_samples": 160}` (efficientat) or
            `{"frames": 3000}` (psla). What is not said is what the published file of this name has, or most of the
            family's published weights.
        card: licence and provenance are completed with the family's, the file's name and its SHA-256.

    Raises:
        WeightsError: no known family; tensors that are missing, unexpected or misshapen, by name; something said that
            the family does not take; another number of classes in the file than in the vocabulary.
        TensorFileError: the file cannot be read at all.
        OSError: the file cannot be opened.

    Example:
        >>> model = read_weights("mn04_as_mAP_432.pt")          # doctest: +SKIP
        >>> model.network.sample_rate, len(model.vocabulary)    # doctest: +SKIP
        (32000, 527)
    """
    path = Path(path)
    tensors = read_torch_tensors(path)
    family = recognise(path, tensors)
    reader = READERS[family]
    if unknown := sorted(set(given) - set(reader.options)):
        raise WeightsError(
            f"{path}: {', '.join(unknown)} cannot be said of weights of the family {family}; "
            f"{', '.join(reader.options) or 'nothing'} can"
        )
    published = by_file(path.name)
    known = published.given if published is not None and published.family.name == family else {}
    network = reader.read(path, tensors, {**known, **given}).eval()
    vocabulary = vocabulary or vocabulary_of(network.classes) or _numbered(network.classes)
    if network.classes != len(vocabulary):
        raise WeightsError(
            f"{path} has {network.classes} classes, the vocabulary {len(vocabulary)}: give the list of classes that it "
            "was trained with"
        )
    card = card or ModelCard()
    own = reader.licence if reader.published(network.classes) else "not stated"
    provenance = {**card.provenance, "family": family, "checkpoint": path.name, "sha256": sha256_of(path)}
    return Model(network, vocabulary, replace(card, licence=card.licence or own, provenance=provenance))


def vocabulary_of(classes: int) -> Vocabulary | None:
    """The published vocabulary of so many classes, if there is one.

    Example:
        >>> vocabulary_of(527)[0].name, vocabulary_of(2)
        ('Speech', None)
    """
    known = (Vocabulary.audioset(), Vocabulary.fsd50k())
    return next((vocabulary for vocabulary in known if len(vocabulary) == classes), None)


def _numbered(classes: int) -> Vocabulary:
    return Vocabulary([f"class_{number}" for number in range(classes)])


def import_weights(
    path: str | Path,
    out: str | Path,
    vocabulary: Vocabulary | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
    card: ModelCard | None = None,
) -> Path:
    """Make a model file of a published checkpoint; arguments and errors as `read_weights`, out: the file to write."""
    model = read_weights(path, vocabulary, given, card)
    return save_model(out, model.network, model.vocabulary, model.card)


def as_ours(tensor: Tensor, name: str, path: Path) -> Tensor:
    """A file's tensor as float32, or int64 for the counters of batches, which an average of checkpoints leaves as
    floating numbers.

    Raises:
        WeightsError: numbers of another kind, or that are not finite.
    """
    if name.endswith("num_batches_tracked"):
        return tensor.to(torch.int64)
    if not tensor.is_floating_point():
        raise WeightsError(f"{path}: {name} holds {tensor.dtype}, not floating numbers")
    ours = tensor.to(torch.float32, copy=True)
    if not ours.isfinite().all():
        raise WeightsError(f"{path}: {name} holds numbers that are not finite")
    return ours
