"""Label enhancement at the size of AudioSet: generated predictions, mapped from their file, on the published labels.

python benchmarks/labeling.py [--clips 2063949] [--lists FOLDER] [--folder FOLDER]

`--lists` is a folder with the published segment lists; without it (or where it has none) long-tailed labels are drawn.
The measured part runs in a process of its own: read the clips and the predictions, enhance, write the new clips.
Memory is the highest RssAnon of that process; pages of the mapped file are not in it. Linux only.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from psla.data.clips import Clips
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions

LISTS = Path(__file__).parents[2] / "shared/data/audioset"
BLOCK = 65536


def published_clips(folder: Path, clips: int) -> Clips:
    """The train clips of the published lists, the first ones."""
    from psla.corpora.audioset import read_lists

    table = read_lists(folder, ("balanced", "unbalanced"))
    return Clips(table.frame.head(clips), table.vocabulary, "audioset")


def drawn_clips(clips: int) -> Clips:
    """One to three labels a clip, from a long tail."""
    generator = np.random.default_rng(0)
    vocabulary = Vocabulary.audioset()
    tail = 1.0 / np.arange(1, len(vocabulary) + 1)
    ids = pl.Series(vocabulary.ids)
    drawn = generator.choice(len(vocabulary), size=(clips, 3), p=tail / tail.sum())
    some = generator.integers(1, 4, clips)
    columns = {f"c{i}": ids.gather(np.where(some > i, drawn[:, i], drawn[:, 0])) for i in range(3)}
    name = pl.Series("clip_id", [f"clip{i:08d}" for i in range(clips)])
    frame = pl.DataFrame({"clip_id": name, **columns}).with_columns(
        pl.concat_list("c0", "c1", "c2").list.unique(maintain_order=True).alias("labels"),
        pl.col("clip_id").alias("source"),
        (pl.col("clip_id") + ".wav").alias("path"),
        pl.lit("train").alias("split"),
        pl.lit(None, pl.Float64()).alias("start_s"),
        pl.lit(None, pl.Float64()).alias("end_s"),
    )
    return Clips(frame.drop("c0", "c1", "c2"), vocabulary, "drawn")


def generate(clips: Clips, path: Path) -> None:
    """A file of random float16 predictions, higher where the clip has the label."""
    generator = np.random.default_rng(1)
    labels = clips.labels()
    probabilities = np.empty((len(clips), len(clips.vocabulary)), np.float16)
    pattern = (generator.random((BLOCK, len(clips.vocabulary)), np.float32) ** 8).astype(np.float16)
    for first in range(0, len(clips), BLOCK):
        block = probabilities[first : first + BLOCK]
        block[:] = np.roll(pattern, first // BLOCK, axis=1)[: len(block)]
    rows = np.repeat(np.arange(len(labels)), np.diff(labels.offsets))
    probabilities[rows, labels.indices] = probabilities[rows, labels.indices] ** 0.125
    Predictions(probabilities, clips.clip_ids, clips.vocabulary, split="train").save(path)


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure(folder: Path) -> None:
    """The measured part; prints JSON."""
    from psla.techniques.enhancement import enhance_clips

    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    began, times, busy = time.perf_counter(), {}, time.process_time()
    clips = Clips.read(folder / "clips.parquet")
    times["read clips"] = time.perf_counter() - began
    predictions = Predictions.read(folder / "predictions.safetensors", mapped=True)
    times["map and verify predictions"] = time.perf_counter() - began - sum(times.values())
    result = enhance_clips(clips, predictions, Ontology.audioset())
    times["enhance"] = time.perf_counter() - began - sum(times.values())
    result.clips.write(folder / "enhanced.parquet")
    times["write clips"] = time.perf_counter() - began - sum(times.values())
    done.set()
    thread.join()
    busy = time.process_time() - busy
    before, added = len(result.enhancement.original.indices), len(result.enhancement.additions)
    print(json.dumps({"times": times, "peak": peak, "busy": busy, "before": before, "added": added}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_063_949)
    parser.add_argument("--lists", type=Path, default=LISTS)
    parser.add_argument("--folder", type=Path, help="for 2.3 GB of files; by default a temporary one")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        real = (options.lists / "balanced_train_segments.csv").exists()
        clips = published_clips(options.lists, options.clips) if real else drawn_clips(options.clips)
        clips.write(folder / "clips.parquet")
        generate(clips, folder / "predictions.safetensors")
        size = (folder / "predictions.safetensors").stat().st_size
        kind = "published labels" if real else "drawn labels"
        print(f"{platform.machine()}, numpy {np.__version__}, {len(clips)} clips ({kind}), {date.today()}")
        del clips
        command = [sys.executable, __file__, "--measure", str(folder)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for what, seconds in found["times"].items():
            print(f"{what}: {seconds:.1f} s")
        total = sum(found["times"].values())
        print(
            f"all: {total:.1f} s ({found['busy']:.1f} s of processor), {found['peak'] / 1e9:.2f} GB of anonymous memory"
        )
        print(f"predictions file: {size / 1e9:.2f} GB; labels {found['before']}, added {found['added']}")


if __name__ == "__main__":
    main()
