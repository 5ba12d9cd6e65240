"""Laws of the figures: each is written whole, shows what it was given, and refuses what it cannot show."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psla.data.inventory import Share
from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.metrics.scores import Scores, score
from psla.report.figures import (
    Curve,
    comparison,
    curves,
    learning_curve,
    missing_by_class,
    ranked,
    scatter,
    sorted_average_precision,
)

ROWS = [{"epoch": e, "loss": 1 / e, "learning_rate": 1e-3 / e, "mean_average_precision": e / 9} for e in range(1, 5)]
BLUE, VERMILION, GREEN = (0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73)


def some_scores(classes: int) -> Scores:
    rng = np.random.default_rng(classes)
    clip_ids = [f"clip{i}" for i in range(30)]
    vocabulary = Vocabulary([f"c{i}" for i in range(classes)], [f"Sound no. {i}, $5 or $6" for i in range(classes)])
    labels = Labels.from_matrix(clip_ids, rng.random((30, classes)) < 0.1, vocabulary)
    return score(Predictions(rng.random((30, classes)).astype(np.float32), clip_ids, vocabulary), labels)


def pixels(png: bytes | Path) -> np.ndarray:
    """(height, width, 3) of a whole PNG; of one in a folder, nothing else lies there."""
    if isinstance(png, Path):
        assert [each.name for each in png.parent.iterdir()] == [png.name]
        png = png.read_bytes()
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    image.load()  # complains where data is cut off
    found = np.asarray(image.convert("RGB")).astype(int)
    assert min(found.shape[:2]) > 150
    assert found.shape[1] > 500
    return found


def places(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """(height, width) where a picture has a colour, but for rounding."""
    return np.abs(picture - color).max(axis=2) <= 8


def lengths(picture: np.ndarray, color: tuple[int, int, int]) -> list[int]:
    """Pixels of each bar to the right, from top to bottom."""
    wide = np.where(places(picture, color).any(axis=1), places(picture, color).sum(axis=1), 0)
    inside = np.flatnonzero(np.diff(np.concatenate([[0], wide > 0, [0]])))
    return [int(wide[a:b].max()) for a, b in zip(inside[::2], inside[1::2], strict=True)]


def middle(picture: np.ndarray, color: tuple[int, int, int]) -> list[float]:
    """Of a curve, the height of its middle in the first and in the last tenth of its width; up is more."""
    rows, columns = np.nonzero(places(picture, color))
    left, right = columns.min(), columns.max()
    tenth = (right - left) / 10
    return [-float(rows[part].mean()) for part in (columns < left + tenth, columns > right - tenth)]


@pytest.mark.parametrize("measured", [0, 1, 4])
def test_learning_curve(tmp_path, measured):
    """A panel each for falling loss and rate, and for rising precision where it was measured in all or some epochs."""
    rows = [row if i < measured else {**row, "mean_average_precision": None} for i, row in enumerate(ROWS)]
    learning_curve(rows, tmp_path / "curve.png")
    picture = pixels(tmp_path / "curve.png")
    for color in (BLUE, GREEN):
        first, last = middle(picture, color)
        assert first > last + 50
    assert places(picture, VERMILION).any() == (measured > 0)
    if measured == 4:
        first, last = middle(picture, VERMILION)
        assert first < last - 50
        panels = [np.flatnonzero(places(picture, color).any(axis=1)) for color in (BLUE, VERMILION, GREEN)]
        assert panels[0].max() < panels[1].min()
        assert panels[1].max() < panels[2].min()


def test_few_classes_are_bars_as_long_as_their_precision(tmp_path):
    """One bar a class with positives, the longest on top, as long as it should be; the mean is a line."""
    scores = some_scores(8)
    sorted_average_precision(scores, tmp_path / "classes.png")
    picture = pixels(tmp_path / "classes.png")
    values = sorted((each.average_precision for each in scores.per_class if each.positives), reverse=True)
    drawn = np.array(lengths(picture, BLUE))
    assert len(drawn) == len(values)
    hidden = 0.03 * drawn.max()  # where the line of the mean lies upon them
    np.testing.assert_allclose(drawn / drawn.max(), np.array(values) / values[0], atol=0.01 + hidden / drawn.max())


def test_many_classes_are_a_falling_curve(tmp_path):
    """With more than forty classes the curve falls from left to right, for a file and for a report alike."""
    scores = some_scores(60)
    sorted_average_precision(scores, tmp_path / "classes.png")
    values, names = [each.average_precision for each in scores.per_class], [each.name for each in scores.per_class]
    for png in (tmp_path / "classes.png", ranked(values, names, "average precision")):
        first, last = middle(pixels(png), BLUE)
        assert first > last + 50


def test_names_and_values_are_shown(tmp_path):
    """Few classes are named, best first, as they are spelt; a comparison prints names and values."""
    scores = some_scores(8)
    sorted_average_precision(scores, tmp_path / "classes.svg")
    text = (tmp_path / "classes.svg").read_text()
    defined = [each for each in scores.per_class if each.positives]
    order = sorted(defined, key=lambda each: (-each.average_precision, each.id))
    found = [text.index(f"<!-- {each.name} -->") for each in order]
    assert found == sorted(found)
    assert f"<!-- mean {scores.mean_average_precision:.3f} -->" in text
    comparison({"a_1 $x$": scores, "b": {"mean_average_precision": 0.25}, "c": {"mean_average_precision": None}},
               tmp_path / "both.svg")  # fmt: skip
    text = (tmp_path / "both.svg").read_text()
    for shown in ("a_1 $x$", f"{scores.mean_average_precision:.3f}", "0.250", "undefined"):
        assert f"<!-- {shown} -->" in text


def test_comparison_takes_scores_and_their_dicts_alike(tmp_path):
    """Scores and their stored form give the same picture, bit for bit, with bars as long as the scores."""
    scores = some_scores(5)
    for folder, each in (("a", scores), ("b", scores.to_dict())):
        (tmp_path / folder).mkdir()
        half = {"mean_average_precision": scores.mean_average_precision / 2}
        comparison({"one": each, "half": half, "none": {"mean_average_precision": None}}, tmp_path / folder / "p.png")
        one, other = lengths(pixels(tmp_path / folder / "p.png"), BLUE)
        assert other == pytest.approx(one / 2, abs=3)
    assert (tmp_path / "a" / "p.png").read_bytes() == (tmp_path / "b" / "p.png").read_bytes()


def test_curves_and_points_stand_where_they_should():
    """A curve rises or falls as its numbers do, its shade beside it, each in its own colour; a point for each class."""
    y, std = [0.1, 0.5, 0.9], [0.05] * 3
    for picture in (pixels(curves([Curve("", [1, 2, 3], y, each)], "x", "y")) for each in (None, std)):
        first, last = middle(picture, BLUE)
        assert first < last - 100
    first, last = middle(pixels(curves([Curve("", [1, 2, 3], y[::-1])], "x", "y")), BLUE)
    assert first > last + 100
    plain, shaded = (pixels(curves([Curve("a", [1, 2], y[:2]), Curve("b", [1, 2], y[:2], each)], "x", "y"))
                     for each in (None, std[:2]))  # fmt: skip
    assert places(plain, VERMILION).any()
    light = tuple(round(0.2 * c + 0.8 * 255) for c in VERMILION)
    assert places(shaded, light).sum() > places(plain, light).sum() + 10_000
    # Points are 60 % of blue on white.
    few, many = (
        pixels(scatter(x, y, "n", "p")) for x, y in (([1, 2], [0.1, 0.9]), (range(1, 9), np.linspace(0, 1, 8)))
    )
    faint = tuple(round(0.6 * c + 0.4 * 255) for c in BLUE)
    assert places(many, faint).sum() == pytest.approx(4 * places(few, faint).sum(), rel=0.15)
    rows, columns = np.nonzero(places(many, faint))
    assert np.corrcoef(rows, columns)[0, 1] < -0.95


def test_ranked_bars_are_in_order_with_their_stds():
    """The greatest is on top, NaN is left out, and a standard deviation is a black line at its bar's end."""
    values = [0.2, float("nan"), 0.8, 0.4]
    plain = pixels(ranked(values, ["a", "b", "c", "d"], "p"))
    drawn = np.array(lengths(plain, BLUE))
    np.testing.assert_allclose(drawn / drawn[0], [1, 0.5, 0.25], atol=0.02)
    with_stds = pixels(ranked(values, ["a", "b", "c", "d"], "p", [0.1, 0.1, 0.1, float("nan")]))
    rows = np.flatnonzero(places(with_stds, BLUE).sum(axis=1) > 20)
    black = places(with_stds[rows.min() : rows.max()], (0, 0, 0)).sum()
    assert black > places(plain[rows.min() : rows.max()], (0, 0, 0)).sum() + 50


