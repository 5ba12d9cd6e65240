"""Sound files below a folder, by their names: one walker, whose rules hold for corpora, tagging and fitting alike.

Links to folders are followed, each folder once: what can be reached without a link is found there. Names that begin
with a dot are hidden. What is not taken is counted with its reason: nothing vanishes. AudioSet's folders of millions of
files have a walker of their own with the same rules (`psla.corpora.audioset.files`).
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from dataclasses import dataclass, field

from psla.audio.decode import AUDIO_SUFFIXES
from psla.files import few, printable

HIDDEN = "hidden: their names begin with a dot"
TWICE = "links to folders that are read already"
ODD = "neither files nor folders, such as named pipes and links to nothing"


@dataclass(frozen=True)
class Found:
    """What lies below a folder.

    Attributes:
        files: the sound files, sorted.
        left_out: what could be sound and is not taken, by the reason.
        others: files that are not sound by their names, counted by what they end in.
    """

    files: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def remarks(self) -> list[str]:
        """What was left out, a sentence a reason, with the count and the first by name."""
        said = [
            f"{len(paths):,} left out, {reason}; the first: {printable(min(paths))}"
            for reason, paths in sorted(self.left_out.items())
        ]
        if count := sum(self.others.values()):
            kinds = [f"{suffix or 'without an ending'} {many:,}" for suffix, many in self.others.most_common()]
            said.append(f"{count:,} files left out, which are not sound by their names ({few(kinds)})")
        return said


def sound_files(folder: str | os.PathLike[str]) -> Found:
    """The sound files below a folder, at any depth, and what else is there.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("b.wav", "a.FLAC", ".c.wav", "notes.txt"):
        ...     (root / name).touch()
        >>> found = sound_files(root)
        >>> [Path(file).name for file in found.files], found.others
        (['a.FLAC', 'b.wav'], Counter({'.txt': 1}))
    """
    found, seen = Found(), set()
    ahead, links = deque([os.fspath(folder)]), deque[str]()
    while ahead or links:
        here, linked = (ahead.popleft(), False) if ahead else (links.popleft(), True)
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                if linked:
                    _leave(found, TWICE, here)
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    _take(found, entry, ahead, links)
        except OSError as error:
            _leave(found, f"folders that cannot be listed ({error.strerror or error})", here)
    found.files.sort()
    return found


def _take(found: Found, entry: os.DirEntry[str], ahead: deque[str], links: deque[str]) -> None:
    suffix = os.path.splitext(entry.name)[1].lower()
    if is_folder(entry):
        if entry.name.startswith("."):
            _leave(found, HIDDEN, entry.path)
        else:
            (links if entry.is_symlink() else ahead).append(entry.path)
    elif suffix not in AUDIO_SUFFIXES:
        found.others[suffix] += 1
    elif entry.name.startswith("."):
        _leave(found, HIDDEN, entry.path)
    elif not _is_file(entry):
        _leave(found, ODD, entry.path)
    else:
        found.files.append(entry.path)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link that leads back to itself, or to what is forbidden, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _leave(found: Found, reason: str, path: str) -> None:
    found.left_out.setdefault(reason, []).append(path)
