"""Laws of the lab's runner: each training once, nothing twice, and the same result however often it was disturbed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.lab.experiment import LabError, soundscapes
from psla.lab.tables import runner
from psla.lab.tables.folder import Lab
from psla.lab.tables.plan import take_share
from psla.lab.tables.runner import LabInterrupted, carry_out, prepare
from psla.lab.teaching import Predicting, teach_labels
from psla.metrics.predictions import Predictions, average
from psla.metrics.scores import score
from psla.training.devices import Runtime
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.trainer import TrainingError

CPU = Runtime(accelerator="cpu")
SIZES = ["--training-clips", "16", "--evaluation-clips", "6", "--seconds", "0.4"]
TINY = {
    "front_end.frames": 40,
    "front_end.mel_bins": 32,
    "masking.frequency": 8,
    "masking.time": 12,
    "optimizer.batch_size": 8,
    "optimizer.epochs": 2,
    "optimizer.warmup_steps": 1,
    "averaging.first_epoch": 1,
}
SMOKE = ["baseline", "mixup", "labels_12", "averaged", "ensemble_checkpoints", "ensemble_seeds"]


def clips() -> Clips:
    return soundscapes(16, 6, 0.4)


def arguments(out: Path, *more: str, rows: str = "smoke", seeds: str = "0,1") -> list[str]:
    given = [f"--set={key}={value}" for key, value in TINY.items()]
    command = ["lab", "run", "soundscape", "--rows", rows, "--seeds", seeds, "--out", str(out), *SIZES, *given]
    return [*command, "--accelerator", "cpu", *more]


def call(out: Path, *more: str, rows: str = "smoke", seeds: str = "0,1", code: int = 0) -> Any:
    result = CliRunner().invoke(app, arguments(out, *more, rows=rows, seeds=seeds))
    assert result.exit_code == code, (result.output, result.exception)
    return result


def lab(out: Path, **changes: Any) -> Lab:
    return Lab(out, clips(), Recipe.load("demo", {**TINY, **changes}), "demo", TINY, "soundscape")


def do(out: Path, names: list[str], seeds: tuple[int, ...] = (0,), **options: Any) -> runner.Outcome:
    mine = lab(out)
    plan, asked = prepare(mine, names, seeds)
    mine.write(plan.seeds, list(plan.rows), "by hand")
    return carry_out(mine, plan, asked, CPU, **options)


def results(out: Path) -> dict[str, Any]:
    found = {path.stem: json.loads(path.read_text()) for path in sorted((out / "results").glob("*.json"))}
    return {name: without_clocks(each) for name, each in found.items()}


def without_clocks(result: dict[str, Any]) -> dict[str, Any]:
    seeds = [{k: v for k, v in each.items() if k not in ("hours", "command")} for each in result["seeds"]]
    return {**{k: v for k, v in result.items() if k != "clips_per_second"}, "seeds": seeds}


def predictions(out: Path) -> dict[str, bytes]:
    found = [*out.glob("runs/*/predictions/*/*.safetensors"), *out.glob("labels/**/*.safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> object:
    """One thread, and no pictures: to draw them takes longer than these trainings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "draw", lambda *args, **options: None)
        yield
    torch.set_num_threads(before)


def copied(lab: Path, out: Path) -> Path:
    """A copy of a lab; its large files, which are only ever replaced as a whole, are shared."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)

    return shutil.copytree(lab, out, copy_function=copy)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, one_thread: object) -> Path:
    """A lab of the smoke rows with two seeds, done in one call."""
    out = tmp_path_factory.mktemp("lab") / "undisturbed"
    call(out)
    return out


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are begun or gone on with from here."""
    begun: list[str] = []
    for name in ("train", "resume"):
        real = getattr(runner, name)

        def counted(*args: Any, real: Any = real, name: str = name, **options: Any) -> Run:
            begun.append(Path(args[2] if name == "train" else args[0]).name)
            return real(*args, **options)

        monkeypatch.setattr(runner, name, counted)
    return begun


