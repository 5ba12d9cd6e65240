"""Laws of mixing and masking: a draw decides everything, and its effect is exactly the stated one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psla.model.augmentation import Masks, apply_masks, draw_masks, mix_targets, mix_waveforms
from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig

BOTH = torch.tensor([True, True])
unit = st.floats(0, 1, exclude_max=True)


def noise(batch: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, samples, generator=torch.Generator().manual_seed(seed)) - 0.4


def test_share_one_is_the_first_and_share_zero_the_second() -> None:
    """At share 1 the mix is the first waveform without its mean, at share 0 the second."""
    first, second = noise(2, 100), noise(2, 100, 1)
    mix = mix_waveforms(first, second, torch.tensor([1.0, 0.0]), BOTH)
    torch.testing.assert_close(mix[0], first[0] - first[0].mean())
    torch.testing.assert_close(mix[1], second[1] - second[1].mean())


@pytest.mark.parametrize("second_samples", [0, 60, 100, 140])
def test_mixing_is_linear_at_any_second_length(second_samples: int) -> None:
    """The second, without its own mean over all of it, is cut or zero-padded to the first."""
    first, second, share = noise(2, 100), noise(2, second_samples, 1), torch.tensor([0.3, 0.8])
    expected = torch.zeros(2, 100)
    for row in range(2):
        other = torch.zeros(100)
        kept = min(100, second_samples)
        if kept:
            other[:kept] = (second[row] - second[row].mean())[:kept]
        expected[row] = share[row] * (first[row] - first[row].mean()) + (1 - share[row]) * other
    torch.testing.assert_close(mix_waveforms(first, second, share, BOTH), expected)


def test_true_lengths_hide_the_padding() -> None:
    """What lies past a true length changes nothing, and past the first's length a mix is silent."""
    first, second, share = noise(2, 100), noise(2, 120, 1), torch.tensor([0.3, 0.8])
    first_lengths, second_lengths = torch.tensor([70, 100]), torch.tensor([90, 50])
    mix = mix_waveforms(first, second, share, BOTH, first_lengths, second_lengths)
    for row, (a, b) in enumerate([(70, 90), (100, 50)]):
        alone = mix_waveforms(first[[row], :a], second[[row], :b], share[[row]], BOTH[[row]])
        torch.testing.assert_close(mix[row, :a], alone[0])
    assert not mix[0, 70:].any()


def test_unmixed_rows_are_untouched() -> None:
    """A row that is not mixed is the first to the bit, its mean and padding included, whatever the second holds."""
    first = noise(2, 100)
    second = torch.full((2, 30), torch.nan)
    mix = mix_waveforms(first, second, torch.tensor([0.5, 0.5]), ~BOTH, torch.tensor([100, 40]))
    assert torch.equal(mix, first)


def test_int16_and_float_mix_to_the_same_bits() -> None:
    """int16 samples mean themselves over 32768."""
    first, second = (noise(2, 100) * 32768).short(), (noise(2, 80, 1) * 32768).short()
    share, mixed = torch.tensor([0.4, 0.6]), torch.tensor([True, False])
    as_float = mix_waveforms(first.float() / 32768, second.float() / 32768, share, mixed)
    assert torch.equal(mix_waveforms(first, second, share, mixed), as_float)


def test_log_mel_of_a_mix_with_itself_is_the_log_mel() -> None:
    """Mixing a waveform with itself, at any share, or changing its offset, is heard by the front end as no change."""
    front, first = FrontEnd(), noise(2, 2000)
    mix = mix_waveforms(first, first + 0.1, torch.tensor([0.2, 0.7]), BOTH)
    torch.testing.assert_close(front.log_mel(mix), front.log_mel(first), atol=1e-3, rtol=0)


def test_targets_mix_with_the_same_share() -> None:
    """Targets follow the waveforms: linear where mixed, the first elsewhere."""
    first, second = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    mixed = mix_targets(first, second, torch.tensor([0.75, 0.75]), torch.tensor([True, False]))
    assert mixed.tolist() == [[0.75, 0.25], [1.0, 0.0]]


