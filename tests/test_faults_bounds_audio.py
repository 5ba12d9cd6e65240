"""Kind 7 of the faults from the field, of sound: no bound.

Law: every read has a limit of time, size and depth; silence costs what decoding costs; who waits is told; one source
that holds nothing does not cost the others; what is damaged is never a shorter recording.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psla.audio import pipes
from psla.audio.decode import AudioError, probe, read
from psla.audio.ogg_pages import look
from psla.audio.pipes import Spool
from psla.audio.pool import decode_pool
from psla.tagging.batch import tag_groups
from psla.tagging.job import TagJob
from psla.tagging.output import RowSettings
from psla.tagging.sources import SourcesError, expand_sources
from psla.tagging.tagger import Tagger
from sound_files import encoded, ogg, ogg_pages, wave
from tagging_models import WINDOW, noise, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
posix = pytest.mark.skipif(os.name != "posix", reason="named pipes are those of POSIX")


# Ogg, flipped and cut


def oggs() -> dict[str, bytes]:
    return {"vorbis": ogg(44100, 3.0), "opus": encoded("ogg", "libopus", [wave(48000, 1, 3.0)])}


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_a_flipped_bit_in_an_ogg_is_found(kind: str) -> None:
    """Any one bit, in heads, tables and bodies: refused; never a shorter or another recording."""
    data, rng = oggs()[kind], np.random.default_rng(0)
    for bit in rng.choice(len(data) * 8, 24, replace=False):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        for function in (lambda source: read(source, 16000), probe):
            with pytest.raises(AudioError):
                function(bytes(flipped))


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_every_flipped_bit_of_an_ogg_is_found(kind: str) -> None:
    """All of them, of a short one."""
    data = ogg(8000, 0.3) if kind == "vorbis" else encoded("ogg", "libopus", [wave(48000, 1, 0.3)])
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = look(io.BytesIO(flipped), "")
        except AudioError:
            continue
        assert found is None  # no Ogg any more, and refused as that


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_a_cut_ogg_is_refused_or_flagged(kind: str) -> None:
    """Cut at any byte; between two pages it may be whole, and is flagged as unfinished."""
    data, tagger = oggs()[kind], Tagger(tiny_model(mel_bins=32))
    places = {sum(map(len, ogg_pages(data)[:count])) for count in range(len(ogg_pages(data)))}
    for place in [*np.linspace(30, len(data) - 1, 12).astype(int), *sorted(places)[-2:]]:
        try:
            found = tagger.tag(data[:place])
        except AudioError:
            continue
        assert place in places
        assert "unfinished" in found.flags


def test_a_long_chain_of_oggs_is_walked_once() -> None:
    """Two hundred recordings, one behind the other: the pages are read in one pass, of any size."""
    data = ogg(8000, 0.1) * 200
    found = look(io.BytesIO(data), "")
    assert found is not None
    assert found.joined
    assert len(found.parts) == 200
    assert found.parts[-1][1] == len(data)


# Silence


class Counting(Tagger):
    """Counts the windows that go into the network."""

    heard = 0

    def _said(self, windows, embed):
        self.heard += len(windows)
        return super()._said(windows, embed)


def test_silence_is_heard_once(tmp_path: Path) -> None:
    """However long: one window of each length goes through the network, and the result is that of all of them."""
    plain, counting = Tagger(tiny_model(mel_bins=32)), Counting(tiny_model(mel_bins=32))
    silence = np.zeros(WINDOW * 30 + 777, np.int16)
    found = counting.tag(silence, 16000)
    assert counting.heard == 2  # a whole one, and the rest
    expected = [plain.tag(part, 16000) for part in (silence[:WINDOW], silence[:777])]
    mean = (30 * WINDOW * expected[0].clip_probabilities + 777 * expected[1].clip_probabilities) / len(silence)
    assert np.allclose(found.clip_probabilities, mean, atol=1e-6)
    assert found.flags == ("silent",)
    assert found.windows == 31


def test_silence_between_sounds_changes_nothing(tmp_path: Path) -> None:
    """What was heard before does not go into what is heard now: every result is to the bit that of a fresh tagger."""
    mixed = np.concatenate([noise(WINDOW), np.zeros(2 * WINDOW, np.int16), noise(WINDOW, 1), np.zeros(3000, np.int16)])
    used = Tagger(tiny_model(mel_bins=32))
    used.tag(np.zeros(WINDOW, np.int16), 16000)
    for embed in (True, False):
        fresh = Tagger(tiny_model(mel_bins=32))
        one, other = (each._tag(mixed, 16000, embed) for each in (used, fresh))
        assert np.array_equal(one.clip_probabilities, other.clip_probabilities)
        assert np.array_equal(one.frames, other.frames)
        if embed:
            assert np.array_equal(one.embedding.steps, other.embedding.steps)  # type: ignore[union-attr]


def test_who_waits_is_told(tmp_path: Path) -> None:
    """How far a long file is, is told after each batch, in its order and up to its end."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(WINDOW * 40, np.int16), 16000)
    told: list[tuple[str, float]] = []
    tagger = Tagger(tiny_model(mel_bins=32))
    with decode_pool(1) as pool:
        groups = tag_groups(tagger, [str(path)], pool, heard=lambda *each: told.append(each))
        ((file,),) = list(groups)
    assert file.result is not None
    assert {name for name, _ in told} == {str(path)}
    seconds = [at for _, at in told]
    assert seconds == sorted(seconds)
    assert len(seconds) == 5
    assert seconds[-1] == pytest.approx(file.result.duration_s)


