"""Laws of what ffmpeg's libraries decode: all that a file holds is heard, as ffmpeg hears it, or the file is refused.

Files are made by the program `ffmpeg`, which is also the outside reference; those of the other tests by PyAV.
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psla.audio.containers import SUFFIXES, split_track
from psla.audio.decode import AudioError, AudioStream, from_array, probe, read
from psla.audio.pool import DecodePool, Job, SourceInfo, decode_pool
from psla.audio.probe import Headers
from psla.corpora.folder import read_folders
from psla.tagging.sources import expand_sources, split_model
from sound_files import encoded, ogg, wave

needs_ffmpeg = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="the programs ffmpeg and ffprobe are not installed"
)
TOLERANCE_S = 0.05
# Suffix, codec, whether the container declares how long it is (else ffprobe guesses), and (rate, channels).
FAST = [
    ("m4a", "aac", True, [(8000, 1), (44100, 2), (48000, 6), (96000, 2)]),
    ("mp4", "aac", True, [(16000, 1), (48000, 2)]),
    ("mov", "aac", True, [(22050, 1), (44100, 2)]),
    ("3gp", "aac", True, [(16000, 1), (48000, 1)]),
    ("aac", "aac", False, [(8000, 1), (44100, 2), (48000, 6)]),
    ("mkv", "aac", True, [(32000, 2), (48000, 6)]),
    ("ts", "aac", False, [(44100, 2), (48000, 6)]),
    ("flv", "aac", True, [(22050, 1), (44100, 2)]),
    ("webm", "libopus", True, [(48000, 1), (48000, 2), (48000, 6)]),
    ("mp4", "libopus", True, [(48000, 1), (48000, 2)]),
    ("ts", "libopus", False, [(48000, 2)]),
    ("webm", "libvorbis", True, [(8000, 1), (44100, 2), (96000, 3)]),
    ("m4a", "alac", True, [(8000, 1), (44100, 2), (96000, 6)]),
    ("mka", "flac", True, [(8000, 1), (44100, 3), (192000, 2)]),
    ("wma", "wmav2", True, [(44100, 1), (44100, 2), (48000, 2)]),
    ("avi", "libmp3lame", True, [(24000, 1), (44100, 2)]),
    ("mkv", "ac3", True, [(32000, 1), (48000, 6)]),
    ("ac3", "ac3", False, [(32000, 1), (48000, 6)]),
    ("mpg", "mp2", False, [(32000, 1), (44100, 2)]),
    ("wv", "wavpack", True, [(8000, 1), (44100, 2), (192000, 4)]),
    ("tta", "tta", True, [(8000, 1), (44100, 2), (96000, 2)]),
    ("mov", "pcm_s24le", True, [(8000, 1), (48000, 2), (192000, 6)]),
    ("mkv", "pcm_f32le", True, [(11025, 1), (96000, 4)]),
    ("avi", "pcm_u8", True, [(11025, 1), (44100, 2)]),
    ("aiff", "pcm_s16be", True, [(22050, 1), (48000, 6)]),
    ("opus", "libopus", False, [(48000, 1), (48000, 2)]),
    ("caf", "alac", True, [(44100, 2)]),
    ("mp3", "libmp3lame", False, [(16000, 1), (44100, 2)]),
]
CASES = [(*row[:3], rate, channels) for row in FAST for rate, channels in row[3]]
# What does not hold of files that ffmpeg 5.1 writes, and why; a later one may write them as it should.
DEPARTURES = {
    ("opus", 8000): "libsndfile gives Opus at the rate that its head names, ffprobe says 48000",
    ("opus", 16000): "libsndfile gives Opus at the rate that its head names, ffprobe says 48000",
    ("webm", 8000): "the delay in the head of Opus is too short there: 5 ms of what comes before the sound are heard",
    ("webm", 16000): "the delay in the head of Opus is too short there: 4 ms of what comes before the sound are heard",
    ("caf", 22050): "its header declares whole packets of ALAC, 0.11 s more than ffmpeg decodes",
    ("wma", 8000): "its header declares 0.06 s more than ffmpeg decodes",
}


def departing(suffix: str, codec: str, rate: int) -> list[pytest.MarkDecorator]:
    reason = DEPARTURES.get((suffix, rate)) if codec != "libvorbis" else None
    return [] if reason is None else [pytest.mark.xfail(reason=reason, raises=AssertionError)]


MANY = [
    pytest.param(suffix, codec, declares, rate, channels, marks=departing(suffix, codec, rate))
    for suffix, codec, declares, _ in FAST
    for rate in (8000, 16000, 22050, 44100, 48000, 96000, 192000)
    for channels in (1, 2, 6)
]


def ffmpeg(*arguments: object) -> bytes:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-strict", "-2", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def heard_by_ffmpeg(path: Path, channels: int) -> np.ndarray:
    """The mean of the channels that the program decodes."""
    data = ffmpeg("-i", path, "-map", "0:a:0", "-f", "f32le", "-c:a", "pcm_f32le", "-")
    return np.frombuffer(data, np.float32).reshape(-1, channels).mean(axis=1)


def check_as_ffmpeg(folder: Path, suffix: str, codec: str, declares: bool, rate: int, channels: int) -> None:
    source, path = folder / "source.wav", folder / f"sound.{suffix}"
    soundfile.write(source, wave(rate, channels), rate, subtype="FLOAT")
    try:
        ffmpeg("-i", source, "-c:a", codec, "-ar", rate, path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"ffmpeg does not encode this: {error.stderr.decode().splitlines()[0]}")
    told = json.loads(
        subprocess.run(
            ["ffprobe", "-v", "error", "-show_format", "-show_streams", "-of", "json", path],
            check=True,
            capture_output=True,
        ).stdout
    )
    stream = told["streams"][0]
    info = probe(path)
    assert (info.sample_rate, info.channels) == (int(stream["sample_rate"]), stream["channels"])
    samples, expected = read(path, info.sample_rate) / 32768, heard_by_ffmpeg(path, info.channels)
    heard_s = len(samples) / info.sample_rate
    assert heard_s == pytest.approx(len(expected) / info.sample_rate, abs=TOLERANCE_S)
    assert info.duration_s == pytest.approx(heard_s, abs=TOLERANCE_S)
    if declares:
        assert heard_s == pytest.approx(float(told["format"]["duration"]), abs=TOLERANCE_S)
    both = min(len(samples), len(expected))
    assert np.corrcoef(samples[:both], expected[:both])[0, 1] >= 0.999
    assert samples[:both].std() == pytest.approx(expected[:both].std(), rel=0.01)


@needs_ffmpeg
@pytest.mark.parametrize(("suffix", "codec", "declares", "rate", "channels"), CASES)
def test_heard_as_ffmpeg_hears_it(
    tmp_path: Path, suffix: str, codec: str, declares: bool, rate: int, channels: int
) -> None:
    """Rate, channels, length, samples and level are those of the program; the length is also that it declares."""
    check_as_ffmpeg(tmp_path, suffix, codec, declares, rate, channels)


@needs_ffmpeg
@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "codec", "declares", "rate", "channels"), MANY)
def test_many_more_heard_as_ffmpeg_hears_them(
    tmp_path: Path, suffix: str, codec: str, declares: bool, rate: int, channels: int
) -> None:
    """The same, at any rate and number of channels that the codec has."""
    check_as_ffmpeg(tmp_path, suffix, codec, declares, rate, channels)


# Headers and tags: whatever stands around the sound, and whatever is said of its length

_ID3 = b"ID3\4\0\0\0\0\7\x76" + bytes(1014)
_ID3V1 = b"TAG" + b"x" * 125
_APE = b"APETAGEX" + bytes.fromhex("d0070000 2a000000 01000000 00000080") + bytes(18)
_Varied = tuple[str, list[str], list[int], list[list[str]], list[bytes], list[bytes], bool]
_AROUND_MP3 = ([b"", _ID3, _APE], [b"", _ID3V1, _APE])
_CODED = ["pcm_s16le", "pcm_s24le", "pcm_u8", "pcm_f32le", "pcm_alaw", "adpcm_ms", "adpcm_ima_wav"]
_TITLE, _LIVE, _BARE = ["-metadata", "title=x"], [["-live", "1"]], ([b""], [b""], False)
_FRAGMENTS = [["-movflags", "empty_moov+default_base_moof", "-frag_duration", "300000"]]
# Suffix, codecs, rates, options of the program of which some are taken, what may stand in front and behind, joined.
_VARIED: list[_Varied] = [
    *(
        ("mp3", ["libmp3lame"], rates, [["-write_xing", xing], ["-id3v2_version", id3], rate], *_AROUND_MP3, True)
        for rates in ([8000, 16000, 22050], [32000, 44100, 48000])
        for xing in ("0", "1")
        for id3, rate in (("0", ["-b:a", "64k"]), ("3", ["-q:a", "5"]), ("4", ["-b:a", "32k"]))
    ),
    (
        "wav",
        _CODED,
        [8000, 22050, 48000],
        [["-write_bext", "1"], _TITLE],
        [b"", _ID3],
        [b"", _ID3V1, bytes(512)],
        False,
    ),
    ("wav", ["pcm_s16le", "pcm_s24le"], [44100, 96000], [["-rf64", "always"]], [b""], [b"", _ID3V1], False),
    ("flac", ["flac"], [8000, 44100, 96000], [_TITLE], [b"", _ID3], [b"", _ID3V1], False),
    ("ogg", ["libvorbis"], [8000, 44100], [_TITLE], [b""], [b"", _ID3V1], True),
    ("opus", ["libopus"], [48000], [["-frame_duration", "60"]], [b""], [b""], True),
    ("oga", ["flac"], [44100], [], *_BARE),
    ("spx", ["libspeex"], [8000, 16000], [], *_BARE),
    ("m4a", ["aac", "alac"], [16000, 44100], [["-movflags", "faststart"]], *_BARE),
    ("mp4", ["aac"], [44100], _FRAGMENTS, *_BARE),
    ("aac", ["aac"], [16000, 44100], [], [b"", _ID3], [b"", _ID3V1], True),
    ("webm", ["libopus"], [48000], _LIVE, *_BARE),
    ("mka", ["pcm_s16le", "flac", "libvorbis"], [44100], _LIVE, *_BARE),
    ("aiff", ["pcm_s16be", "pcm_s24be"], [22050, 44100], [["-write_id3v2", "1"]], *_BARE),
    ("caf", ["pcm_s16le", "pcm_s24be"], [44100], [], *_BARE),
    ("w64", ["pcm_s16le", "pcm_f32le"], [44100], [], *_BARE),
    ("au", ["pcm_s16be", "pcm_mulaw"], [8000, 44100], [], *_BARE),
    ("mp2", ["mp2"], [32000, 48000], [], [b""], [b"", _ID3V1], True),
    ("ac3", ["ac3"], [44100, 48000], [], [b""], [b""], True),
]


def varied(seed: int, folder: Path) -> Path:
    """A file of drawn kind, length, rate, channels, header and tags."""
    rng = np.random.default_rng([19, seed])
    suffix, codecs, rates, options, fronts, behinds, joins = _VARIED[seed % len(_VARIED)]
    rate, channels = int(rng.choice(rates)), int(rng.integers(1, 3))
    chosen = [word for option in options if suffix == "mp3" or rng.random() < 0.6 for word in option]
    source, made, path = (folder / name for name in ("source.wav", f"made.{suffix}", f"sound.{suffix}"))
    soundfile.write(source, wave(rate, channels, float(rng.uniform(0.5, 3))), rate, subtype="FLOAT")
    ffmpeg("-i", source, "-c:a", codecs[rng.integers(len(codecs))], "-ar", rate, *chosen, made)
    whole = made.read_bytes() * (2 if joins and rng.random() < 0.3 else 1)
    path.write_bytes(fronts[rng.integers(len(fronts))] + whole + behinds[rng.integers(len(behinds))])
    return path


def check_varied(folder: Path, seed: int) -> None:
    path = varied(seed, folder)
    info, heard_s = probe(path), len(read(path, 16000)) / 16000
    expected_s = len(heard_by_ffmpeg(path, info.channels)) / info.sample_rate
    delay_s = 2 * 1152 / info.sample_rate if path.suffix == ".mp3" else 0  # which ffmpeg takes off, if it reads the tag
    packet_s = 2 * 1152 / info.sample_rate  # of which a header may count one more, or one less
    assert heard_s == pytest.approx(expected_s, abs=TOLERANCE_S + delay_s)
    assert info.duration_s == pytest.approx(heard_s, abs=TOLERANCE_S + packet_s)


@needs_ffmpeg
@pytest.mark.parametrize("seed", np.random.default_rng(19).choice(300, 40, replace=False).tolist())
def test_headers_and_tags(tmp_path: Path, seed: int) -> None:
    """With and without a length, with tags around, joined: as long as the program hears it, and none is refused."""
    check_varied(tmp_path, seed)


@needs_ffmpeg
@pytest.mark.soak
@pytest.mark.parametrize("seed", range(300))
def test_headers_and_tags_of_300_files(tmp_path: Path, seed: int) -> None:
    """The same of all three hundred."""
    check_varied(tmp_path, seed)


@needs_ffmpeg
def test_the_encrypted_is_refused(tmp_path: Path) -> None:
    """An encrypted track is called so; noise is not made of it."""
    source, path = tmp_path / "source.wav", tmp_path / "locked.mp4"
    soundfile.write(source, wave(44100, 2), 44100)
    key = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "1" * 32, "-encryption_kid", "2" * 32)
    ffmpeg("-i", source, "-c:a", "aac", *key, path)
    with pytest.raises(AudioError, match="encrypted"):
        read(path, 16000)


@needs_ffmpeg
def test_what_a_browser_streams_is_heard_to_its_end(tmp_path: Path) -> None:
    """WebM and fragmented MP4 whose headers declare no length: the length is that of their packets."""
    source = tmp_path / "source.wav"
    soundfile.write(source, wave(48000, 1, 2.0), 48000)
    webm = ffmpeg("-i", source, "-c:a", "libopus", "-live", 1, "-f", "webm", "-")
    fragments = ("-movflags", "empty_moov+default_base_moof", "-frag_duration", 300000)
    for data in (webm, ffmpeg("-i", source, "-c:a", "aac", *fragments, "-f", "mp4", "-")):
        assert len(read(data, 16000)) == pytest.approx(32000, abs=16000 * TOLERANCE_S)
        assert probe(data).duration_s == pytest.approx(2, abs=TOLERANCE_S)


# From here on without the program: the files are made by PyAV.


@cache
def sample(kind: str) -> bytes:
    """Two seconds of stereo, by a name of ours."""
    sound = [wave(48000, 2, 2.0)]
    return {
        "m4a": lambda: encoded("ipod", "aac", sound),
        "fast": lambda: encoded("mp4", "aac", sound, movflags="faststart"),
        "mp4": lambda: encoded("mp4", "aac", sound, video=True, movflags="faststart"),
        "adts": lambda: encoded("adts", "aac", sound),
        "webm": lambda: encoded("webm", "libopus", sound),
        "mkv": lambda: encoded("matroska", "aac", sound, video=True),
        "avi": lambda: encoded("avi", "libmp3lame", sound, video=True),
        "asf": lambda: encoded("asf", "wmav2", sound, bit_rate=128000),
        "ac3": lambda: encoded("ac3", "ac3", sound),
        "ogg": lambda: encoded("ogg", "libopus", sound),
        "mp2": lambda: encoded("mp2", "mp2", sound),
        "mp3": lambda: encoded("mp3", "libmp3lame", sound, write_xing="0"),
    }[kind]()


KINDS = ("m4a", "fast", "mp4", "adts", "webm", "mkv", "avi", "asf", "ac3", "ogg", "mp2", "mp3")


@pytest.mark.parametrize("kind", KINDS)
def test_whole_or_refused(kind: str) -> None:
    """Law: cut anywhere, a file is refused, unless nothing but what follows the sound is gone. None is shortened."""
    data = sample(kind)
    whole = read(data, 16000)
    assert len(whole) == pytest.approx(32000, abs=16000 * TOLERANCE_S)
    refused = 0
    for share in (0.02, 0.2, 0.5, 0.77, 0.95, 0.99):
        try:
            samples = read(data[: int(len(data) * share) + 7], 16000)
        except AudioError:
            refused += 1
        else:
            assert share > 0.9
            assert len(samples) >= len(whole) - 16000 * TOLERANCE_S
    assert refused >= 4


@pytest.mark.parametrize("kind", ["fast", "webm", "mp3"])
def test_path_bytes_and_file_objects_agree(tmp_path: Path, kind: str) -> None:
    """A path of any name, bytes, an open file, one with short reads and one that cannot seek give the same samples."""
    data = sample(kind)
    path = tmp_path / "named.like a %03d.m3u8"
    path.write_bytes(data)

    class Short(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size, 1000) if size and size > 0 else size)

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    expected = read(data, 16000)
    with open(path, "rb") as file:
        for source in (path, str(path), file, Short(data), Pipe(data)):
            assert np.array_equal(read(source, 16000), expected)  # type: ignore[arg-type]
        assert not file.closed


@pytest.mark.parametrize("kind", ["m4a", "webm"])
def test_a_part_is_the_slice_of_the_whole(kind: str) -> None:
    """A part holds the samples that the whole has there, whatever the blocks; past the end is the end, or refused."""
    data = sample(kind)
    whole = read(data, 48000)
    part = read(data, 48000, 0.5, 1.25)
    assert np.array_equal(part, whole[24000:60000])
    assert np.array_equal(read(data, 48000, 1.0, 99.0), whole[48000:])
    with AudioStream(data, 48000, block_s=0.1) as stream:
        blocks = list(stream)
    assert max(map(len, blocks)) == 4800
    assert np.array_equal(np.concatenate(blocks), whole)
    with pytest.raises(AudioError, match=r"begins at 7\.0 s, but there are 2"):
        read(data, 16000, 7.0)


def test_channels_are_averaged() -> None:
    """Mono of a stereo file is the mean of its channels: of a tone and its opposite, nothing is left."""
    tone = wave(48000, 1)
    data = encoded("matroska", "pcm_s16le", [np.hstack([tone, -tone])])
    assert np.abs(read(data, 48000)).max() <= 1
    assert probe(data).channels == 2


def test_workers_decode_and_probe(tmp_path: Path) -> None:
    """The watched workers give the samples, rates and lengths that this process gets; what is broken has its reason."""
    good, cut = tmp_path / "good.m4a", tmp_path / "cut.m4a"
    good.write_bytes(sample("fast"))
    cut.write_bytes(sample("fast")[:9000])
    with DecodePool(1) as pool:
        (_, samples), (_, refused), (_, part) = pool.map(
            [Job(good, 16000), Job(cut, 16000), Job(sample("webm"), 16000, 0.5, 1.0)]
        )
    assert np.array_equal(samples, read(good, 16000))  # type: ignore[arg-type]
    assert isinstance(refused, AudioError)
    assert "damaged" in refused.reason
    assert len(part) == 8000  # type: ignore[arg-type]
    with decode_pool(1) as pool:
        assert next(iter(pool.stream(good, 16000))) == SourceInfo(48000)
    frame = __import__("polars").DataFrame({"path": [str(good), str(cut)], "size": [1, 1], "mtime_ns": [0, 0]})
    told = Headers(workers=1).probe(frame, decode=True)
    assert told["duration_s"][0] == pytest.approx(2, abs=TOLERANCE_S)
    assert told["fault"][1].startswith("damaged")


# Tracks


def test_tracks_are_named_by_their_number(tmp_path: Path) -> None:
    """The first is heard where none is named; `#track=N` is the Nth; a file that is itself called so comes first."""
    low, high = wave(48000, 1, hertz=300), wave(48000, 1, hertz=900)
    path = tmp_path / "movie.mp4"
    path.write_bytes(encoded("mp4", "aac", [low, high], video=True))
    alone = [read(encoded("mp4", "aac", [each]), 16000) for each in (low, high)]
    for name, expected in ((path, alone[0]), (f"{path}#track=1", alone[0]), (f"{path}#track=2", alone[1])):
        assert np.array_equal(read(name, 16000), expected)
    with pytest.raises(AudioError, match=r"movie\.mp4#track=3: there is no track 3: it has 2 audio tracks"):
        read(f"{path}#track=3", 16000)
    with pytest.raises(AudioError, match="No such file"):
        read(f"{path}.gone#track=2", 16000)
    (tmp_path / "movie.mp4#track=2").write_bytes(encoded("mp4", "aac", [low]))
    assert np.array_equal(read(f"{path}#track=2", 16000), alone[0])
    assert split_track("a#track=0") == ("a#track=0", 1)
    assert split_model([f"{path}#track=9"]) == (None, [f"{path}#track=9"])
    with DecodePool(1) as pool:
        assert "no track 9" in next(pool.map([Job(f"{path}#track=9", 16000)]))[1].reason  # type: ignore[union-attr]


def test_a_video_alone_is_called_so() -> None:
    """A file with pictures and no sound is refused by what it is."""
    with pytest.raises(AudioError, match=r"MP4/QuickTime with a video track only: there is no audio in it"):
        read(encoded("mp4", "aac", [], video=True), 16000)


# What is no sound, and what would reach for other files


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"  <html>" + bytes(500), "an HTML page"),
        (b"%PDF-1.7\n" + bytes(500), "a PDF"),
        (b"PK\3\4" + bytes(500), "an archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "a picture"),
        (b'<?xml version="1.0"?><MPD></MPD>', "XML or JSON"),
        (b'{"error": "gone"}', "XML or JSON"),
        (b"\0\0\0\x18ftypM4A " + bytes(8), "damaged MP4"),
        (b"\x1aE\xdf\xa3" + bytes(60), "damaged Matroska"),
        (b"only words " * 99, "not audio"),
        (bytes(5000), "not audio"),
        (b"\x30\x26\xb2\x75" + bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365"), "not audio"),
    ],
)
def test_what_is_no_sound_is_called_by_its_name(data: bytes, reason: str) -> None:
    """A page, a picture, an archive under the name of a sound: one sentence that says which."""
    with pytest.raises(AudioError, match=reason) as caught:
        read(data, 16000)
    assert "\n" not in caught.value.reason


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        yield server


def test_playlists_reach_for_nothing(tmp_path: Path, listener: socket.socket) -> None:
    """HLS, concat, DASH, SDP that name a file that is there and a server that listens: refused, and nobody calls."""
    target = tmp_path / "target.wav"
    soundfile.write(target, wave(16000, 1), 16000)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts"
    for text in (
        f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{target}'\n",
        f"ffconcat version 1.0\nfile '{url}'\n",
        f'<?xml version="1.0"?><MPD><Period><AdaptationSet><BaseURL>{url}</BaseURL></AdaptationSet></Period></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 96\n",
    ):
        for name in ("list.m3u8", "list.m4a", "list.mpd", "list.sdp", "list.ffconcat", "list%01d.wav"):
            path = tmp_path / name
            path.write_text(text)
            with pytest.raises(AudioError, match="not audio"):
                read(path, 16000)
    with pytest.raises(TimeoutError):
        listener.accept()


# MP3 and Ogg: all of them, or libsndfile's bits


@pytest.mark.parametrize(("format", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_what_libsndfile_hears_whole_keeps_its_bits(format: str, subtype: str) -> None:
    """An intact MP3 with its tag, an Ogg of one stream: the samples are those of libsndfile, to the bit."""
    file = io.BytesIO()
    soundfile.write(file, wave(48000, 2), 48000, format=format, subtype=subtype)
    data = file.getvalue()
    expected, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert np.array_equal(read(data, 16000), from_array(expected, rate, 16000))
    assert probe(data).format == f"{format}/{subtype}"


@pytest.mark.parametrize("rate", [16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("bit_rate", [32000, 64000, 128000])
@pytest.mark.parametrize("tag", ["none", "ID3v1", "ID3v2"])
def test_an_mp3_without_a_length_tag_is_heard_whole(rate: int, bit_rate: int, tag: str) -> None:
    """Any rate, bit rate and tag: neither refused nor shortened, and its length is known without decoding."""
    data = encoded("mp3", "libmp3lame", [wave(rate, 1)], rate, bit_rate=bit_rate, write_xing="0", id3v2_version="0")
    if tag == "ID3v1":
        data += b"TAG" + b"x" * 125
    elif tag == "ID3v2":
        data = b"ID3\4\0\0\0\0\7\x76" + bytes(1014) + data
    lasts = len(read(data, rate)) / rate
    assert 1 <= lasts <= 1 + 3 * 1152 / rate  # the encoder's delay and whole frames
    assert probe(data).duration_s == pytest.approx(lasts, abs=TOLERANCE_S)


def test_files_that_were_joined_are_heard_whole() -> None:
    """MP3s with tags, or Oggs, one after the other last as long as all of them."""
    pairs = [
        [encoded("mp3", "libmp3lame", [wave(48000, 1, seconds)]) for seconds in (1.0, 2.0)],
        [encoded("ogg", "libopus", [wave(48000, 1, seconds)]) for seconds in (1.0, 2.0)],
        [ogg(48000, seconds) for seconds in (1.0, 2.0)],
    ]
    for one, two in pairs:
        for data, lasts in ((one + two, 3), (one + one, 2), (one, 1)):
            assert len(read(data, 16000)) / 16000 == pytest.approx(lasts, abs=0.12)
            assert probe(data).duration_s == pytest.approx(lasts, abs=0.12)


def test_a_change_of_rate_is_refused() -> None:
    """Two Oggs of different rates that were joined have no one rate: refused, not heard at the wrong pitch."""
    with pytest.raises(AudioError, match=r"sample rate changes|decoding stops 1\.00 s"):
        read(ogg(44100, 1.0) + ogg(22050, 1.0), 16000)


def test_an_mp3_inside_a_wav_is_heard() -> None:
    """What libsndfile refuses as truncated, because the header's length is of whole packets."""
    data = encoded("wav", "libmp3lame", [wave(44100, 2)], 44100)
    assert len(read(data, 16000)) == pytest.approx(16000, abs=16000 * 0.1)


