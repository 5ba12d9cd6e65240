"""BatchNorm's running statistics, estimated again: averaged weights have never seen the activations they make.

Averaging the statistics of the checkpoints is an approximation (the paper's, section VI-A); a pass over training clips
gives the statistics themselves. Source: P. Izmailov et al., https://arxiv.org/abs/1803.05407, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from psla.data.source import ClipSource
from psla.model.network import TaggingNetwork
from psla.techniques.sampling import EpochPlan
from psla.training.loader import Loader


class BatchNormError(ValueError):
    """Statistics that cannot be estimated."""


@torch.no_grad()
def reestimate(
    network: TaggingNetwork,
    source: ClipSource,
    clips: int = 2000,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] = lambda clips: None,
) -> dict[str, str]:
    """Set the running statistics of every BatchNorm to the mean over batches of clips, unmixed and unmasked.

    Args:
        network: changed in place; it ends in evaluation mode. source: training clips.
        clips: how many of them, >= 2, drawn without replacement; fewer where there are fewer.
        batch_size: clips in a batch, >= 2. seed: of the draw.
        progress: told the clips of each batch.

    Returns:
        {clip id: reason} of the clips that could not be read.

    Raises:
        BatchNormError: not two clips could be read, or an argument out of its range.
    """
    if clips < 2 or batch_size < 2:
        raise BatchNormError(f"statistics need 2 clips and batches of 2 or more, not {clips} and {batch_size}")
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    loader = Loader(source, network.config.front_end.window_samples)
    plan = EpochPlan(len(source), 0.0, 1.0, seed, 0) if len(source) else None
    device = next(network.parameters()).device
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    seen = 0
    try:
        for batch in loader.batches(plan, batch_size) if plan is not None else ():
            if len(batch) >= 2:  # the variance of a single clip says little
                network(batch.first.to(device), batch.first_lengths.to(device))
                seen += len(batch)
            progress(batch.global_count)
            if seen >= clips:
                break
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.eval()
    if seen == 0:
        reason = next(iter(loader.rejected.values()), "the source has fewer than two clips")
        raise BatchNormError(f"BatchNorm's statistics cannot be estimated: {reason}")
    return dict(loader.rejected)
