"""Laws of the changes to single training waveforms: shift, part, level; and of label smoothing and the schedule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from psla.data.source import ArraySource
from psla.lab.tables.plan import _size
from psla.techniques.sampling import EpochPlan
from psla.training.loader import Cut, Loader, gains
from psla.training.recipe import Recipe, RecipeError
from psla.training.trainer import learning_rate, smooth_targets

GRID = 160  # 10 ms at 16 kHz


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, samples, dtype=np.int16)


@pytest.mark.parametrize("by", ["uniform", "energy"])
def test_a_part_is_a_stretch_of_the_clip(by: Any) -> None:
    """Every part is found, unchanged, in the clip, and the first and the last place can be drawn."""
    clip = noise(50 * GRID)
    cut = Cut(20 * GRID, by, grid=GRID)
    starts = set()
    for place in np.linspace(0, 1, 97, endpoint=False):
        part = cut(clip, np.array([0.5, place]))
        (start,) = [
            s for s in range(len(clip) - len(part) + 1) if clip[s] == part[0] and (clip[s:][: len(part)] == part).all()
        ]
        starts.add(start)
    assert min(starts) == 0
    assert max(starts) >= 29 * GRID
    assert len(starts) > 20


def test_a_clip_that_is_not_longer_stays_whole() -> None:
    """A clip of the part's length, or shorter, or no length asked for: all of it."""
    clip = noise(100)
    for samples in (100, 101, None):
        assert Cut(samples)(clip, np.array([0.9, 0.9])) is clip


def test_energy_finds_what_sounds() -> None:
    """A click in silence is in every part that is drawn by energy, and in the share of those drawn by length alone."""
    clip = np.zeros(100 * GRID, dtype=np.int16)
    clip[70 * GRID + 3] = 20_000
    draws = np.random.default_rng(0).random((2000, 2))
    heard = {
        by: np.mean([Cut(10 * GRID, by, grid=GRID)(clip, draw).any() for draw in draws]) for by in ("uniform", "energy")
    }
    assert heard["energy"] == 1.0
    assert heard["uniform"] == pytest.approx(10 / 91, abs=0.02)


def test_places_follow_the_energy() -> None:
    """Of two equally long halves, one with nine times the power, the louder begins nine parts of ten."""
    clip = np.repeat(np.array([1000, 3000], dtype=np.int16), 50 * GRID)
    draws = np.random.default_rng(1).random((4000, 2))
    loud = np.mean([Cut(GRID, "energy", grid=GRID)(clip, draw).mean() > 2000 for draw in draws])
    assert loud == pytest.approx(0.9, abs=0.02)


def test_silence_is_cut_as_by_length() -> None:
    """Where nothing sounds there is no energy to go by."""
    clip = np.zeros(10 * GRID, dtype=np.int16)
    assert len(Cut(GRID, "energy", grid=GRID)(clip, np.array([0.5, 0.99]))) == GRID


def test_a_shift_keeps_every_sample() -> None:
    """A circular shift rearranges; half a uniform is no shift; the largest is the share asked for."""
    clip = np.arange(1000, dtype=np.int16)
    shift = Cut(None, shift=0.2)
    assert (shift(clip, np.array([0.5, 0.0])) == clip).all()
    assert (shift(clip, np.array([0.0, 0.0])) == np.roll(clip, -200)).all()
    places = [
        int(np.flatnonzero(shift(clip, np.array([u, 0.0])) == 0)[0]) for u in np.linspace(0, 1, 50, endpoint=False)
    ]
    assert all(place <= 200 or place >= 800 for place in places)
    assert len(set(places)) > 40


def test_gains_are_uniform_in_decibels() -> None:
    """Factors lie within the decibels asked for, and their decibels are the uniform numbers, stretched."""
    uniforms = torch.rand(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    decibels = 20 * gains(uniforms, 6.0).double().log10()
    torch.testing.assert_close(decibels, (2 * uniforms - 1) * 6.0, atol=1e-5, rtol=0)


def test_smoothing_keeps_the_sum_of_one_label() -> None:
    """One label's mass stays 1, spread as the definition says; a share of 0 is the targets themselves."""
    targets = torch.eye(5)
    smooth = smooth_targets(targets, 0.1)
    torch.testing.assert_close(smooth.sum(1), torch.ones(5))
    torch.testing.assert_close(smooth, 0.9 * targets + 0.02)
    assert smooth_targets(targets, 0.0) is targets


def test_cosine_falls_from_the_rate_to_almost_nothing() -> None:
    """Half a cosine over the epochs, after the warm-up's line."""
    recipe = Recipe.load("esc50", {"optimizer.schedule": "cosine", "optimizer.epochs": 20})
    rates = [learning_rate(recipe, 10_000, epoch) for epoch in range(20)]
    assert rates[0] == recipe.optimizer.learning_rate
    assert rates == sorted(rates, reverse=True)
    assert rates[10] == pytest.approx(rates[0] / 2)
    assert rates[19] == pytest.approx(rates[0] * 0.5 * (1 + math.cos(math.pi * 0.95)))
    assert learning_rate(recipe, 0, 0) == pytest.approx(rates[0] / recipe.optimizer.warmup_steps)


def test_parts_belong_to_positions() -> None:
    """Whichever processes read them, from whichever batch on: the same parts; another epoch cuts elsewhere."""
    source = ArraySource([str(i) for i in range(12)], [noise(40 * GRID, i) for i in range(12)], 16000)
    plan = EpochPlan(12, 0.5, 10.0, seed=3, epoch=1)
    loader = Loader(source, 8 * GRID, cut=Cut(8 * GRID, "uniform", shift=0.5))
    whole = {int(p): (b.first[i], b.second[i]) for b in loader.batches(plan, 4) for i, p in enumerate(b.positions)}
    for rank in (0, 1):
        for batch in loader.batches(plan, 6, rank, 2, first_batch=1):
            for i, position in enumerate(batch.positions.tolist()):
                torch.testing.assert_close(batch.first[i], whole[position][0])
                torch.testing.assert_close(batch.second[i], whole[position][1])
    later = EpochPlan(12, 0.5, 10.0, seed=3, epoch=1)
    later.epoch = 2
    other = torch.cat([batch.first for batch in loader.batches(later, 4)])
    assert not torch.equal(other, torch.stack([whole[i][0] for i in range(12)]))


def test_a_part_longer_than_the_clip_of_evaluation_is_refused() -> None:
    """Training on more than evaluation hears, or masks wider than a training clip, are mistakes; the key is named."""
    with pytest.raises(RecipeError, match=r"waveform\.crop_frames: a part of 600 frames is longer than the 512"):
        Recipe.load("esc50", {"waveform.crop_frames": 600})
    with pytest.raises(
        RecipeError, match=r"masking\.time: a mask of 64 frames is longer than the 48 frames of a train"
    ):
        Recipe.load("esc50", {"waveform.crop_frames": 48})


@pytest.mark.parametrize(
    "values", [(0, "uniform", 0.0), (1, "loudness", 0.0), (1, "energy", 1.5), (1, "energy", 0.0, 0)]
)
def test_an_impossible_cut_is_refused(values: tuple[Any, ...]) -> None:
    """Length, place and shift have their ranges."""
    with pytest.raises(ValueError, match="a cut needs at least 1 sample"):
        Cut(*values)


def test_the_estimate_knows_the_length_in_training() -> None:
    """Two recipes that differ in the length of training clips alone are measured apart."""
    whole, part = (Recipe.load("demo", {"waveform.crop_frames": frames}) for frames in (0, 64))
    assert _size(whole) != _size(part)
