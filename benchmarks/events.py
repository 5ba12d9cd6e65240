"""How well events are found: onsets and offsets on soundscapes that are known, scored by sed_scores_eval.

Event F1: an event is right if its class is, its onset within the collar, and its offset within the collar or a fifth of
the event's length, whichever is more (sed_eval's rule); micro: over all events, macro: the mean over classes. PSDS of
the DCASE challenge's two scenarios, over all thresholds, of the smoothed steps. Only classes that sound as events
count. What an `EventRule` gives is turned into scores of 0 and 1 on a grid of its own edges, so that sed_scores_eval
judges the events themselves.

The rule is tuned on soundscapes of one seed, one setting after the other, twice around, by the mean of the micro F1 at
0.2 and 0.5 s; what is printed last are other soundscapes, of another seed.

Run: `python benchmarks/events.py MODEL [--clips 60] [--seconds 10] [--classes 13] [--tune 4141] [--report 4242]`
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sed_scores_eval import collar_based, intersection_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

import psla
from machine import machine
from psla.data.vocabulary import Vocabulary
from psla.synth.scene import SoundscapeConfig, describe, synthesise
from psla.tagging.events import EventRule, find_events
from psla.tagging.result import TagResult
from psla.tagging.tracking import Median

COLLARS = (0.2, 0.5)
# DCASE 2022, task 4: reaction, and confusion.
PSDS = {
    "PSDS1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_ct": 0.0, "alpha_st": 1.0},
    "PSDS2": {
        **{"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3},
        **{"alpha_ct": 0.5, "alpha_st": 1.0},
    },
}
GRID: Mapping[str, tuple[float | int, ...]] = {
    "threshold": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "release": (0.5, 0.7, 0.8, 0.9, 1.0),
    "median_steps": (1, 3, 5, 7),
    "max_gap_s": (0.0, 0.33, 0.65, 1.0),
    "min_length_s": (0.0, 0.33, 0.65),
}


class Writable(pd.DataFrame):
    """A table whose arrays may be written, as the compiled part of the scores asks: those of pandas 3 may not."""

    @property
    def _constructor(self) -> type[Writable]:
        return Writable

    def to_numpy(self, *args, **options) -> np.ndarray:
        return np.array(super().to_numpy(*args, **options))


@dataclass(frozen=True)
class Scenes:
    """Soundscapes with their truth, and what a tagger says of them with one hop."""

    truth: dict[str, list[tuple[float, float, str]]]
    results: dict[str, TagResult]
    seconds: float


def heard(
    tagger: psla.Tagger, config: SoundscapeConfig, waveforms: list[np.ndarray], rate: int, ids: list[str]
) -> Scenes:
    truth, results = {}, {}
    for index, waveform in enumerate(waveforms):
        truth[f"{index}"] = [each for each in joined(describe(config, index).events) if each[2] in ids]
        results[f"{index}"] = tagger.tag(waveform, rate)
    return Scenes(truth, results, config.seconds)


def joined(events: tuple[tuple[str, float, float], ...]) -> list[tuple[float, float, str]]:
    """The events of a scene; those of one class that overlap are one, for nobody could tell them apart."""
    found: list[tuple[float, float, str]] = []
    for id, onset, offset in sorted(events, key=lambda event: (event[0], event[1])):
        if found and found[-1][2] == id and onset <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], offset), id)
        else:
            found.append((onset, offset, id))
    return found


def binary(result: TagResult, rule: EventRule, ids: list[str], seconds: float):
    """Scores of 0 and 1 between the edges of the events."""
    events = find_events(result.part(ids), rule)
    edges = np.unique([0.0, seconds, *(e.onset_s for e in events), *(e.offset_s for e in events)])
    scores = np.zeros((len(edges) - 1, len(ids)))
    for event in events:
        scores[(edges[:-1] >= event.onset_s) & (edges[1:] <= event.offset_s), event.sound.index] = 1.0
    return Writable(create_score_dataframe(scores, edges, ids))


def f_scores(scenes: Scenes, rule: EventRule, ids: list[str]) -> dict[str, float]:
    """Micro and macro F1 at each collar."""
    scores = {clip: binary(result, rule, ids, scenes.seconds) for clip, result in scenes.results.items()}
    found = {}
    for collar in COLLARS:
        by_class = collar_based.fscore(
            scores, scenes.truth, threshold=0.5, onset_collar=collar, offset_collar=collar, offset_collar_rate=0.2
        )[0]
        found |= {f"micro {collar}": by_class["micro_average"], f"macro {collar}": by_class["macro_average"]}
    return found


def psds(scenes: Scenes, steps: int, ids: list[str]) -> dict[str, float]:
    """PSDS of steps smoothed by a median over so many."""
    scores = {}
    for clip, result in scenes.results.items():
        part, median = result.part(ids), Median(steps)
        pieces = [median.push(part.frames, part.times), median.close()]
        frames = np.concatenate([rows for rows, _ in pieces if len(rows)])
        edges = np.append(part.times[:, 0], part.times[-1, 1])
        scores[clip] = Writable(create_score_dataframe(frames.astype(np.float64), edges, ids))
    durations = dict.fromkeys(scores, scenes.seconds)
    return {
        name: intersection_based.psds(scores, scenes.truth, durations, **settings)[0] for name, settings in PSDS.items()
    }


def tuned(scenes: Scenes, ids: list[str], rule: EventRule) -> EventRule:
    """The best rule, one setting after the other, twice around."""

    def worth(rule: EventRule) -> float:
        found = f_scores(scenes, rule, ids)
        return (found["micro 0.2"] + found["micro 0.5"]) / 2

    best, at = worth(rule), rule
    for _ in range(2):
        for name, values in GRID.items():
            for value in values:
                other = replace(at, **{name: value})
                if (own := worth(other)) > best:
                    best, at = own, other
    return at


def main() -> None:
    """Tag two sets of scenes with several hops, tune on one, print the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--classes", type=int, default=13)
    parser.add_argument("--tune", type=int, default=4141)
    parser.add_argument("--report", type=int, default=4242)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    plain = psla.load(options.model)
    rate, vocabulary = plain.sample_rate, plain.model.vocabulary
    configs = {
        seed: SoundscapeConfig(seed=seed, seconds=options.seconds, clips=options.clips, classes=options.classes)
        for seed in (options.tune, options.report)
    }
    waves = {seed: [synthesise(c, i, rate) for i in range(options.clips)] for seed, c in configs.items()}
    # sed_scores_eval asks that every class occurs: those that sound in both sets.
    sounding = [{id for i in range(c.clips) for id, _, _ in describe(c, i).events} for c in configs.values()]
    ids = [id for id in vocabulary.ids if all(id in own for own in sounding)]
    names = Vocabulary.audioset()
    print(f"{options.model}: {len(ids)} classes sound: {', '.join(names[id].name for id in ids)}")
    for part in (1, 4):
        tagger = psla.load(options.model, hop_s=plain.window_s / part)
        begin = time.perf_counter()
        tuning, report = (heard(tagger, configs[s], waves[s], rate, ids) for s in (options.tune, options.report))
        rule = tuned(tuning, ids, EventRule())
        print(f"hop {tagger.hop_s:.3f} s of a window of {tagger.window_s:g} s ({time.perf_counter() - begin:.0f} s)")
        for title, each in (("defaults", EventRule()), ("threshold 0.6", EventRule(0.6)), ("tuned", rule)):
            told = ", ".join(f"{name} {value:.3f}" for name, value in f_scores(report, each, ids).items())
            areas = ", ".join(f"{name} {value:.3f}" for name, value in psds(report, each.median_steps, ids).items())
            print(f"  {title}: F1 {told}; {areas}")
        print(f"  tuned on seed {options.tune}: {rule}")


if __name__ == "__main__":
    main()
