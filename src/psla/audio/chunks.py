"""How much sound a WAV, AIFF, CAF or AU holds, whatever its header says: the chunk of the samples against the file.

A recorder that crashes leaves the length 0; one that writes to a pipe leaves a number that means "until the end"; past
4 GiB the 32 bits of a WAV or an AIFF begin anew. All that such a file holds is heard. Where the length is another than
what stands behind it allows (neither chunks nor tags, more than a few stray bytes), it cannot be known what of it is
sound: the file is refused.

    RIFF  size  WAVE  | fmt  16 ... | LIST 26 ... | data  length ......samples...... | LIST 40 ... |
                                                          ^ begin                    ^ end, to be confirmed from here

Also mended: a chunk that lacks its filling byte, samples that stand before their format, BW64, an ID3 tag in front.
Of W64 libsndfile hears all to the end; it is looked into for a second one. 24 bits in the room of 32 are heard as such.
Not covered: VOC, NIST, SVX and the other formats of libsndfile.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np

from psla.audio.sound_file import AudioError, UnknownSound, means_until_the_end

Order = Literal["little", "big"]
Segment = bytes | tuple[int, int]

_ID = re.compile(rb"[ -~]{4}")
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS", b"3DI")
_METADATA = re.compile(rb"LIST|id3 |ID3 |bext|cue |fact|JUNK|junk|PAD |FLLR|smpl|inst|afsp|axml|iXML|_PMX|peak|PEAK")
_KNOWN = re.compile(rb"fmt |data|COMM|SSND|FVER|" + _METADATA.pattern)
_STRAY = 16  # bytes behind the last chunk that are no loss
_FILLING = 1 << 16  # zero bytes behind it, up to a block of a disk
_MOST_FORMAT = 1 << 16  # bytes of the chunk that says how the samples are coded
_WRAP = 1 << 32
_SNIFFED = 1 << 15  # bytes of the samples of a WAV that are looked at
# IEC 61937, and DTS in words of 16 and 14 bits of either order: what a WAV may carry in place of 16-bit samples.
_CODED = {
    **dict.fromkeys((b"\x72\xf8\x1f\x4e", b"\xf8\x72\x4e\x1f"), "coded sound for S/PDIF (IEC 61937)"),
    **dict.fromkeys((b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80", b"\x1f\xff\xe8\x00", b"\xff\x1f\x00\xe8"), "DTS"),
}


_W64 = bytes.fromhex("726966662E91CF11A5D628DB04C10000")
_IN_32 = b"\x20\0"


class CodedSound(UnknownSound):
    """What passes for samples is coded sound."""


def mended(file: BinaryIO, name: str) -> BinaryIO | None:
    """The file with the header that it should have; None where its own is right, or it is of another kind.

    Raises:
        CodedSound: what passes for samples of 16 bits is DTS or AC-3.
        AudioError: its length is false, and the true one cannot be known.
    """
    size = file.seek(0, os.SEEK_END)
    base = tag_length(file)
    head = _at(file, base, 12)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        segments = _Wave(file, name, base, size).segments()
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        segments = _aiff(file, name, base, size)
    elif head[:4] == b"caff":
        segments = _caf(file, name, size)
    elif head == _W64[:12]:
        segments = None
        _refuse_second_w64(file, name, size)
    elif head[:4] == b".snd":
        segments = _au(file, name, size)
    else:
        segments = None
    file.seek(0)
    return None if segments is None else io.BufferedReader(Spliced(file, segments), 1 << 16)


def tag_length(file: BinaryIO) -> int:
    """Bytes of the ID3v2 tag in front; 0 where there is none."""
    head = _at(file, 0, 10)
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:]) > 127:
        return 0
    footer = 10 if head[5] & 16 else 0
    return sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)) + 10 + footer


class Spliced(io.RawIOBase):
    """Pieces of a file, and bytes between them, as one file that can seek; reads what it is asked for, no more.

    Example:
        >>> Spliced(io.BytesIO(b"0123456789"), [b"ab", (3, 6), b"c", (9, 10)]).read()
        b'ab345c9'
    """

    def __init__(self, file: BinaryIO, segments: Sequence[Segment]) -> None:
        self._file, self._segments = file, segments
        lengths = [len(each) if isinstance(each, bytes) else each[1] - each[0] for each in segments]
        self._ends = [sum(lengths[: count + 1]) for count in range(len(lengths))]
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._ends[-1]}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        begin = 0
        for segment, end in zip(self._segments, self._ends, strict=True):
            if self._place < end:
                count = min(len(buffer), end - self._place)
                if isinstance(segment, bytes):
                    data = segment[self._place - begin :][:count]
                else:
                    self._file.seek(segment[0] + self._place - begin)
                    data = self._file.read(count)
                buffer[: len(data)] = data
                self._place += len(data)
                return len(data)
            begin = end
        return 0

    def close(self) -> None:
        super().close()
        self._segments, self._ends = [], [0]


@dataclass(frozen=True)
class _Chunk:
    id: bytes
    begin: int  # of what is in it
    length: int  # as declared
    filled: bool = True  # the chunk before it has the byte that makes its length even


def _chunks(file: BinaryIO, place: int, size: int, order: Order, wide: bool = False) -> Iterator[_Chunk]:
    """The chunks from here on; one that has no name of four letters, or no header, ends them."""
    head, odd = 12 if wide else 8, False
    while place + head <= size:
        data, filled = _at(file, place, head), True
        if odd and not _KNOWN.match(data):  # the byte that fills it up may be missing
            sooner = _at(file, place - 1, head)
            if _KNOWN.match(sooner) or not _ID.match(data):
                place, filled, data = place - 1, False, sooner
        if not _ID.match(data):
            return
        length = int.from_bytes(data[4:], order, signed=wide)
        yield _Chunk(data[:4], place + head, length, filled)
        if length < 0:
            return
        odd = bool(length & 1) and not wide
        place += head + length + odd


class _Wave:
    """A WAV, its 64-bit forms among them, by its chunks."""

    def __init__(self, file: BinaryIO, name: str, base: int, size: int) -> None:
        self._file, self._name, self._base, self._size = file, name, base, size
        self._kind = _at(file, base, 4)
        self._order: Order = "big" if self._kind == b"RIFX" else "little"

    def segments(self) -> list[Segment] | None:
        found: dict[bytes, _Chunk] = {}
        tidy = self._kind != b"BW64" and not self._base
        for chunk in _chunks(self._file, self._base + 12, self._size, self._order):
            tidy &= chunk.filled
            found.setdefault(chunk.id, chunk)
            if {b"fmt ", b"data"} <= found.keys():
                break
        if not {b"fmt ", b"data"} <= found.keys() or found[b"fmt "].length > _MOST_FORMAT:
            return None  # libsndfile says what is missing
        form, data = found[b"fmt "], found[b"data"]
        begin, length = data.begin, data.length
        if (long := found.get(b"ds64")) and length == 0xFFFFFFFF:
            length = int.from_bytes(_at(self._file, long.begin + 8, 8), "little")
        layout = _at(self._file, form.begin, 16)
        self._sniff(begin, layout)
        end = _end(self._file, self._name, begin, length, self._size, self._order)
        in_32 = self._order == "little" and layout[:2] == b"\xfe\xff" and layout[14:16] == b"\x18\0"
        in_32 &= int.from_bytes(layout[12:14], "little") == 4 * int.from_bytes(layout[2:4], "little") > 0
        tidy &= (
            not in_32
            and form.begin < begin
            and (end == begin + length or (means_until_the_end(length) and max(end, length) < _WRAP))
        )
        return None if tidy else self._rebuilt(form, begin, end, in_32)

    def _rebuilt(self, form: _Chunk, begin: int, end: int, in_32: bool) -> list[Segment]:
        held, order = end - begin, self._order
        if held < 0x7FFFF000:
            kind, sizes, fields = self._kind if self._kind == b"RIFX" else b"RIFF", b"", held.to_bytes(4, order)
        else:
            kind, fields = b"RF64", b"\xff" * 4
            numbers = (held + form.length + 60, held, 0)
            sizes = b"ds64" + (28).to_bytes(4, order) + b"".join(n.to_bytes(8, order) for n in numbers) + bytes(4)
        room = len(sizes) + form.length + 20 + held
        whole = b"\xff" * 4 if sizes else room.to_bytes(4, order)
        written = b"fmt " + form.length.to_bytes(4, order)
        filling = bytes(form.length & 1)
        return [
            kind + whole + b"WAVE" + sizes + written,
            *_form(form, in_32),
            filling + b"data" + fields,
            (begin, end),
        ]

    def _sniff(self, begin: int, layout: bytes) -> None:
        if int.from_bytes(layout[14:16], self._order) != 16 or layout[:2] not in (b"\1\0", b"\xfe\xff"):
            return
        # Pairs of words, for they begin at a sample; to look for six patterns of bytes takes two to ten times as long.
        samples = _at(self._file, begin, _SNIFFED)
        words = np.frombuffer(samples, "<u2", len(samples) // 2).astype(np.uint32)
        pairs = words[:-1] | words[1:] << 16
        for sync, kind in _CODED.items():
            found = pairs == int.from_bytes(sync, "little")
            if np.count_nonzero(found) >= 3 and len(set(np.diff(np.flatnonzero(found)).tolist())) == 1:
                raise CodedSound(self._name, f"{kind} inside a WAV, which no decoder here reads")


def _form(form: _Chunk, in_32: bool) -> list[Segment]:
    """How the samples are coded; of 24 bits that take the room of 32, the room: libsndfile takes them for packed."""
    end = form.begin + form.length
    return [(form.begin, form.begin + 14), _IN_32, (form.begin + 16, end)] if in_32 else [(form.begin, end)]


def _aiff(file: BinaryIO, name: str, base: int, size: int) -> list[Segment] | None:
    found: dict[bytes, _Chunk] = {}
    tidy = not base
    for chunk in _chunks(file, base + 12, size, "big"):
        tidy &= chunk.filled
        found.setdefault(chunk.id, chunk)
        if {b"COMM", b"SSND"} <= found.keys():
            break
    if not {b"COMM", b"SSND"} <= found.keys() or found[b"COMM"].length > _MOST_FORMAT:
        return None
    form, sound = found[b"COMM"], found[b"SSND"]
    offset = int.from_bytes(_at(file, sound.begin, 4), "big")
    begin, length = sound.begin + 8 + offset, max(0, sound.length - 8 - offset)
    end = _end(file, name, begin, length, size, "big")
    said = _at(file, form.begin, form.length)
    frame = max(1, int.from_bytes(said[:2], "big") * -(-int.from_bytes(said[6:8], "big") // 8))
    silent = said[2:6] == bytes(4) and end > begin  # COMM says that there is nothing
    if tidy and not silent and (end == begin + length or (means_until_the_end(sound.length) and end < _WRAP)):
        return None
    frames = min((end - begin) // frame, 0xFFFFFFFF).to_bytes(4, "big")
    # Of the length 0 libsndfile takes all that is there, which may be more than 32 bits tell.
    head = b"FORM" + bytes(4) + _at(file, base + 8, 4) + b"COMM" + form.length.to_bytes(4, "big")
    return [head + said[:2] + frames + said[6:] + bytes(form.length & 1) + b"SSND" + bytes(12), (begin, end)]


def _caf(file: BinaryIO, name: str, size: int) -> list[Segment] | None:
    for chunk in _chunks(file, 8, size, "big", wide=True):
        if chunk.id != b"data":
            continue
        begin = chunk.begin + 4  # behind the count of edits
        end = size if chunk.length < 0 else _end(file, name, begin, max(0, chunk.length - 4), size, "big", wide=True)
        field = (end - chunk.begin).to_bytes(8, "big")
        return None if end == chunk.begin + chunk.length else [(0, chunk.begin - 8), field, (chunk.begin, end)]
    return None


def _refuse_second_w64(file: BinaryIO, name: str, size: int) -> None:
    """Refuse what goes on behind its samples with another file: its header would be heard as noise."""
    place = 40
    while 0 < place + 24 <= size:
        head = _at(file, place, 24)
        if head[:16] == _W64:
            raise AudioError(name, "several recordings in one file: part them")
        length = int.from_bytes(head[16:], "little")
        place = place + (length + 7) // 8 * 8 if length >= 24 else size


def _au(file: BinaryIO, name: str, size: int) -> list[Segment] | None:
    head = _at(file, 0, 12)
    begin, length = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:], "big")
    end = _end(file, name, begin, length, size, "big")
    return None if end == begin + length or length == 0xFFFFFFFF else [head[:8] + b"\xff" * 4, (12, end)]


def _end(file: BinaryIO, name: str, begin: int, length: int, size: int, order: Order, wide: bool = False) -> int:
    """Where the samples end that are said to be so many bytes long; past the file's end where it was cut."""
    held = size - begin
    open_end = means_until_the_end(length) and (length < _WRAP or length >= 1 << 62)
    if length > held:
        return size if open_end else begin + length
    if _is_behind(file, begin + length, size, order, wide):
        return begin + length
    if length == 0 or open_end:
        return size
    wrapped = length + (held - length) // _WRAP * _WRAP
    if wrapped > length and not wide and _is_behind(file, begin + wrapped, size, order, wide):
        return begin + wrapped
    joined = _at(file, begin + length + (length & 1), 4) in (b"RIFF", b"FORM", b"caff", b"data", b"SSND")
    why = "several recordings in one file: part them" if joined else "either its header is false, or they are no sound"
    raise AudioError(name, f"its header declares {length} bytes of samples, and {held - length} more follow: {why}")


def _is_behind(file: BinaryIO, place: int, size: int, order: Order, wide: bool) -> bool:
    """Whether what stands from here to the end may stand behind samples: nothing, chunks, tags, a few stray bytes."""
    rest = size - place
    if rest <= _STRAY:
        return True
    if rest <= _FILLING and not any(_at(file, place, rest)):
        return True
    for begin in {place, place + (place & 1)}:
        if _at(file, begin, 8).startswith(_TAGS) or _are_chunks(file, begin, size, order, wide):
            return True
    return False


def _are_chunks(file: BinaryIO, place: int, size: int, order: Order, wide: bool) -> bool:
    end = place
    for chunk in _chunks(file, place, size, order, wide):
        if chunk.id in (b"RIFF", b"RIFX", b"FORM", b"caff", b"data", b"SSND"):
            return False
        if chunk.begin + chunk.length > size + 1:
            return _METADATA.match(chunk.id) is not None  # of which some is missing
        end = chunk.begin + max(0, chunk.length)
    return end > place and size - end <= _STRAY


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
