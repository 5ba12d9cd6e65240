"""Laws of the published checkpoints: what the original implementation computes, from any file in its format."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_pytorch import EfficientNet
from torch import Tensor, nn
from typer.testing import CliRunner

import psla
from psla.cli import app
from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.model.backbones.efficientnet import foreign_name, our_name
from psla.model.file import ModelCard, load_model
from psla.model.network import TaggingNetwork
from psla.model.tensor_file import TensorFileError, misfits, read_torch_tensors
from psla.weights.catalogue import load_any
from psla.weights.readers.contract import WeightsError, import_weights
from psla.weights.readers.psla import read_released

RELEASED = Path(__file__).parents[2] / "shared/data/released"
FRAMES = 64
needs_originals = pytest.mark.skipif(not RELEASED.is_dir(), reason=f"the original's outputs are not at {RELEASED}")


class Original(nn.Module):
    """The released code's network, written down again from its description: `heads` 0, 1, or a list of n."""

    def __init__(self, variant: int, heads: int, classes: int, listed: bool) -> None:
        super().__init__()
        self.effnet = EfficientNet.from_name(f"efficientnet-b{variant}", in_channels=1)
        channels = self.effnet._conv_head.out_channels
        self.attention = nn.Module()
        for kind in ("att", "cla") if heads else ("cla",):
            convolutions = [nn.Conv2d(channels, classes, 1) for _ in range(max(heads, 1))]
            setattr(self.attention, kind, nn.ModuleList(convolutions) if listed else convolutions[0])
        if listed:
            self.attention.head_weight = nn.Parameter(torch.rand(heads))

    def forward(self, log_mel: Tensor) -> Tensor:
        features = self.effnet.extract_features(log_mel.unsqueeze(1).transpose(2, 3))
        steps = nn.functional.avg_pool2d(features, (4, 1))
        listed = hasattr(self.attention, "head_weight")
        classifiers = self.attention.cla if listed else [self.attention.cla]
        attentions = (
            (self.attention.att if listed else [self.attention.att]) if hasattr(self.attention, "att") else None
        )
        total = torch.zeros(())
        for head, classifier in enumerate(classifiers):
            probability = torch.sigmoid(classifier(steps))[:, :, 0]
            if attentions is None:
                return probability.mean(2)
            share = torch.sigmoid(attentions[head](steps))[:, :, 0].clamp(1e-7, 1 - 1e-7)
            share = share / share.sum(2, keepdim=True)
            total = total + (self.attention.head_weight[head] if listed else 1) * (share * probability).sum(2)
        return total


def original(variant: int = 0, heads: int = 4, classes: int = 3, listed: bool | None = None) -> Original:
    torch.manual_seed(variant + 10 * heads)
    network = Original(variant, heads, classes, heads > 1 if listed is None else listed)
    # As if trained: statistics that fit, so that features are about 1 and neither fade nor explode.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(log_mels())
    return network.eval()


def log_mels(frames: int = FRAMES) -> Tensor:
    return torch.randn(2, frames, 128, generator=torch.Generator().manual_seed(1))


def state(network: Original, prefix: str = "module.", classifier: bool = False) -> dict[str, Tensor]:
    """The checkpoint of a network; the ImageNet classifier is still in the library's, and gone in the original's."""
    tensors = {k: v for k, v in network.state_dict().items() if classifier or "._fc." not in k}
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def b0() -> Original:
    return original()


