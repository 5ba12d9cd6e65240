"""A worker of a pool that is lent to one job, and the attempts that the job has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import Protocol

from psla.audio import addresses
from psla.audio.decode import AudioError
from psla.audio.patience import again, seen, told
from psla.audio.worker import Message
from psla.audio.worker_handle import Job, LostWorker, WorkerHandle


class Lender(Protocol):
    """The pool, as a lease needs it."""

    attempts: int
    timeout_s: float

    @property
    def is_closed(self) -> bool: ...

    def quiet(self) -> contextlib.AbstractContextManager[None]: ...

    def start(self) -> WorkerHandle: ...

    def bury(self, worker: WorkerHandle) -> None: ...


class Lease:
    """A worker that is lent to a job until that is done, or has failed as often as it may.

    The same one, or what replaces it, for all attempts: were it given back between them, files that wait for this very
    job to be heard might take all workers.
    """

    def __init__(self, pool: Lender, job: Job, worker: WorkerHandle) -> None:
        self.pool, self.job, self.worker = pool, job, worker
        self.error: AudioError | None = None
        self._is_file = isinstance(job.path, str | os.PathLike) and not addresses.scheme_of(job.path)
        self._tried, self._done = 0, False

    def tries(self) -> bool:
        """Whether there is an attempt to be made; it may wait before it says so."""
        if self._done:
            if self._is_file:
                seen(self.job.name)
            return False
        if self._tried:
            assert self.error is not None
            if not self._again(self.error):
                self.error = told(self.job.name, self.error) if self._is_file else self.error
                if isinstance(self.error, LostWorker):
                    self.error = AudioError(self.error.path, self.error.reason)
                return False
            self.renew()
        return True

    def _again(self, error: AudioError) -> bool:
        if self.pool.is_closed:
            return False
        if isinstance(error, LostWorker):
            return self._tried < min(self.pool.attempts, 2 if error.stalled else self.pool.attempts)
        return self._is_file and again(self.job.name, error, self._tried, lambda: self.pool.is_closed)

    def messages(self) -> Generator[Message, None, None]:
        """What this attempt gives; where it fails, `error` says why."""
        self.error = None
        self._tried += 1
        alone = 1 < self._tried == self.pool.attempts
        with self.pool.quiet() if alone else contextlib.nullcontext():
            try:
                yield from self.worker.messages(self.job, self.pool.timeout_s)
                self._done = True
            except AudioError as error:
                self.error = error

    def renew(self) -> None:
        """Another worker, where this one did not come to the end of its job."""
        if self.worker.busy:
            self.pool.bury(self.worker)
            self.worker = self.pool.start()