def test_a_result_is_what_its_files_say(undisturbed: Path) -> None:
    """Scores, means and deviations of every row are recomputed from the prediction files that it names."""
    found = {name: json.loads((undisturbed / f"results/{name}.json").read_text()) for name in SMOKE}
    truth = clips().split("evaluation").labels("true_labels")
    for name, result in found.items():
        assert (result["row"], result["status"], result["reason"]) == (name, "done", None)
        for each in result["seeds"]:
            read = [Predictions.read(undisturbed / path) for path in each["predictions"]]
            together = each["combine"] == "mean_of_probabilities"
            scores = [score(p, truth) for p in ([average(read)] if together else read)]
            for metric in ("mean_average_precision", "mean_auc", "d_prime"):
                assert each["scores"][metric] == pytest.approx(np.mean([getattr(s, metric) for s in scores]), abs=1e-12)
            assert each["scores"]["accuracy"] is None, "several labels"
            assert all((undisturbed / run / "scores.json").is_file() for run in each["runs"])
        values = [each["scores"]["mean_average_precision"] for each in result["seeds"]]
        assert result["mean"]["mean_average_precision"] == pytest.approx(np.mean(values))
        if len(values) > 1:
            assert result["std"]["mean_average_precision"] == pytest.approx(np.std(values, ddof=1))
        else:
            assert result["std"]["mean_average_precision"] is None
    assert [each["seed"] for each in found["mixup"]["seeds"]] == [0, 1]
    assert [each["seed"] for each in found["ensemble_seeds"]["seeds"]] == [None]
    assert found["averaged"]["seeds"][0]["predictions"][0].endswith("averaged.safetensors")
    assert len(found["ensemble_checkpoints"]["seeds"][0]["predictions"]) == 2
    assert found["ensemble_seeds"]["parameters"] == 2 * found["mixup"]["parameters"] > 0
    assert found["mixup"]["clips_per_second"] > 0
    assert found["averaged"]["clips_per_second"] is None


def test_a_lab_that_was_run_has_its_report(undisturbed: Path, tmp_path: Path) -> None:
    """What `psla lab run` leaves is what `psla lab report` reads; each row's mean stands on the page."""
    out = copied(undisturbed, tmp_path / "lab")
    result = CliRunner().invoke(app, ["lab", "report", str(out), "--resamples", "200"])
    assert result.exit_code == 0, (result.output, result.exception)
    page, tables = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    for name in SMOKE:
        mean = json.loads((out / f"results/{name}.json").read_text())["mean"]["mean_average_precision"]
        assert f"{mean:.4f}" in page, name
        assert f"{mean:.4f}" in tables, name
    for run in (out / "runs").iterdir():
        assert run.name in page, "every number leads to its run"
    verdicts = {
        each["claim"]["id"]: each["status"] for each in json.loads((out / "verdicts.json").read_text())["verdicts"]
    }
    assert verdicts["labels_12"] in ("supported", "contradicted", "not resolved")
    assert verdicts["pretraining"] == "not tested"


def test_details_are_the_tables_columns(undisturbed: Path) -> None:
    """Table VIII's columns are counted from the enhanced clips, Table X's are the members' and the ensemble's mAPs."""
    found = json.loads((undisturbed / "results/labels_12.json").read_text())
    for each, row in zip(found["seeds"], found["details"]["seeds"], strict=True):
        old = clips().split("train").labels().counts()
        new = Run(undisturbed / each["runs"][0]).clips.split("train").labels().counts()
        assert row["impacted_classes"] == ((new - old) > 0).sum() > 0
        assert row["labels_added_percent"] == pytest.approx(100 * (new - old).sum() / old.sum())
        assert row["map_after"] == pytest.approx(each["scores"]["mean_average_precision"])
    taught_by = json.loads((undisturbed / "results/mixup.json").read_text())
    before = found["details"]["map_before"]
    assert before["mean"] == pytest.approx(taught_by["mean"]["mean_average_precision"])
    assert before["std"] == pytest.approx(taught_by["std"]["mean_average_precision"])
    ensemble = json.loads((undisturbed / "results/ensemble_seeds.json").read_text())
    details, truth = ensemble["details"], clips().split("evaluation").labels("true_labels")
    read = [Predictions.read(undisturbed / path) for path in ensemble["seeds"][0]["predictions"]]
    maps = [score(each, truth).mean_average_precision for each in read]
    assert details["members"] == 2
    assert (details["average"], details["best"]) == (pytest.approx(np.mean(maps)), pytest.approx(max(maps)))
    assert details["ensemble"] == pytest.approx(ensemble["mean"]["mean_average_precision"])


