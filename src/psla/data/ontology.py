"""The class graph: which class is a kind of which.

A class may have several parents (the graph of AudioSet is no tree) but never itself as an ancestor. Classes outside a
vocabulary (abstract groupings such as "Human voice", or blacklisted classes) are part of the graph.

Source: https://research.google.com/audioset/ontology/ (CC BY-SA 4.0): ids, names, edges and restrictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter

from psla.data.vocabulary import audioset_rows


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

    def _closure(self, id: str, edges: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
        found: set[str] = set()
        ahead = list(edges[self._known(id)])
        while ahead:
            step = ahead.pop()
            if step not in found:
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
