"""Tagging in tasks of a few files each, on whatever machine; the rows are the same bytes as those of `TagJob.rows`.

What a task gives does not depend on which others there are, and the driver hands rows out in the order of the files.
Rows go into the journal as tasks end. Of predictions in tasks: `psla.tagging.predicting`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from psla.audio.pool import decode_pool
from psla.files import Journal
from psla.model.network import Precision
from psla.spread import Link, Spread, Task, cores, in_turn
from psla.tagging.job import KEY, TagJob, done_rows
from psla.tagging.output import RowSettings
from psla.tagging.privacy import Withheld
from psla.tagging.tagger import Combine, Tagger
from psla.weights.here import model_here

GROUP_FILES = 32  # at most, in a task


@dataclass(frozen=True)
class TagTask:
    """What is done with every file, as another process can be told it; see `TagJob`.

    Args:
        model: a path or a name. model_hash: its SHA-256. workers: processes that decode.
    """

    model: str
    model_hash: str
    hop: float | None
    combine: Combine
    precision: Precision
    settings: RowSettings
    withheld: Withheld
    window: float | None = None
    workers: int = 1

    @staticmethod
    def of(
        job: TagJob, model: str, hop: float | None, precision: Precision, window: float | None, workers: int
    ) -> TagTask:
        """What does the same as a job, whose `model_hash` begins with the SHA-256 of the model's file."""
        model_hash, combine = job.model_hash.split()[0], job.tagger.combine
        return TagTask(model, model_hash, hop, combine, precision, job.settings, job.withheld, window, workers)


def tag_apart(
    job: TagJob, task: TagTask, paths: Sequence[str], spread: Spread, journal: Journal | None = None
) -> Iterator[dict[str, Any]]:
    """As `TagJob.rows`, the files in tasks of a few: one row for each path, in order.

    Rows go into the journal as tasks end, in whatever order, and are handed out in that of the paths.
    """
    keys = [job.key(path) for path in paths]
    done = {} if journal is None else done_rows(journal)
    ahead = [number for number, key in enumerate(keys) if key not in done]
    size = max(1, min(GROUP_FILES, math.ceil(len(ahead) / (2 * spread.room))))
    groups = {f"files from {n + 1} on": ahead[n : n + size] for n in range(0, len(ahead), size)}
    tasks = (Task(name, tag_part, (task, [paths[each] for each in group]), cpus=1) for name, group in groups.items())
    fresh: dict[int, dict[str, Any]] = {}
    coming = in_turn(spread, tasks)
    for number, (path, key) in enumerate(zip(paths, keys, strict=True)):
        if key in done:
            yield {**done[key], "path": path}
            continue
        while number not in fresh:
            ended, found = next(coming)
            group = groups[ended.name]
            if journal is not None:
                lasting = [(each, row) for each, (row, passing) in zip(group, found, strict=True) if not passing]
                journal.append(*({KEY: keys[each], **row} for each, row in lasting))
            fresh.update((each, row) for each, (row, _) in zip(group, found, strict=True))
        yield fresh.pop(number)


def tag_part(task: TagTask, paths: Sequence[str], link: Link) -> list[tuple[dict[str, Any], bool]]:
    """The rows of some files, as `TagJob.fresh`.

    Raises:
        ValueError: another model than the driver's stands behind the name here.
    """
    tagger = _tagger(task.model, task.model_hash, task.hop, task.combine, task.precision, task.window)
    job = TagJob(tagger, task.model_hash, task.settings, withheld=task.withheld)  # its key is the driver's affair
    with decode_pool(min(len(paths), task.workers, cores())) as pool:
        return list(job.fresh([(path, "") for path in paths], pool))


@lru_cache(maxsize=1)
def _tagger(
    name: str, model_hash: str, hop: float | None, combine: Combine, precision: Precision, window: float | None
) -> Tagger:
    return Tagger(model_here(name, model_hash), hop, combine, precision, window_s=window)
