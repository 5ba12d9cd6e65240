"""The front end: waveform -> log-mel, as Kaldi computes it, for a whole batch at once.

Source: paper section IV-B (128 log-mel bins, 25 ms window, 10 ms hop, https://arxiv.org/abs/2102.01243) and Kaldi's
`compute-fbank-feats` with `--htk-compat=true --use-energy=false --dither=0 --num-mel-bins=128 --snip-edges=true`, which
is what the released code calls. The paper says Hamming window; every published weight was trained with Hann.

Not here: decoding and resampling (`psla.audio.decode`), mixing and masking (`psla.model.augmentation`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from psla.model.frontends.contract import (
    FRONT_ENDS,
    FrontEndModule,
    FrontEndSettings,
    check_waveform,
    unit_waveform,
    waveform_mean,
)
from psla.model.frontends.plain import frames_of, power_spectrum, transform_halves

PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
FLOOR = torch.finfo(torch.float32).eps
# Frames worked on at a time: about what a processor's cache holds (2 KiB a frame); elsewhere bounded by memory.
_BLOCK_FRAMES = 1024
_BLOCK_FRAMES_ACCELERATOR = 131072


@dataclass(frozen=True)
class FrontEndConfig(FrontEndSettings):
    """What the front end computes; stored in every model file. ValueError where a field breaks its rule.

    Args:
        window: `"hanning"` (every published weight) or `"hamming"` (the paper's text); both symmetric.
        mel_bins: triangular filters between 20 Hz and half the sample rate, 2 to 512.
        hop_ms, frame_length_ms: from one frame's start to the next's, and a frame's length; whole numbers of samples.
        frames, mean, std, padding, sample_rate: as in `FrontEndSettings`; frames of AudioSet: 1056.

    >>> FrontEndConfig(frames=100).window_samples  # 99 hops of 160 samples and one frame of 400
    16240
    """

    kind: ClassVar[str] = "kaldi"
    window: Literal["hanning", "hamming"] = "hanning"
    mel_bins: int = 128
    hop_ms: float = 10.0
    frame_length_ms: float = 25.0
    frames: int = 1056
    mean: float = -4.6476
    std: float = 4.5699
    padding: Literal["released", "masked", "own"] = "released"
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        self._one_of("window", ("hanning", "hamming"))
        super().__post_init__()
        for name in ("hop_ms", "frame_length_ms"):
            self._number(name, positive=True)
            samples = getattr(self, name) * self.sample_rate / 1000
            if samples < 1 + (name != "hop_ms") or abs(samples - round(samples)) > 1e-6:
                raise ValueError(f"{name} must be a whole number of samples (hop 1, frame 2 at least), not {samples:g}")

    @property
    def hop_samples(self) -> int:  # from one frame's start to the next's
        return round(self.hop_ms * self.sample_rate / 1000)

    @property
    def frame_samples(self) -> int:
        return round(self.frame_length_ms * self.sample_rate / 1000)

    @property
    def window_samples(self) -> int:
        """Samples that give exactly `frames` frames."""
        return (self.frames - 1) * self.hop_samples + self.frame_samples

    def bin_hz(self) -> Tensor:
        return mel_centres(self.mel_bins, LOWEST_HZ, self.sample_rate / 2)


def mel_centres(mel_bins: int, low_hz: float, high_hz: float) -> Tensor:
    """Hertz at the tops of the triangles of `mel_filters`, (mel_bins,) float64.

    >>> mel_centres(3, 0, 8000).round().tolist()
    [614.0, 1768.0, 3934.0]
    """
    low, high = (1127 * math.log1p(edge / 700) for edge in (low_hz, high_hz))
    return 700 * torch.linspace(low, high, mel_bins + 2, dtype=torch.float64)[1:-1].div(1127).expm1()


def mel_filters(
    mel_bins: int, fft_size: int, sample_rate: int, low_hz: float = LOWEST_HZ, high_hz: float | None = None
) -> Tensor:
    """Kaldi's triangles, linear in mel = 1127 ln(1 + hertz / 700), between two edges; None: half the sample rate.

    Shape: returns (fft_size / 2 + 1, mel_bins) float64; the row of half the sample rate is zero, as in Kaldi.
    Low filters can be narrower than the FFT's spacing: they are all zero, their log-mel is always ln(1.19e-7) = -15.94.

        >>> mel_filters(128, 512, 16000).shape
        torch.Size([257, 128])
    """
    hertz = torch.arange(fft_size // 2 + 1, dtype=torch.float64) * (sample_rate / fft_size)
    mel = 1127 * torch.log1p(hertz / 700)[:, None]
    low, high = (1127 * math.log1p(edge / 700) for edge in (low_hz, sample_rate / 2 if high_hz is None else high_hz))
    edges = torch.linspace(low, high, mel_bins + 2, dtype=torch.float64)
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp_(min=0)
    filters[-1] = 0
    return filters


@FRONT_ENDS.register(FrontEndConfig.kind)
class FrontEnd(FrontEndModule[FrontEndConfig]):
    """Waveform -> normalised log-mel, as configured; nothing in it is trained, and no gradient passes through it.

    Always float32: half-precision casts and autocast of the network around it leave it alone.

    >>> log_mel, counts = FrontEnd(FrontEndConfig(frames=100))(torch.zeros(2, 16000), torch.tensor([16000, 8000]))
    >>> log_mel.shape, counts.tolist()
    (torch.Size([2, 100, 128]), [98, 48])
    """

    config_type = FrontEndConfig
    window: Tensor
    low_filters: Tensor
    high_filters: Tensor

    def __init__(self, config: FrontEndConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FrontEndConfig()
        self.fft_size = 1 << max(config.frame_samples - 1, 3).bit_length()
        # The filters are a band along a diagonal. Cut into two halves, each with only the FFT bins it touches, the
        # product with the power spectrum costs half as much.
        filters = mel_filters(config.mel_bins, self.fft_size, config.sample_rate)
        half = config.mel_bins // 2
        low, high = filters[:, :half].any(1).nonzero(), filters[:, half:].any(1).nonzero()
        self._low_top = int(low.max()) + 1 if len(low) else 1
        self._high_bottom = int(high.min()) if len(high) else 0
        window = torch.hann_window if config.window == "hanning" else torch.hamming_window
        self.keep_exact(
            window=window(config.frame_samples, periodic=False, dtype=torch.float64).float(),
            low_filters=filters[: self._low_top, :half].float().contiguous(),
            high_filters=filters[self._high_bottom :, half:].float().contiguous(),
        )

    def frame_counts(self, lengths: Tensor) -> Tensor:
        """See `FrontEndModule`.

        >>> FrontEnd().frame_counts(torch.tensor([399, 400, 559, 560])).tolist()
        [0, 1, 1, 2]
        """
        spare = lengths.to(torch.int64) - self.config.frame_samples
        return (torch.div(spare, self.config.hop_samples, rounding_mode="floor") + 1).clamp_(min=0)

    @torch.no_grad()
    def log_mel(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Natural log of the mel power; shapes as in `FrontEndModule`, ValueError for others or other types.

        The mean over the true length, 0 to all samples, is removed first. No frames if samples are fewer than one frame
        has; those past a clip's own `frame_counts` are computed from whatever the padding holds and mean nothing.

        >>> FrontEnd().log_mel(torch.zeros(1, 16000, dtype=torch.int16)).shape
        torch.Size([1, 98, 128])
        """
        check_waveform(waveform, lengths)
        frame, hop = self.config.frame_samples, self.config.hop_samples
        batch, samples = waveform.shape
        frames = max(0, (samples - frame) // hop + 1)
        result = torch.empty(batch, frames, self.config.mel_bins, dtype=torch.float32, device=waveform.device)
        if not result.numel():
            return result
        used = (frames - 1) * hop + frame
        block = _BLOCK_FRAMES if waveform.device.type == "cpu" else _BLOCK_FRAMES_ACCELERATOR
        clips = max(1, block // frames)
        with torch.autocast(waveform.device.type, enabled=False):
            for i in range(0, batch, clips):
                part = unit_waveform(waveform[i : i + clips])
                mean = waveform_mean(part, None if lengths is None else lengths[i : i + clips])
                part = part[:, :used] - mean
                for start in range(0, frames, block):
                    stop = min(start + block, frames)
                    self._block(part[:, start * hop : (stop - 1) * hop + frame], result[i : i + clips, start:stop])
        return result

    def _block(self, waveform: Tensor, result: Tensor) -> None:
        """Log-mel of (clips, samples) into result (clips, frames, mel_bins).

        Kaldi takes the frame x[0..n), removes its mean m, pre-emphasises with the first sample repeated, and windows:

            z[0] = w[0] (1 - a) (x[0] - m)        z[i] = w[i] ((x[i] - m) - a (x[i-1] - m))
                                                       = w[i] (x[i] - a x[i-1]) - (1 - a) m w[i]

        so the difference is taken once on the waveform instead of on frames that overlap 2.5 times.
        """
        frame, hop = self.config.frame_samples, self.config.hop_samples
        clips, frames, mel_bins = result.shape
        means = waveform.unfold(1, frame, hop).mean(-1, keepdim=True).mul_(1 - PREEMPHASIS)  # (clips, frames, 1)
        emphasised = waveform.clone()
        emphasised[:, 1:].sub_(waveform[:, :-1], alpha=PREEMPHASIS)
        padded = waveform.new_zeros(clips, frames, self.fft_size)
        windowed = padded[..., :frame]
        torch.mul(emphasised.unfold(1, frame, hop), self.window, out=windowed)
        windowed.addcmul_(means, self.window, value=-1)
        first = waveform[:, : (frames - 1) * hop + 1 : hop] * (1 - PREEMPHASIS)
        windowed[..., 0] = self.window[0] * (first - means[..., 0])
        parts = torch.view_as_real(torch.fft.rfft(padded)).square_()
        power = (parts[..., 0] + parts[..., 1]).view(clips * frames, -1)
        half = mel_bins // 2
        mel = power.new_empty(clips * frames, mel_bins)
        torch.mm(power[:, : self._low_top], self.low_filters, out=mel[:, :half])
        torch.mm(power[:, self._high_bottom :], self.high_filters, out=mel[:, half:])
        torch.log(mel.clamp_(min=FLOOR).view_as(result), out=result)

    def for_export(self) -> FrontEnd:
        return _PlainFrontEnd(self.config)


class _PlainFrontEnd(FrontEnd):
    """The same log-mel, within rounding, in operations that a graph can hold; see `psla.model.frontends.plain`."""

    cosines: Tensor
    sines: Tensor
    filters: Tensor

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__(config)
        filters = mel_filters(config.mel_bins, self.fft_size, config.sample_rate)[:-1]  # the last row is zero
        cosines, sines = transform_halves(self.window, self.fft_size, len(filters))
        self.keep_exact(cosines=cosines, sines=sines, filters=filters.float())

    def log_mel(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        frame, hop = self.config.frame_samples, self.config.hop_samples
        frames = (waveform.shape[1] - frame) // hop + 1
        waveform = unit_waveform(waveform)
        waveform = waveform - waveform_mean(waveform, lengths)
        plain = frames_of(waveform, frame, hop, frames)
        means = plain.mean(-1, keepdim=True) * (1 - PREEMPHASIS)
        before = torch.cat([plain[..., :1], plain[..., :-1]], -1)  # the first sample is repeated
        power = power_spectrum(plain - PREEMPHASIS * before - means, self.cosines, self.sines)
        return (power @ self.filters).clamp(min=FLOOR).log()
