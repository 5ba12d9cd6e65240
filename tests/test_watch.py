"""Laws of decoding in watched worker processes: a file that kills or stalls its decoder costs one clip."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from psla.audio import decode as audio
from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job, SourceInfo, WorkerError, decode_pool

FAKE = "fake_decoder:decode"


def fake(workers: int = 2, timeout_s: float = 0.4, **more: int) -> DecodePool:
    return DecodePool(workers, timeout_s, decoder=FAKE, **more)


def children() -> set[int]:
    """Processes whose parent this one is, zombies included."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(status.parent.name))
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with fake() as pool:
        yield pool


EXPECTED = {
    "segfault": "the decoder crashed (SIGSEGV)",
    "exit:7": "the decoder crashed (exit code 7)",
    "exit:0": "the decoder crashed (exit code 0)",
    "late-crash": "the decoder crashed (exit code 3)",
    "hang": "the decoder did not answer for 0.4 s",
    "refuse": "no audio",
    "fail": "the decoder failed: KeyError: 'a fault of the decoder'",
}


@settings(max_examples=5)
@given(st.lists(st.sampled_from([*EXPECTED, "good:1", "good:70000", "many:12"]), max_size=14))
def test_exactly_the_bad_clips_fail(pool: DecodePool, names: list[str]) -> None:
    """Crashes, hangs and refusals mixed at random with good clips: each clip gets its own result, in order."""
    results = list(pool.map(Job(name, 16000) for name in names))
    assert [job.path for job, _ in results] == names
    for name, (_, result) in zip(names, results, strict=True):
        if name in EXPECTED:
            assert isinstance(result, AudioError)
            assert (result.path, result.reason) == (name, EXPECTED[name])
        else:
            assert isinstance(result, np.ndarray)
            assert result.dtype == np.int16
            what, value = name.split(":")
            wanted = np.full(int(value), int(value)) if what == "good" else np.repeat(np.arange(int(value)), 1600)
            assert np.array_equal(result, wanted.astype(np.int16))


def test_what_a_decoder_tells_is_no_sound(pool: DecodePool) -> None:
    """What a decoder tells comes as it was told, by `ask`; `map` has the samples alone, a stream has both, in order."""
    jobs = [Job("tell:44100", 16000), Job("refuse", 16000), Job("good:1", 16000)]
    told, refused, silent = (result for _, result in pool.ask(jobs))
    assert (told, silent) == ([{"sample_rate": 44100}], [])
    assert isinstance(refused, AudioError)
    ((_, samples),) = pool.map([Job("tell:7", 16000)])
    assert samples.tolist() == [7, 7]
    *infos, block = pool.stream(b"tell:7", 16000)
    assert infos[-1] == SourceInfo(sample_rate=7)
    assert block.tolist() == [7, 7]


