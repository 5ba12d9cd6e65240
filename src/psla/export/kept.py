"""Kept graphs: the exported form of a model in the cache, so that ONNX Runtime can run a model file.

Which engine runs it is said; a graph is made when it is asked for, never because the runtime happens to be installed.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from psla.download import cache_folder
from psla.files import alone, sha256_of

if TYPE_CHECKING:
    from psla.export.write import Progress

MOST_DIFFERENCE = 1e-4
"""Of a probability of a recording, between a graph that is kept and its model."""


class EngineError(ValueError):
    """A model that ONNX Runtime is not to run; the sentence says why."""


def kept_graph(model_file: Path) -> Path:
    """Where the graph of a model file is kept, by the file's checksum and the version of psla that makes it."""
    return _folder() / f"{sha256_of(model_file)[:32]}-psla{version('psla')}.onnx"


def graph_here(model_file: Path) -> Path | None:
    """The kept graph; None where there is none, or no ONNX Runtime (extra `onnx`) to run it."""
    if not _folder().is_dir() or find_spec("onnxruntime") is None:  # then no model file is read for its checksum
        return None
    graph = kept_graph(model_file)
    return graph if graph.is_file() else None


def keep_graph(model_file: Path, progress: Progress = lambda what, more, total: None) -> Path:
    """The kept graph, made and compared on 24 synthesised recordings if it is not there.

    Raises:
        EngineError: an ensemble, or a graph whose answers differ by more than `MOST_DIFFERENCE`.
        ValueError: see `psla.export.write.export`. OSError: the cache cannot be written.
    """
    # Here, not at the head: where no graph is made, nobody waits for them.
    from psla.export.write import export
    from psla.model.file import load_model

    if model_file.suffix != ".safetensors":
        raise EngineError(f"{model_file}: only the graph of one model file is kept; make an .onnx with `psla export`")
    graph = kept_graph(model_file)
    graph.parent.mkdir(parents=True, exist_ok=True)
    with alone(graph):
        if not graph.is_file():
            parity = export(load_model(model_file), graph, progress=progress)
            if not parity.largest <= MOST_DIFFERENCE:
                graph.unlink()
                graph.with_suffix(".parity.json").unlink()
                raise EngineError(
                    f"{model_file}: ONNX Runtime's probabilities differ by {parity.largest:.1e}, more than "
                    f"{MOST_DIFFERENCE:g}: use --engine pytorch"
                )
    return graph


def _folder() -> Path:
    return cache_folder() / "graphs"
