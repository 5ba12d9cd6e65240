"""One module a corpus: facts (source, licence, vocabulary) and a parser to Clips."""

from importlib import import_module
from typing import Any

from psla.corpora import audioset, esc50, folder, fsd50k

__all__ = ["audioset", "esc50", "folder", "fsd50k"]


def __getattr__(name: str) -> Any:
    if name == "soundscape":  # its name before it had a room of its own
        return import_module("psla.synth.scene")
    raise AttributeError(f"module 'psla.corpora' has no attribute {name!r}")
