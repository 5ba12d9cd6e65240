"""Laws of `psla calibrate`: maps and thresholds are what they are called, intervals hold, nothing that was trained on
is calibrated on, and a calibrated model is used as one everywhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.stats import binomtest
from sklearn.calibration import _sigmoid_calibration
from sklearn.isotonic import IsotonicRegression
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.metrics.calibration import calibration_errors, isotonic, log_odds, platt
from psla.metrics.thresholds import Goal, GoalError, given, share, threshold_interval, thresholds_for
from psla.model import clip_ids
from psla.model.calibration import Calibration
from psla.model.ensemble import write_ensemble
from psla.model.file import ModelCard, ModelFileError, load_model, save_model, with_card
from psla.model.inference import predict
from psla.tagging.tagger import Tagger
from psla.training.calibrate import CalibrationError, Held, calibrate, learn_class, learnt
from psla.training.cross_fit import folds_of
from psla.training.fit import fit
from psla.training.own_clips import open_clips
from tagging_models import changed_header
from test_fit import KINDS, home, sound, toys  # noqa: F401
from toy_ears import RATE

pytestmark = pytest.mark.usefixtures("one_thread")


def heard(clips: int, seed: int, of_each: int = 1, positives: float = 0.2) -> Held:
    """One class whose model is too sure of itself; clips in recordings of so many."""
    rng = np.random.default_rng(seed)
    groups = np.arange(clips) // of_each
    truth = (rng.uniform(size=groups.max() + 1) < positives)[groups]
    z = np.where(truth, 2.0, -2.0) + rng.normal(size=groups.max() + 1)[groups] + rng.normal(size=clips)
    said = 1 / (1 + np.exp(-2.5 * z - 2))
    return Held(said[:, None].astype(np.float32), truth[:, None], groups, np.full(clips, 10 / 3600))


def test_platts_map_is_scikit_learns() -> None:
    """Law: slope and offset are those of scikit-learn's sigmoid calibration of the log-odds."""
    held = heard(400, 0)
    said, truth = held.said[:, 0], held.truth[:, 0]
    found = platt(said, truth)
    a, b = _sigmoid_calibration(log_odds(said), truth.astype(float))
    np.testing.assert_allclose([found.slope, found.offset], [-a, -b], rtol=1e-3, atol=1e-3)


def test_the_isotonic_map_is_scikit_learns_but_for_the_ends() -> None:
    """Law: the steps are those of scikit-learn's, each brought towards one half by one clip of either kind; 0 and 1 are
    never said; the order of clips is kept."""
    held = heard(400, 1)
    said, truth = held.said[:, 0].astype(np.float64), held.truth[:, 0]
    found = isotonic(said, truth)(said)
    plain = IsotonicRegression().fit_transform(said, truth)
    levels, which, counts = np.unique(plain, return_inverse=True, return_counts=True)
    wanted = np.maximum.accumulate((levels * counts + 1) / (counts + 2))
    np.testing.assert_allclose(found, wanted[which.reshape(-1)], atol=1e-9)
    assert 0 < found.min() < found.max() < 1
    assert (np.diff(found[np.argsort(said)]) >= 0).all()


@pytest.mark.parametrize("text", ["f1", "precision=0.8", "recall=0.7", "false-alarms=20/h"])
def test_thresholds_are_what_the_goal_says(text: str) -> None:
    """Law: by trying every threshold: the best F1; the most or fewest clips for a goal, one mistake more than seen."""
    rng = np.random.default_rng(3)
    goal, hours = Goal.parse(text), np.full(80, 0.01)
    for _ in range(20):
        p, truth = rng.integers(0, 30, 80) / 30, rng.uniform(size=80) < 0.4
        (level,) = thresholds_for(goal, p, truth, hours, np.ones((1, 80)))
        tries: dict[float, tuple[float, int]] = {}
        for each in np.unique(p):
            named = p >= each
            right, wrong = (named & truth).sum(), (named & ~truth).sum()
            f1 = 2 * right / (named.sum() + truth.sum())
            missed = truth.sum() - right
            reached = {
                "f1": True,
                "precision": right >= goal.value * (named.sum() + 1),
                "recall": missed + 1 <= (1 - goal.value) * (truth.sum() + 1),
                "false-alarms": wrong + 1 <= goal.value * hours[~truth].sum(),
            }[goal.kind]
            if reached:
                tries[each] = (f1, named.sum())
        if not tries:
            assert np.isnan(level)
            continue
        chosen = max(tries) if goal.kind == "recall" else min(tries)
        if goal.kind == "f1":
            chosen = max((f1, each) for each, (f1, _) in tries.items())[1]
        assert np.array_equal(p >= level, p >= chosen)


