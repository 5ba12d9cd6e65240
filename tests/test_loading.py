"""Laws of the loader: every clip of the plan once, the same bits from anywhere on, broken clips left out and named."""

import threading
import time
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psla.audio.decode import AudioError
from psla.data.source import ArraySource
from psla.techniques.sampling import EpochPlan
from psla.training.loader import Batch, Loader

LIMIT = 40


def waves(count: int, seed: int = 0) -> list[np.ndarray]:
    """Clips of 0 to 59 samples, none of them all zero but the empty ones."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 30_000, generator.integers(0, 60), dtype=np.int16) for _ in range(count)]


def source_of(count: int) -> ArraySource:
    return ArraySource([f"c{i}" for i in range(count)], waves(count), 16000)


class Broken(ArraySource):
    """Some clips cannot be read."""

    def __init__(self, count: int, broken: Iterable[int]) -> None:
        super().__init__([f"c{i}" for i in range(count)], waves(count), 16000)
        self.broken = set(broken)

    def read(self, index: int) -> np.ndarray:
        if index in self.broken:
            raise AudioError(f"c{index}.wav", "is broken")
        return super().read(index)


def plan_of(count: int, rate: float = 0.6, seed: int = 0) -> EpochPlan:
    return EpochPlan(count, rate, 10.0, seed, 0)


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ("positions", "rows_first", "rows_second"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("first", "second", "first_lengths", "second_lengths", "share"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert a.global_count == b.global_count


def assert_right(batch: Batch, plan: EpochPlan, clips: list[np.ndarray], broken: set[int]) -> None:
    """A batch against the definition, clip by clip."""
    width = max((min(len(clips[row]), LIMIT) for row in batch.rows_first), default=0)
    assert batch.first.shape == batch.second.shape == (len(batch), width)
    assert batch.first.dtype == batch.second.dtype == torch.int16
    assert batch.first.is_contiguous()
    for i, position in enumerate(batch.positions):
        row, other = int(plan.first[position]), int(plan.second[position])
        other = -1 if other in broken else other
        assert (batch.rows_first[i], batch.rows_second[i]) == (row, other)
        assert batch.share[i] == (plan.share[position] if other >= 0 else 1.0)
        none = np.zeros(0, dtype=np.int16)
        for tensor, lengths, wave in (
            (batch.first, batch.first_lengths, clips[row][:LIMIT]),
            (batch.second, batch.second_lengths, clips[other][:width] if other >= 0 else none),
        ):
            assert lengths[i] == len(wave)
            assert np.array_equal(tensor[i, : len(wave)].numpy(), wave)
            assert not tensor[i, len(wave) :].any()


@given(
    st.integers(1, 50),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sets(st.integers(0, 49), max_size=5),
)
@settings(max_examples=40)
def test_the_processes_share_the_plan(count: int, size: int, world: int, rate: float, broken: set[int]) -> None:
    """Every readable clip of the plan comes to exactly one process, in the global batch it belongs to, as defined."""
    plan, source = plan_of(count, rate), Broken(count, broken)
    parts = [list(Loader(source, LIMIT).batches(plan, size, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {-(-count // size)}
    for number, batches in enumerate(zip(*parts, strict=True)):
        span = np.arange(number * size, min(count, (number + 1) * size))
        together = np.sort(np.concatenate([batch.positions for batch in batches]))
        assert together.tolist() == [p for p in span if plan.first[p] not in broken]
        for rank, batch in enumerate(batches):
            assert batch.global_count == len(span)
            assert set(batch.positions) <= set(span[rank::world])
            assert_right(batch, plan, waves(count), broken)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 12), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=30)
def test_resumed_is_the_tail(count: int, size: int, first: int, workers: int, prefetch: int) -> None:
    """From any batch on, with any number of threads and of batches ahead, the batches are the whole iteration's."""
    plan, source = plan_of(count), Broken(count, [3, 11])
    whole = list(Loader(source, LIMIT).batches(plan, size, rank=0, world_size=2))
    resumed = Loader(source, LIMIT, workers, prefetch).batches(plan, size, rank=0, world_size=2, first_batch=first)
    assert_same(list(resumed), whole[first:])


def test_reasons_come_with_their_batch() -> None:
    """A broken clip is named when its batch is handed out, not when it was read ahead; in the order of the plan."""
    source, plan = Broken(12, [2, 5, 7]), plan_of(12, rate=0.0)
    loader = Loader(source, LIMIT, prefetch=8)
    seen: list[str] = []
    for batch in loader.batches(plan, 3):
        stop = int(batch.positions[-1]) // 3 * 3 + 3
        seen = [f"c{row}" for row in plan.first[:stop] if row in (2, 5, 7)]
        assert list(loader.rejected) == seen
    assert len(seen) == 3
    assert loader.rejected["c5"] == "c5.wav: is broken"


