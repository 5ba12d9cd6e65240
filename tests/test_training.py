"""Laws of training: the same seed the same bits, every recipe field does something, nothing is lost in silence."""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.source import open_source
from psla.metrics.predictions import Predictions
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import TaggingNetwork
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.techniques.aggregation import AggregationError, average_weights
from psla.techniques.conditions import KINDS
from psla.techniques.sampling import EpochPlan
from psla.training import session
from psla.training.devices import Runtime
from psla.training.loader import Loader
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.training.session import build_network, train
from psla.training.trainer import Trainer, TrainingError, binary_cross_entropy
from psla.weights.imagenet import read_tensors, weights_file

# Clips of 0.3 s are 28 frames of 64: one real step of two, so that the rule for the padding matters.
BASE: dict[str, Any] = {
    "front_end": {"frames": 64, "mel_bins": 32},
    "backbone": {"name": "efficientnet_lite0"},
    "pooling": {"heads": 2},
    "masking": {"frequency": 12, "time": 16},
    "optimizer": {
        "batch_size": 4,
        "epochs": 2,
        "warmup_steps": 2,
        "halve_after": 0,
        "halve_every": 1,
        "precision": "float32",
    },
    "averaging": {"first_epoch": 1},
}


def recipe(**changed: Any) -> Recipe:
    """The tiny recipe with sections updated: recipe(optimizer={"epochs": 1})."""
    data = {**BASE}
    for key, new in changed.items():
        data[key] = {**data.get(key, {}), **new} if isinstance(new, dict) else new
    return Recipe.from_dict(data)


def rows(count: int, split: str = "train", first: int = 0) -> list[dict[str, Any]]:
    return table(SoundscapeConfig(seconds=0.3, clips=count), split, first)


def clips_of(rows: list[dict[str, Any]]) -> Clips:
    return Clips.from_rows(rows, vocabulary())


def fit(recipe: Recipe, clips: Clips, out: Path) -> Run:
    return train(recipe, clips, out, runtime=Runtime(accelerator="cpu"))