def test_goals_that_are_none_are_refused() -> None:
    """Law: one sentence with what there is; days and minutes are hours."""
    assert Goal.parse("false-alarms=2/day").value == pytest.approx(2 / 24)
    assert Goal.parse("false-alarms=0.5/min").value == pytest.approx(30)
    for text in ("accuracy", "precision=1", "precision=90", "recall", "false-alarms=1", "false-alarms=0/h", "f1=0.9"):
        with pytest.raises(GoalError, match=r"a goal is f1, precision=0\.9, recall=0\.9 or false-alarms=1/h"):
            Goal.parse(text)


def test_the_interval_of_a_share() -> None:
    """Law: of clips by themselves it is Clopper and Pearson's; of recordings whose clips are all alike that of the
    recordings; it holds the share."""
    rng = np.random.default_rng(0)
    one = rng.uniform(size=50) < 0.7
    found, wanted = share(one, np.arange(50)), binomtest(int(one.sum()), 50).proportion_ci()
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=0.05)
    again = share(np.repeat(one, 4), np.repeat(np.arange(50), 4))
    assert again == pytest.approx(found, rel=1e-6)
    assert share(np.ones(8, bool), np.arange(8))[1:] == pytest.approx((0.025 ** (1 / 8), 1.0))
    assert np.isnan(share(np.ones(0, bool), np.arange(0)).low)


@pytest.mark.parametrize("text", ["precision=0.9", "recall=0.9"])
def test_intervals_hold_what_thresholds_give(text: str) -> None:
    """Law, simulated: what a threshold truly gives lies in the stated interval nearly as often as stated; and the goal
    is met on the whole. `benchmarks/calibration.py` has the table."""
    goal, world = Goal.parse(text), heard(50_000, 99, 3)
    inside, gives = [], []
    for seed in range(30):
        held = heard(450, seed, 3)
        row, _, found = learn_class(held, 0, folds_of(held.truth, held.groups), goal)
        named = found(world.said[:, 0]) >= row["threshold"]
        true = given(goal, named, world.truth[:, 0], world.hours, np.arange(len(named))).value
        gives.append(true)
        inside.append(row["gives_low"] <= true <= row["gives_high"])
        assert row["threshold_low"] <= row["threshold"] <= row["threshold_high"]
    assert np.mean(inside) >= 0.8
    assert np.mean(gives) >= 0.88


def test_calibration_is_learnt_on_some_clips_and_holds_for_others() -> None:
    """Law: the error on clips of another draw is less than half of what it was, and what is told of it in advance, by
    cross-validation, is near to that; a class with few positives is left, and named."""
    held, other = heard(1500, 5), heard(1500, 6)
    rare = held.truth & (np.arange(1500) < 30)[:, None]
    two = dataclasses.replace(held, said=np.hstack([held.said] * 2), truth=np.hstack([held.truth, rare]))
    made, told = learnt(two, Goal.parse("f1"), ["dog", "rare"])
    assert list(made["classes"]) == ["dog"]
    assert made["left"] == {"rare": int(two.truth[:, 1].sum())}
    after = Calibration(made, Vocabulary(["dog", "rare"]))(np.hstack([other.said] * 2))
    before, calibrated = (calibration_errors(each[:, :1], other.truth)[0] for each in (other.said, after))
    assert calibrated < before / 2
    assert made["error_after"] == pytest.approx(calibrated, abs=0.03)
    assert after[:, 1] == pytest.approx(other.said[:, 0])
    assert sum(row["clips"] for row in told["reliability"]["after"]) == 1500


def test_a_goal_out_of_reach_is_named() -> None:
    """Law: where no threshold can promise it, nothing is named, or for a recall everything, and the class is told."""
    held = heard(60, 1)
    for text, level in (("precision=0.99", 1.0), ("recall=0.99", 0.0)):
        made, _ = learnt(held, Goal.parse(text), ["dog"])
        assert made["unreached"] == ["dog"]
        assert made["classes"]["dog"]["threshold"] == level
    one = (held.said[:, 0], held.truth[:, 0], held.hours, held.groups)
    assert np.isnan(threshold_interval(Goal.parse("precision=0.99"), *one)).all()


