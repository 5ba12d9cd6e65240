"""Kind 5 of the faults from the field: words and flags that are untrue.

Law: what no decoder reads is named for what it is, by its first bytes; a flag says what is so; what stands for a
recording elsewhere (a pipe, a pattern, a tensor, a pair) is one here, or is refused in one true sentence.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from psla.audio.decode import AudioError, from_array, probe, read
from psla.audio.given import sound_of
from psla.cli import app
from psla.tagging.sources import SourcesError, expand_sources, split_model
from psla.tagging.tagger import Tagger
from sound_files import chunk, encoded, fmt, ogg, wav, wave, written
from tagging_models import noise, tiny_model, tiny_model_file
from test_containers import ffmpeg, needs_ffmpeg

pytestmark = pytest.mark.usefixtures("one_thread")
posix = pytest.mark.skipif(os.name != "posix", reason="named pipes and signals are those of POSIX")


# What no decoder reads is named, and what one reads is heard


@needs_ffmpeg
@pytest.mark.parametrize("how", ["as it is", "bytes swapped", "with its own code", "a .wav of nothing else"])
def test_dts_inside_a_wav_is_heard(tmp_path: Path, how: str) -> None:
    """Passed off as samples of 16 bits it is decoded; nobody hears its bytes as noise."""
    source, made = tmp_path / "source.wav", tmp_path / "made.dts"
    soundfile.write(source, wave(44100, 2, 2.0), 44100)
    ffmpeg("-i", source, "-c:a", "dca", "-strict", -2, made)
    data = made.read_bytes()
    swapped = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()
    file = {
        "as it is": wav(fmt(channels=2), chunk(b"data", data)),
        "bytes swapped": wav(fmt(channels=2), chunk(b"data", swapped)),
        "with its own code": wav(fmt(0x2001, 2), chunk(b"data", data)),
        "a .wav of nothing else": data,
    }[how]
    samples = read(file, 16000)
    assert len(samples) == pytest.approx(32000, abs=800)
    assert np.abs(samples).max() < 0.5 * 32768
    assert probe(file).format.endswith("dca")


@needs_ffmpeg
def test_ac3_for_spdif_inside_a_wav_is_heard(tmp_path: Path) -> None:
    """IEC 61937, as receivers record it."""
    source, made = tmp_path / "source.wav", tmp_path / "made.spdif"
    soundfile.write(source, wave(48000, 2, 2.0), 48000)
    ffmpeg("-i", source, "-c:a", "ac3", "-f", "spdif", made)
    data = wav(fmt(channels=2, rate=48000), chunk(b"data", made.read_bytes()))
    assert len(read(data, 16000)) == pytest.approx(32000, abs=800)
    assert probe(data).format == "WAV/ac3"


def test_samples_that_look_like_a_sync_word_are_samples() -> None:
    """A few words of DTS among samples make no DTS; they must come as often as frames do."""
    samples = np.frombuffer(noise(44100).tobytes(), "<i2").copy()
    for place in (100, 900, 5000):
        samples[place : place + 2] = np.frombuffer(b"\xfe\x7f\x01\x80", "<i2")
    assert np.array_equal(read(wav(fmt(), chunk(b"data", samples.tobytes())), 44100), samples)


@needs_ffmpeg
def test_speex_is_heard(tmp_path: Path) -> None:
    """libsndfile calls it an unspecified error."""
    source, made = tmp_path / "source.wav", tmp_path / "made.spx"
    soundfile.write(source, wave(16000, 1, 2.0), 16000)
    ffmpeg("-i", source, "-c:a", "libspeex", made)
    assert len(read(made, 16000)) == pytest.approx(32000, abs=800)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"<!-- saved -->\n<html>" + bytes(500), "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a pointer of Git LFS"),
        (b"Salted__" + bytes(range(200)), "encrypted"),
        (b"-----BEGIN PGP MESSAGE-----\n" + bytes(100), "encrypted"),
        (b"\0\0\0\x1cftypaax \0\0\0\1" + bytes(range(100)), "encrypted"),
        (bytes(44100), "all its bytes are zero"),
        (b"DSD " + bytes(range(200)), "DSD, which no decoder here reads"),
        (b"#!SILK_V3" + bytes(range(200)), "SILK, which no decoder here reads"),
        (b"BZh9" + bytes(range(200)), "an archive"),
        (b"MZ" + bytes(200), "a program"),
        (b"ID3\4\0\0\0\0\0\x14" + bytes(20), "an ID3 tag, and nothing behind it"),
        (b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(20), "ID3 tag ends behind the end"),
    ],
)
def test_what_is_no_sound_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    """By what its first bytes say, whatever its name."""
    path = tmp_path / "named.wav"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=reason) as caught:
        read(path, 16000)
    assert "\n" not in caught.value.reason


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["m4a", "ogg", "opus", "flac", "mp3", "webm", "mka", "wav", "aiff"])
def test_an_empty_container_is_called_empty(tmp_path: Path, suffix: str) -> None:
    """A recording that was stopped at once: not damaged, not no audio, but without samples."""
    source, made = tmp_path / "source.wav", tmp_path / f"made.{suffix}"
    soundfile.write(source, wave(48000, 1), 48000)
    ffmpeg("-i", source, "-t", 0, *(("-c:a", "libopus") if suffix in ("ogg", "webm") else ()), made)
    with pytest.raises(AudioError, match=r"holds no samples|there is no audio in it"):
        read(made, 16000)


def test_a_video_without_sound_is_called_so() -> None:
    """Its pictures are not looked for sound."""
    with pytest.raises(AudioError, match="with a video track only"):
        read(encoded("matroska", "aac", [], video=True), 16000)


# Flags


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(tiny_model(mel_bins=32))


def flags(tagger: Tagger, samples: np.ndarray, rate: int = 44100, suffix: str = "WAV") -> set[str]:
    """Of the array, which the file agrees with."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=suffix, subtype="FLOAT")
    found = set(tagger.tag(file.getvalue()).flags)
    assert found == set(tagger.tag(samples, rate).flags)
    return found & {"silent", "cancelled"}


