"""The demo and cross-validation: what they promise, on as few clips as will do."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pictures import check_drawn
from psla.data.vocabulary import Vocabulary
from psla.lab import demo
from psla.lab.folds import cross_validation, fold_report
from psla.lab.folds.answers import Answers
from psla.metrics.predictions import Predictions
from psla.training.recipe import Recipe

SHARED = Path(__file__).parents[2] / "shared/data/esc10"


def test_demo_leaves_scores_figures_and_a_tagged_clip(tmp_path: Path) -> None:
    """Law: the demo's scores have the four variants with three metrics each, and its pictures and model are there."""
    console = Console(file=(tmp_path / "out.txt").open("w"), width=120)
    short = {"optimizer.epochs": 2, "averaging.first_epoch": 1, "optimizer.warmup_steps": 2}
    scores = demo.run(tmp_path / "demo", console, demo.corpus(20, 12), short)
    console.file.close()
    stored = json.loads((tmp_path / "demo/scores.json").read_text())
    assert stored == scores
    assert list(stored) == ["baseline", "final", "averaged", "checkpoint_ensemble"]
    for each in stored.values():
        assert set(each) == {"mean_average_precision", "mean_auc", "d_prime"}
        assert 0.0 < each["mean_average_precision"] <= 1.0
    for name in ("learning_curve", "average_precision", "comparison"):
        check_drawn(tmp_path / f"demo/figures/{name}.png")
    text = (tmp_path / "out.txt").read_text()
    assert "True labels:" in text
    assert "epoch 2 trained" in text
    packaged = text[text.index("audioset-small hears synthesised sounds") :]
    assert all(name in packaged for name in ("Rain", "Siren", "Church bell", "Wind", "psla tag YOUR.wav"))


def test_demo_replaces_a_demo_and_nothing_else(tmp_path: Path) -> None:
    """Law: a folder that holds something else is refused and left as it was."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a demo"):
        demo.run(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_demo_corpus_trains_and_evaluates_on_different_clips() -> None:
    """Law: no clip is in two splits, at most 200 are evaluated, and every class of the vocabulary can be scored."""
    clips = demo.corpus()
    training, evaluation = clips.split("train"), clips.split("evaluation")
    assert not set(training.clip_ids) & set(evaluation.clip_ids)
    assert len(evaluation) <= 200
    assert evaluation.labels().counts().min() > 0


@pytest.mark.skipif(not SHARED.exists(), reason="the ESC-10 recordings are not on this machine")
def test_inner_folds_never_see_the_evaluation_fold() -> None:
    """Law: what settings are chosen on shares no clip with the fold that is reported."""
    for fold in range(1, 6):
        inner = cross_validation.fold_clips(SHARED, fold, inner=True)
        outer = cross_validation.fold_clips(SHARED, fold)
        assert not set(inner.clip_ids) & set(outer.split("evaluation").clip_ids)
        assert inner.counts()["train"] == 240
        assert inner.counts()["evaluation"] == 80


def write_tiny_esc50(root: Path) -> Path:
    """Ten noises in ESC-50's layout: two classes, five folds."""
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, category in enumerate(("dog", "rain")):
            name = f"{fold}-{fold}{target}-A-{target}.wav"
            lines.append(f"{name},{fold},{target},{category},True,{fold}{target},A")
            with wave.open(str(root / "audio" / name), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(16000)
                file.writeframes(np.random.default_rng(fold).integers(-900, 900, 6000, dtype=np.int16).tobytes())
    (root / "meta/esc50.csv").write_text("\n".join(lines) + "\n")
    return root


def test_finished_folds_are_read_not_run_again(tmp_path: Path) -> None:
    """Law: cross-validation resumes at the fold, and the same numbers come out."""
    tiny = {"front_end.frames": 32, "masking.time": 8, "optimizer.epochs": 1, "averaging.first_epoch": 1}
    recipe = Recipe.load("esc50", {**tiny, "optimizer.warmup_steps": 0, "optimizer.batch_size": 4})
    root = write_tiny_esc50(tmp_path / "esc")
    seen: list[str] = []
    student = cross_validation.Student(weight=0.5, seeds=(3,))

    def run() -> cross_validation.CrossValidation:
        asked = cross_validation.Experiment(recipe, root, tmp_path / "out", (2,), seeds=(0, 1), student=student)
        return cross_validation.cross_validate(asked, lambda run, stage, clips: seen.append(run))

    first = run()
    assert set(seen) == {f"fold_2/{name}" for name in ("seed_0", "seed_1", "student_3")}
    seen.clear()
    again = run()
    assert not seen
    assert fold_report.answers_data(again.answers) == fold_report.answers_data(first.answers)
    assert len(first.answers["single", "averaged"].clip_ids) == 2
    assert first.answers["single", "averaged"].guesses.shape == (2, 2)
    assert first.answers["ensemble", "averaged"].guesses.shape == (2, 1)
    taught = first.runs[-1].recipe
    assert (taught.seed, taught.distillation.weight) == (3, 0.5)
    teacher = Predictions.read(tmp_path / "out/fold_2/teacher.safetensors")
    assert set(teacher.clip_ids) == set(first.runs[-1].clips.split("train").clip_ids)


def answers(clips: int, wrong: int, first: int = 0) -> Answers:
    """`clips` clips of one fold, two to a source, the first `wrong` of them wrong."""
    ids = [f"c{i}" for i in range(first, first + clips)]
    truth = np.arange(clips) % 2
    guesses = np.where(np.arange(clips) < wrong, 1 - truth, truth)[:, None]
    sources = [f"s{i // 2}" for i in range(first, first + clips)]
    return Answers(ids, sources, np.ones(clips, int), truth, guesses, guesses, Vocabulary(["dog", "rain"]))


def test_accuracy_over_folds_is_that_of_the_clips() -> None:
    """Law: accuracy, confusion and misclassified clips are counts; a system beside itself differs by exactly zero."""
    found = Answers.join([answers(40, 4), answers(40, 0, first=40)])
    assert found.accuracy == 0.95
    assert found.confusion().sum() == 80
    assert found.confusion().trace() == 76
    assert [row["clip_id"] for row in found.misclassified()] == ["c0", "c1", "c2", "c3"]
    low, high = found.interval()
    assert 0.85 < low < 0.95 < high <= 1.0
    assert found.interval(found) == (0.0, 0.0)
    better = Answers.join([answers(40, 0), answers(40, 0, first=40)])
    assert better.interval(found)[1] > 0 >= -better.interval(found)[0]
    with pytest.raises(ValueError, match="different clips"):
        found.interval(answers(40, 0))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_recipe_beats_the_baseline(tmp_path: Path) -> None:
    """Law: in the same number of clips, pretraining with sampling and augmentation is ahead of training without."""
    with (tmp_path / "out.txt").open("w") as file:
        scores = demo.run(tmp_path / "demo", Console(file=file))
    for variant in ("final", "averaged", "checkpoint_ensemble"):
        assert scores[variant]["mean_average_precision"] > scores["baseline"]["mean_average_precision"]
