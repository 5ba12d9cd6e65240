"""What the bytes of a file tell before any decoder is asked: what it is, and whether it is whole, and one file."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from psla.audio.chunks import tag_length
from psla.audio.sound_file import means_until_the_end

_ASF = bytes.fromhex("3026B2758E66CF11A6D900AA0062CE6C")
_EBML, _SEGMENT, _CLUSTER = b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x1fC\xb6u"
_BOXES = (b"ftyp", b"moov", b"mdat", b"styp", b"moof", b"free", b"skip", b"wide")
_ASF_FILE = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")
_MOST_FRAME = 2881  # bytes of an MP3
_DAMAGED = "truncated or damaged Matroska/WebM"
_KINDS = (
    (
        rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?i:!doctype html|html|head|body|script)",
        "not audio, but an HTML page",
    ),
    (rb"%PDF", "not audio, but a PDF"),
    (
        rb".{257}ustar|PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|\xfd7zXZ|\x28\xb5\x2f\xfd|BZh[1-9]",
        "not audio, but an archive: unpack it",
    ),
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|BM....\0\0\0\0|....ftyp(?:heic|heix|mif1|avif)",
        "not audio, but a picture",
    ),
    (rb"#EXTM3U|ffconcat|\[playlist\]", "not audio, but a playlist: give the files that it names"),
    (rb"MThd|RIFF....RMID", "not audio, but MIDI: notes, without their sound"),
    (
        rb"Extended Module: |IMPM|.{44}SCRM",
        "not audio, but a music module: notes and samples, which no decoder here plays",
    ),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1|\{\\rtf", "not audio, but a document"),
    (rb"\x93NUMPY|PAR1|\x89HDF", "not audio, but arrays or tables (NumPy, Parquet, HDF5)"),
    (rb"/annex/objects/|\S*\.git/annex/", "not audio, but a pointer of git-annex: fetch the file that it stands for"),
    (rb"version https://git-lfs", "not audio, but a pointer of Git LFS: fetch the file that it stands for"),
    (rb"Salted__|-----BEGIN PGP|age-encryption\.org", "encrypted: it cannot be read without its key"),
    (rb"....ftypaax", "encrypted (Audible): it cannot be read without its key"),
    (rb"\x00\x05\x16\x07", "not audio, but what macOS keeps beside a file (AppleDouble)"),
    (rb"\x7fELF|MZ.{60}|\xcf\xfa\xed\xfe", "not audio, but a program"),
    (rb"SQLite format 3", "not audio, but a database"),
    (rb"DSD |FRM8", "DSD, which no decoder here reads"),
    (rb"#!SILK|\x02#!SILK", "SILK, which no decoder here reads"),
    (rb"\.ra\xfd", "RealAudio, which no decoder here reads"),
    (rb"ajkg", "Shorten, which no decoder here reads"),
    (rb"OFR ", "OptimFROG, which no decoder here reads"),
    (rb"RIFF....QLCM", "QCP, which no decoder here reads"),
    (rb"\s*(?:<\?xml|[{\[]\s*[\"{\[\]}])", "not audio, but XML or JSON"),
    (rb"....(?:ftyp|moov|mdat|moof|styp|sidx)", "a truncated or damaged MP4: the index of what it holds is missing"),
)


def kind_of(file: BinaryIO) -> str:
    """What a file is that no decoder takes, in words; empty where it is not known."""
    size, place = file.seek(0, os.SEEK_END), tag_length(file)
    if place > size:
        return "truncated or damaged: its ID3 tag ends behind the end of the file"
    if place == size:
        return "holds no samples: there is an ID3 tag, and nothing behind it"
    file.seek(place)
    head = file.read(1 << 16)
    if head[:4] == _EBML:
        empty = place + len(head) == size and _SEGMENT in head and _CLUSTER not in head
        return "holds no samples: the header of a Matroska/WebM, and nothing behind it" if empty else _DAMAGED
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and 3 * head.count(0) >= len(head):
        return "not audio, but text"
    if head[0] == 0xFF and head[1:2] >= b"\xe0" and size - place < _MOST_FRAME:
        return "holds no samples: the first frame of an MP3, and nothing behind it"
    if not any(head) and size - place <= 1 << 30:
        while part := file.read(1 << 20):
            if any(part):
                break
        else:
            return "not audio: all its bytes are zero"
    return next((kind for pattern, kind in _KINDS if re.match(pattern, head[:512], re.DOTALL)), _text(head[:4096]))


def _text(head: bytes) -> str:
    """That it is text, where it is: UTF-8 without control characters; a character may be cut at the end."""
    try:
        letters = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return ""
    return (
        "not audio, but text" if letters and all(each.isprintable() or each in "\t\r\n\f" for each in letters) else ""
    )


def is_cut(file: BinaryIO) -> bool:
    """Whether a RIFF, ASF, MP4 or Matroska says that it is longer than it is."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head, ends = file.read(4096) + bytes(100), 0
    if head[:4] == b"RIFF" and not means_until_the_end(length := int.from_bytes(head[4:8], "little")):
        ends = 8 + length
    elif head[:4] == _ASF[:4] and (place := head.find(_ASF_FILE)) >= 0 and not head[place + 88] & 1:
        ends = int.from_bytes(head[place + 40 : place + 48], "little")
    elif head[:4] == _EBML and (place := head.find(_SEGMENT) + 4) >= 4:
        whole, begin = _ebml_length(head, place)
        ends = _streamed_end(file, begin, size) if whole is None else begin + whole
    elif head[4:8] in _BOXES:
        ends = _boxes_end(file, size)
    return ends > size + 1  # what RIFF fills up to an even length need not be there


