"""What Ray costs: `psla predict --cluster ray` beside `psla predict`, alternating, and 10 to 1,000 tasks of nothing.

    python benchmarks/cluster.py [--clips 2000] [--rounds 1] [--seconds 10] [--model audioset-small]

The commands are whole: the start of Python, of Ray and of torch in its workers is in them. docs/scale.md has figures,
and what follows from them, by the arithmetic of `simulated`, for more machines than there are here.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine
from psla.cluster.ray_tasks import ray_cluster
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.spread import Link, Task, in_turn


def nothing(link: Link) -> None:
    """A task."""


def overhead(counts: tuple[int, ...] = (10, 100, 1000)) -> dict[int, float]:
    """Seconds for each of so many tasks of nothing, a worker for each core being there already."""
    with ray_cluster("ray") as spread:
        list(in_turn(spread, [Task(f"warm {n}", nothing) for n in range(8)]))
        found = {}
        for count in counts:
            began = time.perf_counter()
            list(in_turn(spread, [Task(f"{n}", nothing) for n in range(count)]))
            found[count] = (time.perf_counter() - began) / count
        return found


def commands(clips: int, seconds: float, model: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of the local command and of the one on Ray, alternating; their files are the same bytes."""
    row = {"split": "evaluation", "labels": ["x"]}
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row | {"clip_id": f"{n}", "source": f"{n}", "path": f"soundscape://7/{n}?seconds={seconds}"}
            for n in range(clips)
        ]
        table = Path(folder) / "c.parquet"
        Clips.from_rows(rows, Vocabulary(["x"])).write(table)
        packed = Path(folder) / "packed"
        rate = ["--sample-rate", "32000"] if model == "audioset-small" else []
        subprocess.run([sys.executable, "-m", "psla", "pack", str(table), str(packed), *rate], check=True)
        times: dict[str, list[float]] = {"local": [], "ray": []}
        for _ in range(rounds):
            for name, more in (("local", []), ("ray", ["--cluster", "ray"])):
                out = Path(folder) / f"{name}.safetensors"
                began = time.perf_counter()
                command = [sys.executable, "-m", "psla", "predict", model, str(packed), "--out", str(out), *more]
                subprocess.run(command, check=True, capture_output=True)
                times[name].append(time.perf_counter() - began)
            assert (Path(folder) / "local.safetensors").read_bytes() == (Path(folder) / "ray.safetensors").read_bytes()
        return times


def simulated(tasks: int, task_s: float, overhead_s: float, cores: int, start_s: float) -> float:
    """Seconds of a job by arithmetic: the driver hands tasks out one after the other, cores do them side by side.

    What is not in it: disks and networks that machines share.

    Example:
        >>> simulated(100, 10.0, 0.001, 10, 5.0)
        105.001
    """
    waves = -(-tasks // cores)
    return start_s + max(waves * task_s + overhead_s, tasks * overhead_s)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--model", default="audioset-small")
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    print(machine())
    for count, seconds in overhead().items():
        print(f"{count:5d} tasks of nothing: {1000 * seconds:.2f} ms each")
    if asked.clips:
        times = commands(asked.clips, asked.seconds, asked.model, asked.rounds)
        local, ray = (statistics.median(times[name]) for name in ("local", "ray"))
        print(f"{asked.clips} clips of {asked.seconds:g} s, {asked.model}: local {local:.1f} s, Ray {ray:.1f} s, "
              f"{ray / local:.2f} times as long")  # fmt: skip


if __name__ == "__main__":
    main()