def test_labels_of_held_out_clips_stay(undisturbed: Path) -> None:
    """What a taught row is trained on has the held-out clips as they were given."""
    for run in undisturbed.glob("runs/labels_12-*"):
        assert Run(run).clips.split("evaluation") == clips().split("evaluation")


def test_lab_json_says_what_was_done(undisturbed: Path) -> None:
    """The keys of the contract, and the clips as given."""
    found = json.loads((undisturbed / "lab.json").read_text())
    assert (found["version"], found["recipe"], found["seeds"], found["rows"]) == (1, "demo", [0, 1], SMOKE)
    assert (found["truth"], found["split"]) == ("true_labels", "evaluation")
    assert found["clips"]["splits"] == {"train": 16, "evaluation": 6}
    assert found["overrides"] == TINY
    assert Clips.read(undisturbed / "clips.parquet") == clips()


def test_a_second_call_does_nothing(undisturbed: Path, trainings: list[str]) -> None:
    """What is finished is not run again, and its files are not touched."""
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("results/*")}
    call(undisturbed)
    assert trainings == []
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("results/*")} == before


def test_a_deleted_row_comes_back_to_the_byte(undisturbed: Path, tmp_path: Path, trainings: list[str]) -> None:
    """Without its result and its runs, a row is run again: equal scores and the same bytes of predictions."""
    out = copied(undisturbed, tmp_path / "lab")
    (out / "results/labels_12.json").unlink()
    gone = sorted(path.name for path in out.glob("runs/labels_12-*"))
    for name in gone:
        shutil.rmtree(out / "runs" / name)
        shutil.rmtree(out / "labels" / name)
    call(out)
    assert sorted(trainings) == gone
    assert len(gone) == 2
    assert results(out) == results(undisturbed)
    assert predictions(out) == predictions(undisturbed)


