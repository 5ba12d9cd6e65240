"""Laws of the Tagger: what it says of a file is what the network says of its windows, and no sample is dropped."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from psla.data import audio
from psla.data.clips import Clips
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.model.front_end import FrontEndConfig
from psla.model.inference import predict, tag_waveforms
from psla.model.model_file import Model, ModelCard, load_model, save_model
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.tagging.tagger import Tagger, cut_windows, load

CLASSES = Vocabulary(["dog", "rain", "siren"])
WINDOW = 63 * 160 + 400  # samples of 64 frames
STEP = 32 * 160


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing by threads, and lose much where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def tiny_model(padding: str = "released") -> Model:
    """A random network that hears: its norms have seen a batch, so that different audio gives different numbers."""
    front_end = FrontEndConfig(frames=64, padding=padding)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = TaggingNetwork(NetworkConfig("efficientnet_lite0", 3, batch_norm_momentum=1.0, front_end=front_end))
        network.train()(torch.randn(4, WINDOW) * torch.tensor([[0.001], [0.01], [0.1], [0.3]]))
    return Model(network.eval(), CLASSES, ModelCard())


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8000, 8000, samples).astype(np.int16)


def unclamped(model: Model, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tagging = tag_waveforms(model.network, [wave])
    return tagging.clip_probabilities[0].numpy(), tagging.frame_probabilities[0].numpy()


@pytest.mark.parametrize("padding", ["released", "masked"])
@pytest.mark.parametrize("samples", [100, 5000, WINDOW])
def test_a_clip_within_one_window_is_tagged_as_it_is_predicted(tmp_path: Path, padding: str, samples: int) -> None:
    """For a file of at most a window, tag gives the probabilities of predict to the bit, then clamped."""
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(samples), 16000)
    one = tiny_model(padding)
    model = load_model(save_model(tmp_path / "model.safetensors", one.network, CLASSES, ModelCard()))
    row = {"clip_id": "a", "source": "a", "path": str(path), "split": "evaluation", "labels": ["dog"]}
    predicted = predict(model.network, open_source(Clips.from_rows([row], CLASSES)), CLASSES).predictions
    result = load(tmp_path / "model.safetensors").tag(path)
    assert np.array_equal(result.clip_probabilities, np.clip(predicted.probabilities[0], 0, 1))
    assert result.windows == 1
    assert result.duration_s == samples / 16000


@pytest.mark.parametrize("combine", ["mean", "max"])
@pytest.mark.parametrize("hop", [WINDOW, 4000])
def test_a_long_file_is_its_windows_combined(tmp_path: Path, model: Model, combine: str, hop: int) -> None:
    """The clip is the mean of its windows, weighted by their samples, or their maximum; more windows than a batch."""
    wave = np.concatenate([noise(7 * WINDOW), np.zeros(4000, np.int16), noise(2 * WINDOW + 777, seed=1)])
    soundfile.write(tmp_path / "a.flac", wave, 16000)
    starts = [0]
    while starts[-1] + WINDOW < len(wave):
        starts.append(starts[-1] + hop)
    windows = [wave[s : s + WINDOW] for s in starts]
    alone = np.stack([unclamped(model, window)[0] for window in windows]).astype(np.float64)
    weights = np.array([len(window) for window in windows])
    expected = (weights @ alone) / weights.sum() if combine == "mean" else alone.max(axis=0)
    result = Tagger(model, hop_s=hop / 16000, combine=combine).tag(tmp_path / "a.flac")
    assert result.windows == len(windows) > 8
    np.testing.assert_allclose(result.clip_probabilities, np.clip(expected, 0, 1), atol=2e-6)
    assert np.ptp(alone, axis=0).max() > 1e-3  # the windows do differ


def test_windows_cover_every_sample_however_the_blocks_are_cut() -> None:
    """Every sample is in a window, each window but the last is whole, and each begins a hop after the one before."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        window, samples = rng.integers(1, 20), rng.integers(1, 80)
        hop = rng.integers(1, window + 1)
        audio = np.arange(samples)
        cuts = np.sort(rng.integers(0, samples + 1, 5))
        found = list(cut_windows([b for b in np.split(audio, cuts) if len(b)], window, hop))
        assert [w[0] for w in found] == [i * hop for i in range(len(found))]
        assert all(len(w) == window for w in found[:-1])
        assert np.array_equal(np.unique(np.concatenate(found)), audio)
        assert len(found) == 1 or (len(found) - 2) * hop + window < samples  # the last is needed


