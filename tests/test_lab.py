"""The demo and cross-validation: what they promise, on as few clips as will do."""

import json
import os
import wave
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from psla.lab import cross_validation, demo
from psla.recipe.recipe import Recipe

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
        assert os.path.getsize(tmp_path / f"demo/figures/{name}.png") > 5000
    text = (tmp_path / "out.txt").read_text()
    assert "True labels:" in text
    assert "epoch 2 trained" in text


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
    seen: list[int] = []
    arguments = (recipe, root, tmp_path / "out", (1, 2), False, lambda fold, stage, clips: seen.append(fold))
    first = cross_validation.cross_validate(*arguments)
    assert set(seen) == {1, 2}
    seen.clear()
    assert cross_validation.cross_validate(*arguments) == first
    assert not seen
    table = cross_validation.summary(first)
    assert table.count("\n") == 4
    assert all(0.0 <= result.accuracy["averaged"] <= 1.0 for result in first)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_beats_the_baseline(tmp_path: Path) -> None:
    """Law: in the same number of clips, pretraining with sampling and augmentation is ahead of training without."""
    with (tmp_path / "out.txt").open("w") as file:
        scores = demo.run(tmp_path / "demo", Console(file=file))
    for variant in ("final", "averaged", "checkpoint_ensemble"):
        assert scores[variant]["mean_average_precision"] > scores["baseline"]["mean_average_precision"]
