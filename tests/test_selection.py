"""Nested cross-validation: settings are chosen without a look at the fold that is reported, and arrive in its runs.

The corpus is noise in ESC-50's layout, the networks have a few thousand weights: what is chosen means nothing here, but
what it depends on does.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from psla.cli import app
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.files import JournalError
from psla.lab.experiment import LabError, working
from psla.lab.folds import cross_validation, fold_report, selection
from psla.lab.folds.answers import FOLDS, PAIRS, Answers, choose, judges_of, pairs_of, run_name
from psla.lab.folds.candidates import Candidate, SelectionError, load_candidates, packaged
from psla.metrics.predictions import Predictions
from psla.model.backbones.efficientnet import VARIANTS, Variant
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.training.trainer import TrainingError

TINY = """
front_end: {frames: 32, mel_bins: 32}
backbone: {name: efficientnet_lite0, pretraining: none}
pooling: {heads: 1}
masking: {frequency: 8, time: 8}
optimizer: {batch_size: 4, epochs: 1, warmup_steps: 0}
averaging: {first_epoch: 1}
"""


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Small networks, one thread, no pictures of runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "efficientnet_lite0", Variant(width=0.1, depth=0.1, image_size=224))
        patch.setattr(Run, "draw", lambda *args, **options: None)
        patch.setattr("os.fsync", lambda descriptor: None)
        yield
    torch.set_num_threads(before)


def write_corpus(root: Path) -> Path:
    """Thirty noises: three classes, five folds, two clips of each."""
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for index in range(30):
        fold, target = 1 + index // 6, index % 3
        name = f"{fold}-{index}-A-{target}.wav"
        lines.append(f"{name},{fold},{target},{('dog', 'rain', 'siren')[target]},True,{index},A")
        noise = np.random.default_rng(index).normal(0, 0.01 * (1 + target), 6000)
        soundfile.write(root / "audio" / name, np.convolve(noise, np.ones(1 + 2 * target), "same"), 16000)
    (root / "meta/esc50.csv").write_text("\n".join(lines) + "\n")
    return root


def write_folder(folder: Path) -> Path:
    """A corpus, a recipe and two candidates that differ from it."""
    write_corpus(folder / "esc")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "candidates").mkdir()
    for name, text in {"preset": "", "fast": "optimizer: {learning_rate: 0.03}\n"}.items():
        (folder / f"candidates/{name}.yaml").write_text(f"extends: {folder}/tiny.yaml\n{text}")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What trainings begin with; see `write_folder`."""
    return write_folder(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, selection.Selection]:
    """A folder in whose `out` everything has been trained and chosen, to read or to copy."""
    folder = write_folder(tmp_path_factory.mktemp("whole"))
    return folder, selection.select(both(folder), folder / "esc", folder / "out")


def both(folder: Path) -> list[Candidate]:
    """The two candidates."""
    return load_candidates([str(folder / "candidates")])


def psla(*words: object) -> Result:
    """A call of the command line."""
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result: Result) -> str:
    """What a call that is refused says: one sentence."""
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("psla: ")
    return result.stderr


