"""Laws of `psla fit`: heads agree with scikit-learn, folds are of whole recordings, nothing is heard twice, what comes
out is a model file as any other, and it knows what it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import psla
import toy_ears
from psla.cli import app
from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.pack.write import pack
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.model.ensemble import load_ensemble, write_ensemble
from psla.model.familiarity import Familiarity
from psla.model.file import ModelCard, ModelFileError, load_model, save_model
from psla.model.inference import predict
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.tagging.tagger import Tagger
from psla.techniques.pretraining import load_init
from psla.training import features
from psla.training.cross_fit import NEVER, folds_of, measured
from psla.training.features import FeatureCacheError, hear
from psla.training.fit import fit
from psla.training.known import know, shrunk_covariance, unit
from psla.training.logistic import probabilities, regress
from psla.training.own_clips import FitError, open_clips, recordings
from tagging_models import changed_header
from toy_ears import RATE, ToyConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def sound(kind: str, seed: int, seconds: float = 0.6) -> np.ndarray:
    """Of a class: beeps, hiss or knocks, each a little different; float32."""
    rng = np.random.default_rng([seed, len(kind)])
    t = np.arange(round(seconds * RATE)) / RATE
    wave = 0.01 * rng.normal(size=len(t))
    if kind == "beep":
        wave += 0.4 * np.sin(2 * np.pi * rng.uniform(900, 1100) * t) * (np.sin(2 * np.pi * 6 * t) > 0)
    elif kind == "hiss":
        wave += np.diff(rng.normal(size=len(t) + 1)) * rng.uniform(0.05, 0.15)
    else:
        wave += 0.6 * np.sin(2 * np.pi * 90 * t) * np.exp(-((t * rng.uniform(3, 5)) % 1) * 12)
    return wave.astype(np.float32)


KINDS = ("beep", "hiss", "knock")


toys = toy_ears.toys  # ears of a millisecond a clip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk that forty steps have taught to hear, a folder of three classes, and a cache that the tests share."""
    home = tmp_path_factory.mktemp("fit")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TaggingNetwork(NetworkConfig("toy", 3, 0, 0.1, ToyConfig()))
        waves = torch.from_numpy(np.stack([sound(kind, seed) for kind in KINDS for seed in range(90, 96)]))
        labels, optimizer = torch.eye(3).repeat_interleave(6, dim=0), torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy(network.train()(waves).clip_probabilities, labels).backward()
            optimizer.step()
    save_model(home / "trunk.safetensors", network.eval(), Vocabulary(KINDS), ModelCard(licence="CC0"))
    for kind in KINDS:
        (home / "sounds" / kind).mkdir(parents=True)
        for seed in range(8):
            soundfile.write(home / "sounds" / kind / f"--{seed}.wav", sound(kind, seed), RATE)
    return home


def fitted(home: Path, data: object, name: str = "my", **more: object) -> psla.training.fit.Fitted:  # type: ignore[name-defined]
    return fit(data, home / f"{name}.safetensors", home / "trunk.safetensors", cache=home / "cache", **more)  # type: ignore[arg-type]


