"""Laws of BatchNorm's statistics: estimated again they are the activations' own, and nothing else changes; frozen they
are those that training began with."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.source import ArraySource, open_source
from psla.model.file import ModelCard, load_model, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training import trainer
from psla.training.batch_norm import BatchNormError, reestimate
from psla.training.devices import Runtime, open_fabric
from psla.training.loader import Loader
from psla.training.recipe import Recipe, RecipeError
from psla.training.session import TrainingInterrupted, build_network, resume, train


@pytest.fixture
def network() -> TaggingNetwork:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = NetworkConfig("efficientnet_lite0", len(vocabulary()), front_end=FrontEndConfig(frames=64, mel_bins=32))
    return TaggingNetwork(config)


def clips(count: int = 6) -> Clips:
    return Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=count), "train"), vocabulary())


def test_the_first_norm_has_the_statistics_of_its_input(network: TaggingNetwork) -> None:
    """After one batch of all clips, mean and variance are those of what the stem's convolution puts out."""
    source, seen = open_source(clips(), 16000), []
    network.backbone.stem.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    weights = {name: p.clone() for name, p in network.named_parameters()}
    momentum = network.backbone.stem.bn.momentum
    assert reestimate(network, source, batch_size=6) == {}
    (output,) = seen
    norm = network.backbone.stem.bn
    torch.testing.assert_close(norm.running_mean, output.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var, output.var((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert norm.momentum == momentum
    assert not network.training
    assert not norm.training
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())


def test_it_depends_on_clips_and_seed_alone(network: TaggingNetwork) -> None:
    """Whatever the statistics were before, the same clips give the same ones."""
    source, found = open_source(clips(), 16000), []
    for start in (0.0, 7.0):
        network.backbone.stem.bn.running_mean.fill_(start)
        reestimate(network, source, batch_size=3)
        found.append(network.backbone.head.bn.running_var.clone())
    assert torch.equal(*found)


FROZEN = {
    "front_end": {"frames": 64, "mel_bins": 32},
    "backbone": {"name": "efficientnet_lite0", "batch_norm": "frozen", "drop_connect": 0.0},
    "pooling": {"heads": 2},
    "sampling": {"balanced": False},
    "mixup": {"rate": 0.0},
    "masking": {"frequency": 0, "time": 0},
    "optimizer": {"batch_size": 4, "epochs": 3, "warmup_steps": 0, "precision": "float32"},
    "averaging": {"first_epoch": 1},
}


def statistics(state: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    found = {name: t.numpy().tobytes() for name, t in state.items() if "running" in name or "num_batches" in name}
    assert len(found) > 120
    return found


def test_frozen_statistics_stay_through_a_training(tmp_path: Path) -> None:
    """Stopped and resumed, in every checkpoint, in the average and in a model that is tuned further with a broken clip
    beside it: the statistics are, to the bit, those that training began with; the norms' weights have learned."""
    recipe, corpus, cpu = Recipe.from_dict(FROZEN), clips(8), Runtime(accelerator="cpu", checkpoint_minutes=0)
    start = build_network(recipe, corpus.vocabulary)[0].state_dict()
    asked = iter([False, False, True])
    with pytest.raises(TrainingInterrupted):
        train(recipe, corpus, tmp_path / "run", runtime=cpu, stop=lambda: next(asked))
    run = resume(tmp_path / "run", runtime=cpu)
    for path in (*(run.checkpoint(epoch) for epoch in range(3)), run.model_file):
        state = load_file(path)
        assert statistics(state) == statistics(start)
        for name in ("backbone.stem.bn.weight", "backbone.head.bn.bias"):
            assert not torch.equal(state[name], start[name])
    rows = corpus.frame.to_dicts()
    rows[2]["path"] = str(tmp_path / "absent.wav")
    further = Recipe.from_dict({**FROZEN, "init": str(run.model_file)})
    tuned = train(further, Clips.from_rows(rows, vocabulary()), tmp_path / "further", runtime=cpu)
    assert statistics(load_file(tuned.model_file)) == statistics(start)


def test_a_frozen_network_trains_as_it_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the learning rate 0 what the network says in training is what it says in evaluation; the silent clip of a
    process that has nothing to read moves no statistics and leaves them frozen."""
    monkeypatch.setattr(trainer, "learning_rate", lambda recipe, step, epoch: 0.0)
    recipe, corpus = Recipe.from_dict(FROZEN), clips(8)
    network, _ = build_network(recipe, corpus.vocabulary)
    before, heard = statistics(network.state_dict()), []
    fabric = open_fabric(Runtime(accelerator="cpu"), "float32")
    wrapped, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters(), lr=1.0))
    loader = Loader(open_source(corpus, 16000), network.config.front_end.window_samples)
    subject = trainer.Trainer(recipe, wrapped, optimizer, fabric, corpus.labels(), loader)
    hook = network.register_forward_hook(
        lambda module, inputs, kwargs, output: heard.append((module.training, inputs, kwargs, output)), with_kwargs=True
    )
    subject.epoch(lambda count: None)
    hook.remove()
    assert [training for training, *_ in heard] == [True, True]
    subject._empty_loss()
    assert not any(norm.training for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d))
    assert statistics(network.state_dict()) == before
    network.eval()
    with torch.no_grad():
        for _, inputs, kwargs, output in heard:
            assert torch.equal(network(*inputs, **kwargs).clip_probabilities, output.clip_probabilities.detach())


def test_frozen_statistics_need_a_beginning_and_stay(network: TaggingNetwork, tmp_path: Path) -> None:
    """Random weights have no statistics to keep; those of a model that kept its own are not estimated again."""
    with pytest.raises(RecipeError, match=r"backbone\.batch_norm: frozen statistics are those that"):
        Recipe.from_dict({**FROZEN, "backbone": {"batch_norm": "frozen", "pretraining": "none"}})
    card = ModelCard(recipe=Recipe.from_dict(FROZEN).model_dump())
    save_model(tmp_path / "m.safetensors", network, vocabulary(), card)
    clips().write(tmp_path / "c.parquet")
    command = ["average", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "a.safetensors")]
    result = CliRunner().invoke(app, [*command, "--batchnorm", "reestimate", "--clips", str(tmp_path / "c.parquet")])
    assert result.exit_code == 2
    assert "frozen in its training" in " ".join(result.stderr.split())
    assert statistics(load_file(tmp_path / "a.safetensors")) == statistics(network.state_dict())


def test_refusals(network: TaggingNetwork, tmp_path: Path) -> None:
    """No clips, one clip, or none that can be read."""
    for source in (ArraySource([], [], 16000), ArraySource(["a"], [np.zeros(4800, np.int16)], 16000)):
        with pytest.raises(BatchNormError, match="fewer than two clips"):
            reestimate(network, source)
    absent = [{**row, "path": str(tmp_path / "absent.wav")} for row in clips().frame.to_dicts()]
    with pytest.raises(BatchNormError, match=r"absent\.wav"):
        reestimate(network, open_source(Clips.from_rows(absent, vocabulary()), 16000))
    with pytest.raises(BatchNormError, match="2 clips"):
        reestimate(network, open_source(clips(), 16000), clips=1)


def test_the_command(network: TaggingNetwork, tmp_path: Path) -> None:
    """`psla average --batchnorm reestimate` changes the statistics, keeps the weights and says so in the file."""
    save_model(tmp_path / "m.safetensors", network, vocabulary(), ModelCard())
    clips().write(tmp_path / "c.parquet")
    command = ["average", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "a.safetensors")]
    more = ["--batchnorm", "reestimate", "--clips", str(tmp_path / "c.parquet")]
    result = CliRunner().invoke(app, [*command, *more])
    assert result.exit_code == 0, result.output
    found = load_model(tmp_path / "a.safetensors")
    assert not torch.equal(found.network.backbone.stem.bn.running_mean, network.backbone.stem.bn.running_mean)
    assert torch.equal(found.network.backbone.stem.conv.weight, network.backbone.stem.conv.weight)
    assert "estimated again" in found.card.provenance["batch_norm"]
    assert CliRunner().invoke(app, [*command, "--batchnorm", "reestimate"]).exit_code == 2