def test_anti_phase_is_not_silent(tagger: Tagger) -> None:
    """Two channels that cancel are flagged as that; a quiet one, or one channel of several, is neither."""
    tone = wave(44100, 1)
    assert flags(tagger, np.hstack([tone, -tone])) == {"cancelled"}
    assert flags(tagger, np.hstack([tone, -0.99 * tone])) == {"cancelled"}
    assert flags(tagger, np.hstack([tone, tone])) == set()
    assert flags(tagger, np.hstack([tone, 0 * tone])) == set()
    assert flags(tagger, np.hstack([tone, *[0 * tone] * 7])) == set()
    assert flags(tagger, np.hstack([tone, -tone]) / 1000) == {"silent"}


def test_a_constant_is_silent(tagger: Tagger) -> None:
    """Whatever its value and rate, and where two channels have different ones; a tone on it is not."""
    constant = np.full((44100, 1), 0.4, np.float32)
    assert flags(tagger, constant) == {"silent"}
    assert flags(tagger, constant, 16000) == {"silent"}
    assert flags(tagger, np.hstack([constant, -0.5 * constant])) == {"silent"}
    assert flags(tagger, constant + 0.1 * wave(44100, 1)) == set()
    assert flags(tagger, np.zeros((44100, 2), np.float32)) == {"silent"}


def test_many_files_get_the_flags_of_one(tagger: Tagger, tmp_path: Path) -> None:
    """Through the workers as in this process."""
    tone = wave(44100, 1)
    soundfile.write(tmp_path / "a.wav", np.hstack([tone, -tone]), 44100)
    soundfile.write(tmp_path / "b.wav", np.full(44100, 0.4), 44100)
    (tmp_path / "c.ogg").write_bytes(ogg(44100, 2.0)[:-400])
    found = list(tagger.tag_files(str(tmp_path), workers=1))
    assert [file.result.flags[0] if file.result else file.reason[:9] for file in found] == [
        "cancelled",
        "silent",
        "truncated",
    ]


