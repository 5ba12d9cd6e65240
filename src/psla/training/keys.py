"""Keys of recipes with dots, as YAML files, presets and `--set` give them: read, flattened, nested."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from psla.files import not_a_file, shortened
from psla.sealed import unseal_text
from psla.yaml_files import parse_value, parse_yaml, read_text


class RecipeError(ValueError):
    """A recipe that cannot be carried out; the sentence names the key and the rule."""


def presets() -> list[str]:
    """Names of the presets in the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in (files("psla.training") / "presets").iterdir() if p.name.endswith(".yaml")
    )


def parse_override(text: str) -> tuple[str, Any]:
    """`optimizer.epochs=30` -> ("optimizer.epochs", 30); the value is read as YAML.

    Raises:
        RecipeError: no `=` in the text, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"an override must read key=value, as in optimizer.epochs=30; got {shortened(text)!r}")
    what = f"recipe key {shortened(key)}: the value {shortened(value)!r}"
    return key.strip(), _number(parse_value(value, what, RecipeError))


def _number(value: Any) -> Any:
    if isinstance(value, str):  # YAML 1.1 reads `1e-3` as text; people write it all the time
        with suppress(ValueError):
            return float(value)
    return value


def read_keys(name: str, trail: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys, with dots, of a preset or a file and of what it extends."""
    if name in trail:
        raise RecipeError(f"recipes extend each other in a circle: {' -> '.join((*trail, name))}")
    if name in presets():
        text = (files("psla.training") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = unseal_text(read_text(name, f"recipe {name}", RecipeError), name, RecipeError)
    else:
        kind = not_a_file(name)
        what = shortened(repr(name)) if kind is None else f"{name} ({kind})"
        raise RecipeError(f"{what} is neither a recipe file nor one of the presets {', '.join(presets())}")
    data = parse_yaml(text, f"recipe {name}", RecipeError)
    base = data.pop("extends", None)
    inherited = read_keys(str(base), (*trail, name)) if base is not None else {}
    return {**inherited, **flatten(data)}


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as keys with dots, as `--set` takes them; numbers that YAML reads as words (`5e-4`) are numbers.

    Example:
        >>> flatten({"mixup": {"rate": 0.5}, "seed": 1})
        {'mixup.rate': 0.5, 'seed': 1}
    """
    texts = ("name", "weights", "init", "predictions", "teacher")
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value if key in texts else _number(value)
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`; RecipeError where a key is a value and a section."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise RecipeError(f"recipe key {key}: {section!r} is a value, not a section")
        inner[last] = value
    return nested
