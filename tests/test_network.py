"""Laws of the network, its file and its inference."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from psla.audio.decode import AudioError
from psla.data.source import ArraySource
from psla.data.vocabulary import Vocabulary
from psla.model.file import ModelCard, ModelFileError, load_model, read_header, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.inference import predict, tag_waveforms
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.techniques.pretraining import load_imagenet

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = Vocabulary(["dog", "rain", "siren"])
CARD = ModelCard({"seed": 3}, {"evaluation": {"averaged": 0.5}}, "CC0-1.0", "noise", {"epochs": [1, 2]}, {"dog": 0.25})


def build(padding: str = "released") -> TaggingNetwork:
    torch.manual_seed(0)
    front_end = FrontEndConfig(frames=64, padding=padding)
    network = TaggingNetwork(NetworkConfig("efficientnet_lite0", 3, heads=2, front_end=front_end))
    # Without weights the running statistics fit nothing, and every clip would get the same features: all but 0.
    load_imagenet(network.backbone, "efficientnet_lite0", "sum")
    return network.eval()


@pytest.fixture(scope="module")
def network() -> TaggingNetwork:
    return build()


@pytest.fixture(scope="module")
def saved(network: TaggingNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.safetensors", network, VOCABULARY, CARD)


def waves(count: int) -> list[np.ndarray]:
    """Noise of different lengths, one longer than the front end takes."""
    generator = np.random.default_rng(0)
    lengths = [4000, 10_500, 30_000, 700, 6000, 9000, 12_000]
    return [generator.integers(-9000, 9000, lengths[i], dtype=np.int16) for i in range(count)]


@pytest.mark.parametrize(("backbone", "heads", "millions"), [("efficientnet_b2", 4, 13.64), ("resnet50", 1, 25.66)])
def test_parameters(backbone: str, heads: int, millions: float) -> None:
    """With AudioSet's 527 classes the networks have the released sizes."""
    assert round(TaggingNetwork(NetworkConfig(backbone, 527, heads)).parameters_count / 1e6, 2) == millions


def test_feature_shape() -> None:
    """The paper's 1056 frames of 128 bins become 33 steps of 4 rows in B2's 1408 channels."""
    network = TaggingNetwork(NetworkConfig("efficientnet_b2", 2)).eval()
    with torch.inference_mode():
        assert network.features(torch.zeros(1, 1056, 128)).shape == (1, 1408, 4, 33)


def test_routes_agree(network: TaggingNetwork) -> None:
    """A waveform's tagging is the tagging of its fitted, normalised log-mel."""
    wave = torch.from_numpy(waves(2)[1])[None]
    with torch.inference_mode():
        log_mel, _ = network.front_end(wave)
        assert torch.equal(network(wave).clip_probabilities, network.from_log_mel(log_mel).clip_probabilities)


def test_masked_padding() -> None:
    """Under the rule `masked`, steps past the clip's own do not count; under `released` they do."""
    log_mel, counts = torch.randn(1, 64, 128), torch.tensor([30])
    for padding, differs in (("masked", True), ("released", False)):
        network = build(padding)
        with torch.inference_mode():
            whole, cut = network.from_log_mel(log_mel), network.from_log_mel(log_mel, counts)
        assert torch.equal(whole.clip_probabilities, cut.clip_probabilities) is not differs
        if differs:
            torch.testing.assert_close(cut.clip_probabilities, cut.frame_probabilities[:, 0])


def test_file_round_trip(network: TaggingNetwork, saved: Path) -> None:
    """What is loaded tags to the bit like what was saved, and says the same of itself."""
    model = load_model(saved)
    wave = torch.from_numpy(waves(2)[1])[None]
    with torch.inference_mode():
        said = network(wave), model.network(wave)
        assert said[0].familiarity is said[1].familiarity is None
        for one, other in zip(said[0][:4], said[1][:4], strict=True):
            assert torch.equal(one, other)
    assert (model.vocabulary, model.card, model.network.config) == (VOCABULARY, CARD, network.config)
    assert not model.network.training


def test_save_refuses_another_vocabulary(network: TaggingNetwork, tmp_path: Path) -> None:
    """A network is saved only with a vocabulary of as many classes as it has outputs."""
    with pytest.raises(ModelFileError, match="3 classes, the vocabulary 2"):
        save_model(tmp_path / "m.safetensors", network, Vocabulary(["a", "b"]), CARD)
    assert not list(tmp_path.iterdir())


Change = Callable[[dict[str, Tensor], dict], None]


def _without_bias(tensors: dict[str, Tensor], header: dict) -> None:
    del tensors["pooling.classification.bias"]


def _with_more(tensors: dict[str, Tensor], header: dict) -> None:
    tensors["pooling.secret"] = torch.zeros(1)


def _misshapen(tensors: dict[str, Tensor], header: dict) -> None:
    tensors["pooling.head_weight"] = torch.zeros(7)


def _other_version(tensors: dict[str, Tensor], header: dict) -> None:
    header["version"] = 3


