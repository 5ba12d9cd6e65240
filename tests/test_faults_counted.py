"""Kind 2 of the faults from the field: input is dropped without being counted.

Law: every line, file and folder that goes in is used, or counted with its reason; the summary names the classes with
their counts; one reader's rules hold in all readers: one door for CSVs, one walker of folders.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from psla.audio.folders import sound_files
from psla.cli import app
from psla.corpora import annotations, esc50, fsd50k
from psla.corpora.csv_files import read_csv_file
from psla.corpora.folder import open_vocabulary, read_csv, read_folders
from psla.data.annotations import AnnotationError, read_annotations
from psla.data.clips import Clips, ClipsError
from psla.data.inventory import take_inventory
from psla.data.vocabulary import Vocabulary
from psla.lab.tables.claims import QualityError, read_quality
from psla.tagging.sources import expand_sources
from psla.techniques.enhancement import read_decisions
from psla.techniques.labeling import LabelingError


def sound(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(1600, level, dtype=np.int16), 16000)
    return path


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def told(function: object, *given: object, **named: object) -> tuple[object, str]:
    """What a reader gives, and what it remarks."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = function(*given, **named)  # type: ignore[operator]
    return found, "\n".join(str(each.message) for each in caught)


def labels_of(path: Path, text: str | bytes, **named: object) -> list[list[str]]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return told(read_csv, path, evaluation_share=0, **named)[0].frame["labels"].to_list()  # type: ignore[attr-defined]


# ---- the door of CSVs


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            ["a.wav,dog", "b.wav,dog,cat", "c.wav,cat"],
            "1 line of 3 cannot be used: line 3 has 3 fields, the head line 2",
        ),
        (["a.wav", "b.wav,dog"], "1 line of 2 cannot be used: line 2 has 1 fields, the head line 2"),
        (['a.wav,"dog', *[f"{n}.wav,cat" for n in range(20)]], "1 line of 21 cannot be used: line 2 has a quote"),
        (['a.wav,"dog', *[f"{n}.wav,cat" for n in range(20)], 'z.wav,cat"'], "1 line of 22 cannot be used: line 2"),
        (['a.wav,"dog" and cat'], "line 2 has a quote that is not closed, or text behind one"),
        (["a.wav,dog,,note"], "line 2 has 4 fields, the head line 2"),
        ([f"a.wav,{'x' * 200_000}"], "line 2 has a field of more than 131,072 characters"),
        (["x"] * 1000, r"1,000 lines of 1,000 cannot be used: line 2 .*; line 3 .*; line 4 .*; and 997 more"),
    ],
)
def test_lines_that_do_not_fit_the_head_are_counted_and_named(lines: list[str], sentence: str, tmp_path: Path) -> None:
    """Law: no label is lost with a field too many, and no line swallowed by a quote: the file is refused, briefly."""
    path = tmp_path / "c.csv"
    path.write_text("\n".join(["path,labels", *lines]))
    with pytest.raises(ClipsError, match=sentence) as refused:
        read_csv(path)
    assert len(str(refused.value)) < 1000 + len(str(path))
    assert re.search(sentence, " ".join(call("corpus", "csv", path, "--out", tmp_path / "o.parquet", code=2).split()))


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfpath,labels\r\na.wav,dog\r\n",
        "path,labels\na.wav,dog\n".encode("utf-16"),
        b"path;labels\na.wav;dog\n",
        b"path\tlabels\na.wav\tdog\n",
        "path\tlabels\r\na.wav\tdog\r\n".encode("utf-16"),
        b"sep=;\npath;labels\na.wav;dog\n",
        b"\n\npath,labels\n\n  \na.wav,dog\n\n\n",
        b"path,labels\ra.wav,dog\r",
        b"path,labels,,\na.wav,dog,,\n,,,\n",
        b'"path", "labels"\n"a.wav", "dog"\n',
        b" path , labels \n a.wav , dog \n",
        b"labels,path\ndog,a.wav",
    ],
)
def test_csvs_as_spreadsheets_write_them_are_one_and_the_same(data: bytes, tmp_path: Path) -> None:
    """Law: marks of byte order, UTF-16, semicolons, tabs, blank lines and trailing separators lose nothing."""
    path = tmp_path / "c.csv"
    path.write_bytes(data)
    clips = read_csv(path, evaluation_share=0)
    assert clips.clip_ids == ["a.wav"]
    assert clips.frame["labels"].to_list() == [["dog"]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,labels,labels\na.wav,dog,cat\n", "more than one column labels"),
        ("path,labels,\na.wav,dog,cat\n", "line 2 has 'cat' in column 3, which has no name"),
        ("path,labels,clip_id\na.wav,dog,1\nb.wav,dog,1\n", "clip '1' is given more than once"),
        (b"path,labels\na.wav,caf\xe9\n", r"not UTF-8 text \(line 2: .*save it as UTF-8"),
        ("path,labels\na.wav,dog\n".encode("utf-16-le"), "no text: there is a byte 0 in line 1"),
        ("path,label\na.wav,dog\n", "has no column labels; it has path, label"),
    ],
)
def test_what_is_not_clear_is_asked_about(text: str | bytes, sentence: str, tmp_path: Path) -> None:
    """Law: a column twice, data below no name, a clip twice and another encoding are refused by their place."""
    with pytest.raises(ClipsError, match=sentence):
        labels_of(tmp_path / "c.csv", text)


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    """Law: a misspelt column is no silent loss."""
    path = tmp_path / "c.csv"
    path.write_text("path,labels,Split\na.wav,dog,train\n")
    assert "columns that are not used: Split" in told(read_csv, path, evaluation_share=0)[1]


