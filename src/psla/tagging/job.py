"""A long tagging job: rows of many files, in order, with a journal that a killed job goes on from.

A row in the journal carries a key made of the file's path, size and time of change, the model and every setting that
can change the row. A file is done if the journal has its key: a file that has changed, another model and other settings
are done anew, and the same again is read from the journal. Failed files count as done, too, until they change; those
that failed for a reason of the moment, such as a disk that was away, are not in the journal and are done again.

`tag_apart` does the same in tasks of a few files each, on whatever machine; the rows are the same bytes, for what a
task gives does not depend on which others there are. Of predictions in tasks: `psla.tagging.predicting`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from psla.audio.containers import split_track
from psla.audio.patience import seen
from psla.audio.pipes import is_pipe
from psla.audio.pool import DecodePool, decode_pool
from psla.files import Journal, JournalError, atomic_write
from psla.model.network import Precision
from psla.spread import Link, Spread, Task, cores, in_turn
from psla.tagging.batch import tag_groups
from psla.tagging.output import RowSettings, check_row, row_of
from psla.tagging.privacy import NOTHING, Withheld
from psla.tagging.result import Embedding
from psla.tagging.tagger import Combine, Tagger
from psla.tagging.view import Views
from psla.weights.here import model_here

KEY = "key"
EMBEDDING_SUFFIXES = (".npz", ".safetensors")
GROUP_FILES = 32  # at most, in a task


class EmbeddingFile:
    """Embeddings of each recording, for the clip and for its steps, with the paths: .safetensors or .npz.

    `clips` (recordings, channels) float32, `steps` (all steps, channels) float32, `offsets` (recordings + 1,) int64:
    the steps of recording i are steps[offsets[i] : offsets[i + 1]]; `paths`: the paths as UTF-8 bytes, one a line, and
    `path_spans` (recordings, 2) int64: where each begins and ends in them, for a path may hold line ends, too.

    Gathers embeddings in memory (channels x 4 bytes a step) and writes them at the end, atomically.

    Raises:
        ValueError: a path that does not say in which format.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in EMBEDDING_SUFFIXES:
            raise ValueError(f"{path}: embeddings are written to a file that ends in {' or '.join(EMBEDDING_SUFFIXES)}")
        self.path = path
        self._paths: list[str] = []
        self._embeddings: list[Embedding] = []

    def add(self, path: str, embedding: Embedding) -> None:
        """The embedding of the next recording."""
        self._paths.append(path)
        self._embeddings.append(embedding)

    def save(self) -> None:
        """Write what has been added; nothing, where that is nothing."""
        if not self._embeddings:
            return
        paths = [path.encode("utf-8", "surrogateescape") for path in self._paths]
        ends = np.cumsum([len(path) + 1 for path in paths], dtype=np.int64) - 1
        arrays = {
            "clips": np.stack([e.clip for e in self._embeddings]),
            "steps": np.concatenate([e.steps for e in self._embeddings]),
            "offsets": np.cumsum([0, *(len(e.steps) for e in self._embeddings)], dtype=np.int64),
            "paths": np.frombuffer(b"\n".join(paths), dtype=np.uint8),
            "path_spans": np.stack([ends - list(map(len, paths)), ends], axis=1),
        }
        with atomic_write(self.path) as temporary:
            if self.path.suffix == ".npz":
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
                return
            try:
                save_file(arrays, temporary)
            except SafetensorError as error:  # its own wrapping of what the system said
                raise OSError(f"{self.path} cannot be written: {error}") from error


@dataclass(frozen=True)
class TagJob:
    """What is done with every file.

    Args:
        tagger: the model, its hop and its rule.
        model_hash: what tells this model from others, such as the SHA-256 of its file.
        settings: what goes into the rows.
        embeddings: where the embeddings go of every file that is tagged, if anywhere.
        withheld: what is taken out of every result before anything is made of it.
        views: what gathers all that pictures need of every file that is tagged, if anything does.
        heard: told how far each file is, as `psla.tagging.batch.tag_groups` tells it.
    """

    tagger: Tagger
    model_hash: str
    settings: RowSettings
    embeddings: EmbeddingFile | None = None
    withheld: Withheld = NOTHING
    views: Views | None = None
    heard: Callable[[str, float], None] = lambda path, seconds: None

    def key(self, path: str) -> str:
        """32 hex digits: the same for the same file, unchanged, under the same model and settings."""
        if is_pipe(path):  # which brings something else each time
            return os.urandom(16).hex()
        try:
            stat = os.stat(split_track(path)[0])
            state = [stat.st_size, stat.st_mtime_ns]
            seen(path)
        except OSError:
            state = []
        tagger = {"hop": self.tagger.hop_samples, "window": self.tagger.window_samples, "combine": self.tagger.combine}
        what = [os.path.abspath(path), state, self.model_hash, tagger, asdict(self.settings), asdict(self.withheld)]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]

    def rows(self, paths: Sequence[str], pool: DecodePool, journal: Journal | None = None) -> Iterator[dict[str, Any]]:
        """One row for each path, in order; what the journal has is not done again.

        Each row is in the journal, on the disk, before it is handed out.

        Raises:
            JournalError: a journal that holds something else than such rows.
            ValueError: a journal beside embeddings or views, which a file that the journal has would not get.
        """
        if journal is not None and (self.embeddings is not None or self.views is not None):
            raise ValueError("a journal skips files that are done; embeddings and pictures need them all: choose one")
        keys = [self.key(path) for path in paths]
        done = {} if journal is None else done_rows(journal)
        ahead = [(path, key) for path, key in zip(paths, keys, strict=True) if key not in done]
        fresh = (row for row, _ in self.fresh(ahead, pool, journal))
        for path, key in zip(paths, keys, strict=True):
            yield {**done[key], "path": path} if key in done else next(fresh)

    def fresh(
        self, files: Sequence[tuple[str, str]], pool: DecodePool, journal: Journal | None = None
    ) -> Iterator[tuple[dict[str, Any], bool]]:
        """The rows of files, given with their keys, and whether each failed only for a reason of the moment."""
        keys = iter([key for _, key in files])
        asked, embed = [path for path, _ in files], self.embeddings is not None
        for done in tag_groups(self.tagger, asked, pool, embed, self.heard):
            group = [self.withheld.of(file) for file in done]
            rows = [row_of(file, self.settings, self.tagger.thresholds) for file in group]
            if journal is not None:
                keyed = [{KEY: next(keys), **row} for row in rows]
                journal.append(*(row for file, row in zip(group, keyed, strict=True) if not file.passing))
            if self.embeddings is not None:
                for file in group:
                    if file.result is not None and file.result.embedding is not None:
                        self.embeddings.add(file.path, file.result.embedding)
            if self.views is not None:
                for file, row in zip(group, rows, strict=True):
                    self.views.add(file, row)
            yield from zip(rows, (file.passing for file in group), strict=True)


def done_rows(journal: Journal) -> dict[str, dict[str, Any]]:
    """The rows of a journal by their keys."""
    done = {}
    for number, record in enumerate(journal.records, start=1):
        row = dict(record)
        try:
            key = row.pop(KEY, None)
            if not isinstance(key, str):
                raise ValueError(f"its {KEY} is no text")
            check_row(row)
        except ValueError as error:
            mend = "delete that line, or start another journal"
            raise JournalError(f"{journal.path}: line {number} is no row of `psla tag`, {error}; {mend}") from error
        done[key] = row
    return done


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
