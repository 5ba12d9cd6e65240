"""Ray as a Spread: tasks of a job on the cores of this machine, or on the machines of a cluster that is running.

    driver ── tasks, as many as there is room for ──► Ray ──► a worker process on some machine ──► files, where all see
       ▲                                                          │ how much is done, sentences       them; a result
       └────────────── once a second ◄── the board (an actor) ◄───┘

A task whose worker or machine is lost is begun again by Ray; what it had finished is on the disk and is not done again.
An error that a task raises is the job's own affair: it comes back as it was raised, and nothing is tried again.

The machines of a cluster have the same psla installed and see the driver's folder under the same path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from psla.extras import needed
from psla.spread import Ended, SpreadError, Task, Watch, cores

SCHEME = "ray"
LOSSES = 10  # after which a task is given up
STORE_BYTES = 100 << 20  # of a Ray that is started here: a part of a table and its answer are small
_TICK_S = 1.0  # between two looks at the board
_TELL_S = 0.5  # between two times that a task speaks with the board


class ClusterError(SpreadError):
    """A cluster that is not there, or that cannot do what it was asked."""


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[RaySpread]:
    """A Ray for the time of the block.

    Args:
        address: `ray`: the cores of this machine; `ray://HOST:PORT`: the cluster whose head is there (what
            `ray start --head` says), of which this machine is one; `ray://auto`: the one that runs on this machine.

    Raises:
        ValueError: Ray is not installed.
        ClusterError: another address, or nobody answers there.
    """
    scheme, _, where = address.partition("://")
    if scheme != SCHEME or (not where and address != SCHEME):
        raise ClusterError(f"--cluster is ray, ray://HOST:PORT or ray://auto, not {address!r}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task without a GPU keeps what the user has set
    ray = needed("ray", "cluster")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    if where:
        options["address"] = where
    else:
        # At each start here Ray announces that it protects itself by a token, as it always does.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES, "address": "local"}
        options["num_cpus"] = cores()
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Ray answers at {where or 'this machine'} ({_first_line(error)}): start one with `ray start --head`, "
            "or give --cluster ray for the cores of this machine; a cluster that is protected by a token wants "
            "RAY_AUTH_MODE=token and that token here, too"
        ) from error
    try:
        yield RaySpread(ray)
    finally:
        ray.shutdown()


class RaySpread:
    """A `psla.spread.Spread`: what does tasks on the Ray that this process is connected with."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._begun: dict[Any, Task] = {}
        self._work = ray.remote(max_retries=LOSSES, retry_exceptions=False)(_work)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        board = ray.remote(num_cpus=0, max_restarts=-1)(Board)
        self._board = board.options(scheduling_strategy=here).remote()
        self._looked = 0.0
        self._is_stopping = False

    @property
    def room(self) -> int:
        """Twice the cores, so that none waits for the driver."""
        return max(2, 2 * int(self._ray.cluster_resources().get("CPU", 1)))

    def begin(self, task: Task) -> None:
        """See `Spread`.

        Raises:
            ClusterError: no machine has so many cores or GPUs.
        """
        for name, wanted in (("CPU", task.cpus), ("GPU", task.gpus)):
            most = max((node["Resources"].get(name, 0) for node in self._ray.nodes() if node["Alive"]), default=0)
            if wanted > most:
                raise ClusterError(
                    f"{task.name} needs {wanted:g} {name}s, and no machine of the cluster has more than {most:g}"
                )
        options = {"num_cpus": task.cpus, "num_gpus": task.gpus, "name": task.name}
        place = (str(Path.cwd()), version("psla"))
        self._begun[self._work.options(**options).remote(task, place, self._board)] = task

    def ended(self, watch: Watch) -> Ended:
        """See `Spread`."""
        if not self._begun:
            raise LookupError("no task was begun")
        while True:
            ready, _ = self._ray.wait(list(self._begun), num_returns=1, timeout=_TICK_S)
            if watch.stop() and not self._is_stopping:
                self._board.ask_to_stop.remote()
                self._is_stopping = True
            if ready:
                task = self._begun.pop(ready[0])
                self._look(watch, at_once=not self._begun)
                return self._result(task, ready[0])
            self._look(watch)

    def call_off(self) -> None:
        """See `Spread`."""
        for reference in self._begun:
            self._ray.cancel(reference, force=True)
        self._begun.clear()

    def _result(self, task: Task, reference: Any) -> Ended:
        try:
            result, error = self._ray.get(reference)
            return Ended(task, result, error)
        except self._ray.exceptions.RayError as lost:
            why = f"{task.name} was lost {LOSSES + 1} times and is given up ({_first_line(lost)})"
            return Ended(task, error=ClusterError(f"{why}; what was finished is kept, the same command goes on"))

    def _look(self, watch: Watch, at_once: bool = False) -> None:
        """Pass on what tasks have told. A board that is gone costs the news, and no task."""
        if not at_once and time.monotonic() - self._looked < _TICK_S:
            return
        self._looked = time.monotonic()
        with contextlib.suppress(self._ray.exceptions.RayError, TimeoutError):
            done, said = self._ray.get(self._board.take.remote(), timeout=10)
            names = {task.name for task in self._begun.values()}
            for name, count in done.items():
                if name in names:  # of one that has ended, the end is known
                    watch.tell(name, count)
            for name, sentence in said:
                watch.say(name, sentence)


