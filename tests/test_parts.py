"""Laws of predictions in parts: the parts of a job array put together are the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.metrics.parts import join, parse_part, part_path
from psla.metrics.predictions import Predictions, PredictionsError
from psla.model.file import ModelCard, save_model
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training.recipe import Recipe
from psla.training.session import build_network

DOG = Vocabulary(["dog"])


def of(*ids: str, split: str = "") -> Predictions:
    return Predictions(np.arange(len(ids), dtype=np.float32)[:, None], list(ids), DOG, split)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and a table of 5 clips."""
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("parts")
    Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=5), "evaluation"), vocabulary()).write(made / "c.parquet")
    recipe = Recipe.from_dict(
        {
            "front_end": {"frames": 64, "mel_bins": 32},
            "backbone": {"name": "efficientnet_lite0"},
            "masking": {"frequency": 12, "time": 16},
        }
    )
    network, _ = build_network(recipe, vocabulary())
    save_model(made / "m.safetensors", network, vocabulary(), ModelCard())
    return made


def psla(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_shards_and_merge_are_the_whole(folder: Path) -> None:
    """Parts predicted one by one and merged are, to the bit and in order, the predictions made in one go."""
    predict = ["predict", folder / "m.safetensors", folder / "c.parquet"]
    psla(*predict, "--out", folder / "whole.safetensors")
    for part in (3, 1, 2):
        psla(*predict, "--out", folder / "all.safetensors", "--shard", f"{part}/3")
    assert "5 of 5 clips, from 3 parts" in psla(*predict, "--out", folder / "all.safetensors", "--merge", "3")
    assert (folder / "all.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


def test_half_keeps_float16(folder: Path) -> None:
    """`--half` keeps the same probabilities, rounded."""
    predict = ["predict", folder / "m.safetensors", folder / "c.parquet"]
    psla(*predict, "--out", folder / "full.safetensors")
    psla(*predict, "--out", folder / "half.safetensors", "--half")
    full, half = (Predictions.read(folder / f"{n}.safetensors").probabilities for n in ("full", "half"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))


def test_join_keeps_the_order_asked_for() -> None:
    """The clips come in the given order, whichever part they are in; what no part has is left out."""
    joined = join([of("c", "a"), of("b")], ["a", "b", "c", "d"])
    assert joined.clip_ids == ["a", "b", "c"]
    assert joined.probabilities[:, 0].tolist() == [1, 0, 0]


def test_refusals() -> None:
    """No parts, a clip in two of them, parts of two splits, and parts that there are not."""
    with pytest.raises(PredictionsError, match="no part"):
        join([], [])
    with pytest.raises(PredictionsError, match="'a' is in part 2"):
        join([of("a"), of("a")], ["a"])
    with pytest.raises(PredictionsError, match="different"):
        join([of("a"), of("b", split="train")], ["a", "b"])
    for text in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(PredictionsError, match="i/n"):
            parse_part(text)
    assert part_path("x/p.safetensors", (1, 2)) == Path("x/p.1of2.safetensors")
