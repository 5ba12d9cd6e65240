"""Laws of the front end: it is Kaldi's filter bank, for any batch, and pads and normalises as configured."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig, mel_filters

REFERENCE = Path(__file__).parents[2] / "shared/data/released/kaldi_fbank.npz"
FRONTS = {window: FrontEnd(FrontEndConfig(window=window)) for window in ("hanning", "hamming")}
windows = pytest.mark.parametrize("window", ["hanning", "hamming"])


def noise(batch: int, samples: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(batch, samples, generator=torch.Generator().manual_seed(seed)) - 0.5) * 0.9


def plain_fbank(waveform: np.ndarray, window: str) -> np.ndarray:
    """Kaldi's steps one frame after another, float64."""
    waveform = waveform.astype(np.float64) - waveform.mean(dtype=np.float64)
    n = np.arange(400)
    shape = (0.5 if window == "hanning" else 0.54) - (0.5 if window == "hanning" else 0.46) * np.cos(
        2 * np.pi * n / 399
    )
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
    filters = np.zeros((128, 257))
    for k in range(256):
        mel = 1127 * np.log(1 + k * 31.25 / 700)
        for b in range(128):
            left, centre, right = edges[b : b + 3]
            if left < mel <= centre:
                filters[b, k] = (mel - left) / (centre - left)
            elif centre < mel < right:
                filters[b, k] = (right - mel) / (right - centre)
    rows = []
    for start in range(0, len(waveform) - 399, 160):
        frame = waveform[start : start + 400]
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * shape, 512)) ** 2
        rows.append(np.log(np.maximum(filters @ power, np.finfo(np.float32).eps)))
    return np.array(rows).reshape(-1, 128)


@windows
@pytest.mark.skipif(not REFERENCE.exists(), reason=f"the Kaldi reference {REFERENCE} is not on this machine")
def test_equals_kaldi(window: str) -> None:
    """The log-mel is Kaldi's, recorded for four waveforms."""
    with np.load(REFERENCE) as data:
        for k in range(4):
            expected = data[f"{window}_{k}"]
            found = FRONTS[window].log_mel(torch.from_numpy(data[f"wave_{k}"])[None])[0].numpy()
            difference = np.abs(found - expected)
            assert found.shape == expected.shape
            assert difference[expected > -12].max() < 2e-3
            assert difference.mean() < 1e-4


@settings(max_examples=12, deadline=None)
@given(samples=st.integers(400, 3000), seed=st.integers(0, 99), window=st.sampled_from(["hanning", "hamming"]))
def test_equals_a_plain_float64_route(samples: int, seed: int, window: str) -> None:
    """Two independent routes agree for any length and both windows.

    float32 rounds a transform in proportion to its loudest part, so the amplitudes are compared, with that as the unit.
    """
    waveform = noise(1, samples, seed) + 0.2
    found = np.exp(FRONTS[window].log_mel(waveform)[0].numpy().astype(np.float64) / 2)
    expected = np.exp(plain_fbank(waveform[0].numpy(), window) / 2)
    assert (np.abs(found - expected) / expected.max(axis=1, keepdims=True)).max() < 1e-6


@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(0, 6000), min_size=1, max_size=5), window=st.sampled_from(["hanning", "hamming"]))
def test_batched_equals_single(lengths: list[int], window: str) -> None:
    """A clip's log-mel does not depend on the batch it is in, nor on what the padding holds."""
    front = FRONTS[window]
    batch = noise(len(lengths), max(lengths))
    found = front.log_mel(batch, torch.tensor(lengths))
    counts = front.frame_counts(torch.tensor(lengths))
    for row, length, count in zip(range(len(lengths)), lengths, counts.tolist(), strict=True):
        alone = front.log_mel(batch[row : row + 1, :length])[0]
        assert len(alone) == count
        torch.testing.assert_close(found[row, :count], alone, atol=1e-5, rtol=0)


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many frames are worked on at a time, the result is the same."""
    whole = FRONTS["hamming"].log_mel(noise(3, 5000))
    monkeypatch.setattr("psla.model.frontends.kaldi._BLOCK_FRAMES", 7)
    torch.testing.assert_close(FRONTS["hamming"].log_mel(noise(3, 5000)), whole, atol=1e-5, rtol=0)


@windows
def test_an_offset_changes_nothing(window: str) -> None:
    """The log-mel of a waveform with a constant added is the waveform's."""
    front = FRONTS[window]
    torch.testing.assert_close(front.log_mel(noise(1, 4000) + 0.3), front.log_mel(noise(1, 4000)), atol=1e-3, rtol=0)


def test_scaling_adds_twice_its_logarithm() -> None:
    """Scaling the waveform by a adds 2 ln a wherever the log-mel is off its floor."""
    loud, quiet = FRONTS["hanning"].log_mel(noise(1, 4000)), FRONTS["hanning"].log_mel(noise(1, 4000) * 0.5)
    off_floor = quiet > -12
    assert off_floor.float().mean() > 0.9
    torch.testing.assert_close((loud - quiet)[off_floor], torch.full_like(loud, 2 * math.log(2))[off_floor])


