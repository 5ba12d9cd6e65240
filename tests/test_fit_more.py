"""Further laws of `psla fit`: classes that are kept, a trunk that is tuned, clips to look at, a person's corrections, a
page of them; and of `psla find`, which compares the same features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.model.file import ModelFileError, load_model
from psla.model.inference import tag_waveforms
from psla.tagging.batch import FileResult
from psla.tagging.events import find_events
from psla.tagging.fit_page import write_fit_page
from psla.tagging.output import RowSettings, row_of
from psla.tagging.tagger import Tagger
from psla.training import features, review, tune
from psla.training.cross_fit import NEVER, Answers, Task
from psla.training.features import hear
from psla.training.fit import Fitted, fit
from psla.training.known import unit
from psla.training.own_clips import FitError, open_clips
from psla.training.review import suspects
from psla.training.similar import SearchError, find, near_pairs
from tagging_models import changed_header
from test_fit import KINDS, fitted, home, sound, toys  # noqa: F401
from toy_ears import RATE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def odd(home: Path, toys: None) -> tuple[Clips, Fitted]:  # noqa: F811
    """The sounds, one of them mislabelled, one there twice under two labels, and what a fit says of them."""
    (home / "page").mkdir()
    rows = list(open_clips(home / "sounds").frame.iter_rows(named=True))
    for row in rows:
        if row["clip_id"] == "beep/--3.wav":
            row["labels"] = ["hiss"]
    copy = home / "copy.wav"
    copy.write_bytes((home / "sounds" / "knock" / "--1.wav").read_bytes())
    rows.append(rows[0] | {"clip_id": "copy", "source": "copy", "path": str(copy), "labels": ["beep"]})
    clips = Clips.from_rows(rows, Vocabulary(KINDS), "odd")
    return clips, fitted(home, clips, "odd")


def test_what_a_person_should_look_at(odd: tuple[Clips, Fitted]) -> None:
    """Law: a wrong label is among the mistakes and the labels that look wrong, with what it is heard as; a copy under
    another label is the first of the near-duplicates; scores and the JSON file say the same."""
    _, made = odd
    report = made.report
    assert report == json.loads(made.path.with_suffix(".fit.json").read_text())
    for name in ("mistakes", "doubtful_labels"):
        found = {row["clip_id"]: row for row in report[name]}
        assert (found["beep/--3.wav"]["said"], found["beep/--3.wav"]["labels"]) == ("beep", ["hiss"])
    pair = report["near_duplicates"][0]
    assert set(pair["clip_ids"]) == {"copy", "knock/--1.wav"}
    assert (pair["copies"], pair["across_classes"]) == (True, True)
    assert pair["similarity"] == pytest.approx(1, abs=1e-5)
    assert report["suspects"]["mistakes"] == len(report["mistakes"])


def test_many_copies_are_counted_and_the_worst_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: four hundred copies of one sound are all counted as pairs, a hundred pairs are listed, those across classes
    first; among more clips than are compared none are looked for, and that is said."""
    count, few = 400, np.zeros(0)
    labels = np.zeros((count, 2), bool)
    labels[:, 0] = True
    labels[7] = [False, True]
    clips = Clips.from_rows(
        [
            {"clip_id": f"{n:03}", "path": "", "split": "train", "labels": ["b" if n == 7 else "a"], "source": str(n)}
            for n in range(count)
        ],
        Vocabulary(["a", "b"]),
    )
    task = Task(np.ones((count, 3), np.float32), labels, np.arange(count), True, np.zeros((0, 3), np.float32))
    answers = Answers(np.full(count, NEVER), np.full((count, 2), np.nan, np.float32), few, {}, 1.0)
    found = suspects(clips, task, answers, ["same"] * count)
    assert found["suspects"]["near_duplicates"] == count * (count - 1) // 2
    listed = found["near_duplicates"]
    assert len(listed) == 100
    assert all("007" in pair["clip_ids"] and pair["across_classes"] for pair in listed)
    monkeypatch.setattr(review, "_PAIRED", 399)
    with pytest.warns(UserWarning, match="more than 399 clips"):
        none = suspects(clips, task, answers, ["same"] * count)
    assert none["suspects"]["near_duplicates"] == 0