@pytest.fixture(scope="module")
def ready(home: Path, toys: None) -> Path:  # noqa: F811
    """A fitted model, other clips with labels, and the model calibrated on them."""
    fit(home / "sounds", home / "known.safetensors", home / "trunk.safetensors", cache=home / "cache")
    rows = []
    for kind in KINDS:
        for seed in range(30, 50):
            path = home / f"{kind}{seed}.wav"
            soundfile.write(path, sound(kind, seed) + (sound("beep", seed) if seed % 4 == 0 else 0), RATE)
            labels = [kind, "beep"] if seed % 4 == 0 else [kind]
            row = {"clip_id": path.name, "source": path.name, "path": str(path), "split": "validation"}
            rows.append(row | {"labels": sorted(set(labels))})
    clips = Clips.from_rows(rows, Vocabulary(["knock", "hiss", "beep"]), "others")
    clips.write(home / "others.parquet")
    calibrate(home / "known.safetensors", clips, home / "ready.safetensors", "recall=0.8")
    return home


def test_a_calibrated_model_is_used_as_one(ready: Path) -> None:
    """Law: the tagger's probabilities are what predict says, through the maps; predictions stay as they were; the
    weights are the same to the bit; without calibration the model is the one before."""
    model, before = load_model(ready / "ready.safetensors"), load_model(ready / "known.safetensors")
    clips = Clips.read(ready / "others.parquet")
    said = [
        predict(m.network, open_source(clips, RATE), m.vocabulary).predictions.probabilities for m in (before, model)
    ]
    assert np.array_equal(*said)
    result = Tagger(model).tag(ready / "beep30.wav")
    row = clips.clip_ids.index("beep30.wav")
    wanted = Calibration(model.card.calibration, model.vocabulary)(said[0][row])
    assert np.array_equal(result.clip_probabilities, wanted)
    assert not np.allclose(wanted, said[0][row], atol=1e-3)
    plain = Tagger(model, calibrated=False)
    assert np.array_equal(plain.tag(ready / "beep30.wav").clip_probabilities, said[0][row])
    assert (plain.thresholds, set(Tagger(model).thresholds)) == ({}, set(KINDS))
    more = {"classes": {id: each for id, each in model.card.calibration["classes"].items() if id != "hiss"}}
    assert set(dataclasses.replace(model.card, calibration=more).raw_thresholds) == {"hiss"}
    assert clip_ids.met(model.card.calibration["clip_ids"], ["beep30.wav", "other"]) == ["beep30.wav"]
    assert model.card.calibration == json.loads(json.dumps(model.card.calibration))
    named = [c.id for c, _ in result.top(3, Tagger(model).thresholds)]
    levels = model.card.thresholds
    assert named == [c.id for c, p in result.top(3) if p >= levels[c.id]]


def test_nothing_that_was_trained_on_is_calibrated_on(ready: Path) -> None:
    """Law: a clip that the fit has heard is refused by its id; so is one that a model trained from it has heard; and
    all other bad input in one sentence, before anything is written."""
    rows = Clips.read(ready / "others.parquet")
    sounds = open_clips(ready / "sounds")
    out = ready / "never.safetensors"
    with pytest.raises(CalibrationError, match="24 of 24 clips are among those that known"):
        calibrate(ready / "known.safetensors", sounds, out)
    second = fit(rows, ready / "second.safetensors", ready / "known.safetensors", cache=ready / "cache").path
    assert clip_ids.count(load_model(second).card.training_clips) == 84
    with pytest.raises(CalibrationError, match=r"the first: 'beep/--0\.wav'"):
        calibrate(second, sounds, out)
    with pytest.raises(CalibrationError, match="no class has 10 positives of 5 recordings"):
        calibrate(ready / "known.safetensors", rows.select(rows.clip_ids[:12]), out)
    with pytest.raises(CalibrationError, match="there is no clip"):
        calibrate(ready / "known.safetensors", rows, out, split="evaluation")
    foreign = Clips.from_rows([rows.frame.row(0, named=True) | {"labels": ["x"]}], Vocabulary(["x"]))
    with pytest.raises(CalibrationError, match="the clips have none of the classes"):
        calibrate(ready / "known.safetensors", foreign, out)
    write_ensemble(ready / "both.json", [ready / "known.safetensors"])
    with pytest.raises(CalibrationError, match="is an ensemble, whose file has no place for it"):
        calibrate(ready / "both.json", rows, out)
    with pytest.raises(CalibrationError, match=r"ends in \.safetensors"):
        calibrate(ready / "known.safetensors", rows, ready / "never.json")
    assert not out.exists()


