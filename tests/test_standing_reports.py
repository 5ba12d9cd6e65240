"""Laws of the reports under docs/lab: what they say follows from the numbers that are committed beside them."""

import json
import re
from pathlib import Path

import pytest

from psla.data.clips import Clips
from psla.lab.experiment import soundscapes
from psla.metrics.predictions import Predictions, average
from psla.metrics.scores import score

LAB = Path(__file__).parents[1] / "docs" / "lab"
VERDICTS = sorted(LAB.glob("*.json"))


def test_a_sample_is_recomputed() -> None:
    """The row `mixup` of (a): the corpus is synthesised anew; its truth and the stored predictions of three seeds give
    the single models' scores, the ensemble's, and the claim's difference that the report has."""
    corpus: Clips = soundscapes(1000, 400)
    truth = corpus.split("evaluation").labels("true_labels")
    members = [Predictions.read(path) for path in sorted((LAB / "sample").glob("mixup-*.safetensors"))]
    assert len(members) == 3

    def of(predictions: Predictions) -> float:
        return score(predictions, truth.part(predictions.vocabulary)).mean_average_precision

    best, together = max(map(of, members)), of(average(members))
    told = {each["claim"]["id"]: each for each in json.loads((LAB / "synthesised.json").read_text())["verdicts"]}
    assert told["seeds"]["worse"] == pytest.approx(best, abs=1e-9)
    assert told["seeds"]["better"] == pytest.approx(together, abs=1e-9)
    assert f"{best:.4f} → {together:.4f}" in (LAB / "synthesised.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", VERDICTS, ids=[path.stem for path in VERDICTS])
def test_verdicts_follow_from_their_numbers(path: Path) -> None:
    """Holm's correction is made again from the p values; a claim is supported or contradicted where it stays below
    0.05, by the sign of its difference, which is that of its two scores; the page says the same."""
    verdicts = [each for each in json.loads(path.read_text())["verdicts"] if each["difference"] is not None]
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    ordered = sorted(verdicts, key=lambda each: each["difference"]["p"])
    largest = 0.0
    for place, each in enumerate(ordered):
        largest = max(largest, min(1.0, each["difference"]["p"] * (len(ordered) - place)))
        assert each["p_holm"] == pytest.approx(largest)
        value = each["difference"]["value"]
        if each["claim"]["beyond"] is None:
            assert value == pytest.approx(each["better"] - each["worse"], abs=1e-9)
        resolved = "supported" if value > 0 else "contradicted"
        assert each["status"] == (resolved if largest < 0.05 else "not resolved")
        assert f"| {each['claim']['text']} | {each['status']} | {value:+.4f} |" in page


def test_reports_are_small_and_name_no_place_on_a_machine() -> None:
    """Each file is below 2 MB, and no absolute path stands in a command, which others are to repeat."""
    files = [path for path in LAB.rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        assert path.stat().st_size < 2e6, path
        if path.suffix in (".md", ".json", ".txt", ".yaml"):
            text = path.read_text(encoding="utf-8")
            assert not re.findall(r"(?<![\w/.:*{}])/[a-z]+/[\w.-]+/", text), path
