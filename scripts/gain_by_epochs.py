"""How much the gains of masking and of mixup differ between two labs that differ in their epochs alone.

    python scripts/gain_by_epochs.py a6 6 a40 40

Both are folders of `psla lab run` with the rows sampling, masking and mixup and seeds 0, 1, 2, on the same clips. mAP
is against what sounds, the mean of the last five epochs; 300 draws of clips and of seeds, the same for both labs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from psla.data.clips import Clips
from psla.metrics.predictions import Predictions

ROWS, SEEDS, LAST, DRAWS = ("sampling", "masking", "mixup"), range(3), 5, 300
Lab = dict[str, list[list[np.ndarray]]]


def load(folder: Path, epochs: int) -> tuple[Lab, np.ndarray]:
    """By row, seed and epoch the probabilities, and what sounds, in the order of the clips."""
    clips = Clips.read(folder / "clips.parquet").split("evaluation")
    found: Lab = {}
    for row in ROWS:
        found[row] = []
        for seed in SEEDS:
            (run,) = (folder / "runs").glob(f"{row}-{seed}-*")
            names = [f"epoch_{epoch:03d}.safetensors" for epoch in range(epochs - LAST + 1, epochs + 1)]
            read = [Predictions.read(run / "predictions" / "evaluation" / name) for name in names]
            place = {clip: index for index, clip in enumerate(read[0].clip_ids)}
            order = [place[clip] for clip in clips.clip_ids]
            found[row].append([each.probabilities[order] for each in read])
            truth = clips.labels("true_labels").part(read[0].vocabulary).matrix().astype(bool)
    return found, truth


def mean_average_precision(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Over the classes that have a positive."""
    right = np.take_along_axis(truth, np.argsort(-probabilities, axis=0, kind="stable"), 0)
    precision = np.cumsum(right, axis=0) / np.arange(1, len(right) + 1)[:, None]
    positives = right.sum(axis=0)
    return float(((precision * right).sum(axis=0)[positives > 0] / positives[positives > 0]).mean())


def gains(lab: Lab, truth: np.ndarray, clips: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Of masking over sampling, and of mixup over masking."""
    scores = [
        np.mean([mean_average_precision(each[clips], truth[clips]) for seed in seeds for each in lab[row][seed]])
        for row in ROWS
    ]
    return np.diff(scores)


def main(first: str, first_epochs: str, second: str, second_epochs: str) -> None:
    labs = [load(Path(first), int(first_epochs)), load(Path(second), int(second_epochs))]
    rng = np.random.default_rng(0)
    count = len(labs[0][1])
    draws = [(rng.integers(0, count, count), rng.integers(0, len(SEEDS), len(SEEDS))) for _ in range(DRAWS)]
    whole = (np.arange(count), np.array(SEEDS))
    values = np.array([[gains(*lab, *draw) for lab in labs] for draw in (whole, *draws)])
    grown = values[:, 1] - values[:, 0]
    for index, name in enumerate(ROWS[1:]):
        low, high = np.quantile(grown[1:, index], [0.025, 0.975])
        print(
            f"{name}: {values[0, 0, index]:+.4f}, {values[0, 1, index]:+.4f}; grown by {grown[0, index]:+.4f} "
            f"({low:.4f} .. {high:.4f})"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
