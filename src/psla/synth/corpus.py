"""A corpus of soundscapes with its splits, from a config to a table of clips, and how recorded events are cut for it.

Every split has scenes of its own. With recorded events it has recordings of its own, too: what is trained on and what
is evaluated on have no source in common.

The sounding part of a recording, for many are mostly silence: a frame of 20 ms sounds if its power is within 30 dB of
the loudest frame's. Pauses up to 1 s between such frames are part of the event (a clock ticks on); of several stretches
the one with most energy is taken, with the frame before it and the frame after it. Of more than 10 s, the 10 s around
the loudest frame are kept. A recording below -84 dBFS throughout is silent and is left out.

The class of a recording: its label as an AudioSet class id, or name, or category of ESC-50 (`esc50.AUDIOSET_CLASS`). Of
several labels the most specific counts, where the others are its ancestors; else more than one thing sounds, and the
recording is left out. What is left out is counted and named, in warnings.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, Job
from psla.corpora.esc50 import AUDIOSET_CLASS, NO_CLASS
from psla.data.clips import Clips, ClipsError
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.spread import cores
from psla.synth.config import SoundscapeConfig
from psla.synth.recordings import CUT_RATE, write_events
from psla.synth.scene import FACTS, ancestors, table, vocabulary

Report = Callable[[str, int, int], None]
"""Called as report(stage, done, total) now and then."""

FRAME = round(0.02 * CUT_RATE)  # samples: 20 ms
BELOW_LOUDEST = 10**-3.0  # of the power of the loudest frame: 30 dB
SILENT = 4.0  # mean square of int16 samples: -84 dBFS
PAUSE = 50  # frames: 1 s
MOST = 500  # frames: 10 s
_NAMED = 5  # of what is left out


def make(config: SoundscapeConfig, evaluation_clips: int, validation: float = 0.0) -> Clips:
    """Soundscapes of synthesised events.

    Args:
        config: of the split train: seed and number of clips; the split evaluation has the next seed.
        evaluation_clips: of the split evaluation, 0 or more.
        validation: about the share of train that is held out as the split validation, 0 .. below 1.

    Raises:
        ValueError: what `SoundscapeConfig` or `Clips.hold_out` refuse.

    Example:
        >>> make(SoundscapeConfig(clips=8), evaluation_clips=2).counts()
        {'train': 8, 'evaluation': 2}
    """
    rows = table(config, "train")
    if evaluation_clips:
        rows += table(replace(config, seed=config.seed + 1, clips=evaluation_clips), "evaluation")
    clips = Clips.from_rows(rows, vocabulary(config), FACTS["name"])
    return clips.hold_out(validation, config.seed) if validation else clips


def make_recorded(
    config: SoundscapeConfig,
    evaluation_clips: int,
    recordings: Clips,
    beside: str | os.PathLike[str],
    validation: float = 0.0,
    report: Report | None = None,
) -> Clips:
    """Soundscapes of recorded events: those of a split are made of the recordings of the same split.

    The table of recorded events is written beside the file `beside` (`recordings.write_events`); the soundscapes' paths
    name it, so it and the sound files must stay where they are, or the soundscapes be packed.

    Args:
        config, evaluation_clips: as `make`.
        recordings: what the events are cut from (`cut_events`).
        beside: where the soundscapes' own table will stand.
        validation: the share of the train clips that become the split validation, 0 .. below 1. They are made of the
            recordings of the split validation; where there is none, of that share of the train recordings, whole
            sources, which train then goes without.
        report: told of the progress.

    Raises:
        ClipsError: what `cut_events` refuses, or a share of validation that leaves no clip on either side.
        ValueError: more classes than the recordings have.
    """
    held = round(validation * config.clips)
    if validation and not 0 < held < config.clips:
        raise ClipsError(f"of {config.clips} clips the share {validation} cannot be held out; both sides need a clip")
    if held and "validation" not in recordings.counts():
        recordings = recordings.hold_out(validation, config.seed)
    wanted = [("train", config.seed, 0, config.clips - held), ("validation", config.seed, config.clips - held, held)]
    wanted = [each for each in [*wanted, ("evaluation", config.seed + 1, 0, evaluation_clips)] if each[3]]
    events = write_events(cut_events(recordings, [split for split, *_ in wanted], report), beside)
    rows: list[dict[str, Any]] = []
    for split, seed, first, clips in wanted:
        part = replace(config, seed=seed, clips=clips, events=str(events), events_split=split)
        rows += table(part, split, first)
    return Clips.from_rows(rows, vocabulary(part), FACTS["name"])


def sounding_part(wave: np.ndarray) -> tuple[int, int, int] | None:
    """First sample of the sounding part, the sample after its last, and the middle of its loudest frame; see above.

    Shape: wave: (samples,) int16, at least 1 sample.

    Returns:
        None where the recording is silent.

    Example:
        >>> wave = np.zeros(16000, dtype=np.int16)
        >>> wave[6400:8000] = 1000
        >>> sounding_part(wave), sounding_part(np.zeros(16000, dtype=np.int16))
        ((6080, 8320, 6560), None)
    """
    count = -(-len(wave) // FRAME)
    padded = np.zeros(count * FRAME, dtype=np.float32)
    padded[: len(wave)] = wave
    power = np.square(padded.reshape(count, FRAME)).mean(axis=1)
    sounding = np.flatnonzero(power >= max(float(power.max()) * BELOW_LOUDEST, SILENT))
    if not len(sounding):
        return None
    breaks = np.flatnonzero(np.diff(sounding) > PAUSE + 1) + 1
    stretches = [(part[0], part[-1] + 1) for part in np.split(sounding, breaks)]
    first, last = max(stretches, key=lambda s: float(power[s[0] : s[1]].sum()))
    loudest = first + int(power[first:last].argmax())
    first, last = max(first - 1, 0), min(last + 1, count)
    if last - first > MOST:
        first = min(max(loudest - MOST // 2, first), last - MOST)
        last = first + MOST
    return int(first) * FRAME, min(int(last) * FRAME, len(wave)), int(loudest) * FRAME + FRAME // 2


def cut_events(clips: Clips, splits: Sequence[str], report: Report | None = None) -> Clips:
    """The table of recordings for soundscapes of these splits.

    Its vocabulary: the classes that every one of the splits has, those with most recordings first, else in AudioSet's
    order.

    Args:
        clips: recordings: sound files or clips of a pack, with their labels, splits and sources.
        splits: those that soundscapes are wanted of.
        report: told of the progress.

    Raises:
        ClipsError: a split without clips, a source in two splits, a label that is no class of AudioSet, no class that
            every split has, or a recording that cannot be read.
    """
    have = clips.counts()
    if lacking := [split for split in splits if split not in have]:
        raise ClipsError(
            f"the recordings have no clips of the split {' and '.join(lacking)}, which soundscapes are to be made of; "
            f"they have {', '.join(have) or 'none at all'}"
        )
    rows = [row for row in clips.frame.iter_rows(named=True) if row["split"] in splits]
    _check_sources(rows)
    rows = _with_class(rows, clips.vocabulary)
    rows = _of_common_classes(rows, splits)
    rows = _of_common_classes(_cut(rows, report or (lambda stage, done, total: None)), splits)
    if not rows:
        raise ClipsError(f"the recordings have no AudioSet class that sounds in every split: {', '.join(splits)}")
    order, counts = Vocabulary.audioset(), Counter(row["class_id"] for row in rows)
    ids = sorted(counts, key=lambda id: (-counts[id], order.index_of(id)))
    keys = ("clip_id", "source", "path", "start_s", "end_s", "split", "loudest_s", "crc32")
    rows = [{key: row[key] for key in keys} | {"labels": [row["class_id"]]} for row in rows]
    return Clips.from_rows(rows, order.part(ids), f"events of {clips.name}" if clips.name else "events")


def audioset_class(label: str, name: str) -> str | None:
    """The AudioSet class id of a class, by its id, its name, or as a category of ESC-50; None: of no such class.

    Raises:
        ClipsError: nothing of the sort.

    Example:
        >>> audioset_class("/m/0bt9lr", "Dog"), audioset_class("sea_waves", "sea_waves"), audioset_class("1", "Frog")
        ('/m/0bt9lr', '/m/034srq', '/m/09ld4')
        >>> audioset_class("can_opening", "can_opening") is None
        True
    """
    if label in Vocabulary.audioset():
        return label
    if label in AUDIOSET_CLASS or label in NO_CLASS:
        return AUDIOSET_CLASS.get(label)
    try:
        return Vocabulary.audioset().find(name).id
    except VocabularyError as error:
        raise ClipsError(
            f"the class {label!r} of the recordings is neither a class of AudioSet nor a category of ESC-50: "
            "give its clips the id or the name of a class of AudioSet, or leave them out"
        ) from error


def _check_sources(rows: list[dict[str, Any]]) -> None:
    split_of: dict[str, str] = {}
    for row in rows:
        if split_of.setdefault(row["source"], row["split"]) != row["split"]:
            raise ClipsError(
                f"the source {row['source']!r} is in the splits {split_of[row['source']]} and {row['split']}; what is "
                "trained on must not be evaluated on: put all clips of a source into one split"
            )


def _with_class(rows: list[dict[str, Any]], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """The rows that one class can be told of, as `class_id`."""
    classes = {id: audioset_class(id, vocabulary[id].name) for row in rows for id in row["labels"]}
    _warn([id for id, found in classes.items() if found is None], "class", "AudioSet has no such class")
    kept, several = [], []
    for row in rows:
        own = {id for label in row["labels"] if (id := classes[label])}
        specific = own.difference(*map(ancestors, own)) if own else own
        if len(specific) == 1:
            kept.append(row | {"class_id": specific.pop()})
        elif specific:
            several.append(row["clip_id"])
    _warn(several, "recording", "more than one thing sounds in {}")
    return kept


def _of_common_classes(rows: list[dict[str, Any]], splits: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the classes that every split has."""
    there = {split: {row["class_id"] for row in rows if row["split"] == split} for split in splits}
    common = set.intersection(*there.values())
    order = Vocabulary.audioset()
    rest = sorted(set().union(*there.values()) - common, key=order.index_of)
    _warn([order[id].name for id in rest], "class", f"not every split ({', '.join(splits)}) has a recording of {{}}")
    return [row for row in rows if row["class_id"] in common]


