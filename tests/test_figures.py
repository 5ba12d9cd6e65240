"""Laws of the figures: each is written whole, shows what it was given, and refuses what it cannot show."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.metrics.scores import Scores, score
from psla.report.figures import comparison, learning_curve, sorted_average_precision

ROWS = [{"epoch": e, "loss": 1 / e, "learning_rate": 1e-3 / e, "mean_average_precision": e / 9} for e in range(1, 5)]


def some_scores(classes: int) -> Scores:
    rng = np.random.default_rng(classes)
    clip_ids = [f"clip{i}" for i in range(30)]
    vocabulary = Vocabulary([f"c{i}" for i in range(classes)], [f"Sound no. {i}, $5 or $6" for i in range(classes)])
    labels = Labels.from_matrix(clip_ids, rng.random((30, classes)) < 0.1, vocabulary)
    return score(Predictions(rng.random((30, classes)).astype(np.float32), clip_ids, vocabulary), labels)


def check_picture(path: Path) -> None:
    """A whole PNG, legibly large, with something drawn, and nothing else in its folder."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(struct.pack(">I", zlib.crc32(b"IEND")))
    width, height = struct.unpack(">II", data[16:24])
    assert width > 500
    assert height > 150
    assert len(data) > 5000
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("measured", [0, 1, 4])
def test_learning_curve(tmp_path, measured):
    """A learning curve is drawn with mean average precision of all, some or no epochs."""
    rows = [row if i < measured else {**row, "mean_average_precision": None} for i, row in enumerate(ROWS)]
    learning_curve(rows, tmp_path / "curve.png")
    check_picture(tmp_path / "curve.png")


@pytest.mark.parametrize("classes", [3, 60])
def test_sorted_average_precision(tmp_path, classes):
    """The sorted bars are drawn for few named classes and for many, with undefined classes left out."""
    sorted_average_precision(some_scores(classes), tmp_path / "classes.png")
    check_picture(tmp_path / "classes.png")


def test_names_and_values_are_shown(tmp_path):
    """Few classes are named, best first, as they are spelt; a comparison prints names and values."""
    scores = some_scores(8)
    sorted_average_precision(scores, tmp_path / "classes.svg")
    text = (tmp_path / "classes.svg").read_text()
    defined = [each for each in scores.per_class if each.positives]
    order = sorted(defined, key=lambda each: (-each.average_precision, each.id))
    places = [text.index(f"<!-- {each.name} -->") for each in order]
    assert places == sorted(places)
    comparison({"a_1 $x$": scores, "b": {"mean_average_precision": 0.25}, "c": {"mean_average_precision": None}},
               tmp_path / "both.svg")  # fmt: skip
    text = (tmp_path / "both.svg").read_text()
    for shown in ("a_1 $x$", f"{scores.mean_average_precision:.3f}", "0.250", "undefined"):
        assert f"<!-- {shown} -->" in text


def test_comparison_takes_scores_and_their_dicts_alike(tmp_path):
    """Scores and their stored form give the same picture, bit for bit."""
    scores = some_scores(5)
    for folder, each in (("a", scores), ("b", scores.to_dict())):
        (tmp_path / folder).mkdir()
        comparison({"one": each}, tmp_path / folder / "p.png")
        check_picture(tmp_path / folder / "p.png")
    assert (tmp_path / "a" / "p.png").read_bytes() == (tmp_path / "b" / "p.png").read_bytes()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    """Nothing to draw, a missing key or an unknown suffix is refused, and no file is left behind."""
    for draw, message in [
        (lambda: learning_curve([], tmp_path / "a.png"), "at least one row"),
        (lambda: learning_curve([{"epoch": 1, "loss": 1}], tmp_path / "a.png"), "lacks learning_rate"),
        (lambda: learning_curve(ROWS, tmp_path / "a.bmp"), "suffix"),
        (lambda: comparison({}, tmp_path / "a.png"), "at least one variant"),
        (lambda: comparison({"x": {"loss": 1}}, tmp_path / "a.png"), "'x' lack"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw()
    assert not list(tmp_path.iterdir())


def test_importing_the_figures_loads_no_matplotlib():
    """matplotlib is loaded when a figure is drawn, not when the module is imported, and pyplot never is."""
    code = (
        "import sys, psla.report.figures as f; assert 'matplotlib' not in sys.modules;"
        "import tempfile, pathlib; d = tempfile.mkdtemp();"
        "f.comparison({'a': {'mean_average_precision': 0.5}}, pathlib.Path(d) / 'a.png');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
