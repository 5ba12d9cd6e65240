"""Front ends by kind: from a waveform to the log-mel spectrogram that a network sees.

A front end is one file beside this one: a configuration, a frozen dataclass that extends `FrontEndSettings` and has a
`kind`, and a module that extends `FrontEndModule`, entered in `FRONT_ENDS` under that kind. The configuration stands in
recipes and model files. It says the sample rate, and all else takes the rate from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from psla.registry import Registry

HIGHEST_RATE = 192000  # Hz


@dataclass(frozen=True, kw_only=True)
class FrontEndSettings:
    """What every front end's configuration has. ValueError where a field breaks its rule.

    Args:
        sample_rate: samples per second that it hears, 1000 to 192000.
        mel_bins: filters of the log-mel, 2 to 512.
        frames: length that a log-mel is cut or padded to, at least 1.
        mean, std: the log-mel is normalised as (x - mean) / std; finite, std above 0.
        padding: what follows a clip's end: `"released"` puts 0.0 before normalising (what PSLA's code does), `"masked"`
            puts `mean`, which normalises to 0, and leaves the padding out of the pooling. `"own"` puts nothing: each
            clip is heard at its own length, up to a window; where clips of several lengths stand in one batch, as in
            training, the shorter are padded as by `"masked"`.
        shortest_frames: under `"own"`, what is shorter than so many frames is followed by silence, which is heard;
            0 (nothing is) to `frames`.
        repeat_frames: what has at least so many frames is repeated up to there instead; 0: nothing is.
    """

    kind: ClassVar[str]
    sample_rate: int
    mel_bins: int
    frames: int
    mean: float = 0.0
    std: float = 1.0
    padding: Literal["released", "masked", "own"] = "masked"
    shortest_frames: int = 0
    repeat_frames: int = 0

    def __post_init__(self) -> None:
        self._one_of("padding", ("released", "masked", "own"))
        for name, low, high in (("mel_bins", 2, 512), ("frames", 1, 2**31 - 1), ("sample_rate", 1000, HIGHEST_RATE)):
            self._whole(name, low, high)
        rule = " (0 unless padding is own)"
        self._whole("shortest_frames", 0, self.frames if self.padding == "own" else 0, rule)
        self._whole("repeat_frames", 0, self.shortest_frames, rule)
        self._number("mean")
        self._number("std", positive=True)

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    def _whole(self, name: str, low: int, high: int, rule: str = "") -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} must be a whole number from {low} to {high}{rule}, not {value!r}")

    def _number(self, name: str, positive: bool = False) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (positive and value <= 0):
            raise ValueError(f"{name} must be a finite number{' above 0' if positive else ''}, not {value!r}")

    @property
    def hop_samples(self) -> int:
        """Samples from one frame's start to the next's."""
        raise NotImplementedError

    @property
    def window_samples(self) -> int:
        """Samples that give exactly `frames` frames: what one pass of a network hears."""
        raise NotImplementedError

    @property
    def shortest_samples(self) -> int:
        """Samples that a shorter waveform is padded to with zeros before it is heard; at least 1."""
        return max(1, self.shortest_frames * self.hop_samples) if self.padding == "own" else self.window_samples

    def bin_hz(self) -> Tensor | None:
        """The frequency in the middle of each bin, (mel_bins,) float64, rising; None where bins are no frequencies."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The kind and all fields as plain values; `front_end_config` reads them back."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Any:
        """The configuration with these values, defaults for the rest; ValueError for a key that is no field, and for
        another kind."""
        if (kind := values.get("kind", cls.kind)) != cls.kind:
            raise ValueError(f"the front end is of the kind {kind!r}, not {cls.kind!r}")
        values = {key: value for key, value in values.items() if key != "kind"}
        known = sorted(field.name for field in fields(cls))
        if unknown := sorted(str(key) for key in values if key not in known):
            raise ValueError(f"unknown front end fields: {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**values)


C = TypeVar("C", bound=FrontEndSettings)


class FrontEndModule(nn.Module, Generic[C]):
    """Waveform -> normalised log-mel, as configured; no gradient passes through it.

    A subclass gives `frame_counts` and `log_mel`; what follows them is the same for all.
    """

    config_type: ClassVar[type[FrontEndSettings]]
    config: C

    def keep_exact(self, **constants: Tensor) -> None:
        """Register float32 constants as buffers that go from device to device and keep their values whatever the
        network around them is cast to."""
        self._exact = constants
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> FrontEndModule:
        super()._apply(fn, recurse)
        for name, value in getattr(self, "_exact", {}).items():
            if getattr(self, name).dtype != torch.float32:
                setattr(self, name, value.to(getattr(self, name).device))
        return self

    def frame_counts(self, lengths: Tensor) -> Tensor:
        """Whole frames that fit into this many samples; (batch,) -> (batch,) int64, 0 where not even one does."""
        raise NotImplementedError

    def heard(self, lengths: Tensor, samples: int) -> Tensor:
        """The lengths that count as sound, where waveforms of these lengths are padded with zeros to so many samples.

        >>> from psla.model.frontends.stft import StftConfig
        >>> front_end = build_front_end(StftConfig(shortest_frames=2))
        >>> front_end.heard(torch.tensor([100, 5000]), 32000).tolist()
        [640, 5000]
        """
        shortest = self.config.shortest_samples if self.config.padding == "own" else 0
        return lengths.clamp(min=min(shortest, samples))

    def log_mel(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Before cutting, padding and normalising: (batch, samples) int16, or float in [-1, 1], at the configured rate
        -> (batch, frames, mel_bins) float32; lengths: (batch,) true sample counts, all where None."""
        raise NotImplementedError

    def fit(
        self, log_mel: Tensor, frame_counts: Tensor | None = None, frames: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cut or pad (batch, any, mel_bins) to so many frames, before normalising.

        frames: None: as configured, and where clips are heard at their own length, as many as there are, at least 1.
        frame_counts: (batch,) real frames of each clip; all where None. Returns (batch, frames, mel_bins)
        float32, where positions past a clip's frames hold 0.0 (`released`) or the configured mean, and the frame
        counts, at most `frames`.

        >>> from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig
        >>> fitted, counts = FrontEnd(FrontEndConfig(frames=4)).fit(torch.ones(1, 3, 128), torch.tensor([2]))
        >>> fitted[0, :, 0].tolist(), counts.tolist()
        ([1.0, 1.0, 0.0, 0.0], [2])
        """
        batch, present = log_mel.shape[:2]
        frames = frames or (max(1, present) if self.config.padding == "own" else self.config.frames)
        frame_counts = torch.full((batch,), present) if frame_counts is None else frame_counts
        counts = frame_counts.to(log_mel.device, torch.int64).clamp(min=0, max=min(present, frames))
        fill = 0.0 if self.config.padding == "released" else self.config.mean
        fitted = nn.functional.pad(log_mel[:, :frames].float(), (0, 0, 0, max(0, frames - present)), value=fill)
        past = torch.arange(frames, device=log_mel.device) >= counts[:, None]  # (batch, frames)
        return fitted.masked_fill(past[..., None], fill), counts

    def normalise(self, log_mel: Tensor) -> Tensor:
        """(log_mel - mean) / std, any shape, float32.

        >>> from psla.model.frontends.kaldi import FrontEnd
        >>> FrontEnd().normalise(torch.tensor([-4.6476, -0.0777])).round(decimals=4).tolist()
        [0.0, 1.0]
        """
        return (log_mel.float() - self.config.mean) / self.config.std

    def fitted(
        self, waveform: Tensor, lengths: Tensor | None = None, frames: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-mel (batch, frames, mel_bins) before normalising, frame counts (batch,); see `log_mel` and `fit`."""
        if lengths is not None:
            waveform = self._repeated(waveform, lengths.to(waveform.device))
            lengths = self.heard(lengths, waveform.shape[1])
        counts = None if lengths is None else self.frame_counts(lengths)
        return self.fit(self.log_mel(waveform, lengths), counts, frames)

    def for_export(self) -> FrontEndModule:
        """The same with a `log_mel` whose operations do not depend on what the numbers are: what a graph is made from.

        A front end whose `log_mel` is so from the beginning is its own; others override this.
        """
        return self

    def traced(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `fitted` of waveforms of one length that have been repeated, and padded to the shortest: for a graph.

        Frame counts: None where each clip is heard at its own length, which all share.
        """
        if self.config.padding == "own":
            return self.log_mel(waveform), None
        return self.fit(self.log_mel(waveform, lengths), self.frame_counts(lengths))

    def _repeated(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Waveforms that are neither too short nor long enough, one copy after the other up to the shortest length."""
        if not self.config.repeat_frames:
            return waveform
        shortest = min(self.config.shortest_samples, waveform.shape[1])
        again = (lengths < shortest) & (lengths >= self.config.repeat_frames * self.config.hop_samples)
        if not bool(again.any()):
            return waveform
        places = torch.arange(shortest, device=waveform.device) % lengths.clamp(min=1)[:, None]
        copies = waveform.gather(1, places)
        return torch.cat([torch.where(again[:, None], copies, waveform[:, :shortest]), waveform[:, shortest:]], 1)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised log-mel (batch, frames, mel_bins), real frame counts (batch,); arguments as `log_mel`."""
        log_mel, counts = self.fitted(waveform, lengths)
        return self.normalise(log_mel), counts


FRONT_ENDS: Registry[type[FrontEndModule]] = Registry("front end", "psla.model.frontends")
DEFAULT_KIND = "kaldi"
"""The paper's: what a recipe means that names no kind."""


def build_front_end(config: FrontEndSettings) -> FrontEndModule:
    """The module of a configuration."""
    return FRONT_ENDS[config.kind](config)


def front_end_config(values: Mapping[str, Any]) -> FrontEndSettings:
    """The configuration with these values, `kind` among them or the paper's, defaults for the rest.

    Raises:
        ValueError: an unknown kind, a key that is no field of it, or a value that breaks its rule.

    Example:
        >>> front_end_config({"frames": 100}).sample_rate
        16000
    """
    return FRONT_ENDS[str(values.get("kind", DEFAULT_KIND))].config_type.from_dict(values)


def check_waveform(waveform: Tensor, lengths: Tensor | None) -> None:
    """Refuse, with a ValueError, what is no (batch, samples) of int16 or floats with a length for each."""
    if waveform.ndim != 2:
        raise ValueError(f"waveform must be (batch, samples), not of shape {tuple(waveform.shape)}")
    if waveform.dtype != torch.int16 and not waveform.is_floating_point():
        raise ValueError(f"waveform must be int16 or float, not {waveform.dtype}")
    if lengths is not None and lengths.shape != waveform.shape[:1]:
        raise ValueError(f"lengths must be ({len(waveform)},), one a waveform, not {tuple(lengths.shape)}")


def unit_waveform(waveform: Tensor) -> Tensor:
    """int16 -> float32 in [-1, 1) by 1 / 32768 (exact); float -> float32 as it is.

    >>> unit_waveform(torch.tensor([16384], dtype=torch.int16)).item()
    0.5
    """
    return waveform.float() / 32768 if waveform.dtype == torch.int16 else waveform.float()


def waveform_mean(waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean of each waveform over its true length: (batch, samples), (batch,) or None -> (batch, 1), float32.

    Summed in float64, where int16 audio adds up exactly: the padding changes no bit of it.

    >>> waveform_mean(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([2])).item()
    2.0
    """
    kind = torch.float32 if waveform.device.type == "mps" else torch.float64
    if lengths is None:
        return waveform.sum(1, keepdim=True, dtype=kind).div_(max(1, waveform.shape[1])).float()
    lengths = lengths.to(waveform.device)[:, None]
    real = torch.arange(waveform.shape[1], device=waveform.device) < lengths
    return (waveform * real).sum(1, keepdim=True, dtype=kind).div_(lengths.clamp(min=1)).float()
