"""Kind 1 of the faults from the field: a header's length is taken for the truth.

Law: what is heard is what the file holds; where that cannot be known, the file is refused or flagged, never shortened
in silence. Each case is a file and either the seconds that are heard of it, or what the sentence says that refuses it.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psla.audio import frames
from psla.audio.decode import AudioError, AudioStream, probe, read
from psla.audio.frames import _frame, flac_length
from psla.audio.ogg_pages import _checksum
from psla.audio.probe import Headers
from psla.tagging.tagger import Tagger
from sound_files import chunk, encoded, fmt, joined, ogg, ogg_pages, patched, pcm, rf64, wav, wave, written
from tagging_models import tiny_model

TOLERANCE_S = 0.05
Expected = float | str


def check(data: bytes | Path, expected: Expected) -> None:
    """Reading and probing agree: so many seconds, or refused by this."""
    if isinstance(expected, str):
        for function in (lambda source: read(source, 16000), probe):
            with pytest.raises(AudioError, match=expected) as caught:
                function(data)
            assert "\n" not in caught.value.reason
        return
    assert len(read(data, 16000)) / 16000 == pytest.approx(expected, abs=TOLERANCE_S)
    assert probe(data).duration_s == pytest.approx(expected, abs=TOLERANCE_S + 0.026)  # the padding of an encoder


# WAV

JUNK, LIST = chunk(b"JUNK", bytes(28)), chunk(b"LIST", b"INFOISFT\4\0\0\0abc\0")
SOUND, HEADER = chunk(b"data", pcm()), fmt()
EXTENSIBLE = struct.pack("<HHIH", 22, 16, 4, 1) + bytes.fromhex("000000001000800000AA00389B71")


def fmt_in_32() -> bytes:
    """Extensible, and says 24 bits where the room of a sample is 32."""
    form = struct.pack("<HHIIHH", 0xFFFE, 1, 44100, 176400, 4, 24)
    return chunk(b"fmt ", form + struct.pack("<HHI", 22, 24, 4) + bytes.fromhex("0100000000001000800000AA00389B71"))


WAVES: dict[str, tuple[Callable[[], bytes], Expected]] = {
    "plain": (lambda: wav(HEADER, SOUND), 1),
    "size 0 after a crash": (lambda: wav(HEADER, chunk(b"data", pcm(), 0)), 1),
    "both sizes 0 after a crash": (lambda: wav(HEADER, chunk(b"data", pcm(), 0), size=0), 1),
    "size 0, silence": (lambda: wav(HEADER, chunk(b"data", bytes(88200), 0)), 1),
    "size 0 and nothing": (lambda: wav(HEADER, chunk(b"data", b"")), "holds no samples"),
    "size 0 and metadata": (lambda: wav(HEADER, chunk(b"data", b""), LIST), "holds no samples"),
    "a pipe: -1": (lambda: wav(HEADER, chunk(b"data", pcm(), 0xFFFFFFFF), size=0xFFFFFFFF), 1),
    "a pipe of sox": (lambda: wav(HEADER, chunk(b"data", pcm(), 0x7FFFF000), size=0x7FFFF024), 1),
    "a pipe of arecord": (lambda: wav(HEADER, chunk(b"data", pcm(), 0x80000000), size=0x80000024), 1),
    "a third": (lambda: wav(HEADER, chunk(b"data", pcm(), 29400)), "58800 more follow"),
    "four bytes": (lambda: wav(HEADER, chunk(b"data", pcm(), 4)), "more follow"),
    "twice": (lambda: wav(HEADER, chunk(b"data", pcm(), 176400)), "truncated"),
    "3 GB that are not there": (lambda: wav(HEADER, chunk(b"data", pcm(), 3 << 30), size=3 << 30), "truncated"),
    "false size of the whole": (lambda: wav(HEADER, SOUND, size=1000), 1),
    "metadata behind": (lambda: wav(HEADER, SOUND, LIST), 1),
    "metadata behind, cut": (lambda: wav(HEADER, SOUND, LIST[:-5]), 1),
    "a tag behind": (lambda: wav(HEADER, SOUND) + b"TAG" + bytes(125), 1),
    "an APE tag behind": (lambda: wav(HEADER, SOUND) + b"APETAGEX" + bytes(200), 1),
    "filled up with zeros": (lambda: wav(HEADER, SOUND) + bytes(4096), 1),
    "noise behind": (lambda: wav(HEADER, SOUND) + np.random.default_rng(0).bytes(60000), "60000 more follow"),
    "two files": (lambda: wav(HEADER, SOUND) * 2, "several recordings in one file"),
    "two chunks of samples": (lambda: wav(HEADER, SOUND, SOUND), "several recordings in one file"),
    "metadata in front": (lambda: wav(JUNK, HEADER, LIST, SOUND), 1),
    "odd chunk, filled": (lambda: wav(HEADER, chunk(b"junk", b"abc"), SOUND), 1),
    "odd chunk, not filled": (lambda: wav(HEADER, chunk(b"junk", b"abc", pad=False), SOUND), 1),
    "samples before their format": (lambda: wav(SOUND, HEADER), 1),
    "an ID3 tag in front": (lambda: b"ID3\4\0\0\0\0\0\x14" + bytes(20) + wav(HEADER, SOUND), 1),
    "extensible": (lambda: wav(fmt(0xFFFE, more=EXTENSIBLE), SOUND), 1),
    "extensible, size 0": (lambda: wav(fmt(0xFFFE, more=EXTENSIBLE), chunk(b"data", pcm(), 0)), 1),
    "24 bits in 32": (lambda: wav(fmt_in_32(), chunk(b"data", bytes(4 * 44100))), 1),
    "24 bits, odd": (lambda: wav(fmt(bits=24), chunk(b"data", bytes(3 * 44101))), 1),
    "8 bits": (lambda: wav(fmt(bits=8), chunk(b"data", bytes(range(256)) * 172, 0)), 1),
    "A-law, size 0": (lambda: wav(fmt(6, bits=8), chunk(b"data", bytes(range(256)) * 172, 0)), 1),
    "float, size 0": (lambda: wav(fmt(3, bits=32), chunk(b"data", wave(44100, 1).tobytes(), 0)), 1),
    "big-endian, size 0": (lambda: rifx(0), 1),
    "RF64": (lambda: rf64(pcm(), 88200), 1),
    "RF64, sizes 0": (lambda: rf64(pcm(), 0), 1),
    "RF64, sizes -1": (lambda: rf64(pcm(), (1 << 64) - 1), 1),
    "RF64, half": (lambda: rf64(pcm(), 44100), "more follow"),
    "RF64, twice": (lambda: rf64(pcm(), 176400), "truncated"),
    "BW64": (lambda: rf64(pcm(), 88200, b"BW64"), 1),
}


def rifx(size: int) -> bytes:
    form = struct.pack(">HHIIHH", 1, 1, 44100, 88200, 2, 16)
    samples = np.frombuffer(pcm(), "<i2").astype(">i2").tobytes()
    body = b"WAVEfmt " + struct.pack(">I", 16) + form + b"data" + struct.pack(">I", size) + samples
    return b"RIFX" + struct.pack(">I", len(body)) + body


@pytest.mark.parametrize("name", WAVES)
def test_wav(name: str) -> None:
    """Chunk by chunk: sizes that are 0, -1, wrapped, too small, too large; chunks of any order and filling."""
    make, expected = WAVES[name]
    check(make(), expected)


def test_a_mended_header_gives_the_same_samples() -> None:
    """To the bit, by path and as bytes, in blocks and in parts."""
    whole, crashed = wav(HEADER, SOUND), wav(HEADER, chunk(b"data", pcm(), 0), size=0)
    assert np.array_equal(read(crashed, 16000), read(whole, 16000))
    assert np.array_equal(read(crashed, 16000, 0.25, 0.75), read(whole, 16000, 0.25, 0.75))
    with AudioStream(crashed, 16000, block_s=0.1) as stream:
        assert np.array_equal(np.concatenate(list(stream)), read(whole, 16000))


@pytest.mark.parametrize("kind", ["wav", "pipe", "aiff"])
def test_more_than_4_gib(tmp_path: Path, kind: str) -> None:
    """13.5 h whose size wraps to ten seconds, or says nothing, are 13.5 h; the sound at their end is heard."""
    path, held = tmp_path / "long", (1 << 32) + 960000
    if kind == "aiff":
        head = bytearray(written("AIFF", "PCM_16", 0.1, rate=48000))
        place = head.find(b"SSND")
        del head[place + 16 :]
        head[place + 4 : place + 8] = struct.pack(">I", (held + 8) % (1 << 32))
    else:
        size = held % (1 << 32) if kind == "wav" else 0xFFFFFFFF
        head = bytearray(wav(fmt(rate=48000), chunk(b"data", b"", size), size=size))
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(len(head) + held - 96000)
        file.seek(0, os.SEEK_END)
        tone = (np.sin(np.arange(48000)) * 20000).astype(">i2" if kind == "aiff" else "<i2")
        file.write(tone.tobytes())  # all but the last second is a hole that takes no room
    info = probe(path)
    assert info.frames == held // 2
    last = read(path, 48000, info.duration_s - 1)
    assert len(last) == 48000
    assert np.array_equal(last, tone.astype(np.int16))


# The other formats with a length in their header


def aiff(size: int | None = None, frames: int | None = None) -> bytes:
    data = written("AIFF", "PCM_16")
    if size is not None:
        data = patched(data, data.find(b"SSND") + 4, struct.pack(">I", size))
    return data if frames is None else patched(data, data.find(b"COMM") + 10, struct.pack(">I", frames))


def caf(size: int) -> bytes:
    data = written("CAF", "PCM_16")
    return patched(data, data.rfind(b"data") + 4, struct.pack(">q", size))


def au(size: int) -> bytes:
    return patched(written("AU", "PCM_16"), 8, struct.pack(">I", size))


def flac(total: int, seconds: float = 1.0) -> bytes:
    data = written("FLAC", seconds=seconds)
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    return patched(data, 18, packed.to_bytes(8, "big"))


def w64(size: int) -> bytes:
    data = written("W64", "PCM_16")
    return patched(data, data.find(b"data") + 16, struct.pack("<Q", size))


OTHERS: dict[str, tuple[Callable[[], bytes], Expected]] = {
    "AIFF": (lambda: aiff(), 1),
    "AIFF, size 0": (lambda: aiff(0), 1),
    "AIFF after a crash": (lambda: aiff(8, 0), 1),
    "AIFF, a third": (lambda: aiff(29408), "more follow"),
    "AIFF, third and third": (lambda: aiff(29408, 14700), "more follow"),
    "AIFF, twice": (lambda: aiff(176408), "truncated"),
    "AIFF, fewer frames": (lambda: aiff(None, 14700), 1),
    "CAF, -1": (lambda: caf(-1), 1),
    "CAF, 0": (lambda: caf(0), 1),
    "CAF, a third": (lambda: caf(29404), "more follow"),
    "CAF, twice": (lambda: caf(176404), "truncated|malformed"),
    "AU, -1": (lambda: au(0xFFFFFFFF), 1),
    "AU, 0": (lambda: au(0), 1),
    "AU, a third": (lambda: au(29400), "more follow"),
    "AU, twice": (lambda: au(176400), "truncated"),
    "W64, 0": (lambda: w64(0), 1),
    "W64, a third": (lambda: w64(29424), 1),
    "two W64s": (lambda: written("W64", "PCM_16") * 2, "several recordings in one file"),
    "FLAC": (lambda: flac(44100), 1),
    "FLAC of unknown length": (lambda: flac(0), 1),
    "FLAC, too few": (lambda: flac(1000), 1),
    "FLAC, too many": (lambda: flac(88200), "truncated"),
    "FLAC, absurd": (lambda: flac((1 << 36) - 1), "truncated"),
    "FLAC without frames": (lambda: flac(0)[:42] + bytes(0), "no samples|damaged|truncated"),
    "FLAC with a tag": (lambda: flac(44100) + b"TAG" + bytes(125), 1),
    "two FLACs": (lambda: flac(44100) + flac(22050, 0.5), "several recordings in one file"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_headers(name: str) -> None:
    """AIFF, CAF, AU, W64 and FLAC whose headers say nothing, too little or too much."""
    make, expected = OTHERS[name]
    check(make(), expected)


def test_the_same_flac_twice() -> None:
    """Joined to its like, the last frame alone does not tell: reading finds it."""
    with pytest.raises(AudioError, match="several recordings in one file"):
        read(flac(44100) * 2, 16000)


def test_the_frames_of_a_flac_follow_each_other() -> None:
    """One that is lost is no silence; frames that begin anew behind the last, without a header, are no part of it."""
    data, heads = flac(44100), [match.start() for match in re.finditer(rb"\xff\xf8", flac(44100))]
    heads = [place for place in heads if _frame(data[place : place + 16], 4096) is not None]
    assert len(heads) == 11
    with pytest.raises(AudioError, match="frames are missing behind sample 12288 of 44100"):
        read(data[: heads[3]] + data[heads[4] :], 16000)
    with pytest.raises(AudioError, match="several recordings in one file"):
        read(data + data[heads[0] :], 16000)


@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100), (6, 96000)])
def test_the_last_frame_of_a_flac_tells_its_end(channels: int, rate: int) -> None:
    """Whatever the rate, the channels and the length; also of silence, whose frames are the shortest."""
    for seconds in (0.001, 0.3, 1.0, 30.0):
        for sound in (wave(rate, channels, min(seconds, 1.0)), np.zeros((round(seconds * rate), channels))):
            file = io.BytesIO()
            soundfile.write(file, sound, rate, format="FLAC")
            found = flac_length(file)
            assert found is not None
            assert found.held == found.declared == len(sound)


# MP3


def mp3(
    seconds: float = 2.0, rate: int = 44100, bit_rate: int | None = None, tag: bool = True, **options: str
) -> bytes:
    sound = [wave(rate, 1, seconds)]
    made = encoded(
        "mp3", "libmp3lame", sound, rate, bit_rate=bit_rate, write_xing=str(int(tag)), id3v2_version="0", **options
    )
    return made


ID3 = b"ID3\4\0\0\0\0\7\x76" + bytes(1014)
ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 42, 1, 0x80000000) + bytes(18)


def xing(frames: int) -> bytes:
    data = mp3()
    place = max(data.find(b"Xing"), data.find(b"Info"))
    return patched(data, place + 8, struct.pack(">I", frames))


def variable() -> bytes:
    """Ten seconds of silence, then sound, each at the bit rate that it needs: the first frame promises too much."""
    sound = np.concatenate([np.zeros((441000, 1), np.float32), wave(44100, 1, 3.0)])
    return encoded("mp3", "libmp3lame", [sound], 44100, write_xing="0", id3v2_version="0", options={"abr": "1"})


MP3S: dict[str, tuple[Callable[[], bytes], Expected]] = {
    "with its tag": (lambda: mp3(), 2),
    "ID3v2 and ID3v1": (lambda: ID3 + mp3() + ID3V1, 2),
    "APE behind": (lambda: mp3() + APE, 2),
    "APE in front": (lambda: APE + mp3(), 2),
    "zeros behind": (lambda: mp3() + bytes(5000), 2),
    "words behind": (lambda: mp3() + b"hello " * 500, 2),
    "without a tag": (lambda: mp3(tag=False), 2.045),
    "without a tag, ID3v1": (lambda: mp3(tag=False) + ID3V1, 2.045),
    # The tag of the second is decoded as a frame of silence; what its encoder adds in front is heard, too.
    "two": (lambda: mp3() + mp3(1.0), 3.07),
    "two, an ID3 tag between": (lambda: mp3() + ID3V1 + ID3 + mp3(1.0), 3.07),
    "two without tags": (lambda: mp3(tag=False) + mp3(1.0, tag=False), 3.09),
    "a tag that says 0": (lambda: xing(0), 2.03),
    "a tag that says 10": (lambda: xing(10), 2.03),
    "a tag that says too much": (lambda: xing(400), "truncated"),
    "a tag that says -1": (lambda: xing(0xFFFFFFFF), "truncated"),
    "a hole": (lambda: mp3()[:8000] + mp3()[9777:], "truncated|damaged"),
    "a hole, no tag": (lambda: mp3(tag=False)[:8000] + mp3(tag=False)[9777:], "truncated|damaged"),
    "cut": (lambda: mp3()[:9000], "truncated"),
    "cut, no tag": (lambda: mp3(tag=False)[:9000], "truncated"),
    "nothing but the tag": (lambda: mp3()[:417], "no samples|truncated"),
    "nothing but ID3": (lambda: ID3, "holds no samples"),
    "inside a WAV": (lambda: encoded("wav", "libmp3lame", [wave(44100, 1, 2.0)], 44100), 2.03),
    "inside a WAV, size 0": (lambda: crashed(encoded("wav", "libmp3lame", [wave(44100, 1, 2.0)], 44100)), 2.03),
}


def crashed(data: bytes) -> bytes:
    return patched(patched(data, data.find(b"data") + 4, bytes(4)), 4, bytes(4))


@pytest.mark.parametrize("name", MP3S)
def test_mp3(name: str) -> None:
    """With and without a length, with tags around, joined, cut and with a hole: all its frames, or refused."""
    make, expected = MP3S[name]
    check(make(), expected)


def test_a_flac_is_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clips are cut from it; one that is written anew is another."""
    path, passes = tmp_path / "a.flac", []
    path.write_bytes(written("FLAC", "PCM_16", 1.0))
    whole = frames.broken_flac
    monkeypatch.setattr(frames, "broken_flac", lambda *given: (passes.append(1), whole(*given))[1])
    for begin in (0.0, 0.3, 0.6):
        with AudioStream(path, 16000, start_s=begin, end_s=begin + 0.2) as stream:
            assert sum(map(len, stream)) == 3200
    assert len(passes) == 1
    path.write_bytes(written("FLAC", "PCM_16", 2.0))
    assert len(read(path, 16000)) == 32000
    assert len(passes) == 2


