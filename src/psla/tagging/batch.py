"""Many files: decoded ahead in watched worker processes, tagged in batches that reach across files, told in order.

    paths ──► a few threads, each lends a worker of the pool ──► blocks, file by file, in order ──► windows
                                                                                                      │
    results, in order, one a file  ◄── recordings ◄── network ◄── batches of windows, of several files ◄─┘

A file that cannot be read, whose decoder crashes, or stalls, has its reason in the place of its result, and takes its
windows out of the batch that waits. Memory is bounded: of each file that is read ahead a few blocks of 10 s are held.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from psla.audio.decode import AudioError
from psla.audio.levels import Levels
from psla.audio.pool import DecodePool, SourceInfo
from psla.audio.sound_file import PassingError
from psla.tagging.recording import Recording
from psla.tagging.result import TagResult

BATCH = 8  # windows that go through the network together
_AHEAD = 8  # files that are decoded ahead, for each worker
_BLOCKS = 8  # blocks of 10 s that are held of each
_PAUSE = 0.05  # seconds between two looks whether the work is called off


@dataclass(frozen=True, eq=False)
class FileResult:
    """What became of one file: its result, or the reason why there is none.

    Attributes:
        path: as it was given.
        result: None where the file could not be read.
        reason: why not, in one sentence; empty where there is a result.
        passing: whether the reason is one of the moment, such as a disk that is away, and not the file's.
    """

    path: str
    result: TagResult | None
    reason: str = ""
    passing: bool = False


class WindowTagger(Protocol):
    """What batches are given to: a `psla.tagging.tagger.Tagger`."""

    sample_rate: int

    def recording(self, source_rate: float | None = None) -> Recording: ...
    def windows(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]: ...
    def run(self, batch: Sequence[tuple[Recording, np.ndarray]], embed: bool = False) -> None: ...


def tag_files(
    tagger: WindowTagger, paths: Iterable[str], pool: DecodePool, embed: bool = False
) -> Iterator[FileResult]:
    """Tag files, one result for each path, in their order.

    Args:
        pool: what `psla.audio.pool.decode_pool` gives.
        embed: fill in `TagResult.embedding`.

    Example:
        >>> with decode_pool() as pool:                             # doctest: +SKIP
        ...     for file in tag_files(tagger, ["a.wav", "b.wav"], pool):
        ...         print(file.path, file.reason or file.result.top(1))
    """
    for group in tag_groups(tagger, paths, pool, embed):
        yield from group


def tag_groups(
    tagger: WindowTagger,
    paths: Iterable[str],
    pool: DecodePool,
    embed: bool = False,
    heard: Callable[[str, float], None] = lambda path, seconds: None,
) -> Iterator[list[FileResult]]:
    """As `tag_files`, but those that are finished together come together: what a journal writes at once.

    Args:
        heard: told after each batch which file is being heard, and how many seconds of it have been.
    """
    waiting: deque[_Open] = deque()
    batch: list[tuple[Recording, np.ndarray]] = []
    with closing(read_files(paths, pool, tagger.sample_rate)) as files:
        for file in files:
            opened = _Open(file.path)
            waiting.append(opened)
            try:
                info = file.info()
                recording = opened.recording = tagger.recording(info.sample_rate)
                recording.unfinished = info.unfinished
                for window in tagger.windows(file.blocks()):
                    batch.append((recording, window))
                    opened.cut += 1
                    if len(batch) == BATCH:
                        tagger.run(batch, embed)
                        batch = []
                        heard(file.path, recording.samples / tagger.sample_rate)
                        if group := _finished(waiting):
                            yield group
                recording.levels = file.levels
                opened.ended = True
            except AudioError as error:
                batch = [(other, window) for other, window in batch if other is not opened.recording]
                opened.reason, opened.passing = error.reason, isinstance(error, PassingError)
    if batch:
        tagger.run(batch, embed)
    if group := _finished(waiting):
        yield group
    assert not waiting


@dataclass
class _Open:
    """A file whose result has not been handed out."""

    path: str
    recording: Recording | None = None
    cut: int = 0  # windows that have been cut from it
    ended: bool = False  # no more are to come
    reason: str = ""
    passing: bool = False

    def finished(self) -> bool:
        return bool(self.reason) or (self.ended and self.recording is not None and self.recording.windows == self.cut)


def _finished(waiting: deque[_Open]) -> list[FileResult]:
    """Takes the files from the left that are finished."""
    group = []
    while waiting and waiting[0].finished():
        file = waiting.popleft()
        result = None if file.reason or file.recording is None else file.recording.result()
        group.append(FileResult(file.path, result, file.reason, file.passing))
    return group


class FileStream:
    """A file that a thread decodes, block by block, as far ahead as its queue goes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.levels: Levels | None = None  # known behind the last block
        self._queue: queue.Queue[Any] = queue.Queue(_BLOCKS)  # SourceInfo, blocks, None; or an exception in their place

    def info(self) -> SourceInfo:
        """What is told of the source; raises AudioError."""
        return self._take()

    def blocks(self) -> Iterator[np.ndarray]:
        """The blocks, once `info` has been asked; raises AudioError."""
        while (item := self._take()) is not None:
            yield item

    def _take(self) -> Any:
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def fill(self, pool: DecodePool, rate: int, stop: threading.Event) -> None:
        """The thread's part."""
        if stop.is_set():
            return
        try:
            with closing(pool.stream(self.path, rate, measured=self._measured)) as blocks:
                for block in blocks:
                    if not self._put(block, stop):
                        return
            self._put(None, stop)
        except Exception as error:  # it is raised where the blocks are read
            self._put(error, stop)

    def _measured(self, levels: Levels) -> None:
        self.levels = levels

    def _put(self, item: Any, stop: threading.Event) -> bool:
        while not stop.is_set():
            try:
                self._queue.put(item, timeout=_PAUSE)
            except queue.Full:
                continue
            return True
        return False


def read_files(paths: Iterable[str], pool: DecodePool, rate: int) -> Generator[FileStream, None, None]:
    """The files in order; those after the one that is being read are decoded meanwhile."""
    ahead: deque[FileStream] = deque()
    stop = threading.Event()
    with ThreadPoolExecutor(pool.workers, thread_name_prefix="read-ahead") as threads:
        try:
            for path in paths:
                file = FileStream(path)
                threads.submit(file.fill, pool, rate, stop)
                ahead.append(file)
                if len(ahead) > pool.workers * _AHEAD:
                    yield ahead.popleft()
            while ahead:
                yield ahead.popleft()
        finally:
            stop.set()  # threads that wait for room in a queue give up
