"""Laws of the recipe: the presets carry the paper's numbers, and refusals name the key and the rule."""

from pathlib import Path
from typing import Any

import pytest

from psla.data.vocabulary import Vocabulary
from psla.training.keys import parse_override, presets
from psla.training.recipe import OptimizerRecipe, Recipe, RecipeError
from psla.training.trainer import learning_rate

VOCABULARY = Vocabulary(["dog", "rain", "siren"])


def value(recipe: Recipe, key: str) -> Any:
    for part in key.split("."):
        recipe = getattr(recipe, part)
    return recipe


@pytest.mark.parametrize("name", presets())
def test_presets_round_trip(name: str, tmp_path: Path) -> None:
    """Every preset loads, and the YAML of its resolved values reads back to an equal recipe."""
    recipe = Recipe.load(name)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe


def test_values_that_yaml_misreads_round_trip(tmp_path: Path) -> None:
    """Class ids that look like numbers or truth values, small floats and paths survive the YAML."""
    recipe = Recipe.from_dict(
        {"classes": ["1", "no", "1e-3"], "optimizer": {"weight_decay": 1e-9}, "backbone": {"weights": "12"}}
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe


PAPER = {
    "front_end.window": "hanning",
    "front_end.frames": 1056,
    "front_end.mel_bins": 128,
    "backbone.name": "efficientnet_b2",
    "backbone.pretraining": "imagenet",
    "backbone.stem": "random",
    "pooling.heads": 4,
    "sampling.balanced": True,
    "sampling.smoothing": 0.0,
    "mixup.rate": 0.5,
    "mixup.alpha": 10.0,
    "masking.frequency": 48,
    "masking.time": 192,
    "optimizer.batch_size": 100,
    "optimizer.learning_rate": 1e-4,
    "optimizer.epochs": 30,
    "optimizer.halve_after": 10,
    "optimizer.halve_every": 5,
    "optimizer.warmup_steps": 1000,
    "optimizer.beta1": 0.95,
    "optimizer.beta2": 0.999,
    "optimizer.weight_decay": 5e-7,
    "averaging.first_epoch": 16,
}
DIFFERENCES: dict[str, dict[str, Any]] = {
    "audioset-full": {},
    "audioset-balanced": {
        "optimizer.learning_rate": 1e-3,
        "optimizer.epochs": 60,
        "optimizer.halve_after": 35,
        "averaging.first_epoch": 41,
        "sampling.balanced": False,
    },
    "fsd50k": {
        "front_end.frames": 3000,
        "optimizer.batch_size": 24,
        "optimizer.learning_rate": 5e-4,
        "optimizer.epochs": 40,
        "averaging.first_epoch": 21,
    },
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_presets_carry_the_numbers(name: str) -> None:
    """The paper's presets hold the paper's numbers, and FSD50K's those of the released code."""
    recipe = Recipe.load(name)
    want = PAPER | DIFFERENCES[name]
    assert {key: value(recipe, key) for key in want} == want


def test_full_audioset_is_the_default() -> None:
    """A recipe that says nothing is the one for the full AudioSet."""
    assert Recipe.load("audioset-full") == Recipe()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"optimizer": {"momentum": 1}}, ("optimizer.momentum", "no such key", "learning_rate")),
        ({"optimiser": {"epochs": 1}}, ("optimiser", "no such key", "optimizer")),
        ({"optimizer": {"epochs": "many"}}, ("optimizer.epochs", "integer", "'many'")),
        ({"optimizer": {"epochs": 2.5}}, ("optimizer.epochs", "integer", "2.5")),
        ({"optimizer": {"epochs": True}}, ("optimizer.epochs", "integer", "True")),
        ({"optimizer": None}, ("optimizer", "None")),
        ({"sampling": {"balanced": 1}}, ("sampling.balanced", "boolean", "1")),
        ({"mixup": {"rate": 1.5}}, ("mixup.rate", "less than or equal to 1", "1.5")),
        ({"mixup": {"alpha": 0.0}}, ("mixup.alpha", "greater than 0", "0.0")),
        ({"mixup": {"alpha": float("nan")}}, ("mixup.alpha", "finite")),
        ({"backbone": {"name": "vgg"}}, ("backbone.name", "'vgg' is none of", "efficientnet_b2")),
        ({"front_end": {"window": "kaiser"}}, ("front_end.window", "hanning", "hamming", "kaiser")),
        ({"averaging": {"first_epoch": 31}}, ("averaging.first_epoch", "epoch 31", "30")),
        ({"masking": {"frequency": 129}}, ("masking.frequency", "129", "128 bins")),
        ({"front_end": {"frames": 100}}, ("masking.time", "192", "100 frames")),
        (
            {"backbone": {"weights": "w.pth", "pretraining": "none"}},
            ("backbone.weights", "backbone.pretraining: imagenet"),
        ),
        ({"seed": -1}, ("seed", "greater than or equal to 0", "-1")),
    ],
)
def test_refusals(data: dict[str, Any], words: tuple[str, ...]) -> None:
    """What cannot be carried out is refused in one sentence that names the key, the rule and the value."""
    with pytest.raises(RecipeError) as error:
        Recipe.from_dict(data)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in ("recipe key", *words)), sentence


def test_warm_up_longer_than_the_run() -> None:
    """A warm-up of as many steps as the run is taken, of one more refused."""
    # 250 clips in batches of 100 are 3 steps an epoch: 90 in 30 epochs.
    Recipe.load("audioset-full", {"optimizer.warmup_steps": 90}).check(250, VOCABULARY)
    with pytest.raises(RecipeError, match=r"optimizer.warmup_steps: a warm-up of 91 steps .* run of 90 steps"):
        Recipe.load("audioset-full", {"optimizer.warmup_steps": 91}).check(250, VOCABULARY)


