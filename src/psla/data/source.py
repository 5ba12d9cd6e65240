"""Where waveforms come from: a ClipSource hands out the int16 waveform of the i-th clip, whatever stores it.

Sound files and what lies at an address (`psla.audio.addresses`) are read here, with a cache over either; packs by
`psla.data.pack.reading`. A table may mix them all: `open_source` reads each row as its path says. All sources give mono
int16, each at the rate that it was opened with.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from psla.audio import addresses
from psla.audio.addresses import PACK_PREFIX
from psla.audio.decode import AudioError
from psla.data.clips import Clips
from psla.data.pack.reading import PackSource as PackSource
from psla.files import not_a_file


class ClipSource(Protocol):
    """What hands out waveforms: `read(index)` gives clip `clip_ids[index]`, index from 0 to len(source) - 1."""

    @property
    def clip_ids(self) -> list[str]:
        """The clip ids, in the order of the indices."""
        ...

    @property
    def sample_rate(self) -> int:
        """Of every waveform, in Hz."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """The waveform of one clip.

        Shape: (samples,) int16, mono, at `sample_rate`.

        Raises:
            AudioError: the clip cannot be read; the error says which file and why.
            IndexError: no such index.
        """
        ...


class ArraySource:
    """Waveforms that are in memory already.

    Raises:
        ValueError: another number of arrays than clip ids, or an array that is not (samples,) int16.

    Example:
        >>> source = ArraySource(["a"], [np.zeros(16000, dtype=np.int16)], sample_rate=16000)
        >>> len(source), source.clip_ids, source.read(0).shape
        (1, ['a'], (16000,))
    """

    def __init__(self, clip_ids: Sequence[str], arrays: Sequence[np.ndarray], sample_rate: int) -> None:
        if len(clip_ids) != len(arrays):
            raise ValueError(f"array source: {len(clip_ids)} clip ids but {len(arrays)} arrays")
        for id, array in zip(clip_ids, arrays, strict=True):
            if array.ndim != 1 or array.dtype != np.int16:
                raise ValueError(f"array source: clip {id!r} is {array.dtype} {array.shape}, must be int16 (samples,)")
        self.clip_ids, self.sample_rate = list(clip_ids), sample_rate
        self._arrays = list(arrays)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, index: int) -> np.ndarray:
        """See `ClipSource.read`."""
        return self._arrays[_checked(index, len(self))]


class TableSource:
    """The clips of a table, each read as its path says: a sound file or an address, or a span of it in seconds."""

    def __init__(self, clips: Clips, rate: int) -> None:
        self.clip_ids, self.sample_rate = clips.clip_ids, rate
        columns = clips.frame.select("path", "start_s", "end_s").get_columns()
        self._paths, self._starts, self._ends = (column.to_list() for column in columns)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, index: int) -> np.ndarray:
        """See `ClipSource.read`; a malformed address is an AudioError, too."""
        index = _checked(index, len(self))
        path = self._paths[index]
        if not addresses.scheme_of(path) and (kind := not_a_file(path)) is not None:
            raise AudioError(path, f"{kind}: nobody knows where it ends")  # opening it would wait for a writer
        return addresses.read(path, self.sample_rate, self._starts[index], self._ends[index])


class CachedSource:
    """A source whose waveforms stay in memory as long as they fit: the first ones read are kept, the rest read anew.

    Every clip is needed once an epoch, so throwing out the oldest would throw out each clip just before it is needed.
    Threads may share it. Waveforms come back read-only, so that no reader changes what the next one gets.

    Args:
        source: what to read from.
        limit_bytes: bytes of waveforms to keep, 0 or more.

    Example:
        >>> cached = CachedSource(ArraySource(["a"], [np.zeros(8, dtype=np.int16)], 16000), limit_bytes=16)
        >>> cached.read(0) is cached.read(0), cached.used_bytes
        (True, 16)
    """

    def __init__(self, source: ClipSource, limit_bytes: int = 2**30) -> None:
        if limit_bytes < 0:
            raise ValueError(f"cache: limit_bytes is {limit_bytes}, must be 0 or more")
        self.source = source
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    @property
    def clip_ids(self) -> list[str]:
        """The clip ids, in the order of the indices."""
        return self.source.clip_ids

    @property
    def sample_rate(self) -> int:
        """Of every waveform, in Hz."""
        return self.source.sample_rate

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> np.ndarray:
        """See `ClipSource.read`."""
        with self._lock:
            kept = self._kept.get(index)
        if kept is not None:
            return kept
        # Read outside the lock: two threads may read the same clip at once, but none waits for another's file.
        waveform = np.array(self.source.read(index))  # its own copy: a view would keep a larger array alive
        waveform.flags.writeable = False
        with self._lock:
            if index not in self._kept and self.used_bytes + waveform.nbytes <= self.limit_bytes:
                self._kept[index] = waveform
                self.used_bytes += waveform.nbytes
            return self._kept.get(index, waveform)

    def __getstate__(self) -> dict[str, object]:
        # A worker process starts with an empty cache: locks cannot be sent, and waveforms should not.
        return {"source": self.source, "limit_bytes": self.limit_bytes}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["source"], state["limit_bytes"])  # type: ignore[misc]


class JoinedSource:
    """Several sources as one: clip i of the table is clip `place[i]` of the source `part[i]`.

    Raises:
        ValueError: sources of different sample rates.

    Example:
        >>> one, two = (ArraySource([id], [np.full(4, n, dtype=np.int16)], 16000) for n, id in enumerate("ab"))
        >>> joined = JoinedSource([one, two], part=np.array([1, 0]), place=np.array([0, 0]))
        >>> joined.clip_ids, joined.read(0).tolist()
        (['b', 'a'], [1, 1, 1, 1])
    """

    def __init__(self, sources: Sequence[ClipSource], part: np.ndarray, place: np.ndarray) -> None:
        rates = {source.sample_rate for source in sources}
        if len(rates) != 1:
            raise ValueError(f"sources of {' and '.join(map(str, sorted(rates)))} Hz cannot be read as one")
        (self.sample_rate,) = rates
        self._sources, self._part, self._place = list(sources), part, place
        self.clip_ids = [sources[p].clip_ids[i] for p, i in zip(part.tolist(), place.tolist(), strict=True)]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, index: int) -> np.ndarray:
        """See `ClipSource.read`."""
        index = _checked(index, len(self))
        return self._sources[self._part[index]].read(int(self._place[index]))


def open_source(clips: Clips, rate: int, cache_bytes: int = 0) -> ClipSource:
    """The source of a table's waveforms: files, soundscapes and clips in packs, mixed as they come.

    Args:
        clips: the table.
        rate: sample rate of the waveforms, in Hz: what the front end hears.
        cache_bytes: of decoded waveforms that are kept in memory. A table that is all in packs needs no cache, and
            gets none.

    Raises:
        PackError: a shard of a pack is missing or too short, or a pack holds another rate.
        ClipsError: a clip in a pack, of which it is not known where that lies.
    """
    packed = clips.frame["path"].str.starts_with(PACK_PREFIX)
    if len(clips) and packed.all():
        return PackSource(clips, rate)
    source: ClipSource
    if not packed.any():
        source = TableSource(clips, rate)
    else:
        in_pack = packed.to_numpy()
        place = np.where(in_pack, np.cumsum(in_pack), np.cumsum(~in_pack)) - 1
        parts = (TableSource(clips.filter(~packed), rate), PackSource(clips.filter(packed), rate))
        source = JoinedSource(parts, in_pack.astype(np.int64), place)
    return CachedSource(source, cache_bytes) if cache_bytes else source


def _checked(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise IndexError(f"clip {index} of a source with clips 0 .. {length - 1}")
    return index
