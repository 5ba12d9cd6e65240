"""Clips a second of front end, inference and training step on a GPU, at batch sizes to the memory's end.

    python benchmarks/gpu.py [--device cuda] [--backbone efficientnet_b2 ...] [--batch 32 64 ...] [--compile]

Needs this repository and a torch installation, nothing else: it makes its own data (int16 clips of 10 s, 527 classes).
Beside each figure stands the limit by memory traffic: what every layer must read and write, over the bandwidth of a
large copy, measured first. `efficientnet_pytorch` is measured too where it is installed. With `--device cpu` the same
file runs, slowly, on any machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from psla.model.augmentation import draw_masks, mix_targets, mix_waveforms
from psla.model.network import NetworkConfig, TaggingNetwork

CLASSES, SECONDS, RATE = 527, 10, 16000
FRAMES, BINS = 1056, 128
BACKBONES = ("efficientnet_b0", "efficientnet_b2", "resnet50")


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(work: Callable[[], object], clips: int, device: torch.device, seconds: float) -> float:
    """Clips a second, after two rounds to warm up."""
    work(), work()
    finish(device)
    rounds, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or rounds < 3:
        work()
        rounds += 1
        if device.type != "cuda" or rounds % 5 == 0:
            finish(device)  # bounds how far the queue runs ahead of the clock
    finish(device)
    return rounds * clips / (time.perf_counter() - began)


def bandwidth(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written."""
    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return rate(lambda: target.copy_(source), 2 * size, device, 1.0)


def traffic(network: TaggingNetwork, element_bytes: int) -> tuple[float, float]:
    """Bytes that inference and a training step must move for one clip, if every layer reads its input and writes its
    output once; the backward pass reads the gradient and what was kept, and writes a gradient: twice as much again."""
    moved = [0]

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        moved[0] += element_bytes * (sum(x.numel() for x in inputs if isinstance(x, Tensor)) + output.numel())

    layers = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(count) for m in network.backbone.modules() if isinstance(m, layers)]
    with torch.inference_mode():
        device = next(network.parameters()).device
        network.from_log_mel(torch.zeros(1, FRAMES, BINS, device=device))
    for hook in hooks:
        hook.remove()
    return moved[0], 3.0 * moved[0]


class Bench:
    """One network with the data of one batch size."""

    def __init__(self, network: TaggingNetwork, batch: int, device: torch.device, compiled: bool) -> None:
        self.network, self.batch, self.device = network, batch, device
        generator = torch.Generator().manual_seed(0)
        shape = (batch, SECONDS * RATE)
        # Two batches in pinned memory: the next one is copied while this one computes.
        self.host = [torch.randint(-9000, 9000, shape, dtype=torch.int16, generator=generator) for _ in range(2)]
        if device.type == "cuda":
            self.host = [each.pin_memory() for each in self.host]
        self.target = (torch.rand(batch, CLASSES, generator=generator) < 0.01).float().to(device)
        self.share = torch.full((batch,), 0.4, device=device)
        self.mixed = torch.arange(batch, device=device) % 2 == 0
        self.uniforms = torch.rand(batch, 4, dtype=torch.float64, generator=generator)
        self.optimizer = torch.optim.Adam(network.parameters(), 1e-4, betas=(0.95, 0.999), fused=device.type == "cuda")
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.from_log_mel = torch.compile(network.from_log_mel) if compiled else network.from_log_mel

    def waveforms(self) -> tuple[Tensor, Tensor]:
        """The batch on the device, copied beside the computation."""
        with torch.cuda.stream(self.copies) if self.copies is not None else nullcontext():
            first, second = (each.to(self.device, non_blocking=True) for each in self.host)
        if self.copies is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.copies)
        return first, second

    def log_mel(self, masked: bool) -> Tensor:
        """Waveforms to normalised log-mels as training (mixed and masked) or inference makes them."""
        from psla.model.augmentation import apply_masks

        first, second = self.waveforms()
        front = self.network.front_end
        waveform = mix_waveforms(first, second, self.share, self.mixed) if masked else first
        log_mel, _ = front.fit(front.log_mel(waveform), None)
        if masked:
            log_mel = apply_masks(log_mel, draw_masks(self.uniforms, FRAMES, BINS))
        return front.normalise(log_mel)

    @torch.inference_mode()
    def front_end(self) -> None:
        """The front end alone, with mixing and masks."""
        self.log_mel(True)

    @torch.inference_mode()
    def infer(self) -> None:
        """Waveform to probabilities."""
        with torch.autocast(self.device.type, torch.bfloat16):
            self.from_log_mel(self.log_mel(False))

    def train(self) -> None:
        """One step: mix, mask, forward, backward, Adam."""
        log_mel = self.log_mel(True)
        keep = None
        if self.network.backbone.drop_connect_units:
            probability = self.network.backbone.keep_probabilities(0.2).to(self.device)
            keep = ((torch.rand(self.batch, len(probability), device=self.device) < probability) / probability).float()
        target = mix_targets(self.target, self.target.flip(0), self.share, self.mixed)
        with torch.autocast(self.device.type, torch.bfloat16):
            p = self.from_log_mel(log_mel, keep=keep).clip_probabilities
        p = p.float().clamp(1e-7, 1 - 1e-7)
        self.optimizer.zero_grad(set_to_none=True)
        (-(target * p.log() + (1 - target) * torch.log1p(-p)).mean(1).sum() / self.batch).backward()
        self.optimizer.step()


