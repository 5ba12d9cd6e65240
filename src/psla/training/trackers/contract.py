"""What a tracker is, and how trackers follow a run: they are told what its folder holds and has not been told.

After each epoch the new rows of log.csv; at the end the scores, each class's average precision and the pictures. What a
tracker was told stands in RUN/trackers.json with its name for the run, so that a training that goes on does so in the
same run of the tracker. A tracker that fails is left behind with one warning; the training does not notice.

To add one: a file in this package, with a class that has the methods of `Tracker`, registered under its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from psla.extras import needed
from psla.registry import Registry
from psla.sealed import read_json, write_json
from psla.training.keys import flatten
from psla.training.run import Run

STATE = "trackers.json"


class Tracker(Protocol):
    """Where things are told.

    Args:
        folder: the run's. id: the tracker's name for the run; empty: there is none yet. epochs: told before.

    Attributes:
        module: what it needs, and the extra that brings it; empty: nothing.
        id: the tracker's name for the run, by which it is found again.
    """

    module: ClassVar[str]
    id: str

    def __init__(self, folder: Path, id: str, epochs: int) -> None: ...

    def settings(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Once for a run: the recipe by dotted keys, and what environment.json holds."""

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers by name after so many epochs, 1 or more."""

    def picture(self, name: str, path: Path) -> None:
        """A PNG file."""

    def close(self, finished: bool) -> None:
        """Bring what was told to where it is kept; `finished`: nothing more comes."""


TRACKERS: Registry[type[Tracker]] = Registry("tracker", "psla.training.trackers")


class Trackers:
    """Trackers that follow a run.

    Args:
        names: of trackers; each once.
        warn: told one sentence when a tracker fails and is left behind.

    Raises:
        ValueError: an unknown name, or one whose module is not installed.

    Example:
        >>> Trackers(["paper"])
        Traceback (most recent call last):
        ValueError: no tracker is called 'paper'; there are csv, mlflow, tensorboard, wandb
    """

    def __init__(self, names: Sequence[str] = (), warn: Callable[[str], None] = warnings.warn) -> None:
        self._kinds = {name: TRACKERS[name] for name in names}
        for kind in self._kinds.values():
            if kind.module:
                needed(kind.module, kind.module)
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        self._behind: set[str] = set()  # those that have failed

    def follow(self, run: Run, finished: bool = False) -> None:
        """Tell what is new in a run's folder; those who followed it before are told, too."""
        try:
            stored = _stored(run)
        except ValueError as error:
            if self._kinds.keys() - self._behind:
                self._warn(f"the trackers are left behind, the training goes on: {error}")
            self._behind |= self._kinds.keys()
            return
        self._kinds |= {name: TRACKERS[name] for name in stored if name in TRACKERS and name not in self._kinds}
        for name in self._kinds.keys() - self._behind:
            try:
                self._tell(name, run, finished, stored)
            except Exception as error:  # whatever it is: a training is worth more than its curves
                why = " ".join(str(error).split()) or type(error).__name__
                self._warn(f"the tracker {name} is left behind, the training goes on: {why}")
                self._behind.add(name)

    def _tell(self, name: str, run: Run, finished: bool, stored: dict[str, Any]) -> None:
        before = stored.get(name, {"id": "", "epochs": 0, "finished": False})
        if before["finished"]:
            return
        if name not in self._open:
            self._open[name] = self._kinds[name](run.folder, before["id"], before["epochs"])
            if not before["id"]:
                self._open[name].settings(flatten(run.recipe.model_dump()), run.environment)
        tracker, epochs = self._open[name], before["epochs"]
        for row in run.read_log():
            if (epoch := int(row.pop("epoch"))) > epochs:
                tracker.scalars(row, epoch)
                epochs = epoch
        if finished:
            for values in (final_scores(run.scores), class_scores(run.scores)):
                tracker.scalars(values, epochs)
            for picture in sorted((run.folder / "figures").glob("*.png")):
                tracker.picture(picture.stem, picture)
        tracker.close(finished)
        stored[name] = {"id": tracker.id, "epochs": epochs, "finished": finished}
        write_json(run.folder / STATE, stored)


def _stored(run: Run) -> dict[str, Any]:
    path = run.folder / STATE
    return read_json(path, ValueError, mend="delete it: the trackers begin anew") if path.is_file() else {}


def final_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """The summary metrics of scores.json by `SPLIT/VARIANT/METRIC`; what is not known is left out.

    Example:
        >>> final_scores({"evaluation": {"final": {"mean_auc": 0.5, "d_prime": None}}, "rejected_clips": 0})
        {'evaluation/final/mean_auc': 0.5}
    """
    return {
        f"{split}/{variant}/{metric}": float(value)
        for split, variants in scores.items()
        if isinstance(variants, dict)
        for variant, found in variants.items()
        for metric, value in found.items()
        if isinstance(value, float)
    }


def class_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """The average precision of each class by `SPLIT/average_precision/CLASS`, of the averaged weights.

    Example:
        >>> dog = {"name": "dog", "average_precision": 0.5}
        >>> class_scores({"evaluation": {"averaged": {"per_class": [dog]}}})
        {'evaluation/average_precision/dog': 0.5}
    """
    return {
        f"{split}/average_precision/{each['name']}": float(each["average_precision"])
        for split, variants in scores.items()
        if isinstance(variants, dict)
        for each in variants["averaged"]["per_class"]
        if each["average_precision"] is not None
    }
