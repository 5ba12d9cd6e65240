"""What runs a model on the command line: PyTorch, or ONNX Runtime with the model's kept graph."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psla.cli.console import CommandError
from psla.cli.options import Combine, Precision
from psla.cli.progress import fetching, stages

if TYPE_CHECKING:
    from psla.tagging.tagger import Tagger
    from psla.weights.choice import Choice


class Engine(StrEnum):
    """`--engine` of `psla tag`."""

    auto = "auto"
    pytorch = "pytorch"
    onnxruntime = "onnxruntime"


WithEngine = Annotated[
    Engine,
    typer.Option(
        help="onnxruntime: the model's graph, made once and kept (extra onnx), faster; auto: where it is kept already."
    ),
]


def tagger_of(
    choice: Choice,
    hop: float | None,
    combine: Combine,
    precision: Precision,
    window: float | None = None,
    engine: Engine | None = None,
) -> tuple[Path, Tagger]:
    """The model's file, fetched if need be, or its graph, and its tagger; no engine: the file is run as it is."""
    from psla.model.host_memory import keep_freed_memory
    from psla.tagging.tagger import load
    from psla.weights.catalogue import resolve

    with fetching(choice.model) as told:
        found = resolve(choice.model, told)
    path = _run_by(engine, found, precision)
    keep_freed_memory()
    try:
        return path, load(path, hop, combine.value, precision.value, window_s=window)
    except ValueError as error:
        from psla.export.session import ExportedError

        if path == found or not isinstance(error, ExportedError):
            raise
        mend = "delete it, and --engine onnxruntime makes it anew"
        raise CommandError(f"{error}; it is kept in the cache for {found}: {mend}") from error


def _run_by(engine: Engine | None, path: Path, precision: Precision) -> Path:
    """The file that the engine runs."""
    if engine is Engine.pytorch and path.suffix == ".onnx":
        raise CommandError(f"{path} is for ONNX Runtime: give --engine pytorch the model file that it was made of")
    if engine in (None, Engine.pytorch) or path.suffix == ".onnx":
        return path
    if precision is not Precision.float32 and engine is Engine.onnxruntime:
        raise CommandError(f"--engine onnxruntime computes in float32: leave out --precision {precision.value}")
    if engine is Engine.auto and (precision is not Precision.float32 or path.suffix != ".safetensors"):
        return path
    from psla.export.kept import graph_here, keep_graph

    graph = graph_here(path)
    if graph is not None or engine is Engine.auto:
        return graph or path
    if path.suffix == ".safetensors":
        typer.echo(f"psla: making the graph of {path.name} for ONNX Runtime, once: a minute or less", err=True)
    with stages() as told:
        return keep_graph(path, told)
