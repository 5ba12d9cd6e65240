"""The package against the stored references: laws that elsewhere need the original's outputs or the published lists.

What the references are, and how far they agree with the original, is in tests/references/README.md. The made-up inputs
come from the functions of scripts/make_references.py, which shares no code with the package.
"""

import hashlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import psla
from audioset_tree import write_list
from psla.corpora import audioset, esc50
from psla.data.labels import Labels
from psla.data.ontology import Ontology
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.lab.folds.cross_validation import fold_clips
from psla.lab.statistics import audit, count
from psla.metrics.predictions import Predictions
from psla.model.file import load_model
from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig
from psla.techniques.labeling import class_thresholds, enhance
from psla.techniques.sampling import EpochPlan, clip_weights, expected_unseen, simulated_unseen
from psla.weights.readers.contract import import_weights

REFERENCES = Path(__file__).with_name("references")
MADE = runpy.run_path(str(Path(__file__).parents[1] / "scripts/make_references.py"))
FACTS = json.loads((REFERENCES / "facts.json").read_text(encoding="utf-8"))


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCES / f"{name}.npz") as data:
        return dict(data)


def checksum(lines: list[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@pytest.mark.parametrize("name", ["kaldi", "network", "enhancement", "sampling"])
def test_the_script_gives_what_is_stored(name: str) -> None:
    """The references are what their script computes, and small."""
    stored, made = reference(name), MADE[f"{name}_reference"]()
    assert list(stored) == list(made)
    for key, value in made.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, stored[key], rtol=1e-5, atol=1e-6, err_msg=key)
        else:
            np.testing.assert_array_equal(value, stored[key], err_msg=key)
    assert sum(path.stat().st_size for path in REFERENCES.iterdir()) < 1_000_000


# The front end


@pytest.mark.parametrize("window", ["hanning", "hamming"])
@pytest.mark.parametrize("number", range(4))
def test_log_mel_is_kaldis(window: str, number: int) -> None:
    """Of tones, a chirp, noise and a click, the log-mel is Kaldi's; as amplitudes also in a loud frame's quiet bins."""
    known = reference("kaldi")
    expected = known[f"{window}_{number}"]
    front = FrontEnd(FrontEndConfig(window=window))  # type: ignore[arg-type]
    found = front.log_mel(torch.from_numpy(known[f"wave_{number}"])[None])[0].numpy()
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.mean() < 1e-4
    assert difference[expected > -12].max() < 2e-3
    # float32 rounds a transform in proportion to its loudest part.
    amplitude = np.exp(expected.astype(np.float64) / 2)
    error = np.abs(np.exp(found.astype(np.float64) / 2) - amplitude) / amplitude.max(axis=1, keepdims=True)
    assert error[amplitude.max(axis=1) > 1e-3].max() < 1e-6


# The published checkpoints


@pytest.fixture(scope="module", params=["b0_4head", "b0_1head", "b0_mean", "b2_4head"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A file in the published format, its weights made by formula."""
    shapes = json.loads(str(reference("network")[f"{request.param}_tensors"]))
    path = tmp_path_factory.mktemp("references") / f"{request.param}.pth"
    torch.save({f"module.{name}": torch.from_numpy(MADE["tensor"](name, tuple(shapes[name]))) for name in shapes}, path)
    return request.param, path


def test_a_published_checkpoint_gives_the_reference(checkpoint: tuple[str, Path], tmp_path: Path) -> None:
    """Features and clip probabilities of each pooling are the reference's, as read and from a model file of it."""
    name, path = checkpoint
    known, log_mel = reference("network"), torch.from_numpy(MADE["log_mel"]())
    variant, heads, classes = MADE["NETWORKS"][name]
    network = psla.read_released(path)
    assert (network.config.backbone, network.config.heads) == (f"efficientnet_{variant}", heads)
    vocabulary = Vocabulary([f"class {i}" for i in range(classes)])
    stored = load_model(import_weights(path, tmp_path / "model.safetensors", vocabulary)).network
    assert known[f"{name}_probabilities"].std() > 0.1
    with torch.inference_mode():
        for each in (network, stored):
            found = each.from_log_mel(log_mel).clip_probabilities
            np.testing.assert_allclose(found, known[f"{name}_probabilities"], rtol=0, atol=1e-5)
            features = each.features(log_mel)[:, ::40]
            np.testing.assert_allclose(features, known[f"{name}_features"], rtol=1e-4, atol=1e-4)


# Label enhancement


@pytest.fixture(scope="module")
def taught() -> tuple[Labels, Predictions]:
    """600 made-up clips with labels of AudioSet, and what stands for a teacher's probabilities."""
    clips = MADE["segments"](600, 11)
    labels = Labels.from_sets([id for id, _ in clips], [own for _, own in clips], Vocabulary.audioset())
    return labels, Predictions(MADE["teacher"](600), labels.clip_ids, labels.vocabulary)


@pytest.mark.parametrize("threshold", ["mean", "median", 25])
def test_enhanced_labels_are_the_reference(taught: tuple[Labels, Predictions], threshold: str | int) -> None:
    """Thresholds, type I, type II and their union are those of the plain loops, in any order of the clips."""
    (labels, predictions), known = taught, reference("enhancement")
    limits = class_thresholds(labels, predictions, threshold)
    np.testing.assert_allclose(limits, known[f"thresholds_{threshold}"], rtol=1e-14)
    one, two = (np.unpackbits(known[f"type_{kind}_{threshold}"], axis=1)[:, :527].astype(bool) for kind in ("I", "II"))
    assert (one & ~two).any()
    assert (two & ~one).any()
    mixed = predictions.select(predictions.clip_ids[::-1])
    for types, expected in (({"I"}, one), ({"II"}, two), ({"I", "II"}, one | two)):
        for each in (predictions, mixed):
            found = enhance(labels, each, Ontology.audioset(), types, threshold)
            np.testing.assert_array_equal(found.labels.matrix(), expected)
            np.testing.assert_array_equal(found.added.matrix(), expected & ~labels.matrix())


# Lists, clip weights and plans


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """The labels of 1,500 made-up clips, read from a segment list in the published format."""
    lines = [f'{id}, {10 * n}.000, {10 * n + 10}.000, "{",".join(own)}"' for n, (id, own) in
             enumerate(MADE["segments"](1500, 13))]  # fmt: skip
    folder = write_list(tmp_path_factory.mktemp("lists"), lines)
    return audioset.read_lists(folder, ["balanced"]).labels()


def test_a_list_is_counted_and_weighed_as_defined(listed: Labels) -> None:
    """Clips a class, label errors of speech, clip weights, and the unheard shares of the reference."""
    known = reference("sampling")
    np.testing.assert_array_equal(listed.counts(), known["counts"])
    counts, speech = count(listed), audit(listed, Ontology.audioset(), MADE["SPEECH"], MADE["CHILDREN"])
    assert (counts.clips, counts.labels) == (1500, known["counts"].sum())
    numbers = [speech.clips, *(child.clips for child in speech.children), speech.child_without_parent]
    assert numbers == known["speech"].tolist()
    assert speech.child_without_parent > 0
    np.testing.assert_allclose(clip_weights(listed), known["weights"], rtol=1e-12)
    for rate, curve in expected_unseen(clip_weights(listed), MADE["EPOCHS"], MADE["MIXUP_RATES"]).items():
        np.testing.assert_allclose(curve, known[f"unheard_{rate}"], rtol=1e-9)


@pytest.mark.parametrize("name", ["weighted", "traversal"])
def test_plans_are_drawn_as_written_down(name: str) -> None:
    """Who is read, who is mixed in and in which share are the reference's, drawn one by one."""
    known, (seed, epoch) = reference("sampling"), MADE["PLANS"][name]
    plan = EpochPlan(known["weights"] if name == "weighted" else len(known["weights"]), 0.5, 10.0, seed, epoch)
    np.testing.assert_array_equal(plan.first, known[f"{name}_first"])
    np.testing.assert_array_equal(plan.second, known[f"{name}_second"])
    np.testing.assert_allclose(plan.share, known[f"{name}_share"], rtol=1e-6)


def full_weights() -> np.ndarray:
    """The clip weights of the full training set, each the mean of those within 1 % of it."""
    weights, clips = zip(*FACTS["audioset"]["full_weights"], strict=True)
    return np.repeat(weights, clips)


def test_figure_5_follows_from_the_published_labels() -> None:
    """The full set's weights give each class one draw's weight, and the paper's unheard shares (Figure 5)."""
    weights, told = full_weights(), FACTS["paper"]["figure_5_unseen_fraction_full"]
    assert len(weights) == FACTS["audioset"]["lists"]["full"]["clips"] == 2_063_949
    assert weights.sum() == pytest.approx(527)
    unheard = expected_unseen(weights, 30, [0.0, 0.5])
    assert unheard[0.0][29] == pytest.approx(0.4105, abs=0.001)
    assert unheard[0.0][29] == pytest.approx(told["mixup_rate_0_after_30_epochs"], abs=0.002)
    assert unheard[0.5][4] == pytest.approx(0.0435, abs=0.001)
    assert unheard[0.5][4] < told["mixup_rate_0.5_after_5_epochs"]


@pytest.mark.slow
def test_plans_of_the_full_size_leave_the_expected_share_unheard() -> None:
    """Five epochs of two million clips, counted in the plans of a run."""
    assert simulated_unseen(full_weights(), 5, [0.5])[0.5][4] == pytest.approx(0.0435, abs=0.001)


# Facts


def test_the_classes_are_the_published_ones() -> None:
    """AudioSet's 527 classes and its graph, and FSD50K's 200 classes: index, id and name of each."""
    for vocabulary, name in ((Vocabulary.audioset(), "audioset"), (Vocabulary.fsd50k(), "fsd50k")):
        assert checksum([f"{c.index} {c.id} {c.name}" for c in vocabulary]) == FACTS[name]["class_list"]
    graph = Ontology.audioset()
    lines = [f"{id} {sorted(graph.parents(id))} {sorted(graph.restrictions(id))}" for id in graph.ids]
    assert checksum(sorted(lines)) == FACTS["audioset"]["graph"]


@pytest.fixture(scope="module")
def esc10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list of ESC-10 with a moment of silence for each recording."""
    root = tmp_path_factory.mktemp("esc10")
    (root / "meta").mkdir()
    (root / "audio").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for name in FACTS["esc10"]["clips"]:
        fold, recording, take, target = name.split("-")
        category = FACTS["esc10"]["categories"][target]
        lines.append(f"{name}.wav,{fold},{target},{category},True,{recording},{take}")
        soundfile.write(root / "audio" / f"{name}.wav", np.zeros(800, np.int16), 16000)
    (root / "meta/esc50.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_folds_of_esc10(esc10: Path) -> None:
    """400 clips, 40 in each of 10 classes, 80 in each fold, and no recording in two folds."""
    sources = []
    for fold in esc50.FOLDS:
        clips = esc50.read(esc10, evaluation_fold=fold)
        assert clips.counts() == {"train": 320, "evaluation": 80}
        assert clips.labels().counts().tolist() == [40] * 10
        assert clips.is_single_label
        sources.append(set(clips.split("evaluation").frame["source"]))
    assert sum(map(len, sources)) == len(set().union(*sources))
    assert len(open_source(clips, 16000).read(0)) == 800
    held = clips.hold_out(0.2, 0)
    counts = held.split("validation").labels().counts()
    assert counts.min() >= 4
    assert counts.max() <= 9
    assert not set(held.split("validation").frame["source"]) & set(held.split("train").frame["source"])


def test_inner_folds_of_esc10_never_see_the_evaluation_fold(esc10: Path) -> None:
    """What settings are chosen on shares no clip with the fold that is reported."""
    for fold in esc50.FOLDS:
        inner, outer = fold_clips(esc10, fold, inner=True), fold_clips(esc10, fold)
        assert not set(inner.clip_ids) & set(outer.split("evaluation").clip_ids)
        assert inner.counts() == {"train": 240, "evaluation": 80}
