"""Laws of enhanced tables: drop-ins, audited, reviewed by hand, never on evaluation clips; and of the commands."""

import csv
import html
import io
import json
import wave
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.model.frontends.kaldi import mel_filters
from psla.report.enhancement import against_truth, difference, spectrogram_png, write_report
from psla.synth import scene as soundscape
from psla.techniques.enhancement import enhance_clips, read_decisions
from psla.techniques.labeling import LabelingError

GRAPH = Ontology.audioset()


def corpus(clips: int = 40) -> Clips:
    """Soundscapes with labels left out, train and evaluation, and a column of one's own."""
    rows = []
    for seed, split in ((0, "train"), (1, "evaluation")):
        config = soundscape.SoundscapeConfig(
            seed=seed, seconds=0.5, clips=clips, missing_children=0.3, missing_parents=0.3
        )
        rows += [{**row, "place": f"town {i % 3}"} for i, row in enumerate(soundscape.table(config, split))]
    return Clips.from_rows(rows, soundscape.vocabulary(), "towns")


def teacher(clips: Clips, split: str = "train", seed: int = 0) -> Predictions:
    """Predictions that know the truth fairly well."""
    part = clips.split(split) if split else clips
    truth, rng = part.labels("true_labels").matrix(), np.random.default_rng(seed)
    logits = 4.0 * truth - 2.0 + 1.2 * rng.normal(size=truth.shape)
    return Predictions((1 / (1 + np.exp(-logits))).astype(np.float16), part.clip_ids, clips.vocabulary, split)


def test_the_new_table_is_a_drop_in():
    """Only the labels of the predicted split grow; all else, the order of rows and of labels too, is as it was."""
    clips = corpus()
    found = enhance_clips(clips, teacher(clips), GRAPH)
    assert found.clips.frame.drop("labels").equals(clips.frame.drop("labels"))
    assert (found.clips.name, found.clips.vocabulary) == (clips.name, clips.vocabulary)
    assert found.clips.split("evaluation") == clips.split("evaluation")
    for before, after in zip(clips.frame["labels"].to_list(), found.clips.frame["labels"].to_list(), strict=True):
        assert after[: len(before)] == before
        assert len(set(after)) == len(after)
    grown = found.clips.split("train").labels()
    np.testing.assert_array_equal(grown.matrix(), found.enhancement.labels.matrix())
    assert len(found.enhancement.additions) > 0


def test_a_teacher_of_more_classes_is_taken_at_the_clips_own():
    """Law: columns of other classes, and the order of the teacher's, change nothing; a class it lacks is refused."""
    clips = corpus()
    said = teacher(clips)
    order = [*reversed(clips.vocabulary.ids), "another", "and another"]
    wider = np.full((len(said), len(order)), 1.0, dtype=np.float16)
    wider[:, : len(clips.vocabulary)] = said.probabilities[:, ::-1]
    found = enhance_clips(clips, Predictions(wider, said.clip_ids, Vocabulary(order), "train"), GRAPH)
    assert found.clips == enhance_clips(clips, said, GRAPH).clips
    lacking = Predictions(wider[:, 1:], said.clip_ids, Vocabulary(order[1:]), "train")
    with pytest.raises(LabelingError, match="different vocabularies"):
        enhance_clips(clips, lacking, GRAPH)


def test_evaluation_clips_are_refused_unless_forced():
    """Predictions of the split evaluation, or a table with evaluation clips, are refused, and done if forced."""
    clips = corpus()
    for split in ("evaluation", ""):
        with pytest.raises(LabelingError, match="evaluation"):
            enhance_clips(clips, teacher(clips, split), GRAPH)
        assert len(enhance_clips(clips, teacher(clips, split), GRAPH, force=True).enhancement.additions) > 0


