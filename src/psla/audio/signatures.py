"""What the bytes of a file tell before any decoder is asked: what it is, and whether it is whole, and one file."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from psla.audio.sound_file import STREAMED_BYTES

_MOST_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg
_ASF = bytes.fromhex("3026B2758E66CF11A6D900AA0062CE6C")
_ASF_FILE = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")
_MP3_TAG = re.compile(rb"Xing|Info|VBRI")
_KINDS = (
    (rb"\s*<(?i:!doctype html|html)", "not audio, but an HTML page"),
    (rb"%PDF", "not audio, but a PDF"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "not audio, but an archive: unpack it"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|BM....\0\0\0\0", "not audio, but a picture"),
    (rb"#EXTM3U|ffconcat|\[playlist\]", "not audio, but a playlist: give the files that it names"),
    (rb"MThd", "not audio, but MIDI: notes, without their sound"),
    (rb"\s*(?:<\?xml|[{\[]\s*[\"{\[\]}])", "not audio, but XML or JSON"),
    (rb"....(?:ftyp|moov|mdat)", "a truncated or damaged MP4: the index of what it holds is missing"),
    (rb"\x1aE\xdf\xa3", "truncated or damaged Matroska/WebM"),
)


def kind_of(file: BinaryIO) -> str:
    """What a file is that no decoder takes, in words; empty where it is not known."""
    file.seek(0)
    head = file.read(512)
    return next((kind for pattern, kind in _KINDS if re.match(pattern, head, re.DOTALL)), "")


def has_length_tag(file: BinaryIO) -> bool:
    """Whether the first frame of an MP3 says how many follow."""
    file.seek(0)
    head = file.read(10)
    after = sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False)) + 10
    file.seek(after if head[:3] == b"ID3" else 0)
    return _MP3_TAG.search(file.read(256)) is not None


def is_joined(file: BinaryIO) -> bool:
    """Whether in an Ogg a stream begins after another has begun to sound: streams side by side begin together."""
    file.seek(0)
    begun, kept = False, b""
    while part := file.read(1 << 20):
        data = kept + part
        place = 0
        while (place := data.find(b"OggS\0", place)) >= 0 and place + 5 < len(data):
            first = bool(data[place + 5] & 2)
            if first and begun:
                return True
            begun |= not first
            place += 5
        kept = data[-5:]
    return False


def is_cut(file: BinaryIO) -> bool:
    """Whether a RIFF, ASF or Matroska says in its head, or an Ogg in its last page, that it is longer than it is."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head, ends = file.read(4096) + bytes(100), 0
    if head[:4] == b"RIFF" and (length := int.from_bytes(head[4:8], "little")) < STREAMED_BYTES:
        ends = 8 + length
    elif head[:4] == _ASF[:4] and (place := head.find(_ASF_FILE)) >= 0 and not head[place + 88] & 1:
        ends = int.from_bytes(head[place + 40 : place + 48], "little")
    elif head[:4] == b"\x1aE\xdf\xa3" and (place := head.find(b"\x18S\x80g") + 4) >= 4:
        count = 9 - head[place].bit_length()
        length = int.from_bytes(head[place : place + count], "big") & ((1 << 7 * count) - 1)
        ends = 0 if length == (1 << 7 * count) - 1 else place + count + length  # all ones: it was not known
    elif head[:4] == b"OggS":
        begin = max(0, size - _MOST_PAGE)
        file.seek(begin)
        tail = file.read(_MOST_PAGE)
        place = tail.rfind(b"OggS\0")
        count = tail[place + 26] if len(tail) > place + 26 else 255
        ends = begin + place + 27 + count + sum(tail[place + 27 : place + 27 + count])
    return ends > size + 1  # what RIFF fills up to an even length need not be there