@pytest.fixture(scope="module")
def checkpoint(b0: Original, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "as_mdl_0.pth"
    torch.save(state(b0), path)
    return path


@needs_originals
@pytest.mark.parametrize(("name", "heads"), [("4head", 4), ("1head", 1), ("mean", 0)])
def test_equals_the_original(name: str, heads: int, tmp_path: Path) -> None:
    """The published format gives the original implementation's probabilities, as read and from a model file of it."""
    path = RELEASED / f"effnet_b0_{name}_16class.pth"
    network = psla.read_released(path)
    assert (network.config.backbone, network.config.heads, network.config.classes) == ("efficientnet_b0", heads, 16)
    vocabulary = Vocabulary([f"class {i}" for i in range(16)])
    stored = load_model(import_weights(path, tmp_path / "model.safetensors", vocabulary)).network
    with np.load(path.with_suffix(".npz")) as known, torch.inference_mode():
        for each in (network, stored):
            got = each.from_log_mel(torch.from_numpy(known["log_mel"])).clip_probabilities
            np.testing.assert_allclose(got, known["probabilities"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "heads", "classes", "listed", "prefix", "classifier"),
    [
        (0, 4, 3, True, "module.", True),
        (1, 1, 5, False, "", False),
        (2, 2, 7, True, "", True),
        (3, 0, 1, False, "module.", False),
        (0, 1, 4, True, "module.", False),
        (0, 7, 2, True, "", False),
    ],
)
def test_every_variant(
    variant: int, heads: int, classes: int, listed: bool, prefix: str, classifier: bool, tmp_path: Path
) -> None:
    """Variant, heads and classes are read off the tensors, with or without the prefix and the old classifier."""
    theirs = original(variant, heads, classes, listed)
    torch.save(state(theirs, prefix, classifier), tmp_path / "a.pth")
    ours = read_released(tmp_path / "a.pth", frames=FRAMES)
    config = ours.config
    assert (config.backbone, config.classes) == (f"efficientnet_b{variant}", classes)
    assert config.heads == (2 if listed and heads == 1 else heads)
    assert config.front_end == psla.FrontEndConfig(frames=FRAMES)  # Hann, -4.6476, 4.5699, zeros before normalising
    with torch.inference_mode():
        want, got = theirs(log_mels()), ours.from_log_mel(log_mels()).clip_probabilities
    assert want.std() > 1e-3
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", [4, 5, 6, 7])
def test_large_variants_are_told_apart(variant: int) -> None:
    """The names and shapes of B4..B7 are those of the library's networks, and recognised by them."""
    from psla.weights.readers.psla import _layout, _shapes

    with torch.device("meta"):
        tensors = state(Original(variant, 1, 2, False), "")
    layout = _layout(tensors, Path("a.pth"))
    assert layout.variant == f"efficientnet_b{variant}"
    assert not misfits(tensors, _shapes(layout))


def test_names_translate_back_and_forth() -> None:
    """`foreign_name` is the inverse of `our_name`."""
    for name in ("_blocks.15._se_reduce.bias", "_bn1.running_mean", "_conv_stem.weight"):
        assert foreign_name(our_name(name)) == name


def test_averaged_counters_and_halves_are_read(b0: Original, tmp_path: Path) -> None:
    """Averages of checkpoints hold their batch counters as floating numbers; weights may be of another precision."""
    tensors = {k: v.double() if v.is_floating_point() else v.float() / 3 for k, v in state(b0).items()}
    torch.save(tensors, tmp_path / "a.pth")
    torch.save(state(b0), tmp_path / "b.pth", _use_new_zipfile_serialization=False)  # before torch 1.6
    with torch.inference_mode():
        for path in (tmp_path / "a.pth", tmp_path / "b.pth"):
            got = read_released(path).from_log_mel(log_mels()).clip_probabilities
            torch.testing.assert_close(got, b0(log_mels()), rtol=0, atol=1e-5)


Change = Callable[[dict[str, Tensor]], None]
BLOCK = "module.effnet._blocks.7._bn1.running_var"


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors[BLOCK]


def _add(tensors: dict[str, Tensor]) -> None:
    tensors["module.effnet._blocks.7._bn9.weight"] = torch.zeros(1)


def _reshape(tensors: dict[str, Tensor]) -> None:
    tensors[BLOCK] = torch.ones(7)


def _drop_head(tensors: dict[str, Tensor]) -> None:
    del tensors["module.attention.att.2.bias"]


def _other_classes(tensors: dict[str, Tensor]) -> None:
    tensors["module.attention.att.1.weight"] = torch.zeros(9, 1280, 1, 1)


def _drop_counter(tensors: dict[str, Tensor]) -> None:
    del tensors["module.effnet._bn0.num_batches_tracked"]


def _not_finite(tensors: dict[str, Tensor]) -> None:
    tensors[BLOCK] = torch.full_like(tensors[BLOCK], float("nan"))


def _integers(tensors: dict[str, Tensor]) -> None:
    tensors[BLOCK] = tensors[BLOCK].int()


def _mixed_prefix(tensors: dict[str, Tensor]) -> None:
    tensors[BLOCK.removeprefix("module.")] = tensors.pop(BLOCK)


def _many_heads(tensors: dict[str, Tensor]) -> None:
    tensors["module.attention.head_weight"] = torch.zeros(100_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, r"missing: effnet._blocks.7._bn1.running_var$"),
        (_add, r"unexpected: effnet._blocks.7._bn9.weight$"),
        (_reshape, r"misshapen: effnet._blocks.7._bn1.running_var \(7,\), not \(480,\)$"),
        (_drop_head, r"missing: attention.att.2.bias$"),
        (_other_classes, r"misshapen: attention.att.1.weight \(9, 1280, 1, 1\), not \(3, 1280, 1, 1\)$"),
        (_drop_counter, r"missing: effnet._bn0.num_batches_tracked$"),
        (_not_finite, "running_var holds numbers that are not finite"),
        (_integers, "running_var holds torch.int32"),
        (_mixed_prefix, "must be named effnet"),
        (_many_heads, "100000 heads"),
        (dict.clear, "must hold a dictionary"),
    ],
)
def test_refusals_name_the_tensor(b0: Original, tmp_path: Path, change: Change, message: str) -> None:
    """A file with a tensor too few, too many or of another shape is refused, and the tensor is named."""
    tensors = state(b0)
    change(tensors)
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises((WeightsError, TensorFileError), match=message) as refusal:
        read_released(tmp_path / "a.pth")
    assert "a.pth" in str(refusal.value)
    assert "\n" not in str(refusal.value)


class _Trap:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/tmp/psla-trap-was-sprung"),))


