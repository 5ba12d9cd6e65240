"""Laws of `benchmarks/original.py`: its left side computes what psla computes, where both should agree, and differs
where the released code does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from psla.data.clips import Clips
from psla.model.backbones.efficientnet import our_name
from psla.model.frontends.kaldi import FrontEnd, FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.techniques.sampling import clip_weights
from psla.training import trainer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import original  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return original.write_clips(tmp_path_factory.mktemp("clips"), 6, 4, 0.4)


def recipe() -> original.Recipe:
    return original.recipe_of(clips=6, seconds=0.64, epochs=2, batch=3)


def test_a_clip_has_the_log_mel_of_psla() -> None:
    """Law: two routes to Kaldi's log-mel agree, one clip at a time and a batch at once."""
    wave = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    wave = wave - wave.mean()
    ours = FrontEnd(FrontEndConfig(frames=48)).log_mel(wave[None])[0]
    torch.testing.assert_close(original.log_mel_of(wave), ours, atol=2e-3, rtol=0)


def test_the_networks_are_one() -> None:
    """Law: with the same weights, both networks give the same probabilities in evaluation."""
    torch.manual_seed(0)
    theirs, config = original.Original(5, 4, 0.1), NetworkConfig("efficientnet_b0", 5)
    ours = TaggingNetwork(config).eval()
    log_mel = torch.randn(2, 32, 128)
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0  # features of about 1, so that there is something to compare
    theirs.train()(log_mel)
    theirs.eval()
    own = {our_name(key): tensor for key, tensor in theirs.features.state_dict().items()}
    ours.backbone.load_state_dict({key: tensor for key, tensor in own.items() if key is not None})
    with torch.no_grad():
        for head in range(4):
            rows = slice(5 * head, 5 * head + 5)
            for mine, each in (("classification", theirs.classification), ("attention", theirs.attention)):
                layer = getattr(ours.pooling, mine)
                layer.weight[rows] = each[head].weight[:, :, 0, 0]
                layer.bias[rows] = each[head].bias
        expected = theirs(log_mel)
        torch.testing.assert_close(ours.from_log_mel(log_mel).clip_probabilities, expected, atol=1e-5, rtol=0)


def test_targets_are_filled_label_by_label(clips: Clips) -> None:
    """Law: unmixed they are the labels; mixed they are share and rest of two clips' labels, and the log-mel changes."""
    own = clips.split("train")
    matrix = own.labels().matrix().astype(np.float32)
    plain = original.FilesOneByOne(own, recipe(), training=False)
    assert np.array_equal(torch.stack([plain[row][1] for row in range(len(own))]).numpy(), matrix)
    assert plain[0][0].shape == (64, 128)
    always = recipe().model_copy(update={"mixup": recipe().mixup.model_copy(update={"rate": 1.0})})
    original.random.seed(0)
    target = original.FilesOneByOne(own, always, training=True)[0][1].numpy()
    found = []
    for other in matrix:
        difference = matrix[0] - other
        at = np.flatnonzero(difference)
        shares = ((target - other)[at] / difference[at]) if len(at) else np.array([0.5])
        found.append(np.allclose(shares, shares[0], atol=1e-5) and 0 < shares[0] < 1)
        found[-1] &= np.allclose(shares[0] * matrix[0] + (1 - shares[0]) * other, target, atol=1e-5)
    assert any(found)


def test_weights_of_clips_are_in_proportion(clips: Clips) -> None:
    """Law: the released weights are the paper's times 1,000, but for the hundredth that they add to a count."""
    own = clips.split("train")
    ours = clip_weights(own.labels(), 0.01)
    np.testing.assert_allclose(original.sampling_weights(own), 1000 * ours, rtol=1e-12)


def test_the_warm_up_moves_in_steps() -> None:
    """Law: twenty levels, never above psla's rate, and from its end on the same as psla's."""
    plan = original.recipe_of(clips=1000, seconds=0.64, epochs=16, batch=10)
    last = plan.optimizer.warmup_steps
    rates = [original.learning_rate(plan, step, 0) for step in range(last)]
    assert len(set(rates)) == 20
    assert all(rate <= trainer.learning_rate(plan, step, 0) for step, rate in enumerate(rates))
    for epoch in range(16):
        assert original.learning_rate(plan, last, epoch) == trainer.learning_rate(plan, last, epoch)


def test_the_first_checkpoint_counts_twice() -> None:
    """Law: of states 3, 6 and 9 the average is 21 / 4; whole numbers are not averaged."""
    states = [{"w": torch.tensor([each]), "n": torch.tensor(int(each))} for each in (3.0, 6.0, 9.0)]
    found = original.averaged(states)
    assert found["w"].tolist() == [21 / 4]
    assert found["n"].item() == 3


def test_one_mask_of_zeros() -> None:
    """Law: what is masked is one run of rows or columns of zeros, no longer than was said; the rest stays."""
    original.random.seed(3)
    for axis, longest in ((0, 20), (1, 8)):
        found = original.masked(torch.ones(40, 16), axis, longest)
        lost = (found == 0).all(1 - axis).nonzero().flatten()
        assert 0 < len(lost) <= longest
        assert lost[-1] - lost[0] + 1 == len(lost)
        assert (found == 0).sum() == len(lost) * found.shape[1 - axis]


def test_the_report_has_both_sides() -> None:
    """Law: ratios are of the numbers beside them, and the parts of a side's time add up to its wall time."""
    seconds = {"original": {"forward": 6.0, "evaluation": 1.0}, "psla": {"forward": 3.0, "evaluation": 0.5}}
    walls = {"original": 8.0, "psla": 4.0}
    found = {
        side: {"last_five": 0.2, "averaged": 0.25, "wall_s": walls[side], "cpu_s": 9.0, "seconds": seconds[side]}
        for side in original.SIDES
    }
    text = original.report(found, "title")
    assert "| wall time, s | 8.0 | 4.0 | 2.00 |" in text
    assert "| rest | 1.0 | 0.5 | 12.5% |" in text
    parts = text.split("wall time by part")[1].splitlines()[2:]
    assert sum(float(line.split("|")[3]) for line in parts) == walls["psla"]


@pytest.mark.soak
def test_both_sides_train(clips: Clips, tmp_path: Path) -> None:
    """Law: each side's training ends with scores of the same clips and with its seconds by part."""
    plan = original.recipe_of(clips=6, seconds=0.64, epochs=1, batch=6)
    theirs = original.train_original(clips, plan, workers=0)
    ours = original.train_psla(clips, plan, 1, tmp_path / "run")
    for found in (theirs, ours):
        assert 0 < found["last_five"] <= 1
        assert 0 < found["averaged"] <= 1
        assert all(found["seconds"][part] > 0 for part in ("forward", "backward", "optimizer", "evaluation"))
    assert theirs["seconds"]["front end"] == 0  # it is in the workers' time, or in `data wait`