@posix
def test_a_terminal_shows_how_far_a_long_file_is(tmp_path: Path) -> None:
    """On standard error alone; rows stay on standard output, and nothing is shown where that is no terminal."""
    import pty

    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(8000 * 1500, np.int16), 8000)
    command = [sys.executable, "-m", "psla", "tag", "esc10-lite0", str(path), "--quiet", "--csv", "--top", "1"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, stdin=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # how Linux tells that nobody writes there any more
            pass
        assert process.stdout is not None
        rows = process.stdout.read().decode()
    os.close(ours)
    assert process.returncode == 0
    assert "0 h 2" in shown.decode()
    assert " min heard of " in shown.decode()
    assert [line.split(",")[1] for line in rows.splitlines()[1:]] == ["tagged"]


# Sources


def test_an_empty_folder_does_not_cost_the_others(tmp_path: Path) -> None:
    """Among files an empty folder, one without sounds and a pattern for nothing are rows that failed, each by name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    soundfile.write(tmp_path / "a.wav", noise(9000), 16000)
    names = ["empty", "a.wav", "texts", "*.gone"]
    paths = expand_sources(str(tmp_path / name) for name in names)
    assert paths == [str(tmp_path / name) for name in names]
    with decode_pool(1) as pool:
        rows = list(TagJob(Tagger(tiny_model(mel_bins=32)), "", RowSettings()).rows(paths, pool))
    assert [row["status"] for row in rows] == ["failed", "tagged", "failed", "failed"]
    assert "an empty folder" in rows[0]["error"]
    assert "a folder" in rows[2]["error"]
    for alone in (names[:1], [names[0], names[2]], names[3:]):
        with pytest.raises(SourcesError, match=r"without sound files|no file matches"):
            expand_sources(str(tmp_path / name) for name in alone)


@posix
def test_a_pipe_into_which_nobody_writes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a bounded time; so is one that stalls, and one that does not end."""
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    monkeypatch.setattr(pipes, "_UNOPENED_S", 0.2)
    monkeypatch.setattr(pipes, "_WAIT_S", 0.2)
    with (
        Spool() as spool,
        pytest.raises(AudioError, match=r"pipe\.wav: a pipe: nothing was written into it within 0\.2 s"),
    ):
        spool.file_of(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)
    os.write(writer, b"RIFF")
    with Spool() as spool, pytest.raises(AudioError, match="nothing more came within"):
        spool.file_of(f"/dev/fd/{reader}")
    monkeypatch.setattr(pipes, "MOST_BYTES", 1000)
    os.write(writer, bytes(2000))
    with Spool() as spool, pytest.raises(AudioError, match="does not end within"):
        spool.file_of(f"/dev/fd/{reader}")
    os.close(reader)
    os.close(writer)


@posix
def test_a_device_is_refused_before_it_is_read() -> None:
    """/dev/zero has no end, and is no file."""
    for name in ("/dev/zero", "/dev/null"):
        with pytest.raises(AudioError, match="a device, not a sound file"):
            read(name, 16000)


@posix
def test_the_copy_of_a_pipe_goes_with_the_spool(tmp_path: Path) -> None:
    """Read twice it is one copy; closed, nothing is left."""
    reader, writer = os.pipe()
    os.write(writer, b"RIFF")
    os.close(writer)
    with Spool() as spool:
        copy = Path(spool.file_of(f"/dev/fd/{reader}"))
        assert copy.read_bytes() == b"RIFF"
        assert spool.file_of(f"/dev/fd/{reader}") == str(copy)
    assert not copy.exists()
    assert not copy.parent.exists()
    os.close(reader)
