"""Figures 3 to 8 of the paper, drawn from what a lab measured; a figure whose rows were not run is left out."""

from __future__ import annotations

import numpy as np

from psla.lab.experiment import spread
from psla.lab.tables.folder import Measured, RowResult
from psla.lab.tables.report_tables import ClassScores, training_counts
from psla.report.figures import Curve, curves, ranked, scatter
from psla.report.page import Picture
from psla.techniques.sampling import clip_weights, expected_unseen, simulated_unseen
from psla.training.recipe import Recipe
from psla.training.run import Run

SHARES = {10: "share_10", 25: "share_25", 50: "share_50"}
WHOLE = {"none": "baseline", "imagenet": "pretraining"}  # all of the training clips
CURVES = ("labels_12", "mixup", "plain_mixup", "masking", "sampling", "pretraining", "baseline")


def figures(lab: Measured, scores: ClassScores | None) -> list[Picture]:
    """Those of Figures 3 to 8 that can be drawn, and average precision against class count.

    Args:
        lab: what was measured.
        scores: of the best single model, class by class; None: no row is done.
    """
    of_classes, against_count = (None, None) if scores is None else (_classes(lab, scores), _against_count(lab, scores))
    drawn = [_amount(lab), _counts(lab), _unseen(lab), of_classes, _sweep(lab), _learning(lab), against_count]
    return [picture for picture in drawn if picture is not None]


def _amount(lab: Measured) -> Picture | None:
    lines = []
    for name, label in (("imagenet", "pretrained on ImageNet"), ("none", "not pretrained")):
        rows = {share: f"{prefix}_{name}" for share, prefix in SHARES.items()} | {100: WHOLE[name]}
        done = [(share, row) for share, each in rows.items() if (row := lab.row(each)) is not None]
        if any(share < 100 for share, _ in done):
            values = [float(row.mean["mean_average_precision"] or 0) for _, row in done]
            stds = [float(row.std.get("mean_average_precision") or 0) for _, row in done]
            lines.append(Curve(label, [share for share, _ in done], values, stds))
    if not lines:
        return None
    png = curves(lines, "% of the training clips", "mAP", log_x=True)
    return _picture(png, "Figure 3", "Mean average precision against the amount of training clips. Shade: deviation.")


def _counts(lab: Measured) -> Picture | None:
    counts = training_counts(lab)
    if not counts.any():
        return None
    png = ranked(counts.astype(float).tolist(), lab.labels.vocabulary.names, "training clips", log=True)
    return _picture(png, "Figure 4", "Training clips of each class; the axis is logarithmic.")


def _unseen(lab: Measured) -> Picture | None:
    train = lab.clips.split("train").labels()
    weights = clip_weights(train)
    if not len(train) or not weights.sum() > 0:
        return None
    path = lab.path("recipe.yaml")
    recipe = Recipe.load(path) if path.is_file() else None
    epochs = recipe.optimizer.epochs if recipe is not None else 30
    rates = list(dict.fromkeys([0.0, recipe.mixup.rate if recipe is not None and recipe.mixup.rate else 0.5]))
    expected, counted = expected_unseen(weights, epochs, rates), simulated_unseen(weights, epochs, rates)
    x = list(range(1, epochs + 1))
    lines = []
    for style, rate in enumerate(rates):
        lines.append(Curve(f"mixup rate {rate:g}: expected", x, expected[rate].tolist(), style=style))
        lines.append(Curve("counted", x, counted[rate].tolist(), points=True, style=style))
    png = curves(lines, "epochs", "share not heard yet", whole=True, y_range=(0, None))
    return _picture(png, "Figure 5", "Training clips not heard yet under balanced sampling.")


def _classes(lab: Measured, scores: ClassScores) -> Picture:
    names = lab.labels.vocabulary.names
    average = float(np.nanmean(scores.mean))
    png = ranked(scores.mean.tolist(), names, "average precision", scores.std.tolist(), mean=average)
    many = ", with its deviation over seeds" if len(scores.row.seeds) > 1 else ""
    return _picture(png, "Figure 6", f"Average precision of each class of the row {scores.row.row}{many}.")


def _sweep(lab: Measured) -> Picture | None:
    row = lab.row("start_sweep")
    if row is None or not row.details.get("first_epoch"):
        return None
    names = {"weights": "averaged weights", "predictions": "averaged predictions", "alone": "checkpoint alone"}
    x = row.details["first_epoch"]
    lines = [
        Curve(label, x, [np.nan if y is None else y for y in row.details[key]])
        for key, label in names.items()
        if row.details.get(key)
    ]
    png = curves(lines, "first epoch of the average", "mAP", whole=True)
    return _picture(png, "Figure 7", "Mean average precision against the first epoch that is averaged.")


def _learning(lab: Measured) -> Picture | None:
    first = lab.first_done(CURVES)
    chosen = [row for row in (first, lab.first_done(("baseline",))) if row is not None]
    lines = [line for row in {row.row: row for row in chosen}.values() if (line := _log_curve(lab, row))]
    if not lines:
        return None
    png = curves(lines, "epoch", "mAP", whole=True)
    return _picture(png, "Figure 8", "Learning curves: mean average precision after each epoch. Shade: deviation.")


def _log_curve(lab: Measured, row: RowResult) -> Curve | None:
    """Mean and deviation over the row's seeds of what log.csv has, an epoch."""
    column = f"{lab.info.split}_map"
    by_epoch: dict[int, list[float]] = {}
    for seed in row.seeds:
        for folder in seed.runs[:1]:
            if (lab.path(folder) / "log.csv").is_file():
                for each in Run(lab.path(folder)).read_log():
                    if column in each:
                        by_epoch.setdefault(int(each["epoch"]), []).append(each[column])
    if not by_epoch:
        return None
    x = sorted(by_epoch)
    found = [spread(by_epoch[epoch]) for epoch in x]
    stds = [each["std"] or 0.0 for each in found]
    return Curve(row.row, x, [each["mean"] or 0.0 for each in found], stds if any(stds) else None)


def _against_count(lab: Measured, scores: ClassScores) -> Picture:
    counts = training_counts(lab).astype(float).tolist()
    png = scatter(counts, scores.mean.tolist(), "training clips", "average precision", log_x=True)
    return _picture(png, "Table VII", "Average precision of each class against its training clips.")


def _picture(png: bytes, name: str, what: str) -> Picture:
    return Picture(png, what, f"{name}. {what}", narrow=True)
