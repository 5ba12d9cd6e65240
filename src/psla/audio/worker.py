"""A decoding worker: the process at the other end of `psla.audio.pool`, and what it can be asked to do.

    jobs     a line of JSON each; where its `bytes` is a number, that many bytes of a sound file follow
    replies  a kind (1 byte), a length (8 bytes, little-endian), then so many bytes:
             R ready   I what the decoder tells: a JSON object   B a block of int16 samples
             E end of the job   X it cannot be read: JSON [path, reason, whether that may pass]

Nothing is unpickled on either side. A decoder is a function `(source, rate, start_s, end_s)` that yields blocks of
samples and what it has to tell, as dicts. This module is imported in every worker: it imports no torch and no polars.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import astuple
from importlib import import_module
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np

from psla.audio import addresses
from psla.audio.decode import AudioError, AudioStream, Source, probe
from psla.audio.patience import patiently, seen, told
from psla.audio.sound_file import AWAY, PassingError

HEAD = struct.Struct("<cQ")
READY, INFO, BLOCK, END, ERROR = b"R", b"I", b"B", b"E", b"X"
Message = np.ndarray | dict[str, Any]
"""What a decoder gives: a block of samples, or what it has to tell."""

LOWEST_RATE = 1000  # Hz


def decode(source: Source, rate: int, start_s: float | None, end_s: float | None) -> Iterator[Message]:
    """The int16 blocks of a sound file, or of what lies at an address (`psla.audio.addresses`).

    Example:
        >>> sum(len(block) for block in decode("soundscape://7/3?seconds=0.5", 16000, 0.25, None))
        4000
    """
    if addresses.scheme_of(source):
        yield addresses.read(source, rate, start_s, end_s)
        return
    with AudioStream(source, rate, start_s=start_s, end_s=end_s) as stream:
        yield from stream


def decode_to_tag(source: Source, rate: int, start_s: float | None, end_s: float | None) -> Iterator[Message]:
    """The sample rate of a sound file as `{"sample_rate": Hz}`, its int16 blocks at `rate` Hz, then its levels.

    Where it may have been cut, `"unfinished": true` stands beside the sample rate.
    """
    with AudioStream(source, rate, start_s=start_s, end_s=end_s, metered=True) as stream:
        told = {"sample_rate": checked_rate(stream.source_rate, stream.name)}
        yield {**told, "unfinished": True} if stream.unfinished else told
        yield from stream
        yield {"levels": astuple(stream.levels)}


def checked_rate(rate: float, name: str) -> float:
    """The rate, if it is one of audio: a damaged header that says 1 Hz makes days of a few seconds.

    Raises:
        AudioError: below 1000 Hz.
    """
    if rate < LOWEST_RATE:
        raise AudioError(name, f"sampled at {rate} Hz: nothing below {LOWEST_RATE} Hz is tagged, nor is it likely true")
    return rate


def inspect(source: Source, rate: int, start_s: float | None, end_s: float | None) -> Iterator[Message]:
    """How long each of several sound files is, or why it cannot be read; `psla.audio.probe` asks.

    Args:
        source: JSON `{"paths": [...], "decode": bool}` as bytes; `decode`: decode each file to its end (slow, finds all
            damage) and not only its header.
        rate, start_s, end_s: not used; a decoder has them.

    Returns:
        For each path `{"duration_s": ..., "fault": ...}`, one of the two null, and `"passing": true` where that may be
        another in a moment; and `{}` where it only says that the worker lives.

    Example:
        >>> list(inspect(b'{"paths": ["gone.wav"], "decode": false}', 1, None, None))
        [{'duration_s': None, 'fault': 'cannot be opened: No such file or directory', 'passing': True}]
    """
    assert isinstance(source, bytes)
    asked: dict[str, Any] = json.loads(source)
    for path in asked["paths"]:
        seen(path)  # by who asks: if its folder is gone, it is away
        try:
            found = patiently(path, lambda path=path: probe(path))  # type: ignore[misc]
            if asked["decode"]:
                with AudioStream(path, found.sample_rate) as stream:
                    for _ in stream:
                        yield {}
        except AudioError as error:
            yield {"duration_s": None, "fault": error.reason} | _passing(path, error)
        else:
            yield {"duration_s": found.duration_s, "fault": None}


def _passing(path: str, error: AudioError) -> dict[str, Any]:
    passing = isinstance(told(path, error), PassingError) or error.reason.startswith("cannot be opened")
    return {"passing": True} if passing else {}


def main(decoder: str, memory_bytes: int, readers: dict[str, str]) -> None:
    """Decode jobs from stdin until it ends; `decoder` is `module:function`, called as `decode`; see `addresses`."""
    addresses.READERS.update(readers)
    jobs, replies = _take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer: it ends its workers
    module, _, function = decoder.partition(":")
    decode_messages = getattr(import_module(module), function)
    limit_memory(memory_bytes)
    waiting: SimpleQueue[tuple[Source, int, float | None, float | None]] = SimpleQueue()
    threading.Thread(target=_receive, args=(jobs, waiting), daemon=True).start()
    _send(replies, READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the C decoders' own words are of no use to anyone
    while True:
        source, rate, start_s, end_s = waiting.get()
        try:
            for message in decode_messages(source, rate, start_s, end_s):
                if isinstance(message, dict):
                    _send(replies, INFO, json.dumps(message).encode())
                else:
                    _send(replies, BLOCK, np.ascontiguousarray(message, dtype=np.int16).data)
        except AudioError as error:
            _refuse(replies, error.path, error.reason, isinstance(error, PassingError))
        except MemoryError:
            _refuse(replies, _name(source), f"decoding needs more than the {memory_bytes >> 20} MiB allowed for it")
        except Exception as error:  # whatever a decoder does with a broken file costs this clip, not the next
            passing = isinstance(error, OSError) and error.errno in AWAY
            _refuse(replies, _name(source), f"the decoder failed: {type(error).__name__}: {error}", passing)
        else:
            _send(replies, END)


def limit_memory(limit_bytes: int) -> None:
    """Let this process allocate no more than this; systems other than Linux do not keep to it."""
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent, out of the reach of whatever prints to stdout or reads from stdin."""
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # which the parent has seen to be open
    return jobs, replies


def _receive(jobs: BinaryIO, waiting: SimpleQueue) -> None:
    """Take jobs in while another is being decoded: that stdin ends, because the parent died, is seen at once."""
    try:
        for line in jobs:
            job = json.loads(line)
            length = job["bytes"]
            source = job["path"] if length is None else jobs.read(length)
            waiting.put((source, job["rate"], job["start_s"], job["end_s"]))
    finally:
        os._exit(0)


def _send(replies: BinaryIO, kind: bytes, data: bytes | memoryview = b"") -> None:
    length = memoryview(data).nbytes
    try:
        replies.write(HEAD.pack(kind, length))
        if length:
            replies.write(data)
        replies.flush()
    except BrokenPipeError:
        os._exit(0)  # the parent is gone


def _refuse(replies: BinaryIO, path: str, reason: str, passing: bool = False) -> None:
    _send(replies, ERROR, json.dumps([path, reason, passing]).encode())


def _name(source: Source) -> str:
    return source if isinstance(source, str) else "<bytes>"