def test_int16_and_float_agree_to_the_bit() -> None:
    """int16 samples mean themselves over 32768."""
    samples = (noise(2, 4000) * 32768).short()
    lengths = torch.tensor([4000, 2500])
    for front in FRONTS.values():
        assert torch.equal(front(samples, lengths)[0], front(samples.float() / 32768, lengths)[0])


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 3000.0, 7000.0])
def test_a_tone_lands_in_its_bin(hertz: float) -> None:
    """The loudest mel bin of a tone is the one whose centre is nearest in mel, or one beside it."""
    tone = torch.sin(torch.arange(8000) / 16000 * 2 * math.pi * hertz)[None] * 0.5
    centres = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)[1:-1]
    nearest = np.abs(centres - 1127 * np.log(1 + hertz / 700)).argmin()
    assert (FRONTS["hanning"].log_mel(tone)[0].argmax(1) - int(nearest)).abs().max() <= 1


@pytest.mark.parametrize(("padding", "value"), [("released", 4.6476 / 4.5699), ("masked", 0.0)])
@pytest.mark.parametrize("samples", [0, 300, 4000, 9000])
def test_padding_has_the_stated_value(padding: str, value: float, samples: int) -> None:
    """Past a clip's frames the normalised log-mel is (0 + 4.6476) / 4.5699 or 0, before them it is the log-mel."""
    front = FrontEnd(FrontEndConfig(padding=padding, frames=30))  # type: ignore[arg-type]
    lengths = torch.tensor([samples, samples // 2])
    found, counts = front(noise(2, samples), lengths)
    assert found.shape == (2, 30, 128)
    assert torch.equal(counts, front.frame_counts(lengths).clamp(max=30))
    log_mel = front.log_mel(noise(2, samples), lengths)
    for row, count in enumerate(counts.tolist()):
        expected = torch.full((30 - count, 128), value)
        torch.testing.assert_close(found[row, count:], expected, atol=1e-7, rtol=0)
        torch.testing.assert_close(found[row, :count], front.normalise(log_mel[row, :count]), atol=1e-5, rtol=0)


def test_window_samples_give_the_configured_frames() -> None:
    """window_samples is the least length that gives exactly `frames` frames."""
    front = FrontEnd(FrontEndConfig(frames=37))
    samples = front.config.window_samples
    assert front.frame_counts(torch.tensor([samples - 1, samples])).tolist() == [36, 37]
    assert front.log_mel(noise(1, samples)).shape[1] == 37


def test_every_field_changes_something() -> None:
    """No option is without effect."""
    changes = {
        "window": "hamming", "mel_bins": 64, "hop_ms": 20.0, "frame_length_ms": 20.0, "frames": 60,
        "mean": 0.0, "std": 2.0, "padding": "masked", "sample_rate": 8000,
    }  # fmt: skip
    default = FrontEndConfig(frames=50)
    # What is shorter than a window: tests/test_efficientat.py.
    assert set(changes) == set(default.to_dict()) - {"kind", "shortest_frames", "repeat_frames"}
    base = FrontEnd(default)(noise(1, 4000))[0]
    for name, value in changes.items():
        config = FrontEndConfig.from_dict({**default.to_dict(), name: value})
        changed = FrontEnd(config)(noise(1, 4000))[0]
        assert changed.shape != base.shape or not torch.equal(changed, base), name
        assert FrontEndConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", "hann"), ("mel_bins", 1), ("mel_bins", 12.0), ("hop_ms", 0.0), ("hop_ms", 10.01),
        ("frame_length_ms", -25.0), ("frames", 0), ("frames", True), ("mean", math.nan), ("std", 0.0),
        ("std", "4"), ("padding", "zeros"), ("sample_rate", 10),
    ],
)  # fmt: skip
def test_refuses_a_value_by_field_and_rule(name: str, value: object) -> None:
    """A value outside its range is refused in a sentence that begins with the field."""
    with pytest.raises(ValueError, match=f"^{name} must be"):
        FrontEndConfig(**{name: value})  # type: ignore[arg-type]


def test_refuses_unknown_keys_by_name() -> None:
    """A misspelt key never becomes a default."""
    with pytest.raises(ValueError, match=r"unknown front end fields: hop; known are frame_length_ms"):
        FrontEndConfig.from_dict({"hop": 10})


def test_refuses_a_waveform_of_another_kind() -> None:
    """Shape and type of the input are checked at the door."""
    front = FRONTS["hanning"]
    for waveform, lengths in ((torch.zeros(9), None), (torch.zeros(1, 9).int(), None), (noise(2, 9), torch.zeros(3))):
        with pytest.raises(ValueError, match="must be"):
            front.log_mel(waveform, lengths)


def test_half_precision_around_it_leaves_it_alone() -> None:
    """Casts and autocast of the surrounding network change no bit, and nothing of it is in a state dict."""
    front = FrontEnd(FrontEndConfig(frames=20))
    expected = front(noise(1, 3600))[0]
    module = torch.nn.Sequential(front).half().float().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module[0](noise(1, 3600))[0], expected)
    assert not module.state_dict()
    assert not list(module.parameters())


def test_filters_ignore_the_ends() -> None:
    """No filter takes 0 Hz or half the sample rate, and no value leaves [0, 1]."""
    filters = mel_filters(128, 512, 16000)
    assert not filters[0].any()
    assert not filters[-1].any()
    assert filters.min() == 0
    assert filters.max() <= 1
