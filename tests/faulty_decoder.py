"""The decoder of tagging, killed by the system the first time that it hears a file whose name says so.

`MARKS` in the environment is a folder in which it notes what it has tried.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from psla.audio.worker import Message, decode, decode_to_tag


def _kill_me(source: object, often: str) -> None:
    name = Path(str(source)).stem
    note = Path(os.environ["MARKS"]) / name
    with open(note, "a") as file:
        file.write(".")
    if often == "once" and note.stat().st_size == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def _faulty(messages: Iterator[Message], source: object) -> Iterator[Message]:
    name = Path(str(source)).stem
    if "always" in name:
        _kill_me(source, "counted")
        os.kill(os.getpid(), signal.SIGKILL)
    for number, message in enumerate(messages):
        if number == 1 and ("once" in name or name.endswith("0")):
            _kill_me(source, "once")  # in the midst of it: something has been handed out
        yield message


def tag(source: str, rate: int, start_s: float | None, end_s: float | None) -> Iterator[Message]:
    """As `psla.audio.worker.decode_to_tag`: a file that has `once` in its name, or ends in 0, costs a worker first;
    one that has `always` in it costs a worker each time."""
    return _faulty(decode_to_tag(source, rate, start_s, end_s), source)


def whole(source: str, rate: int, start_s: float | None, end_s: float | None) -> Iterator[Message]:
    """As `psla.audio.worker.decode`, with the same faults, before anything is handed out."""
    return _faulty(iter([{}, *decode(source, rate, start_s, end_s)]), source)
