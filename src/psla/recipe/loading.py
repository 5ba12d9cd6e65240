"""From an EpochPlan to batches of int16 waveforms, read ahead by threads.

Decoding and resampling release Python's lock, so threads feed a training step and share one cache. A clip that cannot
be read is left out of its batch, remembered with its reason, and never replaced by another clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psla.data.audio import AudioError
from psla.data.source import ClipSource
from psla.recipe.sampling import EpochPlan


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
        limit_samples: what is past this many samples of a clip is not read by the network and not handed on.
        workers: threads.

    Attributes:
        rejected: {clip id: reason} of the clips that could not be read so far.
    """

    def __init__(self, source: ClipSource, limit_samples: int, workers: int = 2) -> None:
        self.source, self.limit_samples, self.workers = source, limit_samples, workers
        self.rejected: dict[str, str] = {}

    def batches(self, plan: EpochPlan, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The batches of this process: of every global batch each `world_size`-th clip, from `rank` on."""
        pieces = [
            (np.arange(start, min(start + batch_size, len(plan)))[rank::world_size], min(batch_size, len(plan) - start))
            for start in range(0, len(plan), batch_size)
        ]
        with ThreadPoolExecutor(self.workers) as pool:
            ahead: list[list[Future[np.ndarray | None]]] = []
            for piece in range(len(pieces) + 1):
                if piece < len(pieces):
                    ahead.append(self._submit(pool, plan, pieces[piece][0]))
                # One batch is read while the one before it is trained on.
                if piece > 0:
                    waiting, ahead = ahead[0], ahead[1:]
                    positions, count = pieces[piece - 1]
                    yield self._collate(plan, positions, count, [future.result() for future in waiting])

    def _submit(self, pool: ThreadPoolExecutor, plan: EpochPlan, positions: np.ndarray) -> list[Future]:
        rows = np.concatenate([plan.first[positions], plan.second[positions]])
        return [pool.submit(self._read, int(row)) for row in rows]

    def _read(self, row: int) -> np.ndarray | None:
        if row < 0:
            return None
        try:
            return self.source.read(row)[: self.limit_samples]
        except AudioError as error:
            self.rejected[self.source.clip_ids[row]] = str(error)
            return None

    def _collate(self, plan: EpochPlan, positions: np.ndarray, count: int, waves: list[np.ndarray | None]) -> Batch:
        half = len(positions)
        good = [i for i in range(half) if waves[i] is not None]
        firsts = [wave for i in good if (wave := waves[i]) is not None]
        seconds = [waves[half + i] for i in good]
        positions = positions[good]
        mixed = np.array([second is not None for second in seconds], dtype=bool)
        samples = max((len(wave) for wave in firsts), default=0)
        first, first_lengths = _stack(firsts, samples)
        # The second is cut or padded to the first, so nothing of it past the longest first is ever needed.
        second, second_lengths = _stack([np.zeros(0, np.int16) if w is None else w for w in seconds], samples)
        return Batch(
            positions=positions,
            rows_first=plan.first[positions],
            rows_second=np.where(mixed, plan.second[positions], -1),
            first=first,
            second=second,
            first_lengths=first_lengths,
            second_lengths=second_lengths,
            share=torch.from_numpy(np.where(mixed, plan.share[positions], 1.0).astype(np.float32)),
            global_count=count,
        )


def _stack(waves: list[np.ndarray], samples: int) -> tuple[Tensor, Tensor]:
    stacked = np.zeros((len(waves), samples), dtype=np.int16)
    for row, wave in enumerate(waves):
        stacked[row, : len(wave)] = wave[:samples]
    return torch.from_numpy(stacked), torch.tensor([min(len(wave), samples) for wave in waves], dtype=torch.int64)
