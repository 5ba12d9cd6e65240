"""Views: what pictures of recordings show, gathered while they are tagged and when they are decoded again.

    tagged     ──► of each file the classes of its row, their steps, its events      (some 100 KB a file)
    then again ──► blocks ──► the model's own front end ──► at most 2000 columns ──► View, one after the other
                         └──► the first minutes as a sound file, where they are asked for

No waveform is ever held, so an hour takes no more memory than a minute. Moments that were dropped
(`psla.tagging.privacy`) are silence here, to the eye and to the ear.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from psla.audio.decode import AudioError
from psla.audio.pool import DecodePool, decode_pool
from psla.files import visible
from psla.model.ensemble import Ensemble
from psla.report.view import View
from psla.tagging.batch import FileResult
from psla.tagging.events import EventRule, find_events
from psla.tagging.output import RowSettings, looked_at, row_of
from psla.tagging.recording import FLAG_WORDS
from psla.tagging.result import TagResult
from psla.tagging.tagger import Tagger, cut_windows

COLUMNS = 2000  # of a log-mel, at most
STEPS = 1000  # of a curve, at most
CLASSES = 12  # whose curves are shown, at most
_PLAIN = 1 << 21  # samples: a longer sound is compressed


@dataclass(frozen=True, eq=False)
class _Tagged:
    """What is kept of a file until it is decoded again. `kept`: the steps that were not dropped; None: all."""

    path: str
    result: TagResult
    row: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    kept: np.ndarray | None


class Views:
    """Gathers what is told of files, and makes a view of each.

    Args:
        tagger: what tags them. settings: what goes into their rows. rule: how events are found.
    """

    def __init__(self, tagger: Tagger, settings: RowSettings, rule: EventRule | None = None) -> None:
        self.tagger, self.settings, self.rule = tagger, settings, rule or EventRule()
        self._tagged: list[_Tagged] = []

    def add(self, file: FileResult, row: Mapping[str, Any]) -> None:
        """The next file with its row, which names the classes; one that failed is passed over."""
        if file.result is None:
            return
        result = looked_at(file.result, self.settings)
        found = [
            event.to_dict() for event in find_events(result, self.rule.part(result.vocabulary), self.tagger.thresholds)
        ]
        kept = file.result.times if file.result.dropped_s else None
        part = _reduced(result.part([each["id"] for each in row["classes"][:CLASSES]]))
        self._tagged.append(_Tagged(file.path, part, row, found, kept))

    def made(self, pool: DecodePool, sound_s: float = 0.0) -> Generator[tuple[str, View | AudioError], None, None]:
        """Path and view of each file, or why it could not be read again; together with so many seconds of sound."""
        for each in self._tagged:
            try:
                view = self._view(each, pool, sound_s)
            except AudioError as error:
                yield each.path, error
                continue
            sound_s -= view.sound_s
            yield each.path, view

    def _view(self, tagged: _Tagged, pool: DecodePool, sound_s: float) -> View:
        rate, result = self.tagger.sample_rate, tagged.result
        samples = round(result.duration_s * rate)
        with closing(pool.stream(tagged.path, rate)) as stream:
            blocks: Iterable[np.ndarray] = (each for each in stream if isinstance(each, np.ndarray))
            if tagged.kept is not None:
                blocks = _silenced(blocks, tagged.kept, rate)
            sound = _Sound(rate, min(samples, int(sound_s * rate)))
            image, hz = self.log_mel(sound.passed(blocks), samples)
        dropped = [f"{result.dropped_s:.2f} s with speech are silent here"] if result.dropped_s else []
        windows = [f"{result.windows} windows"] if result.windows > 1 else []
        return View(
            name=visible(tagged.path),
            facts=[f"{result.duration_s:.2f} s", *windows, *dropped, *(FLAG_WORDS[flag] for flag in result.flags)],
            duration_s=result.duration_s,
            log_mel=image,
            hz=hz,
            classes=[(each["name"], each["probability"]) for each in tagged.row["classes"][:CLASSES]],
            times=result.times,
            curves=result.frames,
            events=tagged.events,
            sound=sound.bytes(),
            sound_s=sound.written / rate,
            media=sound.media,
        )

    def log_mel(self, blocks: Iterable[np.ndarray], samples: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(bins, columns) of the loudest frames, and the frequencies of the bins where they are known."""
        network: Any = self.tagger.model.network
        if isinstance(network, Ensemble):  # one member hears at the ensemble's own rate
            network = next(each for each in network.networks if each.sample_rate == network.sample_rate)
        front_end, config = network.front_end, network.config.front_end
        hop, window = config.hop_samples, config.window_samples
        columns = max(1, min(COLUMNS, samples // hop))
        image = np.full((columns, config.mel_bins), -np.inf, np.float32)
        apart, begin = min(window, config.frames * hop), 0
        for wave in cut_windows(blocks, window, apart):
            frames = front_end.log_mel(torch.from_numpy(np.array(wave))[None])[0].numpy()
            middles = begin + hop * np.arange(len(frames)) + hop // 2
            places, firsts = np.unique(np.minimum(middles * columns // samples, columns - 1), return_index=True)
            if len(places):
                image[places] = np.maximum(image[places], np.maximum.reduceat(frames, firsts))
            begin += apart
        filled = np.flatnonzero(np.isfinite(image).all(axis=1))
        if not len(filled):  # too short for a frame
            image[:] = 0
        elif len(filled) < columns:
            image = image[filled[np.abs(np.arange(columns)[:, None] - filled).argmin(axis=1)]]
        hz = config.bin_hz()
        return image.T, None if hz is None else hz.numpy()


def look(tagger: Tagger, path: str | Path, settings: RowSettings | None = None, sound_s: float = 0.0) -> View:
    """The view of one file, with so many seconds of its sound.

    Raises:
        AudioError: it cannot be read.

    Example:
        >>> from psla.report.view import draw
        >>> draw(look(tagger, "street.flac"), "street.png")  # doctest: +SKIP
    """
    settings = settings or RowSettings(unfamiliar=True)
    file = FileResult(str(path), tagger.tag(path))
    views = Views(tagger, settings, settings.events)
    views.add(file, row_of(file, settings, tagger.thresholds))
    with decode_pool(1) as pool:
        [(_, view)] = views.made(pool, sound_s)
    if isinstance(view, AudioError):
        raise view
    return view


class _Sound:
    """Writes the first samples of what passes to a sound file in memory."""

    def __init__(self, rate: int, samples: int) -> None:
        self.rate, self.left, self.written = rate, max(0, samples), 0
        kind, self.media = ("WAV", "audio/wav") if samples <= _PLAIN else ("OGG", "audio/ogg")
        self._file = io.BytesIO()
        self._format = {"format": kind, "subtype": "PCM_16" if kind == "WAV" else "VORBIS"}

    def passed(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        if not self.left:
            yield from blocks
            return
        with soundfile.SoundFile(self._file, "w", self.rate, 1, **self._format) as file:
            for block in blocks:
                part = block[: self.left]
                for first in range(0, len(part), self.rate):  # the Vorbis encoder takes no block of any length
                    file.write(part[first : first + self.rate])
                self.left, self.written = self.left - len(part), self.written + len(part)
                yield block

    def bytes(self) -> bytes:
        return self._file.getvalue()


def _silenced(blocks: Iterable[np.ndarray], kept: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """The blocks with silence wherever no step was kept."""
    begin = 0
    for block in blocks:
        seconds = (begin + np.arange(len(block))) / rate
        step = np.searchsorted(kept[:, 0], seconds, side="right") - 1
        inside = np.zeros(len(block), bool) if not len(kept) else (step >= 0) & (seconds < kept[step, 1])
        yield np.where(inside, block, np.int16(0))
        begin += len(block)


def _reduced(result: TagResult) -> TagResult:
    """The result with at most so many steps, each of the highest probabilities of those it stands for."""
    result = replace(result, embedding=None, unfamiliar=None)
    together = -(-len(result.times) // STEPS)
    if together <= 1:
        return result
    firsts = np.arange(0, len(result.times), together)
    ends = np.append(firsts[1:], len(result.times)) - 1
    times = np.stack([result.times[firsts, 0], result.times[ends, 1]], axis=1)
    return replace(result, frames=np.maximum.reduceat(result.frames, firsts), times=times)
