"""A recording to be looked at: its log-mel, below it its classes over time, below them its events; a file or a player.

`draw` makes a picture of 1200 pixels in width; `player` makes the part of a page (`psla.report.page`) that shows the
same, sharp at any width, and plays the sound where it is given.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from psla.report import drawing
from psla.report.drawing import BLUE, FONT, GREEN

LISTED = 500  # events that a page lists
LANES = 12  # classes whose events are drawn
RANGE = 16.0  # of the log-mel that is shown, below its highest value, in natural logarithms: 69 dB


@dataclass(frozen=True, eq=False)
class View:
    """What a picture of a recording shows.

    Args:
        name: the title. facts: sentences below it.
        duration_s: length of the recording, above 0.
        log_mel: (bins, columns) float32, natural logarithms, low frequencies first; the columns share the duration.
        hz: (bins,) the frequency of each bin, rising; None: not known.
        classes: name and probability of the clip. times: (steps, 2) in seconds; curves: (steps, classes) in [0, 1].
        events: mappings with onset_s, offset_s, name and probability, by onset.
        sound: a sound file of the first `sound_s` seconds, of this media type; empty: none.

    Example:
        >>> view = View("a.wav", [], 2.0, np.zeros((4, 8), np.float32), None, [("dog", 0.5)],
        ...             np.array([[0.0, 1.0], [1.0, 2.0]]), np.float32([[0.25], [0.75]]), [])
        >>> player(view).lanes[0].path
        'M0 1V0.75H500V1M500 1V0.25H1000V1'
    """

    name: str
    facts: Sequence[str]
    duration_s: float
    log_mel: np.ndarray
    hz: np.ndarray | None
    classes: Sequence[tuple[str, float]]
    times: np.ndarray
    curves: np.ndarray
    events: Sequence[Mapping[str, Any]]
    sound: bytes = b""
    sound_s: float = 0.0
    media: str = "audio/wav"


@dataclass(frozen=True)
class Lane:
    """A row of a player: a curve as an SVG path in 1000 x 1, or bars as pairs of left edge and width in per cent."""

    name: str
    value: str
    path: str = ""
    bars: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Player:
    """A part of a page: a recording with a cursor that moves with its sound and is moved by click, touch and keys.

    `marks` and `ticks` are places in per cent, from the bottom and from the left, with their words; `events` are onset
    in seconds and words.
    """

    name: str
    facts: Sequence[str]
    duration_s: float
    picture: str
    marks: Sequence[tuple[float, str]]
    ticks: Sequence[tuple[float, str]]
    lanes: Sequence[Lane]
    event_lanes: Sequence[Lane]
    events: Sequence[tuple[float, str, str, str]]
    sound: str
    sound_s: float
    notes: Sequence[str]


def draw(view: View, path: str | PathLike[str]) -> None:
    """Write the picture, in the format of the path's suffix (.png, .svg, .pdf).

    Raises:
        ValueError: another suffix.
    """
    drawing.check(view.duration_s, "a picture of a recording needs a length", path)
    rows, left = event_rows(view.events, [name for name, _ in view.classes])
    heights = [2.4, 0.25 + 0.42 * max(1, len(view.classes)), 0.25 + 0.28 * max(1, len(rows))]
    figure = drawing.figure(8, sum(heights) + 1.1)
    mel, curves, events = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    figure.suptitle(drawing.shortened(view.name, 17), fontsize=FONT + 2, parse_math=False)
    bins = len(view.log_mel)
    low = view.log_mel.max() - RANGE
    extent = (0.0, view.duration_s, -0.5, bins - 0.5)
    mel.imshow(view.log_mel, origin="lower", aspect="auto", cmap="magma", vmin=low, extent=extent)
    mel.set_yticks(*_unzipped([(share * bins - 0.5, words) for share, words in hz_marks(view.hz)]))
    drawing.tidy(mel, "x", y_label="frequency" if view.hz is not None else "bin")
    mel.grid(False)
    for row, (_, probability) in enumerate(view.classes):
        curves.axhline(-row, color=drawing.GREY, linewidth=0.5)
        # What was taken out of a recording leaves holes: each step stands by itself.
        curves.bar(
            view.times[:, 0], 0.85 * view.curves[:, row], np.diff(view.times)[:, 0], -row, align="edge", color=BLUE
        )
        curves.text(1.01, -row + 0.35, f"{probability:.2f}", transform=curves.get_yaxis_transform(), fontsize=FONT - 1)
    names = [drawing.shortened(name, 5) for name, _ in view.classes]
    curves.set_yticks([0.35 - row for row in range(len(names))], names, parse_math=False)
    curves.set_ylim(-max(1, len(names)) + 0.9, 1)
    drawing.tidy(curves, "x", y_label="probability")
    for row, (name, found) in enumerate(rows.items()):
        spans = [(each["onset_s"], each["offset_s"] - each["onset_s"]) for each in found]
        events.broken_barh(spans, (-row - 0.35, 0.7), color=GREEN, linewidth=0.5)
        names[row:] = [drawing.shortened(name, 5)]
    events.set_yticks([-row for row in range(len(rows))], names[: len(rows)], parse_math=False)
    events.set_ylim(-max(1, len(rows)) + 0.4, 0.6)
    if not rows:
        events.text(0.5, 0.5, "no event", transform=events.transAxes, ha="center", va="center", fontsize=FONT)
    more = f"; {left} more classes have some" if left else ""
    drawing.tidy(events, "x", f"seconds{more}" if view.duration_s < 120 else f"time{more}", "events")
    ticks = time_ticks(view.duration_s, 9)
    events.set_xticks([at for at, _ in ticks], [words for _, words in ticks])
    events.set_xlim(0, view.duration_s)
    figure.align_ylabels([mel, curves, events])
    drawing.save(figure, path)


def player(view: View) -> Player:
    """The part of a page."""

    def percent(seconds: float) -> float:
        return round(100 * min(seconds, view.duration_s) / view.duration_s, 3)

    rows, left = event_rows(view.events, [name for name, _ in view.classes])
    lanes = []
    for column, (name, probability) in enumerate(view.classes):
        steps = zip(view.times, view.curves[:, column], strict=True)
        path = "".join(f"M{10 * percent(a):g} 1V{1 - p:.3g}H{10 * percent(b):g}V1" for (a, b), p in steps)
        lanes.append(Lane(name, f"{probability:.2f}", path))
    bars = {
        name: [(percent(e["onset_s"]), percent(e["offset_s"]) - percent(e["onset_s"])) for e in found]
        for name, found in rows.items()
    }
    event_lanes = [
        Lane(name, f"{max(e['probability'] for e in found):.2f}", bars=bars[name]) for name, found in rows.items()
    ]
    listed = [
        (e["onset_s"], f"{clock(e['onset_s'], 2)} – {clock(e['offset_s'], 2)}", e["name"], f"{e['probability']:.2f}")
        for e in view.events[:LISTED]
    ]
    notes = list(_sound_notes(view))
    if left:
        notes.append(f"{left} more classes have events than the {LANES} whose events are drawn.")
    if len(view.events) > LISTED:
        notes.append(f"The first {LISTED} of {len(view.events)} events are listed.")
    return Player(
        name=view.name,
        facts=view.facts,
        duration_s=view.duration_s,
        picture=address("image/png", drawing.heat_png(view.log_mel, RANGE)),
        marks=[(100 * share, words) for share, words in hz_marks(view.hz)],
        ticks=[(percent(at), words) for at, words in time_ticks(view.duration_s, 6)],
        lanes=lanes,
        event_lanes=event_lanes,
        events=listed,
        sound=address(view.media, view.sound) if view.sound else "",
        sound_s=view.sound_s,
        notes=notes,
    )


def address(media: str, data: bytes) -> str:
    """Data as an address that holds them.

    Example:
        >>> address("image/png", b"PNG")
        'data:image/png;base64,UE5H'
    """
    return f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"


def event_rows(
    events: Sequence[Mapping[str, Any]], first: Sequence[str]
) -> tuple[dict[str, list[Mapping[str, Any]]], int]:
    """The events by class, in the order of their first ones, of 12 classes; and how many classes are left out.

    Taken are those named `first`, then those that sound longest.
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        rows.setdefault(event["name"], []).append(event)
    taken = sorted(rows, key=lambda name: (name not in first, -sum(e["offset_s"] - e["onset_s"] for e in rows[name])))
    return {name: found for name, found in rows.items() if name in taken[:LANES]}, len(taken[LANES:])


