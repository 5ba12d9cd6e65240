"""Results: what a row of the lab comes to, from the prediction files of its runs.

Every number is computed from stored predictions and the labels of the held-out clips, so that a result can be made
again from its files. Dates and hours are kept apart from the scores.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from psla.data.labels import Labels
from psla.lab.costs import costs
from psla.lab.tables.folder import Lab
from psla.lab.tables.plan import Plan
from psla.lab.tables.rows import Row
from psla.lab.tables.sweeps import sweep
from psla.lab.tables.training_data import impacted_classes, read_additions
from psla.lab.teaching import COLUMNS, relative_improvements
from psla.metrics.predictions import Predictions, average
from psla.metrics.scores import Scores, score
from psla.model.backbones.contract import build_backbone
from psla.model.pooling import Pooling
from psla.techniques.aggregation import ensemble
from psla.training.recipe import Recipe
from psla.training.run import Run

VERSION = 1  # of the computation: results of another version are made again
METRICS = ("mean_average_precision", "mean_auc", "d_prime", "accuracy")
LAST = 5  # epochs of `last_five` (section II-B)


@dataclass(frozen=True)
class Evidence:
    """The prediction files that a score is computed from.

    seed: of the runs; None: all seeds together. runs: whose they are. files: of predictions. is_ensemble: the
    probabilities are averaged, not the scores.
    """

    seed: int | None
    runs: tuple[Run, ...]
    files: tuple[Path, ...]
    is_ensemble: bool

    def scores(self, truth: Labels) -> list[Scores]:
        """Of each file; of an ensemble, of the mean of all."""
        if self.is_ensemble:
            return [_score(average(map(Predictions.read, self.files)), truth)]
        return [_score(Predictions.read(path), truth) for path in self.files]


def evidence(row: Row, runs: Mapping[int | None, Sequence[Run]], split: str) -> list[Evidence]:
    """By seed the predictions that a row is scored on."""
    found = []
    for seed, each in runs.items():
        files = [path for run in each for path in prediction_files(run, row.take, split)]
        found.append(Evidence(seed, tuple(each), tuple(files), row.take in ("ensemble", "checkpoint_ensemble")))
    return found


def prediction_files(run: Run, take: str, split: str) -> list[Path]:
    """The predictions of a run that `take` means; see `Row`."""
    folder, epochs = run.predictions / split, run.recipe.optimizer.epochs
    if take == "averaged":
        return [folder / "averaged.safetensors"]
    first = {"last_five": max(1, epochs - LAST + 1), "checkpoint_ensemble": 1}.get(take, epochs)
    return [folder / f"epoch_{epoch:03d}.safetensors" for epoch in range(first, epochs + 1)]


def fingerprint(lab: Lab, plan: Plan, name: str) -> str:
    """A hash of all that a result depends on: a result with the same is never made again."""
    parts = {
        "version": VERSION,
        "row": plan.rows[name].model_dump(),
        "differences": plan.differences(name),
        "runs": {str(seed): keys for seed, keys in plan.sources(name).items()},
        "truth": lab.truth,
        "split": lab.split,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def not_run(lab: Lab, plan: Plan, name: str, reason: str) -> dict[str, Any]:
    """The result of a row that could not be carried out."""
    nothing: dict[str, Any] = {"seeds": [], "mean": {}, "deviation": {}, "parameters": None, "clips_per_second": None}
    return {**_head(lab, plan, name, "not run", reason), **nothing, "details": {}}


def row_result(lab: Lab, plan: Plan, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The result of a row whose runs are finished; the content of `results/ROW.json`.

    Args:
        device: where averages of weights are tried, for Figure 7.
    """
    row = plan.rows[name]
    runs = {seed: [lab.run(plan.jobs[key]) for key in keys] for seed, keys in plan.sources(name).items()}
    found = evidence(row, runs, lab.split)
    seeds = [_entry(lab, name, each) for each in found]
    mean, deviation = {}, {}
    for metric in METRICS:
        values = [each["scores"][metric] for each in seeds]
        whole = None not in values
        mean[metric] = fmean(values) if whole else None
        deviation[metric] = stdev(values) if whole and len(values) > 1 else None
    speeds = [costs([run]).training for each in found for run in each.runs] if row.is_trained else []
    return {
        **_head(lab, plan, name, "done", None),
        "seeds": seeds,
        "mean": mean,
        "deviation": deviation,
        "parameters": _parameters(lab, found[0]),
        "clips_per_second": _mean(speeds),
        "details": _details(lab, plan, name, found, device),
    }


def _head(lab: Lab, plan: Plan, name: str, status: str, reason: str | None) -> dict[str, Any]:
    row = plan.rows[name]
    resolved = next((plan.jobs[key].recipe.model_dump() for (own, _), key in plan.keys.items() if own == name), {})
    return {
        "row": name,
        "title": row.title,
        "table": row.table,
        "groups": row.groups,
        "from": row.origin,
        "recipe": {key: _value(resolved, key) for key in plan.differences(name)} if resolved else {},
        "status": status,
        "reason": reason,
        "take": row.take,
        "fingerprint": fingerprint(lab, plan, name),
    }