# Ogg


def test_chained_ogg_is_heard_whole() -> None:
    """Vorbis after Vorbis, and Opus after Opus."""
    check(ogg(44100, 1.0) + ogg(44100, 0.5), 1.5)
    opus = encoded("ogg", "libopus", [wave(48000, 1, 1.0)])
    check(opus + opus, 2)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_its_recordings_one_after_the_other(subtype: str) -> None:
    """To the bit, where each has a single page of sound, too; a recording without sound in between is passed over; of
    two channels where the first has one, their mean; of another rate is refused."""
    rate = 48000
    one, two = (written("OGG", subtype, seconds, channels, rate) for seconds, channels in ((0.4, 1), (0.7, 2)))
    headers = b"".join(ogg_pages(one)[:2]) if subtype == "OPUS" else b""
    file = one + one + headers + two + one
    alone = [read(each, rate) for each in (one, one, two, one)]
    np.testing.assert_array_equal(read(file, rate), np.concatenate(alone))
    assert probe(file).frames == sum(map(len, alone))
    with pytest.raises(AudioError, match=r"sample rate changes from 48000 to 24000 Hz, 0\.80 s after"):
        read(one + one + written("OGG", subtype, 0.4, 1, 24000), rate)


def test_an_ogg_with_lost_pages_is_refused() -> None:
    """Pages lost in the middle, one page twice, one that is cut: refused by what is wrong."""
    pages = ogg_pages(ogg(44100, 5.0))
    assert len(pages) > 8
    check(joined(pages[:4] + pages[6:]), "pages are missing")
    check(joined(pages[:4] + pages[3:]), "pages are missing")
    check(joined(pages)[:-20], "its last page is cut")
    check(joined(pages[:5]) + b"noise" * 40 + joined(pages[5:]), "no page begins")


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_an_ogg_whose_time_goes_backwards_is_refused(codec: str) -> None:
    """A last page that ends before those in front of it would take their sound away."""
    pages = ogg_pages(written("OGG", codec, 5.0, 1, 48000))
    last = bytearray(pages[-1])
    last[6:14] = struct.pack("<q", 24000)
    last[22:26] = struct.pack("<I", _checksum(bytes(last[:22]) + bytes(4) + bytes(last[26:])))
    check(joined([*pages[:-1], bytes(last)]), "ends before the one in front of it")


