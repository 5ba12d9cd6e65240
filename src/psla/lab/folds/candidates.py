"""Candidates: settings that `selection.py` chooses among, each a short file with only what differs from a recipe.

    extends: esc50          what it differs from: a preset, or a recipe file by path; `esc50` where this is left out
    mixup:
      rate: 1.0

The name of a file is the candidate's name. Those of the package are in `candidates/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from psla.training.recipe import Recipe, RecipeError
from psla.yaml_files import parse_yaml, read_text

ALL = "all"
BASE = "esc50"
FIRST = "preset"  # what has no difference leads a folder: in a tie the first one is taken
_PACKAGED = files("psla.lab.folds") / "candidates"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class SelectionError(ValueError):
    """Candidates, a folder or a file that nothing can be chosen from; the sentence names it."""


@dataclass(frozen=True)
class Candidate:
    """A recipe under a name.

    Attributes:
        name: letters, digits, `_`, `.` and `-`: it is a folder's name. recipe: resolved.

    Raises:
        SelectionError: another name, or a recipe of only some classes, whose accuracy is not that of all.
    """

    name: str
    recipe: Recipe

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in ("chosen", ALL):
            raise SelectionError(
                f"a candidate is named with letters, digits, _, . and -, and neither chosen nor all; got {self.name!r}"
            )
        if self.recipe.classes is not None:
            raise SelectionError(f"candidate {self.name}: its recipe has classes; leave that key out to train all")


def packaged() -> list[str]:
    """The names of the package's candidates, the preset first."""
    found = [each.name.removesuffix(".yaml") for each in _PACKAGED.iterdir() if each.name.endswith(".yaml")]
    return sorted(found, key=lambda name: (name != FIRST, name))


def load_candidates(given: Sequence[str], base: str | None = None) -> list[Candidate]:
    """Candidates in the given order.

    Args:
        given: names of the package's candidates, YAML files, folders of such (by name, `preset` first), or the word
            `all` for those of the package.
        base: what all of them differ from, a preset or a recipe file, in place of what they extend.

    Raises:
        SelectionError: nothing given, no such candidate, an empty folder, a name twice, or a file that is no recipe.

    Example:
        >>> small, plain = load_candidates(["mel_64", "preset"])
        >>> small.name, small.recipe.front_end.mel_bins, plain.recipe == Recipe.load("esc50")
        ('mel_64', 64, True)
    """
    texts = [pair for each in given for pair in _texts(each)]
    names = [name for name, _ in texts]
    if not texts:
        raise SelectionError(f"there is nothing to choose from; name candidates, as in {', '.join(packaged())}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SelectionError(f"two candidates are named {twice[0]!r}; give each once, under a name of its own")
    return [_parse(name, text, base) for name, text in texts]


def _texts(given: str) -> list[tuple[str, str]]:
    """(name, text) of what one word stands for; a name of the package goes before a file."""
    if given == ALL:
        return [pair for name in packaged() for pair in _texts(name)]
    if given in packaged():
        return [(given, (_PACKAGED / f"{given}.yaml").read_text(encoding="utf-8"))]
    path = Path(given)
    if path.is_dir():
        found = sorted(path.glob("*.yaml"), key=lambda each: (each.stem != FIRST, each.stem))
        if not found:
            raise SelectionError(f"{given} is a folder without a candidate: it holds no file *.yaml")
        return [pair for each in found for pair in _texts(str(each))]
    if not path.is_file():
        raise SelectionError(
            f"{given!r} is neither a candidate file, nor a folder of such, nor one of {', '.join(packaged())}"
        )
    return [(path.stem, read_text(path, f"candidate {path.stem}", SelectionError))]


def _parse(name: str, text: str, base: str | None) -> Candidate:
    data = parse_yaml(text, f"candidate {name}", SelectionError)
    extends = str(data.pop("extends", BASE))
    try:
        return Candidate(name, Recipe.load(base or extends, data))
    except RecipeError as error:
        raise SelectionError(f"candidate {name}: {error}") from error