def test_a_batch_may_be_all_broken() -> None:
    """A batch without one readable clip is empty, and still counts its clips."""
    (batch,) = Loader(Broken(3, range(3)), LIMIT).batches(plan_of(3), 8)
    assert (len(batch), batch.global_count, tuple(batch.first.shape)) == (0, 3, (0, 0))


class Slow(ArraySource):
    """Counts its reads, and waits at one of them until it is released."""

    def __init__(self, count: int, blocked: int = -1) -> None:
        super().__init__([f"c{i}" for i in range(count)], waves(count), 16000)
        self.reads, self.blocked, self.released = 0, blocked, threading.Event()

    def read(self, index: int) -> np.ndarray:
        self.reads += 1
        if index == self.blocked:
            assert self.released.wait(30)
        return super().read(index)


def loader_threads() -> int:
    return sum(thread.name.startswith("psla-loader") for thread in threading.enumerate())


def wait_until(true: object) -> None:
    end = time.monotonic() + 20
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_reads_a_few_batches_ahead() -> None:
    """While a batch is trained on, the next `prefetch` ones are read, and no more."""
    source = Slow(100)
    batches = Loader(source, LIMIT, workers=2, prefetch=4).batches(plan_of(100, rate=0.0), 5)
    assert source.reads == 0
    next(batches)
    wait_until(lambda: source.reads == 25)
    time.sleep(0.05)
    assert source.reads == 25
    batches.close()


def test_left_early_it_ends() -> None:
    """An iteration that is left does not wait for a slow clip; its threads end with it and read nothing more."""
    wait_until(lambda: loader_threads() == 0)
    plan = plan_of(60, rate=0.0)
    source = Slow(60, blocked=int(plan.first[7]))  # of the second batch
    batches = Loader(source, LIMIT, workers=2, prefetch=3).batches(plan, 5)
    next(batches)
    # One thread waits at the third clip of its batch, the other has read all that may be read ahead.
    wait_until(lambda: source.reads == 5 + 3 + 5 + 5)
    batches.close()
    assert loader_threads() >= 1
    source.released.set()
    wait_until(lambda: loader_threads() == 0)
    assert source.reads == 18
    assert list(batches) == []


def test_errors_of_the_threads_come_out() -> None:
    """What is no AudioError is not swallowed: it is raised where its batch would have come."""

    class Faulty(ArraySource):
        def read(self, index: int) -> np.ndarray:
            if index == 7:
                raise RuntimeError("a fault of the source")
            return super().read(index)

    source, plan = Faulty([f"c{i}" for i in range(12)], waves(12), 16000), plan_of(12, rate=0.0)
    where = int(np.flatnonzero(plan.first == 7)[0]) // 2
    batches = Loader(source, LIMIT).batches(plan, 2)
    for _ in range(where):
        next(batches)
    with pytest.raises(RuntimeError, match="a fault of the source"):
        next(batches)
    wait_until(lambda: loader_threads() == 0)


def test_batches_stay_as_they_were() -> None:
    """A batch that is kept is not written over by those that follow it."""
    plan, source = plan_of(30), source_of(30)
    kept = list(Loader(source, LIMIT).batches(plan, 4))
    copies = [(batch.first.clone(), batch.second.clone()) for batch in Loader(source, LIMIT).batches(plan, 4)]
    assert all(torch.equal(b.first, f) and torch.equal(b.second, s) for b, (f, s) in zip(kept, copies, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Loader(source_of(1), 0), "limit_samples must be 1 or more; got 0"),
        (lambda: Loader(source_of(1), 1, workers=0), "workers must be 1 or more; got 0"),
        (lambda: Loader(source_of(1), 1, prefetch=0), "prefetch must be 1 or more; got 0"),
        (lambda: Loader(source_of(3), 9).batches(plan_of(3), 0), "batch_size must be 1 or more"),
        (lambda: Loader(source_of(3), 9).batches(plan_of(3), 1, first_batch=-1), "first_batch 0 or more"),
        (lambda: Loader(source_of(3), 9).batches(plan_of(3), 1, rank=2, world_size=2), r"0 \.\. 1 for 2 processes"),
        (lambda: Loader(source_of(3), 9).batches(plan_of(4), 1), "the plan is for 4 clips, the source has 3"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    """What cannot be loaded is refused at the call, with the value."""
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.skipif(torch.cuda.is_available(), reason="pinned memory works with a CUDA device")
def test_pinned_memory_needs_a_device() -> None:
    """Without a CUDA device pinned memory is refused, not ignored."""
    with pytest.raises(ValueError, match="needs a CUDA device"):
        Loader(source_of(1), 1, pin_memory=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a CUDA device")
def test_pinned_memory_holds_the_same() -> None:
    """Pinned batches have the same bits, and their waveforms are page-locked."""
    plan, source = plan_of(20), source_of(20)
    pinned = list(Loader(source, LIMIT, pin_memory=True).batches(plan, 4))
    assert all(batch.first.is_pinned() and batch.second.is_pinned() for batch in pinned)
    assert_same(pinned, list(Loader(source, LIMIT).batches(plan, 4)))
