"""A file of embeddings: of each recording for the clip and for its steps, with the paths, .safetensors or .npz.

`clips` (recordings, channels) float32, `steps` (all steps, channels) float32, `offsets` (recordings + 1,) int64: the
steps of recording i are steps[offsets[i] : offsets[i + 1]]; `paths`: the paths as UTF-8 bytes, one a line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from psla.files import atomic_write
from psla.tagging.result import Embedding

SUFFIXES = (".npz", ".safetensors")


class EmbeddingFile:
    """Gathers embeddings in memory (channels x 4 bytes a step of 0.32 s) and writes them at the end, atomically.

    Raises:
        ValueError: a path that does not say in which format.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: embeddings are written to a file that ends in {' or '.join(SUFFIXES)}")
        self.path = path
        self._paths: list[str] = []
        self._embeddings: list[Embedding] = []

    def add(self, path: str, embedding: Embedding) -> None:
        """The embedding of the next recording."""
        self._paths.append(path)
        self._embeddings.append(embedding)

    def save(self) -> None:
        """Write what has been added; nothing, where that is nothing."""
        if not self._embeddings:
            return
        arrays = {
            "clips": np.stack([e.clip for e in self._embeddings]),
            "steps": np.concatenate([e.steps for e in self._embeddings]),
            "offsets": np.cumsum([0, *(len(e.steps) for e in self._embeddings)], dtype=np.int64),
            "paths": np.frombuffer("\n".join(self._paths).encode("utf-8", "surrogateescape"), dtype=np.uint8),
        }
        with atomic_write(self.path) as temporary:
            if self.path.suffix == ".npz":
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
            else:
                save_file(arrays, temporary)
