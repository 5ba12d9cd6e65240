"""Laws of inference: a clip's result is its own, to the bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from psla.data.source import ArraySource
from psla.data.vocabulary import Vocabulary
from psla.model.file import Model, ModelCard
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.inference import predict, tag_waveforms
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.tagging.tagger import Tagger
from psla.techniques.pretraining import load_imagenet

VOCABULARY = Vocabulary(["dog", "rain", "siren"])


def build(backbone: str) -> TaggingNetwork:
    torch.manual_seed(0)
    network = TaggingNetwork(NetworkConfig(backbone, 3, heads=2, front_end=FrontEndConfig(frames=96)))
    if backbone == "efficientnet_lite0":
        load_imagenet(network.backbone, backbone, "sum")
    else:  # without weights, statistics that keep the features from fading to denormal numbers
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.fill_(0.05)
    return network.eval()


def waves(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        generator.integers(-9000, 9000, int(length), dtype=np.int16)
        for length in generator.integers(500, 20_000, count)
    ]


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "efficientnet_b0"])
def test_results_do_not_depend_on_the_company(backbone: str) -> None:
    """Whatever a clip is given with, and wherever in the batch, its probabilities are the same to the bit (CPU)."""
    network, clips = build(backbone), waves(6)
    alone = [tag_waveforms(network, [clip], 16000) for clip in clips]
    generator = np.random.default_rng(1)
    for size in (2, 3, 5, 9):
        chosen = generator.integers(len(clips), size=size)
        together = tag_waveforms(network, [clips[i] for i in chosen], 16000)
        for row, i in enumerate(chosen):
            assert torch.equal(together.clip_probabilities[row], alone[i].clip_probabilities[0])
            assert torch.equal(together.frame_probabilities[row], alone[i].frame_probabilities[0])


def test_tag_and_predict_agree_to_the_bit() -> None:
    """The Tagger and `predict`, whatever its batch size, give a clip of one window the same probabilities."""
    network, clips = build("efficientnet_lite0"), [wave[:15_000] for wave in waves(5)]
    ids = [str(i) for i in range(5)]
    tagger = Tagger(Model(network, VOCABULARY, ModelCard()))
    tagged = np.stack([tagger.tag(clip, sample_rate=16_000).clip_probabilities for clip in clips])
    for size in (1, 2, 5):
        predicted = predict(
            network, ArraySource(ids, clips, 16000), VOCABULARY, batch_size=size
        ).predictions.probabilities
        assert np.array_equal(np.clip(predicted, 0, 1), tagged)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "mobilenet"])
def test_results_do_not_depend_on_the_number_of_threads(backbone: str) -> None:
    """With one, two or three threads of torch, called from whichever thread, probabilities are the same to the bit; and
    the caller's number of threads, and that of threads to come, stay what they were."""
    network, clips, before = build(backbone), waves(4), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(tag_waveforms(network, clips, 16000).frame_probabilities)
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(1) as other:
                assert other.submit(torch.get_num_threads).result() == threads
                found.append(other.submit(tag_waveforms, network, clips, 16000).result().frame_probabilities)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each.nan_to_num(2.0), found[0].nan_to_num(2.0)) for each in found)


def test_folded_tag_and_predict_agree_to_the_bit_and_nearly_with_float32() -> None:
    """`folded` moves probabilities, by less than 1e-5, and the same way in tagging and in prediction."""
    network, [clip] = build("efficientnet_lite0"), [wave[:15_000] for wave in waves(1)]
    model, source = Model(network, VOCABULARY, ModelCard()), ArraySource(["a"], [clip], 16000)
    plain, fast = (Tagger(model, precision=each).tag(clip, 16000).clip_probabilities for each in ("float32", "folded"))
    predicted = predict(network, source, VOCABULARY, precision="folded").predictions.probabilities[0]
    assert np.array_equal(np.clip(predicted, 0, 1), fast)
    assert 0 < np.abs(fast - plain).max() < 1e-5