def test_a_pickle_inside_is_not_run(tmp_path: Path) -> None:
    """What would run code when it is unpickled, zipped or plain, is refused and does not run."""
    trap = Path("/tmp/psla-trap-was-sprung")
    trap.unlink(missing_ok=True)
    torch.save({"effnet.a": _Trap()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"effnet.a": _Trap()}))
    torch.save({"state": {"effnet.a": torch.zeros(1)}}, tmp_path / "c.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "d.pth")
    for name in "abcd":
        with pytest.raises(TensorFileError, match=rf"{name}\.pth") as refusal:
            read_released(tmp_path / f"{name}.pth")
        assert "\n" not in str(refusal.value)
    assert not trap.exists()


def test_claims_are_compared_with_the_file(tmp_path: Path) -> None:
    """Tensors that claim more numbers than there are, and parts that unpack to more than the file, are refused."""
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "a.pth")
    with pytest.raises(TensorFileError, match="claim 4398046511104 bytes"):
        read_torch_tensors(tmp_path / "a.pth")
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "b.pth")
    with zipfile.ZipFile(tmp_path / "b.pth") as whole, zipfile.ZipFile(tmp_path / "c.pth", "w") as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(TensorFileError, match=r"packed as torch\.save does not pack"):
        read_torch_tensors(tmp_path / "c.pth")


def test_damaged_files_end_in_one_sentence(tmp_path: Path) -> None:
    """Flipped, cut or lengthened, a file is read or refused by name; nothing else happens."""
    torch.save({f"effnet.{i}": torch.arange(10.0) for i in range(3)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    generator = np.random.default_rng(0)
    path, sentences = tmp_path / "a.pth", []
    for _ in range(300):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), generator.integers(1, 4)):
            data[place] ^= 1 << int(generator.integers(8))
        if generator.random() < 0.3:
            data = data[: generator.integers(len(data))]
        path.write_bytes(data)
        try:
            tensors = read_torch_tensors(path)
        except TensorFileError as error:
            sentences.append(str(error))
        else:
            for tensor in tensors.values():
                tensor.double().sum()  # all of it can be read
    assert len(sentences) > 100
    assert all(str(path) in sentence and "\n" not in sentence for sentence in sentences)


def test_import_keeps_what_is_known(checkpoint: Path, tmp_path: Path) -> None:
    """The model file says where its weights come from, and a vocabulary of another length is refused."""
    card = ModelCard(licence="BSD", training_data="noise", provenance={"page": "here"})
    out = import_weights(checkpoint, tmp_path / "m.safetensors", Vocabulary(list("abc")), {"frames": 48}, card)
    model = load_model(out)
    assert model.card.provenance == {
        "page": "here",
        "family": "psla",
        "checkpoint": "as_mdl_0.pth",
        "sha256": sha256_of(checkpoint),
    }
    assert (model.card.licence, model.card.training_data) == ("BSD", "noise")
    assert model.network.config.front_end.frames == 48
    assert isinstance(model.network, TaggingNetwork)
    with pytest.raises(WeightsError, match="3 classes, the vocabulary 2"):
        import_weights(checkpoint, tmp_path / "n.safetensors", Vocabulary(list("ab")))


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join((result.stdout + result.stderr).split())


def test_import_command(checkpoint: Path, tmp_path: Path) -> None:
    """`psla import` asks for the classes and frames that the file does not tell; a folder becomes an ensemble."""
    out, classes = tmp_path / "m.safetensors", tmp_path / "classes.csv"
    classes.write_text("index,mid,display_name\n0,a,Dog\n1,b,Rain\n2,c,Siren\n")
    code, said = run("import", checkpoint, "--out", out)
    assert (code, "give their list with --vocabulary" in said) == (2, True)
    code, said = run("import", checkpoint, "--out", out, "--vocabulary", classes)
    assert (code, "--frames" in said) == (2, True)
    known = ("--vocabulary", classes, "--frames", 64, "--licence", "CC0-1.0")
    code, said = run("import", checkpoint, "--out", out, *known)
    assert code == 0, said
    assert load_model(out).vocabulary.names == ["Dog", "Rain", "Siren"]
    assert load_model(out).card.licence == "CC0-1.0"
    ensemble = tmp_path / "ensemble.json"
    code, said = run("import", checkpoint.parent, "--out", ensemble, *known)
    assert (code, "1 members" in said) == (0, True), said
    assert load_any(ensemble).vocabulary.ids == ["a", "b", "c"]
    code, said = run("import", classes, "--out", out, *known)
    assert code == 2
    assert "classes.csv" in said


def test_frames_follow_the_corpus(b0: Original, tmp_path: Path) -> None:
    """200 classes are FSD50K's, whose clips had 3000 frames; all others get AudioSet's 1056 unless it is stated."""
    tensors = state(b0)
    for name in [name for name in tensors if ".attention." in name]:
        del tensors[name]
    for classes, frames in ((200, 3000), (527, 1056), (4, 1056)):
        tensors["module.attention.cla.weight"] = torch.zeros(classes, 1280, 1, 1)
        tensors["module.attention.cla.bias"] = torch.zeros(classes)
        torch.save(tensors, tmp_path / "a.pth")
        assert read_released(tmp_path / "a.pth").config.front_end.frames == frames
