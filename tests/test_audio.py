"""Laws of reading audio: one path for files, streams, bytes and arrays, and no bad file passes in silence."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from psla.audio.decode import AudioError, AudioStream, from_array, probe, read

SAMPLE_RATE = 16000


def tone(rate: int, seconds: float = 0.5, hertz: float = 1000.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def noise(frames: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.7, 0.7, (frames, channels)).astype(np.float32)


def encoded(array: np.ndarray, rate: int, format: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    sf.write(file, array, rate, format=format, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_a_tone_keeps_its_frequency_and_level(rate: int) -> None:
    """A 1 kHz tone of amplitude 0.5 arrives at 1 kHz with amplitude 0.5, whatever the rate of the source."""
    samples = read(encoded(tone(rate), rate, subtype="FLOAT"), SAMPLE_RATE)
    assert samples.dtype == np.int16
    assert abs(len(samples) - SAMPLE_RATE // 2) <= 1
    middle = samples[2000:6000].astype(np.float64) / 32768  # 250 whole periods, away from the edges
    spectrum = np.abs(np.fft.rfft(middle)) / len(middle) * 2
    assert np.argmax(spectrum) == 250
    assert spectrum[250] == pytest.approx(0.5, rel=2e-3)


@pytest.mark.parametrize("rate", [8000, 22050, 32000, 44100])
def test_audio_comes_at_the_rate_that_is_asked_for(rate: int) -> None:
    """The same tone at any rate that is asked for; at its own rate an int16 source comes out bit by bit."""
    source = encoded(tone(16000), 16000, subtype="PCM_16")
    samples = read(source, rate)
    assert abs(len(samples) - rate // 2) <= 1
    middle = samples[len(samples) // 4 :][: rate // 5].astype(np.float64) / 32768
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 200
    own = noise(rate // 4)[:, 0]
    values = np.rint(own * 32768).astype(np.int16)
    assert np.array_equal(read(encoded(values, rate), rate), values)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "FLOAT"])
def test_silence_stays_exactly_zero(rate: int, subtype: str) -> None:
    """Silence is zero after decoding and resampling, to the last sample."""
    assert not read(encoded(np.zeros((rate // 4, 2)), rate, subtype=subtype), SAMPLE_RATE).any()


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_channels_are_averaged(rate: int) -> None:
    """Many channels give what their mean gives; opposite channels cancel."""
    many = noise(rate // 4, 3)
    assert np.array_equal(from_array(many, rate, SAMPLE_RATE), from_array(many.mean(axis=1), rate, SAMPLE_RATE))
    one = many[:, :1]
    assert not read(encoded(np.hstack([one, -one]), rate, subtype="FLOAT"), SAMPLE_RATE).any()


def test_int16_at_16_khz_passes_bit_exactly() -> None:
    """Every int16 value at 16 kHz, mono or the same on two channels, comes out as it went in."""
    values = np.arange(-32768, 32768).astype(np.int16)
    for samples in (values, np.stack([values, values], axis=1)):
        assert np.array_equal(read(encoded(samples, SAMPLE_RATE), SAMPLE_RATE), values)
        assert np.array_equal(from_array(samples, SAMPLE_RATE, SAMPLE_RATE), values)


def test_halves_round_to_even_and_the_range_clips() -> None:
    """x * 32768 is rounded half to even, and what lies beyond [-1, 1] is clipped, never wrapped."""
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 40000.0, -40000.0, 1e9, -1e9], dtype=np.float32) / 32768
    expected = [0, 2, 2, 0, -2, 32767, -32768, 32767, -32768]
    assert from_array(values, SAMPLE_RATE, SAMPLE_RATE).tolist() == expected
    assert read(encoded(values, SAMPLE_RATE, subtype="FLOAT"), SAMPLE_RATE).tolist() == expected


@pytest.mark.parametrize(
    ("format", "subtype", "rate", "channels"),
    [
        ("WAV", "PCM_16", 16000, 1),
        ("WAV", "FLOAT", 44100, 2),
        ("WAV", "GSM610", 8000, 1),
        ("FLAC", "PCM_24", 22050, 8),
        ("WAV", "PCM_24", 7999, 12),
        ("OGG", "VORBIS", 44100, 2),
        ("OGG", "OPUS", 48000, 1),
        ("MP3", "MPEG_LAYER_III", 44100, 2),
    ],
)
def test_read_is_the_stream_joined(format: str, subtype: str, rate: int, channels: int) -> None:
    """Blocks of any size, joined, are what read gives, to the bit."""
    data = encoded(noise(rate, channels), rate, format, subtype)
    whole = read(data, SAMPLE_RATE)
    for block_s in (1e-9 if rate == 8000 else 0.003, 0.1, 0.37, 10.0):
        with AudioStream(data, SAMPLE_RATE, block_s=block_s) as stream:
            blocks = list(stream)
        assert (stream.source_rate, stream.source_channels) == (rate, channels)
        assert all(len(block) and block.dtype == np.int16 for block in blocks)
        assert np.array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_16", "PCM_32"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_an_array_and_its_file_agree(subtype: str, rate: int) -> None:
    """An array and the lossless WAV written from it give the same int16."""
    array = noise(rate // 4, 2).astype(np.float64 if subtype == "DOUBLE" else np.float32)
    if subtype.startswith("PCM"):
        bits = int(subtype[4:])
        array = np.rint(array * 2.0 ** (bits - 1)).astype(f"int{bits}")
    file = encoded(array, rate, subtype=subtype)
    for asked in (SAMPLE_RATE, 32000, rate):
        assert np.array_equal(read(file, asked), from_array(array, rate, asked))


def test_path_bytes_and_file_object_agree(tmp_path: Path) -> None:
    """A path, its text, its bytes and an open file, wherever it stands, are the same audio; the file stays open."""
    data = encoded(noise(6000, 2), 22050, "FLAC")
    path = tmp_path / "a.flac"
    path.write_bytes(data)
    expected = read(path, SAMPLE_RATE)
    with path.open("rb") as file:
        file.seek(100)
        assert np.array_equal(read(file, SAMPLE_RATE), expected)
        assert not file.closed
    assert np.array_equal(read(str(path), SAMPLE_RATE), expected)
    assert np.array_equal(read(data, SAMPLE_RATE), expected)


# RAW has no header; SD2 keeps its header in a second file, under a name of its own.
_UNREADABLE = {"RAW", "SD2"}


@pytest.mark.parametrize("format", sorted(set(sf.available_formats()) - _UNREADABLE))
def test_every_format_that_can_be_written_is_read(tmp_path: Path, format: str) -> None:
    """A tone comes back from each encoding of each container."""
    samples = tone(16000)
    tried = 0
    for subtype in sf.available_subtypes(format):
        path = tmp_path / f"{subtype}.audio"
        try:
            sf.write(path, samples, 16000, format=format, subtype=subtype)
        except sf.LibsndfileError:
            continue  # an encoding that libsndfile lists but cannot write
        tried += 1
        found = read(path, SAMPLE_RATE)
        rate = probe(path).sample_rate
        spectrum = np.abs(np.fft.rfft(found.astype(np.float64) * np.hanning(len(found))))
        hertz = np.argmax(spectrum) * SAMPLE_RATE / len(found)
        assert hertz == pytest.approx(1000 * rate / 16000, abs=10), subtype
    assert tried


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None), ("WAV", "GSM610")]
)
def test_a_part_is_the_slice_of_the_whole(format: str, subtype: str | None) -> None:
    """start_s and end_s select samples of the source; at 16 kHz the part is the slice."""
    data = encoded(tone(16000, 2.0) + 0.1 * noise(32000)[:, 0], 16000, format, subtype)
    whole = read(data, SAMPLE_RATE).astype(int)
    part = read(data, SAMPLE_RATE, start_s=0.5, end_s=1.25).astype(int)
    assert len(part) == 12000
    assert np.abs(part - whole[8000:20000])[2000:].max() <= (2 if format == "MP3" else 0)
    assert np.array_equal(read(data, SAMPLE_RATE, end_s=99.0), whole)
    assert np.array_equal(read(data, SAMPLE_RATE, start_s=0.0), whole)


@pytest.mark.parametrize(("start", "end"), [(-1, None), (0.5, 0.5), (0.7, 0.2), (1.0, None), (float("nan"), 1.0)])
def test_a_part_outside_the_source_is_refused(start: float, end: float | None) -> None:
    """A part without samples is an error, not an empty array."""
    with pytest.raises(AudioError, match="the part"):
        read(encoded(noise(8000), 8000), SAMPLE_RATE, start, end)


def test_probe_reads_the_header() -> None:
    """Rate, channels, frames and duration are those the file was written with."""
    info = probe(encoded(noise(11025, 2), 22050, "FLAC"))
    assert (info.sample_rate, info.channels, info.frames, info.duration_s) == (22050, 2, 11025, 0.5)
    assert info.format == "FLAC/PCM_16"


def test_bad_paths_are_refused_with_their_reason(tmp_path: Path) -> None:
    """Missing, a folder, empty, text, no samples, headerless: an AudioError with the file and the reason."""
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("not sound " * 100)
    (tmp_path / "silent.wav").write_bytes(encoded(np.zeros(0), 16000))
    (tmp_path / "cut.wav").write_bytes(encoded(noise(100), 16000)[:30])
    (tmp_path / "bare.raw").write_bytes(bytes(100))
    reasons = {
        "missing.wav": "No such file",
        "": "Is a directory",
        "empty.wav": "an empty file",
        "text.wav": "not audio",
        "silent.wav": "holds no samples",
        "cut.wav": "damaged or truncated",
        "bare.raw": "headerless",
    }
    for name, reason in reasons.items():
        path = os.fspath(tmp_path / name)
        for function in (lambda path: read(path, SAMPLE_RATE), probe, lambda path: AudioStream(path, SAMPLE_RATE)):
            with pytest.raises(AudioError, match=reason) as caught:
                function(path)
            assert caught.value.path == path
            assert str(caught.value) == f"{path}: {caught.value.reason}"
    with pytest.raises(AudioError, match="<bytes>: an empty file"):
        read(b"", SAMPLE_RATE)
    with pytest.raises(AudioError, match="binary mode"):
        read(io.StringIO("text"), SAMPLE_RATE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "format", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "MP3", "SVX", "VOC", "WVE", "MAT4"]
)
def test_a_truncated_file_is_refused(format: str) -> None:
    """A file cut in the middle is an error, never a shorter clip."""
    data = encoded(noise(16000), 16000, format)
    read(data, SAMPLE_RATE)
    with pytest.raises(AudioError, match="truncated"):
        read(data[: len(data) // 2], SAMPLE_RATE)
    if format == "WAV":
        with pytest.raises(AudioError, match="truncated"):
            probe(data[:-2])


def test_headers_of_open_length_are_read_to_the_end() -> None:
    """A WAV or FLAC written to a pipe declares no true length and is whole."""
    samples = (noise(8000) * 32767).astype(np.int16)
    wav = bytearray(encoded(samples, 16000))
    expected = read(bytes(wav), SAMPLE_RATE)
    wav[4:8] = wav[40:44] = b"\xff\xff\xff\xff"
    assert np.array_equal(read(bytes(wav), SAMPLE_RATE), expected)
    flac = bytearray(encoded(samples, 16000, "FLAC"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    assert np.array_equal(read(bytes(flac), SAMPLE_RATE), expected)
    assert probe(bytes(flac)).frames == 8000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_non_finite_samples_are_refused(value: float, rate: int) -> None:
    """One NaN or infinity anywhere is an error, in a file as in an array."""
    samples = noise(4000, 2)
    samples[3999, 1] = value
    file = encoded(samples, rate, subtype="FLOAT")
    for function in (lambda: read(file, SAMPLE_RATE), lambda: from_array(samples, rate, SAMPLE_RATE)):
        with pytest.raises(AudioError, match="NaN or infinite"):
            function()


@pytest.mark.parametrize(
    ("array", "rate"),
    [
        (np.zeros(0), 16000),
        (np.zeros((2, 2, 2)), 16000),
        (np.zeros((2, 100)), 16000),
        (np.zeros((1, 100)), 16000),
        (np.zeros(100, np.uint8), 16000),
        (np.zeros(100), 0),
        (np.full(100, 1e300), 16000),
    ],
)
def test_arrays_of_other_kinds_are_refused(array: np.ndarray, rate: int) -> None:
    """Shape, type, rate and range are checked at the door."""
    with pytest.raises(AudioError, match="<array>"):
        from_array(array, rate, SAMPLE_RATE)


def test_a_closed_stream_and_a_bad_block_are_refused() -> None:
    """A stream that is closed does not pretend to be at its end; blocks have a length."""
    data = encoded(noise(8000), 8000)
    with AudioStream(data, SAMPLE_RATE) as stream:
        pass
    with pytest.raises(ValueError, match="closed"):
        next(stream)
    with pytest.raises(ValueError, match="block_s"):
        AudioStream(data, SAMPLE_RATE, block_s=0)


def test_an_error_crosses_processes() -> None:
    """An AudioError keeps its file and reason when it is pickled, as worker processes do."""
    error = pickle.loads(pickle.dumps(AudioError("a.wav", "empty")))
    assert (error.path, error.reason, str(error)) == ("a.wav", "empty", "a.wav: empty")
