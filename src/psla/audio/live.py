"""Live sound: blocks as they come, from a pipe, an address or a microphone, and what was lost between them.

    raw PCM        of a pipe: `arecord -t raw | ...`
    a container    of a pipe, or at any address that ffmpeg's libraries open: `rtsp://` of a camera, an internet radio
    a microphone   by PortAudio (the extra `listen`)
    what breaks    an address that is opened again whenever it has ended or broken off (`again`)

A pipe waits for who reads it, and loses nothing here. A microphone does not wait, a camera does not wait for long:
`Feed` reads them in a thread of its own into a queue that holds so many seconds; what does not fit is dropped, counted,
and told before the next block. So are holes in the time stamps of a container, and packets that cannot be decoded.

Files are elsewhere (`psla.audio.decode`): there what cannot be decoded is refused.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from psla.audio.decode import AudioError
from psla.extras import needed

PCM: dict[str, np.dtype[Any]] = {
    "u8": np.dtype("u1"),
    "s16le": np.dtype("<i2"),
    "s32le": np.dtype("<i4"),
    "f32le": np.dtype("<f4"),
}
"""Raw samples by the names that ffmpeg gives them."""

BLOCK_S = 0.1  # of what is read at a time
_JUMP_S = 0.1  # between the time stamps of two packets: a hole; less is how containers round
_LOOK_S = 0.2  # between two looks whether the end was asked for
_MOST_LOST_S = 3600.0  # time stamps that jump farther are of another beginning, not of a hole


@dataclass(frozen=True, eq=False)
class Block:
    """Sound that follows what came before, or follows a hole.

    Attributes:
        samples: (samples, channels) int16, int32 or float32.
        sample_rate: in Hz.
        lost_s: seconds that were lost just before it; None: nothing was.
        reason: why, in a few words.
    """

    samples: np.ndarray
    sample_rate: int
    lost_s: float | None = None
    reason: str = ""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def raw_pcm(pipe: BinaryIO, sample_rate: int, channels: int = 1, kind: str = "s16le") -> Iterator[Block]:
    """Raw samples, interleaved; what is left of a sample at the end is dropped, for it is none.

    Args:
        kind: a name of `PCM`.

    Raises:
        ValueError: an unknown kind, or no channels.

    Example:
        >>> import io
        >>> [block.samples.tolist() for block in raw_pcm(io.BytesIO(bytes([1, 0, 2, 0, 3])), 8000, 2)]
        [[[1, 2]]]
    """
    if kind not in PCM or channels < 1 or sample_rate < 1:
        raise ValueError(
            f"raw sound is one of {', '.join(PCM)} with 1 channel and 1 Hz or more, not {kind}, {channels}"
        )
    type, held = PCM[kind], b""
    size = type.itemsize * channels
    read = getattr(pipe, "read1", pipe.read)  # what is there, and not what is asked for, which would be late
    while data := read(max(size, round(sample_rate * BLOCK_S) * size)):
        data = held + data
        whole = len(data) // size * size
        held = data[whole:]
        if whole:
            values = np.frombuffer(data[:whole], type).reshape(-1, channels)
            if kind == "u8":
                values = (values.astype(np.int16) - 128) * 256
            yield Block(values, sample_rate)


def container(source: str | BinaryIO, timeout_s: float = 10.0) -> Generator[Block, None, None]:
    """The first audio track of what stands at an address, or comes through a pipe.

    Args:
        source: whatever ffmpeg opens, or a binary file that need not seek.
        timeout_s: how long an address may keep silent.

    Raises:
        AudioError: it cannot be opened, holds no sound, or breaks off; also later.
    """
    import av

    name = source if isinstance(source, str) else "<stdin>"
    # A pipe is not looked through in advance: sound that comes live would come seconds late.
    options = {"rtsp_transport": "tcp"} if name.startswith("rtsp") else {}
    try:
        with av.open(source, "r", options=options, timeout=timeout_s if isinstance(source, str) else None) as opened:
            if not opened.streams.audio:
                raise AudioError(name, "there is no audio in it")
            track = opened.streams.audio[0]
            expected: float | None = None  # seconds: where the next packet must begin
            lost, reason = 0.0, ""
            for packet in opened.demux(track):
                try:
                    frames: list[Any] = packet.decode()
                except av.error.InvalidDataError:
                    reason = "packets that cannot be decoded"
                    continue
                for frame in frames:
                    rate = frame.sample_rate
                    begin = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
                    if begin is not None and expected is not None and _JUMP_S < begin - expected < _MOST_LOST_S:
                        lost, reason = begin - expected, reason or "a hole in the time stamps"
                    if begin is not None:
                        expected = begin + frame.samples / rate
                    yield Block(_interleaved(frame), rate, lost if reason else None, reason)
                    lost, reason = 0.0, ""
    except av.FFmpegError as error:
        raise AudioError(name, f"ffmpeg says: {error.strerror}") from error


def again(
    opened: Callable[[], Iterator[Block]],
    pause_s: float,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> Generator[Block, None, None]:
    """Blocks of a source that is opened again whenever it has broken off or ended, for ever; it ends when it is closed.

    That it is gone is told at once, by an empty block after an unknown loss; how long it was, by the first block after.

    Args:
        opened: opens the source, as often as it is called.
        pause_s: seconds between two tries, above 0. clock, wait: what measures and what passes time.

    Raises:
        AudioError: it cannot be opened the first time: the address may be mistyped.
        ValueError: a pause that is none.

    Example:
        >>> blocks = again(lambda: raw_pcm(__import__("io").BytesIO(bytes(4)), 8000), 1.0, lambda: 0.0, lambda s: None)
        >>> [(len(block.samples), block.lost_s) for block in (next(blocks) for _ in range(3))]
        [(2, None), (0, 0.0), (2, 0.0)]
    """
    if pause_s <= 0:
        raise ValueError(f"the pause between two tries is above 0 s, not {pause_s:g}")
    last: Block | None = None
    gone_at: float | None = None  # None: it is there
    while True:
        asked, why = clock(), "the source ended"
        try:
            with closing(opened()) as blocks:  # type: ignore[type-var]
                for block in blocks:
                    last, lost = block, block.lost_s
                    if gone_at is not None:
                        away = max(0.0, clock() - gone_at - block.seconds) + (lost or 0.0)
                        block, gone_at = replace(block, lost_s=away, reason="the connection was lost"), None
                    yield block
                    asked = clock()
        except AudioError as error:
            if last is None:
                raise
            why = error.reason
        if last is None:  # there was nothing in it
            return
        if gone_at is None:
            gone_at = asked
            reason = f"the connection was lost ({why}); it is tried again every {pause_s:g} s"
            yield replace(last, samples=last.samples[:0], lost_s=0.0, reason=reason)
        wait(pause_s)


def _interleaved(frame: Any) -> np.ndarray:
    """(samples, channels) float32 of a frame."""
    values: np.ndarray = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(-float(np.iinfo(values.dtype).min))
    return values.astype(np.float32)


def microphone(device: str | int | None = None, sample_rate: int | None = None) -> Generator[Block, None, None]:
    """A microphone, one channel, at its own rate unless another is asked for; it ends when it is closed.

    What PortAudio says was lost, or what nobody took for ten seconds, is told in the next block: how much, by the
    clock of the sound card.

    Raises:
        ValueError: sounddevice is not installed, or PortAudio is not.
        AudioError: there is no such microphone, or it does not work at that rate.
    """
    try:
        sounddevice = needed("sounddevice", "listen")
    except OSError as error:
        raise ValueError(f"the microphone needs the library PortAudio (libportaudio2): {error}") from error
    name = "<microphone>"
    coming: queue.Queue[tuple[np.ndarray, float, bool]] = queue.Queue(round(10 / BLOCK_S))

    def take(data: np.ndarray, frames: int, time: Any, status: Any) -> None:
        with suppress(queue.Full):  # the next one that is taken shows by its time how much is missing
            coming.put_nowait((data.copy(), time.inputBufferAdcTime, bool(status.input_overflow)))

    try:
        own = sounddevice.query_devices(device, "input")["default_samplerate"]
        rate = round(own) if sample_rate is None else sample_rate
        stream = sounddevice.InputStream(
            samplerate=rate, device=device, channels=1, dtype="float32", blocksize=round(rate * BLOCK_S), callback=take
        )
    except (ValueError, sounddevice.PortAudioError) as error:
        raise AudioError(name, f"it cannot be opened: {error}") from error
    expected: float | None = None
    with stream:
        while True:
            try:
                samples, began, overflow = coming.get(timeout=5.0)
            except queue.Empty as error:
                raise AudioError(name, "no sound has come for 5 s: was it unplugged, or taken by a program?") from error
            missing = 0.0 if expected is None else began - expected
            expected = began + len(samples) / rate
            if overflow or missing > _JUMP_S:
                yield Block(samples, rate, max(0.0, missing), "the microphone ran over")
            else:
                yield Block(samples, rate)


class Feed:
    """Blocks of a source that a thread reads ahead; a context manager, and an iterator of blocks.

    Args:
        blocks: the source; closed by its thread.
        live: it does not wait: of what does not fit into the queue the newest is dropped, and told. Else it waits.
        queue_s: about so many seconds are held.
        stopped: asked now and then; once it says so, no more blocks are handed out.

    Raises:
        AudioError: what the source raises, after the blocks before it.

    Example:
        >>> import io
        >>> with Feed(raw_pcm(io.BytesIO(bytes(3200)), 16000), live=False) as feed:
        ...     sum(len(block.samples) for block in feed)
        1600
    """

    def __init__(
        self,
        blocks: Iterator[Block],
        live: bool,
        queue_s: float = 30.0,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._blocks, self._live, self._stopped = blocks, live, stopped
        self._queue: queue.Queue[Block | BaseException | None] = queue.Queue()
        self._room = threading.Condition()
        self._held, self._most = 0.0, queue_s
        self._stop = threading.Event()
        # A thread that waits for a pipe cannot be woken; it must not keep the process alive.
        self._thread = threading.Thread(target=self._fill, name="live-sound", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        with self._room:
            self._room.notify()

    def __iter__(self) -> Iterator[Block]:
        return self

    def __next__(self) -> Block:
        while not self._stopped():
            try:
                item = self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if item is None:
                raise StopIteration
            if isinstance(item, BaseException):
                raise item
            with self._room:
                self._held -= item.seconds
                self._room.notify()
            return item
        raise StopIteration

    @property
    def held_s(self) -> float:
        """Seconds of sound that have come and were not handed out."""
        return max(0.0, self._held)

    def _fill(self) -> None:
        lost, reason = 0.0, ""
        end: BaseException | None = None
        try:
            with closing(self._blocks) as blocks:  # type: ignore[type-var]
                for block in blocks:
                    if block.lost_s is not None:
                        lost, reason = lost + block.lost_s, reason or block.reason
                    if not self._wait(block.seconds):
                        lost, reason = lost + block.seconds, "it came faster than it was tagged"
                        continue
                    if self._stop.is_set():
                        return
                    self._queue.put(replace(block, lost_s=lost if reason else None, reason=reason))
                    lost, reason = 0.0, ""
            if reason:
                self._queue.put(Block(np.zeros((0, 1), np.float32), 1, lost, reason))
        except Exception as error:  # it is raised where the blocks are read
            end = error
        self._queue.put(end)

    def _wait(self, seconds: float) -> bool:
        """Whether there is room for so much more."""
        with self._room:
            while self._held and self._held + seconds > self._most and not self._stop.is_set():
                if self._live:
                    return False
                self._room.wait()
            self._held += seconds
            return True
