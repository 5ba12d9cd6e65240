"""Laws of the backbones; the outside references are efficientnet_pytorch and efficientnet_lite_pytorch."""

import efficientnet_lite_pytorch
import efficientnet_pytorch
import pytest
import torch
from torch import nn

from psla.model.backbones.contract import BACKBONES, build_backbone
from psla.model.backbones.efficientnet import VARIANTS, EfficientNet, SqueezeExcite, our_name
from psla.model.convolution import same_padding

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = [f"efficientnet_b{i}" for i in range(8)]
LITE = [f"efficientnet_lite{i}" for i in range(5)]
SHALLOW = ["efficientnet_b0", "efficientnet_lite0", "resnet50"]


def reference(name: str, in_channels: int = 1) -> nn.Module:
    library = efficientnet_lite_pytorch if "lite" in name else efficientnet_pytorch
    return library.EfficientNet.from_name(name.replace("_", "-"), in_channels=in_channels)


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Random weights and statistics under which the signal neither dies nor explodes with depth."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            spread = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data.normal_(0, spread, generator=generator)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.7, 1.3, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.3, 1.0, generator=generator)


def settle(network: nn.Module, x: torch.Tensor) -> None:
    """Random weights, and running statistics near those of the signal, but not equal to them."""
    randomise(network)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network._global_params = network._global_params._replace(drop_connect_rate=0.0)  # type: ignore[operator]
    with torch.no_grad():
        network.train().extract_features(x)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(1)
    for norm in norms:
        norm.running_var *= torch.empty(norm.num_features).uniform_(1.0, 1.5, generator=generator)


