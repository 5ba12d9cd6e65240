"""How a training is spread over devices: Lightning Fabric, DDP over NCCL or gloo, and what processes tell each other.

Every process has the same plan and takes its stride of each global batch; predictions are gathered by clip, without
padding and without duplicates. A folder that all processes see is assumed; only process 0 writes into it.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from psla.data.source import ClipSource
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.model.host_memory import keep_freed_memory
from psla.model.inference import Inference, predict
from psla.model.network import TaggingModel, TaggingNetwork

_PRECISIONS: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "float64": "64-true"}


_ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")


@dataclass(frozen=True)
class Runtime:
    """How a training is carried out; nothing here changes what is learned (but for the order of sums over devices).

    accelerator: `auto`, `cpu`, `cuda`, `mps`, or `gpu`, either of these. devices: processes on each node, >= 1; nodes:
    machines, >= 1; under torchrun or SLURM both must agree with what started the processes. cache_bytes: decoded clips
    that are kept in memory, >= 0. workers: threads that read clips, >= 1. checkpoint_minutes: between two states from
    which the training can go on, >= 0; 0: after every step. skip_non_finite: steps with a non-finite loss that are
    left out and listed before the training stops, >= 0. compile: `torch.compile` for the backbone's training steps:
    worth its minutes at the start in long trainings on a GPU; rounds differently.

    Raises:
        ValueError: a value out of its range.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    cache_bytes: int = 2**30
    workers: int = 2
    checkpoint_minutes: float = 10.0
    skip_non_finite: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        least = dict.fromkeys(("devices", "nodes", "workers"), 1)
        least |= dict.fromkeys(("cache_bytes", "checkpoint_minutes", "skip_non_finite"), 0)
        if self.accelerator not in _ACCELERATORS:
            raise ValueError(f"accelerator must be one of {', '.join(_ACCELERATORS)}, not {self.accelerator!r}")
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name.replace('_', ' ')} must be {low} or more, not {getattr(self, name)}")


def settled(precision: str, accelerator: str = "auto") -> str:
    """The precision that `auto` means on this machine: `bf16` where the device computes it, else `float32`.

    A processor without AVX-512 emulates bfloat16, which takes some fifteen times as long as float32: who asks for it
    there by name is warned.

    Args:
        precision: as of the recipe. accelerator: as of `Runtime`.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator != "cpu" and torch.backends.mps.is_available():
        computes = True
    else:
        computes = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if precision == "bf16" and not computes:
        mend = "train with --set optimizer.precision=float32"
        warnings.warn(f"bf16 is emulated on this device, many times slower than float32: {mend}", stacklevel=2)
    return precision if precision != "auto" else "bf16" if computes else "float32"


def open_fabric(runtime: Runtime, precision: str) -> Fabric:
    """A launched Fabric: one process, or DDP where there are more; torchrun's and SLURM's processes are joined.

    Args:
        precision: of the backbone in training: `float32`, `bf16`, or, to compare sums closely, `float64`; of `auto` see
            `settled`.
    """
    keep_freed_memory()
    devices, nodes = runtime.devices, runtime.nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has started the processes and knows how many
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    many = devices * nodes > 1
    # Fabric announces its precision at every start; the recipe says it already. Importing it has set the level to INFO.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=runtime.accelerator,
            devices=devices,
            num_nodes=nodes,
            # BatchNorm's running statistics that are kept are process 0's; to send them at every step changes nothing.
            strategy=DDPStrategy(broadcast_buffers=False) if many else "auto",
            precision=_PRECISIONS[precision],
        )
    except RuntimeError as error:  # such as an accelerator that is not here
        raise ValueError(f"accelerator {runtime.accelerator}: {error}") from error
    fabric.launch()
    return fabric


def compile_backbone(network: TaggingNetwork, device: torch.device) -> None:
    """Have the backbone compiled at its first step (`torch.compile`); `uncompiled` is for predictions.

    Raises:
        ValueError: there is no C++ compiler, which a CPU's code needs.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(
            f"compiling for a CPU needs a C++ compiler, and {compiler!r} is not on the path; install it, name another "
            "in the variable CXX, or train without --compile"
        )
    network.backbone.compile()


def uncompiled(runtime: Runtime) -> AbstractContextManager[object]:
    """Where a compiled backbone runs as written: in predictions, which are the same with and without `--compile`."""
    return torch.compiler.set_stance("force_eager") if runtime.compile else nullcontext()


def is_first_process() -> bool:
    """Whether this process is process 0, known before Fabric is launched."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID")
    if rank is not None:
        return int(rank) == 0
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0


def sum_over_processes(fabric: Fabric, values: list[float]) -> list[float]:
    """Numbers added up over all processes, in float64: the same in each of them."""
    if fabric.world_size == 1:
        return values
    total = fabric.all_reduce(torch.tensor(values, dtype=torch.float64, device=fabric.device), reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return [float(value) for value in total.cpu()]


def gather_objects(fabric: Fabric, item: object) -> list:
    """What each process has, in the order of the processes: the same list in each of them."""
    if fabric.world_size == 1:
        return [item]
    items: list = [None] * fabric.world_size
    torch.distributed.all_gather_object(items, item)
    return items


class StrideSource:
    """Every `step`-th clip of a source, from `first` on."""

    def __init__(self, source: ClipSource, first: int, step: int) -> None:
        self.source, self.first, self.step = source, first, step
        self.clip_ids, self.sample_rate = source.clip_ids[first::step], source.sample_rate

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, index: int) -> np.ndarray:
        """See `ClipSource.read`."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of a source with clips 0 .. {len(self) - 1}")
        return self.source.read(self.first + index * self.step)


def predict_together(
    fabric: Fabric,
    network: TaggingModel,
    source: ClipSource,
    vocabulary: Vocabulary,
    split: str,
    progress: Callable[[int], None] = lambda clips: None,
) -> Inference:
    """Predict a source with all processes, each its stride; every process gets all predictions, in the source's order.

    Raises:
        ValueError: no clip could be read.
    """
    if fabric.world_size == 1:
        return predict(network, source, vocabulary, split=split, device=fabric.device, progress=progress)
    own = StrideSource(source, fabric.global_rank, fabric.world_size)
    rows: dict[str, np.ndarray] = {}
    rejected: dict[str, str] = {}
    try:
        part = predict(network, own, vocabulary, split=split, device=fabric.device, progress=progress)
        rows = dict(zip(part.predictions.clip_ids, part.predictions.probabilities, strict=True))
        rejected = part.rejected
    except ValueError as error:  # nothing readable in this stride; another process may have something
        rejected = dict.fromkeys(own.clip_ids, str(error))
    for other_rows, other_rejected in gather_objects(fabric, (rows, rejected)):
        rows, rejected = rows | other_rows, rejected | other_rejected
    ids = [id for id in source.clip_ids if id in rows]
    if not ids:
        raise ValueError(next(iter(rejected.values()), "the source is empty"))
    return Inference(Predictions(np.stack([rows[id] for id in ids]), ids, vocabulary, split=split), rejected)