def test_tagging_is_told_the_rate_of_bytes_and_paths(tmp_path: Path) -> None:
    """The pool for tagging tells the source's rate before its samples, for a path as for the bytes of a file."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(44100), 44100)
    with decode_pool(1) as pool:
        for source in (path, str(path), path.read_bytes()):
            info, *blocks = pool.stream(source, 32000)
            assert info == SourceInfo(44100)
            assert sum(map(len, blocks)) == 32000


def test_what_makes_progress_is_not_given_up() -> None:
    """A clip that takes longer than the time limit, but gives a block within it, is decoded; one that spins is not."""
    with fake(timeout_s=0.8) as pool:
        (_, slow), (_, spinning) = pool.map([Job("slow:8", 16000), Job("spin", 16000)])
    assert isinstance(slow, np.ndarray)
    assert len(slow) == 80
    assert isinstance(spinning, AudioError)


def test_a_slow_reader_is_not_a_slow_decoder(pool: DecodePool) -> None:
    """Time in which nobody asks for the next block does not count against the decoder."""
    stream = pool.stream("many:2000", 16000)
    first = next(stream)
    time.sleep(1.0)
    blocks = [first, *stream]
    assert [int(block[0]) for block in blocks] == list(range(2000))


def test_a_stream_stops_where_the_decoder_died(pool: DecodePool) -> None:
    """Streaming gives the blocks before the crash, then the error; the pool serves the next clip as if nothing was."""
    stream = pool.stream("late-crash", 16000)
    assert len(next(stream)) == 10
    with pytest.raises(AudioError, match="late-crash: the decoder crashed"):
        next(stream)
    assert len(b"".join(pool.stream(b"good:3", 16000))) == 6


def test_an_abandoned_stream_gives_its_worker_back() -> None:
    """A stream left in the middle, closed or forgotten, does not keep its worker."""
    with fake(workers=1) as pool:
        for _ in range(2):
            stream = pool.stream("many:100000", 16000)
            next(stream)
            stream.close()  # type: ignore[attr-defined]
        stream = pool.stream("many:100000", 16000)
        next(stream)
        del stream
        gc.collect()
        assert [len(result) for _, result in pool.map([Job("good:5", 16000)])] == [5]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_greedy_file_costs_one_clip() -> None:
    """A decoder that wants more memory than a worker may have is refused it; the worker goes on."""
    with fake(workers=1, memory_bytes=256 << 20) as pool:
        (_, hungry), (_, good) = pool.map([Job("hungry:1000", 16000), Job("good:2", 16000)])
    assert isinstance(hungry, AudioError)
    assert "needs more than the 256 MiB" in hungry.reason
    assert isinstance(good, np.ndarray)


def test_a_clip_longer_than_map_takes_is_refused() -> None:
    """What is handed over whole has a longest length; the sentence says so, and the stream takes it."""
    with DecodePool(1, longest_s=0.25, decoder=FAKE) as pool:
        (_, long), (_, short) = pool.map([Job("many:3", 16000), Job("many:2", 16000)])
        assert sum(map(len, pool.stream("many:3", 16000))) == 4800
    assert isinstance(long, AudioError)
    assert long.reason.startswith("longer than 0.25 s")
    assert isinstance(short, np.ndarray)


def test_a_second_attempt_is_a_new_process(tmp_path: Path) -> None:
    """With two attempts, a worker that something else ended does not cost the clip; one that always dies does."""
    name = f"once:{tmp_path / 'mark'}"
    with fake(workers=1, attempts=2) as pool:
        (_, again), (_, never) = pool.map([Job(name, 16000), Job("exit:1", 16000)])
    assert isinstance(again, np.ndarray)
    assert isinstance(never, AudioError)
    with fake(workers=1, attempts=1) as pool:
        ((_, once),) = pool.map([Job(f"once:{tmp_path / 'other'}", 16000)])
    assert isinstance(once, AudioError)


def test_nonsense_from_a_worker_is_a_crash(pool: DecodePool) -> None:
    """A worker that sends what is no reply is ended; what it prints on stdout is not a reply."""
    (_, babble), (_, printed) = pool.map([Job("babble", 16000), Job("print", 16000)])
    assert isinstance(babble, AudioError)
    assert babble.reason.startswith("the decoder crashed")
    assert isinstance(printed, np.ndarray)


def test_jobs_are_taken_up_as_results_are_handed_out(pool: DecodePool) -> None:
    """An endless list of jobs may be mapped: no more than a few for each worker are read ahead."""
    taken = 0

    def endless() -> Iterator[Job]:
        nonlocal taken
        while True:
            taken += 1
            yield Job("good:1", 16000)

    results = pool.map(endless())
    for count in range(1, 30):
        next(results)
        assert taken <= count + 8
    results.close()  # type: ignore[attr-defined]


def test_threads_share_a_pool(pool: DecodePool) -> None:
    """Several threads that map at once each get their own results."""
    found: dict[int, list[int]] = {}

    def use(size: int) -> None:
        found[size] = [len(result) for _, result in pool.map([Job(f"good:{size}", 16000)] * 20)]

    threads = [threading.Thread(target=use, args=(size,)) for size in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {size: [size] * 20 for size in range(1, 5)}


def end_up_closed(pool: DecodePool) -> None:
    with contextlib.suppress(WorkerError, ValueError):
        list(pool.map([Job("hang", 16000)]))


@needs_proc
def test_nothing_is_left_behind() -> None:
    """After a pool is closed, whatever it was doing, no process of it is left, no zombie either; it says so if used."""
    before = children()
    for leave in ("idle", "streaming", "mapping", "hanging"):
        with fake(timeout_s=30.0) as pool:
            if leave == "streaming":
                stream = pool.stream("many:100000", 16000)
                next(stream)
            elif leave == "mapping":
                results = pool.map([Job("many:1000", 16000)] * 8)
                next(results)
            elif leave == "hanging":
                threading.Thread(target=end_up_closed, args=(pool,), daemon=True).start()
                time.sleep(0.2)
            assert len(children() - before) == 2
        assert children() == before
    with pytest.raises(ValueError, match="closed"):
        next(pool.stream("good:1", 16000))
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def wait_for_end(pids: set[int]) -> bool:
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from psla.audio.pool import DecodePool, Job
with DecodePool(2, 60.0, decoder="fake_decoder:decode") as pool:
    assert [len(r) for _, r in pool.map([Job("good:3", 16000)])] == [3]
    print(*[worker._process.pid for worker in pool._living], flush=True)
    list(pool.map([Job("hang", 16000)]))
"""


