"""The clips of AudioSet that you have: the published lists (`lists`) joined with the sound files (`files`)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import polars as pl

from psla.audio.probe import Headers, Report
from psla.corpora.audioset.files import UNREADABLE, WRONG_LENGTH, Found, Matched, choose_files, find_files
from psla.corpora.audioset.lists import LISTS, read_lists
from psla.data.clips import Clips, ClipsError
from psla.data.inventory import Inventory, shares
from psla.data.vocabulary import Vocabulary


def read(
    folder: str | os.PathLike[str],
    audio: Sequence[str | os.PathLike[str]],
    lists: Sequence[str] = tuple(LISTS),
    vocabulary: Vocabulary | None = None,
) -> Clips:
    """The clips whose sound files are under the audio roots; a warning counts the others. See `scan`, which lists them.

    Raises:
        ClipsError: as `scan`, or none of the files is there.

    Example:
        >>> clips = read("lists", ["/data/audioset"], ["balanced", "evaluation"])  # doctest: +SKIP
    """
    clips, inventory = scan(folder, audio, lists, vocabulary)
    if not len(clips):
        raise ClipsError(f"AudioSet: {inventory.counts()}; no sound file under the audio roots can be used")
    if len(clips) < inventory.listed:
        warnings.warn(f"AudioSet: {inventory.counts()}", stacklevel=2)
    return clips


def scan(
    folder: str | os.PathLike[str],
    audio: Sequence[str | os.PathLike[str]],
    lists: Sequence[str] = tuple(LISTS),
    vocabulary: Vocabulary | None = None,
    *,
    headers: str | os.PathLike[str] | None = None,
    decode: bool = False,
    keep_wrong_length: bool = False,
    report: Report | None = None,
) -> tuple[Clips, Inventory]:
    """The clips whose sound files are under the audio roots, and the inventory of all that the lists name.

    `files` says which names are known, which of several files is used and what a wrong length is. No file is changed.

    Args:
        folder, lists, vocabulary: see `read_lists`.
        audio: the audio roots.
        headers: a file that keeps what was learnt of the sound files, so that an interrupted scan goes on.
        decode: decode every file that is used (slow, finds all damage) and not only its header.
        keep_wrong_length: keep clips whose only readable file is too short or too long.
        report: told (stage, done, total) now and then; the stages are files and headers.

    Raises:
        ClipsError: as `read_lists` and `find_files`.

    Example:
        >>> clips, inventory = scan("lists", ["/data/audioset"])  # doctest: +SKIP
        >>> print(inventory.counts())                             # doctest: +SKIP
        1850123 of 2084320 clips present, 233950 missing, 17 unreadable, 230 of the wrong length
    """
    listed = read_lists(folder, lists, vocabulary)
    found = find_files(audio, frozenset(listed.frame["clip_id"]), report)
    segments = listed.frame.select("clip_id", "segment_start_s", "segment_end_s")
    matched = choose_files(found.files, segments, Headers(headers), decode, keep_wrong_length, report)
    frame = listed.frame.drop("path", "start_s", "end_s")
    frame = frame.join(matched.used, on="clip_id", how="left", maintain_order="left")
    present = frame["path"].is_not_null()
    clips = Clips(frame.filter(present), listed.vocabulary, listed.name)
    return clips, _inventory(listed, present, found, matched)


def _inventory(listed: Clips, present: pl.Series, found: Found, matched: Matched) -> Inventory:
    failed = {kind: matched.failed.filter(pl.col("kind") == kind) for kind in (UNREADABLE, WRONG_LENGTH)}
    lost = listed.frame.select("clip_id").filter(~present).join(matched.failed, on="clip_id", how="anti")
    classes, splits = shares(listed, present)
    notes = [f"{folder} could not be listed: {reason}" for folder, reason in found.unlisted]
    if found.others:
        notes.append(f"sound files named after no listed clip: {found.others}, the first: {found.first_other}")
    return Inventory(
        have=int(present.sum()),
        missing=[(id, "") for id in lost["clip_id"]],
        unreadable=failed[UNREADABLE].select("clip_id", "path", "fault").rows(),
        wrong_length=failed[WRONG_LENGTH].select("clip_id", "path", "fault").rows(),
        duplicates=matched.duplicates.with_columns(pl.col("fault").fill_null("")).rows(),
        classes=classes,
        splits=splits,
        notes=notes,
        name=listed.name,
    )
