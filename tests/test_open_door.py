"""The law of the open door: a front end, a backbone and a family of weights come in without a word about them in src/.

`toy_ears` registers all three from a module of its own. With them clips are packed, a tagger is trained, killed,
resumed to the bit, predicts, tags, sits in an ensemble beside a model of another rate, is saved, loaded and imported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import psla
import toy_ears
from psla.audio.decode import AudioError
from psla.data.clips import Clips
from psla.data.pack.format import PackError
from psla.data.pack.write import pack
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.model.backbones.contract import FoldingError
from psla.model.ensemble import Ensemble, write_ensemble
from psla.model.file import Model, ModelCard, load_model, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.inference import predict
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.synth import scene
from psla.tagging.tagger import Tagger
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.training.session import resume, train
from psla.weights.catalogue import load_any
from psla.weights.readers.contract import import_weights
from toy_ears import RATE, STRIDE, ToyConfig

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = {
    "front_end": {"kind": "toy", "floor": 1e-5},
    "backbone": {"name": "toy", "pretraining": "none", "drop_connect": 0.0, "batch_norm_momentum": 0.1},
    "pooling": {"heads": 2},
    "masking": {"frequency": 8, "time": 16},
    "optimizer": {"batch_size": 4, "epochs": 2, "warmup_steps": 0, "precision": "float32", "learning_rate": 1e-3},
    "averaging": {"first_epoch": 1},
}
KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import toy_ears
toy_ears.register()
from psla.data.clips import Clips
from psla.training.devices import Runtime
from psla.training.recipe import Recipe
from psla.training.session import train

steps = 0
def kill_at_the_fifth():
    global steps
    steps += 1
    if steps == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return False
runtime = Runtime(checkpoint_minutes=0.0)
train(Recipe.from_dict({recipe!r}), Clips.read({clips!r}), {out!r}, runtime=runtime, stop=kill_at_the_fifth)
"""


toys = toy_ears.toys


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve soundscapes to train on and four to evaluate, packed at 24,000 Hz."""
    config = scene.SoundscapeConfig(seed=3, seconds=0.7, clips=12)
    rows = scene.table(config) + scene.table(scene.SoundscapeConfig(seed=4, seconds=0.7, clips=4), "evaluation")
    folder = tmp_path_factory.mktemp("door") / "pack"
    pack(Clips.from_rows(rows, scene.vocabulary(), "toys"), folder, RATE, workers=1)
    return folder


@pytest.fixture(scope="module")
def run(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(Recipe.from_dict(RECIPE), Clips.read(packed), tmp_path_factory.mktemp("run") / "whole")


def test_nothing_in_the_package_names_them() -> None:
    """Law: the toys are known from their own module alone."""
    for path in Path(psla.__file__).parent.rglob("*.py"):
        assert "toy" not in path.read_text(encoding="utf-8").lower().replace("toys", ""), path


def test_a_pack_has_the_rate_that_was_asked_for(packed: Path) -> None:
    """Law: a pack records its rate, gives clips of as many samples, and refuses a front end of another rate."""
    assert json.loads((packed / "pack.json").read_text())["sample_rate"] == RATE
    source = open_source(Clips.read(packed), RATE)
    assert (source.sample_rate, len(source.read(0))) == (RATE, round(0.7 * RATE))
    with pytest.raises(PackError, match=r"24000 Hz, .*16000 Hz") as refusal:
        open_source(Clips.read(packed), 16000)
    assert "\n" not in str(refusal.value)


def test_it_is_trained(run: Run) -> None:
    """Law: the run's model has the toy's front end and backbone, and steps of the toy's stride."""
    network = load_model(run.model_file).network
    assert network.config.front_end == ToyConfig(floor=1e-5)
    assert (network.sample_rate, network.step_samples) == (RATE, STRIDE * 240)
    assert "floor: 1.0e-05" in (run.folder / "recipe.yaml").read_text()
    with pytest.raises(RecipeError, match=r"front_end.*ceiling"):
        Recipe.from_dict({"front_end": {"kind": "toy", "ceiling": 1.0}})


def test_a_killed_training_goes_on_to_the_bit(run: Run, packed: Path, tmp_path: Path) -> None:
    """Law: killed at its fifth step and resumed, a training ends with the bytes of one that was not."""
    code = KILLED.format(tests=str(Path(__file__).parent), recipe=RECIPE, clips=str(packed), out=str(tmp_path / "run"))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    resumed = resume(tmp_path / "run")
    for name in ("checkpoints/epoch_001.safetensors", "checkpoints/epoch_002.safetensors", "log.csv"):
        assert (resumed.folder / name).read_bytes() == (run.folder / name).read_bytes(), name


