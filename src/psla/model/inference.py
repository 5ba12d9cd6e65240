"""A network over a ClipSource -> Predictions: the one path that validation, `psla predict` and the Tagger share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from psla.audio.decode import AudioError
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.model.network import Precision, TaggingModel
from psla.model.pooling import Tagging

if TYPE_CHECKING:
    from psla.data.source import ClipSource  # brings polars, which tagging does not need


@dataclass(frozen=True)
class Inference:
    """Predictions of the clips that could be read, and for the others the reason by clip id."""

    predictions: Predictions
    rejected: dict[str, str]


@torch.inference_mode()
def tag_waveforms(
    model: TaggingModel, waveforms: Sequence[np.ndarray], sample_rate: int, device: torch.device | str = "cpu"
) -> Tagging:
    """Tag int16 waveforms in float32: the one way through a model.

    Each is cut at what the front end can take; shorter ones are padded by the front end's rule. On the CPU the result
    for a waveform is the same to the bit whatever others are given with it; on an accelerator all of them are one
    batch, and results for other batches differ in the last digits.

    Args:
        sample_rate: of the waveforms, in Hz.

    Shape:
        waveforms: at least one, each (samples,). Returns (waveforms, classes), (waveforms, steps, classes) and, of a
        network, (waveforms, steps, channels).

    Raises:
        ValueError: waveforms of another rate than the model hears.
    """
    if sample_rate != model.sample_rate:
        raise ValueError(
            f"the waveforms are sampled at {sample_rate} Hz, the model hears {model.sample_rate} Hz: decode them so"
        )
    if torch.device(device).type != "cpu":
        return _tag_batch(model, waveforms, device)
    # The matrix libraries choose their algorithm by the shape of the whole batch, and each sums in another order. So
    # every waveform goes alone, which costs nothing here: a window's feature maps (15 MB at 10 s) fill the caches.
    each = [_tag_batch(model, [wave], device) for wave in waveforms]
    clips, frames, features = zip(*each, strict=True)
    return Tagging(torch.cat(clips), torch.cat(frames), None if features[0] is None else torch.cat(features))


def _tag_batch(model: TaggingModel, waveforms: Sequence[np.ndarray], device: torch.device | str) -> Tagging:
    # Always the full window wide: the result for a clip must not depend on the clips beside it.
    batch, lengths = padded(waveforms, model.window_samples)
    return model(batch.to(device), lengths.to(device))


def padded(waveforms: Sequence[np.ndarray], samples: int) -> tuple[Tensor, Tensor]:
    """int16 waveforms (any,), cut or zero-padded to (batch, samples), and their true lengths in it, (batch,) int64."""
    lengths = torch.tensor([min(len(wave), samples) for wave in waveforms])
    batch = torch.zeros((len(waveforms), samples), dtype=torch.int16)
    for row, wave in enumerate(waveforms):
        batch[row, : lengths[row]] = torch.from_numpy(np.array(wave[:samples]))
    return batch, lengths


def predict(
    model: TaggingModel,
    source: ClipSource,
    vocabulary: Vocabulary,
    batch_size: int = 16,
    split: str = "",
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda clips: None,
    precision: Precision = "float32",
) -> Inference:
    """Predict every clip of a source.

    Args:
        model: put into evaluation mode for the time of the call.
        progress: told the number of clips after each batch.
        precision: `bf16` runs a faster copy of it (`TaggingModel.for_inference`).

    Shape:
        predictions.probabilities: (readable clips, classes) float32, in the order of the source.

    Raises:
        ValueError: no clip could be read, or the source has another rate than the model hears.
    """
    ready = model if precision == "float32" else model.for_inference(precision)
    ids: list[str] = []
    rows: list[Tensor] = []
    rejected: dict[str, str] = {}
    module = ready if isinstance(ready, nn.Module) else nn.Module()  # what is none has no mode
    training = module.training
    module.eval()
    try:
        for batch in _read_ahead(source, batch_size):
            rejected |= {id: str(wave) for id, wave in batch if isinstance(wave, AudioError)}
            if waves := [wave for _, wave in batch if isinstance(wave, np.ndarray)]:
                rows.append(tag_waveforms(ready, waves, source.sample_rate, device).clip_probabilities.cpu())
                ids += [id for id, wave in batch if isinstance(wave, np.ndarray)]
            progress(len(batch))
    finally:
        module.train(training)
    if not ids:
        reason = next(iter(rejected.values()), "the source is empty")
        raise ValueError(f"none of {len(source)} clips could be read; the first: {reason}")
    return Inference(Predictions(torch.cat(rows).numpy(), ids, vocabulary, split=split), rejected)


def _read_ahead(source: ClipSource, batch_size: int) -> Iterator[list[tuple[str, np.ndarray | AudioError]]]:
    """The clips by batch, each with its waveform or why there is none; the next batch is read meanwhile."""

    def read(row: int) -> tuple[str, np.ndarray | AudioError]:
        try:
            return source.clip_ids[row], source.read(row)
        except AudioError as error:
            return source.clip_ids[row], error

    ready: Iterator[tuple[str, np.ndarray | AudioError]] = iter(())
    with ThreadPoolExecutor(2) as pool:
        for start in [*range(0, len(source), batch_size), len(source)]:
            now, ready = ready, pool.map(read, range(start, min(start + batch_size, len(source))))
            if batch := list(now):
                yield batch
