r"""Annotations: what sounds when, in the formats that people label sound with; written and read, one registry.

    raven          Raven's selection table           .txt        https://www.ravensoundsoftware.com
    audacity       Audacity's label track            .txt        https://manual.audacityteam.org/man/importing_and_exporting_labels.html
    textgrid       Praat's TextGrid, a tier a class  .TextGrid   https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
    webvtt         subtitles of a player             .vtt        https://www.w3.org/TR/webvtt1/
    jams           JAMS, namespace segment_open      .jams       https://jams.readthedocs.io
    tsv            DCASE, sed_eval, sed_scores_eval  .tsv        filename, onset, offset, event_label, probability
    label-studio   pre-annotations of tasks          .json       https://labelstud.io/guide/predictions

Reading what was written gives the same annotations, as far as the format can hold them. Names may hold anything: where
a format has no way of its own for tabs and line ends they are written as \t, \n, \r, and a backslash as \\. Where a
format has no place for a probability, it follows the name ("Dog 0.75"), as it always did in Audacity's tracks.

Here, and not beside what is tagged, because corpora read these files too.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from psla.registry import Registry


class AnnotationError(ValueError):
    """An annotation file that cannot be read; the sentence says what is wrong with it."""


@dataclass(frozen=True, order=True)
class Annotation:
    """Something that sounds: seconds from the beginning, the name of its class, a probability where one is known.

    Raises:
        AnnotationError: an onset below 0, or an offset before the onset.
    """

    onset_s: float
    offset_s: float
    label: str
    probability: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.onset_s <= self.offset_s < np.inf:
            raise AnnotationError(
                f"{self.label!r} from {self.onset_s} s to {self.offset_s} s: must begin at 0 s or later and not end "
                "before it begins"
            )


@dataclass(frozen=True)
class Annotated:
    """The annotations of one recording.

    Attributes:
        path: of the sound file; empty where the annotation file does not say.
        annotations: in any order.
        duration_s: of the recording, where it is known.
    """

    path: str
    annotations: Sequence[Annotation] = field(default_factory=list)
    duration_s: float | None = None


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: of its files. many: a file can hold several recordings.
        write: recordings (one, unless `many`) and what made them -> the text of the file.
        read: the text, and the column of the labels where one is asked for -> recordings.
        knows: whether a text is of this format.
    """

    suffix: str
    many: bool
    write: Callable[[Sequence[Annotated], str], str]
    read: Callable[[str, str | None], list[Annotated]]
    knows: Callable[[str], bool]


FORMATS: Registry[Format] = Registry("annotation format", "psla.data.formats")
"""The formats by name."""


def read_annotations(path: Path, label_column: str | None = None, format: str | None = None) -> list[Annotated]:
    """The recordings that a file annotates.

    Args:
        label_column: the column of the labels, of formats that have several; None: the one that is known.
        format: a name of `FORMATS`; None: known by what is in the file.

    Raises:
        AnnotationError: no text, of no known format, or damaged.
        OSError: the file cannot be read.
        ValueError: no format is called so.
    """
    text = _decoded(path)
    if format is None:
        format = next((name for name in FORMATS if FORMATS[name].knows(text)), None)
    if format is None:
        raise AnnotationError(f"{path} is none of the annotation files that are known: {', '.join(FORMATS)}")
    try:
        return FORMATS[format].read(text, label_column)
    except AnnotationError as error:
        raise AnnotationError(f"{path}, read as {format}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, RecursionError) as error:
        raise AnnotationError(f"{path}, read as {format}: something is missing in it ({error!r})") from error


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not {encoding} text ({error}); save it as UTF-8") from error


# What several formats need

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_PLAIN = {written[1]: plain for plain, written in _ESCAPES.items()} | {"s": " "}
_PROBABILITY = re.compile(r"(.*) ([01]\.\d\d)", re.DOTALL)


def escaped(text: str) -> str:
    r"""Text on one line, without tabs.

    Example:
        >>> print(escaped("a\tb\nc"))
        a\tb\nc
    """
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def unescaped(text: str) -> str:
    """What `escaped` was given; a backslash before another letter stays."""
    return re.sub(r"\\([\\tnrs])", lambda match: _PLAIN[match[1]], text)


def caption(annotation: Annotation) -> str:
    """Name and probability as one text, for formats that have one place for both.

    Example:
        >>> caption(Annotation(0, 1, "Dog", 0.75)), caption(Annotation(0, 1, "Dog"))
        ('Dog 0.75', 'Dog')
    """
    return annotation.label if annotation.probability is None else f"{annotation.label} {annotation.probability:.2f}"


def from_caption(onset_s: float, offset_s: float, text: str) -> Annotation:
    """The annotation of a caption; a number from 0.00 to 1.00 behind the name is its probability."""
    match = _PROBABILITY.fullmatch(text)
    if match is None or float(match[2]) > 1:
        return Annotation(onset_s, offset_s, text)
    return Annotation(onset_s, offset_s, match[1], float(match[2]))


def seconds(value: float) -> str:
    """Seconds with at least six decimals, and as many as it takes to be read as the same number.

    Example:
        >>> seconds(0.32), seconds(1e-7), seconds(0.1 + 0.2)
        ('0.320000', '0.0000001', '0.30000000000000004')
    """
    return np.format_float_positional(float(value), unique=True, min_digits=6)


def number(text: str, what: str) -> float:
    """A number of seconds; AnnotationError says what is none."""
    try:
        return float(text)
    except ValueError as error:
        raise AnnotationError(f"the {what} is {text!r}, and must be a number of seconds") from error
