"""Calibrate: probabilities that mean something, and thresholds for a stated goal: `psla calibrate`.

    clips that the model has not been trained on ──► what it says of them ──► of each class a map and a threshold
                                                                                        │
    model file  ◄── the same weights, the maps, the thresholds, on which clips  ◄───────┘

All that is told of maps and thresholds is cross-validated by recording: each clip's probability is that of a map, and
what a threshold gives that of a threshold, which the other folds' clips have taught. Of Platt's and the isotonic map a
class has that of the lower log loss so measured.

Not here: the numbers (`psla.metrics.calibration`, `psla.metrics.thresholds`), how they are used (`psla.tagging`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psla.data.clips import Clips
from psla.data.source import ClipSource, open_source
from psla.files import write_json_atomic
from psla.metrics.calibration import Map, calibration_errors, isotonic, log_loss, platt, reliability
from psla.metrics.scores import nan_to_none
from psla.metrics.thresholds import Goal, given, threshold_interval, thresholds_for
from psla.model import clip_ids
from psla.model.calibration import plain
from psla.model.file import Model, load_model, with_card
from psla.model.inference import predict
from psla.model.network import TaggingNetwork
from psla.training.cross_fit import folds_of
from psla.weights.catalogue import resolve

LEAST = 10  # positives, and negatives, of a class that is calibrated
LEAST_RECORDINGS = 5  # with positives: each fold has some to be asked about, and some to learn from
NEVER_NAMED, ALWAYS_NAMED = 1.0, 0.0


class CalibrationError(ValueError):
    """Clips that nothing can be calibrated on, or a model that cannot be calibrated."""


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate` has made.

    Attributes:
        path: the model file.
        report: what stands in the JSON file beside it, whose name ends in `.calibration.json`.
    """

    path: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class Held:
    """What is known of the clips.

    Shape:
        said: (clips, classes) float32, of the model; truth: likewise, bool; groups: (clips,) the recording of each, as
        numbers from 0 on; hours: (clips,) how much of each was heard.
    """

    said: np.ndarray
    truth: np.ndarray
    groups: np.ndarray
    hours: np.ndarray


def calibrate(
    model: str | os.PathLike[str],
    clips: Clips | str | os.PathLike[str],
    out: str | os.PathLike[str],
    goal: str = "f1",
    *,
    split: str | None = None,
    progress: Callable[[int], None] = lambda clips: None,
) -> Calibrated:
    """Calibrate a model on clips that it was not trained on, and write it with maps and thresholds.

    Args:
        model: a model file or a name that `psla models` lists.
        clips: a table of clips, its file, or a pack; their true labels count where the table has them. As in
            `psla predict`, the first window of each is heard.
        out: the model file, `.safetensors`.
        goal: of the thresholds: `f1`, `precision=0.9`, `recall=0.9` or `false-alarms=1/h`.
        split: of the clips; None: all.
        progress: told of clips as they are done.

    Raises:
        CalibrationError: a clip that the model was trained on, too few clips for every class, an ensemble, or a name
            that is no model file's.
        GoalError: a goal that is none.
        ClipsError, PackError, ModelFileError, PublishedError: what cannot be read.

    Example:
        >>> calibrate("my.safetensors", "other.parquet", "ready.safetensors", "precision=0.9")  # doctest: +SKIP
    """
    wanted, out = Goal.parse(goal), Path(out)
    if out.suffix != ".safetensors":
        raise CalibrationError(f"{out}: the name of a model file ends in .safetensors")
    path = resolve(model)
    if path.suffix == ".json":
        raise CalibrationError(f"{path} is an ensemble, whose file has no place for it: calibrate one of its members")
    table = clips if isinstance(clips, Clips) else Clips.read(clips)
    table = table if split is None else table.split(split)
    base = load_model(path)
    if trained := clip_ids.met(base.card.training_clips, table.clip_ids):
        raise CalibrationError(
            f"{len(trained)} of {len(table)} clips are among those that {path.name} was trained on, the first: "
            f"{trained[0]!r}: give others, such as --split validation"
        )
    shared = [id for id in base.vocabulary.ids if id in table.vocabulary]
    if not len(table) or not shared:
        what = "there is no clip" if not len(table) else f"the clips have none of the classes of {path.name}"
        raise CalibrationError(f"{what}: calibration needs clips with the model's own labels")
    held, heard, rejected = ask(base, table, shared, progress)
    made, details = learnt(held, wanted, base.vocabulary.ids)
    if not made["classes"]:
        raise CalibrationError(
            f"no class has {LEAST} positives of {LEAST_RECORDINGS} recordings, and {LEAST} negatives, among "
            f"{len(heard)} clips: add clips"
        )
    made["clip_ids"] = clip_ids.hashed(heard)
    thresholds = base.card.raw_thresholds | {id: each["threshold"] for id, each in made["classes"].items()}
    with_card(path, out, dataclasses.replace(base.card, thresholds=thresholds, calibration=nan_to_none(made)))
    names: dict[str, Any] = {"model": path.name, "names": {c.id: c.name for c in base.vocabulary}}
    names |= {"training_clips_known": bool(base.card.training_clips), "rejected": rejected}
    report = nan_to_none({"version": 1, **names, **made, **details})
    write_json_atomic(out.with_suffix(".calibration.json"), report)
    return Calibrated(out, report)