def _cut(rows: list[dict[str, Any]], report: Report) -> list[dict[str, Any]]:
    """The rows that sound, cut to their sounding part, with `loudest_s` and `crc32`."""
    for row in rows:
        row["path"] = row["path"] if "://" in row["path"] else os.path.abspath(row["path"])
    kept, silent = [], []
    with DecodePool(workers=min(8, cores()), attempts=2) as pool:
        for row, wave in zip(rows, _decode(pool, rows, report, "recordings decoded"), strict=True):
            if (part := sounding_part(wave)) is None:
                silent.append(row["clip_id"])
                continue
            first, last, loudest = part
            begin = row["start_s"] or 0.0
            span = {"start_s": begin + first / CUT_RATE, "end_s": begin + last / CUT_RATE}
            kept.append(row | span | {"loudest_s": (loudest - first) / CUT_RATE})
        _warn(silent, "recording", "silence is all there is in {}")
        # Decoded again as they will be read: where the rate is not 16 kHz, a part is not the same to the last bit.
        for row, wave in zip(kept, _decode(pool, kept, report, "events cut"), strict=True):
            row["crc32"] = zlib.crc32(wave.tobytes())
    return kept


def _decode(pool: DecodePool, rows: list[dict[str, Any]], report: Report, stage: str) -> Iterator[np.ndarray]:
    jobs = (Job(row["path"], CUT_RATE, row["start_s"], row["end_s"]) for row in rows)
    for done, (_, wave) in enumerate(pool.map(jobs), start=1):
        if isinstance(wave, AudioError):
            raise ClipsError(f"a recording cannot be read, {wave}; leave it out of the table or put the file back")
        report(stage, done, len(rows))
        yield wave


def _warn(left_out: list[str], what: str, why: str) -> None:
    """`what` in the singular; in `why`, {} stands for what is left out."""
    if left_out:
        one = len(left_out) == 1
        several = f"{what}{'es' if what.endswith('s') else 's'}"
        which = f"1 {what} is" if one else f"{len(left_out)} {several} are"
        named = ", ".join(left_out[:_NAMED]) + (", …" if len(left_out) > _NAMED else "")
        reason = why.format("it" if one else "them")
        warnings.warn(f"{which} left out, because {reason}: {named}", stacklevel=4)
