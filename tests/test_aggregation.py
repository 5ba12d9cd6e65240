"""Laws of aggregation: equal averages, any order, refused by name; members are never chosen on evaluation data."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.lab.sweep import start_sweep
from psla.metrics.predictions import Predictions, PredictionsError, average
from psla.metrics.scores import score
from psla.model.file import ModelCard, load_model, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.techniques.aggregation import (
    AggregationError,
    average_model,
    average_weights,
    checkpoints_from,
    ensemble,
    greedy_selection,
)

VOCABULARY = Vocabulary(["dog", "rain", "siren"])


def checkpoints(folder: Path, *states: dict[str, Tensor]) -> list[Path]:
    paths = [folder / f"epoch_{i + 1:03d}.safetensors" for i in range(len(states))]
    for path, state in zip(paths, states, strict=True):
        save_file(state, path)
    return paths


def test_the_mean_of_one_two_three_is_two(tmp_path):
    """1, 2 and 3 have the mean 2: each checkpoint counts once; integer buffers are those of the latest."""
    paths = checkpoints(tmp_path, *({"w": torch.full((2,), float(v)), "n": torch.tensor(10 * v)} for v in (1, 2, 3)))
    for order in itertools.permutations(paths):
        got = average_weights(order)
        assert (got["w"].tolist(), got["n"].item(), got["w"].dtype) == ([2.0, 2.0], 30, torch.float32)
    assert average_weights(paths[:1])["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_any_order_gives_the_same_bits(tmp_path, kind):
    """No permutation changes a bit, also where sums in float64 round: large numbers cancel beside small ones."""
    generator = torch.Generator().manual_seed(0)
    large, middle, small = (torch.randn(500, generator=generator, dtype=torch.float64) for _ in range(3))
    half = kind == torch.float16
    large, middle = large * (1e3 if half else 1e18), middle * (10.0 if half else 1e9)
    paths = checkpoints(tmp_path, *({"w": each.to(kind)} for each in (large, middle, small, -large)))
    want = average_weights(paths)["w"]
    for order in itertools.permutations(paths):
        assert torch.equal(average_weights(order)["w"], want)
    exact = (middle.to(kind).double() + small.to(kind).double()) / 4
    torch.testing.assert_close(want.double(), exact, rtol=1e-3 if half else 1e-6, atol=1e-3 if half else 300)


@pytest.mark.parametrize(
    ("odd", "name"),
    [
        ({"w": torch.ones(2), "extra": torch.ones(1)}, "extra"),
        ({"w": torch.ones(3)}, "w"),
        ({"w": torch.ones(2, dtype=torch.float16)}, "w"),
        ({"v": torch.ones(2)}, "v, w"),
    ],
)
def test_mismatched_checkpoints_are_refused_by_tensor_name(tmp_path, odd, name):
    """A tensor too many or too few, or one of another shape or type, is named, with both files."""
    paths = checkpoints(tmp_path, {"w": torch.ones(2)}, odd)
    with pytest.raises(AggregationError, match=rf"epoch_002.* does not match .*epoch_001.safetensors: {name}$"):
        average_weights(paths)


def test_nothing_and_twice_are_refused(tmp_path):
    """No checkpoint, or one given twice, is refused."""
    (path,) = checkpoints(tmp_path, {"w": torch.ones(2)})
    with pytest.raises(AggregationError, match="at least one"):
        average_weights([])
    with pytest.raises(AggregationError, match="twice"):
        average_weights([path, path])


def test_checkpoints_from_an_epoch(tmp_path):
    """A run's folder stands for its checkpoints in order; earlier epochs are left out; nothing left is refused."""
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    paths = checkpoints(tmp_path / "run/checkpoints", *({"w": torch.ones(1) * v} for v in range(5)))
    assert checkpoints_from([tmp_path / "run"]) == checkpoints_from([tmp_path / "run/checkpoints"]) == paths
    assert checkpoints_from([tmp_path / "run"], 4) == checkpoints_from(paths, 4) == paths[3:]
    with pytest.raises(AggregationError, match="epoch 6 or later"):
        checkpoints_from(paths, 6)
    with pytest.raises(AggregationError, match="no epoch in its name"):
        checkpoints_from([tmp_path / "model.safetensors"], 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AggregationError, match="no checkpoints"):
        checkpoints_from([tmp_path / "empty"])


