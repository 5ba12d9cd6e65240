"""The service against `psla tag`: the same files, by turns, on the same two cores.

    tag      `psla.tagging.batch.tag_files` in a process of its own, warm: what `psla tag` does once its model is there
    serve    `psla serve` in a process of its own, warm; clients in this process send the files as bodies and check that
             each answer is the file's own. What the clients cost is on the service's side of the ratio.

Run: `python benchmarks/serve.py [--model audioset-small] [--files 200] [--seconds 5] [--clients 32] [--rounds 5]`.
Both sides have one decoding process a core and as many threads for the network. The ratio of each round is of times
taken right after each other, so that what else the machine does meets both; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import soundfile

from tagging import CORES, RATE, sound

TAG = """
import json, sys, time
from psla.audio.pool import decode_pool
from psla.model.host_memory import keep_freed_memory
from psla.tagging.batch import tag_files
from psla.tagging.tagger import load
keep_freed_memory()
tagger, paths = load(sys.argv[1]), sys.argv[3:]
with decode_pool(int(sys.argv[2])) as pool:
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.monotonic()
        rows = [file.result.to_dict(5) for file in tag_files(tagger, paths, pool)]
        print(json.dumps([time.monotonic() - began, rows]), flush=True)
"""


def main() -> None:
    """Rounds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="audioset-small")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory(prefix="psla-serve-") as folder:
        paths = [Path(folder) / f"{number}.flac" for number in range(options.files)]
        for number, path in enumerate(paths):
            soundfile.write(path, sound(options.seconds, number), RATE)
        print(
            f"machine: {platform.machine()} {platform.system()}, {CORES} of {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.1f}; {options.model}, {options.files} files of {options.seconds:g} s, "
            f"{options.clients} clients"
        )
        compare(paths, options)


def compare(paths: list[Path], options: argparse.Namespace) -> None:
    """Both processes, warm, by turns."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES)}
    tag = subprocess.Popen(
        [sys.executable, "-c", TAG, options.model, str(CORES), *map(str, paths)],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment},
    )
    words = ["serve", options.model, "--port", "0", "--workers", str(CORES), "--per-client", "1000"]
    service = subprocess.Popen(
        [sys.executable, "-m", "psla", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert tag.stdin is not None
        assert tag.stdout is not None
        assert service.stderr is not None
        port = int(service.stderr.readline().rsplit(":", 1)[1].split("/")[0])
        assert tag.stdout.readline() == "ready\n"
        bodies = [path.read_bytes() for path in paths]
        took = []
        for number in range(options.rounds + 1):
            tag.stdin.write("\n")
            tag.stdin.flush()
            tagging, rows = json.loads(tag.stdout.readline())
            serving, wrong = ask(port, bodies, rows, options.clients)
            assert not wrong, f"{wrong} answers are not the file's own"
            if number:  # the first one warms both up
                took.append((tagging, serving))
                print(f"  tag {tagging:.2f} s, serve {serving:.2f} s: {tagging / serving:.2f}")
        ratio = statistics.median(tagging / serving for tagging, serving in took)
        speed = statistics.median(len(paths) / serving for _, serving in took)
        print(f"serve / tag: {ratio:.2f} of the throughput, {speed:.1f} files/s; every answer was the file's own")
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(60)
        tag.kill()
        tag.wait()


def ask(port: int, bodies: list[bytes], rows: list[dict], clients: int) -> tuple[float, int]:
    """Seconds in which so many clients have all answers, and how many answers are another file's."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(bodies)):
        waiting.put(number)
    wrong: list[int] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            connection.request("POST", "/v1/tag", bodies[number])
            answer = json.loads(connection.getresponse().read())
            if {key: answer[key] for key in rows[number]} != rows[number]:
                wrong.append(number)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began, len(wrong)


if __name__ == "__main__":
    main()