class Board:
    """Where tasks write what they have to tell, and read whether they are to stop."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._said: list[tuple[str, str]] = []
        self._stops = False

    def put(self, name: str, done: int | None, sentence: str | None) -> bool:
        """Enter how much of a task is done, or a sentence; whether tasks are to stop."""
        if done is not None:
            self._done[name] = done
        if sentence is not None:
            self._said.append((name, sentence))
        return self._stops

    def take(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """All that was entered since the last call."""
        taken = self._done, self._said
        self._done, self._said = {}, []
        return taken

    def ask_to_stop(self) -> None:
        """From now on tasks are to stop."""
        self._stops = True


class _Link:
    """A task's `psla.spread.Link` to the board."""

    def __init__(self, name: str, board: Any) -> None:
        self._name, self._board = name, board
        self._answer: Any = None
        self._done: int | None = None
        self._told = 0.0
        self._stops = False

    def tell(self, done: int) -> None:
        self._done = done
        self._speak()

    def say(self, sentence: str) -> None:
        self._speak(sentence)

    def stop(self) -> bool:
        if not self._stops:
            self._speak()
            self._read()
        return self._stops

    def _speak(self, sentence: str | None = None) -> None:
        """Tell what there is to tell and hear what there is to hear, now and then; a sentence at once."""
        if sentence is not None or time.monotonic() - self._told >= _TELL_S:
            self._read()
            self._told = time.monotonic()
            self._answer = self._board.put.remote(self._name, self._done, sentence)

    def _read(self) -> None:
        """Look whether the last answer has come; the board may be gone."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
                answer, self._answer = self._answer, None
                self._stops = self._stops or ray.get(answer)


def _work(task: Task, place: tuple[str, str], board: Any) -> tuple[Any, Exception | None]:
    """In a worker process: do a task, in the driver's folder."""
    folder, wanted = place
    try:
        if version("psla") != wanted:
            raise ClusterError(f"{platform.node()} has psla {version('psla')}, the driver {wanted}: install the same")
        try:
            os.chdir(folder)
        except OSError as error:
            raise ClusterError(
                f"{platform.node()} cannot enter {folder} ({error.strerror}): a cluster works in a folder that all its "
                "machines see under one path; run the command in such a one"
            ) from error
        return task.function(*task.args, _Link(task.name, board)), None
    except Exception as error:  # it is raised where the result is taken
        return None, _sendable(error)


def _sendable(error: Exception) -> Exception:
    """The error, or one of the same sentence where it does not survive being sent: Ray pickles what tasks give.

    It is tried here, on the error of this very process; nothing from elsewhere is unpickled.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does when it is taken apart or put together
        return (ValueError if isinstance(error, ValueError) else RuntimeError)(str(error))
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
