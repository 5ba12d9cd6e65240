"""Sound files of AudioSet: which files under some folders are clips, and which of several is used for one.

    ID.wav   YID.wav   ID_START.flac   ID_START_END.ogg        in part folders at any depth

Files are judged by their names; none is opened to find them. An id is the first 11 characters, or the 11 after a `Y`:
ids hold `-` and `_` and may begin with either, so names are never cut at them. START and END are seconds or
milliseconds, as each downloader has its own habit. Folders whose names begin with a dot are skipped; links to folders
are followed, each folder once.

Order of choice among the files of one clip: lossless formats, then lossy ones, then those in containers; among equals
the shortest path, then the alphabet. The first in this order that is readable and of the right length is used.

A file of the right length lasts as long as the segment, give or take 0.5 s. A longer file without times in its name
that reaches to the segment's end is the whole video: its clip is the segment within it. Whatever else is longer or
shorter, and a file whose name gives the times of another part of the video, has the wrong length.
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

from psla.audio import containers
from psla.audio.decode import AUDIO_SUFFIXES
from psla.audio.folders import is_folder
from psla.audio.probe import Headers, Report, short
from psla.corpora.audioset.lists import ID_PATTERN
from psla.data.clips import ClipsError
from psla.files import NOT_TEXT, is_text, printable

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

TOLERANCE_S = 0.5  # between a file's length and its segment's
_NAMED_WITHIN_S = 1.0  # names carry whole seconds of starts that need not be whole
_LOSSY = (".mp3", ".ogg", ".oga", ".opus")
UNREADABLE, WRONG_LENGTH = "unreadable", "wrong length"


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
    wanted = frozenset(clip_ids)
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
                is_sound = suffix in AUDIO_SUFFIXES
                is_clip = match is not None and is_sound and match[1] in wanted
                if is_folder(entry) and not name.startswith("."):
                    listing.folders.append(entry.path)
                if is_clip:
                    assert match is not None
                    size, mtime, fault = _look(entry)
                    if not legible:
                        fault = NOT_TEXT
                    start, end = (None if text is None else float(text) for text in match.group(2, 3))
                    path = entry.path if legible else printable(entry.path)
                    listing.rows.append((match[1], path, suffix, start, end, size, mtime, fault))
                elif is_sound and not is_folder(entry):
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


@dataclass(frozen=True)
class Matched:
    """What became of the files.

    Attributes:
        used: clip_id, path, start_s, end_s: the file of each clip that has one; times are null but in whole videos.
        failed: clip_id, path, kind, fault: the best file of each clip of whose files none is right.
        duplicates: clip_id, used, path, fault: each further file of a clip; fault is null where it was not needed.
    """

    used: pl.DataFrame
    failed: pl.DataFrame
    duplicates: pl.DataFrame


def choose_files(
    files: pl.DataFrame,
    segments: pl.DataFrame,
    headers: Headers,
    decode: bool = False,
    keep_wrong_length: bool = False,
    report: Report | None = None,
) -> Matched:
    """Choose a file for each clip, as the module's head says.

    Args:
        files: as `find_files` gives them.
        segments: clip_id, segment_start_s and segment_end_s of each clip that is wanted.
        headers: tells the lengths, and remembers them.
        decode: decode each file that is chosen, and not only its header.
        keep_wrong_length: use a file of the wrong length, too, where its name does not give other times; it is in
            `failed` all the same.
        report: see `Headers.probe`.
    """
    ahead = _ordered(files.join(segments, on="clip_id", how="left", maintain_order="left"))
    tried, settled = ahead.clear(), pl.DataFrame(schema={"clip_id": pl.String()})
    for order in range(int(ahead["order"].max() or 0) + 1 if len(ahead) else 0):  # type: ignore[arg-type]
        turn = ahead.filter(pl.col("order") == order).join(settled, on="clip_id", how="anti", maintain_order="left")
        turn = _judged(turn, headers, decode, report)
        tried = pl.concat([tried, turn])
        settled = pl.concat([settled, turn.filter(pl.col("fault").is_null()).select("clip_id")])
    right = tried.filter(pl.col("fault").is_null())
    failed = tried.join(right, on="clip_id", how="anti", maintain_order="left")
    # What has the wrong length can at least be read: it is the better of two failures.
    failed = failed.sort(pl.col("kind") == UNREADABLE, "order", maintain_order=True).unique("clip_id", keep="first")
    usable = (pl.col("kind") == WRONG_LENGTH) & ~pl.col("other_part") & keep_wrong_length
    used = pl.concat([right, failed.filter(usable)])
    best = pl.concat([right, failed]).select("clip_id", pl.col("path").alias("used"))
    others = ahead.drop("fault").join(best, on="clip_id").filter(pl.col("path") != pl.col("used"))
    others = others.join(tried.select("path", "fault"), on="path", how="left").sort("clip_id", "order")
    return Matched(
        used.select("clip_id", "path", "start_s", "end_s").sort("clip_id"),
        failed.select("clip_id", "path", "kind", "fault").sort("clip_id"),
        others.select("clip_id", "used", "path", "fault"),
    )


def _ordered(files: pl.DataFrame) -> pl.DataFrame:
    """With `order`, the place in the order of choice among the clip's files, and what is wrong by name alone."""
    suffix = pl.col("suffix")
    rank = pl.when(suffix.is_in(sorted(containers.SUFFIXES))).then(2).when(suffix.is_in(_LOSSY)).then(1).otherwise(0)
    start, end = pl.col("segment_start_s"), pl.col("segment_end_s")
    named, named_end = pl.col("name_start"), pl.col("name_end")

    def close(value: pl.Expr, to: pl.Expr) -> pl.Expr:
        return (value - to).abs() < _NAMED_WITHIN_S

    in_s = close(named, start) & close(named_end, end).fill_null(True)
    # A start alone below 1000 is no number of milliseconds, but 0.
    end_in_ms = (
        pl.when(named_end.is_null()).then((named == 0) | (named >= 1000)).otherwise(close(named_end / 1000, end))
    )
    in_ms = close(named / 1000, start) & end_in_ms
    other_part = named.is_not_null() & ~(in_s | in_ms)
    named_part = pl.concat_str(short(named), pl.lit(" to ") + short(named_end), ignore_nulls=True)
    part_fault = pl.format("its name gives {}, the segment is {} s to {} s", named_part, short(start), short(end))
    unknown = pl.lit(None, dtype=pl.Float64())
    files = files.with_columns(rank=rank, other_part=other_part, start_s=unknown, end_s=unknown)
    fault = pl.col("fault")
    files = files.with_columns(
        pl.when(fault.is_null() & pl.col("other_part"))
        .then(pl.lit(WRONG_LENGTH))
        .otherwise(pl.lit(UNREADABLE))
        .alias("kind"),
        pl.coalesce(
            fault,
            pl.when(pl.col("other_part")).then(part_fault),
        ).alias("fault"),
    )
    files = files.sort("clip_id", "rank", pl.col("path").str.len_chars(), "path")
    return files.with_columns(pl.int_range(pl.len()).over("clip_id").alias("order"))