def rewrite(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Change the rows of a CSV."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_candidates_of_the_package_are_recipes_of_their_own() -> None:
    """Law: every candidate of the package resolves, the preset leads, and each other one differs from it."""
    found = load_candidates(["all"])
    assert [each.name for each in found] == packaged()
    assert found[0] == Candidate("preset", Recipe.load("esc50"))
    assert len({each.recipe.to_yaml() for each in found}) == len(found) >= 5


def test_candidates_are_taken_as_given(folder: Path) -> None:
    """Law: names, files and folders keep their order; a base takes the place of what they extend."""
    assert [each.name for each in both(folder)] == ["preset", "fast"]
    fast, small = load_candidates([str(folder / "candidates/fast.yaml"), "mel_64"], str(folder / "tiny.yaml"))
    assert (fast.name, fast.recipe.optimizer.learning_rate) == ("fast", 0.03)
    assert (small.recipe.front_end.mel_bins, small.recipe.front_end.frames) == (64, 32)


def test_each_fold_is_judged_by_its_neighbours() -> None:
    """Law: a fold has two judges, its neighbours on the ring, by the two trainings that have not heard it."""
    for fold in FOLDS:
        judges = judges_of(fold)
        assert sorted(judge for _, judge in judges) == sorted([(fold - 2) % 5 + 1, fold % 5 + 1])
        assert all(fold in pair and judge in pair and judge != fold for pair, judge in judges)
        assert [pair for pair, _ in judges] == pairs_of([fold])
    assert sorted(judge for fold in FOLDS for _, judge in judges_of(fold)) == sorted([*FOLDS, *FOLDS])


def test_a_training_hears_none_of_its_pair(folder: Path) -> None:
    """Law: a pair's training has the other three folds, whole, and is scored on the pair."""
    for pair in PAIRS:
        clips = selection.pair_clips(folder / "esc", pair)
        folds = {id: int(id[0]) for id in clips.clip_ids}
        assert {folds[id] for id in clips.split("train").clip_ids} == set(FOLDS) - set(pair)
        assert {folds[id] for id in clips.split("evaluation").clip_ids} == set(pair)
        assert clips.counts() == {"train": 18, "evaluation": 12}


def judged(right: int, loss: float, clips: int = 4) -> Answers:
    """A candidate that is right on so many of the clips."""
    truth = np.zeros(clips, int)
    guesses = np.stack([np.where(np.arange(clips) < right, 0, 1)] * 2, axis=1)
    ids = [f"c{i}" for i in range(clips)]
    losses = np.full((clips, 2), loss)
    return Answers(ids, ids, np.ones(clips, int), truth, guesses, losses, Vocabulary(["dog", "rain"]))


def test_the_rule_decides_ties_as_it_says() -> None:
    """Law: most right answers, then the lower log loss, then the order in which candidates were given."""
    assert choose({"a": judged(2, 0.1), "b": judged(3, 0.9)}) == "b"
    assert choose({"a": judged(3, 0.5), "b": judged(3, 0.4)}) == "b"
    assert choose({"a": judged(3, 0.4), "b": judged(3, 0.4)}) == "a"
    assert choose({"b": judged(3, 0.4), "a": judged(3, 0.4)}) == "b"
    with pytest.raises(SelectionError, match="different clips"):
        choose({"a": judged(3, 0.4), "b": judged(3, 0.4, clips=5)})


def test_the_log_loss_is_that_of_the_classes() -> None:
    """Law: a clip's loss is the mean over the classes of -log of what is said of the truth, never infinite."""
    clips = Clips.from_rows(
        [
            {"clip_id": id, "source": id, "path": f"{id}.wav", "split": "evaluation", "labels": ["dog"]}
            for id in ("a", "b")
        ],
        Vocabulary(["dog", "rain"]),
    )
    said = Predictions(np.array([[0.8, 0.4], [0.0, 1.0]], np.float32), ["a", "b"], clips.vocabulary)
    losses = Answers.of([said, said], clips, 1).losses
    assert losses[0] == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2, rel=1e-6)
    assert losses[1] == pytest.approx(-np.log(1e-7), rel=1e-3)


def scores(found: selection.Selection, fold: int) -> object:
    """All that decides on a fold."""
    return found.to_dict()["folds"][str(fold)]


def test_no_choice_reads_the_fold_it_is_for(folder: Path, whole: tuple[Path, selection.Selection]) -> None:
    """Law: other labels and other sounds in fold 2, there before any training, move nothing of the choice for 2."""
    elsewhere, before = whole
    wrong = {"dog": "rain", "rain": "siren", "siren": "dog"}
    rewrite(
        folder / "esc/meta/esc50.csv",
        lambda row: row.update(category=wrong[row["category"]], target=str((int(row["target"]) + 1) % 3))
        if row["fold"] == "2" else None,
    )  # fmt: skip
    for path in (folder / "esc/audio").glob("2-*.wav"):
        soundfile.write(path, np.random.default_rng(7).normal(0, 0.3, 6000), 16000)
    after = selection.select(both(folder), folder / "esc", folder / "out", [2])
    assert scores(after, 2) == scores(before, 2)
    assert after.chosen(2).name == before.chosen(2).name
    assert {path.name for path in (folder / "out/fast").iterdir()} == {"without_1_2", "without_2_3"}
    # For another fold the tampering shows: there fold 2 is trained on.
    with pytest.raises(SelectionError, match="on other clips"):
        selection.judge(both(folder), folder / "esc", elsewhere / "out", [4])


def test_no_choice_reads_predictions_of_its_fold(tmp_path: Path, whole: tuple[Path, selection.Selection]) -> None:
    """Law: whatever trainings say of fold 4, the choice for 4 stands; those that fold 4 judges for move."""
    folder, before = whole
    out = shutil.copytree(folder / "out", tmp_path / "out")
    for path in (out / "fast").rglob("predictions/evaluation/*.safetensors"):
        said = Predictions.read(path)
        said.probabilities[[id.startswith("4-") for id in said.clip_ids]] = 0.01
        said.save(path)
    after = selection.judge(both(folder), folder / "esc", out)
    for fold, moves in {1: False, 2: False, 3: True, 4: False, 5: True}.items():
        assert (scores(after, fold) != scores(before, fold)) is moves


