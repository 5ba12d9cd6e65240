"""A network over a ClipSource -> Predictions: the one path that validation, `psla predict` and the Tagger share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from psla.audio.decode import AudioError
from psla.audio.sound_file import PassingError
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


class NothingReadable(ValueError):
    """None of a source's clips could be read; `rejected` says why, by clip id."""

    def __init__(self, rejected: dict[str, str]) -> None:
        reason = next(iter(rejected.values()), "the source is empty")
        super().__init__(f"none of {len(rejected)} clips could be read; the first: {reason}")
        self.rejected = rejected


@torch.inference_mode()
def tag_waveforms(
    model: TaggingModel, waveforms: Sequence[np.ndarray], sample_rate: int, device: torch.device | str = "cpu"
) -> Tagging:
    """Tag int16 waveforms in float32: the one way through a model.

    Each is cut at the model's window. One that is shorter than the model's `shortest_samples` is followed by zeros up
    to there; what else follows it is the front end's rule. On the CPU the result for a waveform is the same to the bit
    whatever others are given with it and however many threads torch has: each goes through one, as many at a time as
    there are. On an accelerator all of one length are one batch, and results for other batches differ in the last
    digits.

    Args:
        sample_rate: of the waveforms, in Hz.

    Shape:
        waveforms: at least one, each (samples,). Returns (waveforms, classes), (waveforms, steps, classes) and, of a
        network, (waveforms, channels), (waveforms, steps, channels) and, where it has a familiarity, (waveforms,).
        Where waveforms have different numbers of steps, NaN stands in the place of those that one does not have.

    Raises:
        ValueError: waveforms of another rate than the model hears.
    """
    if sample_rate != model.sample_rate:
        raise ValueError(
            f"the waveforms are sampled at {sample_rate} Hz, the model hears {model.sample_rate} Hz: decode them so"
        )
    lengths = [min(max(len(wave), model.shortest_samples), model.window_samples) for wave in waveforms]

    def heard(rows: Sequence[int]) -> Tagging:
        with torch.inference_mode():  # of this thread
            batch, true_lengths = padded([waveforms[row] for row in rows], lengths[rows[0]])
            return model(batch.to(device), true_lengths.to(device))

    if torch.device(device).type == "cpu":
        # The matrix libraries choose their algorithm by the shape of the whole batch and by the number of threads, and
        # each sums in another order. So every waveform goes alone, through one thread, and several at a time: a
        # window's feature maps (15 MB at 10 s) fill the caches, and no thread waits for another in mid-layer.
        return _stacked(_several_at_a_time(heard, [[row] for row in range(len(lengths))]))
    together = [[row for row, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))]
    said: dict[int, Tagging] = {}
    for rows in together:
        tagging = heard(rows)
        for place, row in enumerate(rows):
            said[row] = Tagging(*(None if part is None else part[[place]] for part in tagging))  # type: ignore[arg-type]
    return _stacked([said[row] for row in range(len(lengths))])


def _several_at_a_time(work: Callable[[Sequence[int]], Tagging], items: Sequence[Sequence[int]]) -> list[Tagging]:
    """`work` of each item, in order: as many at a time as torch has threads for this one, each through one thread."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    return list(_single_threads(os.getpid(), threads).map(work, items))


_STARTING = threading.Lock()
_POOLS: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process, for a fork has no threads, and by their number


def _single_threads(process: int, count: int) -> ThreadPoolExecutor:
    """So many threads in which torch computes with that one thread; made once.

    torch keeps that number for each thread, and one for threads to come, which is set back here.
    """
    with _STARTING:
        if (process, count) not in _POOLS:
            all_there = threading.Barrier(count + 1)

            def begin() -> None:
                torch.set_num_threads(1)
                torch.get_num_threads()  # what torch does first in a thread is to set the number for threads to come
                all_there.wait()

            pool = ThreadPoolExecutor(count, "one-window", begin)
            for _ in range(count):
                pool.submit(int)
            all_there.wait()
            torch.set_num_threads(count)
            _POOLS[process, count] = pool
        return _POOLS[process, count]


def _stacked(taggings: Sequence[Tagging]) -> Tagging:
    """One of several; those of shorter waveforms have fewer steps, and NaN in the place of the others."""
    steps = max(tagging.frame_probabilities.shape[1] for tagging in taggings)

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        found = [part for part in parts if part is not None]
        if any(part.ndim == 3 and part.shape[1] < steps for part in found):
            found = [functional.pad(part, (0, 0, 0, steps - part.shape[1]), value=torch.nan) for part in found]
        return torch.cat(found) if found else None

    clip, frames, *others = (joined(parts) for parts in zip(*taggings, strict=True))
    assert clip is not None
    assert frames is not None
    return Tagging(clip, frames, *others)


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
        precision: `folded` and `bf16` run a faster copy of it (`TaggingModel.for_inference`).

    Shape:
        predictions.probabilities: (readable clips, classes) float32, in the order of the source.

    Raises:
        NothingReadable: no clip could be read.
        ValueError: the source has another rate than the model hears.
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
        raise NothingReadable(rejected)
    return Inference(Predictions(torch.cat(rows).numpy(), ids, vocabulary, split=split), rejected)


def _read_ahead(source: ClipSource, batch_size: int) -> Iterator[list[tuple[str, np.ndarray | AudioError]]]:
    """The clips by batch, each with its waveform or why there is none; the next batch is read meanwhile."""

    def read(row: int) -> tuple[str, np.ndarray | AudioError]:
        try:
            return source.clip_ids[row], source.read(row)
        except PassingError:
            raise  # the disk is away: predictions without these clips would be others
        except AudioError as error:
            return source.clip_ids[row], error

    ready: Iterator[tuple[str, np.ndarray | AudioError]] = iter(())
    with ThreadPoolExecutor(2) as pool:
        for start in [*range(0, len(source), batch_size), len(source)]:
            now, ready = ready, pool.map(read, range(start, min(start + batch_size, len(source))))
            if batch := list(now):
                yield batch
