"""Tagger: tag audio of any length with a model, in bounded memory.

    blocks of int16 -> windows of the front end's length, one every hop -> batches -> the network -> one result

Windows of one recording, or of several, go through the network together; what the network says of each is gathered by
its recording (`psla.tagging.recording`), so that no recording ever gets another's result. The one way into the network
is `psla.model.inference.tag_waveforms`, which prediction and validation use as well.

Not here: decoding in processes of its own and files by the thousand (`psla.tagging.batch`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from psla.audio.decode import AudioError, AudioStream, from_array
from psla.audio.given import Given, sound_of
from psla.audio.levels import LevelMeter, Levels
from psla.audio.pipes import Spool, is_pipe
from psla.audio.pool import decode_pool
from psla.audio.sound_file import name_of
from psla.audio.worker import checked_rate
from psla.model.calibration import Calibration
from psla.model.ensemble import EnsembleError
from psla.model.file import Model
from psla.model.inference import tag_waveforms
from psla.model.network import Precision, TaggingNetwork
from psla.tagging.batch import BATCH, FileResult, tag_files
from psla.tagging.recording import Combine, Hearer, Recording
from psla.tagging.result import Embedding, TagResult
from psla.tagging.sources import expand_sources
from psla.weights.catalogue import load_any
from psla.weights.choice import choose

# Of a window: probabilities of the clip and of the steps, features of the steps, familiarity.
_Said = tuple[np.ndarray, np.ndarray, np.ndarray | None, float | None]


class Tagger:
    """Tags files, bytes, file objects and arrays of any length.

    Args:
        model: what `load_any` gives; its network is put into evaluation mode.
        hop_s: seconds from one window's beginning to the next's, one sample to a whole window; None: a whole window.
            The window is what the model was trained on.
        window_s: seconds of a window, from the shortest that the model hears to its own; None: its own. Shorter ones
            are answered sooner and heard less well.
        combine: how several windows become one clip, `mean` or `max`; see `psla.tagging.recording`.
        precision: of the backbone: `float32`, or, for a faster copy of the network, `folded`, which moves a probability
            by about 1e-6, or `bf16`, which moves it by up to a few hundredths.
        calibrated: whether each window's probabilities go through the model's calibration, where it has one.

    Attributes:
        sample_rate: of the waveforms that the model hears, in Hz; audio of any rate is brought to it.
        window_s, hop_s, step_s: seconds of a window, from one window to the next, and of a step of the frames.
        calibration: the maps in force; false where there are none.
        thresholds: by class id, the model's own; without calibration, of classes that have none.

    Raises:
        ValueError: a hop or a window out of range, or an unknown rule.
        FoldingError: `folded` or `bf16`, and a backbone that has no form for it.

    Example:
        >>> tagger = load("runs/esc50/model.safetensors")  # doctest: +SKIP
        >>> tagger.tag("street.flac").top(1)                      # doctest: +SKIP
        [(SoundClass(index=42, id='siren', name='siren'), 0.93)]
    """

    def __init__(
        self,
        model: Model,
        hop_s: float | None = None,
        combine: Combine = "mean",
        precision: Precision = "float32",
        calibrated: bool = True,
        window_s: float | None = None,
    ) -> None:
        if combine not in ("mean", "max"):
            raise ValueError(f"combine must be mean or max, not {combine!r}")
        network = model.network
        rate = self.sample_rate = network.sample_rate
        self.window_samples, self.step_samples = network.window_samples, network.step_samples
        if window_s is not None:
            least, most = network.shortest_samples, network.window_samples
            if not least - 0.5 < window_s * rate < most + 0.5:
                raise ValueError(
                    f"window_s must be {least / rate:g} to {most / rate:g} s for this model, not {window_s}"
                )
            self.window_samples = round(window_s * rate)
        self.window_s, self.step_s = self.window_samples / rate, self.step_samples / rate
        if hop_s is not None and not 1 / rate <= hop_s <= self.window_s:
            raise ValueError(
                f"hop_s must be {1 / rate:g} s, a sample, to the window of {self.window_s:g} s, not {hop_s}"
            )
        self.model, self.combine = model, combine
        self.calibration = Calibration(model.card.calibration if calibrated else {}, model.vocabulary)
        self.thresholds = model.card.thresholds if calibrated else model.card.raw_thresholds
        self.hop_samples = self.window_samples if hop_s is None else round(hop_s * rate)
        self.hop_s = self.hop_samples / rate
        self.shortest_samples = network.shortest_samples
        network.eval()
        self._silence: dict[bool, _Said] = {}  # what is said of a whole window of zeros, with and without features
        self._network = network if precision == "float32" else network.for_inference(precision)

    def tag(self, source: Given, sample_rate: float | None = None) -> TagResult:
        """Tag one recording.

        Args:
            source: a path (`-`: standard input), the bytes of a file, a binary file object, or an array (samples,) or
                (samples, channels), float in [-1, 1], int16 or int32; also a tensor, a list, an (array, rate) pair, or
                Hugging Face's dict, see `psla.audio.given`.
            sample_rate: of the array, in Hz, 1000 or more; a file says its own.

        Raises:
            AudioError: the audio cannot be read; the error says which and why.
            ValueError: an array without a sample rate, or a sample rate for what is not an array.
        """
        return self._tag(source, sample_rate, embed=False)

    def embed(self, source: Given, sample_rate: float | None = None) -> Embedding:
        """The backbone's features of one recording, for the clip and for each step; arguments and errors as `tag`.

        Example:
            >>> tagger.embed("street.flac").clip.shape  # doctest: +SKIP
            (1408,)

        Raises:
            EnsembleError: the model is an ensemble, whose members have features of their own.
        """
        embedding = self._tag(source, sample_rate, embed=True).embedding
        assert embedding is not None
        return embedding

    def tag_files(self, *sources: str, workers: int = 2) -> Iterator[FileResult]:
        """Tag many files, one result or reason for each, in order; see `psla.tagging.batch`.

        Args:
            sources: paths, folders and patterns, as `psla.tagging.sources.expand_sources` takes them.
            workers: processes that decode.

        Raises:
            SourcesError: a folder without sound files, or a pattern that nothing matches.

        Example:
            >>> for file in tagger.tag_files("recordings/", "more/*.flac"):  # doctest: +SKIP
            ...     print(file.path, file.reason or file.result.top(1))
        """
        paths = expand_sources(sources)
        with decode_pool(min(workers, len(paths))) as pool:
            yield from tag_files(self, paths, pool)

    def _tag(self, given: Given, sample_rate: float | None, embed: bool) -> TagResult:
        source, sample_rate = sound_of(given, sample_rate)
        if isinstance(source, np.ndarray):
            if sample_rate is None:
                raise ValueError("an array does not say how fast it was sampled: give its sample_rate in Hz")
            rate, meter = checked_rate(sample_rate, "<array>"), LevelMeter()
            blocks = [from_array(source, rate, self.sample_rate, meter)]
            return self._gathered(blocks, self.recording(rate), embed, lambda: meter.levels)
        if sample_rate is not None:
            raise ValueError("sample_rate is for arrays only: a file says its own")
        with Spool() as spool:
            file = spool.file_of(source) if isinstance(source, str | os.PathLike) and is_pipe(source) else source
            try:
                with AudioStream(file, self.sample_rate, metered=True) as stream, closing(_ahead(stream)) as decoded:
                    recording = self.recording(checked_rate(stream.source_rate, stream.name))
                    recording.unfinished = stream.unfinished
                    return self._gathered(decoded, recording, embed, lambda: stream.levels)
            except AudioError as error:
                raise (AudioError(name_of(source), error.reason) if file is not source else error) from error

    def _gathered(
        self, blocks: Iterable[np.ndarray], recording: Recording, embed: bool, levels: Callable[[], Levels] | None
    ) -> TagResult:
        windows = self.windows(blocks)
        while batch := [(recording, window) for window in islice(windows, BATCH)]:
            self.run(batch, embed)
        recording.levels = None if levels is None else levels()
        return recording.result()

    def tag_blocks(
        self, blocks: Iterable[np.ndarray], source_rate: float | None = None, embed: bool = False
    ) -> TagResult:
        """Tag a stream of mono int16 blocks at `sample_rate`, at least one sample in all, however it is cut.

        Args:
            source_rate: the sample rate before it was brought to this one, in Hz, where known.
            embed: fill in `TagResult.embedding`.
        """
        return self._gathered(blocks, self.recording(source_rate), embed, None)

    def recording(self, source_rate: float | None = None) -> Recording:
        """An empty recording, for `run`."""
        return Recording(
            self.model.vocabulary,
            step=self.step_samples,
            window=self.window_samples,
            shortest=self.shortest_samples,
            hop=self.hop_samples,
            sample_rate=self.sample_rate,
            combine=self.combine,
            own=self.own_classes,
            source_rate=source_rate,
        )

    @property
    def own_classes(self) -> int:
        """How many classes, the first ones, the familiarity speaks of: all, but where others were kept beside them."""
        fitted = self._network.config.fitted if isinstance(self._network, TaggingNetwork) else 0
        return fitted or len(self.model.vocabulary)

    def windows(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The windows of a stream of mono int16 blocks at `sample_rate`."""
        return cut_windows(blocks, self.window_samples, self.hop_samples)

    def run(self, batch: Sequence[tuple[Hearer, np.ndarray]], embed: bool = False) -> None:
        """Tag a batch of windows, each given with its recording, which must get its windows in their order.

        What is said of a silent whole window is the same each time: the network hears one.
        """
        silent = [embed if len(window) == self.window_samples and not window.any() else None for _, window in batch]
        first = None if embed in self._silence or embed not in silent else silent.index(embed)
        new = [row for row, each in enumerate(silent) if each is None or row == first]
        said = dict(zip(new, self._said([batch[row][1] for row in new], embed), strict=True)) if new else {}
        if first is not None:
            self._silence[embed] = said[first]
        for row, (recording, window) in enumerate(batch):
            recording.add(window, *(said[row] if silent[row] is None else self._silence[embed]))

    def _said(self, windows: Sequence[np.ndarray], embed: bool) -> list[_Said]:
        weights = next(self._network.parameters(), None)
        device = "cpu" if weights is None else weights.device  # an exported model has none that torch sees
        tagging = tag_waveforms(self._network, windows, self.sample_rate, device)
        if embed and tagging.frame_features is None:
            raise EnsembleError("an ensemble has no features of its own: ask one of its members")
        both = (tagging.clip_probabilities, tagging.frame_probabilities)
        clips, frames = (self.calibration(each.cpu().numpy()) for each in both)
        features = tagging.frame_features.cpu().numpy() if embed and tagging.frame_features is not None else None
        familiarity = [None] * len(windows) if tagging.familiarity is None else tagging.familiarity.tolist()
        said: list[_Said] = []
        for row in range(len(windows)):
            own = ~np.isnan(frames[row]).all(axis=1)  # a shorter waveform has fewer steps than its batch
            embedded = None if features is None else features[row][own]
            said.append((clips[row], frames[row][own], embedded, familiarity[row]))
        return said


