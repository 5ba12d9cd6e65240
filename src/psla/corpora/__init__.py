"""Corpora on the disk: one module (or package) a corpus, of facts (source, licence, vocabulary) and a parser to Clips.

Nothing here downloads or decodes sound. The synthesised soundscapes are `psla.synth`.
"""

import warnings
from importlib import import_module
from typing import Any

from psla.corpora import audioset, esc50, folder, fsd50k

__all__ = ["audioset", "esc50", "folder", "fsd50k"]


def __getattr__(name: str) -> Any:
    if name == "soundscape":
        text = "psla.corpora.soundscape is called psla.synth now; the old name goes with the next release"
        warnings.warn(text, FutureWarning, stacklevel=2)
        return import_module("psla.synth.scene")
    raise AttributeError(f"module 'psla.corpora' has no attribute {name!r}")
