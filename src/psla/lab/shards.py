"""Shards: the jobs of an experiment spread over processes that see one folder, and a lock against doing them twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from psla.files import Journal, JournalError

T = TypeVar("T")


class LabError(ValueError):
    """A folder or clips that an experiment cannot work with; the sentence says what to do."""


def share_of(jobs: Sequence[T], shard: tuple[int, int] | None) -> list[T]:
    """The jobs of shard (i, n), 1 <= i <= n: every n-th from the i-th on; all of them for None.

    Example:
        >>> share_of("abcde", (1, 2)), share_of("abcde", (2, 2))
        (['a', 'c', 'e'], ['b', 'd'])
    """
    return [job for number, job in enumerate(jobs) if shard is None or number % shard[1] == shard[0] - 1]


@contextmanager
def working(folder: Path, shard: tuple[int, int] | None) -> Iterator[Journal]:
    """Hold a folder, or its shard, for this process while the block runs; its journal.

    Raises:
        LabError: another process works on the folder, or on the same shard of it.
    """
    name = "journal.jsonl" if shard is None else f"journal-{shard[0]}-of-{shard[1]}.jsonl"
    others = sorted(folder.glob("journal-*.jsonl")) if shard is None else []
    with ExitStack() as stack:
        try:
            journal = stack.enter_context(Journal(folder / name))
            for path in others:
                stack.enter_context(Journal(path))
        except JournalError as error:
            raise LabError(f"another process works on {folder}: wait for it, or stop it ({error})") from error
        yield journal