def digest(path: Path) -> str:
    """Of a file's tensors, but for the front end's, which follow from the recipe without training."""
    total = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        if not name.startswith("front_end"):
            total.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def outcome(run: Run) -> dict[str, Any]:
    """What a run gives: averaged and final weights, and the log; the folder is removed."""
    found = {
        "averaged": digest(run.model_file),
        "final": digest(run.folder / "model_final.safetensors"),
        "log": (run.folder / "log.csv").read_bytes(),
    }
    shutil.rmtree(run.folder)
    return found


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """One thread is the fastest for so little, and these runs need not survive a power cut."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(Run, "draw", lambda *given: None)  # a quarter of such a run, and its tests are elsewhere
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def eight() -> Clips:
    return clips_of(rows(8))


@pytest.fixture(scope="module")
def base(eight: Clips, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcome(fit(recipe(), eight, tmp_path_factory.mktemp("base") / "run"))


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on 8 clips, one of them a text file named .wav, that predicts 5 others, one of them as broken."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "broken.wav").write_text("these are words, not samples")
    made = [*rows(8), *rows(5, "evaluation", first=100)]
    for index in (3, 9):
        made[index] = {**made[index], "clip_id": f"broken{index}", "path": str(folder / "broken.wav")}
    return fit(recipe(sampling={"balanced": False}), clips_of(made), folder / "run")


def test_same_seed_same_bits(base: dict[str, Any], eight: Clips, tmp_path: Path) -> None:
    """The same recipe gives bit-identical weights and logs, whatever the global generators hold."""
    torch.manual_seed(999)
    np.random.seed(999)  # noqa: NPY002
    assert outcome(fit(recipe(), eight, tmp_path / "run")) == base


# One changed value for each field of the recipe; a field that is not here fails the test below.
CHANGED: dict[str, Any] = {
    "front_end.window": "hamming",
    "front_end.mel_bins": 64,
    "front_end.hop_ms": 8.0,
    "front_end.frames": 96,
    "front_end.mean": -4.0,
    "front_end.std": 4.0,
    "front_end.frame_length_ms": 20.0,
    "front_end.sample_rate": 20000,
    "front_end.padding": "masked",
    "backbone.name": "efficientnet_lite1",  # with random weights: those of ImageNet are not in the package
    "backbone.options": {"width": 0.2},
    "backbone.pretraining": "none",
    "backbone.stem": "sum",
    "backbone.weights": "a perturbed copy",
    "backbone.drop_connect": 0.5,
    "backbone.batch_norm_momentum": 0.1,
    "backbone.batch_norm": "synchronised",
    "pooling.kind": "mlp",
    "pooling.heads": 1,
    "sampling.balanced": False,
    "sampling.smoothing": 100.0,
    "waveform.crop_frames": 32,
    "waveform.crop_by": "energy",
    "waveform.shift": 1.0,
    "waveform.gain_db": 12.0,
    "conditions.excerpt": 1.0,
    "conditions.excerpt_seconds": (0.15, 0.2),
    "conditions.excerpt_by": "energy",
    "conditions.room": 1.0,
    "conditions.room_seconds": (0.5, 0.5),
    "conditions.room_db": (0.0, 0.0),
    "conditions.noise": 1.0,
    "conditions.noise_db": (3.0, 3.0),
    "conditions.clipping": 1.0,
    "conditions.clipping_db": (15.0, 15.0),
    "conditions.band": 1.0,
    "conditions.band_hz": (1200.0, 1200.0),
    "conditions.telephone": 0.9,
    "conditions.codec": 1.0,
    "conditions.level": 1.0,
    "conditions.level_db": (12.0, 12.0),
    "conditions.overdrive": 0.9,
    "mixup.rate": 1.0,
    "mixup.alpha": 0.2,
    "masking.frequency": 24,
    "masking.time": 32,
    "masking.fill": "mean",
    "distillation.predictions": "a teacher's",
    "distillation.teacher": "the base's model",
    "distillation.weight": 0.9,
    "optimizer.learning_rate": 1e-3,
    "optimizer.batch_size": 8,
    "optimizer.epochs": 3,
    "optimizer.warmup_steps": 0,
    "optimizer.schedule": "cosine",
    "optimizer.label_smoothing": 0.1,
    "optimizer.halve_after": 1,
    "optimizer.halve_every": 2,
    "optimizer.beta1": 0.5,
    "optimizer.beta2": 0.9,
    "optimizer.weight_decay": 0.01,
    "optimizer.precision": "bf16",
    "averaging.first_epoch": 2,
    "init": "the base's model",
    "classes": vocabulary().ids[:20],
    "seed": 1,
}


def fields(section: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found.extend(fields(inner, f"{prefix}{name}."))
        elif name == "front_end":  # of the paper's kind; another kind's fields are walked where it is tested
            # What is shorter than a window, and needs a padding of its own: tests/test_efficientat.py.
            short = ("shortest_frames", "repeat_frames")
            names = [each.name for each in dataclasses.fields(FrontEndConfig) if each.name not in short]
            found.extend(f"front_end.{each}" for each in names)
        else:
            found.append(prefix + name)
    return found


@pytest.fixture(scope="module")
def perturbed_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    tensors = read_tensors(weights_file("efficientnet_lite0"))
    tensors["_conv_head.weight"] = tensors["_conv_head.weight"] * 1.01
    path = tmp_path_factory.mktemp("weights") / "perturbed.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def teacher(eight: Clips, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of a teacher's probabilities for the training clips."""
    probabilities = np.random.default_rng(0).random((len(eight), len(eight.vocabulary)), dtype=np.float32)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    Predictions(probabilities, eight.clip_ids, eight.vocabulary, split="train").save(path)
    return str(path)


