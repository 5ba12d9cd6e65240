"""Laws of the model file: what was saved comes back, and nothing else is believed."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from psla.data.vocabulary import Vocabulary
from psla.model.file import ModelCard, ModelFileError, load_model, read_header, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.model.tensor_file import MOST_HEADER_BYTES, TensorFileError, read_layout
from psla.sealed import checksum

VOCABULARY = Vocabulary(["dog", "rain", "siren"])
CARD = ModelCard({"seed": 3}, {"published": 0.5}, "CC0-1.0", "noise", {"run": "a"}, {"dog": 0.25})


@pytest.fixture(scope="module")
def network() -> TaggingNetwork:
    torch.manual_seed(0)
    config = NetworkConfig("efficientnet_lite0", 3, heads=2, front_end=FrontEndConfig(frames=64))
    return TaggingNetwork(config).eval()


@pytest.fixture(scope="module")
def saved(network: TaggingNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.safetensors", network, VOCABULARY, CARD)


def parts(path: Path) -> tuple[dict, bytes]:
    """The header of a safetensors file and the numbers behind it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path: Path, header: dict | bytes, numbers: bytes, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + numbers)
    return path


def sealed(header: dict) -> str:
    """A header that has been changed, as whoever changes it on purpose would write it: with its checksum."""
    changed = {key: value for key, value in header.items() if key != "header_sha256"}
    return json.dumps({**changed, "header_sha256": checksum(changed)})


def test_half_precision_halves_the_file(network: TaggingNetwork, saved: Path, tmp_path: Path) -> None:
    """float16 stores matrices and convolutions in half the bytes; they come back as float32, the rest to the bit."""
    half = save_model(tmp_path / "half.safetensors", network, VOCABULARY, CARD, dtype="float16")
    assert half.stat().st_size < 0.53 * saved.stat().st_size
    back = load_model(half).network.state_dict()
    for name, tensor in network.state_dict().items():
        assert back[name].dtype == tensor.dtype
        want = tensor.half().float() if tensor.ndim > 1 else tensor
        assert torch.equal(back[name], want), name
    with safe_open(half, framework="pt") as file:
        assert file.get_slice("backbone.stem.bn.running_var").get_dtype() == "F32"
        assert file.get_slice("backbone.stem.conv.weight").get_dtype() == "F16"


def test_what_cannot_be_stored_is_refused(network: TaggingNetwork, tmp_path: Path) -> None:
    """Weights beyond float16, another dtype, thresholds of unknown classes and NaN in the card are refused."""
    large = TaggingNetwork(network.config)
    with torch.no_grad():
        large.pooling.classification.weight[0, 0] = 1e6
    path = tmp_path / "m.safetensors"
    with pytest.raises(ModelFileError, match=r"pooling.classification.weight has numbers that float16"):
        save_model(path, large, VOCABULARY, CARD, dtype="float16")
    with pytest.raises(ValueError, match="dtype must be float32 or float16"):
        save_model(path, network, VOCABULARY, CARD, dtype="bfloat16")
    with pytest.raises(ModelFileError, match="not in the vocabulary: cat"):
        save_model(path, network, VOCABULARY, ModelCard(thresholds={"cat": 0.5}))
    with pytest.raises(ModelFileError, match="card cannot be written"):
        save_model(path, network, VOCABULARY, ModelCard(scores={"a": float("nan")}))
    assert not list(tmp_path.iterdir())


