"""Which decoder hears all of a file: libsndfile what it can, ffmpeg the rest; and what neither may pass over.

A header's length is not taken for the truth. Of WAV, AIFF, CAF and AU it is held against the chunks (`chunks`), of FLAC
and MP3 against their frames (`frames`), of Ogg against its pages (`ogg_pages`), of what ffmpeg reads against its
packets (`containers`). What a false header would hide is heard; where the true length cannot be known, and where
something is missing, the file is refused.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import BinaryIO

from psla.audio import chunks, containers, frames, ogg_pages, sound_file
from psla.audio.chunks import CodedSound
from psla.audio.containers import ContainerFile
from psla.audio.joined import JoinedFile
from psla.audio.sound_file import AudioError, SndFile, Source, UnknownSound

Sound = SndFile | ContainerFile | JoinedFile

# What libsndfile calls damaged in these is; of the others ffmpeg is asked, too.
_SURE = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b"caff", b".snd", b"fLaC")
_WHOLE: set[tuple[int, ...]] = set()  # FLACs that were read through: clips of one recording open it again and again
_MOST_WHOLE = 4096
_MOST_PADDING = 2 * 4095  # samples that the tag of an MP3 may take from its beginning and its end


def open_sound(source: Source, name: str, thorough: bool = True) -> Sound:
    """An open file, by libsndfile; by ffmpeg what that cannot read or would hear a part of, and later tracks.

    Args:
        thorough: also read all of a FLAC to find a second one of the same length behind it, and frames that are
            missing.

    Returns: what reads it; `unfinished`: it may have been cut, and nothing in it tells.

    Raises:
        AudioError: the file, and why it cannot be read.
    """
    if not isinstance(source, str | os.PathLike):
        file = sound_file.file_object(source, name)
        return _open(file, file, name, 1, thorough)
    path, track = containers.split_track(name)
    with ExitStack() as files:
        bare = files.enter_context(sound_file.opened(path))
        found = _open(path, bare, name, track, thorough)
        if found.mended or isinstance(found, JoinedFile):  # it reads on in the file that is open here
            found.kept = files.pop_all()
        return found


def _open(opened: str | BinaryIO, bare: BinaryIO, name: str, track: int, thorough: bool) -> Sound:
    refused, coded, ogg, mended = "", False, None, None
    found: Sound | None = None
    try:
        if (mended := chunks.mended(bare, name)) is not None:
            opened = bare = mended
        ogg = ogg_pages.look(bare, name)
        if track == 1 and ogg and ogg.joined:
            found = JoinedFile(bare, name, ogg.parts, lambda part: _one(part, name))
        elif track == 1 and _declares_all(bare, name, thorough):
            found = _by_libsndfile(opened, bare, name)
    except UnknownSound as error:
        refused, coded = error.reason, isinstance(error, CodedSound)
    if found is None:
        bare.seek(0)
        found = ContainerFile(opened, name, track, refused)
        if coded and found.subtype.startswith("pcm"):
            found.close()
            raise AudioError(name, refused)
    found.mended, found.unfinished = mended is not None, ogg is not None and not ogg.ended
    return found


def _one(part: BinaryIO, name: str) -> SndFile | ContainerFile:
    """One of several recordings in an Ogg, whose pages have been looked at."""
    try:
        found = _by_libsndfile(part, part, name)
    except UnknownSound as error:
        return ContainerFile(part, name, refused=error.reason)
    assert found is not None  # which only an MP3 is
    return found


def _by_libsndfile(opened: str | BinaryIO, bare: BinaryIO, name: str) -> SndFile | None:
    """None where it does not hear all."""
    bare.seek(0)
    sure = bare.read(4) in _SURE
    bare.seek(0)
    file = sound_file.open_sndfile(opened, name, sure)
    if file.subtype.startswith("MPEG_LAYER") and not _hears_all(bare, file, name):
        file.close()
        return None
    return file


def _declares_all(file: BinaryIO, name: str, thorough: bool) -> bool:
    """Whether the header of a FLAC says how long it is, and that is as long as it is; true of any other file."""
    flac = frames.flac_length(file)
    if flac is None:
        return True
    if flac.held is None:
        raise AudioError(name, "holds no samples" if not flac.declared else "damaged: none of its frames is whole")
    place = _place(file) if thorough else None
    if place in _WHOLE:
        return flac.declared == flac.held
    if (thorough or flac.declared != flac.held) and frames.is_several_flacs(file):
        raise AudioError(name, "several recordings in one file: part them")
    if flac.declared > flac.held:
        declares = f"{flac.declared} samples, its last frame ends at {flac.held}"
        raise AudioError(name, f"truncated: its header declares {declares}")
    if thorough and (broken := frames.broken_flac(file, flac.held)):
        raise AudioError(name, broken)
    if place is not None:
        if len(_WHOLE) >= _MOST_WHOLE:
            _WHOLE.clear()
        _WHOLE.add(place)
    return flac.declared == flac.held


def _place(file: BinaryIO) -> tuple[int, ...] | None:
    """What tells a file on a disk, as it is now, from others; None of one in memory."""
    try:
        stat = os.fstat(file.fileno())
    except (OSError, AttributeError):  # a file object need not know
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _hears_all(file: BinaryIO, heard: SndFile, name: str) -> bool:
    """Whether libsndfile hears all of an MP3: without a tag it hears what it guesses from the first frame, of several
    joined what the first tag says. What the tag takes from both ends is no loss."""
    position = file.tell()  # libsndfile goes on from there, if the file is the same
    held, frame = containers.mpeg_samples(file), 1152 if heard.samplerate >= 32000 else 576
    tagged = frames.mp3_declared(file) * frame
    file.seek(position)
    if tagged > held + frame:
        seconds = f"{tagged / heard.samplerate:.2f} s, its frames last {held / heard.samplerate:.2f} s"
        raise AudioError(name, f"truncated: its first frame declares {seconds}")
    missed = held - heard.frames
    return missed == 0 if not tagged else tagged == held and 0 <= missed <= _MOST_PADDING
