"""Laws of the Tagger: what it says of a file is what the network says of its windows, and no sample is dropped."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
import torch

from psla.audio import decode as audio
from psla.data.clips import Clips
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.model.file import Model, ModelCard, load_model, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.inference import predict, tag_waveforms
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.tagging.result import Embedding
from psla.tagging.tagger import Tagger, cut_windows, load
from tagging_models import CLASSES, STEP, WINDOW, noise, tiny_model, tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def unclamped(model: Model, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tagging = tag_waveforms(model.network, [wave], 16000)
    return tagging.clip_probabilities[0].numpy(), tagging.frame_probabilities[0].numpy()


@pytest.mark.parametrize("padding", ["released", "masked"])
@pytest.mark.parametrize("samples", [100, 5000, WINDOW])
def test_a_clip_within_one_window_is_tagged_as_it_is_predicted(tmp_path: Path, padding: str, samples: int) -> None:
    """For a file of at most a window, tag gives the probabilities of predict to the bit, then clamped."""
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(samples), 16000)
    model = load_model(tiny_model_file(tmp_path, padding))
    row = {"clip_id": "a", "source": "a", "path": str(path), "split": "evaluation", "labels": [CLASSES.ids[0]]}
    predicted = predict(model.network, open_source(Clips.from_rows([row], CLASSES), 16000), CLASSES).predictions
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
    assert results[0].duration_s == len(audio.read(path, 16000)) / 16000 == pytest.approx(70000 / 44100, abs=1e-3)
    for other in results[1:]:
        assert np.array_equal(results[0].clip_probabilities, other.clip_probabilities)
        assert np.array_equal(results[0].frames, other.frames)


class Dribble(io.RawIOBase):
    """A file object that gives as much at a time as it likes, as sockets do."""

    def __init__(self, data: bytes, most: int, seeks: bool) -> None:
        self.file, self.most, self.seeks, self.rng = io.BytesIO(data), most, seeks, np.random.default_rng(most)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.seeks

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.file.read(min(len(buffer), int(self.rng.integers(1, self.most + 1))))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


class OnlyReads:
    """Not even a file object of Python's: it can be read, and gives less than asked for."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(min(size, 997) if size >= 0 else 997)

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: Dribble(data, 5000, seeks=True),
        lambda data: Dribble(data, 40, seeks=True),
        lambda data: Dribble(data, 5000, seeks=False),
        lambda data: io.BufferedReader(Dribble(data, 300, seeks=True), 64),
        OnlyReads,
    ],
)
def test_a_file_object_may_give_its_bytes_in_any_pieces(
    model: Model, format: str, subtype: str, wrap: Callable[[bytes], BinaryIO]
) -> None:
    """However a file object cuts the bytes, the result is that of the file, to the bit."""
    data = io.BytesIO()
    soundfile.write(data, np.stack([noise(30000), noise(30000, 1)], axis=1), 22050, format=format, subtype=subtype)
    tagger = Tagger(model)
    one, other = tagger.tag(data.getvalue()), tagger.tag(wrap(data.getvalue()))
    assert np.array_equal(one.clip_probabilities, other.clip_probabilities)
    assert np.array_equal(one.frames, other.frames)
    assert one.flags == other.flags


def test_a_stream_may_come_in_any_blocks(model: Model) -> None:
    """However a stream of samples is cut, with overlap or not, the result is that of the whole, to the bit."""
    wave, rng = noise(4 * WINDOW + 321), np.random.default_rng(0)
    for hop_s in (None, 0.2):
        tagger = Tagger(model, hop_s=hop_s)
        whole = tagger.tag(wave, 16000)
        for pieces in (2, 40):
            cuts = np.sort(rng.integers(0, len(wave), pieces))
            other = tagger.tag_blocks([b for b in np.split(wave, cuts) if len(b)], 16000)
            assert np.array_equal(whole.clip_probabilities, other.clip_probabilities)
            assert np.array_equal(whole.frames, other.frames)
            assert (whole.times == other.times).all()
            assert whole.flags == other.flags == ()


