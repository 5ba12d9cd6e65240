"""The front end of the other school: pre-emphasis over the whole waveform, a centred STFT, mel filters, a logarithm.

    y[t] = x[t + 1] - 0.97 x[t]                        the waveform as one, shorter by a sample
    frames of 25 ms, one every 10 ms, each around its middle; y is reflected at both ends
    ln(mel power + 1e-5)

Source: EfficientAT (https://github.com/fschmid56/EfficientAT, models/preprocess.py), whose published weights hear so,
and before it PaSST. Their mel triangles are Kaldi's, between two edges that are moved a little in their training, and
rest in the middle otherwise, as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from psla.model.frontends.contract import FRONT_ENDS, FrontEndModule, FrontEndSettings, check_waveform, unit_waveform
from psla.model.frontends.kaldi import mel_centres, mel_filters
from psla.model.frontends.plain import frames_of, power_spectrum, transform_halves

# Frames worked on at a time: about what a processor's cache holds (4 KiB a frame); elsewhere bounded by memory.
_BLOCK_FRAMES = 256
_BLOCK_FRAMES_ACCELERATOR = 65536


@dataclass(frozen=True)
class StftConfig(FrontEndSettings):
    """What the front end computes. ValueError where a field breaks its rule.

    Args:
        hop_samples, frame_samples: from one frame's middle to the next's, and a frame's length, 2 to `fft_samples`.
        fft_samples: of the Fourier transform, an even number.
        low_hz, high_hz: outer edges of the mel filters, 0 <= low < high <= half the sample rate.
        preemphasis: share of the sample before that is taken off each sample, 0 to 1.
        offset: added to the mel power before the logarithm, above 0.
        peak_dbfs, most_gain_db: a waveform whose peak is lower is brought up to there, by at most so many decibels
            (0: none is); peak_dbfs at most 0, most_gain_db from 0 to 100.
        mean, std, padding, frames, ...: as in `FrontEndSettings`; the published weights take (x + 4.5) / 5.

    >>> StftConfig().window_samples  # 10 s
    320000
    """

    kind: ClassVar[str] = "stft"
    sample_rate: int = 32000
    mel_bins: int = 128
    hop_samples: int = 320
    frame_samples: int = 800
    fft_samples: int = 1024
    low_hz: float = 0.0
    high_hz: float = 15000.0
    preemphasis: float = 0.97
    offset: float = 1e-5
    peak_dbfs: float = 0.0
    most_gain_db: float = 0.0
    frames: int = 1000
    mean: float = -4.5
    std: float = 5.0
    padding: Literal["released", "masked", "own"] = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("hop_samples", 1, 2**20)
        self._whole("fft_samples", 2, 2**16)
        self._whole("frame_samples", 2, self.fft_samples)
        for name in ("low_hz", "high_hz", "preemphasis", "peak_dbfs", "most_gain_db"):
            self._number(name)
        self._number("offset", positive=True)
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(
                f"low_hz and high_hz must hold 0 <= low < high <= {self.sample_rate / 2:g}, "
                f"not {self.low_hz!r} and {self.high_hz!r}"
            )
        if not 0 <= self.preemphasis <= 1:
            raise ValueError(f"preemphasis must lie in [0, 1], not {self.preemphasis!r}")
        if self.peak_dbfs > 0 or not 0 <= self.most_gain_db <= 100:
            raise ValueError(
                "peak_dbfs must be at most 0 and most_gain_db lie in [0, 100], "
                f"not {self.peak_dbfs!r} and {self.most_gain_db!r}"
            )

    @property
    def window_samples(self) -> int:
        """Samples that give exactly `frames` frames: whole hops."""
        return self.frames * self.hop_samples

    def bin_hz(self) -> Tensor:
        return mel_centres(self.mel_bins, self.low_hz, self.high_hz)


@FRONT_ENDS.register(StftConfig.kind)
class StftFrontEnd(FrontEndModule[StftConfig]):
    """Waveform -> normalised log-mel, as configured, always in float32.

    >>> log_mel, counts = StftFrontEnd(StftConfig())(torch.zeros(1, 16000))
    >>> log_mel.shape, counts.tolist(), round(float(log_mel[0, 0, 0]), 4)
    (torch.Size([1, 50, 128]), [50], -1.4026)
    """

    config_type = StftConfig
    window: Tensor
    filters: Tensor

    def __init__(self, config: StftConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StftConfig()
        filters = mel_filters(config.mel_bins, config.fft_samples, config.sample_rate, config.low_hz, config.high_hz)
        # Rows above the last filter are left out of the product.
        rows = filters.any(1).nonzero()
        last = int(rows.max()) + 1 if len(rows) else 1
        window = torch.hann_window(config.frame_samples, periodic=False, dtype=torch.float64).float()
        self.keep_exact(window=window, filters=filters[:last].float().contiguous())

    def frame_counts(self, lengths: Tensor) -> Tensor:
        """See `FrontEndModule`. Half a frame must be there to be reflected.

        >>> StftFrontEnd().frame_counts(torch.tensor([401, 402, 16000])).tolist()
        [0, 2, 50]
        """
        lengths = lengths.to(torch.int64)
        frames = torch.div(lengths - 1, self.config.hop_samples, rounding_mode="floor") + 1
        return torch.where(lengths - 1 > self.config.frame_samples // 2, frames, 0)

    @torch.no_grad()
    def log_mel(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Natural log of mel power and offset; shapes as in `FrontEndModule`, ValueError for others or other types.

        A waveform that is too short for a frame has none.

        >>> StftFrontEnd().log_mel(torch.zeros(2, 32000, dtype=torch.int16)).shape
        torch.Size([2, 100, 128])
        """
        check_waveform(waveform, lengths)
        config, batch = self.config, len(waveform)
        lengths = torch.full((batch,), waveform.shape[1]) if lengths is None else lengths.cpu()
        frames = int(self.frame_counts(torch.tensor([waveform.shape[1]])))
        result = torch.empty(batch, frames, config.mel_bins, dtype=torch.float32, device=waveform.device)
        block = _BLOCK_FRAMES if waveform.device.type == "cpu" else _BLOCK_FRAMES_ACCELERATOR
        clips = max(1, block // max(1, frames))
        with torch.autocast(waveform.device.type, enabled=False):
            for row in range(0, batch if frames else 0, clips):
                own = lengths[row : row + clips]
                whole = bool((own == waveform.shape[1]).all())
                padded = self._emphasised(waveform[row : row + clips], None if whole else own)
                cut = padded.unfold(1, config.frame_samples, config.hop_samples)  # (clips, frames, samples)
                # Written into its place before the zeros up to the transform's length: `rfft` would copy it there.
                held = padded.new_zeros(len(padded), min(block, frames), config.fft_samples)
                for start in range(0, frames, block):
                    stop = min(start + block, frames)
                    windowed = held[:, : stop - start]
                    torch.mul(cut[:, start:stop], self.window, out=windowed[..., : config.frame_samples])
                    parts = torch.view_as_real(torch.fft.rfft(windowed)).square_()[..., : len(self.filters), :]
                    power = parts[..., 0] + parts[..., 1]  # `sum(-1)` over two takes as long as the transform
                    mel = (power @ self.filters).add_(config.offset)
                    torch.log(mel, out=result[row : row + clips, start:stop])
        return result

    def _emphasised(self, waveform: Tensor, lengths: Tensor | None) -> Tensor:
        """Pre-emphasised waveforms, each reflected at its own ends: (batch, samples) -> (batch, samples + a frame)."""
        config = self.config
        waveform = unit_waveform(waveform)
        if config.most_gain_db:
            waveform = waveform * self._gain(waveform)
        emphasised = torch.sub(waveform[:, 1:], waveform[:, :-1], alpha=config.preemphasis)
        # A frame stands around the middle of its Fourier transform, and that around a multiple of the hop.
        before = config.fft_samples // 2 - (config.fft_samples - config.frame_samples) // 2
        after = config.frame_samples - before
        if lengths is None:
            return nn.functional.pad(emphasised[:, None], (before, after), mode="reflect")[:, 0]
        last = (lengths.to(waveform.device)[:, None] - 2).clamp(min=0)
        places = torch.arange(-before, emphasised.shape[1] + after, device=waveform.device).abs()[None]
        mirrored = torch.where(places <= last, places, 2 * last - places)
        inside = (mirrored >= 0) & (mirrored <= last)  # what lies beyond the reflection is silence
        return emphasised.gather(1, mirrored.clamp(min=0, max=emphasised.shape[1] - 1)).mul_(inside)

    def _gain(self, waveform: Tensor) -> Tensor:
        """(batch, 1): from 1 to the most that is allowed, so that the peak reaches its level."""
        peak, most = 10 ** (self.config.peak_dbfs / 20), 10 ** (self.config.most_gain_db / 20)
        return (peak / waveform.abs().amax(1, keepdim=True)).clamp(min=1.0, max=most)

    def for_export(self) -> StftFrontEnd:
        return _PlainStftFrontEnd(self.config)


class _PlainStftFrontEnd(StftFrontEnd):
    """The same log-mel, within rounding, in operations that a graph can hold; see `psla.model.frontends.plain`."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: StftConfig) -> None:
        super().__init__(config)
        cosines, sines = transform_halves(self.window, config.fft_samples, len(self.filters))
        self.keep_exact(window=self.window, filters=self.filters, cosines=cosines, sines=sines)

    def log_mel(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        config = self.config
        emphasised = self._emphasised(waveform, lengths)
        frames = (waveform.shape[1] - 1) // config.hop_samples + 1
        plain = frames_of(emphasised, config.frame_samples, config.hop_samples, frames)
        power = power_spectrum(plain, self.cosines, self.sines)
        return (power @ self.filters + config.offset).log()
