"""Tagging: one long file against the clock and against memory, and many short ones against the sum of their parts.

    long    one FLAC at 48 kHz, stereo: by turns, the time of decoding and resampling it alone by the same workers,
            and of tagging it; the parts of the latter on one thread, on ready windows; the memory of a process that
            tags it beyond that of a 10 s file
    short   five-second FLAC files: time of tagging them all / (time of decoding them all + of the network on ready
            windows), each measured apart with the same workers and threads, in this process, interleaved

Each process may use two cores. Without --model the weights are random: He's initialisation, and norms that have seen
two batches, so that activations are in the range of a trained network. (Norms that have seen nothing let activations
die away to denormal numbers, on which a processor is 50 times slower.)

Run: `python benchmarks/tagging.py [--backbone efficientnet_b0 | --model PATH_OR_NAME] [--seconds 3600] [--files 2000]
[--rounds 3] [--precision folded]`. Where other work shares the cores, the wall time of one thread and that of several
suffer differently: the processor's seconds of the parts say more then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

CORES, RATE = 2, 48000

TAG_ONE = """
import json, resource, sys, torch
from psla.tagging.tagger import load
torch.set_num_threads(int(sys.argv[3]))
tagger = load(sys.argv[1], precision=sys.argv[5])
tagger.tag(sys.argv[4])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tagger.tag(sys.argv[2])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([before, after]))
"""


def main() -> None:
    """Both parts, with the machine they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet_b0")
    parser.add_argument("--model", help="a model file, or a name that `psla models` lists")
    parser.add_argument("--precision", default="float32", choices=("float32", "folded", "bf16"))
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=CORES, help="of the network")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    folder = Path(tempfile.mkdtemp(prefix="psla-tagging-"))
    try:
        model = options.model or str(calibrated_model(folder / "model.safetensors", options.backbone))
        print(
            f"machine: {platform.machine()} {platform.system()}, {CORES} of {os.cpu_count()} cores, load "
            f"{os.getloadavg()[0]:.1f}; {options.model or options.backbone}, {options.precision}"
        )
        if options.seconds:
            long_file(folder, model, options)
        if options.files:
            short_files(folder, model, options)
    finally:
        shutil.rmtree(folder)


def calibrated_model(path: Path, backbone: str) -> Path:
    """A model file of 527 classes with random weights and norms that have seen noise at several levels."""
    import torch

    from psla.data.vocabulary import Vocabulary
    from psla.model.file import ModelCard, save_model
    from psla.model.network import NetworkConfig, TaggingNetwork

    torch.manual_seed(0)
    network = TaggingNetwork(NetworkConfig(backbone, 527, batch_norm_momentum=1.0))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
    with torch.no_grad():
        for _ in range(2):
            network.train()(torch.randn(4, 169200) * torch.tensor([[0.003], [0.03], [0.1], [0.3]]))
    return save_model(path, network, Vocabulary.audioset(), ModelCard())