def test_a_packet_overwritten_in_the_middle_is_refused() -> None:
    """A packet that cannot be decoded refuses the file: the sound before and after it is not joined."""
    for kind in sorted(set(KINDS) - {"ogg"}):  # libsndfile goes on after a hole in an Ogg
        data = bytearray(sample(kind))
        middle = len(data) // 2
        data[middle : middle + 1500] = b"\xff" * 1500
        with pytest.raises(AudioError, match=r"damaged|truncated"):
            read(bytes(data), 16000)


# Folders and start-up


def test_folders_take_them_in(tmp_path: Path) -> None:
    """Walking a folder finds m4a, webm and the rest, in whatever case."""
    names = sorted(f"tone/{index}{suffix.upper()}" for index, suffix in enumerate(sorted(SUFFIXES)))
    (tmp_path / "tone").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert expand_sources([str(tmp_path)]) == [str(tmp_path / name) for name in names]
    assert read_folders(tmp_path, evaluation_share=0).clip_ids == names


def test_pyav_is_imported_when_it_is_needed() -> None:
    """Neither the command line nor the reading of a WAV imports it."""
    program = (
        "import io, sys, numpy, soundfile, psla.cli, psla.audio.decode as d; f = io.BytesIO();"
        "soundfile.write(f, numpy.zeros(800), 8000, format='WAV'); d.read(f, 8000); print('av' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"