@pytest.mark.parametrize(
    ("field", "labels"),
    [
        ("Electric_guitar,Guitar", ["Electric_guitar", "Guitar"]),
        ("dog, cat;rain|wind", ["dog", "cat", "rain", "wind"]),
        ("Male speech, man speaking", ["Male speech, man speaking"]),
        ("Male speech, man speaking,Dog", ["Male speech, man speaking", "Dog"]),
        ("dog,,", ["dog"]),
    ],
)
def test_labels_joined_by_commas_are_several(field: str, labels: list[str], tmp_path: Path) -> None:
    """Law: a comma separates labels, but for those that belong to the name of a class."""
    assert labels_of(tmp_path / "c.csv", f'path,labels\na.wav,"{field}"\n') == [labels]


def test_commas_of_a_vocabulary_of_ones_own_belong_to_its_names(tmp_path: Path) -> None:
    """Law: with a vocabulary, its names are whole."""
    (tmp_path / "v.txt").write_text("engine, idling\nengine\n")
    text = 'path,labels\na.wav,"engine,engine, idling"\n'
    assert labels_of(tmp_path / "c.csv", text, vocabulary=str(tmp_path / "v.txt")) == [["engine", "engine, idling"]]


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    """Law: NFC and NFD are one class, in CSVs, folders and vocabularies."""
    assert labels_of(tmp_path / "c.csv", "path,labels\na.wav,caf\u00e9\nb.wav,cafe\u0301\n") == [["caf\u00e9"]] * 2
    for name in ("caf\u00e9", "cafe\u0301"):
        sound(tmp_path / "s" / name / "1.wav")
    clips, said = told(read_folders, tmp_path / "s", evaluation_share=0)
    assert clips.vocabulary.ids == ["caf\u00e9"]  # type: ignore[attr-defined]
    assert len(clips) == 2  # type: ignore[arg-type]
    assert "are one class" in said
    (tmp_path / "v.txt").write_text("cafe\u0301\n")
    assert open_vocabulary(str(tmp_path / "v.txt")).ids == ["caf\u00e9"]


