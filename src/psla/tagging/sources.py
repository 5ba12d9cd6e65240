"""Which files are meant: paths, folders and glob patterns -> a list of files, sorted, none of them twice."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

_WILD = frozenset("*?[")


class SourcesError(ValueError):
    """A folder or a pattern that stands for no file."""


def expand_sources(sources: Iterable[str]) -> list[str]:
    """The files that paths, folders and patterns stand for.

    A folder stands for the sound files in it at any depth, hidden ones left out; a pattern (`*`, `?`, `[...]`, `**` for
    any depth) for what matches, folders among it as folders. Both are sorted; what is given first comes first. A file
    that is meant twice is listed where it is meant first. A path that does not exist is kept: tagging says why it
    cannot be read.

    Raises:
        SourcesError: a folder without sound files, or a pattern that nothing matches.

    Example:
        >>> expand_sources(["b.wav", "a.wav", "./b.wav"])
        ['b.wav', 'a.wav']
    """
    found: dict[str, str] = {}
    for source in sources:
        for file in _files_of(source):
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def _files_of(source: str) -> list[str]:
    if os.path.isdir(source):
        if files := _files_below(source):
            return files
        raise SourcesError(f"{source}: a folder without sound files ({', '.join(sorted(_suffixes()))})")
    if not os.path.lexists(source) and _WILD & set(source):
        matches = sorted(glob.glob(source, recursive=True))
        if files := [f for match in matches for f in (_files_below(match) if os.path.isdir(match) else [match])]:
            return files
        raise SourcesError(f"{source}: no file matches this pattern")
    return [source]


def _files_below(folder: str) -> list[str]:
    files, suffixes = [], _suffixes()
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [os.path.join(root, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in suffixes]
    return sorted(files)


def _suffixes() -> frozenset[str]:
    from psla.data.corpora.folder import AUDIO_SUFFIXES  # brings polars, which a list of files does not need

    return AUDIO_SUFFIXES
