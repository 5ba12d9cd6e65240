"""Laws of annotations: what is written in a format is read again as it was, as far as the format can hold it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from psla.cli import app
from psla.corpora.annotations import read
from psla.data.annotations import FORMATS, Annotated, Annotation, AnnotationError, read_annotations
from psla.data.clips import Clips, ClipsError
from tagging_models import noise, tiny_model_file

HOSTILE = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\t\n\r\\\"',;<>&! 0.75"), min_size=1)
NAMES = HOSTILE | st.sampled_from(
    ["Take 0.50", "a\tb", 'say "it"', "a,b;c", "line\nend\r\n", "\\t\\\t", "x --> y", "<exists>"]
)
TIMES = st.floats(0, 90000) | st.integers(0, 1000).map(lambda step: step * 0.32)
CHANCES = st.none() | st.floats(0, 1, width=32)


@st.composite
def annotations(draw: st.DrawFn) -> list[Annotation]:
    """Sorted, as they are read; each begins and ends at millionths of a second or anywhere."""
    found = []
    for _ in range(draw(st.integers(0, 5))):
        onset = draw(TIMES)
        found.append(Annotation(onset, onset + draw(st.floats(0, 30)), draw(NAMES), draw(CHANCES)))
    return sorted(found, key=lambda a: (a.onset_s, a.offset_s, a.label, a.probability or 0))


def kept(format: str, each: Annotation) -> tuple:
    """What the format can hold of an annotation: WebVTT milliseconds; captions two digits of a probability."""
    onset, offset, chance = each.onset_s, each.offset_s, each.probability
    if format in ("audacity", "textgrid", "webvtt") and chance is not None:
        chance = float(f"{chance:.2f}")
    if format == "webvtt":
        onset, offset = round(onset * 1000) / 1000, max(round(offset * 1000), round(onset * 1000) + 1) / 1000
    if format == "jams":
        offset = onset + (offset - onset)
    return onset, offset, each.label, chance


@pytest.mark.parametrize("format", list(FORMATS))
@settings(max_examples=40, deadline=None)
@given(found=annotations(), path=NAMES)
@example(
    found=[Annotation(0, 1, "Take 0.50"), Annotation(0, 1, "Take", 0.5), Annotation(2, 2, "click")], path="a\tb.wav"
)
def test_round_trip(format: str, found: list[Annotation], path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Law: written, saved, known by its content and read: the same times, names, probabilities, and the path."""
    text = FORMATS[format].write([Annotated(path, found, duration_s=1e5)], "psla test")
    file = tmp_path_factory.getbasetemp() / f"round-trip{FORMATS[format].suffix}"
    file.write_bytes(text.encode())
    assert FORMATS[format].knows(text) or not found
    (read_again,) = read_annotations(file, format=None if found else format)
    expected = sorted((kept(format, each) for each in found), key=repr)
    got = [(e.onset_s, e.offset_s, e.label, e.probability) for e in read_again.annotations]
    assert sorted(got, key=repr) == expected
    if format in ("tsv", "jams", "label-studio") or (format == "raven" and found):
        assert read_again.path == path
    if format in ("textgrid", "jams"):
        assert read_again.duration_s == 1e5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(NAMES, annotations()), min_size=1, max_size=4, unique_by=lambda each: each[0]))
def test_several_recordings_in_one_file(several: list[tuple[str, list[Annotation]]]) -> None:
    """Law: TSV and Label Studio hold many recordings, those without annotations too."""
    recordings = [Annotated(path, found, 1e5) for path, found in several]
    for format in ("tsv", "label-studio"):
        again = FORMATS[format].read(FORMATS[format].write(recordings, "psla"), None)
        assert [(each.path, sorted(each.annotations, key=repr)) for each in again] == [
            (each.path, sorted(each.annotations, key=repr)) for each in recordings
        ]


def test_tables_are_what_csv_readers_read() -> None:
    """Law: a TSV with hostile names is that of Python's csv reader (and so of pandas and sed_eval)."""
    name = 'tab\tquote"line\nend,'
    text = FORMATS["tsv"].write([Annotated("a.wav", [Annotation(0.32, 1.5, name, 0.25)])], "psla")
    (row,) = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t")
    assert row == {
        **{"filename": "a.wav", "onset": "0.320000", "offset": "1.500000"},
        **{"event_label": name, "probability": "0.25"},
    }


