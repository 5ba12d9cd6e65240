"""Packing against bare decoding of the same files on the same processors; random reads against a bare memory map.

python benchmarks/pack.py [--clips 2000] [--workers 2] [--folder DIR]

Each ratio is the median over rounds in which both sides take turns. Absolute rates hold for the machine named alone.
The ratio of processor times depends less on what else the machine does: bare decoding in this process against all that
packing takes, in this process and its workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import soundfile

from psla.audio import decode as audio
from psla.data.clips import Clips
from psla.data.pack.format import shard_path
from psla.data.pack.reading import Pack
from psla.data.pack.write import pack
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary

SECONDS, RATE = 10, 16000
# What corpora are delivered as: AudioSet as people download it, FSD50K, and AudioSet already converted.
KINDS = {
    "FLAC 44.1 kHz stereo": ("flac", 44100, 2),
    "WAV 44.1 kHz mono": ("wav", 44100, 1),
    "FLAC 16 kHz mono": ("flac", 16000, 1),
}
ROUNDS = 3


def make(folder: Path, suffix: str, rate: int, channels: int, clips: int) -> Clips:
    """Clips of pink noise, ten seconds each: a few files, each under many names, for only reading counts here."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for index in range(clips):
        path = folder / f"{index}.{suffix}"
        if index < 20:
            spectrum = np.fft.rfft(generator.normal(size=(rate * SECONDS, channels)), axis=0)
            noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1))[:, None], axis=0)
            soundfile.write(path, 0.3 * noise / np.abs(noise).max(), rate)
        else:
            os.link(folder / f"{index % 20}.{suffix}", path)
        rows.append({"clip_id": str(index), "source": str(index), "path": str(path), "split": "train", "labels": []})
    return Clips.from_rows(rows, Vocabulary(["noise"]))


def length(path: str) -> int:
    """Decode and resample, and forget the samples."""
    return len(audio.read(path, RATE))


def bare_rate(pool: multiprocessing.pool.Pool, paths: list[str]) -> float:
    """Clips a second of processes that only decode and resample."""
    began = time.perf_counter()
    for _ in pool.imap_unordered(length, paths, chunksize=4):
        pass
    return len(paths) / (time.perf_counter() - began)


def processor_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def processor_ratio(clips: Clips, folder: Path, workers: int) -> float:
    """Processor time of bare decoding by that of packing, for the same clips."""
    began = processor_s()
    for path in clips.frame["path"].to_list():
        length(path)
    decoded = processor_s()
    pack_rate(clips, folder, workers)
    return (decoded - began) / (processor_s() - decoded)


def pack_rate(clips: Clips, folder: Path, workers: int) -> float:
    """Clips a second of `pack`, from the table to the finished pack on the disk, the start of its workers included."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    pack(clips, folder, RATE, workers=workers)
    return len(clips) / (time.perf_counter() - began)


def read_rates(packed: Pack) -> tuple[float, float, float]:
    """Clips a second from a warm pack: copied by PackSource's caller, the same from bare maps, and only handed out."""
    source = open_source(packed.clips, RATE)
    frame = packed.clips.frame
    shards = [np.load(shard_path(packed.folder, n), mmap_mode="r") for n in range(len(packed.info["shard_samples"]))]
    places = list(zip(frame["shard"].to_list(), frame["offset"].to_list(), frame["samples"].to_list(), strict=True))
    order = np.random.default_rng(0).integers(0, len(places), 4000).tolist()
    row = np.empty(SECONDS * RATE, np.int16)
    for index in range(len(places)):
        row[:] = source.read(index)

    began = time.perf_counter()
    for index in order:
        row[:] = source.read(index)
    ours = time.perf_counter()
    for index in order:
        shard, offset, samples = places[index]
        row[:] = shards[shard][offset : offset + samples]
    bare = time.perf_counter()
    for index in order:
        source.read(index)
    views = time.perf_counter()
    return len(order) / (ours - began), len(order) / (bare - ours), len(order) / (views - bare)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where files and packs are made; a temporary folder by default")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} processors, numpy {np.__version__}, {date.today()}"
    print(f"{machine}; {options.clips} clips of {SECONDS} s, {options.workers} workers")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        context = multiprocessing.get_context("spawn")
        for number, (name, kind) in enumerate(KINDS.items()):
            clips = make(Path(folder) / str(number), *kind, clips=options.clips)
            out = Path(folder) / "pack"
            paths = clips.frame["path"].to_list()
            with context.Pool(options.workers) as pool:
                pool.map(length, paths[:20])  # started, and the files are in the page cache
                found = [(bare_rate(pool, paths), pack_rate(clips, out, options.workers)) for _ in range(ROUNDS)]
            ratio = statistics.median(packed / bare for bare, packed in found)
            bare, packed = (statistics.median(column) for column in zip(*found, strict=True))
            processor = processor_ratio(clips, out, options.workers)
            print(
                f"packing {name}: {packed:.0f} clips/s, bare decoding {bare:.0f} clips/s, ratio {ratio:.2f}; ", end=""
            )
            print(f"of processor times {processor:.2f}")
        reads = [read_rates(Pack.open(out)) for _ in range(ROUNDS)]
        ratio = statistics.median(ours / bare for ours, bare, _ in reads)
        ours, bare, views = (statistics.median(column) for column in zip(*reads, strict=True))
        print(f"random reads, copied: {ours:.0f} clips/s, bare memmap {bare:.0f} clips/s, ratio {ratio:.2f}")
        print(f"random reads, handed out as views: {views:.0f} clips/s")


if __name__ == "__main__":
    main()