def test_shards_share_the_trainings(folder: Path, whole: tuple[Path, selection.Selection]) -> None:
    """Law: two shards share all trainings; the call after them trains nothing and chooses what one call does."""
    out, call = folder / "out", ("lab", "select", folder / "esc", "--candidates", folder / "candidates", "--fold", 3)
    for shard, there in (("1/2", 2), ("2/2", 4)):
        assert psla(*call, "--out", out, "--shard", shard).exit_code == 0
        assert len(list(out.glob("*/without_*/scores.json"))) == there
        assert not (out / "selection.json").exists()
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/without_*/**/*")}
    result = psla(*call, "--out", out)
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in times} == times
    stored = json.loads((out / "selection.json").read_text())["folds"]
    assert stored.keys() == {"3"}
    assert {**stored["3"], "recipe": None} == {**scores(whole[1], 3), "recipe": None}


def test_what_is_written_and_shown(whole: tuple[Path, selection.Selection]) -> None:
    """Law: a candidate is marked for each fold, its recipe lies there; runs keep their model and no checkpoints."""
    folder, found = whole
    out = folder / "out"
    stored = json.loads((out / "selection.json").read_text())
    head, rows = found.table()
    assert [row[0] for row in rows] == ["preset", "fast"] == list(stored["candidates"])
    for column, fold in enumerate(FOLDS, start=head.index("fold 1")):
        (marked,) = (row[0] for row in rows if row[column].endswith("*"))
        assert marked == found.chosen(fold).name == stored["folds"][str(fold)]["chosen"]
        assert Recipe.load(out / f"chosen/fold_{fold}.yaml") == found.chosen(fold).recipe
    choices = selection.read_choices(out / "selection.json")
    assert choices == {fold: found.chosen(fold) for fold in FOLDS}
    for each in stored["candidates"].values():
        assert each["pairs"].keys() == {run_name(pair) for pair in PAIRS}
        assert each["pooled"]["clips"] == 60, "each clip is judged twice, once for either neighbour of its fold"
        assert each["parameters"] > 1000
    for run in out.glob("*/without_*"):
        assert (run / "model.safetensors").is_file()
        assert not (run / "checkpoints").exists(), "dozens of runs would fill a disk"
    assert selection.left_out(both(folder)[:1], out) == ["fast"]


def test_what_is_missing_is_named(folder: Path) -> None:
    """Law: nothing is chosen from a part of the trainings; those that are not finished are named."""
    selection.train_candidates(both(folder), folder / "esc", folder / "out", [3], (1, 2))
    with pytest.raises(SelectionError, match=r"2 of 4 trainings .*: preset/without_3_4, fast/without_3_4; run"):
        selection.judge(both(folder), folder / "esc", folder / "out", [3])
    with pytest.raises(SelectionError, match="a fold and a candidate"):
        selection.judge([], folder / "esc", folder / "out")


@pytest.fixture
def selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, selection.Selection]) -> Path:
    """A selection of another candidate for fold 2 (judged by 1 and 3) than for fold 4."""
    _, found = whole
    with monkeypatch.context() as patch:
        patch.setattr(selection, "choose", lambda given: "preset" if 1 in next(iter(given.values())).folds else "fast")
        replace(found, folds=(2, 4)).write(tmp_path / "selected")
    return tmp_path / "selected/selection.json"