def some(clips: int = 60, channels: int = 12, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features of any scale around their class, and the class of each."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([np.arange(classes), rng.choice(classes, clips - classes, p=[0.6, 0.3, 0.1])])
    means = rng.normal(size=(classes, channels))
    return (means[truth] + rng.normal(size=(clips, channels))) * np.arange(1, channels + 1) + 5, truth


@pytest.mark.parametrize("strength", [1.0, 0.03, 0.001])
def test_logistic_regression_is_scikit_learns(strength: float) -> None:
    """Law: probabilities within 1e-4 of LogisticRegression with balanced classes on standardised features, for one of
    several classes and for each by itself, also when it begins where another strength has ended."""
    x, truth = some()
    labels = np.eye(3, dtype=bool)[truth]
    scaled = StandardScaler().fit_transform(x)
    reference = LogisticRegression(C=1 / (strength * len(x)), class_weight="balanced", tol=1e-9, max_iter=9999)
    for single in (True, False):
        found = list(regress(x, labels, [3.0, strength], single))[1]
        said = probabilities(found.logits(x), single)
        if single:
            wanted = reference.fit(scaled, truth).predict_proba(scaled)
        else:
            wanted = np.stack(
                [reference.fit(scaled, column).predict_proba(scaled)[:, 1] for column in labels.T], axis=1
            )
        np.testing.assert_allclose(said, wanted, atol=1e-4, rtol=0)


def test_the_familiarity_score_is_of_distances() -> None:
    """Law: the linear score is half the difference of the Mahalanobis distances to the nearest background and to the
    nearest class under Ledoit and Wolf's covariance (scikit-learn's), and the network's module says the same."""
    x, truth = some()
    labels, z = np.eye(3, dtype=bool)[truth], unit(x)
    known = know(x, labels, x[:4] + 3)
    means = np.stack([z[truth == c].mean(axis=0) for c in range(3)])
    covariance = ledoit_wolf(z - means[truth], assume_centered=True)[0]
    np.testing.assert_allclose(shrunk_covariance(z - means[truth]), covariance, rtol=1e-9)
    others = np.vstack([means.mean(axis=0), unit(x[:4] + 3)])

    def nearest(points: np.ndarray) -> np.ndarray:
        apart = z[:, None] - points
        return np.einsum("ncd,de,nce->nc", apart, np.linalg.inv(covariance), apart).min(axis=1)

    np.testing.assert_allclose(known.score(x), (nearest(others) - nearest(means)) / 2, rtol=1e-6, atol=1e-6)
    module = Familiarity(12, 3, 7)
    values = {"weight": known.weight, "bias": known.bias, "threshold": np.array([2.0])}
    module.load_state_dict({name: torch.from_numpy(value).float() for name, value in values.items()})
    said = module(torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(said, known.score(x) - 2, rtol=1e-3, atol=1e-2)


def test_folds_are_of_whole_recordings() -> None:
    """Law: a recording has one fold; a class with several recordings is never all in one; that of one recording is
    never held out; folds are of like size; copies under another name are of one recording."""
    rng = np.random.default_rng(1)
    groups = np.concatenate([np.arange(40), rng.integers(0, 40, 160)])
    truth = groups % 4
    truth[groups == 7] = 4  # all of a class of its own
    folds = folds_of(np.eye(5, dtype=bool)[truth], groups)
    assert all(len(set(folds[groups == group])) == 1 for group in range(40))
    assert set(folds[truth == 4]) == {NEVER}
    assert all(set(folds[(truth == c) & (folds != NEVER)]) == set(range(5)) for c in range(4))
    sizes = np.bincount(folds[folds != NEVER])
    assert sizes.max() - sizes.min() <= 12
    assert recordings(["a", "b", "c", "d"], ["1", "1", "2", "3"]).tolist() == [0, 0, 1, 2]


def test_an_interval_is_there_when_all_is_right() -> None:
    """Law: accuracy is the share that is right, inside its interval; all right is not certainty."""
    labels = Labels.from_sets(list("abcdefgh"), [["x"], ["y"]] * 4, Vocabulary(["x", "y"]))
    said = np.array([[0.9, 0.1], [0.2, 0.8]] * 4, dtype=np.float32)
    found = measured(said, labels, np.arange(8), single=True)
    assert (found["value"], found["high"], found["confusion"]) == (1.0, 1.0, [[4, 0], [0, 4]])
    assert found["low"] == pytest.approx(0.025 ** (1 / 8))
    found = measured(said[[1, 1, 2, 3, 4, 5, 6, 7]], labels, np.arange(8), single=True)
    assert found["value"] == 7 / 8
    assert found["low"] < 7 / 8 < found["high"]


def test_a_folder_of_sounds_becomes_a_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the model names what it was taught and says `unfamiliar` of silence; a second fit hears nothing and gives
    the same bits; the trunk is unchanged in it, the card complete."""
    made = fitted(home, home / "sounds")
    report = made.report
    assert report == json.loads((home / "my.fit.json").read_text())
    assert report["cross_validation"]["value"] > 0.9
    assert (report["clips"], report["recordings"], report["single_label"]) == (24, 24, True)
    assert report["familiarity"]["familiar_in_cross_validation"] >= 0.8
    model = load_model(made.path)
    assert (model.network.config.head, model.card.licence, set(model.card.thresholds)) == ("softmax", "CC0", set(KINDS))
    trunk = load_model(home / "trunk.safetensors").network.backbone.state_dict()
    assert all(torch.equal(value, model.network.backbone.state_dict()[name]) for name, value in trunk.items())
    tagger = Tagger(model)
    named = [tagger.tag(sound(kind, seed), RATE) for kind in KINDS for seed in range(20, 26)]
    assert np.mean([r.top(1)[0][0].id == k for r, k in zip(named, np.repeat(KINDS, 6), strict=True)]) > 0.9
    assert np.mean(["unfamiliar" in result.flags for result in named]) < 0.5
    for seconds in (0.3, 5.0):
        result = tagger.tag(np.zeros(round(seconds * RATE), dtype=np.int16), RATE)
        assert "unfamiliar" in result.flags
        assert "unfamiliar" in result.to_dict(1)["flags"]
        assert result.frames.sum(axis=1) == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr(features, "DecodePool", None)
    again = fitted(home, home / "sounds", "again")
    assert again.path.read_bytes() == made.path.read_bytes()
    assert again.report == report


def test_a_fitted_model_is_one_as_any_other(home: Path, tmp_path: Path) -> None:
    """Law: it is saved, also in float16, predicts, sits in an ensemble, starts a training; a file that claims more rows
    than it has is refused by name."""
    path = fitted(home, home / "sounds").path
    model = load_model(path)
    half = load_model(save_model(tmp_path / "half.safetensors", model.network, model.vocabulary, model.card, "float16"))
    clips = open_clips(home / "sounds")
    source = open_source(clips, RATE)
    said = [predict(each.network, source, clips.vocabulary).predictions.probabilities for each in (model, half)]
    np.testing.assert_allclose(said[0], said[1], atol=0.02)
    (tmp_path / "model.safetensors").write_bytes(path.read_bytes())
    both = load_ensemble(
        write_ensemble(tmp_path / "e.json", [tmp_path / "model.safetensors", tmp_path / "half.safetensors"])
    )
    mixed = predict(both.network, source, clips.vocabulary).predictions.probabilities
    np.testing.assert_allclose(mixed, np.mean(said, axis=0), atol=1e-6)
    config = NetworkConfig("toy", 2, 0, front_end=ToyConfig(), head="softmax")
    started = TaggingNetwork(config)
    assert load_init(started, Vocabulary(["hiss", "new"]), path).carried == ("hiss",)
    weight = model.network.pooling.output.weight
    assert torch.equal(started.pooling.output.weight[0], weight[1])
    loss = started(torch.zeros(2, RATE)).clip_probabilities[:, 0].sum()
    loss.backward()
    assert started.pooling.output.weight.grad is not None
    assert model.network.config.familiarity != 99
    wrong = tmp_path / "wrong.safetensors"
    changed_header(path, wrong, lambda header: header["architecture"].update(familiarity=99), older=True)
    with pytest.raises(ModelFileError, match=r"familiarity\.weight has the shape .\d+, .*; .* need 99 rows"):
        load_model(wrong)


def test_features_are_the_taggers(home: Path, tmp_path: Path) -> None:
    """Law: what the head is fitted to is what the network says, to the bit, of a clip of one window; of a longer one
    the mean of its windows by their samples; packs and files of one content give the same numbers."""
    network = load_model(home / "trunk.safetensors").network
    waves = [sound("knock", 1, 0.5), sound("beep", 2, 5.0)]
    for number, wave in enumerate(waves):
        soundfile.write(tmp_path / f"{number}.wav", wave, RATE, subtype="PCM_16")
    rows = [{"clip_id": str(n), "source": str(n), "path": str(tmp_path / f"{n}.wav"), "split": "train"} for n in (0, 1)]
    rows.append(rows[0] | {"clip_id": "gone", "path": str(tmp_path / "gone.wav")})
    clips = Clips.from_rows([row | {"labels": ["a"]} for row in rows], Vocabulary(["a"]))
    found = hear(network, clips, tmp_path / "cache")
    assert (found.clip_ids, list(found.rejected)) == (["0", "1"], ["gone"])
    assert "gone.wav: No such file or directory" in found.rejected["gone"]
    samples = [open_source(clips, RATE).read(n) for n in (0, 1)]
    direct = features.tag_waveforms(network, [samples[0]], RATE).features
    assert np.array_equal(found.values[0], direct[0].numpy())
    size = network.window_samples
    windows = np.split(samples[1], range(size, len(samples[1]), size))
    each = features.tag_waveforms(network, windows, RATE).features.numpy()
    wanted = np.average(each, axis=0, weights=[len(window) for window in windows])
    np.testing.assert_allclose(found.values[1], wanted, rtol=1e-5, atol=1e-6)
    pack(clips.select(["0", "1"]), tmp_path / "pack", RATE, workers=1)
    packed = hear(network, Clips.read(tmp_path / "pack"), tmp_path / "cache")
    assert np.array_equal(packed.values, found.values)
    assert packed.heard == 2
    assert hear(network, Clips.read(tmp_path / "pack"), tmp_path / "cache").heard == 0


def test_what_was_heard_survives(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a run that breaks off leaves whole shards, and the next hears only the rest; a file that changes is heard
    again; a shard that is damaged is refused by name."""
    network, clips = load_model(home / "trunk.safetensors").network, open_clips(home / "sounds")
    monkeypatch.setattr(features, "SHARD", 5)
    real, calls = features.tag_waveforms, []

    def breaks(*args: object) -> object:
        calls.append(1)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "tag_waveforms", breaks)
    with pytest.raises(KeyboardInterrupt):
        hear(network, clips, tmp_path)
    whole = hear(network, clips, tmp_path)
    assert whole.heard == 24 - 10
    other = tmp_path / "changed.wav"
    soundfile.write(other, sound("hiss", 40), RATE)
    row = {"clip_id": "x", "source": "x", "path": str(other), "split": "train", "labels": ["hiss"]}
    one = Clips.from_rows([row], Vocabulary(["hiss"]))
    assert [hear(network, one, tmp_path).heard for _ in range(2)] == [1, 0]
    soundfile.write(other, sound("hiss", 41), RATE)
    assert hear(network, one, tmp_path).heard == 1
    for shard in tmp_path.glob("*.safetensors"):
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    with pytest.raises(FeatureCacheError, match=r"safetensors is damaged .*: delete it"):
        hear(network, clips, tmp_path)


def test_clips_with_several_labels(home: Path, tmp_path: Path) -> None:
    """Law: one clip with two labels makes every class be by itself, and the report says which clip; sounds without a
    label and a background folder are learnt as what is none of the classes; a CSV says sources and splits."""
    lines, number = ["path,labels,source,split"], 0
    for kind in KINDS[:2]:
        for seed in range(8):
            split = "evaluation" if seed == 7 else "train"
            lines.append(f"{home / 'sounds' / kind / f'--{seed}.wav'},{kind},s{number // 2},{split}")
            number += 1
    soundfile.write(tmp_path / "both.wav", sound("beep", 1) + sound("hiss", 1), RATE)
    lines.append(f"{tmp_path / 'both.wav'},beep;hiss,s99,train")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    made = fitted(home, tmp_path / "clips.csv", "several", background=home / "sounds" / "knock")
    assert made.report["why_not"] == f"clip '{tmp_path / 'both.wav'}' has 2 labels"
    assert made.report["cross_validation"]["measure"] == "mean_average_precision"
    assert made.report["clips"] == 15
    assert made.report["recordings"] == 9
    model = load_model(made.path)
    assert model.network.config.head == "linear"
    result = Tagger(model).tag(tmp_path / "both.wav")
    assert (result.clip_probabilities > 0.5).all()
    assert "unfamiliar" in Tagger(model).tag(sound("knock", 30), RATE).flags
    assert "unfamiliar" in Tagger(model).tag(np.zeros(10 * RATE, dtype=np.int16), RATE).flags


def test_what_cannot_be_fitted_is_said(home: Path, tmp_path: Path) -> None:
    """Law: one sentence for each bad input, which names it and the mend, before anything is written."""
    vocabulary = Vocabulary(["beep", "hiss", "Beep ", "rare"])

    def clips(*labels: str, source: str | None = None) -> Clips:
        rows = []
        for number, label in enumerate(labels):
            path = str(home / "sounds" / KINDS[number % 3] / f"--{number}.wav")
            row = {"clip_id": str(number), "source": source or str(number), "path": path, "split": "train"}
            rows.append(row | {"labels": [label] if label else []})
        return Clips.from_rows(rows, vocabulary)

    (tmp_path / "empty").mkdir()
    cases: dict[str, tuple[object, dict[str, object]]] = {
        "two classes or more to train on, and all clips are of 'beep': add": (clips("beep", "beep"), {}),
        "no clip has a label": (clips("", ""), {}),
        "'beep' and 'Beep ' differ by case or spaces only": (clips("beep", "Beep ", "hiss"), {}),
        "all 2 clips are of the one source 'tape'": (clips("beep", "hiss", source="tape"), {}),
        "none has two recordings": (clips("beep", "hiss"), {}),
        "the background is a folder with sound files": (clips("beep", "hiss"), {"background": tmp_path / "empty"}),
    }
    for message, (data, more) in cases.items():
        with pytest.raises(FitError, match=message):
            fitted(home, data, "never", **more)
    with pytest.raises(FitError, match=r"ends in \.safetensors"):
        fit(home / "sounds", home / "never.json", home / "trunk.safetensors")
    write_ensemble(home / "e.json", [home / "trunk.safetensors"])
    with pytest.raises(FitError, match="is an ensemble, which has no features of its own: give one of its members"):
        fit(home / "sounds", home / "never.safetensors", home / "e.json")
    assert not (home / "never.safetensors").exists()
    made = fitted(home, clips("beep", "hiss", "rare", "beep", "hiss"), "rare")
    assert made.report["classes_of_one_recording"] == ["rare"]
    assert made.report["cross_validation"]["clips"] == 4
    assert (
        load_model(made.path).vocabulary.ids == ("beep", "hiss", "rare") or "rare" in load_model(made.path).vocabulary
    )


def test_the_command_says_how_good_it_is(home: Path) -> None:
    """Law: one sentence with accuracy, interval and groups of sources; an unreadable file is named and left out; a file
    may be called as an option is."""
    broken = home / "sounds" / "hiss" / "broken.wav"
    broken.write_bytes(b"not audio")
    common = ["fit", str(home / "sounds"), "--from", str(home / "trunk.safetensors"), "--cache", str(home / "cache")]
    try:
        said = CliRunner().invoke(app, [*common, "--out", str(home / "cli.safetensors"), "--workers", "1"])
    finally:
        broken.unlink()
    assert said.exit_code == 0, said.output
    assert "of 24 clips right (95 % " in said.output
    assert "cross-validated over 5 groups of sources" in said.output
    assert "left out: hiss/broken.wav: " in said.output
    said = CliRunner().invoke(app, [*common, "--out", str(home / "cli.json")])
    assert (said.exit_code, said.output.count("\n")) == (2, 1)
