"""Extras: modules that are installed only with an extra of the package, and the sentence where one is not.

A module that needs such a package asks for it inside the function that uses it, so that nobody else imports it.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def needed(module: str, extra: str) -> ModuleType:
    """The module, imported.

    Raises:
        ValueError: it is not installed; the message says how to install it.

    Example:
        >>> needed("json", "none").__name__
        'json'
        >>> needed("no_such_module", "cluster")
        Traceback (most recent call last):
        ValueError: no_such_module is not installed: pip install 'psla[cluster]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise
        raise ValueError(f"{module} is not installed: pip install 'psla[{extra}]'") from error
