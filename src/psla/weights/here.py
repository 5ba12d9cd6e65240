"""A model for the tasks of a job that other processes do: the very file that the job was begun with, or a sentence."""

from __future__ import annotations

from functools import lru_cache

from psla.files import sha256_of
from psla.model.file import Model
from psla.model.host_memory import keep_freed_memory
from psla.weights.catalogue import load_any, resolve


@lru_cache(maxsize=1)
def model_here(name: str, model_hash: str) -> Model:
    """The model behind a path or a name, which stays in this process for the tasks to come.

    Raises:
        ValueError: another file than the one of this SHA-256 is behind it here.
    """
    keep_freed_memory()
    path = resolve(name)
    if sha256_of(path) != model_hash:
        raise ValueError(f"{path} is not the model that the job was begun with: its SHA-256 is another; copy that here")
    return load_any(path)
