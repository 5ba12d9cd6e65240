"""How many samples a FLAC or an MP3 says that it holds, and how many its frames say.

Each frame of FLAC has a number and a checksum of its head (https://www.rfc-editor.org/rfc/rfc9639#section-9.1): the
last one tells where the sound ends. Some encoders put the count of an MP3's frames into its first frame, as Xing or
VBRI (http://gabriel.mp3-tech.org/mp3infotag.html).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from psla.audio.chunks import tag_length

_TAIL = 1 << 17  # bytes of the end of a FLAC that are looked through first
_MOST_TAIL = 1 << 25
_MOST_HEAD = 16  # bytes of the head of a frame
_PART = 1 << 20
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_STREAM_INFO = b"fLaC\0\0\0\x22"
_LAST_INFO = b"fLaC\x80\0\0\x22"


@dataclass(frozen=True)
class FlacLength:
    """Attributes:
    declared: samples a channel by the header; 0 where it does not say.
    held: where the last frame ends; None where there is none.
    """

    declared: int
    held: int | None


def flac_length(file: BinaryIO) -> FlacLength | None:
    """By the header and by the last frame; None where the file is no FLAC with its header."""
    size, begin = file.seek(0, os.SEEK_END), tag_length(file)
    file.seek(begin)
    head = file.read(42)
    if len(head) < 42 or head[:8] not in (_STREAM_INFO, _LAST_INFO):
        return None
    smallest, packed = int.from_bytes(head[8:10], "big"), int.from_bytes(head[18:26], "big")
    declared = packed & ((1 << 36) - 1)
    count = _TAIL
    while True:
        first = max(begin, size - count)
        file.seek(first)
        held = _last_frame(file.read(count), smallest)
        if held is not None or first == begin or count >= _MOST_TAIL:
            return FlacLength(declared, held)
        count *= 4


def is_several_flacs(file: BinaryIO) -> bool:
    """Whether another FLAC begins inside this one; reads all of it."""
    file.seek(tag_length(file) + 8)
    kept = b""
    while part := file.read(1 << 20):
        data = kept + part
        if _STREAM_INFO in data or _LAST_INFO in data:
            return True
        kept = data[-8:]
    return False


def broken_flac(file: BinaryIO, held: int) -> str:
    """What is wrong where the frames of a FLAC, whose last ends at sample `held`, do not follow each other: libsndfile
    fills the hole, and leaves out those that begin anew. Empty where they do; reads all of it."""
    begin = tag_length(file)
    file.seek(begin)
    head = file.read(42)
    smallest, last, place = int.from_bytes(head[8:10], "big"), False, begin + 4
    while not last:
        file.seek(place)
        block = file.read(4).ljust(4, b"\x80")
        last, place = bool(block[0] & 0x80), place + 4 + int.from_bytes(block[1:], "big")
    reached = 0
    for at, head in _heads(file, place):
        if (span := _frame(head, smallest, reached)) is not None:
            reached = span[1]
        elif at == place:
            return ""  # it begins in the middle of a stream
        elif _frame(head, smallest, 0):
            return "several recordings in one file: part them"
    return "" if reached in (0, held) else f"damaged: frames are missing behind sample {reached} of {held}"


def _heads(file: BinaryIO, place: int) -> Iterator[tuple[int, bytes]]:
    """The bytes from here on that may be the head of a frame, and where they stand."""
    file.seek(place)
    data = file.read(_PART)
    while data:
        part = file.read(_PART)
        whole = data + part if part else data.ljust(len(data) + _MOST_HEAD, b"\0")
        known = len(whole) - _MOST_HEAD
        for match in _SYNC.finditer(whole):
            if match.start() < known:
                yield place + match.start(), whole[match.start() : match.start() + _MOST_HEAD]
        place, data = place + known, whole[known:] if part else b""


def _last_frame(data: bytes, smallest: int) -> int | None:
    place = len(data)
    while (place := data.rfind(b"\xff", 0, place)) >= 0:
        # A frame of silence may be shorter than the longest head.
        if (span := _frame(data[place : place + _MOST_HEAD].ljust(_MOST_HEAD, b"\0"), smallest)) is not None:
            return span[1]
    return None


def _frame(head: bytes, smallest: int, wanted: int | None = None) -> tuple[int, int] | None:
    """Where the frame begins and ends whose head this is, in samples; None where it is no head, or none that begins
    where it is wanted."""
    if head[1] not in (0xF8, 0xF9) or head[2] >> 4 == 0 or head[2] & 15 == 15:
        return None
    if head[3] >> 4 > 10 or head[3] & 1 or head[3] >> 1 & 7 == 3:
        return None
    more = 0 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()  # as UTF-8, up to 36 bits
    if more in (1, 8) or any(byte >> 6 != 2 for byte in head[5 : 4 + more]):
        return None
    number = head[4] & (0x7F if more == 0 else (1 << (7 - more)) - 1)
    for byte in head[5 : 4 + more]:
        number = number << 6 | byte & 63
    place, code = 4 + max(more, 1), head[2] >> 4
    if code in (6, 7):
        block = int.from_bytes(head[place : place + code - 5], "big") + 1
        place += code - 5
    else:
        block = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    place += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    begin = number if head[1] & 1 else number * smallest
    if wanted not in (None, begin) or _crc8(head[:place]) != head[place]:
        return None
    return begin, begin + block


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


def mp3_declared(file: BinaryIO) -> int:
    """Frames that follow the first one of an MP3, as that says; 0 where it does not."""
    file.seek(tag_length(file))
    head = file.read(256)
    if (place := head.find(b"VBRI")) >= 0:
        return int.from_bytes(head[place + 14 : place + 18], "big")
    place = max(head.find(b"Xing"), head.find(b"Info"))
    told = head[place + 4 : place + 12]
    return int.from_bytes(told[4:], "big") if place >= 0 and len(told) == 8 and told[3] & 1 else 0