def test_a_card_that_is_no_calibration_is_refused(ready: Path, tmp_path: Path) -> None:
    """Law: classes that are not there, other kinds, falling maps and hashes that are none are refused by name; a file
    without either field loads, and has neither; another card leaves float16 as it is."""
    model = load_model(ready / "known.safetensors")
    cases = {
        "not in the vocabulary: cat": {"classes": {"cat": {"kind": "platt", "slope": 1.0, "offset": 0.0}}},
        "the calibration of 'hiss' is no map": {"classes": {"hiss": {"kind": "platt", "slope": -1.0, "offset": 0.0}}},
        "of 'hiss' is no map: ": {"classes": {"hiss": {"kind": "isotonic", "x": [0.1, 0.2], "y": [0.5, 0.4]}}},
        "must be a JSON object": {"classes": []},
    }
    for message, values in cases.items():
        with pytest.raises(ValueError, match=message):
            save_model(tmp_path / "m.safetensors", model.network, model.vocabulary, ModelCard(calibration=values))
    with pytest.raises(ValueError, match="hashes of clip ids"):
        ModelCard.from_dict({"training_clips": "abc?"})
    half = save_model(tmp_path / "h.safetensors", model.network, model.vocabulary, ModelCard(), "float16")
    changed = with_card(half, tmp_path / "c.safetensors", ModelCard(licence="CC0"))
    assert abs(changed.stat().st_size - half.stat().st_size) < 100

    def lacking(header: dict) -> None:
        for name in ("calibration", "training_clips"):
            del header["card"][name]

    changed_header(half, tmp_path / "old.safetensors", lacking, older=True)
    assert load_model(tmp_path / "old.safetensors").card == ModelCard()
    with pytest.raises(ModelFileError, match="there is no such model file"):
        with_card(tmp_path / "gone.safetensors", tmp_path / "d.safetensors", ModelCard())


def test_the_commands_show_and_use_it(ready: Path, tmp_path: Path) -> None:
    """Law: calibrate says error, thresholds and what they give; info shows them; tag names what reaches the model's own
    thresholds, and --threshold and --top go before them; silence gets no name."""

    def run(*words: str) -> str:
        said = CliRunner().invoke(app, list(words))
        assert said.exit_code == 0, said.output
        return said.stdout if "--json" in words else said.output

    picture = tmp_path / "reliability.svg"
    common = ["calibrate", str(ready / "known.safetensors"), str(ready / "others.parquet")]
    out = tmp_path / "my.safetensors"
    text = run(*common, "--out", str(out), "--for", "recall=0.8", "--plot", str(picture))
    assert "expected calibration error" in text
    assert "recall" in text
    assert picture.read_text().startswith("<?xml")
    assert "calibrated on 60 clips of 60 recordings for recall=0.8" in run("info", str(out))
    assert "training clips: 24, by the hashes of their ids" in run("info", str(out))
    soundfile.write(tmp_path / "nothing.wav", np.zeros(3 * RATE), RATE)
    tagged = json.loads(run("tag", str(out), str(ready / "hiss31.wav"), "--json", "--quiet"))[0]
    levels = load_model(out).card.thresholds
    assert all(each["probability"] >= levels[each["id"]] for each in tagged["classes"])
    assert "thresholds the model's own, for recall=0.8" in run("tag", str(out), str(ready / "hiss31.wav"))
    two = [["--threshold", "0"], ["--top", "3"]]
    for words in two:
        listed = json.loads(run("tag", str(out), str(ready / "hiss31.wav"), "--json", "--quiet", *words))[0]
        assert len(listed["classes"]) == 3 or "unfamiliar" in listed["flags"]
    for words in ([], ["--threshold", "0"], ["--events", "--threshold", "0.01"]):
        silent = json.loads(run("tag", str(out), str(tmp_path / "nothing.wav"), "--json", "--quiet", *words))[0]
        assert {"silent", "unfamiliar"} <= set(silent["flags"])
        assert not silent["classes"]
        assert not silent.get("events")
    said = CliRunner().invoke(app, [*common, "--out", str(out), "--for", "accuracy"])
    assert (said.exit_code, said.output.count("\n")) == (2, 1)
