"""A long tagging job: rows of many files, in order, with a journal that a killed job goes on from.

A row in the journal carries a key made of the file's path, size and time of change, the model and every setting that
can change the row. A file is done if the journal has its key: a file that has changed, another model and other settings
are done anew, and the same again is read from the journal. Failed files count as done, too, until they change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psla.audio.pool import DecodePool
from psla.files import Journal
from psla.tagging.batch import FileResult, tag_groups
from psla.tagging.embeddings import EmbeddingFile
from psla.tagging.rows import RowSettings, row_of
from psla.tagging.tagger import Tagger

KEY = "key"


@dataclass(frozen=True)
class TagJob:
    """What is done with every file.

    Args:
        tagger: the model, its hop and its rule.
        model_hash: what tells this model from others, such as the SHA-256 of its file.
        settings: what goes into the rows.
        embeddings: where the embeddings go of every file that is tagged, if anywhere.
    """

    tagger: Tagger
    model_hash: str
    settings: RowSettings
    embeddings: EmbeddingFile | None = None

    def key(self, path: str) -> str:
        """32 hex digits: the same for the same file, unchanged, under the same model and settings."""
        try:
            stat = os.stat(path)
            state = [stat.st_size, stat.st_mtime_ns]
        except OSError:
            state = []
        tagger = {"hop": self.tagger.hop_samples, "combine": self.tagger.combine}
        what = [os.path.abspath(path), state, self.model_hash, tagger, self.settings.to_dict()]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]

    def row(self, file: FileResult) -> dict[str, Any]:
        """The row of one file."""
        return row_of(file, self.settings, self.tagger.model.card.thresholds)

    def rows(self, paths: Sequence[str], pool: DecodePool, journal: Journal | None = None) -> Iterator[dict[str, Any]]:
        """One row for each path, in order; what the journal has is not done again.

        Each row is in the journal, on the disk, before it is handed out.

        Raises:
            ValueError: a journal beside embeddings, which a file that the journal has would not get.
        """
        if journal is not None and self.embeddings is not None:
            raise ValueError("a journal skips files that are done, and embeddings need them all: choose one")
        done: dict[str, Mapping[str, Any]] = {}
        keys = [""] * len(paths)
        if journal is not None:
            keys = [self.key(path) for path in paths]
            done = {str(row.get(KEY)): row for row in journal.records}
        ahead = [(path, key) for path, key in zip(paths, keys, strict=True) if key not in done]
        fresh = self._fresh(ahead, pool, journal)
        for path, key in zip(paths, keys, strict=True):
            yield {**_without_key(done[key]), "path": path} if key in done else next(fresh)

    def _fresh(
        self, files: Sequence[tuple[str, str]], pool: DecodePool, journal: Journal | None
    ) -> Iterator[dict[str, Any]]:
        keys = iter([key for _, key in files])
        for group in tag_groups(self.tagger, [path for path, _ in files], pool, embed=self.embeddings is not None):
            rows = [self.row(file) for file in group]
            if journal is not None:
                journal.append(*({KEY: next(keys), **row} for row in rows))
            if self.embeddings is not None:
                for file in group:
                    if file.result is not None and file.result.embedding is not None:
                        self.embeddings.add(file.path, file.result.embedding)
            yield from rows


def _without_key(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != KEY}
