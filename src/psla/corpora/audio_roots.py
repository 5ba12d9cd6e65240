"""Audio roots: which files under some folders are clips of AudioSet, judged by their names; no file is opened.

    ID.wav   YID.wav   ID_START.flac   ID_START_END.ogg        in part folders at any depth

An id is the first 11 characters, or the 11 after a `Y`: ids hold `-` and `_` and may begin with either, so names are
never cut at them. START and END are seconds or milliseconds, as each downloader has its own habit. Folders whose names
begin with a dot are skipped; links to folders are followed, each folder once.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from psla.audio.probe import Report
from psla.corpora.folder import AUDIO_SUFFIXES
from psla.corpora.segments import ID_PATTERN
from psla.data.clips import ClipsError
from psla.files import NOT_TEXT, is_text, printable

UNDECODABLE = frozenset({".m4a", ".aac", ".mp4", ".webm", ".mkv", ".mka", ".wma"})
"""Suffixes of sound that people have and libsndfile does not decode."""

_NAME = re.compile(rf"Y?({ID_PATTERN})(?:_(\d+(?:\.\d+)?))?(?:_(\d+(?:\.\d+)?))?(\.[A-Za-z0-9]+)")
_THREADS = 16  # listing waits for the disk or the network, not for the processor
_CHUNK = 100_000  # files in a piece of the table while it grows
_SCHEMA = {
    "clip_id": pl.String(),
    "path": pl.String(),
    "suffix": pl.String(),
    "name_start": pl.Float64(),
    "name_end": pl.Float64(),
    "size": pl.Int64(),
    "mtime_ns": pl.Int64(),
    "fault": pl.String(),
}


@dataclass(frozen=True)
class Found:
    """What lies under the roots.

    Attributes:
        files: a row for each file that is named after a wanted clip, sorted by path: clip_id, path, suffix (lower
            case), name_start and name_end (as in the name, unit unknown), size, mtime_ns, and the fault of what is no
            file that could be opened.
        others: how many sound files are named after no wanted clip.
        first_other: the first of them by path, or "".
        unlisted: folders that could not be listed, each with the reason.
    """

    files: pl.DataFrame
    others: int = 0
    first_other: str = ""
    unlisted: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Listing:
    """One folder."""

    folders: list[str] = field(default_factory=list)
    rows: list[tuple] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unlisted: list[tuple[str, str]] = field(default_factory=list)


def find_files(
    roots: Sequence[str | os.PathLike[str]], clip_ids: Collection[str], report: Report | None = None
) -> Found:
    """List the roots in parallel and keep what is named after one of these clips.

    Args:
        roots: folders; what lies under two of them counts once.
        clip_ids: the ids to look for.
        report: told ("files", found, found) after each folder.

    Raises:
        ClipsError: no root, or a root that is no folder.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "Y-a_b-c_d-e1_30000_40000.wav").touch()
        >>> find_files([root], {"-a_b-c_d-e1"}).files.select("clip_id", "name_start", "suffix").rows()
        [('-a_b-c_d-e1', 30000.0, '.wav')]
    """
    if not roots:
        raise ClipsError("no audio root is given; name one folder or more that hold the sound files")
    for root in roots:
        if not Path(root).is_dir():
            raise ClipsError(f"the audio root {os.fspath(root)} is not a folder; give a folder that holds sound files")
    wanted = clip_ids if isinstance(clip_ids, set | frozenset) else frozenset(clip_ids)
    pieces, rows = [pl.DataFrame(schema=_SCHEMA)], []
    others, first_other, unlisted, count = 0, "", [], 0
    for listing in _walk([os.fspath(root) for root in roots], wanted):
        rows += listing.rows
        count += len(listing.rows)
        if len(rows) >= _CHUNK:
            pieces.append(pl.DataFrame(rows, schema=_SCHEMA, orient="row"))
            rows = []
        others += len(listing.others)
        first_other = min([*([first_other] if first_other else []), *listing.others], default="")
        unlisted += listing.unlisted
        if report is not None:
            report("files", count, count)
    pieces.append(pl.DataFrame(rows, schema=_SCHEMA, orient="row"))
    files = pl.concat(pieces).sort("path")
    return Found(files, others, printable(first_other), sorted(unlisted))


def _walk(roots: Sequence[str], wanted: Collection[str]) -> Iterator[_Listing]:
    """The listings of all folders, in the order in which they are ready."""
    seen: set[tuple[int, int]] = set()
    ahead = deque(roots)
    running: set[Future[_Listing]] = set()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="list") as threads:
        while ahead or running:
            while ahead and len(running) < 4 * _THREADS:
                folder = ahead.popleft()
                try:
                    status = os.stat(folder)
                except OSError as error:
                    yield _Listing(unlisted=[(printable(folder), error.strerror or str(error))])
                    continue
                if (status.st_dev, status.st_ino) not in seen:  # a link may lead back, a root may lie in another
                    seen.add((status.st_dev, status.st_ino))
                    running.add(threads.submit(_list, folder, wanted))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                listing = future.result()
                ahead.extend(listing.folders)
                yield listing


def _list(folder: str, wanted: Collection[str]) -> _Listing:
    listing = _Listing()
    named, legible = printable(folder), is_text(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                match = _NAME.fullmatch(name)
                suffix = os.path.splitext(name)[1].lower()
                is_sound = suffix in AUDIO_SUFFIXES or suffix in UNDECODABLE
                is_clip = match is not None and is_sound and match[1] in wanted
                if entry.is_dir() and not name.startswith("."):
                    listing.folders.append(entry.path)
                if is_clip:
                    assert match is not None
                    size, mtime, fault = _look(entry)
                    if not legible:
                        fault = NOT_TEXT
                    start, end = (None if text is None else float(text) for text in match.group(2, 3))
                    path = entry.path if legible else printable(entry.path)
                    listing.rows.append((match[1], path, suffix, start, end, size, mtime, fault))
                elif is_sound and not entry.is_dir():
                    listing.others.append(entry.path)
    except OSError as error:
        listing.unlisted.append((named, error.strerror or str(error)))
    return listing


def _look(entry: os.DirEntry[str]) -> tuple[int, int, str | None]:
    """Size, time of change, and why it cannot be a sound file."""
    try:
        status = entry.stat()
    except OSError as error:
        return 0, 0, f"cannot be looked at: {error.strerror}"
    fault = None
    if stat.S_ISDIR(status.st_mode):
        fault = "a folder, not a sound file"
    elif not stat.S_ISREG(status.st_mode):
        fault = "neither a file nor a folder"
    return status.st_size, status.st_mtime_ns, fault
