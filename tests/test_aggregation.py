"""Laws of aggregation: equal averages, any order, refused by name; members are never chosen on evaluation data."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.lab.sweep import start_sweep
from psla.metrics.predictions import Predictions, PredictionsError, average
from psla.metrics.scores import score
from psla.model import inference
from psla.model.file import ModelCard, load_model, save_model
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.synth.scene import SoundscapeConfig, table, vocabulary
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


def test_shares_weigh(tmp_path):
    """Each file counts by its share, in whatever order it is given; a share of 1 is that file, to the bit, whatever the
    others hold; buffers of counts are those of the latest."""
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(50, generator=generator), "n": torch.tensor(n)} for n in (7, 3, 5)]
    states[0]["w"][:3] = torch.tensor([-0.0, 0.1, 1e-40])
    states[2]["w"][:3] = float("inf")
    paths, shares = checkpoints(tmp_path, *states), (0.2, 0.5, 0.3)
    want = sum(share * state["w"].double() for share, state in zip(shares, states, strict=True)).float()
    for order in itertools.permutations(range(3)):
        got = average_weights([paths[i] for i in order], [shares[i] for i in order])
        torch.testing.assert_close(got["w"], want, rtol=1e-6, atol=1e-12)
        assert torch.equal(got["w"], average_weights(paths, shares)["w"])
        assert got["n"].item() == 7
        alone = average_weights([paths[i] for i in order], [float(i == 0) for i in order])["w"]
        assert alone.numpy().tobytes() == states[0]["w"].numpy().tobytes()
    thirds = average_weights(paths, [0.3333333] * 3)["w"][3:]
    torch.testing.assert_close(thirds, average_weights(paths)["w"][3:], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.4), (1.5, -0.5), (0.5, float("nan")), (), (0.5, 0.5 + 2e-6)])
def test_shares_that_are_none_are_refused(tmp_path, shares):
    """Shares are one for each file, in [0, 1], and together 1 within 1e-6."""
    paths = checkpoints(tmp_path, {"w": torch.ones(2)}, {"w": torch.zeros(2)})
    with pytest.raises(AggregationError, match=r"2 files need a share each, in \[0, 1\] and together 1"):
        average_weights(paths, shares)


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


def small_network(seed: int, classes: int = 3, batch_norm_momentum: float = 0.01) -> TaggingNetwork:
    torch.manual_seed(seed)
    front_end = FrontEndConfig(frames=64)
    return TaggingNetwork(NetworkConfig("efficientnet_lite0", classes, 4, batch_norm_momentum, front_end))


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


@pytest.fixture
def two_models(tmp_path):
    """Two model files of one architecture, and real validation clips."""
    paths = [tmp_path / "start.safetensors", tmp_path / "tuned.safetensors"]
    classes = vocabulary()
    for seed, path in enumerate(paths):
        network = small_network(seed, len(classes), batch_norm_momentum=1.0).train()
        network(torch.randn(4, 10000) * torch.tensor([[0.001], [0.01], [0.1], [0.3]]))  # different audio, other numbers
        save_model(path, network.eval(), classes, ModelCard(licence="CC0-1.0"))
    rows = table(SoundscapeConfig(seconds=0.3, clips=4), "validation")
    Clips.from_rows(rows, classes).write(tmp_path / "clips.parquet")
    return paths


def call_average(paths, *more):
    return CliRunner().invoke(app, ["average", *map(str, [*paths, "--out", paths[0].parent / "out", *more])])


def test_the_command_takes_shares(two_models):
    """One share is that of the last of two files, several are one for each; the file says whose share was what."""
    states = [load_file(path) for path in two_models]
    out, name = two_models[0].parent / "out", "pooling.classification.weight"
    for given in (["--share", "0.3"], ["--share", "0.7,0.3"], ["--share", 0.7, "--share", 0.3]):
        result = call_average(two_models, *given)
        assert result.exit_code == 0, result.output
        assert "shares 0.7, 0.3" in result.output
        want = 0.7 * states[0][name].double() + 0.3 * states[1][name].double()
        torch.testing.assert_close(load_file(out)[name], want.float(), rtol=1e-6, atol=1e-9)
        provenance = load_model(out).card.provenance
        assert provenance["variant"] == "weighted average of 2 files"
        shares = {member["file"]: member["share"] for member in provenance["members"]}
        assert shares == {"start.safetensors": 0.7, "tuned.safetensors": 0.3}
        assert {member["sha256"] for member in provenance["members"]} == {sha256_of(path) for path in two_models}
    for wrong in ("1.2", "a", "0.5,0.4", "0.5,0.3,0.2"):
        out.unlink(missing_ok=True)
        assert call_average(two_models, "--share", wrong).exit_code == 2
        assert not out.exists()


def test_shares_are_swept_on_validation_clips(two_models):
    """Each share is scored as its average is by itself, and the best is written; evaluation clips choose nothing."""
    clips, out = two_models[0].parent / "clips.parquet", two_models[0].parent / "out"
    result = call_average(two_models, "--share", "0,0.5,1", "--sweep", clips, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    corpus = Clips.read(clips)
    values = []
    for point, share in zip(found["sweep"], (0.0, 0.5, 1.0), strict=True):
        one = load_model(average_model(two_models, two_models[0].parent / "one", shares=[1 - share, share]))
        said = inference.predict(one.network, open_source(corpus, one.network.sample_rate), one.vocabulary)
        values.append(score(said.predictions, corpus.labels()).mean_average_precision)
        assert (point["share"], point["mean_average_precision"]) == (share, pytest.approx(values[-1], abs=1e-9))
    assert len(set(values)) > 1, "the law needs scores that differ"
    best = (0.0, 0.5, 1.0)[values.index(max(values))]
    assert found["shares"] == [1 - best, best]
    assert [member["share"] for member in load_model(out).card.provenance["members"]].count(best) >= 1
    out.unlink()
    result = call_average(two_models, "--share", "0,1", "--sweep", clips, "--split", "evaluation")
    assert result.exit_code == 2
    assert "on validation clips only" in " ".join(result.stderr.split())
    assert not out.exists()


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
