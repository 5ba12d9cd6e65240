"""What a picture shows, read from its pixels: a file's size says nothing of it."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def ink_of(picture: Path | bytes) -> np.ndarray:
    """(height, width) bool: the pixels that are not of the commonest colour. A broken or cut file is an error."""
    image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
    image.load()
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.int64), 2, 0)
    colours = red << 16 | green << 8 | blue
    values, counts = np.unique(colours, return_counts=True)
    return colours != values[counts.argmax()]


def check_drawn(picture: Path | bytes, width: int = 500, height: int = 150) -> None:
    """At least so large, with something drawn in each ninth but one or two, and neither empty nor full."""
    ink = ink_of(picture)
    assert ink.shape[1] >= width, ink.shape
    assert ink.shape[0] >= height, ink.shape
    assert 0.005 < ink.mean() < 0.9, ink.mean()
    ninths = [part.any() for band in np.array_split(ink, 3) for part in np.array_split(band, 3, axis=1)]
    assert sum(ninths) >= 7, ninths
