"""The class graph: which class is a kind of which.

A class may have several parents (the graph of AudioSet is no tree) but never itself as an ancestor. Classes outside a
vocabulary (abstract groupings such as "Human voice", or blacklisted classes) are part of the graph.

Source: https://research.google.com/audioset/ontology/ (CC BY-SA 4.0): ids, names, edges and restrictions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from psla.data.vocabulary import audioset_rows

_ABSTRACT = frozenset({"abstract"})


class OntologyError(ValueError):
    """A graph with a cycle or a dangling edge, or a class that it does not have."""


class Ontology:
    """A directed acyclic graph of classes.

    Args:
        parents: for each class id the ids of its direct parents.
        names: a name for each class id; the ids by default.
        restrictions: for some class ids the restrictions (`abstract`, `blacklist`).

    Raises:
        OntologyError: a parent that is not a class of the graph, or a cycle.

    Example:
        >>> ontology = Ontology({"animal": [], "dog": ["animal"], "bark": ["dog"]})
        >>> sorted(ontology.ancestors("bark")), ontology.children("animal")
        (['animal', 'dog'], ('dog',))
    """

    def __init__(
        self,
        parents: Mapping[str, Iterable[str]],
        names: Mapping[str, str] | None = None,
        restrictions: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self._parents = {id: tuple(above) for id, above in parents.items()}
        self._names = dict(names or {})
        self._restrictions = {id: frozenset(marks) for id, marks in (restrictions or {}).items()}
        for id, above in self._parents.items():
            for parent in above:
                if parent not in self._parents:
                    raise OntologyError(f"class {id!r} has the parent {parent!r}, which is not a class of the graph")
        try:
            self._order = tuple(TopologicalSorter(self._parents).static_order())
        except CycleError as error:
            raise OntologyError(f"the graph has a cycle: {' -> '.join(error.args[1])}") from error
        below: dict[str, list[str]] = {id: [] for id in self._parents}
        for id, above in self._parents.items():
            for parent in above:
                below[parent].append(id)
        self._children = {id: tuple(ids) for id, ids in below.items()}

    @staticmethod
    @cache
    def audioset() -> Ontology:
        """The graph of AudioSet: 632 classes, 527 of them in the vocabulary."""
        rows = audioset_rows()
        return Ontology(
            {row["id"]: row["parents"].split() for row in rows},
            {row["id"]: row["name"] for row in rows},
            {row["id"]: row["restrictions"].split() for row in rows},
        )

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Ontology:
        """A graph from a JSON file in the layout of AudioSet's `ontology.json`.

        The file is a list of classes: `id`, and optionally `name`, `child_ids` and `restrictions`.

        Raises:
            FileNotFoundError: no such file.
            OntologyError: another layout, a class given twice, a child that is not in the list, or a cycle.
        """
        try:
            rows = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise OntologyError(f"{path} is not JSON ({error}); an ontology is a list of classes") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
            raise OntologyError(f"{path} must be a list of classes, each with an 'id' and perhaps 'child_ids'")
        parents: dict[str, list[str]] = {row["id"]: [] for row in rows}
        if len(parents) != len(rows):
            raise OntologyError(f"{path}: {len(rows) - len(parents)} class ids are given more than once")
        for row in rows:
            for child in row.get("child_ids", ()):
                if child not in parents:
                    raise OntologyError(f"{path}: class {row['id']!r} has the child {child!r}, which is not listed")
                parents[child].append(row["id"])
        named = {row["id"]: row.get("name", row["id"]) for row in rows}
        return Ontology(parents, named, {row["id"]: row.get("restrictions", ()) for row in rows})

    @property
    def ids(self) -> tuple[str, ...]:
        """All class ids, every parent before its children."""
        return self._order

    def name(self, id: str) -> str:
        """The name of a class (its id where no name was given)."""
        self._known(id)
        return self._names.get(id, id)

    def parents(self, id: str) -> tuple[str, ...]:
        """Ids of the direct parents."""
        return self._parents[self._known(id)]

    def children(self, id: str) -> tuple[str, ...]:
        """Ids of the direct children."""
        return self._children[self._known(id)]

    def restrictions(self, id: str) -> frozenset[str]:
        """The restrictions of a class: none, `abstract`, `blacklist`, or both."""
        return self._restrictions.get(self._known(id), frozenset())

    def ancestors(self, id: str) -> frozenset[str]:
        """Ids of all classes above, the class itself left out."""
        return self._closure(id, self._parents)

    def descendants(self, id: str) -> frozenset[str]:
        """Ids of all classes below, the class itself left out."""
        return self._closure(id, self._children)

    def is_abstract(self, id: str) -> bool:
        """Whether a class groups words and no sounds: its restrictions are exactly `abstract`."""
        return self.restrictions(id) == _ABSTRACT

    def concrete_ancestors(self, id: str) -> frozenset[str]:
        """Ids of the classes above, up to the first that `is_abstract`: it and what is only above it are left out.

        Source: the label enhancement released with PSLA, which drops abstract classes from the graph and keeps
        classes that are blacklisted, also where they are abstract, too.

        Example:
            >>> parents = {"sounds": [], "voice": ["sounds"], "speech": ["voice"], "whisper": ["speech"]}
            >>> graph = Ontology(parents, restrictions={"voice": ["abstract"]})
            >>> sorted(graph.concrete_ancestors("whisper")), sorted(graph.concrete_ancestors("voice"))
            (['speech'], ['sounds'])
        """
        return self._closure(id, self._parents, self.is_abstract)

    def _closure(
        self, id: str, edges: Mapping[str, tuple[str, ...]], stops: Callable[[str], bool] = lambda id: False
    ) -> frozenset[str]:
        found: set[str] = set()
        ahead = list(edges[self._known(id)])
        while ahead:
            step = ahead.pop()
            if step not in found and not stops(step):
                found.add(step)
                ahead.extend(edges[step])
        return frozenset(found)

    def _known(self, id: str) -> str:
        if id not in self._parents:
            raise OntologyError(f"class {id!r} is not in the ontology of {len(self._parents)} classes")
        return id

    def __contains__(self, id: object) -> bool:
        return id in self._parents

    def __len__(self) -> int:
        return len(self._parents)
