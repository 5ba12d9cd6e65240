"""Sources of waveforms: files, spans, soundscapes, arrays, and the cache over them."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from psla.audio import addresses
from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job
from psla.data.clips import Clips
from psla.data.source import ArraySource, CachedSource, JoinedSource, open_source
from psla.data.vocabulary import Vocabulary
from psla.synth.scene import from_uri, synthesise

RATE = 16000


def clips_of(*rows):
    base = {"split": "train", "labels": []}
    return Clips.from_rows([{"clip_id": p, "source": p, "path": p} | base | c for p, c in rows], Vocabulary(["dog"]))


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.arange(RATE, dtype=np.int16), RATE, subtype="PCM_16")
    return str(path)


class Counting(ArraySource):
    """Counts how often each clip is read."""

    def __init__(self, count, samples=10):
        super().__init__(
            [str(i) for i in range(count)], [np.full(samples, i, dtype=np.int16) for i in range(count)], RATE
        )
        self.reads = [0] * count

    def read(self, index):
        self.reads[index] += 1
        return super().read(index)


def test_a_file_is_read_by_its_span(wav):
    """A row with start and end gives exactly those samples; a row without gives the whole file."""
    whole = open_source(clips_of((wav, {})), RATE).read(0)
    part = open_source(clips_of((wav, {"start_s": 0.25, "end_s": 0.5})), RATE).read(0)
    assert whole.tolist() == list(range(RATE))
    assert part.tolist() == list(range(RATE // 4, RATE // 2))


def test_a_table_may_mix_files_and_soundscapes(wav):
    """`open_source` reads each row as its path says."""
    uri = "soundscape://7/3"
    mixed = clips_of((wav, {}), (uri, {}), (uri, {"clip_id": "part", "start_s": 1.0, "end_s": 2.0}))
    source = open_source(mixed, RATE)
    expected = synthesise(*from_uri(uri), RATE)
    assert source.clip_ids == [wav, uri, "part"]
    assert np.array_equal(source.read(0), open_source(clips_of((wav, {})), RATE).read(0))
    assert np.array_equal(source.read(1), expected)
    assert source.read(1).dtype == np.int16
    assert np.array_equal(source.read(2), expected[RATE : 2 * RATE])


def test_every_source_says_its_rate(wav):
    """Files and soundscapes come at the rate that a source was opened with; sources of two rates are not one."""
    table = clips_of((wav, {"start_s": 0.5}), ("soundscape://7/3", {"end_s": 1.0}))
    for rate in (RATE, 32000):
        source = open_source(table, rate, cache_bytes=2**20)
        assert (source.sample_rate, len(source.read(0)), len(source.read(1))) == (rate, rate // 2, rate)
    arrays = [ArraySource([str(rate)], [np.zeros(4, dtype=np.int16)], rate) for rate in (RATE, 32000)]
    assert CachedSource(arrays[1]).sample_rate == 32000
    with pytest.raises(ValueError, match="sources of 16000 and 32000 Hz"):
        JoinedSource(arrays, part=np.array([0, 1]), place=np.array([0, 0]))


def test_a_registered_scheme_is_read(monkeypatch, tmp_path):
    """An address of a further scheme is read by the function named for it, here and in a worker that knows it."""
    (tmp_path / "tape_deck.py").write_text(
        "import numpy as np\n"
        "def read(address, rate, start_s, end_s):\n"
        "    return np.full(rate // 100, int(address.removeprefix('tape://')), np.int16)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(addresses, "READERS", dict(addresses.READERS))
    addresses.register("tape://", "tape_deck:read")
    assert open_source(clips_of(("tape://5", {})), RATE).read(0).tolist() == [5] * 160
    with DecodePool(1) as pool:
        ((_, result),) = pool.map([Job("tape://6", 32000)])
    assert result.tolist() == [6] * 320
    with pytest.raises(ValueError, match="a scheme ends in"):
        addresses.register("tape", "tape_deck:read")


def test_a_malformed_soundscape_is_an_audio_error():
    """An address that is no soundscape's is an AudioError with the address as its path."""
    with pytest.raises(AudioError) as caught:
        open_source(clips_of(("soundscape://nowhere", {})), RATE).read(0)
    assert caught.value.path == "soundscape://nowhere"


def test_a_file_that_cannot_be_read_says_which(tmp_path):
    """A missing and a broken file raise AudioError with their path."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not audio")
    source = open_source(clips_of((str(broken), {}), (str(tmp_path / "none.wav"), {})), RATE)
    for index in range(2):
        with pytest.raises(AudioError) as caught:
            source.read(index)
        assert caught.value.path == source.clip_ids[index]


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_is_refused(index, wav):
    """Indices run from 0 to len - 1; a negative one does not count from the end."""
    arrays = ArraySource(["a", "b"], [np.zeros(4, dtype=np.int16)] * 2, RATE)
    for source in (arrays, CachedSource(arrays), open_source(clips_of((wav, {}), (wav, {"clip_id": "b"})), RATE)):
        with pytest.raises(IndexError, match=r"clips 0 \.\. 1"):
            source.read(index)


def test_the_cache_keeps_what_fits_and_changes_nothing():
    """With room for two clips of three, two are read once and the third each time; the waveforms are the source's."""
    inner = Counting(3)
    cached = CachedSource(inner, limit_bytes=45)
    for _ in range(3):
        for index in range(3):
            assert np.array_equal(cached.read(index), np.full(10, index))
    assert inner.reads == [1, 1, 3]
    assert cached.used_bytes == 40
    assert (len(cached), cached.clip_ids) == (3, inner.clip_ids)


def test_a_reader_cannot_spoil_the_cache():
    """A waveform from the cache is read-only, and the source's own array is not made so."""
    inner = Counting(1)
    waveform = CachedSource(inner).read(0)
    with pytest.raises(ValueError, match="read-only"):
        waveform[0] = 1
    inner.read(0)[0] = 1


def test_threads_share_the_cache():
    """Many threads at once get the right waveforms, and the count of bytes stays that of what is kept."""
    cached = CachedSource(Counting(8), limit_bytes=100)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(cached.read, [i % 8 for i in range(400)]))
    assert all((waveform == i % 8).all() for i, waveform in enumerate(got))
    assert cached.used_bytes == 100


def test_a_cache_goes_to_a_worker_empty():
    """A pickled cache keeps its source and limit, and none of its waveforms."""
    cached = CachedSource(ArraySource(["a"], [np.ones(4, dtype=np.int16)], RATE), limit_bytes=9)
    cached.read(0)
    again = pickle.loads(pickle.dumps(cached))
    assert (again.used_bytes, again.limit_bytes, again.read(0).tolist()) == (0, 9, [1, 1, 1, 1])


def test_arrays_must_be_waveforms():
    """Arrays of another type, shape or number than the ids are refused by name."""
    with pytest.raises(ValueError, match=r"clip 'a' is float64 \(3,\), must be int16"):
        ArraySource(["a"], [np.zeros(3)], RATE)
    with pytest.raises(ValueError, match="2 clip ids but 0 arrays"):
        ArraySource(["a", "b"], [], RATE)
    with pytest.raises(ValueError, match="limit_bytes is -1"):
        CachedSource(Counting(1), limit_bytes=-1)