def test_an_ogg_without_its_end_is_flagged() -> None:
    """Cut between two pages it may be whole, as some recorders write no last page: it is heard, and flagged."""
    pages = ogg_pages(ogg(44100, 5.0))
    tagger = Tagger(tiny_model(mel_bins=32))
    assert "unfinished" not in tagger.tag(joined(pages)).flags
    assert "unfinished" in tagger.tag(joined(pages[:-2])).flags


FRAGMENTS = {"movflags": "empty_moov+default_base_moof", "frag_duration": "300000"}

# Containers that say nothing of their length


def test_streamed_containers() -> None:
    """WebM as browsers record it, fragmented MP4, ADTS: whole to their end; cut in a packet, refused."""
    for container, codec, options in (
        ("webm", "libopus", {"live": "1"}),
        ("mp4", "aac", {"movflags": "empty_moov+default_base_moof", "frag_duration": "300000"}),
        ("adts", "aac", {}),
    ):
        data = encoded(container, codec, [wave(48000, 1, 2.0)], **options)
        check(data, 2)
        check(data[: len(data) // 2 + 11], "truncated|damaged")


def test_an_mp4_without_its_index_is_refused() -> None:
    """Cut before `moov`, or behind it."""
    data = encoded("ipod", "aac", [wave(48000, 1, 2.0)])
    check(data[: data.find(b"moov") - 4], "MP4: the index|truncated")
    fast = encoded("mp4", "aac", [wave(48000, 1, 2.0)], movflags="faststart")
    check(fast[: fast.find(b"mdat") + 4], "truncated")


def test_mp4s_that_were_joined_are_refused() -> None:
    """ffmpeg hears the first index, and of fragments those that fit it."""
    data = encoded("mp4", "aac", [wave(48000, 1, 2.0)])
    check(data * 2, "several recordings in one file")
    parts = encoded("mp4", "aac", [wave(48000, 1, 2.0)], **FRAGMENTS)
    check(parts * 2, "several recordings in one file")


def test_an_mp4_that_lacks_a_fragment_is_refused() -> None:
    """The times of the others tell it; without its index, as a player loads it, it is called by its name."""
    data = encoded("mp4", "aac", [wave(48000, 1, 2.0)], **FRAGMENTS)
    check(data, 2)
    places = [match.start() - 4 for match in re.finditer(b"moof", data)]
    with pytest.raises(AudioError, match="damaged: packets are missing"):
        read(data[: places[2]] + data[places[3] :], 16000)
    check(data[places[0] :], "the index of what it holds is missing")


def test_the_corpus_says_what_training_finds(tmp_path: Path) -> None:
    """Law: what the scan of headers calls present is what decoding hears, and what it refuses is refused there."""
    import polars as pl

    made = {
        "a.mp3": mp3(tag=False),
        "b.wav": wav(HEADER, chunk(b"data", pcm(), 0)),
        "c.mp3": xing(400),
        "d.flac": flac(0),
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    paths = [str(tmp_path / name) for name in made]
    files = pl.DataFrame({"path": paths, "size": [1] * 4, "mtime_ns": [0] * 4})
    told, decoded = (Headers(workers=1).probe(files, decode=decode) for decode in (False, True))
    assert told["fault"].is_null().to_list() == decoded["fault"].is_null().to_list() == [True, True, False, True]
    assert told["duration_s"].to_list() == decoded["duration_s"].to_list()
