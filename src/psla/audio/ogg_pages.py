"""The pages of an Ogg: whether they are all there, and as they were written.

libsndfile and ffmpeg go past a page that is damaged or missing, and hear the file as if it had never been. Each page
has a checksum (CRC-32 of the polynomial 0x04c11db7, neither end mirrored), a number in its stream and a flag if it is
the first or the last (https://www.rfc-editor.org/rfc/rfc3533#section-6): a hole, a flipped bit and a cut show.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from psla.audio.chunks import tag_length
from psla.audio.sound_file import AudioError

_HEAD = struct.Struct("<4sBBqIIIB")  # capture, version, flags, granule, stream, number, checksum, segments
_FIRST, _LAST = 2, 4
_PART = 1 << 20
_MOST_PAGE = 27 + 255 + 255 * 255
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class OggPages:
    """What the pages tell.

    Attributes:
        joined: a stream begins after another has begun to sound; streams side by side begin together.
        parts: where in the file the recordings lie that were joined, from and up to; those that hold sound.
        ended: every stream has its last page. Some recorders never write it: cut or not, nobody knows.
    """

    joined: bool
    parts: tuple[tuple[int, int], ...]
    ended: bool


def look(file: BinaryIO, name: str) -> OggPages | None:
    """Read all pages; None where the file is no Ogg.

    Raises:
        AudioError: a page is damaged, missing or cut, or there is no sound in any.
    """
    size, place = file.seek(0, os.SEEK_END), tag_length(file)
    file.seek(place)
    if file.read(4) != b"OggS":
        return None
    numbers: dict[int, int] = {}  # of the last page of each stream
    times: dict[int, int] = {}  # where in the sound it ends
    open_streams: set[int] = set()
    parts: list[tuple[int, int]] = []
    begun = joined = sounding = False
    kept, start, begin = b"", place, place
    while place < size:
        if place - start + _MOST_PAGE > len(kept) and start + len(kept) < size:
            file.seek(place)
            kept, start = file.read(_MOST_PAGE + _PART), place
        page = _page(kept, place - start)
        if page is None:
            if size - place < 27 and not kept.startswith(b"OggS", place - start):
                break  # a few stray bytes
            if kept.startswith((b"TAG", b"ID3", b"APETAGEX"), place - start) or not any(kept[place - start :]):
                break
            if kept.startswith(b"OggS", place - start):
                raise AudioError(name, f"truncated: its last page is cut, at byte {place} of {size}")
            raise AudioError(name, f"damaged: no page begins at byte {place}, where one should")
        flags, granule, stream, number, length, right = page
        if not right:
            raise AudioError(name, f"damaged: the page at byte {place} does not agree with its checksum")
        if flags & _FIRST:
            if begun:
                parts += [(begin, place)] * sounding
                begun, joined, sounding, begin = False, True, False, place
            open_streams.add(stream)
            times[stream] = 0
        elif number != (numbers.get(stream, -1) + 1) & 0xFFFFFFFF:
            raise AudioError(name, f"damaged: pages are missing before byte {place}")
        begun |= not flags & _FIRST
        sounding |= granule > 0
        if 0 <= granule < times.get(stream, 0):
            raise AudioError(name, f"damaged: the page at byte {place} ends before the one in front of it")
        times[stream] = max(times.get(stream, 0), granule)
        numbers[stream] = number
        if flags & _LAST:
            open_streams.discard(stream)
        place += length
    parts += [(begin, place)] * sounding
    if not parts:
        raise AudioError(name, "holds no samples")
    return OggPages(joined, tuple(parts), not open_streams)


def _page(data: bytes, place: int) -> tuple[int, int, int, int, int, bool] | None:
    """Flags, granule, stream, number and length of the page that begins here, and whether its checksum is right."""
    if not data.startswith(b"OggS\0", place) or len(data) < place + 27:
        return None
    _, _, flags, granule, stream, number, checksum, segments = _HEAD.unpack_from(data, place)
    table = data[place + 27 : place + 27 + segments]
    length = 27 + segments + sum(table)
    page = data[place : place + length]
    if len(table) < segments or len(page) < length:
        return None
    return flags, granule, stream, number, length, _checksum(page[:22] + bytes(4) + page[26:]) == checksum


def _checksum(data: bytes) -> int:
    """zlib's is of the mirrored kind, begins with all ones and turns them over at the end; here all is undone."""
    mirrored = zlib.crc32(data.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")
