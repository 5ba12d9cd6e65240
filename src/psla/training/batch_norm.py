"""BatchNorm's running statistics: frozen in a training, or estimated again for averaged weights.

Averaged weights have never seen the activations they make.

Averaging the statistics of the checkpoints is an approximation (the paper's, section VI-A); a pass over training clips
gives the statistics themselves. Source: P. Izmailov et al., https://arxiv.org/abs/1803.05407, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from psla.data.source import ClipSource
from psla.model.network import TaggingNetwork
from psla.techniques.sampling import EpochPlan
from psla.training.loader import Loader


class BatchNormError(ValueError):
    """Statistics that cannot be estimated."""


@contextmanager
def momentum(network: torch.nn.Module, value: float | None) -> Iterator[list[torch.nn.modules.batchnorm._BatchNorm]]:
    """Within the block every BatchNorm gives the newest batch this share; None: all batches alike. Mode and share of
    each are put back at the end."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.momentum = value
    try:
        yield norms
    finally:
        for norm, old in zip(norms, before, strict=True):
            norm.momentum, norm.training = old


def freeze(network: torch.nn.Module) -> None:
    """Have every BatchNorm of a network in training mode use its running statistics and leave them as they are.

    Weights and biases still learn. Calling `train()` on the network ends it. For fine-tuning with few clips, whose
    batches say less of the statistics than what the network started from.

    Example:
        >>> norm = torch.nn.BatchNorm1d(2)
        >>> freeze(norm.train())
        >>> _ = norm(torch.full((3, 2), 5.0))
        >>> norm.running_mean.tolist()
        [0.0, 0.0]
    """
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


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
    loader = Loader(source, network.config.front_end.window_samples)
    batches = loader.batches(EpochPlan(len(source), 0.0, 1.0, seed, 0), batch_size) if len(source) else ()
    device = next(network.parameters()).device
    seen = 0
    network.eval()
    with momentum(network, None) as norms:
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        for batch in batches:
            if len(batch) >= 2:  # the variance of a single clip says little
                network(batch.first.to(device), batch.first_lengths.to(device))
                seen += len(batch)
            progress(batch.global_count)
            if seen >= clips:
                break
    if seen == 0:
        reason = next(iter(loader.rejected.values()), "the source has fewer than two clips")
        raise BatchNormError(f"BatchNorm's statistics cannot be estimated: {reason}")
    return dict(loader.rejected)