def test_missing_clips_and_strange_ontologies_are_refused():
    """A train clip without predictions is counted; an ontology that knows none of the classes is refused."""
    clips = corpus()
    predictions = teacher(clips)
    with pytest.raises(LabelingError, match="3 have labels and no predictions"):
        enhance_clips(clips, predictions.select(predictions.clip_ids[3:]), GRAPH)
    with pytest.raises(LabelingError, match=r"none of the \d+ classes"):
        enhance_clips(clips, predictions, Ontology({"a": []}))


def test_decisions_are_applied(tmp_path):
    """Rejected additions are not made, the others are; the report's own CSV carries the decisions."""
    clips = corpus()
    found = enhance_clips(clips, teacher(clips), GRAPH)
    write_report(tmp_path, found, pictures=0)
    with (tmp_path / "additions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.enhancement.additions)
    assert read_decisions(tmp_path / "additions.csv") == {}
    for number, row in enumerate(rows):
        row["decision"] = ("reject", "Accept ", "")[number % 3]
    with (tmp_path / "decided.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    decisions = read_decisions(tmp_path / "decided.csv")
    again = enhance_clips(clips, teacher(clips), GRAPH, decisions=decisions)
    kept = {(row["clip_id"], row["class_id"]) for row in rows if row["decision"] != "reject"}
    labels = dict(zip(again.clips.clip_ids, again.clips.frame["labels"].to_list(), strict=True))
    for row in rows:
        assert (row["class_id"] in labels[row["clip_id"]]) == ((row["clip_id"], row["class_id"]) in kept)
    assert (again.rejected, again.accepted) == (len(rows) - len(kept), sum(decisions.values()))
    assert len(again.enhancement.additions) == len(kept)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_id,decision\na,accept\n", "no column class_id"),
        ("clip_id,class_id,decision\na,b,yes\n", "line 2: decision 'yes'"),
        ("clip_id,class_id,decision\na,b,accept\na,b,reject\n", "line 3: .* both accepted and rejected"),
    ],
)
def test_decisions_that_cannot_be_read_are_refused(tmp_path, text, message):
    """A missing column, another word or a contradiction is refused with its line."""
    (tmp_path / "d.csv").write_text(text, encoding="utf-8")
    with pytest.raises(LabelingError, match=message):
        read_decisions(tmp_path / "d.csv")


def test_decisions_on_what_was_not_added_are_refused():
    """A decision on a label that enhancement did not add belongs to other settings and is refused."""
    clips = corpus()
    with pytest.raises(LabelingError, match=r"1 of 1 decisions .* 'x'"):
        enhance_clips(clips, teacher(clips), GRAPH, decisions={("x", "/m/0jbk"): True})


def test_the_difference_adds_up():
    """Before and added make after, types cover the additions, shares and lists follow from the entries."""
    clips = corpus()
    found = enhance_clips(clips, teacher(clips), GRAPH)
    data = difference(found.enhancement, found.part)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    for each in data["classes"]:
        assert each["after"] == each["before"] + each["added"]
        assert max(each["type_I"], each["type_II"]) <= each["added"] <= each["type_I"] + each["type_II"]
    assert data["labels_after"] == data["labels_before"] + data["labels_added"]
    assert data["labels_added"] == sum(each["added"] for each in data["classes"])
    assert data["share_added"] == data["labels_added"] / data["labels_before"]
    assert data["impacted_classes"] == sum(each["added"] > 0 for each in data["classes"])
    confident, closest = data["most_confident"], data["closest"]
    assert len(confident) == len(closest) == min(100, data["labels_added"])
    assert [e["probability"] for e in confident] == sorted((e["probability"] for e in confident), reverse=True)
    margins = [e["probability"] - e["threshold"] for e in closest]
    assert margins == sorted(margins)
    assert min(margins) > 0
    paths = dict(zip(clips.clip_ids, clips.frame["path"].to_list(), strict=True))
    assert all(each["path"] == paths[each["clip_id"]] for each in confident)


