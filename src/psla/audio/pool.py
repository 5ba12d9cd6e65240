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
from psla.audio.levels import Levels
from psla.audio.pipes import Spool
from psla.audio.worker import Message
from psla.audio.worker_handle import Job as Job
from psla.audio.worker_handle import LostWorker, WorkerHandle, worker_command
from psla.audio.worker_handle import WorkerError as WorkerError

_AHEAD = 4  # clips that are decoded ahead, for each worker
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
        attempts: how often a clip is tried whose worker dies or stalls, 1 or more. With 2, a worker that the system
            ended for its own reasons does not cost a clip.
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
        attempts: int = 1,
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
        self._living: set[WorkerHandle] = set()
        self._idle: queue.LifoQueue[WorkerHandle | None] = queue.LifoQueue()  # None: closed
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        threading.Thread(target=self._watch, name="decode-watchdog", daemon=True).start()
        try:
            for _ in range(workers):
                self._idle.put(self._start())
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
        with self._lent() as worker:
            for message in worker.messages(Job(source, rate, start_s, end_s), self.timeout_s):
                if not isinstance(message, dict):
                    yield message
                elif "levels" not in message:
                    yield SourceInfo(message.get("sample_rate", 0), message.get("unfinished", False))
                elif measured is not None:
                    measured(Levels(*message["levels"]))

    def close(self) -> None:
        """End the workers, at once, and wait until they are gone."""
        self._closed.set()
        self._idle.put(None)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._living):
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in list(self._living):
            self._bury(worker)
        self._spool.close()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _whole(self, job: Job, of: Callable[[list[Message]], _T]) -> _T | AudioError:
        for attempt in range(self.attempts):
            messages: list[Message] = []
            samples = 0
            try:
                with self._lent() as worker, contextlib.closing(worker.messages(job, self.timeout_s)) as stream:
                    for message in stream:
                        samples += len(message) if isinstance(message, np.ndarray) else 0
                        if samples > self._longest_s * job.rate:
                            longest = f"longer than {self._longest_s:g} s: give its clips a start and an end"
                            return AudioError(job.name, longest)
                        messages.append(message)
            except LostWorker as error:
                lost: AudioError = error
                if attempt + 1 < self.attempts and not self._closed.is_set():
                    continue
                return AudioError(lost.path, lost.reason)
            except AudioError as error:
                return error
            return of(messages)
        raise AssertionError("a clip is tried at least once")

    @contextlib.contextmanager
    def _lent(self) -> Iterator[WorkerHandle]:
        """A worker for one job; one that did not come to the job's end is replaced."""
        worker = self._idle.get()
        if worker is None or self._closed.is_set():
            self._idle.put(None)  # for the next who waits
            raise ValueError("this decode pool is closed")
        try:
            yield worker
        finally:
            if worker.busy:
                self._bury(worker)
                if not self._closed.is_set():
                    worker = self._start()
            self._idle.put(worker)

    def _start(self) -> WorkerHandle:
        worker = WorkerHandle(self._command)
        self._living.add(worker)
        if self._closed.is_set():  # closed meanwhile: `close` may not have seen it
            worker.kill()
        return worker

    def _bury(self, worker: WorkerHandle) -> None:
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