def _value(data: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        data = data[part]
    return data


def _entry(lab: Lab, name: str, each: Evidence) -> dict[str, Any]:
    """What a result says of one seed."""
    scores = each.scores(lab.true_labels)
    folder = shlex.quote(str(lab.folder))
    if len(each.runs) == 1:
        run = f"{folder}/{lab.relative(each.runs[0].folder)}"
        again = shlex.quote(f"{each.runs[0].folder.name}-again")
        command = f"psla train {run}/recipe.yaml --clips {run}/clips.parquet --out {again}"
    else:
        files = " ".join(f"{folder}/{lab.relative(path)}" for path in each.files)
        command = f"psla ensemble {files} --out {name}.safetensors"
    return {
        "seed": each.seed,
        "runs": [lab.relative(run.folder) for run in each.runs],
        "predictions": [lab.relative(path) for path in each.files],
        "combine": "mean_of_probabilities" if each.is_ensemble else "mean_of_scores",
        "scores": {metric: _mean([getattr(found, metric) for found in scores]) for metric in METRICS},
        "command": command,
        "hours": round(sum(run.seconds for run in each.runs) / 3600, 4),
    }


def _details(lab: Lab, plan: Plan, name: str, found: Sequence[Evidence], device: torch.device | str) -> dict[str, Any]:
    row = plan.rows[name]
    if row.take in ("ensemble", "checkpoint_ensemble"):
        return _ensemble(lab, found)
    if row.sweep:
        points = {each.seed: sweep(lab, each.runs[0], device) for each in found}
        means = {
            key: np.mean([each[key] for each in points.values()], axis=0).tolist() for key in points[found[0].seed]
        }
        return {**means, "seeds": [{"seed": seed, **each} for seed, each in points.items()]}
    if row.is_trained and plan.catalogue.inherited(name, "labels"):
        return _enhancement(lab, plan, name, found)
    return {}


def _ensemble(lab: Lab, found: Sequence[Evidence]) -> dict[str, Any]:
    """Table X's columns: the number of members, the mean of their mAPs, the best of them, and that of the ensemble."""
    seeds = []
    for each in found:
        files = {lab.relative(path): path for path in each.files}
        labels = lab.true_labels.part(Predictions.read(each.files[0]).vocabulary)
        readers = {name: partial(Predictions.read, path) for name, path in files.items()}
        _, table = ensemble(readers, labels)
        plain = table.to_dict()
        scores = list(plain["members"].values())
        numbers = {key: plain[key] for key in ("average", "best", "ensemble")}
        seeds.append({"seed": each.seed, "names": list(files), "scores": scores, **numbers})
    means = {key: _mean([each[key] for each in seeds]) for key in ("average", "best", "ensemble")}
    return {"members": len(found[0].files), **means, "seeds": seeds}


def _enhancement(lab: Lab, plan: Plan, name: str, found: Sequence[Evidence]) -> dict[str, Any]:
    """Table VIII's columns: this row's runs against their teachers', by what the row takes and the lab's truth."""
    seeds: list[dict[str, Any]] = []
    for each in found:
        assert each.seed is not None
        job = plan.jobs[plan.keys[name, each.seed]]
        teacher = lab.run(plan.jobs[job.teachers[0]])
        additions = read_additions(lab.folder / "labels" / each.runs[0].folder.name)
        taught_by = evidence(plan.rows[name], {each.seed: [teacher]}, lab.split)[0]
        before, after = (evidence.scores(lab.true_labels) for evidence in (taught_by, each))
        old, new = (_classwise(scores) for scores in (before, after))
        impacted = impacted_classes(additions, [c.id for c in before[0].per_class])
        row = {key: value for key, value in additions.items() if key != "classes_added_to"}
        row |= relative_improvements(old, new, impacted)
        row |= {"map_before": _mean([s.mean_average_precision for s in before])}
        row |= {"map_after": _mean([s.mean_average_precision for s in after])}
        seeds.append({"seed": each.seed, **row})
    columns: dict[str, Any] = {}
    for column in COLUMNS:
        values = [row[column] for row in seeds if row[column] is not None]
        spread = stdev(values) if len(values) > 1 else None
        columns[column] = {"mean": fmean(values) if values else None, "deviation": spread}
    return {**columns, "seeds": seeds}


def _classwise(scores: Sequence[Scores]) -> np.ndarray:
    """(classes,) average precision, the mean over several predictions."""
    return np.mean([[each.average_precision for each in found.per_class] for found in scores], axis=0)


def parameters(recipe: Recipe, classes: int) -> int:
    """The number of weights that a recipe's network learns.

    Example:
        >>> recipe = Recipe.from_dict({"backbone": {"name": "efficientnet_b2"}})
        >>> round(parameters(recipe, classes=527) / 1e6, 2)
        13.64
    """
    with torch.device("meta"):  # shapes only
        backbone = build_backbone(recipe.backbone.name)
        classes = classes if recipe.classes is None else len(recipe.classes)
        pooling = Pooling(int(backbone.channels), classes, recipe.pooling.heads)
        return sum(weight.numel() for part in (backbone, pooling) for weight in part.parameters())


def _parameters(lab: Lab, found: Evidence) -> int:
    """Of the network, or of all members of an ensemble."""
    members = found.files if found.is_ensemble else found.files[:1]
    return sum(parameters(Run(path.parents[2]).recipe, len(lab.clips.vocabulary)) for path in members)


def _score(predictions: Predictions, truth: Labels) -> Scores:
    return score(predictions, truth.part(predictions.vocabulary))


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one value is missing."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(known) if known and len(known) == len(values) else None