def ask(
    base: Model[TaggingNetwork], table: Clips, shared: Sequence[str], progress: Callable[[int], None]
) -> tuple[Held, list[str], dict[str, str]]:
    """What the model says of the clips, those that could be read, and why the others could not."""
    source = _Timed(open_source(table, base.network.sample_rate), base.network.window_samples)
    found = predict(base.network, source, base.vocabulary, progress=progress)
    said, ids = found.predictions.probabilities, found.predictions.clip_ids
    heard = table.select(ids)
    labels = heard.labels("true_labels" if "true_labels" in heard.frame.columns else "labels")
    truth = np.zeros(said.shape, dtype=bool)
    truth[:, [base.vocabulary.index_of(id) for id in shared]] = labels.part(labels.vocabulary.part(shared)).matrix()
    groups = np.unique(heard.frame["source"].to_numpy(), return_inverse=True)[1].reshape(-1)
    return Held(said, truth, groups, np.array([source.hours[id] for id in ids])), ids, found.rejected


def learnt(held: Held, goal: Goal, ids: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the card keeps but for the clips' ids, and what is told beside it: the reliability before and after."""
    positives = held.truth.sum(axis=0)
    recordings = np.array([len(set(held.groups[column])) for column in held.truth.T])
    enough = (positives >= LEAST) & (len(held.truth) - positives >= LEAST) & (recordings >= LEAST_RECORDINGS)
    columns = np.flatnonzero(enough).tolist()
    classes: dict[str, Any] = {}
    after = held.said[:, columns].astype(np.float64)
    unreached = []
    if len(columns):
        folds = folds_of(held.truth[:, columns], held.groups)
        for place, column in enumerate(columns):
            row, after[:, place], _ = learn_class(held, column, folds, goal)
            classes[ids[column]] = row
            unreached += [ids[column]] if row.pop("unreached") else []
    truth, before = held.truth[:, columns], np.clip(held.said[:, columns], 0, 1)
    errors = {"before": calibration_errors(before, truth), "after": calibration_errors(after, truth)}
    for number, row in enumerate(classes.values()):
        row |= {f"error_{when}": float(each[number]) for when, each in errors.items()}
    means = {f"error_{when}": float(each.mean()) if len(each) else np.nan for when, each in errors.items()}
    counts = {"clips": len(held.said), "recordings": int(held.groups.max()) + 1, "hours": float(held.hours.sum())}
    left = {ids[c]: int(positives[c]) for c in np.flatnonzero(~enough).tolist()}
    made = {"goal": goal.text, **counts, **means, "classes": classes, "left": left, "unreached": unreached}
    return made, {"reliability": {"before": reliability(before, truth), "after": reliability(after, truth)}}


def learn_class(held: Held, column: int, folds: np.ndarray, goal: Goal) -> tuple[dict[str, Any], np.ndarray, Map]:
    """Map and threshold of one class with what they give; (clips,) probabilities by the other folds' maps; the map."""
    said, truth = held.said[:, column], held.truth[:, column]
    kinds: tuple[Callable[[np.ndarray, np.ndarray], Map], ...] = (platt, isotonic)
    asked = [np.empty(len(said)) for _ in kinds]
    named = [np.empty(len(said), dtype=bool) for _ in kinds]
    for fold in range(folds.max() + 1):
        own = folds == fold
        for place, kind in enumerate(kinds):
            found = kind(said[~own], truth[~own])
            level = _level(goal, found(said[~own]), truth[~own], held.hours[~own])[0]
            asked[place][own] = found(said[own])
            named[place][own] = asked[place][own] >= level
    best = int(np.argmin([log_loss(each, truth) for each in asked]))
    found = kinds[best](said, truth)
    mapped = found(said)
    level, reached = _level(goal, mapped, truth, held.hours)
    _, low, high = threshold_interval(goal, mapped, truth, held.hours, held.groups)
    gives = given(goal, named[best], truth, held.hours, held.groups)
    row = {**plain(found), "positives": int(truth.sum()), "threshold": level, "threshold_low": low}
    row |= {"threshold_high": high, "gives": gives.value, "gives_low": gives.low, "gives_high": gives.high}
    return row | {"unreached": not reached}, asked[best], found


def _level(goal: Goal, probability: np.ndarray, truth: np.ndarray, hours: np.ndarray) -> tuple[float, bool]:
    """The threshold, and whether the goal is reached; one out of reach names no clip, or for a recall every clip."""
    found = float(thresholds_for(goal, probability, truth, hours, np.ones((1, len(truth))))[0])
    if np.isnan(found):
        return ALWAYS_NAMED if goal.kind == "recall" else NEVER_NAMED, False
    return found, True


class _Timed:
    """A source that notes how many hours of each clip are heard."""

    def __init__(self, source: ClipSource, most: int) -> None:
        self._source, self._most = source, most
        self.clip_ids, self.sample_rate = source.clip_ids, source.sample_rate
        self.hours: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> np.ndarray:
        wave = self._source.read(index)
        self.hours[self.clip_ids[index]] = min(len(wave), self._most) / self.sample_rate / 3600
        return wave
