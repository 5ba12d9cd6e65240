"""Sound that libsndfile cannot read, or hears a part of: AAC, WMA, Opus in WebM, the audio tracks of video files.

Decoded by ffmpeg's libraries, inside PyAV's wheel (https://pyav.basswood-io.com), imported when the first such file is
opened. What codecs add in front (encoder delay, edit lists) is left out, as ffmpeg leaves it out; a pause between the
time stamps of two packets is no sound, and what stands after it follows at once.

The law is that what is heard is what the file holds: a packet that cannot be decoded, is marked as damaged or
encrypted, bytes between two frames of a bare stream, and an end before the one that the header declares, are refused,
never left out. Not covered: a loss that nothing tells, such as that of whole packets at the end of a file whose header
declares no length (ADTS, MP3 without a Xing tag, MPEG-TS, what a browser records), and less than 50 ms of any.

Only the file itself is read: of the formats those are allowed that hold sound, no playlist among them, and nothing
that a file refers to is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from psla.audio.signatures import is_cut, kind_of, mp4_parts
from psla.audio.sound_file import UNKNOWN_LENGTH, AudioError, WholeReads

if TYPE_CHECKING:
    import av

SUFFIXES = frozenset(
    {
        *(".aac", ".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".webm", ".weba", ".mkv", ".mka"),
        *(".wma", ".wmv", ".asf", ".avi", ".flv", ".mpg", ".mpeg", ".mts", ".m2ts", ".ogv", ".spx", ".amr", ".ac3"),
        *(".eac3", ".dts", ".mp2", ".ape", ".wv", ".tta"),
    }
)
"""What the names of the files end in that are decoded here."""

# What ffmpeg calls them; the first of several names. `concat`, `hls`, `dash`, `sdp`, `image2` read other files.
_NAMES = {
    **{"mov": "MP4/QuickTime", "matroska": "Matroska/WebM", "aac": "AAC", "loas": "LATM", "asf": "ASF", "avi": "AVI"},
    **{"flv": "FLV", "mpegts": "MPEG-TS", "mpeg": "MPEG-PS", "ogg": "OGG", "amr": "AMR", "ac3": "AC3", "eac3": "EAC3"},
    **{"dts": "DTS", "dtshd": "DTS-HD", "truehd": "TrueHD", "mp3": "MP3", "wav": "WAV", "w64": "W64", "aiff": "AIFF"},
    **{"caf": "CAF", "au": "AU", "voc": "VOC", "flac": "FLAC", "wv": "WavPack", "tta": "TTA", "ape": "APE"},
    **{"tak": "TAK", "mpc": "Musepack", "mpc8": "Musepack", "rm": "RealMedia", "mxf": "MXF", "nut": "NUT", "dv": "DV"},
}
# Of these ffmpeg guesses how long they are.
_UNDECLARED = {
    *("aac", "loas", "mpegts", "mpeg", "ogg", "amr", "ac3", "eac3", "dts", "dtshd", "truehd", "mp3", "dv", "flac"),
}
# Frame after frame, without a container.
_BARE = {"aac", "ac3", "eac3", "dts", "mp3"}
_BETWEEN = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS")  # what stands between those that were joined
_OPTIONS = {"format_whitelist": ",".join(_NAMES), "protocol_whitelist": "none"}
_TOLERANCE_S = 0.05  # headers count milliseconds, or whole packets
_MPEG = ("mp1", "mp2", "mp3")  # decoders whose packets are frames with a header


_TRACK = re.compile(r"(.+)#track=([1-9]\d{0,3})", re.DOTALL)


def split_track(path: str) -> tuple[str, int]:
    """The file and which of its audio tracks is meant: `#track=N` after the name, from 1; the first where none is said.

    A file whose own name ends so is meant first.

    Example:
        >>> split_track("movie.mp4#track=2"), split_track("movie.mp4")
        (('movie.mp4', 2), ('movie.mp4', 1))
    """
    match = _TRACK.fullmatch(path)
    return (path, 1) if match is None or os.path.lexists(path) else (match[1], int(match[2]))


class ContainerFile:
    """An open audio track of a file: what `SndFile` is to libsndfile. It is read straight on.

    Args:
        opened: a path, or a binary file that can seek, read from its beginning.
        name: what errors call it.
        track: which of its audio tracks, from 1.
        refused: what libsndfile said of it, if it was asked.

    Raises:
        AudioError: it cannot be read, and why; also later.
    """

    frames = UNKNOWN_LENGTH  # how many there are is known at the end; see `seconds`
    mended = unfinished = False  # as of SndFile
    kept: ExitStack | None = None

    def __init__(self, opened: str | BinaryIO, name: str, track: int = 1, refused: str = "") -> None:
        self._name, self.closed = name, False
        self._files = ExitStack()
        try:
            file = self._file = _bare(opened, self._files)
            if is_cut(file):
                self._refuse("damaged or truncated: what it declares ends behind the end of the file")
            several, fragmented = mp4_parts(file)
            if several:
                self._refuse("several recordings in one file: part them")
            self._container = _open(file, name, refused)
            self._stream = self._choose(track)
            kind = self._container.format.name.split(",")[0]
            self.format, self.subtype = _NAMES[kind], self._stream.codec_context.name
            self._declares = kind not in _UNDECLARED
            # ffmpeg goes past damaged packets of these, and past fragments that are missing, without a word.
            self._unbroken = kind in ("asf", "flac") or (kind == "mov" and fragmented)
            self._bare, self._stop = kind in _BARE, 0  # the byte behind the last packet
            self._cut = False  # whether that is not whole
            self._begin_s, self._end_s, self._last_s = np.inf, -np.inf, -np.inf  # of the track; of all tracks
            self._sum_s = 0.0  # of the track's packets
            self._sizes: dict[bytes, int] = {}  # of MPEG frames, by the bits of their headers that tell it
            self.samplerate, self.channels = 0, self._stream.codec_context.channels
            self._packets, self._sound = self._demux(), self._decode()
            # Ahead of time: the decoder knows the true rate.
            self._held = next(self._sound, np.zeros((0, 1), np.float32))
            if not len(self._held):
                self._refuse("holds no samples")
        except BaseException:
            self.close()
            raise

    @property
    def seconds(self) -> float:
        """How long the track is: as declared where that is the track's own, else of its packets, which are all read."""
        stream, only = self._stream, len(self._container.streams) == 1
        if self._declares and stream.duration:
            return _seconds(stream.duration, stream)
        if self._declares and only and self._container.duration:
            return self._container.duration / 1e6
        for _ in self._packets:
            pass
        return max(self._end_s - self._begin_s, self._sum_s)  # time stamps of Oggs that were joined begin anew

    def can_seek(self) -> bool:
        """It cannot: codecs remember what stood before."""
        return False

    def seek(self, frame: int) -> int:
        """Is not asked for."""
        raise NotImplementedError

    def block(self, frames: int) -> np.ndarray:
        """The next so many frames, fewer at the end: (frames, channels) float32."""
        parts, count = [self._held], len(self._held)
        while count < frames and (part := next(self._sound, None)) is not None:
            parts.append(part)
            count += len(part)
        whole = np.concatenate(parts)
        self._held = whole[frames:].copy()
        return whole[:frames]

    def close(self) -> None:
        """Closes the decoder, and the file where it was opened here."""
        self.closed = True
        if container := getattr(self, "_container", None):
            container.close()
        self._files.close()
        if self.kept is not None:
            self.kept.close()

    def _choose(self, track: int) -> av.AudioStream:
        import av

        streams = self._container.streams
        kind = _NAMES[self._container.format.name.split(",")[0]]
        if not streams.audio:
            only = "with a video track only" if streams.video else "without audio tracks"
            self._refuse(f"{kind} {only}: there is no audio in it")
        if track > len(streams.audio):
            held = "one audio track" if len(streams.audio) == 1 else f"{len(streams.audio)} audio tracks"
            self._refuse(f"there is no track {track}: it has {held}")
        stream = streams.audio[track - 1]
        if stream.codec_context is None:
            self._refuse(f"{kind} with audio in a codec that neither libsndfile nor ffmpeg decodes")
        if stream.duration:  # else the end of the others tells whether the file is whole
            for other in streams:
                if other is not stream:
                    other.discard = av.stream.Discard.all
        return stream

    def _demux(self) -> Iterator[av.Packet]:
        """The packets of the track; at their end it is asked whether they are all."""
        stream, container, size, known = self._stream, self._container, 0, 0
        with self._refusing():
            for packet in container.demux():
                ours = packet.stream_index == stream.index and _is_sound(packet)
                if packet.size and packet.pts is not None:
                    begin, lasts = _seconds(packet.pts, packet), _seconds(packet.duration or 0, packet)
                    self._last_s = max(self._last_s, begin + lasts)
                    if ours and self._bare:
                        self._check_place(packet)
                        self._cut = self.format == "AAC" and _adts_length(packet) > packet.size
                    if ours:
                        size, known = packet.size, self._sizes.setdefault(_head(packet), packet.size)
                        if self._unbroken and begin > self._end_s + _TOLERANCE_S > 0:
                            self._refuse(f"damaged: packets are missing, {self._place()}")
                        self._begin_s, self._end_s = min(self._begin_s, begin), max(self._end_s, begin + lasts)
                        self._sum_s += lasts
                if ours:
                    yield packet
        if self._cut:
            self._refuse(f"truncated: its last packet is not whole, {self._place()}")
        if size < known - 1 and stream.codec_context.name.startswith(_MPEG):  # the last of these frames; one pads
            self._refuse(f"truncated: its last packet is not whole, {self._place()}")
        if not self._declares:
            return
        if stream.duration:
            ends, stops = _seconds((stream.start_time or 0) + stream.duration, stream), self._end_s
        elif container.duration:
            ends, stops = ((container.start_time or 0) + container.duration) / 1e6, self._last_s
        else:
            return
        if stops < ends - _TOLERANCE_S:
            self._refuse(f"truncated: it stops at {max(stops, 0):.2f} s of the {ends:.2f} s that its header declares")

    def _check_place(self, packet: av.Packet) -> None:
        """Frames without a container follow each other: between two of them stand tags alone."""
        place, before = packet.pos, self._stop
        if place is None or place < before:
            return
        self._stop = place + packet.size
        if not 0 < before < place:
            return
        position = self._file.tell()  # ffmpeg reads on from there
        self._file.seek(before)
        between = self._file.read(min(place - before, 1 << 16))
        self._file.seek(position)
        if not between.startswith(_BETWEEN) and any(between):
            self._refuse(f"damaged: {place - before} bytes between two packets are no sound, {self._place()}")

    def _decode(self) -> Iterator[np.ndarray]:
        """(samples, channels) float32, frame by frame."""
        for packet in self._packets:
            if packet.has_sidedata("encryption_info"):
                self._refuse("encrypted: its sound cannot be read without a key")
            if packet.is_corrupt:
                self._refuse(f"damaged: a packet is not whole, {self._place()}")
            with self._refusing():
                frames: list[Any] = packet.decode()
            for frame in frames:
                self.samplerate = self.samplerate or frame.sample_rate
                if frame.sample_rate != self.samplerate:
                    rates = f"from {self.samplerate} to {frame.sample_rate} Hz"
                    self._refuse(f"its sample rate changes {rates}, {self._place()}: cut it there")
                if frame.is_corrupt:
                    self._refuse(f"damaged: a packet is not whole, {self._place()}")
                yield _values(frame, self.channels)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        import av

        try:
            yield
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            self._refuse(f"truncated or damaged: decoding stops {self._place()}, ffmpeg says: {error.strerror}", error)

    def _place(self) -> str:
        return f"{max(0.0, self._end_s - min(self._begin_s, self._end_s)):.2f} s after its beginning"

    def _refuse(self, reason: str, cause: Exception | None = None) -> NoReturn:
        raise AudioError(self._name, reason) from cause


