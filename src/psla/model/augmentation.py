"""Mixup of waveforms and time-frequency masks on whole batches: first drawn, then applied.

Source: paper section II-C (mixup: Beta(10, 10), applied at rate 0.5; masks after SpecAugment with F = 48 and T = 192,
https://arxiv.org/abs/2102.01243). Nothing here has random state: the numbers that decide come in as arguments, so the
same draw has the same effect on every device and in every process.

Not here: who is mixed with whom, and with which share (`psla.techniques.sampling`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from psla.model.frontends.contract import unit_waveform, waveform_mean


def _mix(first: Tensor, second: Tensor, share: Tensor, mixed: Tensor, unmixed: Tensor) -> Tensor:
    """share * first + (1 - share) * second where mixed, else unmixed: all (batch, any) float32."""
    _check_per_clip(first, share=share, mixed=mixed)
    if mixed.dtype != torch.bool:
        raise ValueError(f"mixed must be bool, not {mixed.dtype}")
    share = share.to(first.device, torch.float32)[:, None]
    return torch.where(mixed.to(first.device)[:, None], share * first + (1 - share) * second, unmixed)


def _check_per_clip(batch: Tensor, **values: Tensor) -> None:
    for name, value in values.items():
        if value.shape != batch.shape[:1]:
            raise ValueError(f"{name} must be ({len(batch)},), one a clip, not {tuple(value.shape)}")


def _past(lengths: Tensor, size: int, device: torch.device) -> Tensor:
    """(batch, size) bool: what lies beyond each clip's true length."""
    return torch.arange(size, device=device) >= lengths.to(device)[:, None]


def _centred(waveform: Tensor, lengths: Tensor | None) -> Tensor:
    """float32 without its mean; zero after its true length."""
    waveform = unit_waveform(waveform)
    centred = waveform - waveform_mean(waveform, lengths)
    if lengths is None:
        return centred
    return centred.masked_fill_(_past(lengths, waveform.shape[1], waveform.device), 0.0)


def mix_waveforms(
    first: Tensor,
    second: Tensor,
    share: Tensor,
    mixed: Tensor,
    first_lengths: Tensor | None = None,
    second_lengths: Tensor | None = None,
) -> Tensor:
    """share * first + (1 - share) * second where mixed, else first as it is.

    Each waveform's own mean, over its true length, is removed before mixing, as in the released code. The second is
    then cut or zero-padded to the first's true length.

    Args:
        first: (batch, samples) int16, or float in [-1, 1].
        second: (batch, any) int16 or float; rows that are not mixed are ignored.
        share: (batch,) the first's share, 0 to 1.
        mixed: (batch,) bool.
        first_lengths: (batch,) true sample counts of first; all of them where None.
        second_lengths: the same for second.

    Shape: returns (batch, samples) float32, in [-1, 1] but for the removed means; the lengths are those of first.

    Raises:
        ValueError: shapes or types do not fit.

    Example:
        >>> first, second = torch.tensor([[0.5, -0.5], [0.5, -0.5]]), torch.tensor([[0.25, -0.25, 0.0]] * 2)
        >>> mix_waveforms(first, second, torch.tensor([0.5, 0.5]), torch.tensor([True, False])).tolist()
        [[0.375, -0.375], [0.5, -0.5]]
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise ValueError(f"first and second must be (batch, samples), not {tuple(first.shape)}, {tuple(second.shape)}")
    samples = first.shape[1]
    other = _centred(second, second_lengths)[:, :samples]
    other = torch.nn.functional.pad(other, (0, samples - other.shape[1]))
    if first_lengths is not None:
        other = other.masked_fill(_past(first_lengths, samples, first.device), 0.0)
    return _mix(_centred(first, first_lengths), other, share, mixed, unit_waveform(first))


def mix_targets(first: Tensor, second: Tensor, share: Tensor, mixed: Tensor) -> Tensor:
    """share * first + (1 - share) * second where mixed, else first: (batch, classes) float -> float32.

    Raises:
        ValueError: shapes or types do not fit.

    Example:
        >>> first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
        >>> mix_targets(first, second, torch.tensor([0.75]), torch.tensor([True])).tolist()
        [[1.0, 0.25]]
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape (batch, classes), not {tuple(first.shape)}, {tuple(second.shape)}"
        )
    return _mix(first.float(), second.float(), share, mixed, first.float())


