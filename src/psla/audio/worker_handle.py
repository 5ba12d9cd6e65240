"""The parent's end of a decoding worker: starting it, giving it jobs, taking blocks, noticing that it died or stalled.

The other end and what the two say to each other: `psla.audio.worker`. Who uses these: `psla.audio.pool`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np

from psla.audio import addresses
from psla.audio.decode import AudioError
from psla.audio.sound_file import PassingError
from psla.audio.worker import BLOCK, END, ERROR, HEAD, INFO, READY, Message

_START = 60.0  # seconds that a worker may take to start, on a machine that is busy with other things
_PIPE_BYTES = 1 << 20  # a clip of ten seconds is 320,000 bytes; with 64 KiB each worker would wait in mid-clip
_MOST_BYTES = 1 << 30  # longer messages are no blocks: a worker that its file has taken over
# One thread each: the workers are as many as there are processors. And glibc keeps the memory of one clip for the next:
# otherwise it gives it back each time, and 1,400 page faults a clip cost as much as the resampling.
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
_BOOT = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    "from psla.audio.worker import main; main(**given['main'])"
)


class WorkerError(RuntimeError):
    """A worker process could not be started at all: a fault of the installation, not of a clip."""


class Job(NamedTuple):
    """What to decode: a file by its path, its bytes, or an address; to which rate in Hz; and which seconds of it."""

    path: str | os.PathLike[str] | bytes
    rate: int
    start_s: float | None = None
    end_s: float | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return "<bytes>" if isinstance(self.path, bytes) else os.fsdecode(self.path)


class LostWorker(AudioError):
    """The worker died, or stalled and was given up, while it decoded this clip."""

    def __init__(self, path: str, reason: str, stalled: bool = False) -> None:
        super().__init__(path, reason)
        self.stalled = stalled


class WorkerHandle:
    """One worker process, used by one thread at a time.

    Attributes:
        busy: whether it has a job that has not come to its end.
    """

    def __init__(self, command: list[str]) -> None:
        self.busy = False
        self._started = self._stalled = False
        self._lock = threading.Lock()
        self._left_s: float | None = None  # seconds until it is given up; None: nobody waits for it
        # A session of its own: Ctrl-C is for the parent alone. When that dies, the pipe's end tells the child.
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=None if _is_open(2) else subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env=os.environ | _ENVIRONMENT,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs, self._replies = self._process.stdin, self._process.stdout
        _widen(self._replies.fileno())

    def messages(self, job: Job, timeout_s: float) -> Generator[Message, None, None]:
        """What the decoder gives for a job; raises AudioError, LostWorker where the process did not survive it."""
        self.busy = True
        name = job.name
        if not self._started:
            self._await_start()
        try:
            self._give(job, timeout_s)
            while True:
                kind, data = self._reply(timeout_s)
                if kind == BLOCK and not len(data) % 2:
                    yield data.view(np.int16)
                elif kind == INFO and isinstance(told := json.loads(data.tobytes()), dict):
                    yield told
                elif kind == END:
                    self.busy = False
                    return
                elif kind == ERROR:
                    path, reason, passing = json.loads(data.tobytes())
                    self.busy = False
                    raise (PassingError if passing else AudioError)(str(path), str(reason))
                else:
                    raise EOFError
        except (EOFError, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise LostWorker(name, self._cause(timeout_s), self._stalled) from error

    def tick(self, seconds: float) -> None:
        """Count down, while somebody waits; at the end of the time, kill."""
        with self._lock:
            if self._left_s is None:
                return
            self._left_s -= seconds
            if self._left_s <= 0:
                self._stalled = True
                self._process.kill()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()

    def wait(self) -> None:
        """Wait for its end, and close the pipes."""
        self._process.wait()
        self._jobs.close()
        self._replies.close()

    def _await_start(self) -> None:
        try:
            kind, _ = self._reply(_START)
        except (EOFError, OSError):
            kind = b""
        if kind != READY:
            self.kill()
            how = "no answer" if self._stalled else _ending(self._process.wait())
            raise WorkerError(f"a decoding worker did not start ({how}); it runs {sys.executable}")
        self._started = True

    def _give(self, job: Job, timeout_s: float) -> None:
        data = job.path if isinstance(job.path, bytes) else b""
        length = len(data) if isinstance(job.path, bytes) else None
        told = {"path": job.name, "bytes": length, "rate": job.rate, "start_s": job.start_s, "end_s": job.end_s}
        message = memoryview(json.dumps(told).encode() + b"\n" + data)
        while message:
            with self._watched(timeout_s):
                message = message[self._jobs.write(message) :]

    def _reply(self, timeout_s: float) -> tuple[bytes, np.ndarray]:
        kind, length = HEAD.unpack(self._receive(HEAD.size, timeout_s).data)
        if length > _MOST_BYTES:
            raise EOFError
        return kind, self._receive(length, timeout_s)

    def _receive(self, length: int, timeout_s: float) -> np.ndarray:
        """(length,) bytes; whatever arrives is a sign of life."""
        data = np.empty(length, np.uint8)
        view = data.data
        while view:
            with self._watched(timeout_s):
                received = self._replies.readinto(view)  # type: ignore[attr-defined]
            if not received or self._stalled:
                raise EOFError
            view = view[received:]
        return data

    @contextlib.contextmanager
    def _watched(self, timeout_s: float) -> Iterator[None]:
        with self._lock:
            self._left_s = timeout_s
        try:
            yield
        finally:
            with self._lock:
                self._left_s = None

    def _cause(self, timeout_s: float) -> str:
        if self._stalled:
            return f"the decoder did not answer for {timeout_s:g} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"the decoder crashed ({_ending(self._process.wait(timeout=1.0))})"
        return "the decoder crashed (what it sent is no reply)"


def _is_open(descriptor: int) -> bool:
    """Whether a child would get it: not where it was closed (`2>&-`), or was opened since by something else."""
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def worker_command(decoder: str, memory_bytes: int) -> list[str]:
    """How to start a worker: a plain interpreter that finds modules where this one does."""
    given = {
        "path": [p for p in sys.path if isinstance(p, str)],
        "main": {"decoder": decoder, "memory_bytes": memory_bytes, "readers": addresses.READERS},
    }
    return [sys.executable, "-c", _BOOT, json.dumps(given)]


def _widen(descriptor: int) -> None:
    """A larger pipe, where the system has that and the user has not used up his share; it only saves time."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
