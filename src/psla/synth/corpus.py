"""A corpus of soundscapes with its splits: from a config to a table of clips.

Every split has scenes of its own. With recorded events it has recordings of its own, too: what is trained on and what
is evaluated on have no source in common.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from psla.data.clips import Clips, ClipsError
from psla.synth import scene as soundscape
from psla.synth.config import SoundscapeConfig
from psla.synth.event_cutting import Report, cut_events
from psla.synth.recordings import write_events


def make(config: SoundscapeConfig, evaluation_clips: int, validation: float = 0.0) -> Clips:
    """Soundscapes of synthesised events.

    Args:
        config: of the split train: seed and number of clips; the split evaluation has the next seed.
        evaluation_clips: of the split evaluation, 0 or more.
        validation: about the share of train that is held out as the split validation, 0 .. below 1.

    Raises:
        ValueError: what `SoundscapeConfig` or `Clips.hold_out` refuse.

    Example:
        >>> make(SoundscapeConfig(clips=8), evaluation_clips=2).counts()
        {'train': 8, 'evaluation': 2}
    """
    rows = soundscape.table(config, "train")
    if evaluation_clips:
        rows += soundscape.table(replace(config, seed=config.seed + 1, clips=evaluation_clips), "evaluation")
    clips = Clips.from_rows(rows, soundscape.vocabulary(config), soundscape.FACTS["name"])
    return clips.hold_out(validation, config.seed) if validation else clips


def make_recorded(
    config: SoundscapeConfig,
    evaluation_clips: int,
    recordings: Clips,
    beside: str | os.PathLike[str],
    validation: float = 0.0,
    report: Report | None = None,
) -> Clips:
    """Soundscapes of recorded events: those of a split are made of the recordings of the same split.

    The table of recorded events is written beside the file `beside` (`recordings.write_events`); the soundscapes' paths
    name it, so it and the sound files must stay where they are, or the soundscapes be packed.

    Args:
        config, evaluation_clips: as `make`.
        recordings: what the events are cut from (`event_cutting.cut_events`).
        beside: where the soundscapes' own table will stand.
        validation: the share of the train clips that become the split validation, 0 .. below 1. They are made of the
            recordings of the split validation; where there is none, of that share of the train recordings, whole
            sources, which train then goes without.
        report: told of the progress.

    Raises:
        ClipsError: what `cut_events` refuses, or a share of validation that leaves no clip on either side.
        ValueError: more classes than the recordings have.
    """
    held = round(validation * config.clips)
    if validation and not 0 < held < config.clips:
        raise ClipsError(f"of {config.clips} clips the share {validation} cannot be held out; both sides need a clip")
    if held and "validation" not in recordings.counts():
        recordings = recordings.hold_out(validation, config.seed)
    wanted = [("train", config.seed, 0, config.clips - held), ("validation", config.seed, config.clips - held, held)]
    wanted = [each for each in [*wanted, ("evaluation", config.seed + 1, 0, evaluation_clips)] if each[3]]
    events = write_events(cut_events(recordings, [split for split, *_ in wanted], report), beside)
    rows: list[dict[str, Any]] = []
    for split, seed, first, clips in wanted:
        part = replace(config, seed=seed, clips=clips, events=str(events), events_split=split)
        rows += soundscape.table(part, split, first)
    return Clips.from_rows(rows, soundscape.vocabulary(part), soundscape.FACTS["name"])