def with_weights_of(network: nn.Module, name: str) -> EfficientNet:
    """Ours with the tensors of the reference, all of them but the classifier."""
    tensors = {our_name(key): tensor for key, tensor in network.state_dict().items() if "_fc" not in key}
    ours = EfficientNet(name)
    ours.load_state_dict(tensors)  # type: ignore[arg-type]
    return ours


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal within 1e-4 of the spread of the features, which are neither dead nor huge."""
    spread = theirs.std()
    assert 1e-2 < spread < 1e4
    assert (ours - theirs).abs().max() / spread < 1e-4


@pytest.mark.parametrize("name", FULL[:4])
def test_features_equal_the_reference(name: str) -> None:
    """With the same weights and statistics, B0..B3 compute what efficientnet_pytorch computes, 10 s of log-mel."""
    x = torch.randn(1, 1, 128, 1056, generator=torch.Generator().manual_seed(1))
    theirs = reference(name)
    settle(theirs, x[..., :384])
    theirs.eval()
    ours = with_weights_of(theirs, name).eval()
    with torch.inference_mode():
        assert_same(ours(x), theirs.extract_features(x))


@pytest.mark.parametrize("name", [*FULL[4:], *LITE])
def test_tensors_map_onto_the_reference(name: str) -> None:
    """The tensors of the reference, the classifier left out, are ours under other names: all of them, same shapes."""
    with torch.device("meta"):
        theirs = {k: v.shape for k, v in reference(name, in_channels=3).state_dict().items() if "_fc" not in k}
        ours = {key: value.shape for key, value in build_backbone(name).state_dict().items()}
    mapped = {our_name(key): shape for key, shape in theirs.items()}
    assert mapped.pop("stem.conv.weight")[1] == 3
    assert ours.pop("stem.conv.weight")[1] == 1
    assert mapped == ours


@pytest.mark.parametrize("name", ["efficientnet_b2", "efficientnet_b7", "efficientnet_lite3"])
def test_padding_equals_the_reference(name: str) -> None:
    """Every convolution pads as the reference does for the ImageNet size of the variant."""
    with torch.device("meta"):
        theirs = [
            module.static_padding.padding if isinstance(module.static_padding, nn.ZeroPad2d) else (0, 0, 0, 0)
            for key, module in reference(name, in_channels=3).named_modules()
            if isinstance(module, nn.Conv2d) and "_se_" not in key
        ]
        network = EfficientNet(name)
    layers = [module for module in network.modules() if hasattr(module, "odd_padding")]
    order = [network.stem, *(layer for layer in layers if layer not in (network.stem, network.head)), network.head]
    assert [tuple(layer.odd_padding or layer.conv.padding * 2) for layer in order] == theirs


def test_training_equals_the_reference() -> None:
    """In training mode without drop connect the features, gradients and running statistics equal the reference's."""
    name = "efficientnet_b0"
    theirs = reference(name).train()
    theirs._global_params = theirs._global_params._replace(drop_connect_rate=0.0)
    randomise(theirs)
    ours = with_weights_of(theirs, name).train().double()
    theirs.double()
    x = torch.randn(2, 1, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features, expected = ours(x), theirs.extract_features(x)
    assert_same(features, expected)
    features.square().mean().backward()
    expected.square().mean().backward()
    gradients = {key: parameter.grad for key, parameter in ours.named_parameters()}
    for key, parameter in theirs.named_parameters():
        if "_fc" not in key:
            torch.testing.assert_close(gradients[our_name(key)], parameter.grad, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(ours.head.bn.running_var, theirs._bn1.running_var)


def test_shapes() -> None:
    """10 s of log-mel give 4 x 33 positions: 1,408 channels from B2, 2,048 from ResNet-50."""
    x = torch.zeros(1, 1, 128, 1056)
    with torch.inference_mode():
        assert build_backbone("efficientnet_b2").eval()(x).shape == (1, 1408, 4, 33)
        assert build_backbone("resnet50").eval()(x).shape == (1, 2048, 4, 33)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_stride_is_32(name: str) -> None:
    """Every backbone has a total stride of 32 and as many channels as it says."""
    with torch.device("meta"):
        network = build_backbone(name).eval()
        assert network(torch.zeros(3, 1, 128, 320)).shape == (3, network.channels, 4, 10)


def test_resnet_parameters() -> None:
    """ResNet-50 without classifier has torchvision's 25,557,032 - 2,049,000 parameters, two stem channels fewer."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_backbone("resnet50").parameters())
    assert count == 25_557_032 - 2_049_000 - 2 * 64 * 7 * 7


@pytest.mark.parametrize("name", SHALLOW)
def test_gradient_reaches_every_parameter(name: str) -> None:
    """A gradient other than zero reaches every parameter, and nothing is overwritten that autograd needs."""
    network = build_backbone(name).train()
    keep = torch.ones(2, network.drop_connect_units)
    x = torch.randn(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    network(x, keep).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_keep(name: str) -> None:
    """keep = 1 is no drop connect; keep = 0 leaves the input of the blocks with a skip; clips do not mix."""
    network = build_backbone(name).eval()
    randomise(network)
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(2, network.drop_connect_units)
    with torch.inference_mode():
        plain = network(x)
        torch.testing.assert_close(network(x, ones), plain)
        dropped = network(x, ones * torch.tensor([[0.0], [1.0]]))
        blocks = list(network.blocks)
        network.blocks = nn.ModuleList(nn.Identity() if block.has_skip else block for block in blocks)
        for module in network.blocks:
            if isinstance(module, nn.Identity):
                module.forward = lambda x, keep: x  # type: ignore[method-assign]
        without = network(x)
    torch.testing.assert_close(dropped, torch.stack([without[0], plain[1]]))
    assert not torch.allclose(without[0], plain[0])


def test_keep_scales_the_branch() -> None:
    """A block adds its branch times keep: at 2 it moves twice as far from its input as at 1, and per clip."""
    block = next(block for block in build_backbone("efficientnet_b0").eval().blocks if block.has_skip)
    x = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        moved = block(x.clone(), torch.tensor([1.0, 2.0])) - x
        branch = block(x.clone()) - x
    torch.testing.assert_close(moved, branch * torch.tensor([1.0, 2.0])[:, None, None, None])


def test_keep_probabilities() -> None:
    """The rate of drop connect grows with depth as in efficientnet_pytorch: rate * block / blocks."""
    network = EfficientNet("efficientnet_b2")
    probabilities = network.keep_probabilities(0.2)
    expected = [1 - 0.2 * i / len(network.blocks) for i in range(len(network.blocks))]
    torch.testing.assert_close(probabilities, torch.tensor(expected))


def test_input_is_left_alone() -> None:
    """Inference works in place on its own tensors only: the input and the weights stay as they were."""
    network = build_backbone("efficientnet_b0").eval()
    x = torch.randn(1, 1, 64, 64)
    before, features = x.clone(), None
    with torch.inference_mode():
        features = network(x)
        torch.testing.assert_close(network(x), features, rtol=0, atol=0)
    assert torch.equal(x, before)
    torch.testing.assert_close(network(x), features)  # with autograd, out of place


@pytest.mark.parametrize(("size", "kernel", "stride"), [(s, k, t) for s in (7, 8) for k in (1, 3, 5) for t in (1, 2)])
def test_same_padding(size: int, kernel: int, stride: int) -> None:
    """Under "same" the output has ceil(size / stride) positions, and the padding is the least that gives them."""
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)


def test_refusals() -> None:
    """Unknown names, wrong shapes and rates out of range are refused in a sentence that says what is allowed."""
    with pytest.raises(ValueError, match=r"no backbone is called 'efficientnet_b9'; there are .*resnet50"):
        build_backbone("efficientnet_b9")
    with pytest.raises(ValueError, match="no EfficientNet is called"):
        EfficientNet("resnet50")
    with torch.device("meta"):
        network = EfficientNet("efficientnet_b0")
    with pytest.raises(ValueError, match=r"must be \(batch, 1, mel bins, frames\)"):
        network(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"must be \(2, 16\)"):
        network(torch.zeros(2, 1, 64, 64), torch.ones(16))
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        network.keep_probabilities(1.0)
    for name in ("resnet50", "efficientnet_b0"):
        with pytest.raises(ValueError, match="batch_norm_momentum is 0"):
            build_backbone(name, 0)


def test_names() -> None:
    """There are 8 + 5 EfficientNets and two backbones more, each with a name."""
    assert set(BACKBONES) == {*FULL, *LITE, "resnet50", "mobilenet"}
    assert len(list(BACKBONES)) == len(VARIANTS) + 2


def test_the_gradient_of_squeeze_excite_is_right() -> None:
    """In float64 the gradients by the input and the weights are those of finite differences."""
    torch.manual_seed(0)
    part = SqueezeExcite(3, 2).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(part, (x,))
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(part, {"reduce.weight": weight}, (x,)),
        (part.reduce.weight.detach().requires_grad_(),),
    )
