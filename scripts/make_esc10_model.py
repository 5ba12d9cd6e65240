"""Make `src/psla/weights/packaged/esc10-lite0.safetensors`: a finished run in half precision, with a whole card.

    psla corpus esc50 ESC-10 --esc10 --all-folds --out runs/esc10.parquet
    psla train esc50 --clips runs/esc10.parquet --out runs/esc10-lite0
    psla lab cross-validate ESC-10 --seeds 0,1 --settings lite2 --out runs/folds
    python scripts/make_esc10_model.py runs/esc10-lite0 --scores runs/folds/cross_validation.json

ESC-10 stands for a folder in ESC-50's layout (meta/, audio/). A model that has heard every clip cannot be scored on any
of them, so the card has the accuracy of the cross-validation of the recipe, and says so; the recipes of its runs, which
must lie beside the scores, are compared, and the folds that had another one (`psla lab select`) are named. Prints how
far half precision moves the probabilities, on the run's own clips as far as they can be read.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from psla.corpora import esc50
from psla.data.clips import Clips
from psla.data.source import open_source
from psla.files import sha256_of
from psla.model.file import Model, ModelCard, load_model, save_model
from psla.model.inference import predict
from psla.training.keys import flatten
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.weights.packaged import MOST_BYTES, PACKAGED

NAME = "esc10-lite0"

LICENCE = "CC BY 3.0 (https://creativecommons.org/licenses/by/3.0/), as the recordings it was trained on"
CORPUS = (
    "ESC-10, the subset of ESC-50 (K. J. Piczak: ESC: Dataset for Environmental Sound Classification, 2015, "
    "https://github.com/karolpiczak/ESC-50), CC BY 3.0; recordings by users of freesound.org, each named in the list "
    "of authors that comes with it (CC0 and CC BY; two clips under CC Sampling Plus)"
)
PRESET = "esc50"


class Refusal(ValueError):
    """A run or scores that such a model cannot be made of."""


def folds_of(clips: Clips) -> list[int]:
    """The folds that clips are of; an ESC-50 clip's name begins with its fold."""
    return sorted({int(id.split("-")[0]) for id in clips.clip_ids})


def training_command(recipe: Recipe) -> str:
    """`psla train` with what the recipe has other than the preset."""
    preset = flatten(Recipe.load(PRESET).model_dump())
    changes = [f"{key}={value}" for key, value in flatten(recipe.model_dump()).items() if preset[key] != value]
    words = ["psla", "train", PRESET, "--clips", "esc10.parquet", "--out", NAME]
    return shlex.join([*words, *(word for change in changes for word in ("--set", change))])