def test_the_picture_of_missing_clips_shows_the_worst_first():
    """A bar for each of the 25 worst classes, as long as its share, and below it a curve over all that falls."""
    classes = [Share(f"/m/{n}", f"Class {n}", 100, n) for n in range(40)]
    picture = pixels(missing_by_class(classes))
    drawn = np.array(lengths(picture, VERMILION))
    assert len(drawn) == 25
    np.testing.assert_allclose(drawn / drawn[0], [each.missing_share for each in classes[:25]], atol=0.01)
    first, last = middle(picture, BLUE)
    assert first > last + 50


def test_what_cannot_be_drawn_is_refused(tmp_path):
    """Nothing to draw, a missing key or an unknown suffix is refused, and no file is left behind."""
    nothing = score(Predictions(np.zeros((1, 1), np.float32), ["a"], Vocabulary(["x"])),
                    Labels.from_sets(["a"], [[]], Vocabulary(["x"])))  # fmt: skip
    for draw, message in [
        (lambda: learning_curve([], tmp_path / "a.png"), "at least one row"),
        (lambda: learning_curve([{"epoch": 1, "loss": 1}], tmp_path / "a.png"), "lacks learning_rate"),
        (lambda: learning_curve(ROWS, tmp_path / "a.bmp"), "suffix"),
        (lambda: comparison({}, tmp_path / "a.png"), "at least one variant"),
        (lambda: comparison({"x": {"loss": 1}}, tmp_path / "a.png"), "'x' lack"),
        (lambda: sorted_average_precision(nothing, tmp_path / "a.png"), "no class has an average precision"),
        (lambda: curves([], "x", "y"), "at least one"),
        (lambda: ranked([float("nan")], ["a"], "x"), "needs one with a value"),
        (lambda: scatter([0], [0.5], "x", "y", log_x=True), "needs one"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw()
    assert not list(tmp_path.iterdir())


def test_a_vector_picture_is_whole(tmp_path):
    """SVG and PDF are chosen by the suffix."""
    learning_curve(ROWS, tmp_path / "a.svg")
    learning_curve(ROWS, tmp_path / "a.PDF")
    assert re.search(r"<svg[^>]*>.*</svg>\s*$", (tmp_path / "a.svg").read_text(), re.DOTALL)
    assert (tmp_path / "a.PDF").read_bytes().startswith(b"%PDF")


def test_importing_the_figures_loads_no_matplotlib():
    """matplotlib is loaded when a figure is drawn, not when the module is imported, and pyplot never is."""
    code = (
        "import sys, psla.report.figures as f; assert 'matplotlib' not in sys.modules;"
        "import tempfile, pathlib; d = tempfile.mkdtemp();"
        "f.comparison({'a': {'mean_average_precision': 0.5}}, pathlib.Path(d) / 'a.png');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