def test_the_command_of_a_result_repeats_it(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a result names as its command trains to the same bytes of predictions."""
    result = json.loads((undisturbed / "results/labels_12.json").read_text())["seeds"][1]
    monkeypatch.chdir(tmp_path)
    _, *words = result["command"].split()
    done = CliRunner().invoke(app, [*words, "--accelerator", "cpu"])
    assert done.exit_code == 0, done.output
    again = Path(words[-1])
    for path in result["predictions"]:
        name = Path(path).relative_to(result["runs"][0])
        assert (again / name).read_bytes() == (undisturbed / path).read_bytes()


def test_shards_come_to_what_one_call_comes_to(undisturbed: Path, tmp_path: Path, trainings: list[str]) -> None:
    """A run whose teacher belongs to another shard waits; when all are through, a last call has the same results."""
    out = tmp_path / "lab"

    def shard(number: str) -> str:
        return str(call(out, "--shard", number, rows="labels_12", seeds="0").output)

    early = shard("2/2")
    assert "skipped, its teacher mixup, seed 0, belongs to another shard" in early
    assert "0 runs done in this call; 1 wait for other shards" in early
    assert "1 runs done" in shard("1/2")
    assert "1 runs done" in shard("2/2")
    assert len(trainings) == 2
    assert not (out / "results").exists()
    call(out, rows="labels_12", seeds="0")
    assert len(trainings) == 2
    assert_part_of(out, undisturbed)


def test_a_plan_leaves_a_folder_alone_that_another_shard_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards begin a lab at one time: what one does before it begins neither makes nor removes its folder."""
    corpus, recipe = soundscapes(4, 2, 0.3, 0.0, 0.0, 0), Recipe.load("demo")
    known = Lab(tmp_path / "mine", corpus, recipe).clips_hash
    assert not (tmp_path / "mine").exists()
    plain = Clips.write

    def beside(self: Clips, path: Path) -> None:
        plain(self, path)
        (tmp_path / "theirs").mkdir(exist_ok=True)

    lab = Lab(tmp_path / "theirs", corpus, recipe)
    monkeypatch.setattr(Clips, "write", beside)
    assert lab.clips_hash == known
    assert (tmp_path / "theirs").is_dir()


def assert_part_of(out: Path, undisturbed: Path) -> None:
    """The results of a lab with seed 0 are those of the lab with two seeds, and so are the bytes of its predictions."""
    expected, found = results(undisturbed), results(out)
    assert found
    for name, each in found.items():
        assert each["seeds"] == [seed for seed in expected[name]["seeds"] if seed["seed"] == 0]
    same = predictions(undisturbed)
    mine = predictions(out)
    assert mine
    assert all(data == same[name] for name, data in mine.items())


def test_rows_that_are_the_same_share_a_run(tmp_path: Path, trainings: list[str]) -> None:
    """Rows that come to one recipe are trained once; a later call with another name for it trains only what is new."""
    done = do(tmp_path / "lab", ["mixup", "pooling_4", "fill_zero"])
    assert done.done == ["mixup", "pooling_4", "fill_zero"]
    assert len(trainings) == 1
    do(tmp_path / "lab", ["share_50_none", "stem_sum"])  # the demo's stem is the sum
    assert len(trainings) == 2
    found = results(tmp_path / "lab")
    assert found["stem_sum"]["seeds"] == found["mixup"]["seeds"]
    assert found["share_50_none"]["seeds"] != found["mixup"]["seeds"]
    share = Run(tmp_path / "lab" / found["share_50_none"]["seeds"][0]["runs"][0])
    assert share.clips.counts() == {"train": 8, "evaluation": 6}


def test_seeds_and_rows_can_be_added(undisturbed: Path, tmp_path: Path, trainings: list[str]) -> None:
    """Another seed trains only what is new and makes the results of the rows that are asked for again."""
    out = copied(undisturbed, tmp_path / "lab")
    call(out, rows="ensemble_seeds,fill_zero", seeds="2")
    assert [name.rsplit("-", 1)[0] for name in trainings] == ["mixup-2"]
    found = results(out)
    assert [each["seed"] for each in found["mixup"]["seeds"]] == [0, 1, 2]
    assert len(found["ensemble_seeds"]["seeds"][0]["runs"]) == 3
    assert found["fill_zero"]["seeds"] == found["mixup"]["seeds"]
    assert [each["seed"] for each in found["baseline"]["seeds"]] == [0, 1], "nobody asked for it"
    assert json.loads((out / "lab.json").read_text())["seeds"] == [0, 1, 2]
    assert json.loads((out / "lab.json").read_text())["rows"] == [*SMOKE, "fill_zero"]


def test_distillation_and_sweep(undisturbed: Path, tmp_path: Path) -> None:
    """A student learns from the mean of its teachers; a sweep has a point an epoch."""
    out = copied(undisturbed, tmp_path / "lab")
    call(out, rows="distilled,start_sweep")
    run = next(out.glob("runs/distilled-0-*"))
    teacher = Predictions.read(Run(run).recipe.distillation.predictions or "")
    each = [Predictions.read(out / f"labels/teacher-{path.name}.safetensors") for path in out.glob("runs/mixup-*")]
    assert np.array_equal(teacher.probabilities, average(sorted(each, key=lambda p: p.model_hash)).probabilities)
    details = results(out)["start_sweep"]["details"]
    assert details["first_epoch"] == [1, 2]
    for key in ("weights", "predictions"):
        assert details[key][1] == pytest.approx(details["alone"][1]), "the last epoch alone"


def test_a_share_is_taught_by_the_same_predictions(undisturbed: Path, tmp_path: Path) -> None:
    """A teacher predicts all training clips once, whatever share of them a row trains on, since rows share the file."""
    teacher = Run(next(undisturbed.glob("runs/mixup-0-*")))
    half = take_share(clips(), 0.5, seed=0)
    found = teach_labels(half, teacher, "I+II", tmp_path / "half", Predicting(clips()))
    assert found.clip_ids == half.clip_ids
    assert found.split("train").labels().counts().sum() > half.split("train").labels().counts().sum()
    name = f"teacher-{teacher.folder.name}.safetensors"
    assert (tmp_path / name).read_bytes() == (undisturbed / "labels" / name).read_bytes()


def test_a_row_that_fails_is_noted_and_the_lab_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[str]
) -> None:
    """A failed training and a refused recipe are "not run" with the reason; so are rows behind them; exit code 1."""
    own = tmp_path / "wide.yaml"
    own.write_text("title: wide\ntable: IV\nextends: mixup\nset: {masking.time: 1000}\n")
    real = runner.train

    def failing(recipe: Recipe, *args: Any, **options: Any) -> Run:
        if recipe.mixup.rate == 1.0:
            raise TrainingError("the loss is nan in epoch 1")
        return real(recipe, *args, **options)

    monkeypatch.setattr(runner, "train", failing)
    out, rows = tmp_path / "lab", f"baseline,mixup_rate_1,ensemble_all,{own}"
    done = call(out, rows=rows, seeds="0", code=1)
    found = results(out)
    assert {name: each["status"] for name, each in found.items()} == {
        "baseline": "done",
        "ensemble_all": "done",
        "mixup_rate_1": "not run",
        "wide": "not run",
    }
    assert found["mixup_rate_1"]["reason"] == "seed 0: the loss is nan in epoch 1"
    assert "masking.time" in found["wide"]["reason"]
    assert (found["wide"]["seeds"], found["wide"]["mean"], found["wide"]["details"]) == ([], {}, {})
    assert "mixup_rate_1: not run: seed 0: the loss is nan" in done.output
    assert len(found["ensemble_all"]["seeds"][0]["runs"]) == 1, "the one that is there"
    monkeypatch.setattr(runner, "train", real)
    call(out, rows="mixup_rate_1,ensemble_all", seeds="0")
    assert results(out)["mixup_rate_1"]["status"] == "done", "tried again"
    assert len(results(out)["ensemble_all"]["seeds"][0]["runs"]) == 2