def test_training_prediction_and_tagging_hear_the_same(tmp_path: Path) -> None:
    """What reaches the backbone for one clip is the same to the bit in training, in prediction and in tagging."""
    model, wave, heard = copy.deepcopy(tiny_model()), noise(7000), []
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    row = {"clip_id": "a", "source": "a", "path": str(tmp_path / "a.wav"), "split": "train", "labels": []}
    network = model.network
    network.backbone.register_forward_pre_hook(lambda module, args: heard.append(args[0].detach().clone()))
    batch = torch.zeros(2, WINDOW, dtype=torch.int16)
    batch[0, : len(wave)] = torch.from_numpy(wave)
    batch[1] = torch.from_numpy(noise(WINDOW, 1))
    network.train()(batch, torch.tensor([len(wave), WINDOW]))
    predict(network, open_source(Clips.from_rows([row], CLASSES), 16000), CLASSES)
    Tagger(model).tag(tmp_path / "a.wav")
    assert len(heard) == 3
    assert torch.equal(heard[0][0], heard[1][0])
    assert torch.equal(heard[1][0], heard[2][0])


@pytest.mark.parametrize("padding", ["released", "masked"])
def test_an_embedding_is_the_backbones_features_averaged(padding: str) -> None:
    """One window: the mean of the features over frequency, of each step, and of the steps inside the audio."""
    model = tiny_model(padding)
    for samples, steps in ((WINDOW, 2), (STEP, 1)):
        wave = noise(samples)
        front = model.network.front_end
        log_mel, _ = front(torch.from_numpy(np.pad(wave, (0, WINDOW - samples)))[None], torch.tensor([samples]))
        with torch.inference_mode():
            features = model.network.features(log_mel).mean(dim=2)[0].T.numpy()[:steps]  # (steps, channels)
        embedding = Tagger(model).embed(wave, 16000)
        assert embedding.clip.shape == (1280,)
        np.testing.assert_allclose(embedding.steps, features, atol=1e-5)
        np.testing.assert_allclose(embedding.clip, features.mean(axis=0), atol=1e-5)


def test_embeddings_of_windows_are_weighted_like_windows(model: Model) -> None:
    """A long clip: the mean of its windows' embeddings by the samples they hold; steps on the time axis of tag."""
    wave, tagger = noise(2 * WINDOW + 3000) // np.int16(3), Tagger(model)
    embedding, result = tagger.embed(wave, 16000), tagger.tag(wave, 16000)
    parts = [wave[s : s + WINDOW] for s in range(0, len(wave), WINDOW)]
    alone = np.stack([tagger.embed(part, 16000).clip for part in parts])
    weights = np.array([len(part) for part in parts])
    np.testing.assert_allclose(embedding.clip, weights @ alone / weights.sum(), atol=1e-4)
    assert embedding.steps.shape == (len(result.frames), 1280)
    assert result.embedding is None
    assert not model.network.pooling._forward_pre_hooks


