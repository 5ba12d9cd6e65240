"""Ensemble: several model files as one model, their probabilities averaged (paper, section VI-B).

    {"format": "psla-ensemble", "version": 1, "members": [{"file": "seed0.safetensors", "sha256": "..."}, ...]}

An ensemble is this JSON file beside its model files, and stands wherever a model file does (`load_any`). Each member
hears the audio through its own front end. Members have one vocabulary and one window; backbone, heads, normalising and
padding may differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
from torch import Tensor, nn

from psla.files import sha256_of, write_json_atomic
from psla.model.augmentation import Masks
from psla.model.file import Model, ModelCard, load_model
from psla.model.network import TaggingNetwork
from psla.model.pooling import Pooling, Tagging
from psla.weights.catalogue import resolve

FORMAT, VERSION = "psla-ensemble", 1
_FORMATS = (FORMAT, "psla-committee")  # its name in files of the first release
_MOST_BYTES = 1 << 20
# What one window has to mean for all members; the rest of a front end is a member's own.
_SHARED = ("sample_rate", "frames", "hop_ms", "frame_length_ms")


class EnsembleError(ValueError):
    """A file that is not an ensemble, or members that cannot sit in one."""


class Ensemble(TaggingNetwork):
    """The equal average of several networks, in float64; of one network, that network to the bit.

    Frame probabilities are averaged step by step; a step that only some members have (their convolutions may round an
    odd length differently) is the average of those.

    Args:
        members: networks with as many classes each.

    Attributes:
        config: that of the first member, which stands for all in what they share: window and classes.

    Raises:
        EnsembleError: no member, other numbers of classes, or windows of another length.

    Example:
        >>> from psla.model.frontends.kaldi import FrontEndConfig
        >>> from psla.model.network import NetworkConfig
        >>> config = NetworkConfig("efficientnet_lite0", 3, front_end=FrontEndConfig(frames=64))
        >>> network = TaggingNetwork(config).eval()
        >>> ensemble, wave = Ensemble([network, network]), torch.zeros(1, 8000)
        >>> torch.equal(ensemble(wave).clip_probabilities, network(wave).clip_probabilities)
        True
    """

    def __init__(self, members: Sequence[TaggingNetwork]) -> None:
        nn.Module.__init__(self)
        if not members:
            raise EnsembleError("an ensemble needs at least one member")
        first = members[0].config
        for number, member in enumerate(members[1:], start=2):
            for name, one, other in (
                ("classes", first.classes, member.config.classes),
                *((n, getattr(first.front_end, n), getattr(member.config.front_end, n)) for n in _SHARED),
            ):
                if one != other:
                    raise EnsembleError(f"member {number} has {name} {other}, the first has {one}; they must agree")
        self.config = first
        self.members = nn.ModuleList(members)
        self.train(False)

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor | None = None,
        masks: Masks | None = None,
        mask_fill: float = 0.0,
        keep: Tensor | None = None,
        frames: int | None = None,
    ) -> Tagging:
        """Tag a batch of waveforms; what follows the lengths is for training, and an ensemble is not trained."""
        if masks is not None or keep is not None or frames is not None:
            raise EnsembleError("an ensemble is not trained: train its members, each by itself")
        return _average([member(waveform, lengths) for member in self._networks])

    def from_log_mel(self, log_mel: Tensor, frame_counts: Tensor | None = None, keep: Tensor | None = None) -> Tagging:
        """Tag normalised log-mels, if all members have one front end.

        Raises:
            EnsembleError: front ends that differ, for which there is no such log-mel.
        """
        if any(member.config.front_end != self.config.front_end for member in self._networks):
            raise EnsembleError("the members have different front ends: give the ensemble waveforms")
        return _average([member.from_log_mel(log_mel, frame_counts, keep) for member in self._networks])

    def features(self, log_mel: Tensor, keep: Tensor | None = None) -> Tensor:
        """Refused: each member has features of its own."""
        raise EnsembleError("an ensemble has no features of its own: ask one of its members")

    @property
    def _networks(self) -> list[TaggingNetwork]:
        return cast("list[TaggingNetwork]", list(self.members))

    @property
    def pooling(self) -> Pooling:  # type: ignore[override]
        """Refused, as `features`."""
        raise EnsembleError("an ensemble has no features of its own: ask one of its members")


def load_any(
    path_or_name: str | Path, progress: Callable[[int, int | None], None] = lambda received, total: None
) -> Model:
    """Load whatever stands for a model: a model file, an ensemble's JSON file, or a model by name.

    Args:
        path_or_name: a path, or a name that `psla models` lists; a published model is fetched once into the cache.
        progress: told of the bytes received and their total (None: not known) while a file is fetched.

    Raises:
        ModelFileError, EnsembleError: a file that is not what it says; the message names it.
        PublishedError: neither a path nor a name, a published folder, or a fetched file that has changed.
        DownloadError: the file cannot be fetched; the message says what to put where.
    """
    path = resolve(path_or_name, progress)
    return load_ensemble(path) if path.suffix == ".json" else load_model(path)


def load_ensemble(path: str | Path) -> Model:
    """The ensemble of a JSON file. Its card names the members, and their licences.

    Raises:
        EnsembleError: not such a file, a member outside its folder or changed since, or vocabularies that differ.
        ModelFileError: a member that is not a model file.
    """
    path = Path(path)
    folder = path.resolve().parent
    entries = _entries(path)
    models = []
    for entry in entries:
        file = _inside(folder, entry["file"], path)
        if not file.is_file():
            raise EnsembleError(f"{path}: its member {entry['file']} is not in its folder")
        if sha256_of(file) != entry["sha256"]:
            raise EnsembleError(f"{path}: its member {entry['file']} is another file than it was (SHA-256)")
        models.append(load_model(file))
    return _assemble(path, entries, models)


def write_ensemble(path: str | Path, members: Sequence[str | Path]) -> Path:
    """Write an ensemble's JSON file, atomically, and check that it loads.

    Args:
        path: ends in .json; the members must lie in its folder or below.
        members: model files, in any order; each counts once.

    Raises:
        EnsembleError: no member, one given twice, one outside the folder, or members that cannot sit in one ensemble.
        ModelFileError: a member that is not a model file.
    """
    path = Path(path)
    folder = path.resolve().parent
    if path.suffix != ".json":
        raise EnsembleError(f"{path}: the name of an ensemble's file ends in .json")
    files = [Path(member).resolve() for member in members]
    if len(set(files)) != len(files):
        raise EnsembleError(f"{path}: a member is given twice; each counts once")
    entries = []
    for given, file in zip(members, files, strict=True):
        if not file.is_relative_to(folder):
            raise EnsembleError(f"{given} is outside {folder}, where {path.name} is to be: put it there")
        entries.append({"file": file.relative_to(folder).as_posix(), "sha256": sha256_of(file)})
    _assemble(path, entries, [load_model(file) for file in files])
    write_json_atomic(path, {"format": FORMAT, "version": VERSION, "members": entries})
    return path


def _average(taggings: Sequence[Tagging]) -> Tagging:
    clip = torch.stack([tagging.clip_probabilities.double() for tagging in taggings]).mean(0).float()
    steps = max(tagging.frame_probabilities.shape[1] for tagging in taggings)
    first = taggings[0].frame_probabilities
    total = first.new_zeros((len(first), steps, first.shape[2]), dtype=torch.float64)
    count = first.new_zeros((1, steps, 1), dtype=torch.float64)
    for tagging in taggings:
        own = tagging.frame_probabilities.shape[1]
        total[:, :own] += tagging.frame_probabilities
        count[:, :own] += 1
    return Tagging(clip, (total / count).float())


def _entries(path: Path) -> list[dict[str, str]]:
    """The members as the file lists them."""
    if path.stat().st_size > _MOST_BYTES:
        raise EnsembleError(f"{path}: {path.stat().st_size} bytes; an ensemble's file has at most {_MOST_BYTES}")
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise EnsembleError(f"{path}: not a readable ensemble ({error})") from error
    if not isinstance(data, dict) or data.get("format") not in _FORMATS:
        raise EnsembleError(f"{path}: not an ensemble (its format must be {FORMAT!r})")
    if data.get("version") != VERSION:
        raise EnsembleError(f"{path}: ensemble version {data.get('version')!r}; this psla reads version {VERSION}")
    if set(data) != {"format", "version", "members"} or not isinstance(data["members"], list) or not data["members"]:
        raise EnsembleError(f"{path}: an ensemble has format, version and members, at least one, and nothing else")
    for entry in data["members"]:
        texts = isinstance(entry, dict) and all(isinstance(text, str) for text in entry.values())
        if not texts or set(entry) != {"file", "sha256"}:
            raise EnsembleError(f"{path}: each member must have file and sha256, as texts, and nothing else")
    if len({entry["file"] for entry in data["members"]}) != len(data["members"]):
        raise EnsembleError(f"{path}: a member is listed twice; each counts once")
    return data["members"]


def _inside(folder: Path, file: str, path: Path) -> Path:
    """The member's path, if it is in the folder, links followed."""
    try:
        found = (folder / PurePosixPath(file)).resolve()
        inside = found.is_relative_to(folder) and not PurePosixPath(file).is_absolute()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a name too long, a circle of links
        raise EnsembleError(f"{path}: {file!r:.100} is no path") from error
    if not inside:
        raise EnsembleError(f"{path}: its member {file!r:.100} is outside its folder")
    return found


def _assemble(path: Path, entries: Sequence[dict[str, str]], models: Sequence[Model]) -> Model:
    """One model of the members; its card names them and keeps their licences."""
    for entry, model in zip(entries, models, strict=True):
        if model.vocabulary.ids != models[0].vocabulary.ids:
            raise EnsembleError(
                f"{path}: {entry['file']} has another vocabulary than {entries[0]['file']}; all members must share one"
            )
    try:
        network = Ensemble([model.network for model in models])
    except EnsembleError as error:
        raise EnsembleError(f"{path}: {error}") from error
    cards = [model.card for model in models]
    members = [
        {**entry, "provenance": card.provenance, "scores": card.scores}
        for entry, card in zip(entries, cards, strict=True)
    ]
    card = ModelCard(
        licence="; ".join(dict.fromkeys(card.licence for card in cards if card.licence)),
        training_data="; ".join(dict.fromkeys(card.training_data for card in cards if card.training_data)),
        provenance={"ensemble": members},
    )
    return Model(network, models[0].vocabulary, card)