def test_what_others_wrote_is_read(tmp_path: Path) -> None:
    """Law: Raven's two views of a selection are one; Audacity's frequencies are none; Praat's short text is read."""
    raven = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tSpecies\r\n"
    raven += "1\tWaveform 1\t1\t0.5\t1.5\t0\tBlackbird\r\n1\tSpectrogram 1\t1\t0.5\t1.5\t0\tBlackbird\r\n"
    labels = "0.5\t1.5\tBlackbird\n\\\t1000.0\t8000.0\n"
    short = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n1\n"IntervalTier"\n"birds"\n0\n2\n3\n'
    )
    short += '0\n0.5\n""\n0.5\n1.5\n"Blackbird"\n1.5\n2\n""\n'
    vtt = "WEBVTT - title\n\nNOTE nothing\n\n1\n00:00.500 --> 00:01.500 align:start\n<v A>Blackbird</v>\n"
    dcase = "a.wav\t0.5\t1.5\tBlackbird\n"
    for text, encoding in (
        (raven, "utf-8-sig"),
        (labels, "utf-8"),
        (short, "utf-16"),
        (vtt, "utf-8"),
        (dcase, "utf-8"),
    ):
        file = tmp_path / "annotations"
        file.write_bytes(text.encode(encoding))
        (recording,) = read_annotations(file)
        assert recording.annotations == [Annotation(0.5, 1.5, "Blackbird")]
    for wrong in ("no annotations\n", raven.replace("Species", "Mine"), raven.replace("0.5", "soon"), "[{}]"):
        (tmp_path / "wrong").write_text(wrong, encoding="utf-8")
        with pytest.raises(AnnotationError, match="wrong"):
            read_annotations(tmp_path / "wrong")
    (tmp_path / "wrong").write_text(raven.replace("Species", "Mine"), encoding="utf-8")
    with pytest.raises(AnnotationError, match="name the one"):
        read_annotations(tmp_path / "wrong")
    assert read_annotations(tmp_path / "wrong", "Mine")[0].annotations[0].label == "Blackbird"


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two recordings of 3 s, and one in a folder below."""
    for number, name in enumerate(("a.wav", "b.flac", "night/c.wav")):
        (tmp_path / "sounds" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "sounds" / name, noise(48000, number), 16000)
    return tmp_path / "sounds"


def test_annotations_become_clips(sounds: Path, tmp_path: Path) -> None:
    """Law: labels, events and files of a corpus come from Raven, Audacity and TSV alike; a sound is found by name."""
    (sounds / "a.wav.txt").write_text("0.5\t1.5\train\n1.0\t2.0\tdog\n")
    raven = "Selection\tBegin Time (s)\tEnd Time (s)\tSpecies\n1\t0.25\t0.75\tdog\n"
    (sounds / "b.Table.1.selections.txt").write_text(raven)
    (tmp_path / "all.tsv").write_text("filename\tonset\toffset\tevent_label\nnight/c.wav\t2.5\t2.75\train\n")
    files = [sounds / "a.wav.txt", sounds / "b.Table.1.selections.txt", tmp_path / "all.tsv"]
    clips = read(files, audio_root=sounds, evaluation_share=0)
    assert clips.vocabulary.ids == ["dog", "rain"]
    rows = clips.frame.to_dicts()
    assert [Path(row["path"]).name for row in rows] == ["a.wav", "b.flac", "c.wav"]
    assert [row["labels"] for row in rows] == [["dog", "rain"], ["dog"], ["rain"]]
    assert rows[0]["events"] == [
        {"class_id": "rain", "onset_s": 0.5, "offset_s": 1.5},
        {"class_id": "dog", "onset_s": 1.0, "offset_s": 2.0},
    ]
    # In pieces of a second: events are cut with them, and each piece has the labels of what sounds in it.
    pieces = read(files, audio_root=sounds, evaluation_share=0, seconds=1.0).frame.to_dicts()
    assert [(row["start_s"], row["end_s"], row["labels"]) for row in pieces[:3]] == [
        (0.0, 1.0, ["rain"]),
        (1.0, 2.0, ["dog", "rain"]),
        (2.0, 3.0, []),
    ]
    assert pieces[1]["events"][0] == {"class_id": "rain", "onset_s": 0.0, "offset_s": 0.5}
    (tmp_path / "lost.txt").write_text("0\t1\tdog\n")
    with pytest.raises(ClipsError, match=r"lost\.txt"):
        read([tmp_path / "lost.txt"], audio_root=sounds)
    (tmp_path / "classes.txt").write_text("siren\n")
    with pytest.raises(ClipsError, match="extend the vocabulary"):
        read(files, audio_root=sounds, vocabulary=str(tmp_path / "classes.txt"))


def call(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, args)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_tag_writes_them_and_corpus_reads_them(sounds: Path, tmp_path: Path) -> None:
    """Law: `psla tag --events --format` of each format holds the events of --json; `psla corpus annotations` takes
    them back."""
    model = tiny_model_file(tmp_path, mel_bins=32)
    # About a third of the steps of noise: the threshold at which events come and go.
    options = ["--events", "--threshold", 0.4, "--max-gap", 0, "--quiet"]
    rows = json.loads(call("tag", model, sounds, *options, "--json"))
    assert any(row["events"] for row in rows)
    for name in ("raven", "audacity", "tsv"):  # the others are the same code
        out = tmp_path / f"{name}{FORMATS[name].suffix}" if FORMATS[name].many else tmp_path / name
        call("tag", model, sounds, *options, "--format", name, "--out", out)
        files = [out] if FORMATS[name].many else sorted(path for path in out.rglob("*") if path.is_file())
        found = [each for file in files for each in read_annotations(file, format=name)]
        assert len(found) == len(rows)
        for row, each in zip(rows, found, strict=True):
            assert [a.label for a in sorted(each.annotations, key=lambda a: (a.label, a.onset_s))] == sorted(
                event["name"] for event in row["events"]
            )
            onsets = sorted(event["onset_s"] for event in row["events"])
            assert sorted(a.onset_s for a in each.annotations) == pytest.approx(onsets, abs=5e-4)
    for name in ("raven", "audacity"):
        clips = tmp_path / f"{name}.parquet"
        call("corpus", "annotations", tmp_path / name, "--audio", sounds, "--out", clips, "--evaluation", 0)
        events = [event for row in Clips.read(clips).frame.to_dicts() for event in row["events"]]
        assert len(events) == sum(len(row["events"]) for row in rows)
    assert "no annotation format is called 'srt'" in call("tag", model, sounds, *options, "--format", "srt", code=2)
    assert "--events" in call("tag", model, sounds, "--format", "raven", "--out", tmp_path / "x", code=2)
    assert "--out" in call("tag", model, sounds, "--events", "--format", "raven", code=2)
    alone = call("tag", model, sounds / "a.wav", *options, "--format", "audacity")
    assert alone == call("tag", model, sounds / "a.wav", *options, "--audacity")
    assert np.isfinite(float(alone.split("\t")[0]))


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("long.json", "x" * 200_000, None),
        ("deep.json", "[" * 200_000, "label-studio"),
        ("date.TextGrid", 'File type = "ooTextFile"\nObject class = "TextGrid"\n 1.2.2020 3', "textgrid"),
        ("endless.TextGrid", 'File type = "ooTextFile"\nObject class = "TextGrid"\n 0 1 <exists> 1e999', "textgrid"),
        ("empty.txt", "", "raven"),
    ],
)
def test_what_is_broken_is_one_sentence_with_its_name(name: str, text: str, format: str | None, tmp_path: Path) -> None:
    """Law: no traceback, whatever stands in a file."""
    (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=name):
        read_annotations(tmp_path / name, format=format)


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("raven", "Selection\tBegin Time (s)\tEnd Time (s)\tAnnotation\n1\t0\t1\tdog\tcat\n"),
        ("tsv", "filename\tonset\toffset\tevent_label\na.wav\t0\t1\tdog\tcat\n"),
    ],
)
def test_a_line_with_more_fields_than_the_head_loses_none(format: str, text: str, tmp_path: Path) -> None:
    """Law: what stands beyond the head line is not left out in silence."""
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(AnnotationError, match="has 5 fields, the head line 4"):
        read_annotations(tmp_path / "a.txt", format=format)
