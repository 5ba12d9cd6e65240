"""Cross-validation on ESC-50's official folds: train on all folds but one, score on that one, for each fold.

`inner=True` is for choosing settings: it leaves the evaluation fold out altogether and scores on another fold of the
training folds, so that nothing is ever chosen on the clips that are reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import polars as pl

from psla.data.clips import Clips
from psla.data.corpora import esc50
from psla.files import write_json_atomic
from psla.recipe.recipe import Recipe, RecipeError
from psla.recipe.run import Run
from psla.recipe.training import resume, train

FOLDS = esc50.FOLDS
VARIANTS = ("final", "last_five", "averaged", "checkpoint_ensemble")


@dataclass(frozen=True)
class FoldResult:
    """Accuracy in [0, 1] of each variant on one fold, and the hours that its epochs took."""

    fold: int
    accuracy: Mapping[str, float]
    hours: float


def fold_clips(root: str | Path, fold: int, inner: bool = False) -> Clips:
    """The clips of one round: evaluation on `fold`, or, `inner`, on the next fold with `fold` left out."""
    if not inner:
        return esc50.read(root, evaluation_fold=fold)
    judge = esc50.FOLDS[fold % len(esc50.FOLDS)]  # folds count from 1, so this is the one after `fold`
    left_out = set(esc50.read(root, evaluation_fold=fold).split("evaluation").clip_ids)
    clips = esc50.read(root, evaluation_fold=judge)
    return clips.filter(~pl.col("clip_id").is_in(sorted(left_out)))


def cross_validate(
    recipe: Recipe,
    root: str | Path,
    out: str | Path,
    folds: Sequence[int] = esc50.FOLDS,
    inner: bool = False,
    progress: Callable[[int, str, int], None] = lambda fold, stage, clips: None,
) -> list[FoldResult]:
    """Train and score every fold; a finished fold in `out` is read, not run again, one that was interrupted goes on.

    Args:
        recipe: the same for each fold.
        root: a corpus in ESC-50's layout.
        out: a folder; each fold's run goes into `fold_K`.
        folds: which folds are evaluated on.
        inner: for choosing settings; see the module.

    Raises:
        ClipsError: not the layout of ESC-50.
        RecipeError: a fold in `out` was begun with another recipe.
    """
    results = []
    for fold in folds:
        folder = Path(out) / f"fold_{fold}"
        done = folder / "cross_validation.json"
        if not done.exists():
            run = _fold(recipe, fold_clips(root, fold, inner), folder, partial(progress, fold))
            scores: dict[str, Any] = run.scores["evaluation"]
            accuracy = {variant: scores[variant]["accuracy"] for variant in VARIANTS}
            write_json_atomic(done, {"fold": fold, "accuracy": accuracy, "hours": round(run.seconds / 3600, 3)})
        results.append(FoldResult(**json.loads(done.read_text(encoding="utf-8"))))
    return results


def _fold(recipe: Recipe, clips: Clips, folder: Path, progress: Callable[[str, int], None]) -> Run:
    if not Run(folder).exists:
        return train(recipe, clips, folder, progress=progress)
    if Run(folder).recipe != recipe:
        raise RecipeError(f"{folder} holds a run with another recipe; choose another folder, or delete it")
    return resume(folder, progress=progress)


def summary(results: Sequence[FoldResult]) -> str:
    """A Markdown table: a row a fold, the mean last."""
    lines = ["| fold | " + " | ".join(VARIANTS) + " | hours |", "|---" * (len(VARIANTS) + 2) + "|"]
    for result in results:
        cells = [f"{result.accuracy[variant]:.4f}" for variant in VARIANTS]
        lines.append(f"| {result.fold} | " + " | ".join(cells) + f" | {result.hours:.2f} |")
    means = [f"{mean(result.accuracy[variant] for result in results):.4f}" for variant in VARIANTS]
    lines.append("| mean | " + " | ".join(means) + f" | {sum(result.hours for result in results):.2f} |")
    return "\n".join(lines)
