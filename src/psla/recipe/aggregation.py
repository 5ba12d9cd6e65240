"""A: averages of weights and averages of predictions (paper, section VI).

Every checkpoint counts once (the released code counts its first one twice). Sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from psla.evaluation.predictions import average as average_predictions
from psla.model.model_file import read_tensors

__all__ = ["AggregationError", "average_predictions", "average_weights"]


class AggregationError(ValueError):
    """Checkpoints that cannot be averaged with each other."""


def average_weights(paths: Sequence[str | Path]) -> dict[str, Tensor]:
    """The equal average of the tensors of several checkpoints, one checkpoint in memory at a time.

    Floating tensors (BatchNorm's running statistics among them) are summed in float64 and returned in their own type;
    integer buffers are copied from the last checkpoint.

    Raises:
        AggregationError: no checkpoint, or tensors that one has and another has not, or in another shape, by name.

    Source: paper, section VI-A.
    """
    if not paths:
        raise AggregationError("an average needs at least one checkpoint")
    first = read_tensors(paths[0])
    # Addition in float64 of values that came as float32 is exact enough for any order to round to the same float32.
    sums = {name: tensor.to(torch.float64) for name, tensor in first.items() if tensor.is_floating_point()}
    latest = first
    for path in paths[1:]:
        latest = read_tensors(path)
        odd = sorted(latest.keys() ^ first.keys()) or sorted(n for n in first if latest[n].shape != first[n].shape)
        if odd:
            raise AggregationError(f"{path} does not match {paths[0]}: {', '.join(odd[:3])}")
        for name, total in sums.items():
            total += latest[name].to(torch.float64)
    return {
        name: (sums[name] / len(paths)).to(tensor.dtype) if name in sums else latest[name]
        for name, tensor in first.items()
    }
