"""Addresses: where the samples of a clip come from when no sound file holds them, such as `pack://...`.

A scheme is registered with the function that reads its addresses, `module:function`, which is imported when the first
such address is read: who decodes files alone imports neither packs nor the synthesis. A reader is called as
`read(address, rate, start_s, end_s)`, returns (samples,) int16 at `rate` Hz, and raises AudioError. A decoding worker
knows the schemes that were registered when its pool was opened.
"""

from __future__ import annotations

import os
from importlib import import_module

import numpy as np

from psla import remote
from psla.audio import decode
from psla.audio.decode import Source
from psla.audio.patience import patiently

PACK_PREFIX = "pack://"
SOUNDSCAPE_PREFIX = "soundscape://"
SIGNAL_PREFIX = "signal://"
SYNTHESISED = (SOUNDSCAPE_PREFIX, SIGNAL_PREFIX)
"""Schemes of which no file is read: what begins so is always there."""
READERS = {
    PACK_PREFIX: "psla.data.pack.format:read_address",
    SOUNDSCAPE_PREFIX: "psla.synth.scene:read_address",
    SIGNAL_PREFIX: "psla.synth.plain_signals:read_address",
    **{f"{scheme}://": "psla.data.pack.remote:read_address" for scheme in remote.SCHEMES},
}
"""Which function reads the addresses that begin so."""


def register(scheme: str, reader: str) -> None:
    """Have the addresses that begin with `scheme`, such as `tape://`, read by the function `module:function`.

    Raises:
        ValueError: a scheme that does not end in `://`, or a reader that is not named as `module:function`.

    Example:
        >>> register("silence://", "tape_deck:read_silence")
        >>> READERS.pop("silence://")
        'tape_deck:read_silence'
    """
    if not scheme.endswith("://") or len(reader.split(":")) != 2:
        raise ValueError(f"a scheme ends in '://' and its reader is 'module:function', not {scheme!r} and {reader!r}")
    READERS[scheme] = reader


def scheme_of(path: object) -> str:
    """The registered scheme that a path begins with; empty: it is no address.

    Example:
        >>> scheme_of("soundscape://7/3"), scheme_of("a.wav"), scheme_of(b"RIFF")
        ('soundscape://', '', '')
    """
    return next((scheme for scheme in READERS if isinstance(path, str) and path.startswith(scheme)), "")


def read(path: Source, rate: int, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """The samples of a sound file or at an address, or of their part from start_s to end_s, in seconds.

    Shape:
        (samples,) int16, mono at `rate` Hz.

    Raises:
        AudioError: it cannot be read, nor again; PassingError: its folder was there and is away (`patience`).

    Example:
        >>> read("soundscape://7/3?seconds=0.5", 16000, start_s=0.25).shape
        (4000,)
    """
    if not (scheme := scheme_of(path)):
        if not isinstance(path, str | os.PathLike):
            return decode.read(path, rate, start_s, end_s)
        return patiently(os.fsdecode(path), lambda: decode.read(path, rate, start_s, end_s))
    module, _, function = READERS[scheme].partition(":")
    return getattr(import_module(module), function)(path, rate, start_s, end_s)
