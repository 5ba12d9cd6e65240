"""Spreading: the tasks of a long job, done by whatever does tasks (a `Spread`), in whatever order they end.

    tasks, as they are needed ──► as many as there is room for ──► a Spread ──► what each gives, as it ends

A job that can be spread writes what is finished where it always does, under the same locks: a task that is begun again,
here or elsewhere, goes on from there. `Here` does tasks in this process, one after the other; Ray's is in
`psla.cluster`, which no module of the package imports but the command line. All see one file system.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol


class SpreadError(ValueError):
    """What does tasks is not there or cannot do them, whatever they are."""


def cores() -> int:
    """The processors that this process may use, which a scheduler or a container can have limited.

    >>> 1 <= cores() <= os.cpu_count()
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Link(Protocol):
    """What a task is given as its last argument: how it speaks with whoever began it."""

    def tell(self, done: int) -> None:
        """How much of this task is done, counted from its beginning."""

    def say(self, sentence: str) -> None:
        """A thing that happened."""

    def stop(self) -> bool:
        """Whether the task is to keep its state and end."""


@dataclass(frozen=True)
class Task:
    """A piece of a job.

    Args:
        name: what people and errors call it; no two tasks of a job have one name.
        function: of a module, since another process looks it up there; called as function(*args, link). Called twice
            with the same arguments, at one time or one after the other, it comes to the same.
        args: what can be sent to another process.
        cpus, gpus: how many of them it uses, 0 or more.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Ended:
    """A task, with what it gave or the error that it raised."""

    task: Task
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Watch:
    """Who listens while tasks are at work.

    Args:
        tell: told (task's name, how much of it is done); after a loss it may say less than before.
        say: told (task's name, sentence).
        stop: asked from time to time; when it says True, tasks are told to keep their state and end.
    """

    tell: Callable[[str, int], None] = lambda name, done: None
    say: Callable[[str, str], None] = lambda name, sentence: None
    stop: Callable[[], bool] = lambda: False


class Spread(Protocol):
    """What does tasks."""

    @property
    def room(self) -> int:
        """How many tasks, 1 or more, are to be begun before one has ended."""

    def begin(self, task: Task) -> None:
        """Take a task; returns at once."""

    def ended(self, watch: Watch) -> Ended:
        """Wait until one of the tasks that were begun has ended; each is handed out once.

        Raises:
            LookupError: none was begun.
        """

    def call_off(self) -> None:
        """Forget the tasks that were begun, and end them."""


class Here:
    """A Spread that does each task in this process when it is asked what has ended.

    Example:
        >>> def double(number, link):
        ...     return 2 * number
        >>> [found for task, found in in_turn(Here(), [Task("a", double, (1,)), Task("b", double, (2,))])]
        [2, 4]
    """

    room = 1

    def __init__(self) -> None:
        self._begun: deque[Task] = deque()

    def begin(self, task: Task) -> None:
        """See `Spread`."""
        self._begun.append(task)

    def ended(self, watch: Watch) -> Ended:
        """See `Spread`."""
        if not self._begun:
            raise LookupError("no task was begun")
        task = self._begun.popleft()
        try:
            return Ended(task, task.function(*task.args, _Spoken(task.name, watch)))
        except Exception as error:  # it is raised where the task's result is taken
            return Ended(task, error=error)

    def call_off(self) -> None:
        """See `Spread`."""
        self._begun.clear()


@dataclass(frozen=True)
class _Spoken:
    """A link to a watch in the same process."""

    name: str
    watch: Watch

    def tell(self, done: int) -> None:
        self.watch.tell(self.name, done)

    def say(self, sentence: str) -> None:
        self.watch.say(self.name, sentence)

    def stop(self) -> bool:
        return self.watch.stop()


def in_turn(spread: Spread, tasks: Iterable[Task], watch: Watch = Watch()) -> Generator[tuple[Task, Any], None, None]:
    """Each task with what it gave, in the order in which they end; tasks are taken as there is room for them.

    Raises:
        Exception: what a task raised; the others are called off then, as they are when the caller stops listening.
    """
    ahead = iter(tasks)
    begun = 0
    try:
        while True:
            for task in islice(ahead, max(0, spread.room - begun)):
                spread.begin(task)
                begun += 1
            if not begun:
                return
            found = spread.ended(watch)
            begun -= 1
            if found.error is not None:
                raise found.error
            yield found.task, found.result
    finally:
        if begun:
            spread.call_off()
