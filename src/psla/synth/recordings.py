"""Recorded events: soundscapes whose events are cut from the recordings of another corpus.

The table of recordings is an ordinary table of clips (`psla stats`, `psla pack` and `Clips.read` take it), made by
`corpus.cut_events`: a row is the sounding part of one recording, with one label; its vocabulary has the classes of the
events, the most frequent first. Two columns are its own: `loudest_s`, the moment at which a row is loudest, in seconds
from its start; `crc32` of its int16 samples, decoded at `CUT_RATE`. Its file name ends in a hash of its rows, so that
the address of a soundscape, which names the file, never comes to mean another clip; that the sound files are still the
same is checked as they are decoded. `psla pack` of the soundscapes makes them independent of both.

Not covered: recordings altered in pitch, speed or colour; sounds that the recordings hold besides their label.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from psla.audio import addresses
from psla.audio.decode import AudioError
from psla.data.clips import Clips, ClipsError
from psla.synth.signals import GRID, Generator
from psla.synth.sound_events import Take

CUT_RATE = round(GRID)
"""The rate in Hz at which recordings are decoded to be cut and summed, whatever the rate at which they are heard."""

SHORT_S = 2.0
"""A sounding part up to this long is one event and taken whole; of a longer one, an excerpt of this length or more."""

_COLUMNS = ("loudest_s", "crc32")
_INSIDE_S = 0.064  # of the loudest moment that an excerpt holds at least: the window in which its level is measured
_EDGE_S, _CUT_S = 0.005, 0.05  # the fades: of an event taken whole, and of an excerpt
_KEPT = 128  # recordings that a process keeps decoded; 10 s of each at most: 40 MB at 16 kHz


class RecordedEvents:
    """The recordings of one split as an `EventSource` (`psla.synth.sound_events`).

    Args:
        table: a table of recordings, of one split.
        name: what errors call it.

    Attributes:
        class_ids: the classes, the most frequent first: the table's vocabulary.

    Raises:
        AudioError: the table lacks a column, or has no recording of a class.
    """

    def __init__(self, table: Clips, name: str) -> None:
        if lacking := [column for column in _COLUMNS if column not in table.frame.columns]:
            raise AudioError(name, f"is no table of recorded events: it has no column {' and '.join(lacking)}")
        self.class_ids = tuple(table.vocabulary.ids)
        self._rows = table.frame.select("path", "start_s", "end_s", "crc32", "loudest_s", "source").rows()
        labels = [ids[0] for ids in table.frame["labels"].to_list()]
        self._of_class = {id: [row for row, label in enumerate(labels) if label == id] for id in self.class_ids}
        if empty := [table.vocabulary[id].name for id, rows in self._of_class.items() if not rows]:
            raise AudioError(name, f"has no recording of {', '.join(empty)} for this split; make the corpus again")

    def draw(self, rng: Generator, class_id: str, longest: float) -> Take:
        """A recording of the class, and an excerpt that fits into `longest` seconds and holds its loudest moment."""
        row = self._of_class[class_id][rng.integers(len(self._of_class[class_id]))]
        _, start_s, end_s, _, loudest, source = self._rows[row]
        length = end_s - start_s
        seconds = rng.uniform(min(length, longest, SHORT_S), min(length, longest))
        last = min(max(loudest - _INSIDE_S / 2, 0.0), length - seconds)
        first = min(max(loudest + _INSIDE_S / 2 - seconds, 0.0), last)
        return Take(seconds, seconds, length > SHORT_S, row, rng.uniform(first, last), source)

    def render(self, rng: Generator, class_id: str, take: Take, seconds: float, rate: int) -> np.ndarray:
        """See `EventSource.render`; faded in and out over 5 ms, or 50 ms if it may be an excerpt."""
        path, start_s, end_s, crc32, _, _ = self._rows[take.row]
        n, first = round(seconds * rate), round(take.begin_s * rate)
        part = _decoded(path, start_s, end_s, crc32, rate)[first : first + n]
        wave = np.zeros(n, dtype=np.float32)
        wave[: len(part)] = part
        fade = min(round((_CUT_S if take.background else _EDGE_S) * rate), len(part) // 2)
        slope = np.linspace(0, 1, fade, dtype=np.float32)
        wave[:fade] *= slope
        wave[len(part) - fade : len(part)] *= slope[::-1]
        return wave / max(float(wave.max()), -float(wave.min()), 1.0)


@lru_cache(maxsize=8)
def open_events(path: str, split: str) -> RecordedEvents:
    """The recordings of one split of the table at `path`.

    Raises:
        AudioError: the table is not there, is no table of recordings, or has none of the split.
    """
    try:
        table = Clips.read(path)
    except FileNotFoundError as error:
        raise AudioError(
            path, "the table of recorded events is not there; put it back, or make the corpus again"
        ) from error
    except (OSError, ClipsError) as error:
        raise AudioError(path, f"cannot be read as a table of recorded events: {error}") from error
    if split not in table.counts():
        raise AudioError(path, f"has no recordings of the split {split}; it has {', '.join(table.counts())}")
    return RecordedEvents(table.split(split), path)


def write_events(table: Clips, beside: str | os.PathLike[str]) -> Path:
    """Write a table of recordings next to the file `beside`, under its name and a hash: NAME.events-HASH.parquet.

    The same recordings get the same name; a file that is there already is written again.
    """
    rows = json.dumps([table.vocabulary.ids, *table.frame.rows()], default=str, ensure_ascii=False)
    digest = hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    path = Path(os.path.abspath(beside))
    path = path.with_name(f"{path.stem}.events-{digest}.parquet")
    table.write(path)
    return path


@lru_cache(maxsize=_KEPT)
def _decoded(path: str, start_s: float, end_s: float, crc32: int, rate: int) -> np.ndarray:
    """(samples,) int16 of a row at a rate; at another than `CUT_RATE` it is decoded twice, once to be checked.

    Raises:
        AudioError: it cannot be read, or is not what it was.
    """
    samples = np.array(addresses.read(path, CUT_RATE, start_s, end_s))
    if zlib.crc32(samples.tobytes()) != crc32:
        raise AudioError(path, "is not the recording that it was when the events were cut; make the corpus again")
    if rate != CUT_RATE:
        samples = np.array(addresses.read(path, rate, start_s, end_s))
    samples.flags.writeable = False
    return samples