def test_classes_without_positives_are_named(tmp_path):
    """A class that no clip carries is named in the data, on the page and by the command."""
    clips = corpus(2)
    data = write_report(tmp_path, enhance_clips(clips, teacher(clips), GRAPH), pictures=0)
    silent = [each for each in data["classes"] if not each["before"]]
    assert data["classes_without_threshold"] == [each["class_id"] for each in silent] != []
    assert all(each["threshold"] is None and each["added"] == 0 for each in silent)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert all(html.escape(each["class_name"]) in text for each in silent)
    clips.write(tmp_path / "c.parquet")
    teacher(clips).save(tmp_path / "p.safetensors")
    told = run("enhance", tmp_path / "c.parquet", tmp_path / "p.safetensors", "--out", tmp_path / "o.parquet")
    assert silent[0]["class_name"] in told


def test_against_the_truth_counts_what_it_says():
    """Precision and recall by type equal a count over dense matrices, and do not depend on the other type."""
    clips = corpus()
    found = enhance_clips(clips, teacher(clips), GRAPH)
    truth = found.part.labels("true_labels")
    scores = against_truth(found.enhancement, truth, GRAPH)
    before, added, true = (x.matrix() for x in (found.enhancement.original, found.enhancement.added, truth))
    everything = scores["all"]
    assert everything["added"] == added.sum()
    assert everything["correct"] == (added & true).sum()
    assert everything["precision"] == pytest.approx((added & true).sum() / added.sum())
    assert everything["recall"] == pytest.approx((added & true).sum() / (true & ~before).sum())
    for kind in ("I", "II"):
        alone = enhance_clips(clips, teacher(clips), GRAPH, {kind})
        single = against_truth(alone.enhancement, truth, GRAPH)
        assert single[kind] == scores[kind]
        assert single["all"]["added"] == single[kind]["added"]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sounds: list[str] = []
        self.pictures: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "audio":
            self.sounds.append(given["src"])
        elif tag == "img":
            self.pictures.append(given["src"])
        elif "href" in given or "src" in given:
            self.links.append(str(given))


