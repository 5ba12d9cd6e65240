"""`psla calibrate` on soundscapes, whose true labels are known, and the coverage of its intervals by simulation.

    python benchmarks/calibration.py [MODEL] [--clips 1500] [--rounds 300]

A head is fitted on soundscapes of one seed, calibrated on those of another, and asked about those of a third.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from psla.metrics.calibration import calibration_errors
from psla.metrics.thresholds import Goal, given
from psla.model.calibration import Calibration
from psla.model.file import load_model
from psla.synth.config import SoundscapeConfig
from psla.synth.corpus import make
from psla.training.calibrate import Held, ask, learn_class, learnt
from psla.training.cross_fit import folds_of
from psla.training.fit import fit

GOALS = ("precision=0.9", "recall=0.9", "f1", "false-alarms=6/h")


def soundscapes(model: str | None, clips: int, folder: Path) -> None:
    """Errors and what thresholds give, on clips that neither head nor calibration has heard."""
    fitted, calibrating, other = (make(SoundscapeConfig(seed, clips=clips, imbalance=5.0), 0) for seed in (0, 10, 20))
    base = load_model(fit(fitted, folder / "fitted.safetensors", model, cache=folder / "cache").path)
    vocabulary = base.vocabulary
    held, asked = (ask(base, table, vocabulary.ids, lambda clips: None)[0] for table in (calibrating, other))
    for text in GOALS:
        goal, began = Goal.parse(text), time.perf_counter()
        made, _ = learnt(held, goal, vocabulary.ids)
        spent = time.perf_counter() - began
        own = [vocabulary.index_of(id) for id in made["classes"] if id not in made["unreached"]]
        rows = [made["classes"][vocabulary[c].id] for c in own]
        after, truth = Calibration(made, vocabulary)(asked.said), asked.truth
        named = after[:, own] >= np.array([row["threshold"] for row in rows])
        errors = [calibration_errors(each[:, own], truth[:, own]).mean() for each in (asked.said, after)]
        right = (named & truth[:, own]).sum()
        each = [
            given(goal, column, truth[:, c], asked.hours, asked.groups).value
            for c, column in zip(own, named.T, strict=True)
        ]
        kinds = [row["kind"] for row in rows]
        print(f"{text}: {len(own)} of {len(vocabulary)} classes ({kinds.count('isotonic')} isotonic) in {spent:.1f} s")
        print(f"  left {len(made['left'])}, out of reach {len(made['unreached'])}")
        print(f"  expected calibration error {errors[0]:.4f} -> {errors[1]:.4f} on other seeds")
        print(f"  names that are right {right / named.sum():.3f}, positives named {right / truth[:, own].sum():.3f}")
        print(
            f"  by class: mean {np.nanmean(each):.3f}, from {np.nanmin(each):.3f} to {np.nanmax(each):.3f}", flush=True
        )


def draw(rng: np.random.Generator, clips: int, positives: float, alike: float, of_each: int) -> Held:
    """One class, clips in recordings of so many, which share a part of what moves their log-odds."""
    groups = np.arange(clips) // of_each
    truth = (rng.uniform(size=groups.max() + 1) < positives)[groups] ^ (rng.uniform(size=clips) < 0.02)
    shared, own = rng.normal(size=groups.max() + 1)[groups], rng.normal(size=clips)
    z = np.where(truth, 1.5, -2.5) + 1.5 * (np.sqrt(alike) * shared + np.sqrt(1 - alike) * own)
    said = 1 / (1 + np.exp(-2 * z - 1))
    return Held(said[:, None].astype(np.float32), truth[:, None], groups, np.full(clips, 10 / 3600))


def coverage(rounds: int) -> None:
    """How often the stated interval holds what the threshold truly gives; it should be 0.95."""
    print("clips  of a recording  positives  goal              inside  mean width  reached")
    for clips, of_each, positives in ((200, 1, 0.2), (1000, 1, 0.1), (1000, 5, 0.2)):
        world = draw(np.random.default_rng(99), 200_000, positives, 0.5, of_each)
        for text in GOALS:
            goal, inside, widths, reached = Goal.parse(text), [], [], 0
            for number in range(rounds):
                held = draw(np.random.default_rng(number), clips, positives, 0.5, of_each)
                row, _, found = learn_class(held, 0, folds_of(held.truth, held.groups), goal)
                if row["unreached"]:
                    continue
                reached += 1
                named = found(world.said[:, 0]) >= row["threshold"]
                true = given(goal, named, world.truth[:, 0], world.hours, np.arange(len(named))).value
                inside.append(row["gives_low"] <= true <= row["gives_high"])
                widths.append(row["gives_high"] - row["gives_low"])
            told = f"{clips:5}  {of_each:14}  {positives:9}  {text:16}"
            share = (np.mean(inside), np.mean(widths)) if reached else (np.nan, np.nan)
            print(f"{told}  {share[0]:6.3f}  {share[1]:10.3f}  {reached / rounds:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--clips", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=300)
    words = parser.parse_args()
    if words.rounds:
        coverage(words.rounds)
    with tempfile.TemporaryDirectory() as folder:
        soundscapes(words.model, words.clips, Path(folder))


if __name__ == "__main__":
    main()