def test_fixed_draws_mask_the_exact_cells() -> None:
    """f = 0.5 * 4, f0 = 0.5 * (8 - 2), t = 0.9 * 5 = 4.5, t0 = 0.99 * (10 - 4.5) = 5.4: cells [3, 5) and [5, 9)."""
    masks = draw_masks(torch.tensor([[0.5, 0.5, 0.9, 0.99]], dtype=torch.float64), 10, 8, 4, 5)
    expected = torch.ones(1, 10, 8)
    expected[:, :, 3:5] = 0
    expected[:, 5:9] = 0
    log_mel = torch.ones(1, 10, 8)
    assert torch.equal(apply_masks(log_mel, masks), expected)
    assert log_mel.all()


@settings(max_examples=60, deadline=None)
@given(draws=st.tuples(unit, unit, unit, unit), limits=st.tuples(st.integers(0, 48), st.integers(0, 192)))
def test_masks_stay_inside(draws: tuple[float, ...], limits: tuple[int, int]) -> None:
    """A width lies in [0, F), and is 0 for F = 0; no mask passes the edge, even where F is the whole axis."""
    for frames, bins in ((1056, 128), (192, 48)):
        masks = draw_masks(torch.tensor([draws], dtype=torch.float64), frames, bins, *limits)
        for start, width, limit, size in (
            (masks.frequency_start, masks.frequency_width, limits[0], bins),
            (masks.time_start, masks.time_width, limits[1], frames),
        ):
            assert 0 <= width < max(limit, 1)
            assert 0 <= start <= start + width <= size


def test_no_mask_at_zero_limits() -> None:
    """F = T = 0 leaves the log-mel as it is."""
    masks = draw_masks(torch.rand(3, 4, dtype=torch.float64), 20, 8, 0, 0)
    assert torch.equal(apply_masks(noise(3, 160).view(3, 20, 8), masks), noise(3, 160).view(3, 20, 8))


@pytest.mark.parametrize(("fill", "value"), [("zero", 4.6476 / 4.5699), ("mean", 0.0), (-4.6476 + 4.5699, 1.0)])
def test_fill_after_normalising(fill: str | float, value: float) -> None:
    """Masked cells are +1.02 deviations, 0, or the number that was given, after normalising."""
    everything = Masks(*(torch.tensor([v]) for v in (0, 8, 0, 0)))
    found = FrontEnd().normalise(apply_masks(torch.ones(1, 5, 8), everything, fill, FrontEndConfig.mean))  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.full((1, 5, 8), value), atol=1e-6, rtol=0)


def test_mean_fill_follows_the_configuration() -> None:
    """With another front end's mean the fill still normalises to exactly 0."""
    config = FrontEndConfig(mean=-7.25)
    everything = Masks(*(torch.tensor([v]) for v in (0, 8, 0, 0)))
    assert not FrontEnd(config).normalise(apply_masks(torch.ones(1, 5, 8), everything, "mean", config.mean)).any()


def test_refusals_name_the_argument() -> None:
    """Wrong shapes, types and ranges are refused at the door."""
    good = torch.zeros(1, 4, dtype=torch.float64)
    share, yes = torch.tensor([0.5]), torch.tensor([True])
    with pytest.raises(ValueError, match="uniforms must be"):
        draw_masks(good.float(), 300, 128)
    with pytest.raises(ValueError, match="uniforms must be at least 0 and below 1"):
        draw_masks(good + 1, 300, 128)
    with pytest.raises(ValueError, match="max_time must be from 0"):
        draw_masks(good, 100, 128)
    with pytest.raises(ValueError, match="fill must be"):
        apply_masks(torch.zeros(1, 300, 128), draw_masks(good, 300, 128), "noise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share must be"):
        mix_waveforms(noise(1, 9), noise(1, 9), BOTH.float(), yes)
    with pytest.raises(ValueError, match="mixed must be bool"):
        mix_targets(noise(1, 9), noise(1, 9), share, share)
