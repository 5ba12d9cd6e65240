"""A model that was exported, run by ONNX Runtime: under a Tagger as any other model.

    psla.load("out.onnx").tag("street.flac")

All that the file says of itself is text in its metadata, as JSON where it is no plain text (`metadata_of`): what the
waveforms must be, the classes, and each field of the model's card under its own name, the thresholds and the licence
among them. Nothing in the file is run but its graph, and no file beside it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psla.data.vocabulary import Vocabulary
from psla.export.graph import INPUT, shortest_graph_samples
from psla.extras import needed
from psla.model.backbones.contract import FoldingError
from psla.model.ensemble import Ensemble
from psla.model.file import Model, ModelCard
from psla.model.frontends.contract import build_front_end, front_end_config
from psla.model.network import Precision, TaggingNetwork
from psla.model.pooling import Tagging

FORMAT, VERSION = "psla", 1
_NUMBERS = ("sample_rate", "window_samples", "shortest_samples", "step_samples")
_CARD = tuple(each.name for each in fields(ModelCard))


class ExportedError(ValueError):
    """A file that is no exported model, or one that cannot do what it is asked."""


def metadata_of(model: Model, precision: str) -> dict[str, str]:
    """What an exported model says of itself: texts by name.

    format, version: `psla` and 1. precision: of the weights. sample_rate, window_samples, shortest_samples,
    step_samples: see `psla.model.network.TaggingModel`. class_ids, class_names: lists, in the order of the outputs.
    front_end: as in model files; of an ensemble, that of its first member at the ensemble's rate. And each field of
    `ModelCard`: licence and training_data as they are, the others as JSON.
    """
    network = model.network
    members = network.networks if isinstance(network, Ensemble) else [network]
    first: TaggingNetwork = members[0]
    shortest = min(shortest_graph_samples(each) for each in members)
    numbers = {name: getattr(network, name) for name in _NUMBERS} | {"shortest_samples": shortest}
    said = {"format": FORMAT, "version": VERSION, "precision": precision, **numbers}
    said |= {"class_ids": model.vocabulary.ids, "class_names": model.vocabulary.names}
    said |= {"front_end": first.config.front_end.to_dict(), **asdict(model.card)}
    return {
        name: value if isinstance(value, str) else json.dumps(value, allow_nan=False) for name, value in said.items()
    }


class ExportedNetwork(nn.Module):
    """An ONNX Runtime session as a `psla.model.network.TaggingModel`.

    Each waveform goes through one thread, alone, whatever else is in its batch: `tag_waveforms` asks for several at a
    time, and gets the same to the bit however many there are.

    Args:
        session: an `onnxruntime.InferenceSession`.
        said: its metadata.

    Raises:
        ExportedError: metadata that is not that of an exported model, or a graph without frame probabilities.
    """

    def __init__(self, session: Any, said: Mapping[str, str]) -> None:
        super().__init__()
        self._session = session
        self._outputs = [each.name for each in session.get_outputs()]
        if not {"clip_probabilities", "frame_probabilities"} <= set(self._outputs):
            raise ExportedError("it was exported without frames, which tagging needs: export it again with --frames")
        self.sample_rate, self.window_samples, self.shortest_samples, self.step_samples = (
            _whole(said, name) for name in _NUMBERS
        )
        if self.shortest_samples > self.window_samples:
            raise ExportedError("its shortest_samples are more than its window_samples")
        config = front_end_config(json.loads(said["front_end"]))
        self.front_end, self.config = build_front_end(config), SimpleNamespace(front_end=config)  # for pictures
        self.classes = len(json.loads(said["class_ids"]))
        self.eval()

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tagging:
        """See `TaggingNetwork.forward`; (batch, samples) int16 or float32, on the CPU."""
        rows = waveform.numpy().astype(np.float32) / (32768 if waveform.dtype == torch.int16 else 1)
        ends = [waveform.shape[1]] * len(rows) if lengths is None else lengths.tolist()
        said = [self._session.run(None, {INPUT: row[None, :end]}) for row, end in zip(rows, ends, strict=True)]
        parts = {
            name: torch.from_numpy(np.concatenate(each))
            for name, each in zip(self._outputs, zip(*said, strict=True), strict=True)
        }
        return Tagging(**parts)

    def for_inference(self, precision: Precision = "float32") -> ExportedNetwork:
        """Itself.

        Raises:
            FoldingError: bf16: the precision was chosen when it was exported.
        """
        if precision == "bf16":
            raise FoldingError("an exported model has the precision that it was exported with: leave it float32")
        return self


def load_exported(path: str | Path) -> Model[Any]:
    """The model of an .onnx file that psla has written.

    Raises:
        ExportedError: not such a file; the message says what is wrong with it.
        ValueError: the extra `onnx` is not installed.
    """
    return opened(Path(path).read_bytes(), str(path))


def opened(data: bytes, path: str) -> Model[Any]:
    """As `load_exported`, of a file's bytes, so that no file beside it is read; `path` is what errors call it."""
    runtime = needed("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common ancestor but this
        raise ExportedError(f"{path}: ONNX Runtime cannot run it ({' '.join(str(error).split()):.200})") from error
    said = session.get_modelmeta().custom_metadata_map
    try:
        return _model(session, said)
    except (ValueError, KeyError, TypeError) as error:
        raise ExportedError(f"{path}: not a usable exported model: {error}") from error


def _model(session: Any, said: Mapping[str, str]) -> Model[Any]:
    if said.get("format") != FORMAT:
        raise ExportedError("its metadata is not psla's: make it with `psla export`")
    if said.get("version") != str(VERSION):
        raise ExportedError(f"version {said.get('version')!r:.80}; this psla reads version {VERSION}")
    if missing := {*_NUMBERS, "class_ids", "class_names", "front_end", "precision"} - set(said):
        raise ExportedError(f"its metadata lacks {', '.join(sorted(missing))}")
    vocabulary = Vocabulary.from_dict({"ids": json.loads(said["class_ids"]), "names": json.loads(said["class_names"])})
    text = ModelCard.texts()
    card = ModelCard.from_dict(
        {name: said[name] if name in text else json.loads(said[name]) for name in _CARD if name in said}
    )
    network = ExportedNetwork(session, said)
    clip = next(each for each in session.get_outputs() if each.name == "clip_probabilities")
    if clip.shape[1] != len(vocabulary):
        raise ExportedError(f"{clip.shape[1]} outputs for a vocabulary of {len(vocabulary)} classes")
    return Model(network, vocabulary, card)


def _whole(said: Mapping[str, str], name: str) -> int:
    if not said[name].isdecimal() or not 0 < int(said[name]) < 2**31:
        raise ExportedError(f"{name} must be a whole number above 0, not {said[name]!r:.80}")
    return int(said[name])
