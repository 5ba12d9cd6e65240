"""An exported model under ONNX Runtime against the same model in PyTorch: one process, two threads, taken in turn.

    python benchmarks/export.py [MODEL …] [--clips 8] [--repeats 5] [--folder FOLDER] [--int8]

MODEL: what `psla.load` takes, or the name of a backbone, which gets random weights, 527 classes and the paper's front
end; such an EfficientNet is compared with `efficientnet_pytorch`, too, as the paper's code runs it (eager, float32,
batch 4, ready log-mels: its front end is not counted, ours is), twice: with the allocator as the system sets it, as
that code runs, before anything else, and with freed memory kept, as psla's commands run. Clips are one window of noise
each. Every way is taken in turn; said are the medians of clips per second, and of processor time, which other work on
the machine moves less. Graphs are kept in FOLDER: making one takes a minute or more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from machine import machine
from network import inputs, pair
from psla.data.vocabulary import Vocabulary
from psla.export.graph import export_graph
from psla.export.precision import quantised
from psla.export.session import metadata_of, opened
from psla.export.write import synthesised
from psla.model.backbones.contract import BACKBONES
from psla.model.file import Model, ModelCard
from psla.model.host_memory import keep_freed_memory
from psla.model.inference import tag_waveforms
from psla.model.network import TaggingModel, TaggingNetwork
from psla.weights.catalogue import load_any


def exported(model: Model, name: str, folder: Path, int8: bool) -> Model:
    """The model under ONNX Runtime; its graph is made once."""
    path = folder / f"{Path(name).stem}{'-int8' if int8 else ''}.onnx"
    if not path.is_file():
        graph = export_graph(model.network)
        if int8:
            sounds = synthesised(model.network.sample_rate, 12).waveforms
            graph = quantised(graph, [each[: model.network.window_samples] for each in sounds])
        onnx.helper.set_model_props(graph, metadata_of(model, "int8" if int8 else "float32"))
        onnx.save(graph, path)
    return opened(path.read_bytes(), str(path))


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each, by the clock and of the processor; the first round is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            if turn:
                times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: tuple(map(statistics.median, zip(*each, strict=True))) for name, each in times.items()}  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["esc10-lite0", "efficientnet_b0", "efficientnet_b2"])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("."))
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    pairs = {name: pair(name) for name in options.models if name in BACKBONES}
    as_run = {
        name: in_turn({name: partial(run_reference, both[1].eval(), batches(options.clips))}, options.repeats)
        for name, both in pairs.items()
    }
    keep_freed_memory()
    for name in options.models:
        measure(name, options, pairs.get(name))
        for clock, processor in as_run.get(name, {}).values():
            print(
                f"{name:18} reference with the system's allocator {options.clips / clock:7.2f} clips/s, "
                f"processor {1000 * processor / options.clips:7.1f} ms a clip",
                flush=True,
            )


def batches(clips: int) -> list[torch.Tensor]:
    """Log-mels for the reference, 4 at a time."""
    return [inputs(4)[0]] * max(1, clips // 4)


def measure(name: str, options: argparse.Namespace, both: tuple[TaggingNetwork, torch.nn.Module] | None) -> None:
    """Print what a model makes in each way; `both`: a network with random weights and the reference with the same."""
    random = both and Model(both[0].eval(), Vocabulary.audioset(), ModelCard())
    model = random or load_any(name)
    ways: dict[str, TaggingModel] = {"torch": model.network, "torch folded": model.network.for_inference("folded")}
    ways["onnx"] = exported(model, name, options.folder, False).network
    if options.int8:
        ways["onnx int8"] = exported(model, name, options.folder, True).network
    rate, shape = model.network.sample_rate, (options.clips, model.network.window_samples)
    waves = list((3000 * np.random.default_rng(0).standard_normal(shape)).astype(np.int16))
    first = tag_waveforms(model.network, waves, rate)
    for way, each in ways.items():
        found = tag_waveforms(each, waves, rate).clip_probabilities
        print(f"{name}: {way}: differs by {float((found - first.clip_probabilities).abs().max()):.1e} at most")
    runs: dict[str, Callable[[], object]] = {
        way: partial(tag_waveforms, each, waves, rate) for way, each in ways.items()
    }
    if both is not None:
        runs["reference"] = partial(run_reference, both[1], batches(options.clips))
    times = in_turn(runs, options.repeats)
    base = "torch" if both is None else "reference"
    for way, (clock, processor) in times.items():
        print(
            f"{name:18} {way:14} {options.clips / clock:7.2f} clips/s ({times[base][0] / clock:5.2f}x {base}), "
            f"processor {1000 * processor / options.clips:7.1f} ms a clip ({times[base][1] / processor:5.2f}x)",
            flush=True,
        )


def run_reference(reference: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    """The reference library over batches of log-mels."""
    with torch.inference_mode():
        for batch in batches:
            reference(batch)


if __name__ == "__main__":
    main()
