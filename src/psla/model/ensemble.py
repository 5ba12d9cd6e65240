"""Ensemble: several models as one, their probabilities averaged (paper, section VI-B, where it is called a committee).

Each member hears the audio through its own front end, at its own rate: the ensemble takes waveforms at the highest of
its members' rates, and brings them to each member's. Members have as many classes; backbone, head, rate, stride,
window, normalising and padding may differ. The ensemble's window is the shortest of theirs, in seconds: a member with a
longer one hears what follows as it hears the end of a short recording.

    {"format": "psla-ensemble", "version": 1, "members": [{"file": "seed0.safetensors", "sha256": "..."}, ...]}

This JSON file beside its model files stands wherever a model file does (`psla.weights.catalogue.load_any`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from psla.audio.decode import from_array
from psla.files import sha256_of, write_json_atomic
from psla.journal import json_object
from psla.model.clip_ids import hashed
from psla.model.file import Model, ModelCard, load_model
from psla.model.inference import padded
from psla.model.network import Precision, TaggingNetwork
from psla.model.pooling import Tagging

FORMAT, VERSION = "psla-ensemble", 1
_FORMATS = (FORMAT, "psla-committee")  # its name in files of the first release
_MOST_BYTES = 1 << 20


class EnsembleError(ValueError):
    """A file that is not an ensemble, or members that cannot be averaged."""


class Ensemble(nn.Module):
    """The equal average of several networks, in float64; of one network, that network to the bit.

    Frame probabilities are averaged step by step, on the finest of the members' grids: a member with longer steps says
    the same for all that have their middle in one of its own. A step that only some members have (their convolutions
    may round an odd length differently) is the average of those.

    Args:
        members: networks with as many classes each.

    Attributes:
        sample_rate, window_samples, shortest_samples, step_samples, classes: see `psla.model.network.TaggingModel`.

    Raises:
        EnsembleError: no member, or other numbers of classes.

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
        super().__init__()
        if not members:
            raise EnsembleError("an ensemble needs at least one member")
        first = members[0]
        for number, member in enumerate(members[1:], start=2):
            if first.classes != member.classes:
                raise EnsembleError(
                    f"member {number} has classes {member.classes}, the first has {first.classes}; they must agree"
                )
        self.sample_rate = max(member.sample_rate for member in members)
        window = min(member.window_samples / member.sample_rate for member in members)
        shortest = min(member.shortest_samples / member.sample_rate for member in members)
        self.window_samples = math.floor(window * self.sample_rate + 1e-6)
        self.shortest_samples = min(self.window_samples, math.ceil(shortest * self.sample_rate - 1e-6))
        self.classes = first.classes
        finest = min(members, key=lambda member: member.step_samples / member.sample_rate)
        self.step_samples = round(finest.step_samples / finest.sample_rate * self.sample_rate)
        self.members = nn.ModuleList(members)
        self.train(False)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tagging:
        """Tag a batch of waveforms at `sample_rate`; see `TaggingNetwork.forward`. An ensemble is not trained."""
        return _average([self._ask(member, waveform, lengths) for member in self.networks])

    def from_log_mel(self, log_mel: Tensor, frame_counts: Tensor | None = None) -> Tagging:
        """Tag normalised log-mels, if all members have one front end.

        Raises:
            EnsembleError: front ends that differ, for which there is no such log-mel.
        """
        if any(member.config.front_end != self.networks[0].config.front_end for member in self.networks):
            raise EnsembleError("the members have different front ends: give the ensemble waveforms")
        return _average([member.from_log_mel(log_mel, frame_counts) for member in self.networks])

    def for_inference(self, precision: Precision = "float32") -> Ensemble:
        """An ensemble of faster copies; see `TaggingNetwork.for_inference`."""
        return Ensemble([member.for_inference(precision) for member in self.networks])

    @property
    def networks(self) -> list[TaggingNetwork]:
        """The members."""
        return [member for member in self.members if isinstance(member, TaggingNetwork)]

    def _ask(self, member: TaggingNetwork, waveform: Tensor, lengths: Tensor | None) -> Tagging:
        """What a member says, on the grid of the ensemble."""
        if member.sample_rate != self.sample_rate:
            waveform, lengths = self._resampled(member, waveform, lengths)
        if (missing := member.shortest_samples - waveform.shape[1]) > 0:
            lengths = torch.full((len(waveform),), waveform.shape[1]) if lengths is None else lengths
            waveform = nn.functional.pad(waveform, (0, missing))
        found = member(waveform, lengths)
        return found._replace(frame_probabilities=self._on_grid(member, found.frame_probabilities))

    def _resampled(self, member: TaggingNetwork, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The waveforms at a member's rate, and their lengths."""
        if lengths is None:
            lengths = torch.full((len(waveform),), waveform.shape[1])
        waves = [
            from_array(wave[:length].numpy(), self.sample_rate, member.sample_rate)
            for wave, length in zip(waveform.cpu(), lengths.tolist(), strict=True)
        ]
        own, own_lengths = padded(waves, max(len(wave) for wave in waves))
        return own.to(waveform.device), own_lengths.to(waveform.device)

    def _on_grid(self, member: TaggingNetwork, frames: Tensor) -> Tensor:
        ratio = self.step_samples / self.sample_rate * member.sample_rate / member.step_samples
        if abs(ratio - 1) < 1e-6:
            return frames
        steps = round(frames.shape[1] / ratio)
        own = ((torch.arange(steps, device=frames.device) + 0.5) * ratio).long().clamp(max=frames.shape[1] - 1)
        return frames[:, own]


def load_ensemble(path: str | Path) -> Model[Ensemble]:
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
    if len({entry["sha256"] for entry in entries}) != len(files):
        raise EnsembleError(f"{path}: two members are the same file under two names; each counts once")
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
        data = json_object(path.read_bytes())
    except ValueError as error:
        raise EnsembleError(f"{path}: not a readable ensemble ({error})") from error
    if data.get("format") not in _FORMATS:
        raise EnsembleError(f"{path}: not an ensemble (its format must be {FORMAT!r})")
    if data.get("version") != VERSION:
        raise EnsembleError(f"{path}: ensemble version {data.get('version')!r}; this psla reads version {VERSION}")
    members: Any = data.get("members")
    listed = set(data) == {"format", "version", "members"} and isinstance(members, list) and members
    if not listed or not all(isinstance(each, dict) and set(each) == {"file", "sha256"} for each in members):
        raise EnsembleError(
            f"{path}: an ensemble has format, version and members, at least one, with file and sha256, and no more"
        )
    if not all(isinstance(text, str) for each in members for text in each.values()):
        raise EnsembleError(f"{path}: file and sha256 of each member must be given as texts")
    if len({entry["file"] for entry in members}) != len(members):
        raise EnsembleError(f"{path}: a member is listed twice; each counts once")
    return members


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


def _assemble(
    path: Path, entries: Sequence[dict[str, str]], models: Sequence[Model[TaggingNetwork]]
) -> Model[Ensemble]:
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
        training_clips=hashed([], *(card.training_clips for card in cards)),
    )
    return Model(network, models[0].vocabulary, card)