def test_windows_paths_are_found_where_their_folders_are(tmp_path: Path) -> None:
    """Law: a backslash parts folders where no file of that very name is there; what is not there is missing."""
    sound(tmp_path / "audio" / "a.wav")
    (tmp_path / "c.csv").write_text("path,labels\naudio\\a.wav,dog\nC:\\b.wav,dog\n")
    clips = read_csv(tmp_path / "c.csv", evaluation_share=0)
    kept, found = take_inventory(clips)
    assert kept.clip_ids == ["audio\\a.wav"]
    assert [id for id, _ in found.missing] == ["C:\\b.wav"]


def rows_or_refusal(data: bytes) -> tuple[list[tuple[int, dict[str, str]]], str]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "c.csv").write_bytes(data)
        try:
            return read_csv_file(Path(folder) / "c.csv", ["one", "two"], "", "").rows, ""
        except ClipsError as error:
            return [], str(error)


FIELD = st.text(st.sampled_from("ab \n\r\u00e9\u0301\u2028\x0b'\"\\;,|\t\u732b.x"), max_size=6)
RECORD = st.lists(FIELD, min_size=0, max_size=4)


@given(
    st.lists(RECORD, max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@example([["a", "b"], ["a"], [], ["a", 'b"c']], ",", "\n", csv.QUOTE_MINIMAL, "utf-8")
@settings(deadline=None, max_examples=300)
def test_what_comes_out_and_what_is_counted_is_what_went_in(
    records: list[list[str]], separator: str, end: str, quoting: int, encoding: str
) -> None:
    """Law: of any CSV each line is a row with the very fields, blank, or among the counted lines of the refusal."""
    whole = [["one", "two"], *records]
    if quoting == csv.QUOTE_NONE:  # what somebody types: no quotes at all, or stray ones
        text = end.join(separator.join(record) for record in whole)
    else:
        file = io.StringIO()
        csv.writer(file, delimiter=separator, lineterminator="\r\n", quoting=quoting).writerows(whole)
        text = file.getvalue().replace("\r\n", end)
    lines = re.split(r"\r\n|\n|\r", text)[1:]
    rows, refusal = rows_or_refusal(text.encode(encoding))
    if refusal:
        counted = re.search(r"([\d,]+) lines? of ([\d,]+) cannot be used", refusal)
        assert counted, refusal
        assert 1 <= int(counted[1]) <= int(counted[2]) == sum(bool(line.strip()) for line in lines)
        return
    if quoting == csv.QUOTE_NONE:
        used = sum(bool(line.replace(separator, " ").strip()) for line in lines)
        assert len(rows) == used or ('"' in text and len(rows) < used)  # quotes around nothing are blank
        return
    whole = [record for record in records if any(field.strip() for field in record)]
    assert [[field.strip() for field in row.values()] for _, row in rows] == [
        [field.strip() for field in record[:2]] for record in whole
    ]


# ---- all readers have the one door


def test_every_reader_of_csvs_has_the_same_door(tmp_path: Path) -> None:
    """Law: a line with too many fields and a stray quote are refused by ESC-50, FSD50K, reviews and ratings."""
    path = tmp_path / "c.csv"
    for line in ("x" + ",1" * 30, '"x,1'):
        path.write_text(f"clip_id,class_id,decision\n{line}\n")
        with pytest.raises(LabelingError, match="1 line of 1 cannot be used: line 2"):
            read_decisions(path)
        path.write_text(f"class,quality\n{line}\n")
        with pytest.raises(QualityError, match="1 line of 1 cannot be used: line 2"):
            read_quality(path, Vocabulary(["dog"]))
        (tmp_path / "meta").mkdir(exist_ok=True)
        (tmp_path / "meta" / "esc50.csv").write_text(f"filename,fold,target,category,esc10,src_file,take\n{line}\n")
        with pytest.raises(ClipsError, match="1 line of 1 cannot be used: line 2"):
            esc50.listed(tmp_path)
        (tmp_path / "FSD50K.ground_truth").mkdir(exist_ok=True)
        (tmp_path / "FSD50K.ground_truth" / "dev.csv").write_text(f"fname,labels,mids,split\n{line}\n")
        with pytest.raises(ClipsError, match="1 line of 1 cannot be used: line 2"):
            fsd50k.listed(tmp_path)


ESC_HEAD = "filename,fold,target,category,esc10,src_file,take"
ESC_LINES = ["1.wav,1,0,dog,{},1,A", "2.wav,2,1,rain,{},2,A"]


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("TRUE", "FALSE"), ("true", "false"), ("1", "0")])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_esc50_as_a_spreadsheet_saved_it(mark: str, yes: str, no: str, tmp_path: Path) -> None:
    """Law: a byte-order mark and TRUE lose no clip of ESC-10."""
    (tmp_path / "meta").mkdir()
    text = "\r\n".join([ESC_HEAD, ESC_LINES[0].format(yes), ESC_LINES[1].format(no), ""])
    (tmp_path / "meta" / "esc50.csv").write_text(mark + text, encoding="utf-8", newline="")
    assert esc50.listed(tmp_path).clip_ids == ["1", "2"]
    assert esc50.listed(tmp_path, esc10_only=True).clip_ids == ["1"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"2.wav,2,1,rain", "line 3 has 4 fields, the head line 7"),
        (b"2.wav,2,1,rain,yes,2,A", "line 3: .* esc10 True or False.* esc10 'yes'"),
        (b"2.wav,2,1,,True,2,A", "line 3: .* nothing empty"),
        (b"2.wav,2,0.0,rain,True,2,A", "line 3: .* target '0.0'"),
        (b"2.wav,2,7,dog,True,2,A", "line 3: dog has the target 7, and 0 before"),
        (b"2.wav,2,1,caf\xe9,True,2,A", "not UTF-8 text .line 3"),
    ],
)
def test_esc50_lines_that_cannot_be_used_are_named(line: bytes, sentence: str, tmp_path: Path) -> None:
    """Law: a short line, another word, an empty field and cp1252 are refused by their line, not dropped."""
    (tmp_path / "meta").mkdir()
    data = b"\n".join([ESC_HEAD.encode(), ESC_LINES[0].format("True").encode(), line])
    (tmp_path / "meta" / "esc50.csv").write_bytes(data)
    with pytest.raises(ClipsError, match=sentence):
        esc50.listed(tmp_path, esc10_only=True)


