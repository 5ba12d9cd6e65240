"""Broken is what fails alone and again: when a file that could not be read is read once more, and what is waited for.

    its decoder was killed, or stalled       at once, and a last time while nothing else is decoded (`pool`)
    its folder is gone, its disk in error    when it is back, for which `WAIT_S` seconds are waited
    anything else                            at once

A folder counts as gone if a file in it, or below the part of its path that is missing, has been read or looked at
before in this process: what never was there is not away. Where waiting has been in vain for `MOST_S` seconds, files
that are away are not waited for any more, until one comes back.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from psla.audio.sound_file import AudioError, PassingError

WAIT_S = 10.0  # for one file
MOST_S = 20.0  # together, over all files that are waited for at the same time, too
_LOOK_S = 0.1

T = TypeVar("T")
_seen: set[str] = set()  # folders, with those above them
_in_vain_s = 0.0
_lock = threading.Lock()


def seen(path: str | os.PathLike[str]) -> None:
    """Note that a file is there: if its folder is missing later, it is away."""
    folder = os.path.dirname(os.path.abspath(os.fsdecode(path)))
    while folder not in _seen:
        _seen.add(folder)
        folder = os.path.dirname(folder)


def is_away(path: str | os.PathLike[str]) -> bool:
    """Whether the folder of a file was there and is not, or is as empty as a place where a disk was mounted.

    Example:
        >>> is_away("/was/never/there.wav")
        False
    """
    folder = os.path.dirname(os.path.abspath(os.fsdecode(path)))
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None and folder in _seen
    except FileNotFoundError:
        while not os.path.isdir(above := os.path.dirname(folder)) and above != folder:
            folder = above
        return folder in _seen
    except OSError:
        return True


def again(path: str, error: AudioError, tried: int, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Whether to read a file once more that failed for the `tried`-th time; it may wait before it says so."""
    if not is_away(path) and not isinstance(error, PassingError):
        return tried < 2
    return _came_back(path, stopped) if is_away(path) else tried < 3


def told(path: str, error: AudioError) -> AudioError:
    """The error that is final: PassingError only of what is away, or of a disk in error."""
    if is_away(path):
        return PassingError(error.path, f"{error.reason}; its folder was there and is away")
    gone = not os.path.isdir(os.path.dirname(os.path.abspath(path)))  # and was never there
    return AudioError(error.path, error.reason) if gone and isinstance(error, PassingError) else error


def patiently(path: str, read: Callable[[], T]) -> T:
    """What `read` gives of a file, tried again as the module's head says.

    Raises:
        AudioError: it fails again.
        PassingError: it is away.
    """
    tried = 0
    while True:
        try:
            found = read()
        except AudioError as error:
            tried += 1
            if not again(path, error, tried):
                raise told(path, error) from error
        else:
            seen(path)
            return found


def _came_back(path: str, stopped: Callable[[], bool]) -> bool:
    global _in_vain_s
    began = time.monotonic()
    until = began + min(WAIT_S, max(0.0, MOST_S - _in_vain_s))
    while not stopped():
        if not is_away(path):
            _in_vain_s = 0.0
            return True
        if time.monotonic() >= until:
            break
        time.sleep(_LOOK_S)
    with _lock:
        _in_vain_s += time.monotonic() - began
    return False
