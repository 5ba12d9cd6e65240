"""What of a table of clips is really on the disk, and what is missing or broken."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import polars as pl

from psla.data import audio
from psla.data.audio import AudioError
from psla.data.clips import Clips
from psla.data.source import SOUNDSCAPE_PREFIX

_LISTED = 10  # clips of each kind that a summary names


@dataclass(frozen=True)
class Inventory:
    """What was found of a table of clips.

    Attributes:
        have: how many clips are there and readable.
        missing: clip id and path of each clip whose file does not exist.
        unreadable: clip id, path and reason of each clip whose file exists but cannot be read.

    Example:
        >>> print(Inventory(have=3, missing=[("b", "b.wav")]).summary())
        3 of 4 clips present, 1 missing, 0 unreadable
          missing: b (b.wav)
    """

    have: int
    missing: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)

    def summary(self) -> str:
        """The counts in one line, then the first ten clips of each kind with their reason."""
        total = self.have + len(self.missing) + len(self.unreadable)
        head = f"{self.have} of {total} clips present, {len(self.missing)} missing, {len(self.unreadable)} unreadable"
        lost = [f"  missing: {id} ({path})" for id, path in self.missing[:_LISTED]]
        broken = [f"  unreadable: {id} ({path}): {reason}" for id, path, reason in self.unreadable[:_LISTED]]
        for lines, count in ((lost, len(self.missing)), (broken, len(self.unreadable))):
            if count > _LISTED:
                lines.append(f"  … and {count - _LISTED} more")
        return "\n".join([head, *lost, *broken])


def take_inventory(clips: Clips, decode: bool = False) -> tuple[Clips, Inventory]:
    """The clips whose files are there and readable, and the list of those left out, each with its reason.

    Soundscapes are always there. A clip that starts after its file's end is unreadable.

    Args:
        clips: the table; its order is kept.
        decode: decode every clip (slow, finds all damage) and not only its file's header.
    """
    rows = list(clips.frame.select("path", "start_s", "end_s").iter_rows())
    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(lambda row: _fault(row[0], row[1], row[2], decode), rows))
    missing: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str, str]] = []
    for id, (path, _, _), fault in zip(clips.clip_ids, rows, faults, strict=True):
        if fault == "":
            missing.append((id, path))
        elif fault is not None:
            unreadable.append((id, path, fault))
    kept = clips.filter(pl.Series([fault is None for fault in faults], dtype=pl.Boolean()))
    return kept, Inventory(len(kept), missing, unreadable)


def _fault(path: str, start_s: float | None, end_s: float | None, decode: bool) -> str | None:
    """Why a clip cannot be read; empty: no such file; None: it can."""
    if path.startswith(SOUNDSCAPE_PREFIX):
        return None
    if not os.path.exists(path):
        return ""
    try:
        duration_s = audio.probe(path).duration_s
        if start_s is not None and start_s >= duration_s:
            return f"the clip starts at {start_s:g} s, the file ends at {duration_s:g} s"
        if decode:
            audio.read(path, start_s, end_s)
    except AudioError as error:
        return error.reason
    return None