def test_each_fold_is_trained_with_its_recipe(folder: Path, selected: Path) -> None:
    """Law: the recipe chosen for a fold is that of its runs, students among them, and the reports say which it was."""
    out, preset, fast = folder / "out", *(each.recipe for each in both(folder))
    call = ("lab", "cross-validate", folder / "esc", "--out", out, "--selection", selected, "--seeds", "0,1")
    for shard, there, late in (("1/2", 2, ["--distill", 0.5]), ("2/2", 4, [])):
        result = psla(*call, "--fold", 2, "--fold", 4, "--shard", shard, *late)
        assert result.exit_code == 0, result.output
        assert ("the students of 1 folds wait for other shards" in result.output) == bool(late)
        assert len(list(out.glob("fold_*/seed_*/scores.json"))) == there
    result = psla(*call, "--fold", 2, "--fold", 4, "--distill", 0.5, "--shard", "2/2")
    assert "3 runs done; a call without" in result.output
    assert [path.parent.parent.name for path in out.glob("fold_*/student_0/scores.json")] == ["fold_4"]
    times = {path: path.stat().st_mtime_ns for path in out.glob("fold_*/s*/**/*")}
    result = psla(*call, "--fold", 2, "--fold", 4, "--distill", 0.5)
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for fold, recipe in ((2, preset), (4, fast)):
        for seed in (0, 1):
            found = Run(out / f"fold_{fold}/seed_{seed}").recipe
            assert Recipe.from_dict({**recipe.model_dump(), "seed": seed}).is_carried_out_by(found)
        student = Run(out / f"fold_{fold}/student_0").recipe.optimizer
        assert student == recipe.at(student.precision).optimizer
    stored = json.loads((out / "cross_validation.json").read_text())
    assert {fold: each["name"] for fold, each in stored["recipes"].items()} == {"2": "preset", "4": "fast"}
    assert stored["recipes"]["4"]["recipe"]["optimizer"]["learning_rate"] == 0.03
    single, ensemble = stored["costs"]["single"], stored["costs"]["ensemble"]
    assert ensemble["parameters"]["2"] == 2 * single["parameters"]["2"] > 0
    assert stored["costs"].keys() == {"single", "ensemble", "student"} == stored["systems"].keys()
    text = (out / "cross_validation.md").read_text()
    for words in ("| ensemble | averaged |", "| distilled | averaged |", "| 4 | fast |", "clips/s in training"):
        assert words in text
    wrong = stored["systems"]["ensemble"]["averaged"]["misclassified"]
    assert all(f"| {each['clip_id']} | {each['fold']} | {each['label']} | {each['answer']} |" in text for each in wrong)


def test_a_selection_is_used_whole_or_refused(folder: Path, selected: Path) -> None:
    """Law: what contradicts a selection, or is none, is refused in one sentence before any training."""
    call = ("lab", "cross-validate", folder / "esc", "--out", folder / "out", "--selection")
    assert "--recipe" in refused(psla(*call, selected, "--recipe", "esc50"))
    assert "--set" in refused(psla(*call, selected, "--set", "mixup.rate=1"))
    assert "--inner" in refused(psla(*call, selected, "--inner"))
    assert "no recipe for fold 1, 3, 5" in refused(psla(*call, selected))
    (folder / "other.json").write_text("{}")
    assert "is no selection" in refused(psla(*call, folder / "other.json"))
    assert "it is no JSON" in refused(psla(*call, folder / "tiny.yaml"))
    assert "No such file" in refused(psla(*call, folder / "selection.json"))
    chosen = selected.parent / "chosen/fold_2.yaml"
    chosen.write_text(chosen.read_text().replace("rate: 0.5", "rate: 0.6"))
    assert "not the recipe that was chosen" in refused(psla(*call, selected, "--fold", 2))
    with pytest.raises(RecipeError, match="no recipe for fold 3"):
        cross_validation.Experiment({2: both(folder)[0].recipe}, folder / "esc", folder / "out", (2, 3))
    assert not list((folder / "out").rglob("recipe.yaml"))


@pytest.mark.parametrize(
    ("candidates", "text", "sentence"),
    [
        ("no_such", None, "neither a candidate file"),
        ("preset,preset", None, "two candidates are named 'preset'"),
        ("empty", None, "without a candidate"),
        (" , ", None, "nothing to choose from"),
        ("own.yaml", "mixup: {rat: 1.0}", "candidate own: recipe key mixup.rat"),
        ("own.yaml", "extends: nothing", "candidate own: 'nothing' is neither"),
        ("own.yaml", "[1, 2]", "must hold keys and values"),
        ("own.yaml", "mixup: {rate: [", "candidate own is not YAML"),
        ("own.yaml", "classes: [dog]", "has classes"),
        ("own.yaml", "optimizer: {warmup_steps: 99999}", "candidate own: recipe key optimizer.warmup_steps"),
        ("chosen.yaml", "", "named with letters"),
    ],
)
def test_candidates_that_are_none_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, candidates: str, text: str | None, sentence: str
) -> None:
    """Law: a candidate that cannot be trained is refused in one sentence that names it, before any training."""
    monkeypatch.chdir(folder)
    Path("empty").mkdir()
    if text is not None:
        Path(candidates).write_text(text)
    assert sentence in refused(psla("lab", "select", "esc", "--out", "out", "--candidates", candidates))
    assert not Path("out").exists()