def mp4_parts(file: BinaryIO) -> tuple[bool, bool]:
    """Whether a file is several MP4s, one behind the other (a second index, or fragments that begin anew: ffmpeg hears
    the first recording, no more); and whether it comes in fragments, each with the time at which it begins."""
    indexes, moofs, fragments = 0, 0, list[int]()
    for kind, place in _boxes(file):
        indexes += kind == b"moov"
        moofs += kind == b"moof"
        if kind == b"moof":
            file.seek(place + 8)
            head = file.read(16)
            fragments += [int.from_bytes(head[12:], "big")] if head[4:8] == b"mfhd" else []
    # Some downloads repeat the index in front of every fragment.
    anew = any(after <= before for before, after in pairwise(fragments))
    return indexes > 1 and (not fragments or anew), moofs > 0


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """What the outer boxes of an MP4 are called, and where they begin; none of another file."""
    size, place = file.seek(0, os.SEEK_END), 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[8:], "big") if head[:4] == b"\0\0\0\1" else int.from_bytes(head[:4], "big")
        if (not place and head[4:8] not in _BOXES) or (length and length < 8):
            return
        yield head[4:8], place
        place = place + length if length else size


def _ebml_length(data: bytes, place: int) -> tuple[int | None, int]:
    """The length that stands here, None where it was not known (all ones), and the place behind it."""
    count = 9 - data[place].bit_length()
    length = int.from_bytes(data[place : place + count], "big") & ((1 << 7 * count) - 1)
    return None if length == (1 << 7 * count) - 1 else length, place + count


def _streamed_end(file: BinaryIO, place: int, size: int) -> int:
    """Where the last element ends of a Matroska whose length was not known, such as a browser records."""
    while place + 12 <= size:
        file.seek(place)
        head = file.read(12)
        count = 9 - head[0].bit_length()
        if not 1 <= count <= 4 or not head[count]:
            return 0  # ffmpeg says what is wrong
        length, begin = _ebml_length(head, count)
        # Of clusters and the like with an open end the elements follow one after the other.
        place += begin if length is None or head[:4] == _CLUSTER else begin + length
    return place


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 ends; 0 where its index is missing, which ffmpeg finds."""
    place, indexed = 0, False
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if not length or length < 8 or not re.match(rb"[ -~\xa9]{4}", head[4:8]):
            return 0  # to the end; or no box, and ffmpeg says what is wrong
        indexed |= head[4:8] == b"moov"
        place += length
    return place if indexed else 0
