"""Windows: a stream of samples cut into pieces of the front end's length, one every hop, none of it dropped.

Windows begin at 0, hop, 2 hop, ... until they cover the audio. The last one takes what is left (the front end pads it),
so no sample is dropped, and the rest of a window is never a window of its own. How the stream comes in blocks does not
matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[np.ndarray]:
    """Windows of a stream of samples, `hop` <= `window` apart, until they cover it; the last one may be shorter.

    Shape: blocks: any number of (samples,) arrays. Each window: (window,), the last (1 .. window,).

    Example:
        >>> [w.tolist() for w in cut_windows([np.arange(3), np.arange(3, 7)], window=4, hop=2)]
        [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6]]
        >>> [w.tolist() for w in cut_windows([np.arange(4)], window=4, hop=2)]
        [[0, 1, 2, 3]]
    """
    waiting: list[np.ndarray] = []
    held, first = 0, True  # held: samples from the next window's beginning on
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held < window:
            continue
        joined, begin = np.concatenate(waiting), 0
        while held - begin >= window:
            yield joined[begin : begin + window].copy()  # a view would keep the whole block alive
            begin, first = begin + hop, False
        waiting, held = [joined[begin:].copy()], held - begin
    # Of what is held, the window before has covered window - hop samples: only what is beyond them asks for another.
    if held and (first or held > window - hop):
        yield np.concatenate(waiting)
