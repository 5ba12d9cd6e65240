"""AudioSet at full size: reading the lists, holding out, and scanning a tree of sound files.

    python benchmarks/corpora.py LISTS [--files 100000] [--folder FOLDER]

LISTS holds the published lists. Each step runs in a process of its own, so that its peak memory is its own. The tree is
generated: that many WAV files of 10 s at 100 Hz (1 kB each) in 100 folders; the disk's cache is warm. Beside each time
stands the plainest way to do the same in this process, as a ratio that a busy machine does not change much.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from machine import machine


def timed(step: str, *arguments: str) -> dict:
    """Run one step of this file in a new process; its seconds, its peak in MB, and what it found."""
    done = subprocess.run([sys.executable, __file__, "--step", step, *arguments], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def step_read(lists: str) -> dict:
    """All lists into Clips, and the same lines split one by one in Python."""
    from psla.corpora import audioset

    began = time.perf_counter()
    clips = audioset.read_lists(lists)
    seconds, peak = time.perf_counter() - began, peak_mb()
    began = time.perf_counter()
    rows = 0
    for name in audioset.LISTS.values():
        path = Path(lists) / f"{name}.csv"
        open_text = open if path.exists() else gzip.open
        with open_text(path if path.exists() else f"{path}.gz", "rt") as file:
            for row in csv.reader(file, skipinitialspace=True):
                rows += not row[0].startswith("#") and bool(row[3].split(","))
    assert rows == len(clips)
    return {"seconds": seconds, "plain": time.perf_counter() - began, "peak_mb": peak, "found": repr(clips)}


def step_hold_out(lists: str) -> dict:
    """A stratified validation split of 5 %, whole videos."""
    from psla.corpora import audioset

    clips = audioset.read_lists(lists)
    began = time.perf_counter()
    held = clips.hold_out(0.05, seed=0)
    seconds = time.perf_counter() - began
    train, validation = (split.labels().counts() for split in (clips.split("train"), held.split("validation")))
    off = np.abs(validation - 0.05 * train).max()
    return {"seconds": seconds, "peak_mb": peak_mb(), "found": f"{held!r}, no class off by more than {off:g} clips"}


def step_scan(lists: str, audio: str, headers: str) -> dict:
    """List and probe the tree; `headers` keeps what was probed."""
    from psla.corpora import audioset

    began = time.perf_counter()
    _, inventory = audioset.scan(lists, [audio], ["balanced"], headers=headers)
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb(), "found": inventory.counts()}


def step_plain_scan(audio: str) -> dict:
    """What any scan must do: list the folders and open each file with soundfile."""
    began = time.perf_counter()
    seconds = 0.0
    for folder, _, names in os.walk(audio):
        for name in names:
            with soundfile.SoundFile(os.path.join(folder, name)) as file:
                seconds += file.frames / file.samplerate
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb(), "found": f"{seconds:g} s of sound"}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform != "darwin" else 1e6)


def make_tree(folder: Path, files: int) -> tuple[str, str]:
    """A list of that many clips, and a file for each."""
    import io

    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(1000), 100, format="WAV", subtype="PCM_U8")
    lists, audio = folder / "lists", folder / "audio"
    lists.mkdir()
    ids = [f"{number:011d}" for number in range(files)]
    text = "".join(f'{id}, 30.000, 40.000, "/m/09x0r"\n' for id in ids)
    (lists / "balanced_train_segments.csv").write_text(text)
    for part in range(100):
        (audio / f"part{part:02d}").mkdir(parents=True)
    for number, id in enumerate(ids):
        (audio / f"part{number % 100:02d}" / f"Y{id}.wav").write_bytes(sound.getvalue())
    return str(lists), str(audio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", help="the folder with the published lists")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folder", help="where the tree is made for a while; by default the system's")
    options = parser.parse_args()
    print(machine())
    read = timed("read", options.lists)
    print(f"read all lists: {read['seconds']:.2f} s, peak {read['peak_mb']:.0f} MB: {read['found']}")
    print(f"  the csv module alone, a line at a time: {read['plain'] / read['seconds']:.1f} times as long")
    held = timed("hold_out", options.lists)
    print(f"hold out 5 %: {held['seconds']:.2f} s, peak {held['peak_mb']:.0f} MB: {held['found']}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        lists, audio = make_tree(Path(folder), options.files)
        headers = str(Path(folder) / "headers.parquet")
        plain = timed("plain_scan", audio)
        scan = timed("scan", lists, audio, headers)
        again = timed("scan", lists, audio, headers)
        print(f"scan {options.files} files: {scan['seconds']:.2f} s, peak {scan['peak_mb']:.0f} MB: {scan['found']}")
        ratio = scan["seconds"] / plain["seconds"]
        print(f"  each opened with soundfile in one thread: {plain['seconds']:.2f} s; the scan: {ratio:.2f} of it")
        print(f"scan again: {again['seconds']:.2f} s, peak {again['peak_mb']:.0f} MB: {again['found']}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        found = globals()[f"step_{sys.argv[2]}"](*sys.argv[3:])
        print(json.dumps(found))
    else:
        main()
