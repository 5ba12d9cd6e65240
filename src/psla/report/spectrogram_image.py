"""A small picture of a clip's log-mel, as a data address that a page can embed.

The front end is the one that models hear; time runs to the right, low frequencies are at the bottom. An indexed PNG of
8 bits a pixel, so that a page of two hundred clips stays at a few megabytes.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch

from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig
from psla.report.html import data_address

WIDTH, MEL_BINS = 250, 64  # pixels
RANGE = 9.0  # natural log of power below the loudest point that is drawn black: 39 dB


def spectrogram_png(waveform: np.ndarray, sample_rate: int) -> str:
    """The log-mel of a waveform, (samples,) int16 at `sample_rate`, as `data:image/png;base64,…`.

    At most 250 x 64 pixels; a clip too short for one frame gives a single column.

    Example:
        >>> spectrogram_png(np.zeros(16000, dtype=np.int16), sample_rate=16000)[:26]
        'data:image/png;base64,iVBO'
    """
    from matplotlib import colormaps
    from PIL import Image

    log_mel = _front_end(sample_rate).log_mel(torch.from_numpy(np.array(waveform))[None])[0]
    pixels = np.zeros((1, MEL_BINS), dtype=np.float32) if not len(log_mel) else log_mel.numpy()
    if len(pixels) > WIDTH:
        edges = np.linspace(0, len(pixels), WIDTH + 1).astype(int)
        pixels = np.maximum.reduceat(pixels, edges[:-1], axis=0)  # the loudest frame: short events stay visible
    scaled = np.clip((pixels.T[::-1] - pixels.max()) / RANGE + 1, 0, 1)  # (bins, frames), low at the bottom
    image = Image.fromarray(np.rint(scaled * 255).astype(np.uint8)).convert("P")
    image.putpalette(np.rint(colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes())
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data_address(data.getvalue())


@cache
def _front_end(sample_rate: int) -> FrontEnd:
    return FrontEnd(FrontEndConfig(mel_bins=MEL_BINS, sample_rate=sample_rate))