def _judged(files: pl.DataFrame, headers: Headers, decode: bool, report: Report | None) -> pl.DataFrame:
    """With start_s and end_s where the file is a whole video, and the fault where there is one."""
    known_bad = files.filter(pl.col("fault").is_not_null())
    asked = files.filter(pl.col("fault").is_null()).drop("fault")
    asked = asked.hstack(headers.probe(asked, decode, report))
    start, end, lasts = pl.col("segment_start_s"), pl.col("segment_end_s"), pl.col("duration_s")
    wanted = end - start
    right = (lasts - wanted).abs() <= TOLERANCE_S
    whole = ~right & pl.col("name_start").is_null() & (lasts > wanted) & (lasts >= end - TOLERANCE_S)
    length = pl.format("lasts {} s, its segment {} s", short(lasts), short(wanted))
    asked = asked.with_columns(
        pl.when(pl.col("fault").is_null()).then(pl.lit(WRONG_LENGTH)).otherwise(pl.lit(UNREADABLE)).alias("kind"),
        pl.when(pl.col("fault").is_null() & ~right & ~whole).then(length).otherwise(pl.col("fault")).alias("fault"),
        pl.when(whole).then(start).alias("start_s"),
        pl.when(whole).then(end).alias("end_s"),
    )
    return pl.concat([known_bad, asked.select(known_bad.columns)])
