"""Which model speaks where a caller names none: `$PSLA_MODEL`, else the user's configuration, else the packaged one.

The configuration is `config.yaml` in the user's folder for psla (`platformdirs`; on Linux `~/.config/psla`), a mapping
with the key `model`. It is only read; where there is none, or no home to look in, nothing is missing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_config_path

from psla.files import few
from psla.weights.catalogue import SUFFIXES, known_names, names_near, scheme_of
from psla.weights.packaged import DEFAULT
from psla.yaml_files import parse_value, read_text

VARIABLE = "PSLA_MODEL"


class ChoiceError(ValueError):
    """A configuration that cannot be read, or a model named in it or in the environment that is none."""


@dataclass(frozen=True)
class Choice:
    """A model, and what chose it: `$PSLA_MODEL` or the configuration's path; empty for the caller and the default."""

    model: str
    of: str = ""


def choose(named: str | os.PathLike[str] | None = None) -> Choice:
    """The model that is named, else that of the environment, of the configuration, or the default.

    Raises:
        ChoiceError: see there; what stands behind a choice that goes before it is not looked at.

    Example:
        >>> choose("mn10_as")
        Choice(model='mn10_as', of='')
    """
    if named is not None:
        return Choice(os.fspath(named))
    if given := os.environ.get(VARIABLE):
        return _checked(given, f"${VARIABLE}", Path())
    path = user_config_path("psla") / "config.yaml"
    # Unlike Path.is_file: no error where a folder on the way must not be entered.
    if os.path.isfile(path) and (wanted := _read(path)):
        return _checked(wanted, str(path), path.parent)
    return Choice(DEFAULT)


def _checked(model: str, of: str, folder: Path) -> Choice:
    """A name as it is; a path from this folder on, which must be that of a file."""
    if scheme_of(model):
        return Choice(model, of)
    path = folder / Path(model).expanduser()
    if model not in known_names() and not path.is_file():
        near = "" if path.suffix in SUFFIXES else f"; {names_near(model)}"
        raise ChoiceError(f"{of}: {model!r} is neither a file nor a model by name{near}")
    return Choice(model if model in known_names() else str(path), of)


def _read(path: Path) -> str | None:
    """The model that a configuration names, if any."""
    try:
        found = parse_value(read_text(path, str(path), ChoiceError), str(path), ChoiceError)
    except ChoiceError as error:
        raise ChoiceError(f"{error}: write `model: NAME`") from error
    if found is None:
        return None  # nothing but comments
    if not isinstance(found, dict) or (unknown := [str(key) for key in found if key != "model"]):
        what = f"unknown: {few(unknown)}" if isinstance(found, dict) else "no mapping"
        raise ChoiceError(f"{path}: {what}; the only key of the configuration is model")
    model = found.get("model")
    if not (isinstance(model, str) and model):
        raise ChoiceError(f"{path}: model is a name or the path of a model file, not {model!r}")
    return model