def reference_rates(name: str, batch: int, device: torch.device, seconds: float) -> tuple[float, float] | None:
    """Inference and training step of `efficientnet_pytorch` as the paper's code runs it; None where it is not there."""
    if importlib.util.find_spec("efficientnet_pytorch") is None or not name.startswith("efficientnet_b"):
        return None
    from efficientnet_pytorch import EfficientNet

    network = EfficientNet.from_name(name.replace("_", "-"), in_channels=1, num_classes=CLASSES).to(device)
    image = torch.randn(batch, 1, BINS, FRAMES, device=device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        network(image).sigmoid().mean().backward()
        optimizer.step()

    with torch.inference_mode():
        network.eval()
        inference = rate(lambda: network(image), batch, device, seconds)
    network.train()
    return inference, rate(step, batch, device, seconds)


def calibrate(network: TaggingNetwork, device: torch.device) -> None:
    """Set BatchNorm's running statistics from noise: without them an untrained network's activations shrink to
    denormal numbers, with which a CPU is many times slower than with a trained one's."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train().from_log_mel(torch.randn(2, FRAMES, BINS, device=device))
    for norm in norms:
        norm.momentum = 0.01


def measure(name: str, batch: int, device: torch.device, options: argparse.Namespace, copied: float) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    network = TaggingNetwork(NetworkConfig(name, CLASSES)).to(device, memory_format=torch.channels_last)
    calibrate(network, device)
    bench = Bench(network, batch, device, options.compile)
    inference_bytes, training_bytes = traffic(network.eval(), element_bytes=2)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    figures = [rate(bench.front_end, batch, device, options.seconds)]
    figures.append(rate(bench.infer, batch, device, options.seconds))
    network.train()
    figures.append(rate(bench.train, batch, device, options.seconds))
    limits = [copied / inference_bytes, copied / training_bytes]
    memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}" if device.type == "cuda" else "-"
    share = 100 * figures[2] / figures[0]
    row = [name, str(batch), *(f"{x:.1f}" for x in figures), f"{share:.1f} %", *(f"{x:.0f}" for x in limits), memory]
    theirs = reference_rates(name, batch, device, options.seconds) if options.reference else None
    return "| " + " | ".join([*row, *([f"{x:.1f}" for x in theirs] if theirs else ["-", "-"])]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backbone", nargs="+", default=BACKBONES)
    parser.add_argument("--batch", type=int, nargs="+", default=[2**n for n in range(5, 13)])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--reference", action="store_true", help="measure efficientnet_pytorch, too")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: this torch sees no CUDA device; --device cpu runs it slowly anywhere")
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    torch.backends.cudnn.benchmark = True
    copied = bandwidth(device)
    print(
        f"{machine}, torch {torch.__version__}, {date.today()}, "
        f"copy {copied / 1e9:.0f} GB/s, clips of {SECONDS} s, bf16"
    )
    print("| network | batch | front end | inference | training | front end's share of the step | limit, inference "
          "| limit, training | GiB | reference, inference | reference, training |")  # fmt: skip
    print("|" + "---|" * 11)
    for name in options.backbone:
        for batch in options.batch:
            try:
                print(measure(name, batch, device, options, copied), flush=True)
            except torch.cuda.OutOfMemoryError:
                print(f"| {name} | {batch} | out of memory |" + " |" * 8, flush=True)
                break
            finally:
                if device.type == "cuda":
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
