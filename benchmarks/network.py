"""Inference and training step against `efficientnet_pytorch`: same weights, same process, ratios.

    python benchmarks/network.py [--backbone efficientnet_b2] [--batch 4] [--repeats 3]

The reference runs as the paper's code runs it: eager, float32, its memory-efficient swish. Ours runs channels-last,
in float32 and under bf16 autocast. Both carry the same 4-headed pooling with 527 classes and Adam and take
ready log-mels.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
from efficientnet_pytorch import EfficientNet as ReferenceEfficientNet
from torch import Tensor, nn

from psla.model.network import NetworkConfig, TaggingNetwork
from psla.model.pooling import Pooling
from psla.recipe.pretraining import our_name
from psla.recipe.training import binary_cross_entropy

CLASSES, FRAMES, BINS = 527, 1056, 128


class Reference(nn.Module):
    """The reference library's features under the same pooling."""

    def __init__(self, name: str, pooling: Pooling) -> None:
        super().__init__()
        self.features = ReferenceEfficientNet.from_name(name.replace("_", "-"), in_channels=1)
        self.features._fc = nn.Identity()
        self.pooling = pooling

    def forward(self, log_mel: Tensor) -> Tensor:
        image = log_mel.transpose(1, 2).unsqueeze(1)
        return self.pooling(self.features.extract_features(image)).clip_probabilities


def pair(name: str) -> tuple[TaggingNetwork, Reference]:
    """Our network and the reference with the same weights."""
    torch.manual_seed(0)
    ours = TaggingNetwork(NetworkConfig(name, CLASSES)).to(memory_format=torch.channels_last)
    reference = Reference(name, copy.deepcopy(ours.pooling))
    theirs = reference.features.state_dict()
    own = {mapped: tensor for key, tensor in theirs.items() if (mapped := our_name(key, name)) is not None}
    ours.backbone.load_state_dict(own)
    return ours, reference


def ours_forward(network: TaggingNetwork, bf16: bool, training: bool) -> Callable[[Tensor], Tensor]:
    """Our forward pass as training (with drop-connect, as the reference has) or inference runs it."""

    def forward(log_mel: Tensor) -> Tensor:
        keep = None
        if training:
            probability = network.backbone.keep_probabilities(0.2)
            keep = ((torch.rand(len(log_mel), len(probability)) < probability) / probability).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return network.from_log_mel(log_mel, keep=keep).clip_probabilities

    return forward


def step(
    forward: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, log_mel: Tensor, target: Tensor
) -> None:
    """One training step."""
    optimizer.zero_grad(set_to_none=True)
    binary_cross_entropy(forward(log_mel), target).mean().backward()
    optimizer.step()


def interleaved(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each, measured in turn so that a change of the machine's speed meets all of them."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet_b2")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ours, reference = pair(options.backbone)
    generator = torch.Generator().manual_seed(1)
    log_mel = torch.randn(options.batch, FRAMES, BINS, generator=generator)
    target = (torch.rand(options.batch, CLASSES, generator=generator) < 0.01).float()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {date.today()}")
    print(f"{options.backbone}, batch {options.batch}, {CLASSES} classes, clips of 10 s")

    ours.eval(), reference.eval()
    with torch.inference_mode():
        # An untrained network's features are tiny, so the difference is stated as a share of their largest value.
        expected = reference.features.extract_features(log_mel.transpose(1, 2).unsqueeze(1))
        difference = (ours.features(log_mel) - expected).abs().max() / expected.abs().max()
        print(f"largest difference of the features, as a share of their largest value: {difference:.1e}")
        runs = {
            "reference": lambda: reference(log_mel),
            "float32": lambda: ours_forward(ours, False, False)(log_mel),
            "bf16": lambda: ours_forward(ours, True, False)(log_mel),
        }
        report("inference", interleaved(runs, options.repeats), options.batch)

    ours.train(), reference.train()
    optimizers = [torch.optim.Adam(network.parameters(), 1e-4, betas=(0.95, 0.999)) for network in (reference, ours)]
    runs = {
        "reference": lambda: step(reference, optimizers[0], log_mel, target),
        "float32": lambda: step(ours_forward(ours, False, True), optimizers[1], log_mel, target),
        "bf16": lambda: step(ours_forward(ours, True, True), optimizers[1], log_mel, target),
    }
    report("training step", interleaved(runs, options.repeats), options.batch)


def report(what: str, seconds: dict[str, float], batch: int) -> None:
    """A line for each way of running."""
    for name, each in seconds.items():
        print(f"{what:14} {name:10} {batch / each:7.2f} clips/s   {seconds['reference'] / each:5.2f}x the reference")


if __name__ == "__main__":
    main()
