"""One thread that tags, for all who ask: it takes what windows are waiting, of any recordings, eight at a time.

    a thread a request ──► windows of its recording ──► │ in turn: one of each recording that waits │
                                                        └──► the engine's thread ──► Tagger.run ──► each its own result

Batches reach across requests, and bits do not depend on it: on the CPU `tag_waveforms` gives a waveform the same
numbers whatever others it goes with. (On an accelerator windows of one length are one batch, and other company moves
the last digits, there as in `psla tag`.) A long recording does not hold up a short one, for each has its turn.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from psla.audio.levels import Levels
from psla.audio.pool import SourceInfo
from psla.tagging.batch import BATCH
from psla.tagging.recording import Recording
from psla.tagging.result import TagResult
from psla.tagging.tagger import Tagger

_HELD_S = 120.0  # seconds of a recording's windows that may wait: its decoder is free for the next one meanwhile


class Left(Exception):
    """Nobody waits for the answer any more: the client left, or the engine was closed."""


class Engine:
    """Tags recordings whose windows come from many threads. A context manager.

    Args:
        tagger: whose numbers they are.
        told: called in the engine's thread with the number of windows of each batch.

    Example:
        >>> from psla.tagging.tagger import load
        >>> with Engine(load("esc10-lite0")) as engine:
        ...     result = Job(engine).tag([np.zeros(engine.tagger.sample_rate, np.int16)])
        >>> result.windows, result.flags[0]
        (1, 'silent')
    """

    def __init__(self, tagger: Tagger, told: Callable[[int], None] = lambda windows: None) -> None:
        self.tagger, self._told = tagger, told
        self.changed = threading.Condition()
        self.held = max(2, round(_HELD_S / tagger.window_s))
        self._turns: deque[Job] = deque()  # those that have windows waiting
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def waiting(self) -> int:
        """Windows that wait."""
        with self.changed:
            return sum(len(job.windows) for job in self._turns)

    def close(self) -> None:
        """End the thread, after the batch that it is at; whoever still waits gets Left."""
        with self.changed:
            self._closed = True
            for job in self._turns:
                job.error = Left()
            self.changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def put(self, job: Job, window: np.ndarray) -> None:
        """The next window of a job; waits while too many of it are waiting."""
        with self.changed:
            self.changed.wait_for(lambda: self._closed or job.error or len(job.windows) < self.held)
            if self._closed:
                raise Left
            if job.error:
                raise job.error
            if not job.windows:
                self._turns.append(job)
            job.windows.append(window)
            job.cut += 1
            self.changed.notify_all()

    def drop(self, job: Job, error: Exception) -> None:
        """Nothing more of this job."""
        with self.changed:
            job.error = job.error or error
            job.windows.clear()
            if job in self._turns:
                self._turns.remove(job)
            self.changed.notify_all()

    def _take(self) -> list[tuple[Job, np.ndarray]]:
        """Up to a batch of windows, one of each job in turn; none when the engine is closed."""
        taken: list[tuple[Job, np.ndarray]] = []
        with self.changed:
            self.changed.wait_for(lambda: self._closed or self._turns)
            while self._turns and len(taken) < BATCH and not self._closed:
                job = self._turns.popleft()
                taken.append((job, job.windows.popleft()))
                if job.windows:
                    self._turns.append(job)
            self.changed.notify_all()
        return taken

    def _work(self) -> None:
        while batch := self._take():
            self._told(len(batch))
            for embed in (False, True):
                if part := [(job, window) for job, window in batch if job.embed is embed]:
                    self._run(part, embed)

    def _run(self, part: list[tuple[Job, np.ndarray]], embed: bool) -> None:
        try:
            self.tagger.run([(job.recording, window) for job, window in part], embed)
        except Exception as error:  # it costs those whose windows these are, and is raised where they wait
            for job, _ in part:
                self.drop(job, error)
        with self.changed:
            for job, _ in part:
                job.said += 1
            self.changed.notify_all()


class Job:
    """One recording that is to come; used by one thread, but for `cancel`."""

    def __init__(self, engine: Engine, embed: bool = False, recording: Recording | None = None) -> None:
        self.engine, self.embed = engine, embed
        self.recording = recording or engine.tagger.recording()
        self.windows: deque[np.ndarray] = deque()
        self.cut = self.said = 0  # windows that were given, and those that came back
        self.error: Exception | None = None

    def tag(
        self,
        blocks: Iterable[np.ndarray],
        source: SourceInfo | None = None,
        levels: Callable[[], Levels | None] = lambda: None,
    ) -> TagResult:
        """What a file of these blocks gets from `psla tag`, to the bit on the CPU.

        Args:
            source: what is known of it before; levels: asked when all blocks have come.

        Raises:
            Left: it was cancelled, or the engine was closed. And what the blocks and the network raise.
        """
        if source is not None:
            self.recording.source_rate, self.recording.unfinished = source.sample_rate, source.unfinished
        self.run(self.engine.tagger.windows(blocks))
        self.recording.levels = levels()
        return self.recording.result()

    def run(self, windows: Iterable[np.ndarray]) -> None:
        """Wait until the model has heard these windows; raises as `tag`."""
        try:
            for window in windows:
                self.engine.put(self, window)
        except Exception as error:
            self.engine.drop(self, error)
            raise
        with self.engine.changed:
            self.engine.changed.wait_for(lambda: self.error or self.said == self.cut)
        if self.error:
            raise self.error

    def cancel(self) -> None:
        """Nobody waits for it: whoever is at it stops."""
        self.engine.drop(self, Left())


class Through:
    """A tagger in all but `run`, for a `psla.Stream`: its windows wait for their turn in the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine.tagger, name)

    def run(self, batch: Sequence[tuple[Recording, np.ndarray]]) -> None:
        """As `Tagger.run`; the windows are all of one recording."""
        (recording,) = {id(each): each for each, _ in batch}.values()
        Job(self._engine, recording=recording).run([window for _, window in batch])
