"""Paths whose bytes are no text: a table of clips is UTF-8, and a file system need not be."""

from __future__ import annotations

import os

NOT_TEXT = "its path is not UTF-8 text, which a table of clips must hold: rename the file or its folder"


def is_text(path: str) -> bool:
    """Whether a path can be written as UTF-8.

    Example:
        >>> is_text("café.wav"), is_text(os.fsdecode(b"caf\\xe9.wav"))
        (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in path)


def printable(path: str) -> str:
    """A path as text that can be written: bytes that are not UTF-8 as `\\xff`.

    Example:
        >>> print(printable(os.fsdecode(b"caf\\xe9.wav")))
        caf\\xe9.wav
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