@pytest.fixture(scope="module")
def random_base(eight: Clips, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The base without pretraining, for what cannot be changed with it."""
    run = fit(recipe(backbone={"pretraining": "none"}), eight, tmp_path_factory.mktemp("random") / "run")
    return outcome(run)


POOR = {**dict.fromkeys(KINDS, 0.8), "excerpt_seconds": (0.1, 0.2)}


@pytest.fixture(scope="module")
def poor(eight: Clips, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The base with most clips under every condition."""
    return outcome(fit(recipe(conditions=POOR), eight, tmp_path_factory.mktemp("poor") / "run"))


def test_every_field_is_walked() -> None:
    """The table of changed values has every field of the recipe and no other."""
    assert sorted(CHANGED) == sorted(fields(Recipe))


@pytest.mark.parametrize("key", CHANGED)
def test_every_field_changes_something(
    key: str, base: dict[str, Any], eight: Clips, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A field of the recipe that is changed alone changes the weights; of the average, only the averaged ones."""
    new, before = CHANGED[key], base
    *section, last = key.split(".")
    changed: dict[str, Any] = {section[0]: {last: new}} if section else {last: new}
    if key == "backbone.weights":
        changed["backbone"]["weights"] = request.getfixturevalue("perturbed_weights")
    if key == "distillation.teacher":
        changed["distillation"]["teacher"] = str(request.getfixturevalue("mixed_run").model_file)
    elif section == ["distillation"]:
        changed["distillation"]["predictions"] = request.getfixturevalue("teacher")
    if key == "distillation.weight":
        before = outcome(
            fit(recipe(distillation={"predictions": request.getfixturevalue("teacher")}), eight, tmp_path / "b")
        )
    if key == "waveform.crop_by":  # says nothing as long as nothing is cut
        changed["waveform"]["crop_frames"] = 32
        changed["front_end"] = {"hop_ms": 5.0}  # so that the clips are longer than that
        unchanged = recipe(waveform={"crop_frames": 32}, front_end=changed["front_end"])
        before = outcome(fit(unchanged, eight, tmp_path / "b"))
    if section == ["conditions"] and last not in KINDS:  # says nothing of a condition that no clip meets
        before, changed = request.getfixturevalue("poor"), {"conditions": {**POOR, last: new}}
    if key == "pooling.kind":
        changed["pooling"]["heads"] = 0
    if key == "backbone.options":
        mobile = {"name": "mobilenet", "pretraining": "none"}
        changed["backbone"] |= mobile
        before = outcome(fit(recipe(backbone={**mobile, "options": {"width": 0.1}}), eight, tmp_path / "b"))
    if key == "init":
        changed["init"] = str(request.getfixturevalue("mixed_run").model_file)
    if key == "backbone.batch_norm":
        with pytest.raises(RecipeError, match=r"backbone\.batch_norm: synchronised needs CUDA devices"):
            fit(recipe(**changed), eight, tmp_path / "run")
        return
    if key == "backbone.name":
        changed["backbone"]["pretraining"] = "none"
        before = request.getfixturevalue("random_base")
    got = outcome(fit(recipe(**changed), eight, tmp_path / "run"))
    assert got["averaged"] != before["averaged"]
    # The average is taken when all is trained: its field touches nothing else.
    assert (got["final"] == before["final"]) is (key == "averaging.first_epoch")
    if key == "averaging.first_epoch":
        assert got["log"] == before["log"]


def test_cross_entropy_is_the_definition() -> None:
    """Inside the margin the loss is torch's, the mean over the classes of each clip."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(6, 9, generator=generator) * 0.98 + 0.01
    y = torch.rand(6, 9, generator=generator)
    want = torch.stack([torch.nn.functional.binary_cross_entropy(a, b) for a, b in zip(p, y, strict=True)])
    torch.testing.assert_close(binary_cross_entropy(p, y), want)
    by_hand = -(y.double() * p.double().log() + (1 - y.double()) * (1 - p.double()).log()).mean(1)
    torch.testing.assert_close(binary_cross_entropy(p, y), by_hand.float())


@pytest.mark.parametrize("probability", [0.0, 1.0, 1.2, -0.1])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_cross_entropy_is_finite(probability: float, target: float) -> None:
    """At the ends and beyond them the loss and its gradient are finite."""
    p = torch.full((1, 2), probability, requires_grad=True)
    loss = binary_cross_entropy(p, torch.full((1, 2), target))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert 0 <= loss.item() < 17
    assert p.grad.isfinite().all()


def trainer_of(recipe: Recipe, clips: Clips) -> Trainer:
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    network, _ = build_network(recipe, clips.vocabulary)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    loader = Loader(open_source(clips, 16000), network.config.front_end.window_samples)
    return Trainer(recipe, wrapped, wrapped_optimizer, fabric, clips.labels(), loader)


def test_loss_of_a_mixed_batch(eight: Clips) -> None:
    """The loss is the cross-entropy of the mixed waveform against the mixed labels, clip by clip."""
    plain = recipe(masking={"frequency": 0, "time": 0}, backbone={"drop_connect": 0.0})
    trainer = trainer_of(plain, eight)
    network = trainer.network.module.eval()
    plan = EpochPlan(8, 0.6, 10.0, 1, 0)
    batch = next(trainer.loader.batches(plan, 6))
    with torch.no_grad():
        got = trainer.loss(batch, 0)
    source, truth = open_source(eight, 16000), eight.labels().matrix()
    assert 0 < (plan.second[:6] >= 0).sum() < 6, "the law needs clips of both kinds"
    for i in range(6):
        first, second, share = int(plan.first[i]), int(plan.second[i]), float(plan.share[i])
        wave, target = source.read(first) / 32768, truth[first].astype(float)
        if second >= 0:
            other = source.read(second) / 32768
            wave = share * (wave - wave.mean()) + (1 - share) * (other - other.mean())
            target = share * target + (1 - share) * truth[second]
        with torch.no_grad():
            p = network(torch.from_numpy(wave[None].astype(np.float32))).clip_probabilities[0].double().numpy()
        want = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
        assert float(got[i]) == pytest.approx(want, rel=2e-3)


def test_a_step_takes_the_mean_over_the_global_batch(eight: Clips) -> None:
    """The gradient is that of the summed losses over the clips of the global batch, broken ones included."""
    trainer = trainer_of(recipe(), eight)
    trainer.network.eval()
    bias = trainer.network.module.pooling.classification.bias
    plan = EpochPlan(8, 0.5, 10.0, 0, 0)
    batch = next(trainer.loader.batches(plan, 4))
    want = torch.autograd.grad(trainer.loss(batch, 0).sum(), bias)[0] / 4
    before = bias.detach().clone()
    trainer.train_step(batch, 0)
    torch.testing.assert_close(before - bias.detach(), 0.1 * want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_clip_has_one_mask_in_every_process(eight: Clips, rank: int) -> None:
    """Masks and drop-connect belong to the position in the plan: half a batch gets the whole batch's."""
    trainer = trainer_of(recipe(), eight)
    positions = np.arange(8)
    part = positions[rank::2]
    for whole, own in zip(trainer._masks(positions, 1), trainer._masks(part, 1), strict=True):
        assert torch.equal(whole[rank::2], own)
    assert torch.equal(trainer._keep(positions, 1)[rank::2], trainer._keep(part, 1))


def test_processes_share_a_batch(eight: Clips) -> None:
    """The batches of two processes together are those of one."""
    loader = Loader(open_source(eight, 16000), 10_000)
    plan = EpochPlan(8, 0.5, 10.0, 0, 0)
    whole = [batch.positions.tolist() for batch in loader.batches(plan, 3)]
    halves = [[batch.positions.tolist() for batch in loader.batches(plan, 3, rank, 2)] for rank in (0, 1)]
    assert whole == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == whole


def test_broken_clips_are_counted(mixed_run: Run) -> None:
    """A broken file neither stops nor silently shrinks the run: the lists and the counts have it."""
    assert sorted(mixed_run.rejected) == ["broken3", "broken9"]
    assert all("broken.wav" in reason for reason in mixed_run.rejected.values())
    log = mixed_run.read_log()
    assert [(row["clips"], row["rejected"], row["steps"]) for row in log] == [(7, 1, 2), (7, 1, 2)]
    assert mixed_run.scores["rejected_clips"] == 2
    held_out = Predictions.read(mixed_run.predictions / "evaluation" / "epoch_001.safetensors")
    assert len(held_out) == 4
    assert "broken9" not in held_out.clip_ids


def test_a_broken_second_leaves_the_first_alone(tmp_path: Path) -> None:
    """Where only the clip to be mixed in is broken, the first is read unmixed, with its own labels alone."""
    made = rows(4)
    made[2] = {**made[2], "path": str(tmp_path / "absent.wav")}
    clips = clips_of(made)
    loader, plan = Loader(open_source(clips, 16000), 10_000), EpochPlan(4, 0.0, 10.0, 0, 0)
    plan.second = np.full(4, 2)
    plan.share[:] = 0.5
    batch = next(loader.batches(plan, 4))
    assert sorted(batch.rows_first.tolist()) == [0, 1, 3]
    assert batch.rows_second.tolist() == [-1, -1, -1]
    assert batch.share.tolist() == [1.0, 1.0, 1.0]
    assert batch.global_count == 4
    assert list(loader.rejected) == [made[2]["clip_id"]]


def test_nothing_readable(tmp_path: Path) -> None:
    """Where no clip at all can be read, the run stops with a reason instead of learning nothing at the loss 0."""
    made = [{**row, "path": str(tmp_path / "absent.wav")} for row in rows(8)]
    with pytest.raises(TrainingError, match=r"absent\.wav"):
        fit(recipe(), clips_of(made), tmp_path / "run")


def test_the_ensemble_is_the_mean_of_the_stored(mixed_run: Run) -> None:
    """checkpoint_ensemble is the mean of the epochs' predictions; the last epoch's are those of model_final."""
    folder = mixed_run.predictions / "evaluation"
    each = [Predictions.read(folder / f"epoch_{e:03d}.safetensors") for e in (1, 2)]
    ensemble = Predictions.read(folder / "checkpoint_ensemble.safetensors")
    assert ensemble.clip_ids == each[0].clip_ids
    want = np.mean([p.probabilities.astype(np.float64) for p in each], axis=0)
    np.testing.assert_allclose(ensemble.probabilities, want, rtol=1e-6)
    assert set(mixed_run.scores["evaluation"]) == {"final", "last_five", "averaged", "checkpoint_ensemble"}


def test_the_model_file_is_the_average_of_the_checkpoints(mixed_run: Run) -> None:
    """model.safetensors holds the mean of the checkpoints, model_final.safetensors the last one."""
    one, two = (load_file(mixed_run.checkpoint(e)) for e in (0, 1))
    averaged, final = load_file(mixed_run.model_file), load_file(mixed_run.folder / "model_final.safetensors")
    assert averaged.keys() == final.keys() == two.keys()
    for name, tensor in averaged.items():
        assert torch.equal(final[name], two[name]), name
        want = ((one[name].double() + two[name].double()) / 2).to(tensor.dtype) if tensor.is_floating_point() else None
        assert torch.equal(tensor, two[name] if want is None else want), name


def test_the_folder_describes_the_run(mixed_run: Run) -> None:
    """The folder holds the recipe, the environment and a log of one row an epoch without clock times."""
    assert mixed_run.recipe == recipe(sampling={"balanced": False})
    environment = json.loads((mixed_run.folder / "environment.json").read_text())
    assert environment["clips"]["splits"] == {"train": 8, "evaluation": 5}
    with (mixed_run.folder / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert not any(key.endswith("_s") for key in log[0])


def test_a_run_is_not_overwritten(mixed_run: Run, eight: Clips) -> None:
    """A folder that holds a run already is refused, and the run is left as it was."""
    before = (mixed_run.folder / "log.csv").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run"):
        fit(recipe(), eight, mixed_run.folder)
    assert (mixed_run.folder / "log.csv").read_bytes() == before


def test_refusals_come_before_any_work(eight: Clips, tmp_path: Path) -> None:
    """A recipe that does not fit the clips, and clips without a train split, leave no folder behind."""
    with pytest.raises(RecipeError, match=r"optimizer.warmup_steps"):
        fit(recipe(optimizer={"warmup_steps": 5}), eight, tmp_path / "run")
    with pytest.raises(RecipeError, match="classes"):
        fit(recipe(classes=["no such class"]), eight, tmp_path / "run")
    with pytest.raises(RecipeError, match="nothing to train on"):
        fit(recipe(), clips_of(rows(2, "evaluation")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite(eight: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that gives NaN stops the run, and the clips of the batch are named."""

    def spoilt(recipe: Recipe, vocabulary: Any) -> tuple[TaggingNetwork, str]:
        network, origin = build_network(recipe, vocabulary)
        with torch.no_grad():
            network.pooling.classification.bias[0] = float("nan")
        return network, origin

    monkeypatch.setattr(session, "build_network", spoilt)
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1; clips of the batch: s0_\d+"):
        fit(recipe(), eight, tmp_path / "run")


def test_classes_are_a_part_of_the_vocabulary(eight: Clips) -> None:
    """The labels in a part of the vocabulary are the columns of its classes, in its order."""
    ids = list(reversed(vocabulary().ids))[:9]
    chosen = vocabulary().part(recipe(classes=ids).classes or [])
    labels: Labels = eight.labels().part(chosen)
    assert chosen.ids == ids
    for i, clip_id in enumerate(eight.clip_ids):
        assert labels.clip_ids[i] == clip_id
        assert set(labels.ids_of(i)) == set(eight.labels().ids_of(i)) & set(ids)


def checkpoints(folder: Path, *states: dict[str, Tensor]) -> list[Path]:
    paths = [folder / f"{i}.safetensors" for i in range(len(states))]
    for path, state in zip(paths, states, strict=True):
        save_file(state, path)
    return paths


def test_average_of_one_two_three(tmp_path: Path) -> None:
    """1, 2 and 3 have the average 2: each checkpoint counts once; integers come from the last one."""
    paths = checkpoints(tmp_path, *({"w": torch.full((2,), float(v)), "n": torch.tensor([v * 10])} for v in (1, 2, 3)))
    got = average_weights(paths)
    assert got["w"].tolist() == [2.0, 2.0]
    assert got["n"].tolist() == [30]
    assert got["w"].dtype == torch.float32
    assert torch.equal(average_weights(paths[:1])["w"], torch.ones(2))


def test_average_does_not_depend_on_the_order(tmp_path: Path) -> None:
    """Any order of the checkpoints gives the same bits, in float32 and in float16."""
    generator = torch.Generator().manual_seed(0)
    draw: Callable[[], Tensor] = lambda: torch.randn(2000, generator=generator)  # noqa: E731
    paths = checkpoints(tmp_path, *({"w": draw(), "half": draw().half()} for _ in range(5)))
    want = average_weights(paths)
    for order in ((4, 3, 2, 1, 0), (2, 0, 4, 1, 3)):
        got = average_weights([paths[i] for i in order])
        assert all(torch.equal(got[name], want[name]) for name in want)


def test_average_refusals(tmp_path: Path) -> None:
    """No checkpoint, another tensor and another shape are refused, and the tensor is named."""
    a, b, c = checkpoints(
        tmp_path, {"w": torch.ones(2)}, {"w": torch.ones(2), "extra": torch.ones(1)}, {"w": torch.ones(3)}
    )
    with pytest.raises(AggregationError, match="at least one checkpoint"):
        average_weights([])
    with pytest.raises(AggregationError, match=r"1\.safetensors does not match .*0\.safetensors: extra"):
        average_weights([a, b])
    with pytest.raises(AggregationError, match=r"2\.safetensors does not match .*0\.safetensors: w"):
        average_weights([a, c])