def test_the_tail_counts(model: Model) -> None:
    """Other audio in the last, partial window gives other probabilities."""
    wave = noise(2 * WINDOW + 3000)
    other = wave.copy()
    other[2 * WINDOW :] = 0
    tagger = Tagger(model)
    one, two = tagger.tag(wave, 16000), tagger.tag(other, 16000)
    assert one.windows == two.windows == 3
    assert not np.array_equal(one.clip_probabilities, two.clip_probabilities)
    assert not np.array_equal(one.frames[-1], two.frames[-1])
    assert np.array_equal(one.frames[:3], two.frames[:3])


def test_frames_of_one_window_are_the_networks(model: Model) -> None:
    """One window: the network's own steps, those whose middle lies inside the audio."""
    tagger = Tagger(model)
    for samples, steps in ((WINDOW, 2), (STEP + STEP // 2 + 1, 2), (STEP + STEP // 2, 1), (200, 1)):
        wave = noise(samples)
        result = tagger.tag(wave, 16000)
        assert np.array_equal(result.frames, np.clip(unclamped(model, wave)[1][:steps], 0, 1))
        assert result.times.shape == (steps, 2)
        assert result.times[0, 0] == 0
        assert result.times[-1, 1] == min(steps * STEP, samples) / 16000


def test_frames_where_windows_overlap_are_their_mean(model: Model) -> None:
    """Windows a step apart: the step between is the mean of both windows' steps there, by overlap."""
    wave = noise(WINDOW + STEP)
    result = Tagger(model, hop_s=STEP / 16000).tag(wave, 16000)
    first, second = unclamped(model, wave[:WINDOW])[1], unclamped(model, wave[STEP:])[1]
    rest = WINDOW - 2 * STEP  # the last step of a window reaches to the window's end
    expected = np.stack([first[0], (first[1] + second[0]) / 2, (rest * first[1] + STEP * second[1]) / (rest + STEP)])
    np.testing.assert_allclose(result.frames, np.clip(expected, 0, 1), atol=2e-6)


def test_every_source_gives_the_same_result(tmp_path: Path, model: Model) -> None:
    """A 44.1 kHz stereo file, its bytes, a file object and its samples agree to the bit."""
    wave = np.random.default_rng(0).integers(-8000, 8000, (70000, 2)).astype(np.int16)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, 44100)
    tagger = Tagger(model)
    results = [tagger.tag(s) for s in (path, path.read_bytes(), io.BytesIO(path.read_bytes()))]
    results.append(tagger.tag(wave, sample_rate=44100))
    assert results[0].duration_s == len(audio.read(path)) / 16000 == pytest.approx(70000 / 44100, abs=1e-3)
    for other in results[1:]:
        assert np.array_equal(results[0].clip_probabilities, other.clip_probabilities)
        assert np.array_equal(results[0].frames, other.frames)


def test_probabilities_are_held_to_0_and_1(model: Model) -> None:
    """Head weights that push the sums out of [0, 1] do not push a result out of it."""
    wild = copy.deepcopy(model)
    with torch.no_grad():
        wild.network.pooling.head_weight.mul_(torch.tensor([9.0, 9.0, 9.0, -3.0]))
    wave = noise(3 * WINDOW)
    assert unclamped(wild, wave)[0].max() > 1
    result = Tagger(wild).tag(wave, 16000)
    for values in (result.clip_probabilities, result.frames):
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.max() <= 1


def test_top_is_sorted_and_plain(model: Model) -> None:
    """top(n) gives the n most probable classes in order, and to_dict the same as plain data."""
    result = Tagger(model).tag(noise(5000), 16000)
    top = result.top(2)
    assert [p for _, p in top] == sorted(map(float, result.clip_probabilities), reverse=True)[:2]
    assert [c["id"] for c in result.to_dict(2)["classes"]] == [c.id for c, _ in top]
    assert len(result.top(99)) == 3


def test_what_is_refused(model: Model) -> None:
    """An array without a rate, a rate for bytes, a hop that leaves gaps, an unknown rule: one sentence each."""
    tagger = Tagger(model)
    with pytest.raises(ValueError, match="give its sample_rate"):
        tagger.tag(noise(5000))
    with pytest.raises(ValueError, match="for arrays only"):
        tagger.tag(b"abc", sample_rate=16000)
    with pytest.raises(audio.AudioError, match="not audio"):
        tagger.tag(b"abc")
    for hop_s in (0.0, -1.0, float("nan"), (WINDOW + 1) / 16000):
        with pytest.raises(ValueError, match="hop_s must be"):
            Tagger(model, hop_s=hop_s)
    with pytest.raises(ValueError, match="mean or max"):
        Tagger(model, combine="median")
