"""The sound of events, kept as files: some seconds before, the event, and as many after it as have come.

    ring     |--------------------------|    the last blocks as they came: their rate, channels and depth
    event           |=======|
    file         |..|=======|..|             FLAC, written while the event goes on, named when it is closed

An event is known some seconds after it began (`Stream.latency_s`), so the ring holds that and what goes before. A file
that is not finished begins with a dot. Nothing is written across a gap.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from psla.audio.live import Block
from psla.tagging.events import StreamEvent

_MOST_CHANNELS = 8  # of FLAC


@dataclass
class _Open:
    file: soundfile.SoundFile
    path: Path
    until: float  # seconds: written so far
    cut: bool  # its beginning was not held any more


class Recorder:
    """Keeps the sound of events in a folder.

    Args:
        folder: made where there is none.
        before_s: seconds kept before and after each event, 0 or more.
        held_s: how many seconds of sound are held.
        failed: told in a sentence that a file could not be written.
    """

    def __init__(
        self, folder: Path, before_s: float, held_s: float, failed: Callable[[str], None] = lambda reason: None
    ) -> None:
        if not before_s >= 0:
            raise ValueError(f"the seconds kept before an event must be 0 or more, not {before_s}")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._before, self._held, self._failed = folder, before_s, held_s, failed
        self._ring: deque[tuple[float, np.ndarray]] = deque()  # when it begins, (samples, channels)
        self._rate = 0
        self._end = 0.0  # of what came, in seconds
        self._begin, self._samples = 0.0, 0  # of what came at this rate without a hole
        self._open: dict[int, _Open] = {}

    def add(self, block: Block) -> None:
        """The next block."""
        samples = block.samples if block.samples.ndim == 2 else block.samples[:, None]
        if not len(samples):
            return
        if samples.shape[1] > _MOST_CHANNELS:
            samples = samples.mean(axis=1, keepdims=True).astype(samples.dtype)
        if self._ring and (block.sample_rate != self._rate or samples.shape[1] != self._ring[-1][1].shape[1]):
            self.gap(0.0)
        self._rate = block.sample_rate
        self._ring.append((self._end, samples))
        self._samples += len(samples)
        self._end = self._begin + self._samples / self._rate
        while len(self._ring) > 1 and self._ring[1][0] < self._end - self._held:
            self._ring.popleft()

    def gap(self, seconds: float) -> None:
        """So much was lost after what came: files end there."""
        self.close()
        self._ring.clear()
        self._begin, self._samples = self._end + seconds, 0
        self._end = self._begin

    def event(self, told: StreamEvent, time: datetime) -> dict[str, Any]:
        """What is new of an event, and the time it began; once it is closed: its file, and whether it lacks sound."""
        try:
            if told.state == "opened":
                self._begin_file(told, time)
            if (own := self._open.get(told.number)) is not None:
                more = self._before if told.state == "closed" else 0.0
                self._write(own, told.event.offset_s + more)
                if told.state == "closed":
                    return self._finish(self._open.pop(told.number))
        except (OSError, soundfile.SoundFileError) as error:
            self._failed(f"the sound of event {told.number} ({told.event.sound.name}) is not kept: {error}")
            if (own := self._open.pop(told.number, None)) is not None:
                own.file.close()
        return {}

    def close(self) -> None:
        """Finish all files."""
        for own in self._open.values():
            self._finish(own)
        self._open.clear()

    def _begin_file(self, told: StreamEvent, time: datetime) -> None:
        if not self._ring:
            return
        name = re.sub(r"[^\w-]+", "_", told.event.sound.name)[:60]
        path = self._folder / f"{time:%Y%m%dT%H%M%S}_{told.number:06}_{name}.flac"
        subtype = "PCM_16" if self._ring[0][1].dtype == np.int16 else "PCM_24"
        channels = self._ring[0][1].shape[1]
        file = soundfile.SoundFile(path.with_name(f".{path.name}"), "w", self._rate, channels, subtype, format="FLAC")
        first = max(told.event.onset_s - self._before, self._begin, 0.0)
        self._open[told.number] = _Open(file, path, first, first < self._ring[0][0] - 1 / self._rate)

    def _write(self, own: _Open, until: float) -> None:
        """What is held of the time from where the file ends to there."""
        for begin, samples in self._ring:
            a = max(0, round((own.until - begin) * self._rate))
            b = min(len(samples), round((until - begin) * self._rate))
            if a < b:
                own.file.write(samples[a:b])
        own.until = max(own.until, min(until, self._end))

    def _finish(self, own: _Open) -> dict[str, Any]:
        own.file.close()
        os.replace(own.path.with_name(f".{own.path.name}"), own.path)
        return {"recording": str(own.path), "cut": own.cut}
