"""Pretraining, the P of PSLA (section III-B of https://arxiv.org/abs/2102.01243): a backbone starts from ImageNet.

Every tensor of a published file is either loaded under one of our names or listed with the reason why not, and every
tensor of ours is either loaded or listed as initialised: nothing is skipped in silence. The one tensor that cannot be
copied is the stem's, for a spectrogram has one channel and a picture three.

Or a whole network starts from a model file, whose classes are carried over by their ids (`load_init`); the checkpoints
of the paper's authors are such files once imported (`psla.weights.readers.psla`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.model.backbones.contract import BACKBONES
from psla.model.file import load_model
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.model.tensor_file import first_few, misfits
from psla.weights.catalogue import resolve
from psla.weights.imagenet import PretrainingError, read_tensors, weights_file

StemRule = Literal["random", "sum"]


@dataclass(frozen=True)
class PretrainingReport:
    """What became of each tensor.

    Attributes:
        source: path of the file that was read; sha256: of that file.
        stem: the rule for the first convolution.
        loaded: our names of the tensors that were read.
        left_out: names in the file that were not read -> why.
        initialised: our names of the tensors that keep their values.
    """

    source: str
    sha256: str
    stem: StemRule
    loaded: tuple[str, ...]
    left_out: dict[str, str]
    initialised: tuple[str, ...]

    def summary(self) -> str:
        """One line for a log."""
        return (
            f"{len(self.loaded)} tensors loaded from {Path(self.source).name} (sha256 {self.sha256[:8]}), "
            f"stem {self.stem}, {len(self.initialised)} left as initialised, {len(self.left_out)} of the file left out"
        )


_CLASSIFIER = re.compile(r"_?fc\.(weight|bias)")


def _match(
    own: dict[str, Tensor], tensors: dict[str, Tensor], name: str, stem_name: str, path: Path
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's tensors by our names, and those left out; refuses whatever does not fit, by name."""
    left_out = {foreign: "the ImageNet classifier" for foreign in tensors if _CLASSIFIER.fullmatch(foreign)}
    kept = {foreign: tensor for foreign, tensor in tensors.items() if foreign not in left_out}
    places = {foreign: ours for foreign in kept if (ours := BACKBONES[name].our_name(foreign)) in own}
    expected = {foreign: tuple(own[ours].shape) for foreign, ours in places.items()}
    expected |= {f: (shape[0], 3, *shape[2:]) for f, shape in expected.items() if places[f] == stem_name}
    # Files written before PyTorch counted batches lack the counters, which nothing here reads.
    missing = [ours for ours in own if ours not in places.values() and not ours.endswith("num_batches_tracked")]
    if wrong := misfits(kept, expected | {ours: tuple(own[ours].shape) for ours in missing}):
        raise PretrainingError(f"{path} does not fit {name}: {wrong}")
    return {ours: kept[foreign] for foreign, ours in places.items()}, left_out


def load_imagenet(
    backbone: nn.Module, name: str, stem: StemRule = "random", weights: Path | None = None
) -> PretrainingReport:
    """Put ImageNet weights into a backbone, all or (on any disagreement) none.

    Args:
        backbone: from `psla.model.backbones.contract.build_backbone(name)`.
        name: its name.
        stem: the first convolution has 3 input channels in the file and 1 here. "random" (the paper's rule) keeps the
            values it has; "sum" adds the filters for red, green and blue, as if the picture were grey.
        weights: a local file; None for the published one, see `weights_file`.

    Raises:
        PretrainingError: weights that are not published, or a file with missing, unexpected or misshapen tensors.
    """
    if stem not in get_args(StemRule):
        raise PretrainingError(f"the stem rule is {stem!r}; it must be one of {', '.join(get_args(StemRule))}")
    path = weights_file(name) if weights is None else Path(weights)
    sha256 = sha256_of(path)
    published = BACKBONES[name].imagenet
    if weights is None and published is not None and not sha256.startswith(published.sha256_prefix):
        raise PretrainingError(f"{path} has sha256 {sha256}, not {published.sha256_prefix}...: delete it")
    own = backbone.state_dict()
    stem_name, their_stem = BACKBONES[name].stem
    found, left_out = _match(own, read_tensors(path), name, stem_name, path)
    if stem == "sum":
        found[stem_name] = found[stem_name].sum(1, keepdim=True)
    else:
        left_out[their_stem] = "the stem is random: three channels in the file, one here"
        del found[stem_name]
    with torch.no_grad():
        for key, tensor in found.items():
            own[key].copy_(tensor)
    initialised = tuple(key for key in own if key not in found)
    return PretrainingReport(str(path), sha256, stem, tuple(found), left_out, initialised)