@pytest.mark.parametrize(
    ("classes", "words"), [(["dog", "cat"], ("classes", "cat")), ([], ("classes", "empty")), (["dog", "dog"], ("dog",))]
)
def test_classes_outside_the_vocabulary(classes: list[str], words: tuple[str, ...]) -> None:
    """Classes that the clips do not have, none at all, and one given twice are refused."""
    with pytest.raises(RecipeError) as error:
        Recipe.from_dict({"classes": classes}).check(10**9, VOCABULARY)
    assert all(word in str(error.value) for word in ("recipe key classes", *words))


def test_extends(tmp_path: Path) -> None:
    """A file changes only the keys that it gives, over a preset or over another file."""
    (tmp_path / "a.yaml").write_text("extends: audioset-balanced\noptimizer: {epochs: 61, learning_rate: 2e-3}\n")
    (tmp_path / "b.yaml").write_text(f"extends: {tmp_path / 'a.yaml'}\nseed: 5\n")
    got = Recipe.load(tmp_path / "b.yaml", {"mixup.rate": 0.25})
    want = Recipe.load(
        "audioset-balanced",
        {"optimizer.epochs": 61, "optimizer.learning_rate": 2e-3, "seed": 5, "mixup.rate": 0.25},
    )
    assert got == want


def test_circles_are_refused(tmp_path: Path) -> None:
    """Recipes that extend each other are refused, and the circle is shown."""
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"extends: {b}\n")
    b.write_text(f"extends: {a}\n")
    with pytest.raises(RecipeError, match=r"in a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        Recipe.load(a)


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n", "must hold keys and values; got list"), ("a: [", "is not YAML")]
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str, message: str) -> None:
    """A list and broken YAML are refused by the file's name."""
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=rf"r\.yaml.*{message}"):
        Recipe.load(path)


def test_unknown_presets() -> None:
    """A name that is neither a file nor a preset is refused with the names of the presets."""
    with pytest.raises(RecipeError, match=r"'audioset' is neither.*audioset-balanced.*fsd50k"):
        Recipe.load("audioset")


def test_a_section_in_the_overrides_keeps_the_rest() -> None:
    """An override that is a whole section changes the keys in it and leaves the section's others as they were."""
    got = Recipe.load("esc50", {"optimizer": {"epochs": 30}})
    assert got == Recipe.load("esc50", {"optimizer.epochs": 30})


def test_a_value_is_no_section() -> None:
    """A dotted key below a value is refused."""
    with pytest.raises(RecipeError, match=r"recipe key seed\.x"):
        Recipe.load("esc50", {"seed": 1, "seed.x": 2})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("optimizer.epochs=30", ("optimizer.epochs", 30)),
        ("optimizer.learning_rate=1e-3", ("optimizer.learning_rate", 1e-3)),
        ("sampling.balanced=false", ("sampling.balanced", False)),
        ("backbone.name=resnet50", ("backbone.name", "resnet50")),
        ("backbone.weights=a=b.pth", ("backbone.weights", "a=b.pth")),
        ("classes=[dog, rain]", ("classes", ["dog", "rain"])),
        ("classes=null", ("classes", None)),
    ],
)
def test_parse_override(text: str, want: tuple[str, Any]) -> None:
    """key=value is split at the first `=` and the value read as YAML."""
    assert parse_override(text) == want


@pytest.mark.parametrize("text", ["optimizer.epochs", "=3", "", "classes=[dog"])
def test_bad_overrides(text: str) -> None:
    """What is not key=value, and a value that is not YAML, is refused as a recipe's error."""
    with pytest.raises(RecipeError):
        parse_override(text)


def test_relations_are_checked_before_a_run() -> None:
    """A recipe that was put together in Python is held to the same relations between keys as a file."""
    recipe = Recipe(optimizer=OptimizerRecipe(epochs=5, warmup_steps=0))
    with pytest.raises(RecipeError, match=r"averaging\.first_epoch: .*epoch 16 of a run of 5"):
        recipe.check(1000, VOCABULARY)


def test_learning_rate() -> None:
    """Linear warm-up over 1,000 steps, then constant, then halved after epoch 10 and every 5 epochs from there."""
    recipe = Recipe()
    warm = [learning_rate(recipe, step, 0) for step in (0, 499, 999, 1000, 5000)]
    assert warm == pytest.approx([1e-7, 5e-5, 1e-4, 1e-4, 1e-4])
    late = [learning_rate(recipe, 10**6, epoch) for epoch in (0, 9, 10, 14, 15, 19, 20, 25, 29)]
    assert late == pytest.approx([1e-4 / 2**k for k in (0, 0, 1, 1, 2, 2, 3, 4, 4)])
    cold = Recipe.from_dict({"optimizer": {"warmup_steps": 0}})
    assert learning_rate(cold, 0, 0) == 1e-4


@pytest.mark.parametrize("name", presets())
def test_learning_rate_never_rises_after_the_warm_up(name: str) -> None:
    """After the warm-up the rate falls or stays, and stays above 0."""
    recipe = Recipe.load(name)
    rates = [learning_rate(recipe, 10**6, epoch) for epoch in range(recipe.optimizer.epochs)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == recipe.optimizer.learning_rate
    assert rates[-1] > 0
