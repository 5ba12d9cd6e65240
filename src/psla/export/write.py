"""Export: a model becomes an .onnx file, with a report of what it differs by beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from psla.audio import addresses
from psla.export.graph import FRAME_OUTPUTS, ExportError, export_graph
from psla.export.parity import Parity, compare
from psla.export.precision import PRECISIONS, halved, quantised
from psla.export.session import ExportedNetwork, metadata_of, opened
from psla.extras import needed
from psla.files import atomic_write, write_json_atomic
from psla.model.file import Model

if TYPE_CHECKING:
    from psla.data.labels import Labels

MOST_LOSS = 0.01
"""Mean average precision that int8 may lose."""
_LENGTHS_S = (0.3, 1.0, 2.5, 5.0, 10.0, 30.0)
_MOST_CALIBRATING = 100
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sounds:
    """Recordings to compare by: clip ids, waveforms (samples,) int16 at the model's rate, and labels if there are."""

    clip_ids: list[str]
    waveforms: list[np.ndarray]
    labels: Labels | None = None


def export(
    model: Model,
    out: str | Path,
    precision: str = "float32",
    frames: bool = True,
    sounds: Sounds | None = None,
    force: bool = False,
    progress: Progress = lambda what, more, total: None,
) -> Parity:
    """Write a model as an ONNX file; the report goes beside it, under its name and `.parity.json`.

    Args:
        model: of a model file or an ensemble.
        out: ends in .onnx.
        precision: one of `PRECISIONS`. int8 is measured on the first windows of a third of the
            recordings, 100 at most, and compared on the others.
        frames: with frame probabilities and frame features, which psla needs to run the file.
        sounds: recordings to compare by; None: synthesised ones of 0.3 to 30 s.
        force: write int8 whatever it loses.
        progress: told what is done, how many more recordings, of how many.

    Raises:
        ExportError: a name that does not end in .onnx, a model that no graph can be made of, and without `force` int8
            that loses more than `MOST_LOSS` of mean average precision, or for which no labels say what it loses.
        ValueError: an unknown precision, no recording, or the extra `onnx` is not installed.
        OSError: the file cannot be written; what stood there stays.
    """
    out = Path(out)
    check(model, out, precision)
    helper = needed("onnx.helper", "onnx")
    sounds = sounds or synthesised(model.network.sample_rate)
    if precision == "int8" and not force and (sounds.labels is None or not sounds.labels.counts().any()):
        raise ExportError(
            "what int8 loses is not known without labels: give --clips a table of labelled clips, or --force"
        )
    graph = export_graph(model.network)
    compared = sounds
    if precision == "float16":
        graph = halved(graph)
    elif precision == "int8":
        third = [wave[: model.network.window_samples] for wave in sounds.waveforms[::3]][:_MOST_CALIBRATING]
        graph, compared = quantised(graph, third), _others(sounds)
    about = metadata_of(model, precision)
    helper.set_model_props(graph, about)
    total = len(compared.waveforms)
    parity = compare(
        model,
        opened(graph.SerializeToString(), str(out)),
        compared.waveforms,
        compared.clip_ids,
        compared.labels,
        lambda clips: progress("comparing", clips, total),
    )
    if precision == "int8" and not force and (parity.loss is None or not parity.loss <= MOST_LOSS):
        raise ExportError(
            f"int8 loses {parity.loss or 0:.4f} of mean average precision, more than {MOST_LOSS}: nothing is written; "
            "use float16, or --force"
        )
    if not frames:
        kept = [each for each in graph.graph.output if each.name not in FRAME_OUTPUTS]
        del graph.graph.output[:]
        graph.graph.output.extend(kept)
    said = {key: value for key, value in parity.to_dict().items() if key != "per_class"}
    helper.set_model_props(graph, about | {"parity": json.dumps(said)})
    with atomic_write(out) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    heard = {name: getattr(model.network, name) for name in ("sample_rate", "window_samples", "step_samples")}
    write_json_atomic(out.with_suffix(".parity.json"), {"precision": precision, **heard, **parity.to_dict()})
    return parity


def check(model: Model, out: Path, precision: str) -> None:
    """Raises ExportError or ValueError, as `export` does, for what can be told before anything is heard."""
    if out.suffix != ".onnx":
        raise ExportError(f"{out}: the name of an exported model ends in .onnx")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if isinstance(model.network, ExportedNetwork):
        raise ExportError("the model is an exported one already: export the model file that it was made of")


def _others(sounds: Sounds) -> Sounds:
    """Those that int8 is not measured on; a single one is both."""
    rows = [row for row in range(len(sounds.clip_ids)) if row % 3] or [0]
    return Sounds([sounds.clip_ids[row] for row in rows], [sounds.waveforms[row] for row in rows], sounds.labels)


def synthesised(rate: int, count: int = 24) -> Sounds:
    """Soundscapes of 0.3 to 30 s, without labels."""
    ids = [f"soundscape://0/{index}?seconds={_LENGTHS_S[index % len(_LENGTHS_S)]}" for index in range(count)]
    return Sounds(ids, [addresses.read(each, rate) for each in ids])


def recordings(files: Sequence[str], rate: int, progress: Progress = lambda what, more, total: None) -> Sounds:
    """Sound files, whole.

    Raises:
        AudioError: one cannot be read.
    """
    waveforms = []
    for path in files:
        waveforms.append(addresses.read(path, rate))
        progress("reading", 1, len(files))
    return Sounds(list(files), waveforms)


def labelled(path: str | Path, model: Model, progress: Progress = lambda what, more, total: None) -> Sounds:
    """The clips of a table, with their labels as far as the model has the classes.

    Raises:
        ClipsError, AudioError: the table or one of its clips cannot be read.
    """
    from psla.data.clips import Clips
    from psla.data.source import open_source

    clips = Clips.read(path)
    source = open_source(clips, model.network.sample_rate)
    waveforms = []
    for row in range(len(source)):
        waveforms.append(source.read(row))
        progress("reading", 1, len(source))
    return Sounds(list(source.clip_ids), waveforms, clips.labels().part(model.vocabulary))
