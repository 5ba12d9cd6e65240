"""What a cross-validation found, as cross_validation.json for machines and cross_validation.md for readers.

Costs are of a system's own runs: a student needs those of its teachers, too. An ensemble predicts with all its members,
so its speed is that of all of them together divided by their number; see `Costs` for what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psla.files import write_json_atomic, write_text_atomic
from psla.lab.experiment import Costs, costs, machine
from psla.lab.folds.answers import Answers
from psla.lab.folds.cross_validation import ENSEMBLES, CrossValidation
from psla.lab.tables.results import parameters
from psla.report.page import Heading, Numbers, Part, Table, Text, markdown, number

# What the first table shows, by the name that a reader looks for; the first of the ensemble and the single model that
# there is has its confusions and its mistakes shown.
HEADLINES = {
    "single": ("single", "final"),
    "averaged": ("single", "averaged"),
    "ensemble": ("ensemble", "averaged"),
    "ensemble of settings": ("settings", "averaged"),
    "ensemble of all": ("all", "averaged"),
    "distilled": ("student", "averaged"),
}
SHOWN = ("ensemble", "averaged")
# The differences that are shown, where there are both.
PAIRED = (
    ("ensemble", "single"),
    ("student", "single"),
    ("student", "ensemble"),
    ("settings", "single"),
    ("settings", "ensemble"),
    ("all", "single"),
    ("all", "ensemble"),
)


def report_data(found: CrossValidation, names: Mapping[int, str], command: str = "") -> dict[str, Any]:
    """Plain data for JSON.

    Args:
        names: by fold, of the recipe: a preset, a file or a candidate. command: as the user gave it.
    """
    asked = found.experiment
    recipes = {str(fold): {"name": names[fold], "recipe": asked.recipe_of(fold).model_dump()} for fold in asked.folds}
    return {
        "inner": asked.inner,
        "hours": found.hours,
        "machine": machine(),
        "command": command,
        "folds": list(asked.folds),
        "seeds": list(asked.seeds),
        "recipes": recipes,
        "settings": {each.name: each.recipe.model_dump() for each in asked.settings},
        "costs": {
            system: {"parameters": _parameters(found, system), **_costs(found, system).to_dict()}
            for system in found.members
        },
        **answers_data(found.answers),
    }


def report_parts(found: CrossValidation, names: Mapping[int, str], command: str = "") -> list[Part]:
    """The report for readers; the arguments are those of `report_data`."""
    asked = found.experiment
    shown = SHOWN if SHOWN in found.answers else ("single", "averaged")
    answers, which = found.answers[shown], f"{shown[0]}, {shown[1]}"
    chosen = {(name, key[1]): found.answers[key] for name, key in HEADLINES.items() if key in found.answers}
    headlines = accuracies(chosen)
    wrong = [[each["clip_id"], str(each["fold"]), each["label"], each["answer"]] for each in answers.misclassified()]
    parts: list[Part] = [
        Numbers([
            ("clips", str(len(answers.clip_ids))),
            ("classes", str(len(answers.vocabulary))),
            ("seeds", ", ".join(map(str, asked.seeds))),
            ("runs", str(len(found.runs))),
            ("hours", f"{found.hours:.2f}"),
            ("machine", machine()),
            *([("command", command)] if command else []),
        ]),
        Heading("Accuracy"),
        Text(
            "Share of the clips answered rightly, each by models that have not heard its fold; 95 %: a bootstrap over "
            "the recordings."
            + (" Scored on another fold than the one that is left out, to try settings out." if asked.inner else "")
        ),
        Table(["", *headlines.head[1:]], headlines.rows, text=(0, 1)),
        Heading("Costs"),
        _cost_table(found),
        Heading("Recipes"),
        Table(
            ["fold", "recipe"],
            [*([str(fold), names[fold]] for fold in asked.folds), *(["all", each.name] for each in asked.settings)],
            text=(0, 1),
        ),
        Heading("All variants"),
        accuracies(found.answers),
    ]  # fmt: skip
    gaps = differences(found.answers)
    return [
        *parts,
        *([gaps] if gaps.rows else []),
        Heading(f"Confusions ({which})"),
        Text(
            "Clips by true class (rows) and answer (columns, by number); the mean over models where there are several."
        ),
        _confusions(answers),
        Heading(f"Misclassified clips ({which})"),
        Table(["clip", "fold", "class", "answer"], wrong, text=(0, 2, 3)) if wrong else Text("None."),
    ]


def write_report(found: CrossValidation, out: str | Path, names: Mapping[int, str], command: str = "") -> None:
    """Write cross_validation.json and cross_validation.md; the arguments are those of `report_data`."""
    write_json_atomic(Path(out) / "cross_validation.json", report_data(found, names, command))
    text = markdown("Cross-validation", report_parts(found, names, command))
    write_text_atomic(Path(out) / "cross_validation.md", text)


def answers_data(answers: Mapping[tuple[str, str], Answers]) -> dict[str, Any]:
    """Plain data for JSON: by system and variant the accuracy, its interval, the folds', confusions and mistakes."""
    data: dict[str, Any] = {}
    for (system, variant), each in answers.items():
        folds = {str(fold): each.accuracy_of_fold(fold) for fold in np.unique(each.folds)}
        data.setdefault(system, {})[variant] = {
            "accuracy": each.accuracy,
            "interval": each.interval(),
            "folds": folds,
            "clips": len(each.clip_ids),
            "models": each.guesses.shape[1],
            "confusion": np.round(each.confusion(), 4).tolist(),
            "misclassified": each.misclassified(),
        }
    return {"classes": next(iter(answers.values())).vocabulary.names, "systems": data}