def test_the_page_plays_and_shows_soundscapes(tmp_path):
    """Each shown addition has a sound that exists beside the page and a picture in it; nothing else is linked."""
    clips = corpus(12)
    data = write_report(tmp_path, enhance_clips(clips, teacher(clips), GRAPH), pictures=3)
    page = Page()
    page.feed((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.links == []
    sounds, pictures = set(page.sounds), set(page.pictures)
    assert 1 <= len(sounds) == len(pictures) <= 3
    for sound in sounds:
        with wave.open(str(tmp_path / sound)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, 8000)
    assert json.loads((tmp_path / "difference.json").read_text(encoding="utf-8")) == data


def test_the_page_links_files_by_relative_path(tmp_path):
    """A sound file is linked from the page's folder, spans and odd characters included; a broken one says so."""
    clips = corpus(30)
    predictions = teacher(clips)
    found = enhance_clips(clips, predictions, GRAPH)
    first = difference(found.enhancement, found.part)["most_confident"][0]["clip_id"]
    sound = tmp_path / "a file & more.wav"
    soundfile.write(sound, np.zeros(32000, np.int16), 16000)
    rows = clips.frame.to_dicts()
    for row in rows:
        good = row["clip_id"] == first
        row.update(path=str(sound if good else tmp_path / "none.wav"), start_s=0.5, end_s=1.5)
    files = Clips.from_rows(rows, clips.vocabulary)
    write_report(tmp_path / "report", enhance_clips(files, predictions, GRAPH), pictures=2)
    text = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    link, _, span = page.sounds[0].partition("#")
    assert (tmp_path / "report" / unquote(link)).resolve() == sound.resolve()
    assert span == "t=0.5,1.5"
    assert "cannot be read" in text
    assert not (tmp_path / "report/audio").exists()


@pytest.mark.parametrize("rate", [16000, 32000])
def test_a_spectrogram_is_a_small_sound_png(rate):
    """The picture is an indexed PNG of one column a frame, 250 at most, bright at the band where the tone is, low ones
    at the bottom, for any rate; short clips have one column."""
    for hertz in (100, 6000):
        tone = (8000 * np.sin(2 * np.pi * hertz * np.arange(3 * rate) / rate)).astype(np.int16)
        for waveform, wide in ((tone, 250), (tone[: rate // 2], 48), (tone[: rate // 1600], 1)):
            data = b64decode(spectrogram_png(waveform, rate).partition("base64,")[2])
            picture = Image.open(io.BytesIO(data))
            assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (wide, 64))
            brightness = np.asarray(picture.convert("RGB"), dtype=int).sum(axis=(1, 2))
            filters = mel_filters(64, 2048, rate).numpy()  # (frequencies, bins)
            expected = filters[round(hertz / rate * 2048)].argmax()
            assert wide < 2 or abs(63 - brightness.argmax() - expected) <= 1


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def files(tmp_path: Path) -> Path:
    clips = corpus(25)
    clips.write(tmp_path / "clips.parquet")
    for seed in range(3):
        teacher(clips, seed=seed).save(tmp_path / f"p{seed}.safetensors")
    return tmp_path


def test_the_command_enhance(files):
    """`psla enhance` writes the table and the report that the functions give, and refuses in one sentence."""
    clips, out = files / "clips.parquet", files / "enhanced.parquet"
    arguments = ("enhance", clips, files / "p0.safetensors", "--out", out, "--threshold", "25", "--types", "i")
    told = run(*arguments, "--truth", "--report", files / "report")
    assert "against the truth" in told
    expected = enhance_clips(Clips.read(clips), teacher(Clips.read(clips)), GRAPH, {"I"}, 25)
    assert Clips.read(out) == expected.clips
    stdout = CliRunner().invoke(app, [str(a) for a in (*arguments, "--json", "--truth")]).stdout
    data = json.loads(stdout[stdout.index("{") :])
    assert data["labels_added"] == len(expected.enhancement.additions)
    assert set(data["truth"]) == {"I", "all"}
    for wrong in (("--threshold", "best"), ("--types", "III"), ("--relation", "near")):
        assert wrong[1].lower() in refused(*arguments, *wrong).lower()
    graph = files / "ontology.json"
    graph.write_text('[{"id": "a", "child_ids": ["b"]}]', encoding="utf-8")
    assert "not listed" in refused(*arguments, "--ontology", graph)


def test_the_commands_ensemble_and_compare(files):
    """`psla ensemble` and `psla compare` print what the functions give; a file against itself differs by zero."""
    clips = files / "clips.parquet"
    members = [files / f"p{seed}.safetensors" for seed in range(3)]
    data = json.loads(run("ensemble", *members, "--out", files / "e.safetensors", "--clips", clips, "--json"))
    assert data["best"] == max(data["members"].values())
    averaged = Predictions.read(files / "e.safetensors")
    mean = np.mean([Predictions.read(path).probabilities.astype(np.float64) for path in members], axis=0)
    np.testing.assert_array_equal(averaged.probabilities, mean.astype(np.float32))
    assert "the average of 3" in run("ensemble", *members, "--out", files / "e2.safetensors")
    greedy = ("ensemble", *members, "--out", files / "g.safetensors", "--clips", clips, "--greedy")
    assert "validation clips only" in refused(*greedy)
    told = run("compare", members[0], members[0], "--clips", clips, "--resamples", 20)
    assert "+0.0000 .. +0.0000" in told
    several = ("compare", members[0], members[1], "--clips", clips, "--resamples", 20, "--unit", "source")
    assert "2 pairs of seeds" in run(*several, "--also-a", members[2], "--also-b", members[2])
    assert "same number of files" in refused(*several, "--also-a", members[2])
    assert "clip or source" in refused(*several[:-1], "video")