class Masks(NamedTuple):
    """One frequency mask [start, start + width) and one time mask a clip; each (batch,) int64, a width may be 0."""

    frequency_start: Tensor
    frequency_width: Tensor
    time_start: Tensor
    time_width: Tensor


def draw_masks(uniforms: Tensor, frames: int, bins: int, max_frequency: int = 48, max_time: int = 192) -> Masks:
    """The paper's masks from numbers in [0, 1): f ~ unif(0, F), f0 ~ unif(0, bins - f), the same for time.

    Width and start are rounded down only at the end, as torchaudio does: width = floor(f), start = floor(f0).

    Args:
        uniforms: (batch, 4) float64 in [0, 1): for f, f0, t, t0.
        frames: length of the log-mel, at least max_time.
        bins: mel bins, at least max_frequency.
        max_frequency: F, 0 for no frequency mask.
        max_time: T, 0 for no time mask.

    Raises:
        ValueError: uniforms are not as said, or F or T is below 0 or above the size of its axis.

    Example:
        >>> masks = draw_masks(torch.tensor([[0.5, 0.5, 0.25, 0.0]], dtype=torch.float64), 1056, 128)
        >>> masks.frequency_start.item(), masks.frequency_width.item(), masks.time_start.item(), masks.time_width.item()
        (52, 24, 0, 48)
    """
    if uniforms.ndim != 2 or uniforms.shape[1] != 4 or uniforms.dtype != torch.float64:
        raise ValueError(f"uniforms must be (batch, 4) float64, not {tuple(uniforms.shape)} {uniforms.dtype}")
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ValueError("uniforms must be at least 0 and below 1")
    for name, value, size in (("max_frequency", max_frequency, bins), ("max_time", max_time, frames)):
        if not 0 <= value <= size:
            raise ValueError(f"{name} must be from 0 to the size of its axis, {size}, not {value}")
    frequency = uniforms[:, 0] * max_frequency
    time = uniforms[:, 2] * max_time
    return Masks(
        frequency_start=(uniforms[:, 1] * (bins - frequency)).long(),
        frequency_width=frequency.long(),
        time_start=(uniforms[:, 3] * (frames - time)).long(),
        time_width=time.long(),
    )


def _inside(start: Tensor, width: Tensor, size: int, device: torch.device) -> Tensor:
    position = torch.arange(size, device=device)
    start, width = start.to(device)[:, None], width.to(device)[:, None]
    return (position >= start) & (position < start + width)  # (batch, size)


def apply_masks(
    log_mel: Tensor, masks: Masks, fill: Literal["zero", "mean"] | float = "zero", mean: float = 0.0
) -> Tensor:
    """The log-mel, not yet normalised, with the masked cells replaced; the input is left as it is.

    Args:
        log_mel: (batch, frames, bins), before normalising.
        masks: one pair a clip.
        fill: `"zero"`: 0.0, as the released code does (1.02 deviations above the mean after normalising); `"mean"`: the
            front end's mean, 0 after normalising; or a log-mel value.
        mean: the front end's mean, used by `"mean"` alone.

    Raises:
        ValueError: shapes do not fit, or fill is another word.

    Example:
        >>> one, two = torch.tensor([1]), torch.tensor([2])
        >>> apply_masks(torch.ones(1, 4, 3), Masks(one, one, two, two))[0].tolist()
        [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if log_mel.ndim != 3:
        raise ValueError(f"log_mel must be (batch, frames, bins), not of shape {tuple(log_mel.shape)}")
    _check_per_clip(log_mel, masks=masks.time_start)
    if isinstance(fill, str):
        if fill not in ("zero", "mean"):
            raise ValueError(f"fill must be zero, mean or a number, not {fill!r}")
        fill = mean if fill == "mean" else 0.0
    time = _inside(masks.time_start, masks.time_width, log_mel.shape[1], log_mel.device)
    frequency = _inside(masks.frequency_start, masks.frequency_width, log_mel.shape[2], log_mel.device)
    return log_mel.masked_fill(time[:, :, None] | frequency[:, None, :], fill)