def time_ticks(duration_s: float, most: int) -> list[tuple[float, str]]:
    """Round seconds from 0 to at most the duration, no more than so many (2 or more) and the end of 0, in words.

    Example:
        >>> time_ticks(7.5, 6), [words for _, words in time_ticks(3700, 4)]
        ([(0.0, '0'), (2.0, '2'), (4.0, '4'), (6.0, '6')], ['0:00', '30:00', '1:00:00'])
    """
    nice = [m * 10.0**e for e in range(-4, 1) for m in (1, 2, 5)] + [10.0, 15.0, 30.0]
    nice += [60.0 * m for m in (1, 2, 5, 10, 15, 30, 60, 120, 240, 480)]
    step = next((each for each in nice if duration_s / each <= most - 1), 1000.0 * np.ceil(duration_s / 1000.0 / most))
    places = [min(duration_s, i * step) for i in range(int(duration_s / step + 1e-9) + 1)]
    return [(at, f"{at:g}" if duration_s < 120 else clock(at)) for at in places]


def clock(seconds: float, digits: int = 0) -> str:
    """Minutes and seconds, and hours where there are any.

    Example:
        >>> clock(61.25, 1), clock(3661), clock(59.96, 1)
        ('1:01.2', '1:01:01', '1:00.0')
    """
    whole = round(seconds, digits)
    minutes, rest = divmod(whole, 60)
    width = 3 + digits if digits else 2
    hours = f"{int(minutes) // 60}:{int(minutes) % 60:02d}" if minutes >= 60 else f"{int(minutes)}"
    return f"{hours}:{rest:0{width}.{digits}f}"


def hz_marks(hz: np.ndarray | None) -> Iterator[tuple[float, str]]:
    """Frequencies an octave apart, as shares of the picture's height; those too near to the one below are left out."""
    if hz is None:
        return
    last = -1.0
    for mark in (125 * 2**octave for octave in range(11)):
        share = (float(np.interp(mark, hz, np.arange(len(hz)))) + 0.5) / len(hz)
        if hz[0] <= mark <= hz[-1] and share - last >= 0.1:
            yield share, f"{mark} Hz" if mark < 1000 else f"{mark // 1000} kHz"
            last = share


def _sound_notes(view: View) -> Iterator[str]:
    if not view.sound:
        yield "It cannot be played here: this page holds no more sound."
    elif view.sound_s < view.duration_s - 0.05:
        yield f"Only its first {clock(view.sound_s)} can be played here: this page holds no more sound."


def _unzipped(pairs: list[tuple[float, str]]) -> tuple[list[float], list[str]]:
    return [at for at, _ in pairs], [words for _, words in pairs]