def small_network(seed: int, classes: int = 3) -> TaggingNetwork:
    torch.manual_seed(seed)
    return TaggingNetwork(NetworkConfig("efficientnet_lite0", classes, front_end=FrontEndConfig(frames=64)))


def test_the_average_of_models_is_a_model(tmp_path):
    """Model files, or checkpoints beside their run's model file, average to a model file that loads, without scores."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    networks = [small_network(seed) for seed in range(2)]
    models = [run / "model.safetensors", tmp_path / "other.safetensors"]
    card = ModelCard(scores={"x": 1}, licence="CC0-1.0", training_data="tapes")
    for path, network in zip(models, networks, strict=True):
        save_model(path, network, VOCABULARY, card)
    paths = checkpoints(run / "checkpoints", *(network.state_dict() for network in networks))
    states = [network.state_dict() for network in networks]
    for number, given in enumerate((models, paths)):
        out = average_model(given, tmp_path / f"average{number}.safetensors")
        found = load_model(out)
        assert (found.card.scores, found.card.licence, found.card.training_data) == ({}, "CC0-1.0", "tapes")
        assert len(found.card.provenance["members"]) == 2
        for name, tensor in load_file(out).items():
            both = [state[name] for state in states]
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, sum(t.double() for t in both).div(2).float(), rtol=1e-6, atol=1e-12)


def test_models_that_do_not_fit_are_refused(tmp_path):
    """Other classes, and checkpoints that no model file explains, are refused in a sentence."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_model(one, small_network(0), VOCABULARY, ModelCard())
    save_model(two, small_network(0), Vocabulary(["a", "b", "c"]), ModelCard())
    with pytest.raises(AggregationError, match=r"two.* has another vocabulary"):
        average_model([one, two], tmp_path / "out.safetensors")
    (lonely,) = checkpoints(tmp_path, {"w": torch.ones(1)})
    with pytest.raises(AggregationError, match="weights only"):
        average_model([lonely], tmp_path / "out.safetensors")
    with pytest.raises(AggregationError, match="do not match"):
        average_model([lonely], tmp_path / "out.safetensors", like=one)
    assert not (tmp_path / "out.safetensors").exists()


def corpus(split: str = "validation", clips: int = 80, seed: int = 0) -> Clips:
    matrix = np.random.default_rng(seed).random((clips, 3)) < 0.3
    rows = [
        {"clip_id": f"c{i}", "source": f"s{i}", "path": f"{i}.wav", "split": split}
        | {"labels": [VOCABULARY[int(k)].id for k in np.flatnonzero(row)]}
        for i, row in enumerate(matrix)
    ]
    return Clips.from_rows(rows, VOCABULARY)


def member(clips: Clips, seed: int, signal: float, split: str = "validation") -> Predictions:
    rng = np.random.default_rng(seed)
    values = clips.labels().matrix() * signal + rng.normal(size=(len(clips), 3))
    probabilities = (1 / (1 + np.exp(-values))).astype(np.float32)
    order = list(rng.permutation(clips.clip_ids))
    return Predictions(probabilities, clips.clip_ids, VOCABULARY, split).select(order)


def readers(members: list[Predictions]) -> dict:
    return {f"m{i}": (lambda each=each: each) for i, each in enumerate(members)}


def test_an_ensemble_is_the_float64_mean_and_its_table_the_scores():
    """Averaged probabilities equal the float64 mean of the files by id; every number of the table is `score`'s."""
    clips = corpus()
    members = [member(clips, seed, 0.5 + 0.3 * seed) for seed in range(4)]
    averaged, table = ensemble(readers(members), clips.labels())
    aligned = [each.select(averaged.clip_ids).probabilities.astype(np.float64) for each in members]
    np.testing.assert_array_max_ulp(averaged.probabilities, np.mean(aligned, axis=0).astype(np.float32), maxulp=1)
    alone = [score(each, clips.labels()).mean_average_precision for each in members]
    assert list(table.members.values()) == pytest.approx(alone, abs=1e-12)
    assert table.average == pytest.approx(np.mean(alone))
    assert (table.best, table.clips) == (max(table.members.values()), 80)
    assert table.ensemble == pytest.approx(score(averaged, clips.labels()).mean_average_precision, abs=1e-12)
    one, single = ensemble(readers(members[:1]), clips.labels())
    assert single.ensemble == single.best == single.average == pytest.approx(alone[0])
    assert one.probabilities.tobytes() == members[0].probabilities.tobytes()