def test_it_predicts_and_tags_the_same(run: Run, packed: Path, tmp_path: Path) -> None:
    """Law: a clip's prediction is its tagging, to the bit, and a stream may be cut anyhow; a source of another rate is
    refused where it would go into the network."""
    model = load_model(run.model_file)
    part = Clips.read(packed).split("evaluation")
    source = open_source(part, RATE)
    predicted = predict(model.network, source, model.vocabulary).predictions.probabilities
    tagger = Tagger(model)
    for row in range(len(source)):
        wave = np.array(source.read(row))[: tagger.window_samples]
        whole = tagger.tag(wave, sample_rate=RATE)
        assert np.array_equal(np.clip(predicted[row], 0, 1), whole.clip_probabilities)
    long = np.concatenate([source.read(row) for row in range(4)])
    cut = [long[a:b] for a, b in pairwise([0, 1, 5000, 31000, len(long)])]
    one, other = tagger.tag_blocks([long]), tagger.tag_blocks(cut)
    assert np.array_equal(one.frames, other.frames)
    assert one.times[0, 1] == pytest.approx(STRIDE * 240 / RATE)
    soundfile.write(tmp_path / "long.wav", long, RATE)
    assert np.array_equal(tagger.tag(tmp_path / "long.wav").frames, one.frames)
    assert tagger.embed(long, sample_rate=RATE).clip.shape == (24,)
    with pytest.raises(ValueError, match="sampled at 16000 Hz, the model hears 24000 Hz"):
        predict(model.network, open_source(soundscapes(), 16000), model.vocabulary)
    with pytest.raises(FoldingError, match="no form for inference"):
        Tagger(model, precision="bf16")


def soundscapes() -> Clips:
    return Clips.from_rows(scene.table(scene.SoundscapeConfig(seed=3, seconds=0.7, clips=2)), scene.vocabulary())


def test_it_sits_in_an_ensemble_beside_another_rate(run: Run, tmp_path: Path) -> None:
    """Law: members of 24,000 and 16,000 Hz hear one recording, each at its rate, and their mean is the answer."""
    toy = load_model(run.model_file)
    torch.manual_seed(1)
    front_end = FrontEndConfig(frames=64)
    network = TaggingNetwork(NetworkConfig("efficientnet_lite0", len(toy.vocabulary), heads=2, front_end=front_end))
    network.train()(torch.randn(4, network.window_samples) * 0.1)  # or features fade to denormal numbers
    other = Model(network.eval(), toy.vocabulary, ModelCard())
    files = [save_model(tmp_path / "toy.safetensors", toy.network, toy.vocabulary, toy.card)]
    files.append(save_model(tmp_path / "other.safetensors", other.network, other.vocabulary, other.card))
    both = load_any(write_ensemble(tmp_path / "both.json", files))
    assert isinstance(both.network, Ensemble)
    assert (both.network.sample_rate, both.network.step_samples) == (RATE, STRIDE * 240)
    wave = np.random.default_rng(2).integers(-5000, 5000, toy.network.window_samples, dtype=np.int16)
    mean, one = Tagger(both).tag(wave, sample_rate=RATE), Tagger(toy).tag(wave, sample_rate=RATE)
    two = Tagger(other).tag(wave, sample_rate=RATE)
    wanted = (one.clip_probabilities.astype(np.float64) + two.clip_probabilities) / 2
    np.testing.assert_allclose(mean.clip_probabilities, wanted, atol=1e-6)
    assert mean.frames.shape == one.frames.shape


def test_it_is_saved_loaded_and_imported(run: Run, tmp_path: Path) -> None:
    """Law: a model file and a foreign file of the toy's family give the same bits; an unknown family is refused."""
    model = load_model(run.model_file)
    again = load_model(save_model(tmp_path / "again.safetensors", model.network, model.vocabulary, model.card)).network
    state = model.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    torch.save({f"toy.{name}": tensor for name, tensor in state.items()}, tmp_path / "foreign.pth")
    imported = load_model(import_weights(tmp_path / "foreign.pth", tmp_path / "own.safetensors", model.vocabulary))
    assert all(torch.equal(tensor, state[name]) for name, tensor in imported.network.state_dict().items())
    torch.save({"tot.weight": torch.zeros(2)}, tmp_path / "unknown.pth")
    with pytest.raises(ValueError, match="not a published checkpoint"):
        import_weights(tmp_path / "unknown.pth", tmp_path / "no.safetensors", Vocabulary(["a"]))


def test_an_address_of_a_pack_has_the_packs_rate(packed: Path) -> None:
    """Law: whoever reads a clip of a pack by its address is told its rate, too."""
    from psla.audio import addresses

    path = Clips.read(packed).frame["path"][0]
    assert len(addresses.read(path, RATE)) == round(0.7 * RATE)
    with pytest.raises(AudioError, match="24000 Hz"):
        addresses.read(path, 16000)
