"""From an EpochPlan to batches of int16 waveforms, several of them read ahead by threads.

Each thread reads a whole batch and writes it into one array; decoding, resampling and copying release Python's lock, so
threads feed a training step and share one cache. A clip that cannot be read is left out of its batch, remembered with
its reason, and never replaced by another clip. Which clips a batch has follows from the plan alone: neither threads nor
their number nor where the iteration begins change a bit of it.

On the way a waveform may be shifted round and cut (`Cut`), and meet the conditions of a poor recording (`Conditions`),
which is not in the paper; drawn, like masks and mixup, from (seed, epoch, position in the plan) and nothing else, for
the first and the second clip of a mix alike. Its level is changed on the device (`gains`), in floating point,
where nothing can clip.

Not here: mixing (`psla.model.augmentation`, on the device), and decoding in processes that may crash (`data`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from psla.audio.decode import AudioError
from psla.audio.sound_file import PassingError
from psla.data.clips import Clips
from psla.data.source import ClipSource, open_source
from psla.techniques.conditions import Conditions, Cut
from psla.techniques.sampling import EpochPlan, positional_uniforms
from psla.training.keys import RecipeError
from psla.training.recipe import Recipe


def gains(uniforms: Tensor, gain_db: float) -> Tensor:
    """Factors between -gain_db and +gain_db decibels, uniform in decibels: any shape, in [0, 1) -> float32.

    Example:
        >>> gains(torch.tensor([0.0, 0.5]), 20.0).tolist()
        [0.10000000149011612, 1.0]
    """
    return torch.pow(10.0, (2.0 * uniforms - 1.0) * gain_db / 20.0).float()


@dataclass(frozen=True)
class Batch:
    """What one device gets of a global batch.

    positions: (batch,) positions in the plan; rows_first, rows_second: (batch,) rows of the clips, -1 for no second.
    first, second: (batch, samples) int16, padded with zeros; first_lengths, second_lengths: (batch,) samples.
    share: (batch,) float32. global_count: clips in the batch over all devices, broken ones included.
    """

    positions: np.ndarray
    rows_first: np.ndarray
    rows_second: np.ndarray
    first: Tensor
    second: Tensor
    first_lengths: Tensor
    second_lengths: Tensor
    share: Tensor
    global_count: int

    def __len__(self) -> int:
        return len(self.positions)


class Loader:
    """Iterates over the batches of an epoch.

    Args:
        source: the clips; row i of the plan is its clip i.
        limit_samples: what is past this many samples of a clip is not read by the network and not handed on; >= 1.
        workers: threads, each of which reads one batch at a time; >= 1.
        prefetch: batches that are read while one is trained on, >= 1; each is held in memory as a whole.
        cut: which part of a clip is handed on; None: its first `limit_samples`.
        conditions: what that part then suffers; None: nothing.
        pin_memory: put waveforms into page-locked memory, from which a GPU copies without waiting; needs CUDA.

    Attributes:
        rejected: {clip id: reason} of the clips that could not be read, up to the batch handed out last; one that was
            read later is in `recovered` instead.

    Raises:
        ValueError: a number out of range, or pinned memory without a CUDA device.

    Example:
        >>> from psla.data.source import ArraySource
        >>> source = ArraySource(["a", "b", "c"], [np.full(4, i, dtype=np.int16) for i in range(3)], 16000)
        >>> plan = EpochPlan(3, mixup_rate=1.0, mixup_alpha=10.0, seed=0, epoch=0)
        >>> [tuple(batch.first.shape) for batch in Loader(source, limit_samples=4).batches(plan, batch_size=2)]
        [(2, 4), (1, 4)]
    """

    def __init__(
        self,
        source: ClipSource,
        limit_samples: int,
        workers: int = 2,
        prefetch: int = 3,
        pin_memory: bool = False,
        cut: Cut | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        for name, value in (("limit_samples", limit_samples), ("workers", workers), ("prefetch", prefetch)):
            if value < 1:
                raise ValueError(f"the loader's {name} must be 1 or more; got {value}")
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory needs a CUDA device, and torch finds none here; leave it off")
        self.source, self.limit_samples, self.cut, self.conditions = source, limit_samples, cut, conditions
        self.workers, self.prefetch, self.pin_memory = workers, prefetch, pin_memory
        self.rejected: dict[str, str] = {}
        self.recovered: set[str] = set()
        self._clip_ids = source.clip_ids

    def batches(
        self, plan: EpochPlan, batch_size: int, rank: int = 0, world_size: int = 1, first_batch: int = 0
    ) -> Iterator[Batch]:
        """The batches of this process: of every global batch each `world_size`-th clip, from `rank` on.

        Args:
            plan: of the epoch.
            batch_size: clips of a global batch, over all processes, >= 1; the last batch has what is left.
            rank, world_size: which process of how many.
            first_batch: begin with this global batch, >= 0: the rest of the iteration is the same to the bit. What came
                before is not read, and what of it cannot be read is not in `rejected`.

        Returns:
            An iterator that may be left at any time. An error that is no AudioError comes out where its batch would.

        Raises:
            ValueError: a number out of range, or a plan for more clips than the source has.
        """
        if batch_size < 1 or first_batch < 0:
            raise ValueError(
                f"batch_size must be 1 or more and first_batch 0 or more; got {batch_size} and {first_batch}"
            )
        if len(plan) > len(self.source):
            raise ValueError(
                f"the plan is for {len(plan)} clips, the source has {len(self.source)}; use the same clips"
            )
        plan.part(0, 0, rank, world_size)  # checks the rank now, not when the first batch is asked for
        starts = range(first_batch * batch_size, len(plan), batch_size)
        pieces = (
            (plan.part(start, start + batch_size, rank, world_size), min(batch_size, len(plan) - start))
            for start in starts
        )
        return self._iterate(plan, pieces)

    def _iterate(self, plan: EpochPlan, pieces: Iterator[tuple[np.ndarray, int]]) -> Iterator[Batch]:
        stopped = threading.Event()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="psla-loader")
        ahead: deque[Future[tuple[Batch, dict[str, str]]]] = deque()
        try:
            for positions, count in pieces:
                ahead.append(pool.submit(self._read_batch, plan, positions, count, stopped))
                if len(ahead) > self.prefetch:
                    yield self._take(ahead)
            while ahead:
                yield self._take(ahead)
        finally:
            # Left early: threads end after the clip that they are at. Nobody waits for them, it may be a slow one.
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _take(self, ahead: deque[Future[tuple[Batch, dict[str, str]]]]) -> Batch:
        # Reasons are noted in the order of the plan, and only of batches that were handed out: a run that stops here
        # and resumes at the next batch has listed the same clips as one that went on.
        batch, rejected = ahead.popleft().result()
        if self.rejected:
            rows = np.concatenate([batch.rows_first, batch.rows_second])
            self.recovered |= self.rejected.keys() & {self._clip_ids[row] for row in rows[rows >= 0].tolist()}
        self.rejected = {id: why for id, why in self.rejected.items() if id not in self.recovered} | rejected
        self.recovered -= rejected.keys()
        return batch

    def _read_batch(
        self, plan: EpochPlan, positions: np.ndarray, count: int, stopped: threading.Event
    ) -> tuple[Batch, dict[str, str]]:
        rejected: dict[str, str] = {}
        draws = self._draws(plan, positions)
        rows = zip(plan.first[positions].tolist(), draws[:, 0], strict=True)
        found = [self._read(row, draw, rejected, stopped) for row, draw in rows]
        good = [i for i, wave in enumerate(found) if wave is not None]
        firsts = [wave for wave in found if wave is not None]
        positions, draws = positions[good], draws[good]
        rows = zip(plan.second[positions].tolist(), draws[:, 1], strict=True)
        seconds = [self._read(row, draw, rejected, stopped) for row, draw in rows]
        mixed = np.array([wave is not None for wave in seconds], dtype=bool)
        samples = max((len(wave) for wave in firsts), default=0)
        first, first_lengths = self._stack(firsts, samples)
        # The second is cut or padded to the first, so nothing of it past the longest first is ever needed.
        second, second_lengths = self._stack(seconds, samples)
        batch = Batch(
            positions=positions,
            rows_first=plan.first[positions].astype(np.int64),
            rows_second=np.where(mixed, plan.second[positions], -1).astype(np.int64),
            first=first,
            second=second,
            first_lengths=first_lengths,
            second_lengths=second_lengths,
            share=torch.from_numpy(np.where(mixed, plan.share[positions], 1.0).astype(np.float32)),
            global_count=count,
        )
        return batch, rejected

    def _draws(self, plan: EpochPlan, positions: np.ndarray) -> np.ndarray:
        """(positions, 2, 3) uniform numbers, of the first clip and of the second: shift, place, conditions."""
        drawn = np.zeros((len(positions), 2, 3))
        for stream, wanted, which in (("cut", self.cut, slice(0, 2)), ("conditions", self.conditions, slice(2, 3))):
            if wanted is not None and len(positions):
                start, stop, part = int(positions[0]), int(positions[-1]) + 1, drawn[..., which]
                numbers = positional_uniforms(plan.seed, plan.epoch, stream, start, stop, width=2 * part.shape[2])
                part[:] = numbers[positions - start].reshape(part.shape)
        return drawn

    def _read(
        self, row: int, draw: np.ndarray, rejected: dict[str, str], stopped: threading.Event
    ) -> np.ndarray | None:
        """The waveform of a row, or None: it is -1, it cannot be read, or nobody waits for it any more."""
        if row < 0 or stopped.is_set():
            return None
        try:
            waveform = self.source.read(row)
            part = (waveform if self.cut is None else self.cut(waveform, draw[:2]))[: self.limit_samples]
            return part if self.conditions is None else self.conditions(part, self.source.sample_rate, draw[2])
        except PassingError:
            raise  # the disk is away: what is not read now can be read when the run goes on
        except AudioError as error:
            rejected[self._clip_ids[row]] = str(error)
            return None

    def _stack(self, waves: Sequence[np.ndarray | None], samples: int) -> tuple[Tensor, Tensor]:
        """(waves, samples) int16 and the true lengths; what is missing is zeros of the length 0."""
        # numpy's memory, not torch's: it asks for huge pages, which halves the cost of fresh memory.
        shape = (len(waves), samples)
        tensor = (
            torch.empty(shape, dtype=torch.int16, pin_memory=True)
            if self.pin_memory
            else torch.from_numpy(np.empty(shape, dtype=np.int16))
        )
        stacked = tensor.numpy()
        lengths = [0 if wave is None else min(len(wave), samples) for wave in waves]
        for row, (wave, length) in enumerate(zip(waves, lengths, strict=True)):
            if wave is not None:
                stacked[row, :length] = wave[:length]
            stacked[row, length:] = 0
        return tensor, torch.tensor(lengths, dtype=torch.int64)


def training_loader(recipe: Recipe, source: ClipSource, workers: int = 2, pin_memory: bool = False) -> Loader:
    """The loader of a recipe's training clips: their first frames, or parts drawn anew each time."""
    front_end = replace(recipe.front_end, frames=recipe.training_frames)
    samples, waveform, cut = front_end.window_samples, recipe.waveform, None
    if waveform.crop_frames or waveform.shift:
        length = samples if waveform.crop_frames else None
        cut = Cut(length, waveform.crop_by, waveform.shift, front_end.hop_samples)
    conditions = recipe.conditions if any(recipe.conditions.rates) else None
    return Loader(source, samples, workers, pin_memory=pin_memory, cut=cut, conditions=conditions)


def check_readable(clips: Clips, rate: int) -> None:
    """Raises RecipeError where no held-out clip of a split can be read: after an epoch it would end each resume."""
    for split in clips.counts().keys() - {"train"}:
        source, reason = open_source(clips.split(split), rate), ""
        for index in range(len(source)):
            try:
                source.read(index)
                break
            except AudioError as error:
                reason = reason or str(error)
        else:
            raise RecipeError(
                f"none of the {len(source)} clips of the split {split!r} can be read; the first: {reason}"
            )
