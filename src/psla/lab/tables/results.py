"""Results: what a row of the lab comes to, from the prediction files of its runs.

Every number is computed from stored predictions and the labels of the held-out clips, so that a result can be made
again from its files. Dates and hours are kept apart from the scores.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psla.data.labels import Labels
from psla.lab.experiment import LabError, costs, spread, whole_mean
from psla.lab.sweep import sweep
from psla.lab.tables.folder import METRICS, Lab, RowResult, SeedResult
from psla.lab.tables.plan import Plan
from psla.lab.tables.rows import Row
from psla.lab.teaching import COLUMNS, improvements
from psla.metrics.predictions import Predictions, average
from psla.metrics.scores import Scores, score
from psla.model.backbones.contract import build_backbone
from psla.model.pooling import Pooling
from psla.sealed import read_json
from psla.techniques.aggregation import ensemble
from psla.training.keys import flatten
from psla.training.recipe import Recipe
from psla.training.run import Run

VERSION = 1  # of the computation: results of another version are made again


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
        read = map(Predictions.read, self.files)
        found = [average(read)] if self.is_ensemble else read
        return [score(predictions, truth.part(predictions.vocabulary)) for predictions in found]


def evidence(row: Row, runs: Mapping[int | None, Sequence[Run]], split: str) -> list[Evidence]:
    """By seed the predictions that a row is scored on."""
    variant = "final" if row.take == "ensemble" else row.take
    is_ensemble = row.take in ("ensemble", "checkpoint_ensemble")
    found = []
    for seed, each in runs.items():
        files = [path for run in each for path in run.prediction_files(variant, split)]
        found.append(Evidence(seed, tuple(each), tuple(files), is_ensemble))
    return found


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


def not_run(lab: Lab, plan: Plan, name: str, reason: str) -> RowResult:
    """The result of a row that could not be carried out."""
    return _result(lab, plan, name, status="not run", reason=reason)


def row_result(lab: Lab, plan: Plan, name: str, device: torch.device | str = "cpu") -> RowResult:
    """The result of a row whose runs are finished; the content of `results/ROW.json`.

    Args:
        device: where averages of weights are tried, for Figure 7.
    """
    row = plan.rows[name]
    runs = {seed: [lab.run(plan.jobs[key]) for key in keys] for seed, keys in plan.sources(name).items()}
    found = evidence(row, runs, lab.split)
    seeds = [_seed(lab, name, each) for each in found]
    over_seeds: dict[str, dict[str, float | None]] = {"mean": {}, "std": {}}
    for metric in METRICS:
        values = [each.scores[metric] for each in seeds]
        for key, value in spread([] if None in values else values).items():
            over_seeds[key][metric] = value
    speeds = [costs([run]).training for each in found for run in each.runs] if row.is_trained else []
    members = found[0].files if found[0].is_ensemble else found[0].files[:1]
    return _result(
        lab,
        plan,
        name,
        status="done",
        seeds=seeds,
        **over_seeds,
        parameters=sum(parameters(Run(path.parents[2]).recipe, len(lab.clips.vocabulary)) for path in members),
        clips_per_second=whole_mean(speeds),
        details=_details(lab, plan, name, found, device),
    )


def _result(lab: Lab, plan: Plan, name: str, **found: Any) -> RowResult:
    """A result with what is known of a row before it is carried out."""
    row = plan.rows[name]
    recipe = next((plan.jobs[key].recipe for (own, _), key in plan.keys.items() if own == name), None)
    resolved = {} if recipe is None else flatten(recipe.model_dump())
    return RowResult(
        row=name,
        title=row.title,
        table=row.table,
        groups=row.groups,
        origin=row.origin,
        recipe={key: resolved[key] for key in plan.differences(name)} if resolved else {},
        take=row.take,
        fingerprint=fingerprint(lab, plan, name),
        **found,
    )


def _seed(lab: Lab, name: str, each: Evidence) -> SeedResult:
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
    return SeedResult(
        seed=each.seed,
        runs=[lab.relative(run.folder) for run in each.runs],
        predictions=[lab.relative(path) for path in each.files],
        combine="mean_of_probabilities" if each.is_ensemble else "mean_of_scores",
        scores={metric: whole_mean(getattr(found, metric) for found in scores) for metric in METRICS},
        command=command,
        hours=round(sum(run.seconds for run in each.runs) / 3600, 4),
    )


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
    means = {key: whole_mean(each[key] for each in seeds) for key in ("average", "best", "ensemble")}
    return {"members": len(found[0].files), **means, "seeds": seeds}


def _enhancement(lab: Lab, plan: Plan, name: str, found: Sequence[Evidence]) -> dict[str, Any]:
    """Table VIII's columns: this row's runs against their teachers', by what the row takes and the lab's truth."""
    seeds: list[dict[str, Any]] = []
    for each in found:
        assert each.seed is not None
        job = plan.jobs[plan.keys[name, each.seed]]
        teacher = lab.run(plan.jobs[job.teachers[0]])
        added = lab.folder / "labels" / each.runs[0].folder.name / "enhancement.json"
        row = read_json(added, LabError, needed=["classes_added_to"])
        taught_by = evidence(plan.rows[name], {each.seed: [teacher]}, lab.split)[0]
        before, after = (evidence.scores(lab.true_labels) for evidence in (taught_by, each))
        impacted = np.isin([scores.id for scores in before[0].per_class], row.pop("classes_added_to"))
        seeds.append({"seed": each.seed, **row, **improvements(before, after, impacted)})
    return {**{column: spread(row[column] for row in seeds) for column in COLUMNS}, "seeds": seeds}


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
