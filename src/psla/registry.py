"""Registries: what is chosen by a name, each kind of it in a file of its own that registers itself.

A registry knows the package in which its kinds lie and imports all modules of it when it is first asked: a new kind is
one new file there, and no other file names it. What lies elsewhere registers itself when it is imported.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Things by name.

    Args:
        what: what errors call one of them, such as `backbone`.
        package: whose modules register them.

    Example:
        >>> registry: Registry[int] = Registry("number", "psla.weights.packaged")
        >>> registry.add("one", 1), registry["one"], "two" in registry
        (1, 1, False)
        >>> registry["two"]
        Traceback (most recent call last):
        ValueError: no number is called 'two'; there are one
    """

    def __init__(self, what: str, package: str) -> None:
        self.what = what
        self._package = package
        self._found: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, item: T) -> T:
        """Enter an item under its name; gives it back.

        Raises:
            ValueError: another item has the name.
        """
        if self._found.setdefault(name, item) is not item:
            raise ValueError(f"there are two {self.what}s called {name!r}; give one another name")
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """As a decorator: enter what stands below under this name."""
        return lambda item: self.add(name, item)

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._found:
            raise ValueError(f"no {self.what} is called {name!r}; there are {', '.join(self._found)}")
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._found)

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True  # first: the modules look themselves up
            package = import_module(self._package)
            for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
                import_module(f"{self._package}.{module.name}")