# ---- folders


def test_every_entry_of_a_tree_is_used_or_counted(tmp_path: Path) -> None:
    """Law: files that are taken, and those left out with their reasons, are all that is in the tree."""
    for name in ("dog/1.wav", "dog/2.WAV", "dog/deep/3.Flac", "rain/4.wav", "rain/._5.wav", ".trash/6.wav"):
        sound(tmp_path / name) if not name.endswith("Flac") else sound(tmp_path / name.replace("Flac", "flac")).rename(
            tmp_path / name
        )
    for name in ("dog/.DS_Store", "dog/Thumbs.db", "rain/notes.txt", "rain/zero.wav", "README"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "rain" / "pipe.wav")
    (tmp_path / "rain" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    found = sound_files(tmp_path)
    assert len(found.files) == 5  # zero.wav among them: the inventory says that it is empty
    assert sum(map(len, found.left_out.values())) + sum(found.others.values()) == 4 + 4
    said = " ".join(found.remarks())
    for words in ("2 left out, hidden", "2 left out, neither files nor folders", "not sound by their names", ".db 1"):
        assert words in said, words
    clips, said = told(read_folders, tmp_path, evaluation_share=0)
    kept, inventory = take_inventory(clips)  # type: ignore[arg-type]
    assert [id for id, _, _ in inventory.unreadable] == ["rain/zero.wav"]
    assert len(kept) == 4
    assert all(remark in said for remark in found.remarks())


def test_a_class_folder_that_is_a_link_is_a_class(tmp_path: Path) -> None:
    """Law: links to folders are followed, once; a link back and a second link are counted, and no folder is lost."""
    sound(tmp_path / "store" / "cats" / "1.wav")
    root = tmp_path / "root"
    sound(root / "dog" / "1.wav")
    (root / "cat").symlink_to(tmp_path / "store" / "cats")
    (root / "kitten").symlink_to(tmp_path / "store" / "cats")
    (root / "dog" / "back").symlink_to(root)
    clips, said = told(read_folders, root, evaluation_share=0)
    assert clips.clip_ids == ["cat/1.wav", "dog/1.wav"]  # type: ignore[attr-defined]
    assert "2 left out, links to folders that are read already" in said
    assert "1 class folders hold no sound file: kitten" in said
    assert sorted(expand_sources([str(root)])) == [str(root / "cat/1.wav"), str(root / "dog/1.wav")]


def test_class_folders_without_sound_are_named(tmp_path: Path) -> None:
    """Law: a class that is empty, or holds only what cannot be decoded, does not vanish in silence."""
    sound(tmp_path / "dog" / "1.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "video" / "in").mkdir(parents=True)
    (tmp_path / "video" / "in" / "1.sid").write_bytes(b"sid")
    said = call("corpus", "folder", tmp_path, "--evaluation", 0, "--out", tmp_path / "c.parquet")
    assert "2 class folders hold no sound file: empty, video" in said
    assert ".sid 1" in said
    assert "classes: dog 1" in said


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["Training/dog/1", "Training/cat/1", "Testing/dog/1"], "are Testing, Training splits?"),
        (["train/1", "test/2"], "are test, train splits?"),
        (["Train/dog/1", "Valid/dog/1", "Test/dog/1", "extra/1"], "splits?"),
        ([f"fold{n}/{n}" for n in range(1, 11)], "folds?"),
        (["Fold_1/dog/1", "Fold_2/dog/1"], "folds?"),
        (["ESC/dog/1", "ESC/cat/1"], r"are the classes one level below, in .*/ESC\?"),
        (["one/dog/1", "one/cat/1", "two/dog/1", "two/cat/1"], "are the classes one level below, in one of one, two?"),
    ],
)
def test_folders_that_are_hardly_classes_are_asked_about(names: list[str], words: str, tmp_path: Path) -> None:
    """Law: folders that look like splits, folds or corpora are refused with one question; --as-classes answers it."""
    for name in names:
        sound(tmp_path / f"{name}.wav")
    question = call("corpus", "folder", tmp_path, "--out", tmp_path / "c.parquet", code=2)
    assert re.search(words.replace("?", r"\?") if "\\" not in words else words, question), question
    assert "--as-classes" in question
    assert not (tmp_path / "c.parquet").exists()
    said = call("corpus", "folder", tmp_path, "--as-classes", "--evaluation", 0, "--out", tmp_path / "c.parquet")
    assert all(f"{name} " in said for name in {each.split("/")[0] for each in names})


