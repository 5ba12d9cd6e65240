"""Annotations as text over time: Praat's TextGrid and WebVTT.

TextGrid: an interval tier for each name, as many as it takes for intervals that overlap; what has no length is a point
of a point tier. Reading takes Praat's long and short text files alike, by its own rule: strings in quotes and numbers
that stand alone count, everything else is for the eye. WebVTT counts in milliseconds.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from psla.data.annotations import (
    FORMATS,
    Annotated,
    Annotation,
    AnnotationError,
    Format,
    caption,
    from_caption,
    seconds,
)

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)|(?<!\S)![^\n]*')
_CUE = re.compile(r"(?:(\d{2,}):)?(\d\d):(\d\d\.\d{3})[ \t]+-->[ \t]+(?:(\d{2,}):)?(\d\d):(\d\d\.\d{3})")


def _tiers(annotations: Sequence[Annotation]) -> list[tuple[str, list[Annotation]]]:
    """Tiers, by name: in none of them do two overlap; what has no length stands in tiers of its own."""
    tiers: dict[tuple[str, bool], list[list[Annotation]]] = {}
    for each in sorted(annotations, key=lambda a: (a.onset_s, a.offset_s)):
        own = tiers.setdefault((each.label, each.onset_s == each.offset_s), [])
        free = next(
            (tier for tier in own if tier[-1].offset_s <= each.onset_s and tier[-1].onset_s < each.onset_s), None
        )
        if free is None:
            own.append([each])
        else:
            free.append(each)
    return [(label, tier) for (label, _), own in tiers.items() for tier in own]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _write_textgrid(recordings: Sequence[Annotated], maker: str) -> str:
    (recording,) = recordings
    end = max([recording.duration_s or 0.0, *(each.offset_s for each in recording.annotations)])
    tiers = _tiers(recording.annotations)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {seconds(end)}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for place, (label, tier) in enumerate(tiers, 1):
        points = tier[0].onset_s == tier[0].offset_s
        lines += [f"    item [{place}]:", f'        class = "{"TextTier" if points else "IntervalTier"}"']
        lines += [f"        name = {_quoted(label)}", "        xmin = 0", f"        xmax = {seconds(end)}"]
        if points:
            lines.append(f"        points: size = {len(tier)}")
            for number, each in enumerate(tier, 1):
                lines += [f"        points [{number}]:", f"            number = {seconds(each.onset_s)}"]
                lines.append(f"            mark = {_quoted(caption(each))}")
            continue
        intervals, at = [], 0.0
        for each in tier:
            intervals += [(at, each.onset_s, "")] if each.onset_s > at else []
            intervals.append((each.onset_s, each.offset_s, caption(each)))
            at = each.offset_s
        intervals += [(at, end, "")] if end > at else []
        lines.append(f"        intervals: size = {len(intervals)}")
        for number, (begin, stop, text) in enumerate(intervals, 1):
            lines += [f"        intervals [{number}]:", f"            xmin = {seconds(begin)}"]
            lines += [f"            xmax = {seconds(stop)}", f"            text = {_quoted(text)}"]
    return "\n".join(lines) + "\n"


def _tokens(text: str) -> Iterator[str | float]:
    for match in _TOKEN.finditer(text):
        if match[1] is not None:
            yield match[1].replace('""', '"')
        elif match[2] is not None:
            yield float(match[2])


def _read_textgrid(text: str, label_column: str | None) -> list[Annotated]:
    items = _tokens(text)
    found: list[Annotation] = []

    def take(kind: type) -> str | float:
        item = next(items, None)
        if item is None or not isinstance(item, kind):
            raise AnnotationError(f"not a TextGrid: there is {item!r} where a {kind.__name__} must be")
        return item

    def times() -> float:
        return float(take(float))

    if [take(str), take(str)] != ["ooTextFile", "TextGrid"]:
        raise AnnotationError("not a TextGrid in text form: save it with Praat's 'Save as text file'")
    times()
    duration = times()
    for _ in range(int(times())):
        kind, name = take(str), str(take(str))
        times(), times()
        for _ in range(int(times())):
            begin = times()
            end = times() if kind == "IntervalTier" else begin
            label = str(take(str))
            if label:
                found.append(_of_tier(begin, end, label, name))
    return [Annotated("", found, duration)]


def _of_tier(begin: float, end: float, label: str, tier: str) -> Annotation:
    """An interval whose text is the tier's name, with a probability or not; or anything else that somebody wrote."""
    return Annotation(begin, end, label) if label == tier else from_caption(begin, end, label)


def _clock(value: float) -> tuple[int, str]:
    """Milliseconds, and as WebVTT writes them."""
    whole = round(value * 1000)
    return whole, f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}.{whole % 1000:03}"


def _write_webvtt(recordings: Sequence[Annotated], maker: str) -> str:
    (recording,) = recordings
    pieces = ["WEBVTT\n"]
    for each in sorted(recording.annotations, key=lambda a: (a.onset_s, a.offset_s)):
        begin, shown = _clock(each.onset_s)
        _, until = _clock(max(round(each.offset_s * 1000), begin + 1) / 1000)  # a cue lasts
        text = html.escape(caption(each), quote=False)
        for letter in "\t\n\r":
            text = text.replace(letter, f"&#{ord(letter)};")
        if each.probability is None and from_caption(0, 0, each.label).probability is not None:
            text = "&#32;".join(text.rsplit(" ", 1))
        pieces.append(f"\n{shown} --> {until}\n{text}\n")
    return "".join(pieces)


def _read_webvtt(text: str, label_column: str | None) -> list[Annotated]:
    found: list[Annotation] = []
    lines = re.split(r"\r\n|\n|\r", text)
    for place, line in enumerate(lines):
        match = _CUE.match(line)
        if match is None:
            continue
        clocks = match.groups()[:3], match.groups()[3:]
        begin, end = (  # in whole milliseconds first: a sum of floats would be another number than was written
            (int(hours or 0) * 3_600_000 + int(minutes) * 60_000 + int(rest.replace(".", ""))) / 1000
            for hours, minutes, rest in clocks
        )
        until = next((k for k in range(place + 1, len(lines)) if not lines[k]), len(lines))
        written = re.sub(r"<[^>]*>", "", "\n".join(lines[place + 1 : until]))
        parted = from_caption(begin, end, written)
        found.append(Annotation(begin, end, html.unescape(parted.label), parted.probability))
    return [Annotated("", found)]


FORMATS.add(
    "textgrid",
    Format(".TextGrid", False, _write_textgrid, _read_textgrid, lambda text: '"ooTextFile"' in text[:200]),
)
FORMATS.add("webvtt", Format(".vtt", False, _write_webvtt, _read_webvtt, lambda text: text.startswith("WEBVTT")))
