"""The packaged model of AudioSet's classes: what it says of plain signals, and of recordings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psla.model.file import load_model, read_header
from psla.model.inference import tag_waveforms
from psla.tagging.tagger import Tagger
from psla.weights.packaged import DEFAULT, PACKAGED

RATE = 32000
SECONDS = (0.05, 0.1, 0.5, 1.0, 10.0, 60.0)
LEVELS_DBFS = (-60.0, -30.0, 0.0)
# What a signal may be called above 0.5.
PLAIN = {
    *("Silence", "White noise", "Pink noise", "Noise", "Environmental noise", "Static"),
    *("Hum", "Mains hum", "Sine wave", "Chirp tone"),
}
ESC10 = Path(__file__).parents[2] / "shared" / "data" / "esc10"


def coloured(count: int, exponent: float) -> np.ndarray:
    """Noise whose power falls with frequency to this exponent."""
    spectrum = np.fft.rfft(np.random.default_rng(count).standard_normal(count))
    return np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 1) ** (-exponent / 2), count)


def hum(hertz: float, t: np.ndarray) -> np.ndarray:
    return sum(np.sin(2 * np.pi * hertz * k * t + k) / k for k in range(1, 8))


def signal(name: str, seconds: float) -> np.ndarray:
    """(samples,) float, of any level."""
    count = round(seconds * RATE)
    t = np.arange(count) / RATE
    made = {
        "hum 50 Hz": lambda: hum(50, t),
        "hum 60 Hz": lambda: hum(60, t),
        "white noise": lambda: coloured(count, 0),
        "pink noise": lambda: coloured(count, 1),
        "brown noise": lambda: coloured(count, 2),
        "tone 100 Hz": lambda: np.sin(2 * np.pi * 100 * t),
        "tone 1 kHz": lambda: np.sin(2 * np.pi * 1000 * t),
        "tone 6 kHz": lambda: np.sin(2 * np.pi * 6000 * t),
        "sweep": lambda: np.sin(2 * np.pi * (100 * t + 3950 * t**2 / seconds)),
        "DC": lambda: np.ones(count),
        "clicks": lambda: (np.arange(count) % 8000 == 100).astype(float),
        "clipped noise": lambda: np.clip(4 * coloured(count, 0), -1, 1),
    }
    return made[name]()


NAMES = ("hum 50 Hz", "hum 60 Hz", "white noise", "pink noise", "brown noise", "tone 100 Hz", "tone 1 kHz")
NAMES += ("tone 6 kHz", "sweep", "DC", "clicks", "clipped noise")


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(load_model(PACKAGED["audioset-small"].path))


def too_sure(tagger: Tagger, wave: np.ndarray) -> list[tuple[str, float]]:
    """Classes above 0.5 that no plain signal is."""
    said = tagger.tag(wave, sample_rate=RATE).clip_probabilities
    names = [each.name for each in tagger.model.vocabulary]
    return [(names[i], round(float(said[i]), 2)) for i in np.flatnonzero(said > 0.5) if names[i] not in PLAIN]


@pytest.mark.parametrize("seconds", SECONDS)
def test_silence_and_the_least_noise_are_named_nothing_else(tagger: Tagger, seconds: float) -> None:
    """Law: digital silence and noise of one step of int16 get no name but those of silence, noise, tones and hum."""
    count = round(seconds * RATE)
    assert not too_sure(tagger, np.zeros(count, dtype=np.int16))
    assert not too_sure(tagger, np.random.default_rng(0).integers(-1, 2, count).astype(np.int16))


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("name", NAMES)
def test_plain_signals_are_named_nothing_else(tagger: Tagger, name: str, seconds: float) -> None:
    """Law: hums, noises, tones, sweeps, DC and clicks of any length and level get none but such names above 0.5."""
    wave = signal(name, seconds)
    found = {}
    for level in LEVELS_DBFS:
        scaled = wave / max(np.abs(wave).max(), 1e-9) * 10 ** (level / 20) * 32767
        if wrong := too_sure(tagger, np.round(scaled).astype(np.int16)):
            found[level] = wrong
    assert not found


def test_the_file_says_what_it_is() -> None:
    """Law: at most 3 MB, in half precision; the card names teacher, authors, paper, licence, data, scores before and
    after, and what it is not good at."""
    packaged = PACKAGED["audioset-small"]
    assert packaged.path.stat().st_size <= 3_000_000
    assert DEFAULT == "audioset-small"
    header = read_header(packaged.path)
    card = header["card"]
    assert len(header["vocabulary"]["ids"]) == 527
    teacher = card["provenance"]["teacher"]
    assert teacher["name"] == "mn04_as"
    assert "Schmid" in teacher["paper"]
    assert "MIT" in card["licence"]
    assert "ESC-10" in card["training_data"]
    assert card["provenance"]["not_good_at"]
    assert card["scores"]["teacher_as_published"].keys() == card["scores"]["kept_out"].keys()
    assert card["provenance"]["commands"]
    notice = (Path(__file__).parents[1] / "NOTICE").read_text(encoding="utf-8")
    assert "Permission is hereby granted" in notice
    assert "Schmid" in notice


@pytest.mark.skipif(not ESC10.is_dir(), reason=f"{ESC10} is not here")
def test_recordings_that_it_has_not_heard(tmp_path: Path) -> None:
    """Law: on the fold of ESC-10 that was kept out of its training the scores are those of its card."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    try:
        import make_audioset_small as script
    finally:
        sys.path.pop(0)
    from psla.corpora import esc50

    model = load_model(PACKAGED["audioset-small"].path)
    clips = esc50.read(ESC10, 5, esc10_only=True).split("evaluation")
    found = script.scores(model, clips)
    said = model.card.scores["kept_out"]
    for name, value in found.items():
        assert abs(value - said[name]) <= 0.026, name  # half precision may turn two of eighty
    assert found["right_in_five_as_recorded"] >= model.card.scores["teacher_as_published"]["right_in_five_as_recorded"]


def test_the_default_needs_no_network_and_no_home(tmp_path: Path) -> None:
    """Law: `psla tag FILE` works with HOME not writable, no cache and no network: a socket is never opened."""
    t = np.arange(RATE * 3) / RATE
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 1000 * t), RATE)
    guard = tmp_path / "sitecustomize.py"
    guard.write_text(
        "import socket\n"
        "def refuse(*given, **named):\n"
        "    raise AssertionError('a network call')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
    )
    environment = {**os.environ, "HOME": "/nonexistent", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    environment.pop("PSLA_MODEL", None)
    done = subprocess.run(
        [sys.executable, "-m", "psla", "tag", str(path), "--json"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "Sine wave" in done.stdout
    assert "a network call" not in done.stderr


def test_a_window_alone_and_in_a_recording_are_the_same(tagger: Tagger) -> None:
    """Law: a recording that fits into one window has the network's own probabilities."""
    wave = np.random.default_rng(3).integers(-3000, 3000, 5 * RATE).astype(np.int16)
    alone = tag_waveforms(tagger.model.network, [wave], RATE).clip_probabilities[0].numpy()
    np.testing.assert_array_equal(tagger.tag(wave, sample_rate=RATE).clip_probabilities, np.clip(alone, 0, 1))
