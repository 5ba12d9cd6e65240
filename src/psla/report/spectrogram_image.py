"""A small picture of a clip's log-mel, as a data address that a page can embed.

Written as an indexed PNG of 8 bits a pixel, so that a page of two hundred clips stays at a few megabytes. The front end
is the one that models hear; time runs to the right, low frequencies are at the bottom.
"""

from __future__ import annotations

import base64
import struct
import zlib
from functools import cache

import numpy as np
import torch

from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig

WIDTH, MEL_BINS = 250, 64  # pixels
SAMPLE_RATE = FrontEndConfig().sample_rate  # Hz, of the waveforms that are drawn
RANGE = 9.0  # natural log of power below the loudest point that is drawn black: 39 dB


def spectrogram_png(waveform: np.ndarray) -> str:
    """The log-mel of a waveform, (samples,) int16 at SAMPLE_RATE, as `data:image/png;base64,…`.

    At most 250 x 64 pixels; a clip too short for one frame gives a single column.

    Example:
        >>> spectrogram_png(np.zeros(16000, dtype=np.int16))[:26]
        'data:image/png;base64,iVBO'
    """
    log_mel = _front_end().log_mel(torch.from_numpy(np.array(waveform))[None])[0]
    pixels = np.zeros((1, MEL_BINS), dtype=np.float32) if not len(log_mel) else log_mel.numpy()
    if len(pixels) > WIDTH:
        edges = np.linspace(0, len(pixels), WIDTH + 1).astype(int)
        pixels = np.maximum.reduceat(pixels, edges[:-1], axis=0)  # the loudest frame: short events stay visible
    scaled = np.clip((pixels.T[::-1] - pixels.max()) / RANGE + 1, 0, 1)  # (bins, frames), low at the bottom
    return "data:image/png;base64," + base64.b64encode(_png(np.rint(scaled * 255).astype(np.uint8))).decode()


@cache
def _front_end() -> FrontEnd:
    return FrontEnd(FrontEndConfig(mel_bins=MEL_BINS))


def _png(indices: np.ndarray) -> bytes:
    """(height, width) uint8 as a PNG with the palette `magma`."""
    from matplotlib import colormaps

    palette = np.rint(colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    height, width = indices.shape
    # Every line of pixels begins with its filter: 0, none.
    lines = np.concatenate([np.zeros((height, 1), np.uint8), indices], axis=1).tobytes()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