def accuracies(answers: Mapping[tuple[str, str], Answers]) -> Table:
    """Accuracy by system, variant and fold, over all clips, and its interval."""
    folds = [int(fold) for fold in np.unique(next(iter(answers.values())).folds)]
    rows = []
    for (system, variant), each in answers.items():
        low, high = each.interval()
        cells = [f"{each.accuracy_of_fold(fold):.4f}" for fold in folds]
        rows.append([system, variant, *cells, f"{each.accuracy:.4f}", f"{low:.4f} .. {high:.4f}"])
    return Table(["system", "variant", *(f"fold {fold}" for fold in folds), "all", "95 %"], rows, text=(0, 1))


def differences(answers: Mapping[tuple[str, str], Answers]) -> Table:
    """Differences between systems, paired; no row where there is one system."""
    rows = []
    for one, other in PAIRED:
        for variant in dict.fromkeys(variant for _, variant in answers):
            if (one, variant) in answers and (other, variant) in answers:
                ours, theirs = answers[one, variant], answers[other, variant]
                low, high = ours.interval(theirs)
                gap = ours.accuracy - theirs.accuracy
                rows.append([f"{one} - {other}", variant, f"{gap:+.4f}", f"{low:+.4f} .. {high:+.4f}"])
    return Table(["difference", "variant", "all", "95 %"], rows, text=(0, 1))


def _parameters(found: CrossValidation, system: str) -> dict[str, int]:
    """By fold: an ensemble has those of all its members, the others those of one model."""
    classes, sizes = len(next(iter(found.answers.values())).vocabulary), {}
    for fold, runs in found.members[system].items():
        models = runs if system in ENSEMBLES else runs[:1]
        sizes[str(fold)] = sum(parameters(run.recipe, classes) for run in models)
    return sizes


def _costs(found: CrossValidation, system: str) -> Costs:
    folds = found.members[system]
    spent = costs([run for runs in folds.values() for run in runs])
    if system not in ENSEMBLES or spent.prediction is None:
        return spent
    return Costs(spent.hours, spent.training, spent.prediction / len(folds[found.experiment.folds[0]]))


def _cost_table(found: CrossValidation) -> Table:
    rows = []
    for system in found.members:
        sizes, spent = set(_parameters(found, system).values()), _costs(found, system)
        size = " .. ".join(f"{count / 1e6:.2f} M" for count in sorted({min(sizes), max(sizes)}))
        rows.append([system, size, f"{spent.hours:.2f}", number(spent.training, 1), number(spent.prediction, 1)])
    head = ["system", "parameters", "hours", "clips/s in training", "clips/s in prediction"]
    return Table(head, rows, caption="An ensemble's trainings are those of its members.")


def _confusions(answers: Answers) -> Table:
    names = answers.vocabulary.names
    rows: list[Sequence[str]] = [
        [f"{number} {name}", *("" if value < 0.005 else f"{value:.2f}".removesuffix(".00") for value in line)]
        for number, (name, line) in enumerate(zip(names, answers.confusion(), strict=True), start=1)
    ]
    return Table(["class", *map(str, range(1, len(names) + 1))], rows)