def _ahead(blocks: Iterator[np.ndarray]) -> Generator[np.ndarray, None, None]:
    """The same blocks, in a thread of their own decoded so far ahead that a batch of windows does not wait."""
    thread = ThreadPoolExecutor(1, "decode-ahead")
    try:
        coming = deque(thread.submit(next, blocks, None) for _ in range(BATCH))
        while (block := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, blocks, None))
            yield block
    finally:
        thread.shutdown(cancel_futures=True)  # nobody reads when the file is closed


def load(
    model: str | Path | None = None,
    hop_s: float | None = None,
    combine: Combine = "mean",
    precision: Precision = "float32",
    calibrated: bool = True,
    window_s: float | None = None,
) -> Tagger:
    """The tagger of a model: a model file, an ensemble's file, an exported model (.onnx), or a model by name.

    Args:
        model: a path, or a name that `psla models` lists: `audioset-small` and `esc10-lite0` come with the package, a
            published model is fetched at first use. None: that of `$PSLA_MODEL`, else of the user's configuration,
            else `audioset-small` (`psla.weights.choice`).
        hop_s, combine, precision, calibrated, window_s: as `Tagger` takes them.

    Raises:
        ModelFileError, EnsembleError, PublishedError, DownloadError: as `psla.weights.catalogue.load_any`.
        ChoiceError: no model is given, and what the environment or the configuration names is none.
        ValueError: as `Tagger`.

    Example:
        >>> len(load("esc10-lite0").model.vocabulary)
        10
    """
    return Tagger(load_any(choose(model).model), hop_s, combine, precision, calibrated, window_s)


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[np.ndarray]:
    """Windows of a stream of samples, `hop` <= `window` apart, until they cover it; the last one may be shorter.

    Windows begin at 0, hop, 2 hop, ... The last one takes what is left (the front end pads it), so no sample is
    dropped, and the rest of a window is never a window of its own. How the stream comes in blocks does not matter.

    Shape: blocks: any number of (samples,) arrays. Each window: (window,), the last (1 .. window,).

    Example:
        >>> [w.tolist() for w in cut_windows([np.arange(3), np.arange(3, 7)], window=4, hop=2)]
        [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6]]
        >>> [w.tolist() for w in cut_windows([np.arange(4)], window=4, hop=2)]
        [[0, 1, 2, 3]]
    """
    cutter = Cutter(window, hop)
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.close()


class Cutter:
    """`cut_windows` for who is given the blocks: each window as soon as its last sample is there."""

    def __init__(self, window: int, hop: int) -> None:
        self._window, self._hop = window, hop
        self._waiting: list[np.ndarray] = []
        self._held, self._first = 0, True  # held: samples from the next window's beginning on

    def push(self, block: np.ndarray) -> Iterator[np.ndarray]:
        """The windows that are whole with this block; all of them must be taken."""
        self._waiting.append(block)
        self._held += len(block)
        if self._held < self._window:
            return
        joined, begin = np.concatenate(self._waiting), 0
        while self._held - begin >= self._window:
            yield joined[begin : begin + self._window].copy()  # a view would keep the whole block alive
            begin, self._first = begin + self._hop, False
        self._waiting, self._held = [joined[begin:].copy()], self._held - begin

    def close(self) -> Iterator[np.ndarray]:
        """The last window, if any sample asks for one."""
        # Of what is held, the window before has covered window - hop samples: only what is beyond them asks for one.
        if self._held and (self._first or self._held > self._window - self._hop):
            yield np.concatenate(self._waiting)