def alike(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes are the same but for the seed and the place of the teacher's predictions."""
    values = [recipe.model_dump() for recipe in (one, other)]
    for each in values:
        each["seed"] = 0
        each["distillation"]["predictions"] = bool(each["distillation"]["predictions"])
    return values[0] == values[1]


def had_recipe(folder: Path, run: str, recipe: Recipe) -> bool:
    """Whether the runs of a fold had this recipe.

    Raises:
        Refusal: there are none.
    """
    found = sorted(folder.glob(f"{run}_*/recipe.yaml"))
    if not found:
        raise Refusal(f"{folder} has no run {run}_…, of which the recipe could be compared")
    return all(alike(recipe, Recipe.load(path)) for path in found)


def scores(path: Path, recipe: Recipe) -> dict[str, Any]:
    """What a cross-validation says of the recipe's averaged weights, and of which models it says it.

    Raises:
        Refusal: made with --inner, or no fold had this recipe.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["inner"]:
        raise Refusal(f"{path} was made with --inner, to choose settings: give one that scores on the folds themselves")
    system, run = ("student", "student") if recipe.distillation.predictions else ("single", "seed")
    each = found["systems"][system]["averaged"]
    same = [int(fold) for fold in each["folds"] if had_recipe(path.parent / f"fold_{fold}", run, recipe)]
    if not same:
        raise Refusal(f"{path} is of other recipes than that of the run: cross-validate the same one")
    others = [int(fold) for fold in each["folds"] if int(fold) not in same]
    of = "models, each scored on the fold that it was not trained on; not of this model, which was trained afterwards. "
    of += "All had the recipe of this one" if not others else f"Those of the folds {others} had settings of their own"
    return {
        "cross_validation": {
            "accuracy": round(each["accuracy"], 4),
            "interval_95": [round(bound, 4) for bound in each["interval"]],
            "folds": [int(fold) for fold in each["folds"]],
            "clips": each["clips"],
            "of": of,
            "models_a_clip": each["models"],
            "system": system,
            "file": path.name,
            "sha256": sha256_of(path),
        }
    }


def card(run: Run, scored: dict[str, Any], own: ModelCard) -> ModelCard:
    """The card of the packaged model; `own` is that of the run's model file."""
    training = run.clips.split("train")
    held_out = sorted(set(run.clips.counts()) - {"train"})
    heard = f"{len(training)} clips of the folds {', '.join(map(str, folds_of(training)))}"
    left = f"; {', '.join(held_out)} held out" if held_out else "; none is held out"
    table = "psla corpus esc50 ESC-10 --esc10 " + ("--all-folds" if not held_out else "") + " --out esc10.parquet"
    return ModelCard(
        recipe=own.recipe,
        scores=scored,
        licence=LICENCE,
        training_data=f"{CORPUS}: {heard}{left}",
        provenance={
            **own.provenance,
            "commands": [" ".join(table.split()), training_command(run.recipe)],
            "made_by": "scripts/make_esc10_model.py",
            "model_sha256": sha256_of(run.model_file),
            "stored_as": "float16",
        },
    )


def compare(one: Model, other: Model, clips: Clips) -> str:
    """How far two models are apart on clips, and how often the second is right."""
    source = open_source(clips, one.network.config.front_end.sample_rate)
    ours, theirs = (predict(each.network, source, each.vocabulary) for each in (one, other))
    ids = ours.predictions.clip_ids
    if not ids:
        return "none of the run's clips can be read: the two precisions were not compared"
    a, b = ours.predictions.probabilities, theirs.predictions.probabilities
    truth = clips.select(ids).labels().matrix().argmax(axis=1)
    return (
        f"half against float32 on {len(ids)} clips: probabilities differ by {np.abs(a - b).max():.1e} at most, the "
        f"answer on {(a.argmax(axis=1) != b.argmax(axis=1)).sum()} clips; right on "
        f"{(b.argmax(axis=1) == truth).mean():.4f} of the clips, which it has heard unless they were held out"
    )


def make(folder: Path, scores_path: Path, out: Path) -> str:
    """Write the model; what to print about it.

    Raises:
        Refusal: a run that is not finished or not of ESC-10, scores of another recipe, or a file that is too large.
    """
    run = Run.open(folder)
    if not run.is_finished:
        raise Refusal(f"{folder} is not finished: go on with it, psla train --resume {folder}")
    model = load_model(run.model_file)
    if len(model.vocabulary) != 10 or run.clips.name != esc50.FACTS["name"]:
        raise Refusal(f"{folder} was not trained on ESC-10: psla corpus esc50 ROOT --esc10 --all-folds")
    scored = scores(scores_path, run.recipe)
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        made = Path(place) / out.name
        save_model(made, model.network, model.vocabulary, card(run, scored, model.card), dtype="float16")
        size = made.stat().st_size
        if size > MOST_BYTES:
            raise Refusal(f"{out} would have {size} bytes; a packaged model has at most {MOST_BYTES}")
        made.chmod(0o644)  # everyone who can use the package reads it
        made.replace(out)
    found = scored["cross_validation"]
    missing = "" if found["folds"] == list(esc50.FOLDS) else f" on the folds {found['folds']} only: not to be packaged"
    first = f"{out}: {size} bytes, accuracy {found['accuracy']} cross-validated{missing}"
    return f"{first}\n{compare(model, load_model(out), run.clips)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--scores", type=Path, required=True, help="cross_validation.json, its runs beside it")
    parser.add_argument("--out", type=Path, default=PACKAGED[NAME].path, help="by default the one in the package")
    given = parser.parse_args()
    try:
        print(make(given.run, given.scores, given.out))
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