def test_an_ensemble_of_strangers_is_refused():
    """No member, other clips than the first, clips without labels: refused with the reason."""
    clips = corpus()
    one, two = member(clips, 0, 1.0), member(clips, 1, 1.0)
    with pytest.raises(PredictionsError, match="got none"):
        ensemble({}, clips.labels())
    with pytest.raises(PredictionsError, match="different clips"):
        ensemble(readers([one, two.select(two.clip_ids[:9])]), clips.labels())
    with pytest.raises(AggregationError, match="no labels"):
        ensemble(readers([one]), clips.labels().select(clips.clip_ids[:9]))


def test_greedy_selection_starts_with_the_best_and_never_falls():
    """The best comes first, each further member raises the score, a useless one is left out, order does not matter."""
    clips = corpus(clips=300)
    members = [member(clips, seed, signal) for seed, signal in enumerate((1.0, 1.2, 0.9, -2.0, 1.1))]
    chosen = greedy_selection(readers(members), clips)
    names, scores = [name for name, _ in chosen], [value for _, value in chosen]
    alone = {f"m{i}": score(each, clips.labels()).mean_average_precision for i, each in enumerate(members)}
    assert names[0] == max(alone, key=lambda name: alone[name])
    assert scores == sorted(scores)
    assert "m3" not in names
    assert len(names) > 1
    assert greedy_selection(dict(reversed(readers(members).items())), clips) == chosen
    best = {name: readers(members)[name] for name in names}
    assert ensemble(best, clips.labels())[1].ensemble == pytest.approx(scores[-1], abs=1e-9)
    assert [name for name, _ in greedy_selection(readers(members), clips, most=1)] == names[:1]


@pytest.mark.parametrize(
    ("of_clips", "of_file"),
    [("validation", "evaluation"), ("evaluation", "validation"), ("evaluation", ""), ("train", "train")],
)
def test_greedy_selection_is_refused_on_anything_but_validation(of_clips, of_file):
    """A choice on evaluation data is refused, whether the predictions or the clips say so; on train data likewise."""
    clips = corpus(of_clips)
    members = [member(clips, 0, 1.0, of_file), member(clips, 1, 1.0, of_file)]
    with pytest.raises(AggregationError, match="chosen on validation clips only"):
        greedy_selection(readers(members), clips)


def test_the_sweep_scores_averages_from_each_checkpoint_on(tmp_path):
    """Each point scores the averaged weights and the averaged predictions of a checkpoint and all later ones."""
    clips = corpus()
    rng = np.random.default_rng(0)
    weights = [torch.from_numpy(clips.labels().matrix() + s * rng.normal(size=(80, 3))).float() for s in (2, 1, 0.7)]
    paths = checkpoints(tmp_path, *({"w": w} for w in weights))

    def predict(state):
        return Predictions(torch.sigmoid(2 * state["w"]).numpy(), clips.clip_ids, VOCABULARY)

    def score_of(predictions: Predictions) -> float:
        return score(predictions, clips.labels()).mean_average_precision

    points = start_sweep(paths, predict, clips.labels())
    assert [(p.first, p.checkpoints) for p in points] == [("epoch_001", 3), ("epoch_002", 2), ("epoch_003", 1)]
    for first, point in enumerate(points):
        apart = [predict({"w": w}) for w in weights[first:]]
        assert point.weights == pytest.approx(score_of(predict(average_weights(paths[first:]))), abs=1e-9)
        assert point.predictions == pytest.approx(score_of(average(apart)), abs=1e-9)
        assert point.alone == pytest.approx(score_of(apart[0]), abs=1e-9)
    assert points[0].weights != points[0].predictions
    assert points[2].weights == points[2].predictions == points[2].alone
    kept = tmp_path / "kept.safetensors"
    predict({"w": -weights[1]}).save(kept)
    again = start_sweep(paths, predict, clips.labels(), {"epoch_002": kept})
    assert (again[2], again[1].weights) == (points[2], points[1].weights)
    assert again[1].alone < points[1].alone
