"""The script that makes the packaged model: what its card takes from a cross-validation, and what it refuses.

The model that it has made is in `test_packaged.py`.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from psla.files import sha256_of
from psla.training.recipe import Recipe

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts/make_esc10_model.py"))
OTHER = {"mixup.rate": 0.25}


def written(folder: Path, recipes: dict[int, Recipe], inner: bool = False) -> Path:
    """A cross-validation of three seeds, and a run of each fold beside it."""
    for fold, recipe in recipes.items():
        place = folder / f"fold_{fold}/seed_1"
        place.mkdir(parents=True)
        (place / "recipe.yaml").write_text(recipe.to_yaml())
    of = {"accuracy": 0.91234, "interval": [0.85, 0.95004], "folds": {str(fold): 0.9 for fold in recipes}}
    found: dict[str, Any] = {"inner": inner, "systems": {"single": {"averaged": {**of, "clips": 160, "models": 3}}}}
    (folder / "cross_validation.json").write_text(json.dumps(found))
    return folder / "cross_validation.json"


def test_the_card_has_the_scores_of_the_recipe(tmp_path: Path) -> None:
    """Law: accuracy, interval and folds are the report's; seeds may differ; the report is named by its bytes."""
    preset = Recipe.load("esc50")
    seeded = Recipe.load("esc50", {"seed": 1})
    path = written(tmp_path, {1: preset, 3: seeded})
    found = SCRIPT["scores"](path, preset)["cross_validation"]
    assert (found["accuracy"], found["interval_95"], found["folds"]) == (0.9123, [0.85, 0.95], [1, 3])
    assert (found["clips"], found["models_a_clip"], found["sha256"]) == (160, 3, sha256_of(path))
    assert found["of"].endswith("All had the recipe of this one")


def test_folds_of_other_settings_are_named(tmp_path: Path) -> None:
    """Law: where each fold had settings of its own, the card says which ones are not the model's."""
    path = written(tmp_path, {1: Recipe.load("esc50"), 2: Recipe.load("esc50", OTHER)})
    said = SCRIPT["scores"](path, Recipe.load("esc50"))["cross_validation"]["of"]
    assert said.endswith("Those of the folds [2] had settings of their own")


def test_scores_that_are_not_the_recipe_s_are_refused(tmp_path: Path) -> None:
    """Law: no card has the score of another recipe, of folds that chose settings, or of runs that are not there."""
    preset = Recipe.load("esc50")
    refusal = SCRIPT["Refusal"]
    with pytest.raises(refusal, match="is of other recipes"):
        SCRIPT["scores"](written(tmp_path / "other", {1: Recipe.load("esc50", OTHER)}), preset)
    with pytest.raises(refusal, match="made with --inner"):
        SCRIPT["scores"](written(tmp_path / "inner", {1: preset}, inner=True), preset)
    path = written(tmp_path / "gone", {1: preset})
    (path.parent / "fold_1/seed_1/recipe.yaml").unlink()
    with pytest.raises(refusal, match="has no run seed_"):
        SCRIPT["scores"](path, preset)


def test_the_command_says_what_differs_from_the_preset() -> None:
    """Law: the training command of the card is the preset's with every key that differs, and no other."""
    plain = "psla train esc50 --clips esc10.parquet --out esc10-lite0"
    assert SCRIPT["training_command"](Recipe.load("esc50")) == plain
    assert SCRIPT["training_command"](Recipe.load("esc50", OTHER)) == f"{plain} --set mixup.rate=0.25"