def _bare(opened: str | BinaryIO, files: ExitStack) -> BinaryIO:
    return files.enter_context(open(opened, "rb")) if isinstance(opened, str) else opened


def _open(file: BinaryIO, name: str, refused: str) -> av.container.InputContainer:
    import av

    file.seek(0)
    try:
        # Without its name: what a file is, is what is in it.
        return av.open(WholeReads(file), "r", container_options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        kind = kind_of(file)
        reason = kind or refused or f"not audio, ffmpeg says: {error.strerror}"
        raise AudioError(name, reason) from error


def _values(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """(samples, channels) float32; of a frame with another number of channels, their mean in each."""
    values: np.ndarray = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        values = values.astype(np.float32) / np.float32(-float(np.iinfo(values.dtype).min))
    if values.shape[1] != channels:
        values = values.mean(axis=1, keepdims=True, dtype=np.float32)
    return np.broadcast_to(values, (len(values), channels)).astype(np.float32)


def _is_sound(packet: av.Packet) -> bool:
    """Whether it is a frame, if the codec is one of MPEG: tags and what follows the last frame come as packets, too."""
    head = bytes(memoryview(packet)[:2])
    return not packet.stream.codec_context.name.startswith(_MPEG) or (head[:1] == b"\xff" and head[1:] >= b"\xe0")


def _adts_length(packet: av.Packet) -> int:
    """Bytes of the frame of AAC that begins with this packet; 0 where it has no header."""
    head = bytes(memoryview(packet)[:7])
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5


def _head(packet: av.Packet) -> bytes:
    """Version, layer, bit rate and sample rate of an MPEG frame."""
    head = bytes(memoryview(packet)[:3])
    return head[:2] + bytes([head[2] & 0xFC]) if len(head) > 2 else head


def mpeg_samples(file: BinaryIO) -> int:
    """Samples a channel in the frames of an MP3; 0 where ffmpeg does not find them."""
    try:
        with _open(file, "", "") as container:
            tracks = container.streams.audio
            packets = container.demux(tracks[0]) if tracks else ()
            return round(sum(_seconds(p.duration or 0, p) * tracks[0].rate for p in packets if _is_sound(p)))
    except AudioError:
        return 0


def _seconds(ticks: int, of: av.AudioStream | av.Packet) -> float:
    return float(ticks * of.time_base) if of.time_base else 0.0
