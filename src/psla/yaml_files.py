"""YAML that others wrote, such as recipes: one door, with a bound of size and depth, and no key given twice.

Aliases (`*name`) are allowed and counted as what they stand for, so that a short text cannot become a large one.
"""

from __future__ import annotations

import os
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from psla.files import not_a_file, shortened

MOST_CHARACTERS = 250_000
MOST_VALUES = 10_000  # keys and values, each alias as all that it stands for
MOST_DEPTH = 40  # lists and mappings within each other


def read_text(path: str | os.PathLike[str] | Traversable, what: str, refusal: type[ValueError]) -> str:
    """The text of a file that is to be parsed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: of the class `refusal`: no file that ends, one that is too long, or no UTF-8 text.
    """
    path = Path(str(path))
    if (kind := not_a_file(path)) is not None:
        raise refusal(f"{what} is {kind}")
    if path.stat().st_size > 4 * MOST_CHARACTERS:
        raise refusal(f"{what} is too long for settings: {MOST_CHARACTERS:,} characters at most")
    try:
        return path.read_bytes().decode("utf-8-sig")  # as it is, its line ends too
    except UnicodeDecodeError as error:
        raise refusal(f"{what} is not YAML: no UTF-8 text ({error.reason} at byte {error.start})") from error


def parse_yaml(text: str, what: str, refusal: type[ValueError], kind: type[dict] | type[list] = dict) -> Any:
    """What a text of YAML holds: keys and values, none in an empty one, or a list.

    Args:
        text: the text.
        what: names it at the beginning of each sentence.
        refusal: the class of the errors.
        kind: dict or list.

    Raises:
        ValueError: of the class `refusal`: no YAML, something else, a key that is given twice, or more than the bounds
            above.

    Example:
        >>> parse_yaml("mixup: {rate: 0.5}", "recipe a.yaml", ValueError)
        {'mixup': {'rate': 0.5}}
        >>> parse_yaml("a: 1\\na: 2", "recipe a.yaml", ValueError)
        Traceback (most recent call last):
        ...
        ValueError: recipe a.yaml gives the key 'a' twice, line 2; leave one of them
    """
    data = parse_value(text, what, refusal)
    if data is None and kind is dict:
        return {}
    if not isinstance(data, kind):
        wanted = "keys and values" if kind is dict else "a list"
        raise refusal(f"{what} must hold {wanted}; got {type(data).__name__}")
    return data


def parse_value(text: str, what: str, refusal: type[ValueError]) -> Any:
    """As `parse_yaml`, whatever it is.

    Example:
        >>> parse_value("0.5", "the value", ValueError)
        0.5
    """
    if len(text) > MOST_CHARACTERS:
        raise refusal(f"{what} is too long for settings: {len(text):,} characters, {MOST_CHARACTERS:,} at most")
    try:
        _check_events(text, what, refusal)
        loader = yaml.SafeLoader(text)
        try:
            if (node := loader.get_single_node()) is None:
                return None
            _check(node, what, refusal)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise refusal(f"{what} is not YAML: {shortened(' '.join(str(error).split()))}") from error
    except (ValueError, OverflowError) as error:
        if isinstance(error, refusal) and str(error).startswith(what):
            raise
        # A date or a number that there is not, as 2026-02-30.
        raise refusal(f"{what} holds a value that cannot be read: {shortened(str(error))}") from error


def _check_events(text: str, what: str, refusal: type[ValueError]) -> None:
    """Depth and number, before the composer, which calls itself, and as soon as they are too large."""
    depth = count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent)
        if depth > MOST_DEPTH:
            raise refusal(f"{what} is nested too deeply: {MOST_DEPTH} lists or mappings within each other at most")
        if count > MOST_VALUES:
            raise refusal(f"{what} holds too much: {MOST_VALUES:,} keys and values at most")


def _check(root: yaml.Node, what: str, refusal: type[ValueError]) -> None:
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        """Of a node with all that its aliases stand for."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in open_nodes or len(open_nodes) > MOST_DEPTH:
            raise refusal(f"{what} is nested too deeply: aliases that lead back, or {MOST_DEPTH} and more in a row")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            if isinstance(node, yaml.MappingNode):
                _check_keys(node, what, refusal)
                children = [child for pair in node.value for child in pair]
            else:
                children = node.value
            sizes[id(node)] = 1 + sum(map(size, children))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if (count := size(root)) > MOST_VALUES:
        raise refusal(f"{what} holds too much: {count:,} keys and values, aliases counted, and {MOST_VALUES:,} at most")


def _check_keys(node: yaml.MappingNode, what: str, refusal: type[ValueError]) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise refusal(
                    f"{what} gives the key {shortened(key.value, 60)!r} twice, line {line}; leave one of them"
                )
            seen.add((key.tag, key.value))