@pytest.mark.parametrize(
    "names", [["0/1", "1/1", "2/1"], ["train/1", "airplane/1"], ["dog/1", "test/1"], ["dog/old/1", "cat/new/1"]]
)
def test_what_may_well_be_classes_is_not_asked_about(names: list[str], tmp_path: Path) -> None:
    """Law: digits, one class that is called as a split, and folders below classes are classes."""
    for name in names:
        sound(tmp_path / f"{name}.wav")
    assert len(read_folders(tmp_path, evaluation_share=0).vocabulary) == len(names)


def test_classes_that_differ_by_case_or_spaces_are_remarked(tmp_path: Path) -> None:
    """Law: two spellings are told; spaces at the ends are no part of a name."""
    for name in ("Dog", "dog", "rain", "rain "):
        sound(tmp_path / name / "1.wav")
    clips, said = told(read_folders, tmp_path, evaluation_share=0)
    assert clips.vocabulary.ids == ["Dog", "dog", "rain"]  # type: ignore[attr-defined]
    assert "'Dog', 'dog'" in said
    assert "'rain' and 'rain ' are one class" in said


def test_a_folder_that_cannot_be_listed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what must not be read is said."""
    sound(tmp_path / "dog" / "1.wav")
    (tmp_path / "cat").mkdir()
    scandir = os.scandir

    def closed(path: str) -> object:  # to root no folder is closed
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = sound_files(tmp_path)
    assert len(found.files) == 1
    assert "1 left out, folders that cannot be listed (Permission denied)" in found.remarks()[0]


# ---- what is on both sides, and the summary


def test_the_same_recording_in_training_and_evaluation_is_remarked(tmp_path: Path) -> None:
    """Law: one path, one source, or the same bytes under two names, on both sides, are told in the summary."""
    for number in range(3):
        sound(tmp_path / f"{number}.wav", number)
    shutil.copy(tmp_path / "0.wav", tmp_path / "copy.wav")

    def notes(*rows: tuple[str, str, str]) -> str:
        table = [
            {"clip_id": str(n), "source": source, "path": str(tmp_path / path), "split": split, "labels": ["dog"]}
            for n, (path, source, split) in enumerate(rows)
        ]
        return "\n".join(take_inventory(Clips.from_rows(table, Vocabulary(["dog"])))[1].notes)

    apart = [("0.wav", "a", "train"), ("1.wav", "b", "evaluation"), ("2.wav", "c", "validation")]
    assert notes(*apart) == ""
    assert "1 held-out files are also trained on" in notes(*apart, ("copy.wav", "d", "evaluation"))
    assert "copy.wav" in notes(*apart, ("copy.wav", "d", "evaluation"))
    assert "1 files are trained on and held out" in notes(*apart, ("0.wav", "d", "evaluation"))
    assert "1 sources are trained on and held out, the first: a" in notes(*apart, ("1.wav", "a", "evaluation"))
    assert notes(*apart, ("copy.wav", "d", "train")) == ""
    for split, name in (("train", "0.wav"), ("evaluation", "copy.wav")):
        row = {"clip_id": name, "source": name, "path": str(tmp_path / name), "split": split, "labels": ["dog"]}
        Clips.from_rows([row], Vocabulary(["dog"])).write(tmp_path / f"{split}.parquet")
    tables = [tmp_path / "train.parquet", tmp_path / "evaluation.parquet"]
    assert "1 held-out files are also" in call("corpus", "merge", *tables, "--out", tmp_path / "both.parquet")


def test_the_summary_names_the_classes_with_their_counts(tmp_path: Path) -> None:
    """Law: what has become of the labels is on the screen: a class that is none of yours is seen at once."""
    sound(tmp_path / "a.wav")
    (tmp_path / "c.csv").write_text('path,labels,clip_id\na.wav,"dog,cat",1\na.wav,dog,2\n')
    said = call("corpus", "csv", tmp_path / "c.csv", "--evaluation", 0, "--out", tmp_path / "c.parquet")
    assert "classes: dog 2, cat 1" in said


def test_a_table_without_any_label_is_told(tmp_path: Path) -> None:
    """Law: a table without labels is written, since it can be predicted, and says what it is not for."""
    sound(tmp_path / "a.wav")
    (tmp_path / "c.csv").write_text("path,labels\na.wav,\n")
    said = call("corpus", "csv", tmp_path / "c.csv", "--evaluation", 0, "--out", tmp_path / "c.parquet")
    assert "no clip has a label" in said
    assert "classes: none" in said
    assert len(Clips.read(tmp_path / "c.parquet")) == 1


def test_a_link_that_leads_back_to_itself_hides_nothing(tmp_path: Path) -> None:
    """Law: it is counted, and what stands beside it is heard."""
    for name in ("a.wav", "c.wav"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b.wav").symlink_to(tmp_path / "b.wav")
    found = sound_files(tmp_path)
    assert [Path(file).name for file in found.files] == ["a.wav", "c.wav"]
    assert [Path(path).name for paths in found.left_out.values() for path in paths] == ["b.wav"]


# Lines of joined, damaged and translated tables


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"path,labels\na.wav,dog\npath,labels\nb.wav,cat\n", "line 3 is the head line again"),
        (b"path,labels\na.wav,dog\n\xef\xbb\xbfpath,labels\nb.wav,cat\n", "line 3 is the head line again"),
        (b"path,labels\na.wav,d\0og\n", "no text: there is a byte 0 in line 2"),
        (b"path,labels\na.wav,\"['dog', 'cat']\"\n", "line 2: the labels .* are a list of a program"),
        (b'path,labels\na.wav,"[""dog""]"\n', "line 2: the labels .* are a list of a program"),
    ],
)
def test_no_class_is_made_of_what_is_no_label(data: bytes, sentence: str, tmp_path: Path) -> None:
    """A second head, bytes 0 and lists as programs print them are no clips and no classes."""
    (tmp_path / "clips.csv").write_bytes(data)
    with pytest.raises(ClipsError, match=sentence):
        read_csv(tmp_path / "clips.csv")


def test_characters_of_no_width_make_no_class_in_silence(tmp_path: Path) -> None:
    """Two names that look alike are told."""
    (tmp_path / "clips.csv").write_text("path,labels\na.wav,dog\nb.wav,\u200bdog\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="several spellings"):
        read_csv(tmp_path / "clips.csv", evaluation_share=0)


RAVEN = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tAnnotation\n"
TSV = "filename\tonset\toffset\tevent_label\n"


def test_every_annotation_is_read(tmp_path: Path) -> None:
    """Selections of joined tables whose numbers begin anew, but a selection once for all its views; any line ends."""
    path = tmp_path / "a.txt"
    path.write_text(RAVEN + "1\tW\t0.5\t1\tdog\n1\tS\t0.5\t1\tdog\n1\tW\t2\t3\tcat\n", encoding="utf-8")
    for text in (path.read_text(), path.read_text().replace("\n", "\r")):
        path.write_bytes(text.encode())
        (found,) = read_annotations(path)
        assert [each.label for each in found.annotations] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.tsv", TSV + "a.wav\t\t1\tdog\n", "the onset of event 1 is ''"),
        ("a.tsv", TSV + 'a.wav\t0\t1\t"dog\nb.wav\t0\t1\tcat\n', "is no table"),
        (
            "a.json",
            '[{"data": {"audio": "a.wav"}, "annotations": [{"result": '
            '[{"type": "choices", "value": {"choices": []}}]}]}]',
            "a result of the type 'choices' has no labels",
        ),
        (
            "a.jams",
            '{"file_metadata": {"duration": 5}, "annotations": [{"namespace": "beat", "data": '
            '[{"time": 0, "duration": 1, "value": 1}]}]}',
            "a value of the namespace 'beat' is no name",
        ),
    ],
)
def test_annotations_that_cannot_be_used_are_named(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    """A line without its onset, a quote that is not closed and would swallow lines, values that name nothing."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError, match=sentence):
        read_annotations(tmp_path / name)


def test_what_an_annotator_skipped_is_told(tmp_path: Path) -> None:
    """It is neither a recording without events nor one with those that were thrown away."""
    made = [{"was_cancelled": True, "result": [{"value": {"start": 0, "end": 1, "labels": ["dog"]}}]}]
    (tmp_path / "a.json").write_text(json.dumps([{"data": {"audio": "a.wav"}, "annotations": made}]), encoding="utf-8")
    with pytest.warns(UserWarning, match="'a.wav' was skipped"):
        assert read_annotations(tmp_path / "a.json") == []


def test_annotations_that_are_left_out_are_counted(tmp_path: Path) -> None:
    """Without a label, and behind the end of the recording; spaces around a name make no class."""
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    (tmp_path / "a.txt").write_text("0\t0.5\t dog \n0.5\t0.7\t \n20\t30\tdog\n", encoding="utf-8")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        clips = annotations.read([tmp_path / "a.txt"], seconds=1, evaluation_share=0)
    assert list(clips.vocabulary.ids) == ["dog"]
    sentences = " ".join(str(each.message) for each in told)
    assert "1 annotations have no label" in sentences
    assert "1 annotations begin behind its end" in sentences