def _without_card(tensors: dict[str, Tensor], header: dict) -> None:
    del header["card"]


def _unknown_key(tensors: dict[str, Tensor], header: dict) -> None:
    header["architecture"]["depth"] = 3


def _unknown_front_end(tensors: dict[str, Tensor], header: dict) -> None:
    header["front_end"]["colour"] = "pink"


def _unknown_backbone(tensors: dict[str, Tensor], header: dict) -> None:
    header["architecture"]["backbone"] = "efficientnet_z9"


def _other_classes(tensors: dict[str, Tensor], header: dict) -> None:
    header["architecture"]["classes"] = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_bias, r"missing 1 tensors: \['pooling.classification.bias'\]"),
        (_with_more, r"no use for 1 tensors: \['pooling.secret'\]"),
        (_misshapen, r"pooling.head_weight has the shape \(7,\), not \(2,\)"),
        (_other_version, "version 3; this psla reads versions 1 to 2"),
        (_without_card, "lacks card"),
        (_unknown_key, "depth"),
        (_unknown_front_end, "colour"),
        (_unknown_backbone, "efficientnet_z9"),
        (_other_classes, "4 outputs for a vocabulary of 3"),
    ],
)
def test_file_refusals(saved: Path, tmp_path: Path, change: Change, message: str) -> None:
    """A file that does not hold what it must is refused, and the file and the thing are named."""
    with safe_open(saved, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    header = read_header(saved)
    change(tensors, header)
    save_file(tensors, tmp_path / "changed.safetensors", metadata={"psla": json.dumps(header)})
    with pytest.raises(ModelFileError, match=f"changed.safetensors.*{message}"):
        load_model(tmp_path / "changed.safetensors")


def test_not_a_model_file(tmp_path: Path) -> None:
    """A missing file, text, and a safetensors file of something else are refused by path and reason."""
    path = tmp_path / "other.safetensors"
    with pytest.raises(ModelFileError, match=r"other.safetensors: there is no such"):
        load_model(path)
    path.write_text("no tensors here, only words, but enough of them")
    with pytest.raises(ModelFileError, match=r"other.safetensors: not a readable"):
        load_model(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match=r"other.safetensors.*not a psla model file"):
        load_model(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"psla": "{"})
    with pytest.raises(ModelFileError, match=r"other.safetensors: not a readable"):
        load_model(path)


@pytest.mark.parametrize("padding", ["released", "masked"])
def test_predictions_do_not_depend_on_the_batch(padding: str) -> None:
    """A clip's probabilities are its own: batches of 1 and of 3 agree, in the order of the source."""
    network, source = build(padding), ArraySource([f"c{i}" for i in range(7)], waves(7), 16000)
    one, three = (predict(network, source, VOCABULARY, batch_size=size).predictions for size in (1, 3))
    assert one.clip_ids == three.clip_ids == source.clip_ids
    np.testing.assert_allclose(one.probabilities, three.probabilities, rtol=0, atol=1e-6)
    assert len(np.unique(one.probabilities[:, 0])) == 7


class _Broken(ArraySource):
    def read(self, index: int) -> np.ndarray:
        if self.clip_ids[index] in ("b", "d"):
            raise AudioError("b.wav", "the file ends too early")
        return super().read(index)


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_broken_clips_are_rejected(network: TaggingNetwork, batch_size: int) -> None:
    """Broken clips are rejected with their reason; the others are predicted as if the broken were not there."""
    ids = list("abcde")
    got = predict(network, _Broken(ids, waves(5), 16000), VOCABULARY, batch_size, split="evaluation")
    assert got.predictions.clip_ids == ["a", "c", "e"]
    assert list(got.rejected) == ["b", "d"]
    assert all("ends too early" in reason for reason in got.rejected.values())
    whole = predict(network, ArraySource(ids, waves(5), 16000), VOCABULARY, 5).predictions
    np.testing.assert_allclose(got.predictions.probabilities, whole.probabilities[[0, 2, 4]], rtol=0, atol=1e-6)


def test_nothing_to_predict(network: TaggingNetwork) -> None:
    """Where no clip can be read, the first reason is given."""
    with pytest.raises(ValueError, match=r"none of 2 clips.*ends too early"):
        predict(network, _Broken(["b", "d"], waves(2), 16000), VOCABULARY)


def test_predict_restores_the_mode(network: TaggingNetwork) -> None:
    """Prediction is in evaluation mode and gives back the mode that it found."""
    fresh = build().train()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    predict(fresh, ArraySource(["a", "b"], waves(2), 16000), VOCABULARY)
    assert fresh.training
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


def test_a_long_clip_is_cut(network: TaggingNetwork) -> None:
    """What is past the front end's window changes nothing."""
    wave, window = waves(3)[2], network.config.front_end.window_samples
    long, cut = (tag_waveforms(network, [w], 16000).clip_probabilities for w in (wave, wave[:window]))
    assert torch.equal(long, cut)