def band_noise(rate: int, top_hz: float, seconds: float = 2.0, level: float = 0.1) -> np.ndarray:
    """Noise up to a frequency, (samples,) float32."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(round(rate * seconds)))
    spectrum[np.fft.rfftfreq(round(rate * seconds), 1 / rate) > top_hz] = 0
    wave = np.fft.irfft(spectrum)
    return (level * wave / wave.std()).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "wave", "flags"),
    [
        (16000, band_noise(16000, 8000), ()),
        (44100, band_noise(44100, 22050), ()),
        (16000, band_noise(16000, 8000, level=0.0005), ()),  # quiet, not silent
        (16000, band_noise(16000, 8000, level=0.0001), ("silent",)),
        (16000, np.zeros(32000, np.float32), ("silent",)),
        (48000, np.full(96000, 0.5, np.float32), ("silent",)),
        (8000, band_noise(8000, 4000), ("band-limited",)),  # the rate says so
        (8000, np.zeros(16000, np.float32), ("silent", "band-limited")),
        (16000, band_noise(16000, 3400), ("band-limited",)),  # a telephone, resampled: the spectrum says so
        (44100, band_noise(44100, 5500), ("band-limited",)),
        (16000, band_noise(16000, 3400, level=0.01), ("band-limited",)),
        (16000, 0.5 * np.sin(np.arange(32000) * 0.3).astype(np.float32), ()),  # a tone is no narrow band
        (16000, band_noise(16000, 8000)[: WINDOW * 8 // 9], ("short",)),
        (16000, band_noise(16000, 8000)[: WINDOW * 10 // 11], ()),
        (16000, band_noise(16000, 3400)[:5000], ("band-limited", "short")),
    ],
)
def test_flags(model: Model, rate: int, wave: np.ndarray, flags: tuple[str, ...]) -> None:
    """silent below -60 dBFS, a constant too; band-limited by rate or spectrum; short below nine tenths of a window."""
    result = Tagger(model).tag(wave, rate)
    assert result.flags == flags
    assert result.to_dict(1)["flags"] == list(flags)


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
    with pytest.raises(audio.AudioError, match="sampled at 10 Hz"):
        tagger.tag(noise(5000), sample_rate=10)
    for hop_s in (0.0, -1.0, float("nan"), (WINDOW + 1) / 16000):
        with pytest.raises(ValueError, match="hop_s must be"):
            Tagger(model, hop_s=hop_s)
    with pytest.raises(ValueError, match="mean or max"):
        Tagger(model, combine="median")


HOUR = """
import resource, sys, time, torch
from psla.tagging.tagger import load
torch.set_num_threads(1)
tagger = load(sys.argv[1])
tagger.tag(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = tagger.tag(sys.argv[3])
print(result.duration_s, *result.frames.shape, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_an_hour_is_tagged_in_bounded_memory(tmp_path: Path) -> None:
    """An hour at 48 kHz in stereo, 527 classes: at most 600 MiB more than a few seconds take; every step is there."""
    front_end = FrontEndConfig(frames=256, mel_bins=32)
    network = TaggingNetwork(NetworkConfig("efficientnet_lite0", 527, front_end=front_end))
    save_model(tmp_path / "model.safetensors", network, Vocabulary.audioset(), ModelCard())
    second = np.stack([noise(48000), noise(48000, 1)], axis=1) // np.int16(64)
    soundfile.write(tmp_path / "short.flac", np.tile(second, (5, 1)), 48000)
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 48000, 2, format="FLAC") as file:
        for _ in range(3600):
            file.write(second)
    command = [
        sys.executable,
        "-c",
        HOUR,
        *(str(tmp_path / n) for n in ("model.safetensors", "short.flac", "hour.flac")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    duration, steps, classes, kilobytes = done.stdout.split()
    assert float(duration) == 3600
    assert (int(steps), int(classes)) == (11250, 527)
    assert int(kilobytes) < 600 * 1024


def test_in_bf16_it_is_nearly_the_same_and_predict_agrees(tmp_path: Path) -> None:
    """With the faster precision tag gives the probabilities of predict to the bit, and is within 0.05 of float32."""
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(5000), 16000)
    model = load_model(tiny_model_file(tmp_path, "released"))
    row = {"clip_id": "a", "source": "a", "path": str(path), "split": "evaluation", "labels": [CLASSES.ids[0]]}
    source = open_source(Clips.from_rows([row], CLASSES), 16000)
    predicted = predict(model.network, source, CLASSES, precision="bf16").predictions.probabilities[0]
    exact, fast = (load(tmp_path / "model.safetensors", precision=each).tag(path) for each in ("float32", "bf16"))
    assert np.array_equal(fast.clip_probabilities, np.clip(predicted, 0, 1))
    assert 0 < np.abs(fast.clip_probabilities - exact.clip_probabilities).max() < 0.05


def test_sixteen_threads_on_one_tagger_get_their_own_bits(model: Model) -> None:
    """Law: a Tagger holds nothing of a recording: whoever shares it gets what he would get alone, embeddings too."""
    tagger = Tagger(model)
    rng = np.random.default_rng(5)
    waves = [rng.integers(-9000, 9000, 4000 + 700 * i, dtype=np.int16) for i in range(16)]

    def embed(wave: np.ndarray) -> Embedding:
        return tagger.embed(wave, sample_rate=16_000)

    alone = [embed(wave) for wave in waves]
    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(embed, waves * 3))
    for found, expected in zip(together, alone * 3, strict=True):
        assert np.array_equal(found.clip, expected.clip)
        assert np.array_equal(found.steps, expected.steps)
