"""Laws of starting from a model file: the trunk comes whole, classes by their ids."""

from pathlib import Path

import pytest
import torch

from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.model.ensemble import write_ensemble
from psla.model.file import ModelCard, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.techniques.pretraining import PretrainingError, load_init
from psla.weights.catalogue import PublishedError

THEIRS = Vocabulary(["dog", "rain", "siren", "wind"])
OURS = Vocabulary(["siren", "cat", "dog"])


def build(classes: int, heads: int, seed: int, **front_end: object) -> TaggingNetwork:
    torch.manual_seed(seed)
    config = FrontEndConfig(**{"frames": 48, **front_end})
    network = TaggingNetwork(NetworkConfig("efficientnet_lite0", classes, heads, front_end=config))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else tensor + seed)
    return network


@pytest.mark.parametrize("heads", [0, 1, 3])
def test_classes_are_carried_by_id(heads: int, tmp_path: Path) -> None:
    """Shared classes have the file's rows in every head, new ones their own; the backbone is the file's."""
    source, network = build(4, heads, 1), build(3, heads, 2)
    path = save_model(tmp_path / "m.safetensors", source, THEIRS, ModelCard())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = load_init(network, OURS, path)
    given, after = source.state_dict(), network.state_dict()
    for name, tensor in after.items():
        if name.startswith("backbone.") or name.endswith("head_weight"):
            assert torch.equal(tensor, given[name]), name
            continue
        blocks = max(heads, 1)
        new, own, theirs = (t.reshape(blocks, -1, *t.shape[1:]) for t in (tensor, before[name], given[name]))
        assert torch.equal(new[:, 0], theirs[:, 2])  # siren
        assert torch.equal(new[:, 1], own[:, 1])  # cat
        assert torch.equal(new[:, 2], theirs[:, 0])  # dog
    assert (report.carried, report.new, report.dropped) == (("siren", "dog"), ("cat",), ("rain", "wind"))
    assert (report.source, report.sha256, report.remark) == (str(path), sha256_of(path), "")
    assert "2 (siren, dog); new: 1 (cat)" in report.summary()


def test_all_is_carried_to_the_same_classes(tmp_path: Path) -> None:
    """With the file's own vocabulary the network becomes the file's."""
    source, network = build(4, 2, 1), build(4, 2, 2)
    load_init(network, THEIRS, save_model(tmp_path / "m.safetensors", source, THEIRS, ModelCard()))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_other_heads_and_front_ends_are_reported(tmp_path: Path) -> None:
    """Another number of heads carries no class; a front end that differs is named with both values."""
    path = save_model(tmp_path / "m.safetensors", build(4, 2, 1), THEIRS, ModelCard())
    network = build(3, 1, 2, mean=-5.0)
    pooling = {name: tensor.clone() for name, tensor in network.pooling.state_dict().items()}
    report = load_init(network, OURS, path)
    assert report.carried == ()
    assert report.new == tuple(OURS.ids)
    assert "2 heads in the file, 1 here" in report.summary()
    assert report.front_end == {"mean": (-4.6476, -5.0)}
    assert all(torch.equal(tensor, pooling[name]) for name, tensor in network.pooling.state_dict().items())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Another backbone, other mel bins, an ensemble and an unknown name are refused, and nothing is changed."""
    path = save_model(tmp_path / "m.safetensors", build(4, 1, 1), THEIRS, ModelCard())
    ensemble = write_ensemble(tmp_path / "c.json", [path])
    network = build(3, 1, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(PretrainingError, match="is an ensemble"):
        load_init(network, OURS, ensemble)
    with pytest.raises(PublishedError, match="near it are"):
        load_init(network, OURS, "audioset-b3")
    with pytest.raises(PretrainingError, match="3 classes, the vocabulary 4"):
        load_init(network, THEIRS, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(PretrainingError, match="has the backbone efficientnet_lite0, the recipe resnet50"):
        load_init(TaggingNetwork(NetworkConfig("resnet50", 3)), OURS, path)
    with pytest.raises(PretrainingError, match="hears 128 mel bins, the recipe 64"):
        load_init(build(3, 1, 2, mel_bins=64), OURS, path)
