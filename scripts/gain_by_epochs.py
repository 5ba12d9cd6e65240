"""How much the gains of masking and of mixup differ between two labs that differ in their epochs alone.

    python scripts/gain_by_epochs.py a6 6 a40 40

Both are folders of `psla lab run` with the rows sampling, masking and mixup and seeds 0, 1, 2, on the same clips. mAP
is against what sounds, the mean of the last five epochs; 1,000 draws of clips and of seeds, the same for both labs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from psla.data.clips import Clips
from psla.metrics.predictions import Predictions
from psla.metrics.resampling import Draws, mean_score

ROWS, SEEDS, LAST, DRAWS = ("sampling", "masking", "mixup"), 3, 5, 1000


def scores(folder: Path, epochs: int, draws: Draws, seeds: np.ndarray) -> np.ndarray:
    """(rows, 1 + draws): mAP of each row as measured, then under each draw of clips and seeds."""
    found = []
    for row in ROWS:
        of_seeds = []
        for seed in range(SEEDS):
            (run,) = (folder / "runs").glob(f"{row}-{seed}-*")
            names = [f"epoch_{epoch:03d}.safetensors" for epoch in range(epochs - LAST + 1, epochs + 1)]
            read = [Predictions.read(run / "predictions" / "evaluation" / name) for name in names]
            of_seeds.append(mean_score([draws.score(each) for each in read]))
        drawn = np.take_along_axis(np.stack([each.drawn for each in of_seeds]), seeds, axis=0).mean(axis=0)
        found.append([np.mean([each.exact for each in of_seeds]), *drawn])
    return np.array(found)


def main(first: str, first_epochs: str, second: str, second_epochs: str) -> None:
    """Print each gain in both labs, and by how much it grew."""
    clips = Clips.read(Path(first) / "clips.parquet").split("evaluation")
    (run,) = (Path(first) / "runs").glob(f"{ROWS[0]}-0-*")
    known = Predictions.read(run / "predictions" / "evaluation" / "averaged.safetensors").vocabulary
    draws = Draws(clips.labels("true_labels").part(known), resamples=DRAWS)
    seeds = np.random.default_rng(0).integers(0, SEEDS, (SEEDS, DRAWS))
    labs = ((first, first_epochs), (second, second_epochs))
    gains = [np.diff(scores(Path(folder), int(epochs), draws, seeds), axis=0) for folder, epochs in labs]
    for name, before, after in zip(ROWS[1:], *gains, strict=True):
        grown = after - before
        low, high = np.quantile(grown[1:], [0.025, 0.975])
        print(f"{name}: {before[0]:+.4f}, {after[0]:+.4f}; grown by {grown[0]:+.4f} ({low:.4f} .. {high:.4f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
