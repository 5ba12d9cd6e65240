"""Laws of estimating BatchNorm's statistics again: they are the activations' own, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.source import ArraySource, open_source
from psla.model.file import ModelCard, load_model, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training.batch_norm import BatchNormError, reestimate


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