def test_runs_of_something_else_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: runs with another recipe are refused, a training that cannot go on is named, processes are kept apart."""
    esc, out = folder / "esc", folder / "out"
    selection.train_candidates(both(folder), esc, out, [1], (1, 4))
    (folder / "candidates/preset.yaml").write_text(f"extends: {folder}/tiny.yaml\nmixup: {{rate: 1.0}}\n")
    call = ("lab", "select", esc, "--candidates", folder / "candidates")
    assert "another recipe than candidate preset" in refused(psla(*call, "--out", out))
    assert "a part reads i/n" in refused(psla(*call, "--out", out, "--shard", "3/2"))

    def fails(*args: object, **options: object) -> Run:
        raise TrainingError("the loss is not finite")

    with monkeypatch.context() as patch:
        patch.setattr(selection, "trained", fails)
        assert "preset/without_1_2: the loss is not finite" in refused(psla(*call, "--out", folder / "new"))

    def taken(path: Path) -> None:
        raise JournalError("taken")

    monkeypatch.setattr("psla.lab.experiment.Journal", taken)
    with pytest.raises(LabError, match="another process works on"), working(out, None):
        pass


def test_the_report_speaks_of_the_single_model_where_there_is_no_ensemble(folder: Path) -> None:
    """Law: confusions and mistakes are the ensemble's, or the single model's; every clip is in the confusions once."""
    asked = cross_validation.Experiment(both(folder)[0].recipe, folder / "esc", folder / "out", (3,))
    found = cross_validation.cross_validate(asked)
    fold_report.write_report(found, folder / "out", {3: "tiny"}, "psla lab cross-validate")
    text = (folder / "out/cross_validation.md").read_text()
    assert "## Confusions (single, averaged)" in text
    assert "- command: psla lab cross-validate\n" in text
    assert "| ensemble |" not in text
    assert found.runs == found.members["single"][3]
    assert sum(found.answers["single", "averaged"].confusion().ravel()) == 6


def test_ensembles_of_settings_are_the_mean_of_their_members(folder: Path) -> None:
    """Law: an ensemble answers as the mean of its members' probabilities says, each member at its own last epoch; it
    costs what they cost together; what is finished is not trained again."""
    out, longer = folder / "out", folder / "longer.yaml"
    longer.write_text(f"extends: {folder}/tiny.yaml\noptimizer: {{epochs: 2}}\naveraging: {{first_epoch: 2}}\n")
    call = ("lab", "cross-validate", folder / "esc", "--out", out, "--recipe", folder / "tiny.yaml", "--fold", 3)
    call = (*call, "--seeds", "0,1", "--settings", longer)
    for shard, there in (("1/2", 2), ("2/2", 3)):
        assert psla(*call, "--shard", shard).exit_code == 0
        assert len(list(out.rglob("scores.json"))) == there
    times = {path: path.stat().st_mtime_ns for path in out.glob("fold_3/**/*")}
    result = psla(*call)
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "all - ensemble" in result.output
    stored = json.loads((out / "cross_validation.json").read_text())
    assert stored["settings"]["longer"]["optimizer"]["epochs"] == 2
    systems = {"single", "ensemble", "longer", "settings", "all"}
    assert stored["systems"].keys() == stored["costs"].keys() == systems
    seeds, setting = [out / f"fold_3/seed_{seed}" for seed in (0, 1)], out / "fold_3/settings/longer"
    assert Run(setting).recipe.seed == 0
    clips = cross_validation.fold_clips(folder / "esc", 3).split("evaluation")
    sizes = {system: each["parameters"]["3"] for system, each in stored["costs"].items()}
    for system, members in {"settings": [seeds[0], setting], "all": [*seeds, setting]}.items():
        for variant, names in {"averaged": ("averaged",) * 2, "final": ("epoch_001", "epoch_002")}.items():
            files = [
                Predictions.read(member / f"predictions/evaluation/{names[member == setting]}.safetensors")
                for member in members
            ]
            mean = np.mean([each.probabilities[each.rows_of(clips.clip_ids)] for each in files], axis=0)
            right = (mean.argmax(axis=1) == clips.labels().select(clips.clip_ids).matrix().argmax(axis=1)).mean()
            assert stored["systems"][system][variant]["accuracy"] == pytest.approx(right)
        assert sizes[system] == len(members) * sizes["single"]
    text = (out / "cross_validation.md").read_text()
    for words in ("| ensemble of settings | averaged |", "| ensemble of all | averaged |", "| all | longer |"):
        assert words in text


def test_a_setting_has_a_name_of_its_own(folder: Path) -> None:
    """Law: a setting that the report could not tell from another system is refused before any training."""
    (folder / "ensemble.yaml").write_text("")
    call = ("lab", "cross-validate", folder / "esc", "--out", folder / "out", "--settings", folder / "ensemble.yaml")
    for shard in ([], ["--shard", "1/2"]):
        assert "the name of a system of the report" in refused(psla(*call, "--recipe", folder / "tiny.yaml", *shard))
    assert not list((folder / "out").rglob("recipe.yaml"))
