"""What runs have cost: hours, and clips a second in training and in predicting what is held out.

From each run's timing.csv. An epoch that was interrupted counts there from where it went on.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psla.training.run import Run


@dataclass(frozen=True)
class Costs:
    """Of several runs together.

    Attributes:
        hours: clock time of all epochs, predictions included.
        training: clips a second of all epochs; None: too short to tell.
        prediction: held-out clips a second after the epochs, with writing the checkpoint and scoring; None: as above.
    """

    hours: float
    training: float | None
    prediction: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "hours": self.hours,
            "training": {"clips_per_second": self.training},
            "prediction": {"clips_per_second": self.prediction},
        }


def costs(runs: Iterable[Run]) -> Costs:
    """What finished runs have cost, the clips of all over the seconds of all."""
    trained = predicted = training_s = total_s = 0.0
    for run in runs:
        with (run.folder / "timing.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        training_s += sum(float(row["training_s"]) for row in rows)
        total_s += sum(float(row["total_s"]) for row in rows)
        trained += sum(row["clips"] for row in run.read_log())
        held_out = sum(count for split, count in run.clips.counts().items() if split != "train")
        predicted += held_out * len(rows)
    return Costs(total_s / 3600, _speed(trained, training_s), _speed(predicted, total_s - training_s))


def _speed(clips: float, seconds: float) -> float | None:
    # timing.csv has hundredths of a second: of less than a tenth nothing can be said.
    return clips / seconds if clips and seconds >= 0.1 else None