def test_changed_numbers_are_noticed(saved: Path, tmp_path: Path) -> None:
    """One flipped bit among the numbers is refused."""
    data = bytearray(saved.read_bytes())
    data[-1000] ^= 1
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match=r"m\.safetensors: its numbers are not those that were written"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("version",), "1", "model file version '1'"),
        (("version",), True, "model file version True"),
        (("secret",), 1, "unknown parts secret"),
        (("card",), [], "card in the metadata must be a JSON object"),
        (("card", "licence"), 3, "licence must be text"),
        (("card", "colour"), "pink", "unknown fields colour"),
        (("card", "thresholds", "cat"), 0.5, "not in the vocabulary: cat"),
        (("card", "thresholds", "dog"), "high", "must be a finite number"),
        (("architecture", "backbone"), "efficientnet_z9", "no backbone is called 'efficientnet_z9'"),
        (("architecture", "backbone"), "resnet50", "the network resnet50"),
        (("architecture", "heads"), 10**12, "need 3000000000000 rows"),
        (("architecture", "heads"), "4", "heads must be a whole number"),
        (("architecture", "classes"), 10**12, "outputs for a vocabulary of 3"),
        (("architecture", "batch_norm_momentum"), None, "batch_norm_momentum is None"),
        (("architecture", "width"), 2, "architecture has the unknown width"),
        (("front_end", "frames"), 2**30, "a window of 1.07374e"),
        (("front_end", "frame_length_ms"), 1e9, "a frame and a hop 1000 ms"),
        (("front_end", "mel_bins"), 10**9, "mel_bins must be"),
        (("front_end", "padding"), "reflected", "padding must be one of"),
        (("vocabulary", "ids"), "abc", "ids must be a list of texts"),
        (("vocabulary", "ids"), ["dog", "dog", "rain"], "given more than once: dog"),
        (("vocabulary", "names"), [1, 2, 3], "names must be a list of texts"),
    ],
)
def test_a_hand_damaged_header_is_refused(
    saved: Path, tmp_path: Path, place: tuple[str, ...], value: object, message: str
) -> None:
    """Whatever stands in the metadata is compared with its rule, and the rule is named with the file."""
    outer, numbers = parts(saved)
    header = json.loads(outer["__metadata__"]["psla"])
    node = header
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    outer["__metadata__"]["psla"] = sealed(header)
    path = write(tmp_path / "m.safetensors", outer, numbers)
    with pytest.raises(ModelFileError, match=message) as refusal:
        load_model(path)
    assert "m.safetensors" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_field_left_out_is_not_guessed(saved: Path, tmp_path: Path) -> None:
    """A front end or an architecture without one of its fields is refused."""
    outer, numbers = parts(saved)
    whole = json.loads(outer["__metadata__"]["psla"])
    for part, name in (("front_end", "window"), ("architecture", "heads")):
        header = whole | {part: {key: value for key, value in whole[part].items() if key != name}}
        outer["__metadata__"]["psla"] = sealed(header)
        with pytest.raises(ModelFileError, match=f"lacks {name}"):
            load_model(write(tmp_path / "m.safetensors", outer, numbers))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 4]}, "does not fill its 4 bytes"),
        ({"dtype": "F32", "shape": [1 << 59], "data_offsets": [0, 1 << 61]}, "must be lists of whole numbers"),
        ({"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}, "tensors claim 4398046511"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "must be lists of whole numbers"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "begin at byte 4, not 0"),
        ({"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}, "dtype 'F99'"),
        ({"dtype": "F32", "shape": [1]}, "must have dtype, shape and data_offsets"),
        ([], "must have dtype, shape and data_offsets"),
    ],
)
def test_absurd_tensors_are_refused_before_they_are_made(tmp_path: Path, entry: object, message: str) -> None:
    """A tensor's shape, place and size must agree with each other and with the file."""
    path = write(tmp_path / "m.safetensors", {"x": entry}, bytes(4))
    with pytest.raises(TensorFileError, match=message):
        read_layout(path)
    with pytest.raises(ModelFileError, match=r"m\.safetensors: not a readable"):
        load_model(path)


def test_header_length_is_not_believed(tmp_path: Path) -> None:
    """A header longer than its file, or than any model's, is refused without being read."""
    path = write(tmp_path / "m.safetensors", b"{}", bytes(64), length=1 << 62)
    with pytest.raises(ModelFileError, match="claims 4611686018427387904 bytes, the file has 74"):
        load_model(path)
    with open(path, "wb") as file:  # a hole of 1 GiB that takes no place on the disk
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 8)
    with pytest.raises(ModelFileError, match=f"a header of 1073741824 bytes; at most {MOST_HEADER_BYTES}"):
        read_header(path)
    deep = b'{"__metadata__":{"psla":"' + b"[" * 200_000 + b'"}}'
    with pytest.raises(ModelFileError, match="not a readable"):
        read_header(write(path, deep, b""))


def test_damaged_files_end_in_one_sentence(saved: Path, tmp_path: Path) -> None:
    """Bits flipped in the header, and files cut anywhere, are refused by name or load as what they were."""
    whole = saved.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    generator = np.random.default_rng(0)
    path, refused = tmp_path / "m.safetensors", 0
    for turn in range(60):
        data = bytearray(whole)
        if turn % 3:
            for place in generator.integers(0, 8 + length, generator.integers(1, 4)):
                data[place] ^= 1 << int(generator.integers(8))
        else:
            data = data[: generator.integers(len(data))]
        path.write_bytes(data)
        try:
            header = read_header(path)
        except ModelFileError as error:
            refused += 1
            sentence = str(error)
        else:  # a space that became another
            assert header == read_header(saved)
            continue
        assert sentence.startswith(str(path))
        assert "\n" not in sentence
    assert refused > 20


def formula(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The numbers of the fixture's tensors: drawn from a generator that is seeded with their name."""
    if tensor.dtype == torch.int64:
        return torch.zeros_like(tensor)
    drawn = np.random.default_rng(zlib.crc32(name.encode())).random(tuple(tensor.shape), dtype=np.float32)
    positive = name.endswith(("running_var", "bn.weight"))
    return torch.from_numpy(np.asarray(drawn + 0.5 if positive else (drawn - 0.5) / 4))


def test_a_file_of_version_1_loads_to_the_same_bits(tmp_path: Path) -> None:
    """Law: what the first release wrote is read for good. The header is one that it wrote (`fixtures/model_v1.json`),
    the tensors are drawn by a formula; the checksum in the header holds them to the bit."""
    fixture = json.loads((Path(__file__).parent / "fixtures/model_v1.json").read_text(encoding="utf-8"))
    header = json.loads(fixture["header"])
    assert header["version"] == 1
    front_end = FrontEndConfig(window="hamming", frames=64, mean=-5.0, std=4.0, padding="masked")
    config = NetworkConfig("efficientnet_lite0", 3, heads=2, batch_norm_momentum=0.1, front_end=front_end)
    tensors = {name: formula(name, tensor) for name, tensor in TaggingNetwork(config).state_dict().items()}
    save_file(tensors, tmp_path / "v1.safetensors", metadata={"psla": fixture["header"]})
    model = load_model(tmp_path / "v1.safetensors")
    assert model.network.config == config
    assert model.vocabulary.names == ["Dog", "Rain", "Siren"]
    assert model.card.thresholds == {"dog": 0.25}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.network.state_dict().items())
    wave = torch.from_numpy((8000 * np.sin(np.arange(8000) * 0.3)).astype(np.int16))[None]
    with torch.inference_mode():
        found = model.network(wave, torch.tensor([8000])).clip_probabilities[0]
    torch.testing.assert_close(found, torch.tensor(fixture["clip_probabilities"]), rtol=1e-4, atol=1e-5)
    again = save_model(tmp_path / "v2.safetensors", model.network, model.vocabulary, model.card)
    assert read_header(again)["front_end"]["kind"] == "kaldi"
    assert all(torch.equal(t, tensors[n]) for n, t in load_model(again).network.state_dict().items())


def test_a_kind_that_is_not_known_is_refused_by_name(saved: Path, tmp_path: Path) -> None:
    """Law: a file says which front end and which backbone it needs; one that is not here is named."""
    outer, numbers = parts(saved)
    header = json.loads(outer["__metadata__"]["psla"])
    header["front_end"]["kind"] = "gammatone"
    outer["__metadata__"]["psla"] = sealed(header)
    with pytest.raises(ModelFileError, match="no front end is called 'gammatone'; there are kaldi"):
        load_model(write(tmp_path / "m.safetensors", outer, numbers))