def test_a_full_disk_is_no_fault_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is entered as not run because the disk is full."""

    def full(*args: Any, **options: Any) -> Run:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "train", full)
    with pytest.raises(OSError, match="No space"):
        do(tmp_path / "lab", ["baseline"])
    assert results(tmp_path / "lab") == {}


def test_planning_runs_and_writes_nothing(undisturbed: Path, tmp_path: Path, trainings: list[str]) -> None:
    """A plan names rows, runs, what they share, what is there, and an estimate; the folder is not made."""
    text = call(tmp_path / "lab", "--plan", rows="smoke,pooling_4").output
    assert not (tmp_path / "lab").exists()
    assert "mixup, pooling_4" in text
    assert "7 rows, 6 runs, 0 of them done" in text
    assert "an estimate" in text
    before = sorted(undisturbed.rglob("*"))
    text = call(undisturbed, "--plan", rows="smoke,mixup_rate_1", seeds="0").output
    assert sorted(undisturbed.rglob("*")) == before
    assert "8 runs, 6 of them done" in text
    assert "What it can resolve is not known yet" not in text
    assert "finds, at 80 % power" in text
    text = call(tmp_path / "lab", "--plan", "--pilot", str(undisturbed), seeds="0,1,2,3").output
    assert "with 4 seeds" in text
    assert trainings == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--looks", "2,1"], "ascending"),
        (["--looks", "1,2"], "from 2 on"),
        (["--looks", "2,3"], "the last of them all seeds"),
        (["--looks", "2", "--shard", "1/2"], "does not go with --shard"),
        (["--pilot", "nowhere"], "give --plan"),
    ],
)
def test_looks_that_cannot_be_are_refused(given: list[str], message: str, tmp_path: Path) -> None:
    """One sentence, and nothing is written."""
    text = call(tmp_path / "lab", *given, seeds="0,1", code=2).output
    assert message in " ".join(text.split())
    assert not (tmp_path / "lab").exists()


def test_another_recipe_or_other_clips_are_refused(undisturbed: Path, tmp_path: Path) -> None:
    """One sentence names what differs; nothing is run. A folder that is not a lab is left alone."""
    with pytest.raises(LabError, match=r"optimizer\.epochs is 2 there and 3 here"):
        lab(undisturbed, **{"optimizer.epochs": 3})
    with pytest.raises(LabError, match="other clips"):
        Lab(undisturbed, soundscapes(17, 6, 0.4), lab(undisturbed).recipe)
    text = call(undisturbed, "--set", "mixup.alpha=3", code=2).output
    assert text.count("\n") == 1
    assert "mixup.alpha is 10.0 there and 3.0 here" in text
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LabError, match="not a lab"):
        lab(tmp_path)
    with pytest.raises(LabError, match="hold nothing out"):
        Lab(tmp_path / "new", clips().split("train"), lab(tmp_path / "new").recipe)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--shard", "3/2"], "a part reads i/n"),
        (["--rows", "nothing"], "neither a row of the lab nor a group"),
        (["--rows", "nothing.yaml"], "No such file"),
        (["--seeds", "one"], "whole number"),
        (["--recipe", "nothing"], "neither a recipe file nor one of the presets"),
    ],
)
def test_refusals(tmp_path: Path, given: list[str], sentence: str) -> None:
    """A wrong option is one sentence, and no folder is made."""
    text = call(tmp_path / "lab", *given, code=2).output
    assert sentence in text
    assert text.count("\n") == 1
    assert not (tmp_path / "lab").exists()


class Stop:
    """Says stop from the asking on that is given."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def test_stopped_again_and_again(undisturbed: Path, tmp_path: Path) -> None:
    """Asked to stop after a step or two of each call, the lab ends where an undisturbed one ends."""
    out, calls = tmp_path / "lab", 0
    while True:
        try:
            do(out, ["ensemble_checkpoints"], stop=Stop(3))
            break
        except LabInterrupted:
            calls += 1
            assert calls < 20
    assert calls >= 2
    assert_part_of(out, undisturbed)


