"""The classes a tagger knows: index <-> class id <-> name.

This is the only place that knows how many classes AudioSet has. Everything that crosses a file or a function boundary
carries class *ids* (such as `/m/09x0r`); an index means nothing without its vocabulary.

Sources: class list of AudioSet, https://research.google.com/audioset/ (527 classes, CC BY 4.0); class list of FSD50K,
https://doi.org/10.5281/zenodo.4060432 (200 classes, CC BY 4.0).
"""

from __future__ import annotations

import csv
import difflib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class SoundClass:
    """One class: its index in the vocabulary, its id and its human-readable name."""

    index: int
    id: str
    name: str


class VocabularyError(ValueError):
    """A class that is not in the vocabulary, or a vocabulary that contradicts itself."""


class Vocabulary(Sequence[SoundClass]):
    """An ordered list of sound classes.

    Args:
        ids: class ids, unique, in the order of the network's outputs.
        names: a name for each id; the ids themselves by default.

    Raises:
        VocabularyError: an id that is empty or given twice, or another number of names than ids.

    Example:
        >>> vocabulary = Vocabulary(["dog", "rain"])
        >>> vocabulary["rain"].index, vocabulary[0].id, len(vocabulary)
        (1, 'dog', 2)
        >>> Vocabulary.audioset()["/m/09x0r"].name
        'Speech'
    """

    def __init__(self, ids: Sequence[str], names: Sequence[str] | None = None) -> None:
        names = list(ids) if names is None else list(names)
        if len(ids) != len(names):
            raise VocabularyError(
                f"a vocabulary needs a name for each class id; got {len(ids)} ids, {len(names)} names"
            )
        self._classes = tuple(
            SoundClass(i, str(id), str(name)) for i, (id, name) in enumerate(zip(ids, names, strict=True))
        )
        self._by_id = {c.id: c for c in self._classes}
        if "" in self._by_id:
            raise VocabularyError("a class id must not be empty")
        if len(self._by_id) != len(self._classes):
            seen: set[str] = set()
            twice = sorted({c.id for c in self._classes if c.id in seen or seen.add(c.id)})  # type: ignore[func-returns-value]
            raise VocabularyError(f"class ids must be unique; given more than once: {', '.join(twice[:5])}")

    @staticmethod
    @cache
    def audioset() -> Vocabulary:
        """The 527 classes of AudioSet in their published order."""
        rows = sorted((int(row["index"]), row["id"], row["name"]) for row in audioset_rows() if row["index"])
        return Vocabulary([id for _, id, _ in rows], [name for _, _, name in rows])

    @staticmethod
    @cache
    def fsd50k() -> Vocabulary:
        """The 200 classes of FSD50K in the order of its vocabulary.csv: ids of AudioSet's graph, names of FSD50K.

        Example:
            >>> Vocabulary.fsd50k()[0].name, len(Vocabulary.fsd50k())
            ('Accelerating_and_revving_and_vroom', 200)
        """
        rows = _table("fsd50k_classes.csv")
        return Vocabulary([row["id"] for row in rows], [row["name"] for row in rows])

    @property
    def ids(self) -> list[str]:
        """Class ids in index order."""
        return [c.id for c in self._classes]

    @property
    def names(self) -> list[str]:
        """Class names in index order."""
        return [c.name for c in self._classes]

    @property
    def hash(self) -> str:
        """SHA-256 of the ids in order: two vocabularies with the same hash give every index the same meaning."""
        return hashlib.sha256("\n".join(c.id for c in self._classes).encode()).hexdigest()

    def find(self, text: str) -> SoundClass:
        """The class with this id, or else with this name (case does not matter).

        Raises:
            VocabularyError: no such class, or a name that several classes share.
        """
        if text in self._by_id:
            return self._by_id[text]
        matches = [c for c in self._classes if c.name.casefold() == text.casefold()]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise VocabularyError(
                f"{text!r} names several classes; use one of the ids {', '.join(c.id for c in matches)}"
            )
        raise VocabularyError(f"{text!r} is not a class of this vocabulary of {len(self)} ({self.hint(text)})")

    def hint(self, text: str, others: Iterable[str] = ()) -> str:
        """Names of classes, and of these others, that come near to a name which is not known; else the first three.

        Example:
            >>> Vocabulary(["dog", "rain"]).hint("reign", ["raindrop"])
            'did you mean rain?'
        """
        names = {name.casefold(): name for name in (*others, *self.names)}
        near = [key for key in names if text.casefold() in key] + difflib.get_close_matches(text.casefold(), names)
        found = list(dict.fromkeys(names[key] for key in near))[:3]
        return f"did you mean {', '.join(found)}?" if found else "its first: " + ", ".join(self.names[:3])

    def index_of(self, id: str) -> int:
        """The index of a class id.

        Raises:
            VocabularyError: the id is not in the vocabulary.
        """
        if id not in self._by_id:
            raise VocabularyError(f"class id {id!r} is not in this vocabulary of {len(self)} classes")
        return self._by_id[id].index

    def part(self, ids: Sequence[str]) -> Vocabulary:
        """A vocabulary of these classes, in this order.

        Raises:
            VocabularyError: an id that this vocabulary does not have, or one given twice.

        Example:
            >>> Vocabulary(["dog", "rain", "siren"]).part(["siren", "dog"]).ids
            ['siren', 'dog']
        """
        chosen = [self[id] for id in ids]
        return Vocabulary([c.id for c in chosen], [c.name for c in chosen])

    def to_dict(self) -> dict[str, list[str]]:
        """Plain data for a file's metadata; `Vocabulary(**data)` reads it back."""
        return {"ids": self.ids, "names": self.names}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Vocabulary:
        """The inverse of `to_dict`.

        Raises:
            VocabularyError: the data is not a vocabulary.
        """
        if not isinstance(data, dict) or set(data) != {"ids", "names"}:
            raise VocabularyError("a stored vocabulary must have exactly the lists 'ids' and 'names'")
        for name, texts in data.items():
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise VocabularyError(f"the vocabulary's {name} must be a list of texts")
        return Vocabulary(data["ids"], data["names"])

    def __getitem__(self, key: int | str) -> SoundClass:  # type: ignore[override]
        return self._classes[self.index_of(key) if isinstance(key, str) else key]

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def __iter__(self) -> Iterator[SoundClass]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.ids == other.ids

    def __hash__(self) -> int:
        return hash(tuple(self._by_id))

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} classes: {', '.join(self.names[:3])}{', …' if len(self) > 3 else ''})"


@cache
def audioset_rows() -> tuple[dict[str, str], ...]:
    """The rows of the class table in the package: id, index, name, parents, restrictions (see scripts/)."""
    return _table("audioset_classes.csv")


def _table(name: str) -> tuple[dict[str, str], ...]:
    text = (files("psla.data") / "tables" / name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))
