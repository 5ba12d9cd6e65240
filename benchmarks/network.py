"""Inference and training step against `efficientnet_pytorch` (Lite: `efficientnet_lite_pytorch`): same weights, same
process, ratios.

    python benchmarks/network.py [--backbone efficientnet_b2] [--batch 4] [--repeats 3]

The reference runs as the paper's code runs it: eager, float32, its memory-efficient swish. Ours runs channels-last, in
float32 and in bfloat16 (training: autocast; inference: `psla.model.network`). Both carry the same 4-headed pooling with
527 classes and Adam and take ready log-mels. Everything is measured twice: with the allocator as the system sets it, as
the paper's code runs, and told to keep freed memory, as psla's commands run (`psla.model.host_memory`). The peak memory
of training steps at batch 16 is taken in a process for each of the two.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date

import torch
from efficientnet_lite_pytorch import EfficientNet as ReferenceLite
from efficientnet_pytorch import EfficientNet as ReferenceEfficientNet
from torch import Tensor, nn

from psla.model.backbones.efficientnet import our_name
from psla.model.host_memory import keep_freed_memory
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.model.pooling import Pooling
from psla.training.trainer import binary_cross_entropy

CLASSES, FRAMES, BINS = 527, 1056, 128


class Reference(nn.Module):
    """The reference library's features under the same pooling."""

    def __init__(self, name: str, pooling: Pooling) -> None:
        super().__init__()
        library = ReferenceLite if "lite" in name else ReferenceEfficientNet
        self.features = library.from_name(name.replace("_", "-"), in_channels=1)
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
    settle(reference)
    theirs = reference.features.state_dict()
    own = {mapped: tensor for key, tensor in theirs.items() if (mapped := our_name(key)) is not None}
    ours.backbone.load_state_dict(own)
    return ours, reference


def settle(network: nn.Module) -> None:
    """Statistics of one batch for BatchNorm: without them an untrained network is slow with numbers near zero."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
    with torch.no_grad():
        network.train()(inputs(2)[0])
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum


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
    """Median seconds of each, measured in turn so that a change of the machine's speed meets all of them.

    Each run that is timed comes after one that is not: a step of a training finds the memory of the step before it.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in times.items()}


def peak_memory(which: str, name: str, batch: int) -> None:
    """Print the MiB of a process that takes four training steps."""
    ours, reference = pair(name)
    if which == "ours":
        keep_freed_memory()
    log_mel, target = inputs(batch)
    network = (ours if which == "ours" else reference).train()
    forward = ours_forward(ours, True, True) if which == "ours" else reference
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    for _ in range(4):
        step(forward, optimizer, log_mel, target)
    # Not getrusage's: a process is born with its parent's peak.
    with open("/proc/self/status") as file:
        print(next(round(int(line.split()[1]) / 1024) for line in file if line.startswith("VmHWM")))


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    """Log-mels and targets."""
    generator = torch.Generator().manual_seed(1)
    log_mel = torch.randn(batch, FRAMES, BINS, generator=generator)
    return log_mel, (torch.rand(batch, CLASSES, generator=generator) < 0.01).float()


def measure(ours: TaggingNetwork, reference: Reference, batch: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each way of running."""
    log_mel, target = inputs(batch)
    ours.eval(), reference.eval()
    fast = ours.for_inference("bf16")
    with torch.inference_mode():
        inference = interleaved(
            {
                "reference": lambda: reference(log_mel),
                "float32": lambda: ours_forward(ours, False, False)(log_mel),
                "bf16": lambda: ours_forward(fast, False, False)(log_mel),
            },
            repeats,
        )
    ours.train(), reference.train()
    optimizers = [
        torch.optim.Adam(network.parameters(), 1e-4, betas=(0.95, 0.999), fused=network is ours)
        for network in (reference, ours)
    ]
    training = interleaved(
        {
            "reference": lambda: step(reference, optimizers[0], log_mel, target),
            "float32": lambda: step(ours_forward(ours, False, True), optimizers[1], log_mel, target),
            "bf16": lambda: step(ours_forward(ours, True, True), optimizers[1], log_mel, target),
        },
        repeats,
    )
    return {"inference": inference, "training step": training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet_b2")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak", choices=("ours", "reference"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return peak_memory(options.peak, options.backbone, options.batch)
    ours, reference = pair(options.backbone)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {date.today()}")
    print(f"{options.backbone}, batch {options.batch}, {CLASSES} classes, clips of 10 s")
    log_mel, _ = inputs(options.batch)
    ours.eval(), reference.eval()
    with torch.inference_mode():
        expected = reference.features.extract_features(log_mel.transpose(1, 2).unsqueeze(1))
        difference = (ours.features(log_mel) - expected).abs().max() / expected.abs().max()
    print(f"largest difference of the features, as a share of their largest value: {difference:.1e}")
    plain = measure(ours, reference, options.batch, options.repeats)
    print("\nthe allocator as the system sets it")
    report(plain, plain, options.batch)
    if keep_freed_memory():
        kept = measure(ours, reference, options.batch, options.repeats)
        print("\nfreed memory kept, by the reference, too")
        report(kept, kept, options.batch)
        print("\nours with freed memory kept, the reference as the system sets it: each as it is run")
        report({what: {**kept[what], "reference": plain[what]["reference"]} for what in kept}, plain, options.batch)
    for which in ("reference", "ours"):
        command = [sys.executable, __file__, "--peak", which, "--batch", "16", "--backbone", options.backbone]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"peak memory of a process in training steps at batch 16, {which}: {done.stdout.strip()} MiB")


def report(found: dict[str, dict[str, float]], reference: dict[str, dict[str, float]], batch: int) -> None:
    """A line for each way of running."""
    for what, seconds in found.items():
        for name, each in seconds.items():
            ratio = reference[what]["reference"] / each
            print(f"{what:14} {name:10} {batch / each:7.2f} clips/s   {ratio:5.2f}x the reference")


if __name__ == "__main__":
    main()
