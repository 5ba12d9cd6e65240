"""Makers of sound files for tests, by PyAV, by soundfile, and chunk by chunk."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import soundfile


def wave(rate: int, channels: int, seconds: float = 1.0, hertz: float = 300.0) -> np.ndarray:
    """A rising tone in a little noise, of another pitch and level in each channel: (samples, channels) float32."""
    times = np.arange(round(rate * seconds)) / rate
    steps = np.arange(1, channels + 1)
    tones = 0.4 / steps * np.sin(2 * np.pi * hertz * steps * times[:, None] * (1 + times[:, None]))
    noise = np.random.default_rng(channels).uniform(-0.02, 0.02, (len(times), channels))
    return (tones + noise).astype(np.float32)


def encoded(
    container: str,
    codec: str,
    waves: list[np.ndarray],
    rate: int = 48000,
    video: bool = False,
    bit_rate: int | None = None,
    **options: str,
) -> bytes:
    """A file with a track for each wave, (samples, channels), after a second of video if asked for."""
    folder = tempfile.TemporaryDirectory()  # an index can be moved to the front in files alone
    path = Path(folder.name, "encoded")
    with folder, av.open(str(path), "w", format=container, options=options) as output:
        picture = output.add_stream("mpeg4", rate=10) if video else None
        tracks = []
        for each in waves:
            layout = {1: "mono", 2: "stereo"}[each.shape[1]]
            track = output.add_stream(codec, rate=rate, layout=layout)
            if bit_rate:
                track.bit_rate = bit_rate
            tracks.append(track)
        if picture is not None:
            picture.width = picture.height = 64
            for index in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index, np.uint8), format="rgb24")
                output.mux(picture.encode(frame))
            output.mux(picture.encode(None))
        for track, each in zip(tracks, waves, strict=True):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(each.T), "fltp", layout=track.layout.name)
            frame.sample_rate = rate
            resampler = av.AudioResampler(track.codec_context.format.name, track.layout.name, rate, track.frame_size)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                output.mux(track.encode(part))
            output.mux(track.encode(None))
        output.close()
        return path.read_bytes()


def ogg(rate: int, seconds: float) -> bytes:
    """A Vorbis; PyAV's wheel does not encode it."""
    file = io.BytesIO()
    soundfile.write(file, wave(rate, 1, seconds), rate, format="OGG", subtype="VORBIS")
    return file.getvalue()


def written(
    format: str, subtype: str | None = None, seconds: float = 1.0, channels: int = 1, rate: int = 44100
) -> bytes:
    """By libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, wave(rate, channels, seconds), rate, format=format, subtype=subtype)
    return file.getvalue()


def chunk(id: bytes, data: bytes, size: int | None = None, pad: bool = True) -> bytes:
    """A chunk of RIFF, whose size may be false."""
    return id + struct.pack("<I", len(data) if size is None else size) + data + bytes(len(data) % 2 and pad)


def fmt(code: int = 1, channels: int = 1, rate: int = 44100, bits: int = 16, more: bytes = b"") -> bytes:
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits) + more)


def wav(*chunks: bytes, size: int | None = None, id: bytes = b"RIFF") -> bytes:
    """A WAV of these chunks, whose size may be false."""
    body = b"WAVE" + b"".join(chunks)
    return id + struct.pack("<I", len(body) if size is None else size) + body


def pcm(seconds: float = 1.0, rate: int = 44100) -> bytes:
    """Samples of 16 bits."""
    return (wave(rate, 1, seconds)[:, 0] * 32767).astype("<i2").tobytes()


def rf64(data: bytes, declared: int, id: bytes = b"RF64") -> bytes:
    """A WAV of 64 bits that declares so many bytes of samples."""
    sizes = struct.pack("<QQQI", (declared + 72) % (1 << 64), declared, 0, 0)
    return wav(chunk(b"ds64", sizes), fmt(), chunk(b"data", data, 0xFFFFFFFF), size=0xFFFFFFFF, id=id)


def patched(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def ogg_pages(data: bytes) -> list[bytes]:
    """The pages of an Ogg."""
    pages, place = [], 0
    while place < len(data):
        table = data[place + 27 : place + 27 + data[place + 26]]
        length = 27 + len(table) + sum(table)
        pages.append(data[place : place + length])
        place += length
    return pages


def joined(pages: Sequence[bytes]) -> bytes:
    return b"".join(pages)