@needs_proc
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGINT"])
def test_a_script_from_stdin_and_its_end(signal: str) -> None:
    """A pool works where there is no main module to import; when its process is killed or interrupted, so are they."""
    import signal as signals

    process = subprocess.Popen(
        [sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(SCRIPT.format(folder=str(Path(__file__).parent)).encode())
    process.stdin.close()
    workers = {int(pid) for pid in process.stdout.readline().split()}
    assert len(workers) == 2
    time.sleep(0.2)
    process.send_signal(getattr(signals, signal))
    process.wait(timeout=20)
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    assert wait_for_end(workers)
    assert ("KeyboardInterrupt" in said) == (signal == "SIGINT")


def test_workers_import_little() -> None:
    """What a worker imports before its first job has neither torch nor polars in it."""
    code = (
        "import sys, psla.audio.worker; print(sorted({'torch', 'polars', 'pydantic', 'soundfile'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['soundfile']"


def test_a_worker_that_cannot_start_is_no_clip_error() -> None:
    """A decoder that does not exist is a fault of the caller: an error, not a rejected clip."""
    with DecodePool(1, decoder="no_such_module:decode") as pool, pytest.raises(WorkerError, match="did not start"):
        list(pool.map([Job("good:1", 16000)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers and attempts >= 1"),
        ({"timeout_s": 0.0}, "above 0 seconds"),
        ({"timeout_s": float("nan")}, "above 0 seconds"),
        ({"memory_bytes": 1000}, "128 MiB"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str) -> None:
    """An argument out of range is refused before any process starts."""
    with pytest.raises(ValueError, match=message):
        DecodePool(**arguments)


def test_the_pool_gives_what_the_reader_gives(tmp_path: Path) -> None:
    """Files decoded in workers are those decoded here, to the bit; so are errors, and names that are not UTF-8."""
    noise = np.random.default_rng(0).uniform(-0.7, 0.7, (66150, 2))
    soundfile.write(tmp_path / "a.flac", noise, 44100)
    soundfile.write(tmp_path / "b.wav", noise[:, 0], 16000)
    os.rename(tmp_path / "b.wav", os.fsencode(tmp_path) + b"/\xff.wav")
    (tmp_path / "c.wav").write_text("words")
    (tmp_path / "d.wav").write_bytes(b"")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    file = tmp_path / "a.flac"
    jobs = [Job(file, 16000), Job(str(file), 16000, 0.25, 1.0), Job(odd, 32000), Job(file.read_bytes(), 32000)]
    jobs += [Job(path, 16000) for path in (tmp_path, tmp_path / "c.wav", tmp_path / "d.wav", tmp_path / "none.wav")]
    jobs += [Job(file, 16000, 2.0)]
    with DecodePool(2) as pool:
        results = [result for _, result in pool.map(jobs)]
    good = [audio.read(*job) for job in jobs[:4]]
    assert all(np.array_equal(result, expected) for result, expected in zip(results, good, strict=False))
    for job, result in zip(jobs[4:], results[4:], strict=True):
        with pytest.raises(AudioError) as caught:
            audio.read(*job)
        assert isinstance(result, AudioError)
        assert (result.path, result.reason) == (caught.value.path, caught.value.reason)


def test_a_long_file_is_streamed_in_bounded_memory(tmp_path: Path) -> None:
    """Ten minutes are streamed in blocks of seconds, and are what was written."""
    path = tmp_path / "long.wav"
    second = np.random.default_rng(0).integers(-3000, 3000, 16000).astype(np.int16)
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
        for _ in range(600):
            file.write(second)
    total = check = longest = 0
    with DecodePool(1, memory_bytes=128 << 20) as pool:
        for block in pool.stream(path, 16000):
            total, check, longest = total + len(block), zlib.crc32(block.data, check), max(longest, len(block))
    assert (total, longest) == (600 * 16000, 160000)
    assert check == zlib.crc32(np.tile(second, 600).data)
