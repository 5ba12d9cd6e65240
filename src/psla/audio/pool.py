"""DecodePool: decoding in watched worker processes, so that a file that kills or stalls its decoder costs one clip.

    job ──► a thread of this process ──► a worker process (decode, resample) ──► int16 blocks back through a pipe

A worker that crashes, or gives nothing for `timeout_s` while it is waited for, is killed and replaced by a new one. The
clip that it worked on gets an AudioError; no other clip notices. The workers are plain interpreters that import numpy
and the decoder only: the caller's main module is not run in them, so scripts from stdin may use a pool, too.

Not covered: what a worker does to the rest of the machine. It has the rights of the user; only its memory is limited,
and that on Linux alone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from psla.audio.decode import AudioError
from psla.audio.lease import Lease
from psla.audio.levels import Levels
from psla.audio.pipes import Spool
from psla.audio.worker import Message
from psla.audio.worker_handle import Job as Job
from psla.audio.worker_handle import WorkerError as WorkerError
from psla.audio.worker_handle import WorkerHandle, worker_command

_AHEAD = 4  # clips that are decoded ahead, for each worker
_QUIET_S = 2.0  # for others to come to their end: a stream may wait for the very one that wants to be alone
_TICK = 0.1  # seconds between two looks of the watchdog


_T = TypeVar("_T")


@dataclass(frozen=True)
class SourceInfo:
    """What is told of a recording before its blocks."""

    sample_rate: int  # of the source, in Hz
    unfinished: bool = False  # it may have been cut, and nothing in it tells


class DecodePool:
    """Worker processes that decode, and what watches them. A context manager; threads may share it.

    Args:
        workers: processes, 1 or more. Each also has a thread here.
        timeout_s: seconds, above 0, without a block after which a worker is given up. Only time in which somebody waits
            for the worker counts, and not time in which this process was stopped.
        memory_bytes: what a worker may allocate, decoder and blocks; not less than 128 MiB.
        longest_s: `map` refuses clips of more seconds than this, for they are handed over whole; `stream` takes any.
        attempts: how often a clip is tried whose worker dies, 1 or more; one that stalls, twice at most. The last time
            nothing else is decoded, if that can be had: a worker that the system ended because the memory was full does
            not cost a clip. What else is tried again: `psla.audio.patience`.
        decoder: what decodes, as `module:function`; called as `psla.audio.worker.decode`. For tests and other formats.

    Raises:
        ValueError: an argument out of range.
        WorkerError: a worker does not start.

    Example:
        >>> import tempfile, soundfile
        >>> good, bad = (f"{tempfile.mkdtemp()}/{name}.wav" for name in ("good", "bad"))
        >>> soundfile.write(good, np.zeros(16000), 16000)
        >>> with DecodePool(workers=1) as pool:
        ...     for job, result in pool.map([Job(good, 16000), Job(bad, 16000)]):
        ...         print(result.shape if isinstance(result, np.ndarray) else result.reason)
        (16000,)
        cannot be opened: No such file or directory
    """

    def __init__(
        self,
        workers: int = 2,
        timeout_s: float = 10.0,
        memory_bytes: int = 1 << 30,
        *,
        longest_s: float = 3600.0,
        attempts: int = 3,
        decoder: str = "psla.audio.worker:decode",
    ) -> None:
        if workers < 1 or attempts < 1:
            raise ValueError(f"a decode pool needs workers and attempts >= 1, not {workers} and {attempts}")
        if not (timeout_s > 0 and longest_s > 0):
            raise ValueError(f"timeout_s and longest_s must be above 0 seconds, not {timeout_s} and {longest_s}")
        if memory_bytes < 128 << 20:
            raise ValueError(f"memory_bytes must be 128 MiB ({128 << 20}) or more, not {memory_bytes}")
        self.workers, self.timeout_s, self.attempts = workers, timeout_s, attempts
        self._longest_s = longest_s
        self._command = worker_command(decoder, memory_bytes)
        self._closed = threading.Event()
        self._spool = Spool()
        self._changed = threading.Condition()
        self._jobs, self._is_alone = 0, False  # jobs that are being done; whether one is to be alone
        self._living: set[WorkerHandle] = set()
        self._idle: queue.LifoQueue[WorkerHandle | None] = queue.LifoQueue()  # None: closed
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        threading.Thread(target=self._watch, name="decode-watchdog", daemon=True).start()
        try:
            for _ in range(workers):
                self._idle.put(self.start())
        except BaseException:
            self.close()
            raise

    def map(self, jobs: Iterable[Job]) -> Generator[tuple[Job, np.ndarray | AudioError], None, None]:
        """Decode clips; each job with its samples, or with the reason why there are none, in the order of the jobs.

        Jobs are taken up as they are needed, a few for each worker ahead of what has been handed out.

        Shape: samples: (samples,) int16, mono, at the job's rate; writeable or not.
        """
        yield from self._in_order(jobs, _samples)

    def ask(self, jobs: Iterable[Job]) -> Generator[tuple[Job, list[dict[str, Any]] | AudioError], None, None]:
        """As `map`, but each job with what its decoder has to tell: its dicts, the empty ones left out."""
        yield from self._in_order(jobs, _told)

    def _in_order(
        self, jobs: Iterable[Job], of: Callable[[list[Message]], _T]
    ) -> Generator[tuple[Job, _T | AudioError], None, None]:
        ahead: deque[tuple[Job, Future[_T | AudioError]]] = deque()
        try:
            for job in jobs:
                ahead.append((job, self._threads.submit(self._whole, job, of)))
                if len(ahead) > self.workers * _AHEAD:
                    first, future = ahead.popleft()
                    yield first, future.result()
            while ahead:
                first, future = ahead.popleft()
                yield first, future.result()
        finally:
            for _, future in ahead:
                future.cancel()

    def stream(
        self,
        source: str | os.PathLike[str] | bytes,
        rate: int,
        start_s: float | None = None,
        end_s: float | None = None,
        measured: Callable[[Levels], None] | None = None,
    ) -> Generator[np.ndarray | SourceInfo, None, None]:
        """Decode one recording of any length, block by block, in bounded memory.

        A worker is lent to it from the first block to the last, or until the iterator is closed; where all are lent,
        it waits for one. Of standard input (`-`) and named pipes a copy is decoded (`psla.audio.pipes`). A pool of
        `decode_pool` tells the SourceInfo first.

        Args:
            measured: told the levels of the source, once all of it has been read, by a pool of `decode_pool`.

        Shape: each block: (samples,) int16, mono, at `rate` Hz, at most about 10 s, none empty.

        Raises:
            AudioError: it cannot be read, or the decoder crashed or stalled; perhaps after some blocks.
            ValueError: the pool is closed.
        """
        if not isinstance(source, bytes):
            source = self._spool.file_of(source)
        job, given = Job(source, rate, start_s, end_s), 0
        infos = 0
        with self._lent(job) as lease:
            while lease.tries():
                skipped, heard = 0, 0  # what an attempt before this one has handed out: samples, infos
                for message in lease.messages():
                    if not isinstance(message, dict):
                        first = min(len(message), given - skipped)
                        skipped += first
                        if first < len(message):
                            given, skipped = given + len(message) - first, skipped + len(message) - first
                            yield message[first:]
                    elif "levels" not in message:
                        heard += 1
                        if heard > infos:
                            infos = heard
                            yield SourceInfo(message.get("sample_rate", 0), message.get("unfinished", False))
                    elif measured is not None:
                        measured(Levels(*message["levels"]))
            if lease.error is not None:
                raise lease.error

    @property
    def is_closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed.is_set()

    def close(self) -> None:
        """End the workers, at once, and wait until they are gone."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._idle.put(None)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._living):
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in list(self._living):
            self.bury(worker)
        self._spool.close()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _whole(self, job: Job, of: Callable[[list[Message]], _T]) -> _T | AudioError:
        messages: list[Message] = []
        with self._lent(job) as lease:
            while lease.tries():
                messages, samples = [], 0
                with contextlib.closing(lease.messages()) as stream:
                    for message in stream:
                        samples += len(message) if isinstance(message, np.ndarray) else 0
                        if samples > self._longest_s * job.rate:
                            longest = f"longer than {self._longest_s:g} s: give its clips a start and an end"
                            return AudioError(job.name, longest)
                        messages.append(message)
            return of(messages) if lease.error is None else lease.error

    @contextlib.contextmanager
    def _lent(self, job: Job) -> Iterator[Lease]:
        """A worker for one job; one that did not come to the job's end is replaced."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone or self._closed.is_set())
        worker = self._idle.get()
        if worker is None or self._closed.is_set():
            self._idle.put(None)  # for the next who waits
            raise ValueError("this decode pool is closed")
        lease = Lease(self, job, worker)
        with self._changed:
            self._jobs += 1
        try:
            yield lease
        finally:
            if not self._closed.is_set():
                lease.renew()
            elif lease.worker.busy:
                self.bury(lease.worker)
            with self._changed:
                self._jobs -= 1
                self._changed.notify_all()
            self._idle.put(lease.worker)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """While it lasts no other job begins; those that are being done are waited for, though not for long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone or self._closed.is_set())
            self._is_alone = True
            self._changed.wait_for(lambda: self._jobs <= 1 or self._closed.is_set(), _QUIET_S)
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()

    def start(self) -> WorkerHandle:
        worker = WorkerHandle(self._command)
        self._living.add(worker)
        if self._closed.is_set():  # closed meanwhile: `close` may not have seen it
            worker.kill()
        return worker

    def bury(self, worker: WorkerHandle) -> None:
        worker.kill()
        worker.wait()
        self._living.discard(worker)

    def _watch(self) -> None:
        """The watchdog. A gap between two looks is counted as no more than 1 s: the machine slept, not the worker."""
        before = time.monotonic()
        while not self._closed.wait(_TICK):
            now = time.monotonic()
            for worker in list(self._living):
                worker.tick(min(now - before, 1.0))
            before = now


def _samples(messages: list[Message]) -> np.ndarray:
    blocks = [message for message in messages if isinstance(message, np.ndarray)]
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.int16), *blocks])


def _told(messages: list[Message]) -> list[dict[str, Any]]:
    return [message for message in messages if isinstance(message, dict) and message]


def decode_pool(workers: int = 2, timeout_s: float = 10.0) -> DecodePool:
    """The pool that tagging needs: it tells each recording's sample rate. It starts at once: open it before the model.

    Args:
        workers: processes, 1 or more.
        timeout_s: seconds without an answer after which a file is given up.
    """
    return DecodePool(workers, timeout_s, decoder="psla.audio.worker:decode_to_tag")