# Arrays, and what other libraries hand over


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("whole", [True, False])
def test_floats_at_the_scale_of_integers_are_refused(tagger: Tagger, dtype: type, whole: bool) -> None:
    """Neither clipped in silence nor heard as something else: an array and a WAV of floats alike."""
    samples = noise(16000).astype(dtype) * (1 if whole else 0.9137)
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV", subtype="FLOAT" if dtype is np.float32 else "DOUBLE")
    for call in (
        lambda: from_array(samples, 16000, 16000),
        lambda: tagger.tag(samples, 16000),
        lambda: read(file, 16000),
    ):
        with pytest.raises(AudioError, match=r"full scale is 1, and these look like integers; divide them by 32768"):
            call()
    quiet = np.array([0, 1, 2, 1, 0, -1, -2] * 100, dtype)
    with pytest.raises(AudioError, match="whole numbers"):
        from_array(quiet, 16000, 16000)
    assert np.abs(from_array(samples / 32768, 16000, 16000)).max() < 8001
    clipping = np.array([0.5, -1.2, 1.3, 40.0] + [0.1] * 60, dtype)
    assert from_array(clipping, 16000, 16000)[:4].tolist() == [16384, -32768, 32767, 32767]


def test_what_stands_for_a_recording_elsewhere(tagger: Tagger, tmp_path: Path) -> None:
    """Tensor, list, Path, pairs of either order, Hugging Face's dicts: all give what the array gives, to the bit."""
    samples = wave(16000, 1)[:, 0]
    expected = tagger.tag(samples, 16000)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    tensor = torch.tensor(samples, requires_grad=True)
    column = {"array": samples, "sampling_rate": 16000, "path": "a.wav"}
    for given in (
        *(path, str(path), path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes())),
        *((samples, 16000), (16000, samples), [samples, 16000], (tensor, 16000), (tensor[None], np.int64(16000))),
        *(column, {"array": samples.tolist(), "sampling_rate": 16000}, {"array": tensor, "sampling_rate": 16000}),
        *({"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}),
    ):
        assert np.array_equal(tagger.tag(given).clip_probabilities, expected.clip_probabilities)
    for given in (tensor, tensor[None], samples.tolist(), tuple(samples.tolist()), samples[:, None]):
        assert np.array_equal(tagger.tag(given, 16000).clip_probabilities, expected.clip_probabilities)
    stereo = {"array": np.stack([samples, samples]), "sampling_rate": 16000}  # (channels, samples), as librosa has it
    assert np.array_equal(tagger.tag(stereo).clip_probabilities, expected.clip_probabilities)
    assert sound_of(torch.zeros(4, dtype=torch.bfloat16))[0].dtype == np.float32  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "rate", "reason"),
    [
        (None, None, "NoneType is no recording"),
        (5, None, "int is no recording"),
        (["a.wav", "b.wav"], None, "list of str is no recording.*tag_files"),
        ([Path("a.wav")], None, "list of .*Path is no recording"),
        ([], 16000, "empty|shape"),
        ([[0.0, 0.1], [0.2]], 16000, "no array"),
        ({}, None, "nothing in it"),
        ({"text": "dog"}, None, "dict with 'text' is no recording"),
        ((np.zeros(9), 16000), 8000, "16000 Hz, but 8000 Hz"),
        (np.zeros(16000), None, "give its sample_rate"),
        ([0.0] * 100, None, "give its sample_rate"),
        (torch.zeros(16000, dtype=torch.uint8), 16000, "float, int16 or int32, not uint8"),
        ([1, 2, 3], 16000, "float, int16 or int32, not int64"),
        ({"array": np.zeros(16000), "sampling_rate": 5}, None, "sampled at 5 Hz"),
    ],
)
def test_what_is_no_recording_is_refused(tagger: Tagger, given: object, rate: int | None, reason: str) -> None:
    """One sentence that says what it is and what is wanted; never an AttributeError."""
    with pytest.raises(ValueError, match=reason) as caught:
        tagger.tag(given, rate)
    assert "\n" not in str(caught.value)