def init_random(backbone: nn.Module) -> None:
    """Initialisation without pretraining: He uniform for convolutions, biases 0, normalisation the identity.

    Source: https://arxiv.org/abs/1502.01852; the draws come from PyTorch's default generator.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


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
        training_clips: on which clips the file's weights were trained (`psla.model.clip_ids`).
    """

    source: str
    sha256: str
    backbone: str
    carried: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    remark: str
    front_end: dict[str, tuple[Any, Any]]
    training_clips: str = ""

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

    Classes are matched by id. With the same head in both, and as many attention heads, the rows of each shared class
    are carried over, and what belongs to all classes if there is any such class; with another head, all are new.

    Args:
        network: to be trained; its values change in place, all or (on a refusal) none.
        vocabulary: its classes.
        model: path of a model file, or the name of a published model.

    Raises:
        PretrainingError: another backbone, another number of mel bins, an ensemble, or a vocabulary that is not the
            network's.
        ModelFileError, PublishedError, DownloadError: as `psla.model.ensemble.load_any`.
    """
    path = resolve(model)
    if path.suffix == ".json":
        raise PretrainingError(f"{path} is an ensemble: start from one of its members")
    found = load_model(path)
    theirs, ours = found.network.config, network.config
    if ours.classes != len(vocabulary):
        raise PretrainingError(f"the network has {ours.classes} classes, the vocabulary {len(vocabulary)}")
    if (theirs.backbone, theirs.options) != (ours.backbone, ours.options):
        one, other = (f"{each.backbone} {each.options or ''}".strip() for each in (theirs, ours))
        raise PretrainingError(f"{path} has the backbone {one}, the recipe {other}: set it alike")
    if theirs.front_end.mel_bins != ours.front_end.mel_bins:
        raise PretrainingError(
            f"{path} hears {theirs.front_end.mel_bins} mel bins, the recipe {ours.front_end.mel_bins}: set them alike"
        )
    same_heads = (theirs.head, theirs.heads, theirs.fitted) == (ours.head, ours.heads, ours.fitted)
    carried = [id for id in vocabulary.ids if same_heads and id in found.vocabulary]
    network.backbone.load_state_dict(found.network.backbone.state_dict())
    if carried:
        own, found_at = ([each.index_of(id) for id in carried] for each in (vocabulary, found.vocabulary))
        network.pooling.carry(found.network.pooling, torch.tensor(own), torch.tensor(found_at))
    kept = set(carried)
    before, after = theirs.front_end.to_dict(), ours.front_end.to_dict()
    return InitReport(
        source=str(path),
        sha256=sha256_of(path),
        backbone=ours.backbone,
        carried=tuple(carried),
        new=tuple(id for id in vocabulary.ids if id not in kept),
        dropped=tuple(id for id in found.vocabulary.ids if id not in kept),
        remark="" if same_heads else f"{_other_head(theirs, ours)} here: the pooling is new",
        front_end={name: (before[name], after[name]) for name in after if before[name] != after[name]},
        training_clips=found.card.training_clips,
    )


def _other_head(theirs: NetworkConfig, ours: NetworkConfig) -> str:
    if theirs.head == ours.head:
        return f"{theirs.heads} heads in the file, {ours.heads}"
    return f"the head {theirs.head} in the file, {ours.head}"
