"""Laws of ensembles: the mean of their members, in float64, from a file that reaches nothing but its folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from psla.data.source import ArraySource
from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.model.ensemble import Ensemble, EnsembleError, write_ensemble
from psla.model.file import ModelCard, ModelFileError, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.inference import predict, tag_waveforms
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.tagging.tagger import Tagger
from psla.weights.catalogue import load_any

VOCABULARY = Vocabulary(["dog", "rain", "siren"])
WAVE = np.random.default_rng(0).integers(-9000, 9000, 7000, dtype=np.int16)


def build(seed: int, classes: int = 3, **front_end: object) -> TaggingNetwork:
    torch.manual_seed(seed)
    config = FrontEndConfig(**{"frames": 48, **front_end})
    network = TaggingNetwork(NetworkConfig("efficientnet_lite0", classes, heads=2, front_end=config))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # keeps the features from fading to denormal numbers
            module.running_var.fill_(0.05)
    return network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, two of them in a folder below."""
    folder = tmp_path_factory.mktemp("ensemble")
    (folder / "seeds").mkdir()
    for seed, name in enumerate(("a", "seeds/b", "seeds/c")):
        network = build(seed, padding="masked" if seed else "released", mean=-4.0 - seed)
        save_model(folder / f"{name}.safetensors", network, VOCABULARY, ModelCard(licence="CC0-1.0"))
    return folder


def ensemble(folder: Path, *names: str) -> Path:
    path = folder / f"{len(names)}.json"
    return write_ensemble(path, [folder / f"{name}.safetensors" for name in names])


def test_an_ensemble_of_one_is_its_model(folder: Path) -> None:
    """Clip and frame probabilities equal the model's to the bit."""
    model, one = load_any(folder / "a.safetensors"), load_any(ensemble(folder, "a"))
    want, got = tag_waveforms(model.network, [WAVE], 16000), tag_waveforms(one.network, [WAVE], 16000)
    assert torch.equal(got.clip_probabilities, want.clip_probabilities)
    assert torch.equal(got.frame_probabilities, want.frame_probabilities)


def test_an_ensemble_is_the_mean(folder: Path) -> None:
    """Clip and frame probabilities are the float64 mean of the members', each through its own front end."""
    names = ("a", "seeds/b", "seeds/c")
    whole = load_any(ensemble(folder, *names))
    members = [tag_waveforms(load_any(folder / f"{n}.safetensors").network, [WAVE], 16000) for n in names]
    got = tag_waveforms(whole.network, [WAVE], 16000)
    for field in ("clip_probabilities", "frame_probabilities"):
        parts = [getattr(member, field).double().numpy() for member in members]
        assert np.array_equal(getattr(got, field).numpy(), np.mean(parts, axis=0).astype(np.float32))
        assert not np.array_equal(parts[0], parts[1])
    assert whole.vocabulary == VOCABULARY
    assert whole.card.licence == "CC0-1.0"
    assert [member["file"] for member in whole.card.provenance["ensemble"]] == [f"{n}.safetensors" for n in names]


def test_it_stands_where_a_model_does(folder: Path) -> None:
    """The Tagger and `predict` take an ensemble, and agree to the bit."""
    model = load_any(ensemble(folder, "a", "seeds/b"))
    tagged = Tagger(model).tag(WAVE, sample_rate=16_000)
    predicted = predict(model.network, ArraySource(["x"], [WAVE], 16000), model.vocabulary).predictions.probabilities
    assert np.array_equal(np.clip(predicted[0], 0, 1), tagged.clip_probabilities)
    with pytest.raises(EnsembleError, match="no features of its own"):
        Tagger(model).embed(WAVE, sample_rate=16_000)
    with pytest.raises(EnsembleError, match="different front ends"):
        model.network.from_log_mel(torch.zeros(1, 48, 128))
    with pytest.raises(ModelFileError, match="one network, not a Ensemble"):
        save_model(folder / "no.safetensors", model.network, model.vocabulary, ModelCard())


def test_a_step_that_some_lack_is_the_mean_of_the_others() -> None:
    """Where members round an odd length differently, each step is averaged over those that have it."""
    from psla.model.ensemble import _average
    from psla.model.pooling import Tagging

    clip = torch.zeros(1, 1)
    got = _average([Tagging(clip, torch.full((1, 2, 1), 0.2)), Tagging(clip, torch.full((1, 3, 1), 0.4))])
    torch.testing.assert_close(got.frame_probabilities.flatten(), torch.tensor([0.3, 0.3, 0.4]))


