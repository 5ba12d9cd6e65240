"""Which files are meant: paths, folders and glob patterns -> a list of files, sorted, none of them twice.

And which of the words of a command is a model, if any: `split_model`.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from psla.audio.containers import split_track
from psla.audio.decode import AUDIO_SUFFIXES
from psla.audio.folders import HIDDEN, sound_files
from psla.audio.pipes import is_pipe
from psla.weights.catalogue import SUFFIXES, known_names, names_near, scheme_of

_WILD = frozenset("*?[")


class SourcesError(ValueError):
    """A folder or a pattern that stands for no file, or a word that is neither these nor a model."""


def split_model(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Model and sources, of words the first of which may be a model.

    It is one if it is a name that `psla models` lists, an address (`hf://ORG/NAME`), or ends as model files do
    (.safetensors, .json, .onnx), there or not. A path that exists, a pattern and a name that ends as sound files do are
    sources.

    Returns: the model, None if none is named, and the sources, at least one.

    Raises:
        SourcesError: a first word that is neither, a model without sources, or a model file after the sources where
            none is named before them.

    Example:
        >>> split_model(["esc10-lite0", "dog.wav"]), split_model(["dog.wav", "rain.wav"])
        (('esc10-lite0', ['dog.wav']), (None, ['dog.wav', 'rain.wav']))
    """
    first, *rest = words
    if first in known_names() or scheme_of(first) or Path(first).suffix in SUFFIXES:
        if not rest:
            other = f", or ./{first} for the folder" if os.path.lexists(first) and not Path(first).suffix else ""
            raise SourcesError(f"{first} is a model: name the sound files, folders or patterns after it{other}")
        return first, rest
    if not (is_pipe(first) or os.path.lexists(first) or _WILD & set(first) or _is_sound(first)):
        raise SourcesError(
            f"{first!r} is neither a model by name ({names_near(first)}) nor a sound file, a folder or a pattern"
        )
    # Not every .json among many files is an ensemble.
    if late := next((word for word in rest if word in known_names() or word.endswith(".safetensors")), None):
        raise SourcesError(f"{late} is a model: name it before the sound files")
    return None, [first, *rest]


def _is_sound(path: str) -> bool:
    return Path(split_track(path)[0]).suffix.lower() in AUDIO_SUFFIXES


def expand_sources(sources: Iterable[str]) -> list[str]:
    """The files that paths, folders and patterns stand for.

    A folder stands for the sound files in it at any depth, hidden ones left out; a pattern (`*`, `?`, `[...]`, `**` for
    any depth) for what matches, folders among it as folders. Both are sorted; what is given first comes first. A file
    that is meant twice is listed where it is meant first. `movie.mp4#track=2`: its second audio track. `-`: standard
    input. A path that does not exist is kept: tagging says why it cannot be read; so is, beside files that are found,
    a folder without sound files and a pattern that nothing matches.

    A folder without sound files and a pattern that nothing matches are told in a warning, as is what is left out of a
    folder with its reason.

    Raises:
        SourcesError: nothing but folders without sound files and patterns that nothing matches.

    Example:
        >>> expand_sources(["b.wav", "a.wav", "./b.wav"])
        ['b.wav', 'a.wav']
    """
    found: dict[str, str] = {}
    empty: list[str] = []
    for source in sources:
        files, reason = _files_of(source)
        empty += [reason] if reason else []
        for file in [source] if reason else files:
            found.setdefault(os.path.abspath(file), file)
    if empty and len(empty) == len(found):
        raise SourcesError(empty[0])
    for reason in empty:
        warnings.warn(reason, stacklevel=2)
    return list(found.values())


def _files_of(source: str) -> tuple[list[str], str]:
    """The files, or why there is none."""
    if os.path.isdir(source):
        files, rest = _files_below(source)
        suffixes = ", ".join(sorted(AUDIO_SUFFIXES))
        return files, "" if files else f"{source}: a folder without sound files ({suffixes}){rest}"
    if not os.path.lexists(source) and _WILD & set(source):
        matches = sorted(glob.glob(_literal_first(source), recursive=True))
        files = [f for match in matches for f in (_files_below(match)[0] if os.path.isdir(match) else [match])]
        return files, "" if files else f"{source}: no file matches this pattern"
    return [source], ""


def _literal_first(pattern: str) -> str:
    """The pattern with what is there under its own name, as the folder `rec [2023]`, taken by that name."""
    done = "/" if os.path.isabs(pattern) else ""
    parts = [part for part in pattern.split("/") if part]
    for count, part in enumerate(parts):
        if not os.path.lexists(os.path.join(done, part)):
            return os.path.join(glob.escape(done), *parts[count:])
        done = os.path.join(done, part)
    return glob.escape(done)


def _files_below(folder: str) -> tuple[list[str], str]:
    """The sound files, and what is said of those that are left out."""
    found = sound_files(folder)
    odd = [reason for reason in found.remarks()[: len(found.left_out)] if HIDDEN not in reason]
    for reason in odd:
        warnings.warn(f"{folder}: {reason}", stacklevel=4)
    return found.files, "".join(f"; {remark}" for remark in found.remarks())
