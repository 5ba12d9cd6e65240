"""A decoder for tests, run in worker processes: the name of the "file" says what it does."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator

import numpy as np

from psla.audio.decode import AudioError


def decode(source: str | bytes, rate: int, start_s: float | None, end_s: float | None) -> Iterator[np.ndarray | dict]:
    """`good:7` gives 7 samples of value 7; see below for the others."""
    name = source.decode() if isinstance(source, bytes) else source
    what, _, text = name.partition(":")
    value = int(text) if text.isdigit() else 0
    if what == "good":
        yield np.full(value, value).astype(np.int16)
    elif what == "tell":  # a sign of life, then a number, then samples
        yield {}
        yield {"sample_rate": value}
        yield np.full(2, 7, np.int16)
    elif what == "many":  # so many blocks of 0.1 s
        for index in range(value):
            yield np.full(1600, index, np.int16)
    elif what == "slow":  # so many blocks, one every 0.2 s
        for index in range(value):
            time.sleep(0.2)
            yield np.full(10, index, np.int16)
    elif what == "late-crash":
        yield np.zeros(10, np.int16)
        os._exit(3)
    elif what == "segfault":
        ctypes.string_at(0)
    elif what == "exit":
        os._exit(value)
    elif what == "hang":
        while True:
            time.sleep(1)
    elif what == "spin":
        while True:
            pass
    elif what == "refuse":
        raise AudioError(name, "no audio")
    elif what == "fail":
        raise KeyError("a fault of the decoder")
    elif what == "hungry":
        yield np.ones(value << 20, np.int16)
    elif what == "babble":  # what a file that took its decoder over might write
        os.write(max(int(fd) for fd in os.listdir("/proc/self/fd") if _is_pipe(fd)), b"garbage garbage garbage")
        time.sleep(5)
    elif what == "print":
        print("words", flush=True)
        sys.stdout.write("more words\n")
        yield np.zeros(1, np.int16)
    elif what == "once":  # dies the first time it is tried
        mark = f"{text}.tried"
        if not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(9)
        yield np.ones(4, np.int16)
    else:
        raise AssertionError(name)


def _is_pipe(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("pipe")
    except OSError:
        return False