def test_corrections_are_carried_out(home: Path, odd: tuple[Clips, Fitted], tmp_path: Path) -> None:  # noqa: F811
    """Law: a class, a new class, several, keep and drop do what they say; what cannot be is refused in one sentence."""
    clips, made = odd
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(
        "clip_id,decision\nbeep/--3.wav,beep\ncopy,drop\nhiss/--0.wav,keep\nknock/--0.wav,knock;thud\nknock/--2.wav,thud\n"
    )
    again = fitted(home, clips, "again", review=decisions)
    assert again.report["clips"] == made.report["clips"] - 1
    labels = dict(again.clips.frame.select("clip_id", "labels").iter_rows())
    assert (labels["beep/--3.wav"], labels["hiss/--0.wav"]) == (["beep"], ["hiss"])
    assert (labels["knock/--0.wav"], labels["knock/--2.wav"]) == (["knock", "thud"], ["thud"])
    assert "thud" in load_model(again.path).vocabulary
    for text, message in {
        "clip_id,decision\ngone,drop\n": "'gone' is none of the 25 clips",
        "clip_id,decision\ncopy,drop\ncopy,keep\n": "'copy' is decided twice",
        "clip_id,decision\ncopy,\n": "'copy' has no decision: a class",
        "clip_id\ncopy\n": "no column decision",
    }.items():
        decisions.write_text(text)
        with pytest.raises(ValueError, match=message):
            fitted(home, clips, "never", review=decisions)
    assert not (home / "never.safetensors").exists()


def test_kept_classes_say_what_they_said(home: Path, toys: None) -> None:  # noqa: F811
    """Law: outputs that are kept are those of the model before, to rounding, the new ones those of a fit without them;
    what is unfamiliar keeps the others' names; a class that both have is the new one."""
    clips = open_clips(home / "sounds")
    names = {"beep": "high", "hiss": "noise", "knock": "knock"}
    frame = clips.frame.to_dicts()
    renamed = Clips.from_rows(
        [row | {"labels": [names[row["labels"][0]]]} for row in frame], Vocabulary(["high", "knock", "noise"])
    )
    plain, kept = (fitted(home, renamed, f"kept{each}", keep_classes=each).path for each in (False, True))
    models = [load_model(path) for path in (home / "trunk.safetensors", plain, kept)]
    assert models[2].vocabulary.ids == ["high", "knock", "noise", "beep", "hiss"]
    wave = (sound("hiss", 77) * 32767).astype(np.int16)
    old, own, both = (tag_waveforms(model.network, [wave], RATE) for model in models)
    np.testing.assert_allclose(both.clip_probabilities[:, :3], own.clip_probabilities, atol=1e-6)
    np.testing.assert_allclose(both.clip_probabilities[:, 3:], old.clip_probabilities[:, :2], atol=1e-6)
    np.testing.assert_allclose(both.familiarity, own.familiarity, atol=1e-5)
    tagger = Tagger(models[2])
    result = tagger.tag(np.zeros(2 * RATE, dtype=np.int16), RATE)
    assert "unfamiliar" in result.flags
    row = row_of(FileResult("a", result), RowSettings(None), {})
    assert {each["id"] for each in row["classes"]} == {"beep", "hiss"}
    low = dict.fromkeys(models[2].vocabulary.ids, 1e-6)
    assert {event.sound.id for event in find_events(result, thresholds=low)} <= {"beep", "hiss"}
    with pytest.raises(FitError, match="two heads already"):
        fit(renamed, home / "never.safetensors", kept, keep_classes=True, cache=home / "cache")
    with pytest.raises(FitError, match="not both"):
        fitted(home, renamed, "never", keep_classes=True, tuned=True)
    wrong = home / "wrong.safetensors"
    changed_header(kept, wrong, lambda header: header["architecture"].update(fitted=2), older=True)
    with pytest.raises(ModelFileError, match="rows"):
        load_model(wrong)