def killed(out: Path, after: str, delay: float = 0.0, seeds: str = "0") -> bool:
    """Start a lab, kill it when the file `after` is there and `delay` seconds have passed; whether it still ran."""
    python = "import torch; torch.set_num_threads(1); from psla.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", python, *arguments(out, rows="mixup", seeds=seeds)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob(after)):
        time.sleep(0.005)
    time.sleep(delay)
    ran = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return ran


def test_killed_in_the_middle(undisturbed: Path, tmp_path: Path) -> None:
    """Killed after its first epoch, the lab goes on to what an undisturbed one comes to."""
    out = tmp_path / "lab"
    assert killed(out, "runs/mixup-0-*/checkpoints/epoch_001.safetensors")
    call(out, rows="mixup", seeds="0")
    assert_part_of(out, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_anywhere(undisturbed: Path, tmp_path: Path) -> None:
    """Killed at several moments of one lab, from its first file on."""
    out, moments = tmp_path / "lab", ["clips.parquet", "lab.json", "runs/*/recipe.yaml", "runs/*/checkpoints/*"]
    moments += ["runs/*/scores.json", "runs/mixup-1-*/checkpoints/state*", "runs/mixup-1-*/scores.json"]
    assert sum(killed(out, after, 0.02 * place, "0,1") for place, after in enumerate(moments)) >= 4
    call(out, rows="mixup")
    assert results(out)["mixup"] == results(undisturbed)["mixup"]


def test_one_process_at_a_time(undisturbed: Path) -> None:
    """A lab that another process works on is refused; a shard keeps a call for the whole lab out."""
    python = (
        "import sys; from pathlib import Path; from psla.files import Journal\n"
        "with Journal(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    for name in ("journal.jsonl", "journal-1-of-2.jsonl"):
        command = [sys.executable, "-c", python, str(undisturbed / name)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(LabError, match="another process works on"):
                do(undisturbed, ["mixup"])
            other.communicate()
    (undisturbed / "journal-1-of-2.jsonl").unlink()
