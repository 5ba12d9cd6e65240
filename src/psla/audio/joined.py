"""Recordings one behind the other in one file, such as the songs that an internet radio sends as one Ogg: heard as one.

Decoders differ in what they make of such a file: libsndfile hears the first recording alone, ffmpeg all of them or not,
depending on where the pages end. So each is opened as the file that it would be by itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import BinaryIO

import numpy as np

from psla.audio.chunks import Spliced
from psla.audio.containers import ContainerFile
from psla.audio.sound_file import UNKNOWN_LENGTH, AudioError, SndFile


class JoinedFile:
    """What `SndFile` is to libsndfile. It is read straight on, one recording after the other.

    Args:
        file: what holds them; stays open as long as this.
        name: what errors call it.
        parts: the bytes of each recording, from and up to, in order; at least one.
        opener: opens a file that is one of them.

    Raises:
        AudioError: a recording cannot be read, or has another rate than the first; also later.
    """

    frames = UNKNOWN_LENGTH  # as of ContainerFile: see `seconds`
    mended = unfinished = False
    kept: ExitStack | None = None

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        parts: Sequence[tuple[int, int]],
        opener: Callable[[BinaryIO], SndFile | ContainerFile],
    ) -> None:
        self._file, self._name, self._parts, self._opener = file, name, parts, opener
        self.closed, self._next, self._heard = False, 1, 0
        self._part = self._open(0)
        self.samplerate, self.channels = int(self._part.samplerate), int(self._part.channels)
        self.format, self.subtype = self._part.format, self._part.subtype

    @property
    def seconds(self) -> float:
        """How long all are together; each is opened for that."""
        total = 0.0
        for number in range(len(self._parts)):
            with closing(self._open(number)) as part:
                total += part.seconds if isinstance(part, ContainerFile) else part.frames / part.samplerate
        return total

    def can_seek(self) -> bool:
        """It cannot."""
        return False

    def seek(self, frame: int) -> int:
        """Is not asked for."""
        raise NotImplementedError

    def block(self, frames: int) -> np.ndarray:
        """The next so many frames, fewer at the end: (frames, channels) float32; where a recording has another number
        of channels than the first, their mean in each."""
        while not len(block := self._part.block(frames)) and self._next < len(self._parts):
            self._part.close()
            self._part = self._open(self._next)
            self._next += 1
            if self._part.samplerate != self.samplerate:
                rates = f"from {self.samplerate} to {self._part.samplerate} Hz"
                place = f"{self._heard / self.samplerate:.2f} s after its beginning"
                raise AudioError(self._name, f"its sample rate changes {rates}, {place}: cut it there")
        if block.shape[1] != self.channels:
            block = np.repeat(block.mean(axis=1, keepdims=True, dtype=np.float32), self.channels, axis=1)
        self._heard += len(block)
        return block

    def close(self) -> None:
        """Closes the decoder, and the file where it was opened for this."""
        self.closed = True
        self._part.close()
        if self.kept is not None:
            self.kept.close()

    def _open(self, number: int) -> SndFile | ContainerFile:
        return self._opener(io.BufferedReader(Spliced(self._file, [self._parts[number]]), 1 << 16))