def test_a_trunk_is_tuned(home: Path, toys: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Law: both scores are of the same clips, which neither has heard; the trunk has changed; what was trained is not
    trained again, and gives the same model."""
    monkeypatch.setattr(tune, "EPOCHS", 2)
    made = fitted(home, home / "sounds", "tuned", tuned=True)
    found = made.report["tuned"]
    assert found["frozen"]["clips"] == found["tuned"]["clips"] > 0
    assert found["frozen"]["value"] > 0.5
    old, new = (load_model(path).network.backbone.state_dict() for path in (home / "trunk.safetensors", made.path))
    assert any(not np.array_equal(old[name], value) for name, value in new.items())
    before = made.path.read_bytes()
    monkeypatch.setattr(tune, "train", None)
    assert fitted(home, home / "sounds", "tuned", tuned=True).path.read_bytes() == before


def test_the_cache_is_the_same_however_often_it_broke_off(
    home: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toys: None,  # noqa: F811
) -> None:
    """Law: killed after any clip and begun again, the cache has the same files with the same bytes."""
    network, clips = load_model(home / "trunk.safetensors").network, open_clips(home / "sounds")
    monkeypatch.setattr(features, "SHARD", 5)
    real = features.features_of

    def cache(folder: Path, *breaks: int) -> dict[str, bytes]:
        for at in breaks:
            calls: list[int] = []

            def broken(*args: object, at: int = at, calls: list[int] = calls) -> object:
                calls.append(1)
                if len(calls) > at:
                    raise KeyboardInterrupt
                return real(*args)  # type: ignore[arg-type]

            monkeypatch.setattr(features, "features_of", broken)
            with pytest.raises(KeyboardInterrupt):
                hear(network, clips, folder, 1)
        monkeypatch.setattr(features, "features_of", real)
        hear(network, clips, folder, 1)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    whole = cache(tmp_path / "whole")
    assert len(whole) == 5
    assert cache(tmp_path / "once", 13) == whole
    assert cache(tmp_path / "thrice", 1, 6, 9) == whole


def test_what_sounds_alike_is_found(home: Path, tmp_path: Path, toys: None) -> None:  # noqa: F811
    """Law: the sound itself comes first, at its place in a longer recording; the order is that of the cosines, computed
    plainly; a file that cannot be read is named; the second search hears nothing."""
    window = load_model(home / "trunk.safetensors").network.window_samples
    rng = np.random.default_rng(0)
    knock = np.tile(sound("knock", 3), 4)[:window]
    long = np.concatenate([0.05 * rng.normal(size=2 * window), knock, sound("hiss", 5)]).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", long, RATE)
    soundfile.write(tmp_path / "like.wav", knock, RATE)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    paths = [
        str(tmp_path / "long.wav"),
        str(tmp_path / "broken.wav"),
        *sorted(map(str, (home / "sounds" / "knock").iterdir())),
    ]
    model = home / "trunk.safetensors"
    found = find(model, paths, tmp_path / "like.wav", cache=tmp_path / "cache")
    first = found.matches[0]
    assert first.place.path.endswith("long.wav")
    assert first.place.start_s == pytest.approx(2 * window / RATE)
    assert first.similarity == pytest.approx(1, abs=1e-4)
    assert found.windows == 4 + 8
    assert [match.similarity for match in found.matches] == sorted((m.similarity for m in found.matches), reverse=True)
    assert list(found.rejected) == [str(tmp_path / "broken.wav")]
    assert find(model, paths, tmp_path / "like.wav", cache=tmp_path / "cache", top=3).matches == found.matches[:3]
    pairs = find(model, [*paths, str(tmp_path / "like.wav")], None, near=0.999, cache=tmp_path / "cache").matches
    assert pairs[0].other is not None
    assert {Path(pairs[0].place.path).name, Path(pairs[0].other.path).name} == {"long.wav", "like.wav"}
    z = unit(rng.normal(size=(40, 3))).astype(np.float32)
    wanted = {(a, b) for a in range(40) for b in range(a + 1, 40) if z[a] @ z[b] >= 0.9}
    assert {(a, b) for a, b, _ in near_pairs(z, 0.9)} == wanted
    with pytest.raises(SearchError, match="there is nothing to search; the first: "):
        find(model, [str(tmp_path / "broken.wav")], tmp_path / "like.wav", cache=tmp_path / "cache")
    words = ["find", str(model), *paths, "--top", "2", "--cache", str(tmp_path / "cache"), "--workers", "1"]
    words += ["--like", str(tmp_path / "like.wav"), "--out", str(tmp_path / "found.csv")]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "12 windows were searched" in said.output
    assert (tmp_path / "found.csv").read_text().count("\n") == 3
    said = CliRunner().invoke(app, ["find", str(model), *paths])
    assert (said.exit_code, said.output.count("\n")) == (2, 1)


def test_the_page_of_a_fit(odd: tuple[Clips, Fitted], tmp_path: Path) -> None:
    """Law: the page names what a person should look at, plays it, and loads nothing; `tests/test_fit_browser.py` opens
    it."""
    write_fit_page(tmp_path / "fit.html", odd[1])
    text = (tmp_path / "fit.html").read_text()
    for wanted in ("beep/--3.wav", "Labels that look wrong", "Near-duplicates", "data:audio/ogg", 'data-clip="copy"'):
        assert wanted in text
    assert "http://" not in text.replace("http://www.w3.org", "")