# Names and pipes


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    """`rec [2023]/*.wav`: what is there under its own name is meant by it; else it is a pattern."""
    for name in ("rec [2023]/a.wav", "rec [2023]/deep [x]/b.wav", "rec 2/c.wav", "a[1].wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = {
        "rec [2023]/*.wav": ["rec [2023]/a.wav"],
        "rec [2023]/**/*.wav": ["rec [2023]/a.wav", "rec [2023]/deep [x]/b.wav"],
        "rec [2023]/deep [x]/?.wav": ["rec [2023]/deep [x]/b.wav"],
        "rec [2023]": ["rec [2023]/a.wav", "rec [2023]/deep [x]/b.wav"],
        "rec [0-9]/*.wav": ["rec 2/c.wav"],
        "a[1].wav": ["a[1].wav"],
    }
    for pattern, names in found.items():
        assert expand_sources([f"{tmp_path}/{pattern}"]) == [f"{tmp_path}/{name}" for name in names]
    with pytest.raises(SourcesError, match="no file matches"):
        expand_sources([f"{tmp_path}/rec [2023]/*.flac"])
    assert split_model(["-"]) == (None, ["-"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("words")
    tiny_model_file(home, mel_bins=32)
    soundfile.write(home / "a.wav", noise(16000), 16000)
    return home


def shell(home: Path, script: str, code: int = 0) -> str:
    """What a script for bash prints in which `tag` is the command."""
    command = f'tag() {{ "{sys.executable}" -m psla tag model.safetensors "$@" --quiet --csv --top 1; }}\n{script}'
    done = subprocess.run(["bash", "-c", command], cwd=home, capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@posix
def test_pipes_are_heard(home: Path) -> None:
    """Standard input from a pipe and from a file, /dev/stdin, `<(...)`, twice the same: as the file they come from."""
    said = shell(home, "tag a.wav <(cat a.wav) - /dev/stdin < <(cat a.wav)")
    rows = [line.split(",") for line in said.splitlines()[1:]]
    assert [row[0].split("/")[-1].isdigit() or row[0] for row in rows[:4]] == ["a.wav", True, "-", "/dev/stdin"]
    assert rows[0][1:] == rows[1][1:] == rows[2][1:] == rows[3][1:]  # standard input is read once, for both its names


@posix
def test_what_comes_by_a_pipe_and_is_no_sound_is_named_so(home: Path, tagger: Tagger) -> None:
    """Empty, closed, a page of HTML: the sentence is true, and calls the pipe by the name that was given."""
    reader, writer = os.pipe()
    os.write(writer, b"<html>gone</html>")
    os.close(writer)
    with pytest.raises(AudioError, match=f"/dev/fd/{reader}: not audio, but an HTML page"):
        tagger.tag(f"/dev/fd/{reader}")
    with pytest.raises(AudioError, match="an empty file"):
        tagger.tag(f"/dev/fd/{reader}")
    os.close(reader)
    with pytest.raises(AudioError, match=f"/dev/fd/{reader}: cannot be opened: Bad file descriptor"):
        tagger.tag(f"/dev/fd/{reader}")
    with open(home / "a.wav", "rb") as file:  # redirected: read from its beginning, wherever it stands
        file.read(100)
        found = tagger.tag(f"/dev/fd/{file.fileno()}")
    assert np.array_equal(found.clip_probabilities, tagger.tag(home / "a.wav").clip_probabilities)


@posix
def test_a_named_pipe_is_heard(home: Path, tagger: Tagger, tmp_path: Path) -> None:
    """By Python, too; in a table it is refused, not waited for."""
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: pipe.write_bytes((home / "a.wav").read_bytes()))
    thread.start()
    found = tagger.tag(pipe)
    thread.join()
    assert np.array_equal(found.clip_probabilities, tagger.tag(home / "a.wav").clip_probabilities)
    for call in (lambda: read(pipe, 16000), lambda: probe(pipe)):
        with pytest.raises(AudioError, match="a named pipe, not a sound file"):
            call()


@posix
def test_a_reader_who_has_enough_is_no_failure(home: Path) -> None:
    """`| head`: the code is that of a program that SIGPIPE ends, not that of files that failed; nothing is said."""
    many = "for i in $(seq 120); do ln -sf a.wav $i.wav; done; tag ?.wav ??.wav ???.wav"
    assert shell(home, f"{many} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}", 141) == ""


# Embeddings


def test_embeddings_tell_names_with_line_ends_apart(home: Path, tmp_path: Path) -> None:
    """Each name is found by where it begins and ends, whatever is in it."""
    names = ["a\nb.wav", "c.wav", "\n.wav"]
    for name in names:
        soundfile.write(tmp_path / name, noise(9000), 16000)
    paths, out = [str(tmp_path / name) for name in names], tmp_path / "e.safetensors"
    args = ["tag", str(home / "model.safetensors"), *paths, "--embeddings", str(out), "--quiet"]
    assert CliRunner().invoke(app, args).exit_code == 0
    arrays = load_file(out)
    text = arrays["paths"].tobytes()
    assert [text[begin:end].decode() for begin, end in arrays["path_spans"]] == paths
    assert text.decode() == "\n".join(paths)


def test_written_files_are_those_of_the_makers() -> None:
    """What these tests are made of can be read."""
    assert len(read(written("WAV"), 44100)) == 44100


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"path,labels\na.wav,dog\n" * 9, "not audio, but text"),
        ("\ufeff" + "caf\u00e9 " * 2000, "not audio, but text"),
        ("hello there\n".encode("utf-16"), "not audio, but text"),
        (b"\xef\xbb\xbf<!doctype html>\n<html>", "an HTML page"),
        (b"d8:announce30:http://x" + bytes(100), "there is no frame of an MP3 in it|Format not recognised"),
        (b"RIFF\x20\0\0\0RMIDdata" + bytes(50), "MIDI"),
        (b"Extended Module: " + bytes(500), "a music module"),
        (b"\0\0\0\x18ftypheic" + bytes(200), "a picture"),
        (b"/annex/objects/SHA256E-s5--abc.wav\n", "a pointer of git-annex"),
        (b"\x93NUMPY\1\0v\0" + bytes(300), "arrays or tables"),
        (b"a.wav" + bytes(252) + b"ustar\x0000" + bytes(1000), "an archive"),
        (b"\xaa" * 5000, "not audio, libsndfile says|no frame of an MP3"),
    ],
)
def test_more_that_is_no_sound_is_named(tmp_path: Path, data: bytes | str, reason: str) -> None:
    """Whatever its name ends in: of .mp3 the library says that there is no such file."""
    data = data.encode() if isinstance(data, str) else data
    for suffix in ("wav", "mp3"):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(data)
        with pytest.raises(AudioError, match=reason) as caught:
            read(path, 16000)
        assert "does not exist" not in str(caught.value)


@pytest.mark.parametrize("rate", [float("inf"), 1e300, "16000", True])
def test_a_rate_that_is_none_is_refused(tagger: Tagger, rate: object) -> None:
    """At once: resampling from an infinite rate would not end."""
    with pytest.raises(ValueError, match=r"the sample rate must be"):
        tagger.tag(noise(16000), rate)  # type: ignore[arg-type]


def test_tensors_without_values_are_refused(tagger: Tagger) -> None:
    """Of the device `meta`, and sparse."""
    for tensor in (torch.empty(16000, device="meta"), torch.ones(16).to_sparse()):
        with pytest.raises(ValueError, match="give a dense one"):
            tagger.tag(tensor, 16000)