def test_members_must_agree() -> None:
    """Members of other classes are refused, and so is no member."""
    with pytest.raises(EnsembleError, match="member 2 has classes 4, the first has 3"):
        Ensemble([build(0), build(1, classes=4)])
    with pytest.raises(EnsembleError, match="at least one member"):
        Ensemble([])


@pytest.mark.parametrize("other", [{"frames": 64}, {"frames": 64, "padding": "masked"}, {"hop_ms": 5.0}])
def test_the_shortest_window_is_the_ensembles(other: dict) -> None:
    """Members with other windows each hear the shortest of them, padded by their own rule: the ensemble says the mean
    of what they say alone of that part."""
    members = [build(0), build(1, **other)]
    mixed = Ensemble(members)
    assert mixed.window_samples == min(member.window_samples for member in members)
    got = tag_waveforms(mixed, [WAVE, WAVE[:3000]], 16000).clip_probabilities
    part = [WAVE[: mixed.window_samples], WAVE[:3000]]
    want = torch.stack([tag_waveforms(member, part, 16000).clip_probabilities for member in members]).mean(0)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_vocabularies_must_agree(folder: Path, tmp_path: Path) -> None:
    """Members with as many, but other classes are refused, by name."""
    for name, ids in (("a", "xyz"), ("b", "yxz")):
        save_model(tmp_path / f"{name}.safetensors", build(0), Vocabulary(list(ids)), ModelCard())
    with pytest.raises(EnsembleError, match=r"b\.safetensors has another vocabulary than a\.safetensors"):
        write_ensemble(tmp_path / "c.json", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    with pytest.raises(EnsembleError, match=r"a\.safetensors is outside .*: put it there"):
        write_ensemble(tmp_path / "c.json", [folder / "a.safetensors"])
    with pytest.raises(EnsembleError, match="given twice"):
        write_ensemble(tmp_path / "c.json", [tmp_path / "a.safetensors"] * 2)
    assert not (tmp_path / "c.json").exists()


def test_a_file_of_the_first_release_loads(folder: Path) -> None:
    """Law: an ensemble's file was called a committee's once; such a file loads as the same ensemble."""
    path = ensemble(folder, "a")
    old = path.with_name("old.json")
    old.write_text(path.read_text().replace("psla-ensemble", "psla-committee"))
    assert load_any(old).card == load_any(path).card


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not a readable ensemble"),
        ("[" * 100_000, "not a readable ensemble"),
        ({"format": "other"}, "not an ensemble"),
        ({"format": "psla-ensemble", "version": 2, "members": []}, "version 2; this psla reads version 1"),
        ({"format": "psla-ensemble", "version": 1, "members": []}, "at least one"),
        ({"format": "psla-ensemble", "version": 1, "members": [{"file": 3, "sha256": ""}]}, "as texts"),
        ({"format": "psla-ensemble", "version": 1, "members": [{"file": "a"}]}, "file and sha256"),
    ],
)
def test_files_that_are_none(tmp_path: Path, data: object, message: str) -> None:
    """What is not an ensemble's file is refused by name and reason."""
    path = tmp_path / "c.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(EnsembleError, match=message) as refusal:
        load_any(path)
    assert str(path) in str(refusal.value)


def test_an_ensemble_reaches_its_folder_alone(folder: Path, tmp_path: Path) -> None:
    """Members outside the folder, by dots, by an absolute path or by a link, are refused; so are changed ones."""
    outside = folder / "a.safetensors"
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link.safetensors").symlink_to(outside)
    path = tmp_path / "here" / "c.json"
    for file, message in (
        (str(outside), "outside its folder"),
        ("../a.safetensors", "outside its folder"),
        ("x/../../a.safetensors", "outside its folder"),
        ("link.safetensors", "outside its folder"),
        ("nul\0", "is no path"),
        ("absent.safetensors", "not in its folder"),
    ):
        entries = [{"file": file, "sha256": sha256_of(outside)}]
        path.write_text(json.dumps({"format": "psla-ensemble", "version": 1, "members": entries}))
        with pytest.raises(EnsembleError, match=message):
            load_any(path)
    changed = ensemble(folder, "a")
    data = json.loads(changed.read_text())
    data["members"][0]["sha256"] = "0" * 64
    changed.write_text(json.dumps(data))
    with pytest.raises(EnsembleError, match=r"a\.safetensors is another file than it was"):
        load_any(changed)
