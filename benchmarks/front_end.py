"""How much faster the batched front end is than the plainest per-clip one, in the same process on this machine.

Run: `python benchmarks/front_end.py`
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from psla.model.frontends.kaldi import FrontEnd, mel_filters

CLIPS, SAMPLES, THREADS, REPETITIONS = 16, 160_000, 2, 25


def plain(waveforms: Tensor, window: Tensor, filters: Tensor) -> list[Tensor]:
    """One clip after another, each step of Kaldi's recipe as it is written."""
    results = []
    for waveform in waveforms:
        frames = (waveform - waveform.mean()).unfold(0, 400, 160)
        frames = frames - frames.mean(1, keepdim=True)
        frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        frames = torch.nn.functional.pad(frames * window, (0, 112))
        power = torch.fft.rfft(frames).abs() ** 2
        results.append(torch.clamp(power @ filters, min=torch.finfo(torch.float32).eps).log())
    return results


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Interleaved repetitions, medians, one ratio."""
    torch.set_num_threads(THREADS)
    waveforms = torch.rand(CLIPS, SAMPLES, generator=torch.Generator().manual_seed(0)) - 0.5
    front = FrontEnd()
    window = torch.hann_window(400, periodic=False)
    filters = mel_filters(128, 512, 16000).float()
    difference = (torch.stack(plain(waveforms, window, filters)) - front.log_mel(waveforms)).abs().max()
    times: list[tuple[float, float]] = []
    for _ in range(REPETITIONS):
        times.append((seconds(lambda: plain(waveforms, window, filters)), seconds(lambda: front.log_mel(waveforms))))
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"machine: {platform.machine()} {platform.system()}, {os.cpu_count()} cores; torch {torch.__version__}")
    print(f"threads: {torch.get_num_threads()}; {CLIPS} clips of {SAMPLES / 16000:g} s; {REPETITIONS} repetitions each")
    print(f"plain: {slow * 1e3:.1f} ms   batched: {fast * 1e3:.1f} ms   largest difference: {difference:.1e}")
    print(f"front end: {slow / fast:.2f}x")


if __name__ == "__main__":
    main()
