"""A network for inference: folded, it says what the network says."""

from __future__ import annotations

import pytest
import torch

from psla.model.convolution import ConvNorm, zero_padded
from psla.model.ensemble import Ensemble
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork


def network(backbone: str, seed: int = 0) -> TaggingNetwork:
    """A network whose normalisations have statistics and factors that are not 0 and 1."""
    torch.manual_seed(seed)
    made = TaggingNetwork(NetworkConfig(backbone, 5, front_end=FrontEndConfig(frames=64))).eval()
    for part in made.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0.0, 0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            torch.nn.init.uniform_(part.weight, 0.7, 1.3)
            torch.nn.init.normal_(part.bias, 0.0, 0.2)
    return made


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_b2", "resnet50"])
def test_folded_features_are_the_networks(backbone: str) -> None:
    """In float64, where torch's own convolutions run, folding changes features by less than 1e-12 of their size;
    in float32 by less than 1e-5."""
    plain = network(backbone)
    log_mel = torch.randn(2, 64, 128)
    with torch.inference_mode():
        for kind, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            made = plain.to(kind)
            expected = made.features(log_mel)
            found = made.for_inference().features(log_mel)
            assert found.dtype == kind
            assert float((found - expected).norm() / expected.norm()) < bound


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_b0", "resnet50"])
def test_bf16_is_right_to_two_digits(backbone: str) -> None:
    """The backbone in bfloat16 gives features within 5 % and probabilities within 0.05 of float32's."""
    plain = network(backbone)
    wave = 0.1 * torch.randn(2, 10240)
    with torch.inference_mode():
        expected, fast = plain(wave), plain.for_inference("bf16")
        found = fast(wave)
    assert next(fast.backbone.parameters()).dtype == torch.bfloat16
    assert found.clip_probabilities.dtype == torch.float32
    assert float((found.clip_probabilities - expected.clip_probabilities).abs().max()) < 0.05
    assert not torch.equal(found.clip_probabilities, expected.clip_probabilities)


def test_the_network_is_left_as_it_was() -> None:
    """A copy is folded: the network keeps its mode, its modules and its gradients."""
    plain = network("efficientnet_lite0").train()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    plain.for_inference()
    assert plain.training
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert any(isinstance(part, ConvNorm) for part in plain.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state_dict().items())


def test_nothing_of_batch_normalisation_is_left() -> None:
    """All normalisations of every member of an ensemble are folded."""
    both = Ensemble([network("efficientnet_lite0"), network("resnet50", 1)])
    folded = both.for_inference()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    wave = 0.1 * torch.randn(1, 10240)
    with torch.inference_mode():
        torch.testing.assert_close(folded(wave), both(wave), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 2, 1, 2)])
def test_zeros_around_a_map_are_those_of_torch(padding: tuple[int, int, int, int]) -> None:
    """Without gradients the padding is written in parts: values and layout are those of `F.pad`."""
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout)
        with torch.inference_mode():
            found = zero_padded(x, padding)
        expected = torch.nn.functional.pad(x, padding)
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()
