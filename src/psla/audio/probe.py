"""Headers of many sound files: how long each is, or why it cannot be read; probed in watched workers, kept in a file.

The file makes a scan of millions of files resumable, and a second scan quick: what was probed before is known by path,
size and time of change. It is a cache: deleting it costs time only.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import polars as pl
import soundfile

from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job
from psla.files import atomic_write
from psla.sealed import read_parquet, write_parquet
from psla.spread import cores

Report = Callable[[str, int, int], None]
"""Called as report(stage, done, total) now and then."""

FORMAT_VERSION = 1
_BATCH = 64  # files that a worker is asked about at a time
_TIMEOUT_S = 60.0  # without an answer; a slow network disk may take a second a file
_SAVE_S = 15.0  # seconds of work that a killed scan may lose; more where saving itself takes long
_KEY = ["path", "size", "mtime_ns", "decoded"]
_SCHEMA = {
    "path": pl.String(),
    "size": pl.Int64(),
    "mtime_ns": pl.Int64(),
    "decoded": pl.Boolean(),
    "duration_s": pl.Float64(),
    "fault": pl.String(),
}


class Headers:
    """What is known of the headers of sound files.

    Args:
        path: where it is kept; None: nowhere. A file of another version, or of other decoders, is started anew.
        workers: processes that probe; None: one a processor, and one alone for a few files.

    Example:
        >>> Headers(None).probe(pl.DataFrame({"path": ["gone.wav"], "size": [0], "mtime_ns": [0]})).rows()
        [(None, 'cannot be opened: No such file or directory')]
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, workers: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._workers = workers
        decoders = {"libsndfile": soundfile.__libsndfile_version__, "av": version("av")}
        self._version = {"version": FORMAT_VERSION, **decoders}
        self._passing: list[str] = []  # files whose fault may be gone in a moment: no other scan is told of it
        self._known = self._read()

    def probe(self, files: pl.DataFrame, decode: bool = False, report: Report | None = None) -> pl.DataFrame:
        """duration_s and fault of each file, in the order of `files`; exactly one of them is null.

        However it ends (an exception, Ctrl-C), what has been probed is kept.

        Args:
            files: path, size (bytes) and mtime_ns of each file.
            decode: decode each file to its end; a file that was decoded before need not be probed again.
            report: told ("headers", done, total) of the files that had to be looked into.

        Raises:
            OSError: the headers cannot be written.
        """
        asked = files.select("path", "size", "mtime_ns", pl.lit(decode).alias("decoded"))
        new = asked.unique("path").join(self._known, on=_KEY, how="anti", nulls_equal=True).sort("path")
        if len(new):
            self._probe_new(new, decode, report)
        return asked.join(self._known, on=_KEY, how="left", maintain_order="left", nulls_equal=True).select(
            "duration_s", "fault"
        )

    def _probe_new(self, new: pl.DataFrame, decode: bool, report: Report | None) -> None:
        done: list[tuple[float | None, str | None]] = []
        before, saved, pause = self._known, time.monotonic(), _SAVE_S

        def take_in() -> None:
            found = pl.DataFrame(done, schema={k: _SCHEMA[k] for k in ("duration_s", "fault")}, orient="row")
            # An older entry of the same file goes: the file has changed.
            old = before.join(new.head(len(done)).select("path", "decoded"), on=["path", "decoded"], how="anti")
            self._known = pl.concat([old, new.head(len(done)).hstack(found)])
            self._write()

        try:
            for answers in _ask(new["path"].to_list(), decode, self._workers):
                begun = len(done)
                self._passing += [new["path"][begun + i] for i, answer in enumerate(answers) if answer.passing]
                done += [answer[:2] for answer in answers]
                if report is not None:
                    report("headers", len(done), len(new))
                if self.path is not None and time.monotonic() - saved > pause:
                    began = time.monotonic()
                    take_in()
                    saved = time.monotonic()
                    pause = max(_SAVE_S, 20 * (saved - began))
        finally:
            take_in()

    def _read(self) -> pl.DataFrame:
        empty = pl.DataFrame(schema=_SCHEMA)
        if self.path is None or not self.path.exists():
            return empty
        try:
            found, header = read_parquet(self.path, "psla_headers", ValueError, None)
        except ValueError as error:
            reason = " ".join(str(error.__cause__).split())
            warnings.warn(f"{self.path} is damaged ({reason}); all headers are read again", stacklevel=3)
            return empty
        return found if header == self._version and found.schema == empty.schema else empty

    def _write(self) -> None:
        if self.path is not None:
            lasting = self._known.filter(~pl.col("path").is_in(self._passing))
            with atomic_write(self.path) as temporary:
                write_parquet(lasting, temporary, "psla_headers", self._version)


def short(seconds: pl.Expr) -> pl.Expr:
    """Seconds as text: milliseconds where there are any, a whole number without zeros.

    Example:
        >>> pl.select(short(pl.lit(0.10004))).item(), pl.select(short(pl.lit(30.0))).item()
        ('0.1', '30')
    """
    return seconds.round(3).cast(pl.String()).str.replace(r"\.0$", "")


class _Answer(NamedTuple):
    """Seconds, or the fault; and whether that may be gone in a moment."""

    duration_s: float | None
    fault: str | None
    passing: bool = False


def _ask(paths: Sequence[str], decode: bool, workers: int | None) -> Iterator[list[_Answer]]:
    """The answers for all paths, batch by batch; a batch whose worker is lost is asked again file by file."""
    size = 1 if decode else _BATCH
    batches = [paths[i : i + size] for i in range(0, len(paths), size)]
    count = min(len(batches), workers or cores())
    with DecodePool(count, _TIMEOUT_S, decoder="psla.audio.worker:inspect") as pool:
        yield from _answers(pool, batches, decode)


def _answers(pool: DecodePool, batches: Sequence[Sequence[str]], decode: bool) -> Iterator[list[_Answer]]:
    asked = (json.dumps({"paths": list(batch), "decode": decode}).encode("ascii") for batch in batches)
    results = pool.ask(Job(text, rate=1) for text in asked)  # no samples are asked for, at no rate
    for batch, (_, result) in zip(batches, results, strict=True):
        if not isinstance(result, AudioError):
            yield [_Answer(**told) for told in result]
        elif len(batch) == 1:
            yield [_Answer(None, result.reason)]
        else:
            yield from _answers(pool, [[path] for path in batch], decode)
