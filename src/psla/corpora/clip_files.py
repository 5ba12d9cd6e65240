"""Clip files: which of the files found for a clip of AudioSet is used, and what is wrong with those that are not.

Order of choice among the files of one clip: lossless formats, then other decodable ones, then the rest; among equals
the shortest path, then the alphabet. The first in this order that is readable and of the right length is used.

A file of the right length lasts as long as the segment, give or take 0.5 s. A longer file without times in its name
that reaches to the segment's end is the whole video: its clip is the segment within it. Whatever else is longer or
shorter, and a file whose name gives the times of another part of the video, has the wrong length.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from psla.audio.probe import Headers, Report, short
from psla.corpora.audio_roots import UNDECODABLE

TOLERANCE_S = 0.5  # between a file's length and its segment's
_NAMED_WITHIN_S = 1.0  # names carry whole seconds of starts that need not be whole
_LOSSY = (".mp3", ".ogg", ".oga", ".opus")
UNREADABLE, WRONG_LENGTH = "unreadable", "wrong length"


@dataclass(frozen=True)
class Matched:
    """What became of the files.

    Attributes:
        used: clip_id, path, start_s, end_s: the file of each clip that has one; times are null but in whole videos.
        failed: clip_id, path, kind, fault: the best file of each clip of whose files none is right.
        duplicates: clip_id, used, path, fault: each further file of a clip; fault is null where it was not needed.
    """

    used: pl.DataFrame
    failed: pl.DataFrame
    duplicates: pl.DataFrame


def choose_files(
    files: pl.DataFrame,
    segments: pl.DataFrame,
    headers: Headers,
    decode: bool = False,
    keep_wrong_length: bool = False,
    report: Report | None = None,
) -> Matched:
    """Choose a file for each clip, as the module's head says.

    Args:
        files: as `find_files` gives them.
        segments: clip_id, segment_start_s and segment_end_s of each clip that is wanted.
        headers: tells the lengths, and remembers them.
        decode: decode each file that is chosen, and not only its header.
        keep_wrong_length: use a file of the wrong length, too, where its name does not give other times; it is in
            `failed` all the same.
        report: see `Headers.probe`.
    """
    ahead = _ordered(files.join(segments, on="clip_id", how="left", maintain_order="left"))
    tried = ahead.clear().with_columns(*(pl.lit(None, dtype=pl.Float64()).alias(c) for c in ("start_s", "end_s")))
    settled = pl.DataFrame(schema={"clip_id": pl.String()})
    for order in range(int(ahead["order"].max() or 0) + 1 if len(ahead) else 0):  # type: ignore[arg-type]
        turn = ahead.filter(pl.col("order") == order).join(settled, on="clip_id", how="anti", maintain_order="left")
        turn = _judged(turn, headers, decode, report)
        tried = pl.concat([tried, turn])
        settled = pl.concat([settled, turn.filter(pl.col("fault").is_null()).select("clip_id")])
    right = tried.filter(pl.col("fault").is_null())
    failed = tried.join(right, on="clip_id", how="anti", maintain_order="left")
    # What has the wrong length can at least be read: it is the better of two failures.
    failed = failed.sort(pl.col("kind") == UNREADABLE, "order", maintain_order=True).unique("clip_id", keep="first")
    used = right
    if keep_wrong_length:
        usable = (pl.col("kind") == WRONG_LENGTH) & ~pl.col("other_part")
        used = pl.concat([right, failed.filter(usable)])
    best = pl.concat([right, failed]).select("clip_id", pl.col("path").alias("used"))
    faults = tried.select("path", "fault")
    others = ahead.drop("fault").join(best, on="clip_id").filter(pl.col("path") != pl.col("used"))
    others = others.join(faults, on="path", how="left").sort("clip_id", "order")
    return Matched(
        used.select("clip_id", "path", "start_s", "end_s").sort("clip_id"),
        failed.select("clip_id", "path", "kind", "fault").sort("clip_id"),
        others.select("clip_id", "used", "path", "fault"),
    )


def _ordered(files: pl.DataFrame) -> pl.DataFrame:
    """With `order`, the place in the order of choice among the clip's files, and what is wrong by name alone."""
    suffix = pl.col("suffix")
    rank = pl.when(suffix.is_in(sorted(UNDECODABLE))).then(2).when(suffix.is_in(_LOSSY)).then(1).otherwise(0)
    start, end = pl.col("segment_start_s"), pl.col("segment_end_s")
    named, named_end = pl.col("name_start"), pl.col("name_end")

    def close(value: pl.Expr, to: pl.Expr) -> pl.Expr:
        return (value - to).abs() < _NAMED_WITHIN_S

    in_s = close(named, start) & close(named_end, end).fill_null(True)
    # A start alone below 1000 is no number of milliseconds, but 0.
    end_in_ms = (
        pl.when(named_end.is_null()).then((named == 0) | (named >= 1000)).otherwise(close(named_end / 1000, end))
    )
    in_ms = close(named / 1000, start) & end_in_ms
    other_part = named.is_not_null() & ~(in_s | in_ms)
    named_part = pl.concat_str(short(named), pl.lit(" to ") + short(named_end), ignore_nulls=True)
    part_fault = pl.format("its name gives {}, the segment is {} s to {} s", named_part, short(start), short(end))
    suffix_fault = pl.format("libsndfile cannot decode {}: convert the file to FLAC or WAV", suffix)
    files = files.with_columns(rank.alias("rank"), other_part.alias("other_part"))
    fault = pl.col("fault")
    files = files.with_columns(
        pl.when(fault.is_null() & ~(pl.col("rank") == 2) & pl.col("other_part"))
        .then(pl.lit(WRONG_LENGTH))
        .otherwise(pl.lit(UNREADABLE))
        .alias("kind"),
        pl.coalesce(
            fault,
            pl.when(pl.col("rank") == 2).then(suffix_fault),
            pl.when(pl.col("other_part")).then(part_fault),
        ).alias("fault"),
    )
    files = files.sort("clip_id", "rank", pl.col("path").str.len_chars(), "path")
    return files.with_columns(pl.int_range(pl.len()).over("clip_id").alias("order"))


def _judged(files: pl.DataFrame, headers: Headers, decode: bool, report: Report | None) -> pl.DataFrame:
    """With start_s and end_s where the file is a whole video, and the fault where there is one."""
    known_bad = files.filter(pl.col("fault").is_not_null())
    known_bad = known_bad.with_columns(*(pl.lit(None, dtype=pl.Float64()).alias(c) for c in ("start_s", "end_s")))
    asked = files.filter(pl.col("fault").is_null()).drop("fault")
    asked = asked.hstack(headers.probe(asked, decode, report))
    start, end, lasts = pl.col("segment_start_s"), pl.col("segment_end_s"), pl.col("duration_s")
    wanted = end - start
    right = (lasts - wanted).abs() <= TOLERANCE_S
    whole = ~right & pl.col("name_start").is_null() & (lasts > wanted) & (lasts >= end - TOLERANCE_S)
    length = pl.format("lasts {} s, its segment {} s", short(lasts), short(wanted))
    asked = asked.with_columns(
        pl.when(pl.col("fault").is_null()).then(pl.lit(WRONG_LENGTH)).otherwise(pl.lit(UNREADABLE)).alias("kind"),
        pl.when(pl.col("fault").is_null() & ~right & ~whole).then(length).otherwise(pl.col("fault")).alias("fault"),
        pl.when(whole).then(start).alias("start_s"),
        pl.when(whole).then(end).alias("end_s"),
    )
    return pl.concat([known_bad, asked.select(known_bad.columns)])