def sound(seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    """Coloured noise and a gliding tone, (samples, 2) float32."""
    rng, samples = np.random.default_rng(seed), round(seconds * rate)
    noise = np.cumsum(rng.standard_normal((samples, 2)), axis=0)
    noise -= np.linspace(noise[0], noise[-1], samples)
    tone = np.sin(np.cumsum(np.linspace(0.02, 0.3, samples)))[:, None]
    return (0.2 * noise / np.abs(noise).max() + 0.1 * tone + 0.01 * rng.standard_normal((samples, 2))).astype(
        np.float32
    )


def long_file(folder: Path, model: str, options: argparse.Namespace) -> None:
    """Speed of one long file against its decoding, its parts, and its memory in a process of its own."""
    import torch

    from psla.audio.pool import decode_pool
    from psla.model.host_memory import keep_freed_memory
    from psla.model.inference import padded, tag_waveforms
    from psla.tagging.batch import BATCH, read_files, tag_files
    from psla.tagging.tagger import load

    path, short = folder / "long.flac", folder / "ten.flac"
    minute = sound(60, 0)
    with soundfile.SoundFile(path, "w", RATE, 2, format="FLAC") as file:
        for begin in range(0, options.seconds, 60):
            file.write(minute[: min(60, options.seconds - begin) * RATE])
    soundfile.write(short, minute[: 10 * RATE], RATE)
    command = [sys.executable, "-c", TAG_ONE, model, str(path), str(options.threads), str(short), options.precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)

    keep_freed_memory()  # as `psla tag` does
    torch.set_num_threads(options.threads)
    tagger = load(model, precision=options.precision)
    network, rate, hour = tagger._network, tagger.sample_rate, options.seconds / 3600
    with decode_pool(CORES) as pool:

        def decode() -> list[np.ndarray]:
            for file in read_files([str(path)], pool, rate):
                file.info()
                blocks = list(file.blocks())
            return blocks

        def tag() -> None:
            [file] = tag_files(tagger, [str(path)], pool)
            assert file.result, file.reason

        windows = list(tagger.windows(decode()))
        took = [(seconds(decode), seconds(tag)) for _ in range(options.rounds)]
    alone, whole = (statistics.median(each) / hour for each in zip(*took, strict=True))
    ratio = statistics.median(whole / alone for alone, whole in took)
    print(
        f"long, an hour: decoding alone {alone:.1f} s, tagging {whole:.1f} s ({3600 / whole:.0f}x real time): ", end=""
    )
    print(f"{ratio:.2f} of decoding, the median of {options.rounds} rounds")

    def meter() -> None:
        recording = tagger.recording()
        for window, clip, steps in zip(windows, said.clip_probabilities, said.frame_probabilities, strict=True):
            recording.add(window, clip.numpy(), steps[~steps.isnan().all(1)].numpy())

    torch.set_num_threads(1)
    said = tag_waveforms(network, windows, rate)
    inside = {"network with its front end": lambda: [
        tag_waveforms(network, windows[i : i + BATCH], rate) for i in range(0, len(windows), BATCH)
    ]}  # fmt: skip
    if hasattr(network, "front_end"):
        inside["front end"] = lambda: [network.front_end(*padded([each], len(each))) for each in windows]
    inside |= {"meter and time line": meter}
    parts = {name: min(processor(work) for _ in range(options.rounds)) / hour for name, work in inside.items()}
    print("processor's seconds an hour, one thread: " + ", ".join(f"{n} {t:.1f}" for n, t in parts.items()))
    print(f"memory: {(after - before) / 1024:.0f} MiB beyond that of a 10 s file ({before / 1024:.0f} MiB)")
    path.unlink()


def short_files(folder: Path, model: str, options: argparse.Namespace) -> None:
    """All at once against the parts, interleaved; the median of the ratios."""
    import torch

    from psla.audio.pool import decode_pool
    from psla.model.inference import tag_waveforms
    from psla.tagging.batch import read_files, tag_files
    from psla.tagging.tagger import load

    count, rounds = options.files, options.rounds
    torch.set_num_threads(options.threads)
    different = min(count, 40)
    for i in range(different):
        soundfile.write(folder / f"{i}.flac", sound(5, i, 44100), 44100)
    paths = [str(folder / f"{i % different}.flac") for i in range(count)]
    tagger = load(model, precision=options.precision)
    with decode_pool(CORES) as pool:
        ready = []
        for file in read_files(paths[:different], pool, tagger.sample_rate):
            file.info()
            ready.append(np.concatenate(list(file.blocks())))

        def decode() -> None:
            for file in read_files(paths, pool, tagger.sample_rate):
                file.info()
                assert sum(len(block) for block in file.blocks())

        def network() -> None:
            for begin in range(0, count, 8):
                tag_waveforms(
                    tagger._network,
                    [ready[i % different] for i in range(begin, min(begin + 8, count))],
                    tagger.sample_rate,
                )

        def together() -> None:
            assert sum(file.result is not None for file in tag_files(tagger, paths, pool)) == count

        ratios = []
        for _ in range(rounds):
            apart = [seconds(decode), seconds(network)]
            both = seconds(together)
            ratios.append(both / sum(apart))
            print(f"short: decoding {apart[0]:.1f} s, network {apart[1]:.1f} s, together {both:.1f} s")
    print(f"short: {count} files of 5 s, together / (decoding + network): {statistics.median(ratios):.2f}")


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def processor(work: Callable[[], object]) -> float:
    """Seconds of this process on the processor in one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
