"""Mean and deviation of the log-mel of a corpus: what its front end should normalise with.

Over the real frames that a network would be given, not normalised. Frames past the length of the front end do not
count, nor does the padding of a short clip, which says nothing about the corpus. Each frame counts the same, a long
clip more than a short one; silence counts as it sounds. Sums run in float64, each block about its own mean.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from psla.audio.decode import AudioError
from psla.data.source import ClipSource
from psla.model.frontends.contract import FrontEndSettings, build_front_end, front_end_config

_AT_A_TIME = 16  # clips that are held in memory


class MomentsError(ValueError):
    """There is no log-mel to measure."""


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of the log-mel values of a sample of clips.

    Attributes:
        mean, std: natural log of the mel power; the std is that of the values themselves (divided by n).
        clips, clips_total: clips that were measured, and that there are. seed: what the sample was drawn with.
        frames: that were measured. silent: clips whose samples are all the same, which are measured, too.
        too_short: clips with no whole frame. rejected: {clip id: reason} of clips that cannot be read.
        front_end: what computed the log-mel.
    """

    mean: float
    std: float
    clips: int
    clips_total: int
    seed: int
    frames: int
    silent: int
    too_short: int
    rejected: dict[str, str]
    front_end: FrontEndSettings

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "front_end": self.front_end.to_dict()}


def measure(
    source: ClipSource,
    config: FrontEndSettings | None = None,
    clips: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] = lambda clips: None,
) -> Moments:
    """Measure the log-mel of clips drawn at random without replacement.

    Args:
        source: the waveforms.
        config: of the front end; its mean and std play no part.
        clips: how many to draw, >= 1; all where there are no more.
        seed: of the draw, >= 0.
        progress: told how many clips are done.

    Raises:
        MomentsError: no clip has a frame that can be measured.
        ValueError: clips below 1.

    Example:
        >>> from psla.data.source import ArraySource
        >>> noise = np.random.default_rng(0).integers(-9999, 9999, 16000, dtype=np.int16)
        >>> found = measure(ArraySource(["a", "b"], [noise, noise], 16000))
        >>> found.clips, found.frames, round(found.mean, 2), round(found.std, 2)
        (2, 196, 0.21, 3.58)
    """
    if clips < 1:
        raise ValueError(f"measuring the log-mel needs 1 clip or more; got {clips}")
    front = build_front_end(config or front_end_config({}))
    # In ascending order, which reads a pack from front to back.
    rows = np.sort(np.random.default_rng(seed).permutation(len(source))[:clips])
    blocks: list[tuple[int, float, float]] = []  # of a clip: how many values, their mean, their variance
    silent, too_short, rejected = 0, 0, {}
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(rows), _AT_A_TIME):
            part = rows[start : start + _AT_A_TIME].tolist()
            for row, wave in zip(part, pool.map(lambda row: _read(source, row), part), strict=True):
                if isinstance(wave, AudioError):
                    rejected[source.clip_ids[row]] = str(wave)
                    continue
                wave = np.array(wave[: front.config.window_samples])  # what a network of this front end is given
                log_mel = front.log_mel(torch.from_numpy(wave)[None]).numpy().astype(np.float64)
                if log_mel.size:
                    blocks.append((log_mel.size, float(log_mel.mean()), float(log_mel.var())))
                    silent += not np.ptp(wave)
                else:
                    too_short += 1
            progress(len(part))
    if not blocks:
        reason = next(iter(rejected.values()), "they are shorter than a frame")
        raise MomentsError(f"none of {len(rows)} clips has a log-mel to measure; the first: {reason}")
    counts, means, variances = map(np.array, zip(*blocks, strict=True))
    mean = float(np.average(means, weights=counts))
    return Moments(
        mean=mean,
        # The law of total variance: that within clips, and that of their means.
        std=float(np.average(variances + (means - mean) ** 2, weights=counts) ** 0.5),
        clips=len(blocks),
        clips_total=len(source),
        seed=seed,
        frames=int(counts.sum()) // front.config.mel_bins,
        silent=int(silent),
        too_short=too_short,
        rejected=rejected,
        front_end=front.config,
    )


def _read(source: ClipSource, row: int) -> np.ndarray | AudioError:
    try:
        return source.read(row)
    except AudioError as error:
        return error
