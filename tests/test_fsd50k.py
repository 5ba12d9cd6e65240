"""FSD50K: the published layout, its splits, sources and classes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from psla.cli import app
from psla.corpora import fsd50k
from psla.data.clips import Clips, ClipsError
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary

CLASS_LIST = Path(__file__).parents[2] / "shared/data/fsd50k/class_labels_indices.csv"
DEV = 'fname,labels,mids,split\n64760,"Bark,Dog","/m/05tny_,/m/0bt9lr",train\n16399,Dog,/m/0bt9lr,val\n'
EVAL = 'fname,labels,mids\n37199,"Accordion,Music","/m/0mkg,/m/04rlf"\n'


def tree(root, dev=DEV, evaluation=EVAL, sounds=("dev_audio/64760", "dev_audio/16399", "eval_audio/37199")):
    (root / "FSD50K.ground_truth").mkdir(parents=True)
    (root / "FSD50K.ground_truth" / "dev.csv").write_text(dev)
    (root / "FSD50K.ground_truth" / "eval.csv").write_text(evaluation)
    for name in sounds:
        path = root / f"FSD50K.{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(13230, np.int16), 44100)
    return root


@pytest.mark.skipif(not CLASS_LIST.is_file(), reason=f"the class list is not at {CLASS_LIST}")
def test_the_classes_are_the_published_ones():
    """200 classes in the order of the published list, ids and names."""
    with CLASS_LIST.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert Vocabulary.fsd50k().to_dict() == {
        "ids": [row["mid"] for row in rows],
        "names": [row["display_name"] for row in rows],
    }


def test_every_class_is_one_of_the_graph_of_audioset():
    """200 ids, all in the graph; the names are in alphabetical order, as the network's outputs are."""
    vocabulary = Vocabulary.fsd50k()
    assert len(vocabulary) == 200
    assert all(id in Ontology.audioset() for id in vocabulary.ids)
    assert vocabulary.names == sorted(vocabulary.names)


def test_the_published_layout(tmp_path):
    """dev.csv's split gives train and validation, eval.csv evaluation; ids are Freesound's; labels are class ids."""
    clips = fsd50k.read(tree(tmp_path))
    assert clips.clip_ids == ["64760", "16399", "37199"]
    assert clips.frame["split"].to_list() == ["train", "validation", "evaluation"]
    assert clips.frame["labels"].to_list() == [["/m/05tny_", "/m/0bt9lr"], ["/m/0bt9lr"], ["/m/0mkg", "/m/04rlf"]]
    assert clips.frame["source"].to_list() == clips.clip_ids
    assert clips.frame["path"][0] == str(tmp_path / "FSD50K.dev_audio" / "64760.wav")
    assert clips.vocabulary == Vocabulary.fsd50k()


def test_the_uploader_is_the_source_where_it_is_known(tmp_path):
    """With the metadata, clips of one uploader stay together; a clip that they do not have is its own source."""
    info = tree(tmp_path) / "FSD50K.metadata" / "dev_clips_info_FSD50K.json"
    info.parent.mkdir()
    person = {"title": "t", "tags": [], "uploader": "someone"}
    info.write_text(json.dumps({"64760": person, "16399": person}))
    assert fsd50k.read(tmp_path).frame["source"].to_list() == ["uploader someone", "uploader someone", "37199"]
    info.write_text('{"64760": {"title": "t"}}')
    with pytest.raises(ClipsError, match=r"dev_clips_info_FSD50K\.json does not say who uploaded each clip"):
        fsd50k.read(tmp_path)


def test_files_in_another_format_are_found(tmp_path):
    """A tree converted to FLAC is the same corpus; where both are there, the .wav is used."""
    tree(tmp_path)
    wav = tmp_path / "FSD50K.dev_audio" / "64760.wav"
    soundfile.write(wav.with_suffix(".flac"), np.zeros(100, np.int16), 16000)
    assert fsd50k.read(tmp_path).frame["path"][0] == str(wav)
    wav.unlink()
    assert fsd50k.read(tmp_path).frame["path"][0] == str(wav.with_suffix(".flac"))


def test_missing_files(tmp_path):
    """Missing files are counted in a warning; without any the corpus is refused."""
    tree(tmp_path, sounds=("dev_audio/64760",))
    with pytest.warns(UserWarning, match="2 of 3 sound files are missing"):
        assert fsd50k.read(tmp_path).clip_ids == ["64760"]
    (tmp_path / "FSD50K.dev_audio" / "64760.wav").unlink()
    with pytest.raises(ClipsError, match="none of the 3 sound files"):
        fsd50k.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dev": "fname,labels,mids\n"}, r"dev\.csv has no column split; it has fname, labels, mids"),
        ({"dev": DEV.replace("val", "test")}, r"dev\.csv, line 3 has the split 'test'; it must be train or val"),
        ({"dev": DEV + "5,Dog\n"}, r"dev\.csv: 1 line of 3 cannot be used: line 4 has 2 fields"),
        ({"dev": DEV.replace("/m/05tny_", "/m/0")}, r"dev\.csv, line 2 has the class id '/m/0', which is none"),
        (
            {"evaluation": EVAL + "64760,Dog,/m/0bt9lr\n"},
            r"clip '64760' is listed twice, dev\.csv, line 2 and eval\.csv, line 3",
        ),
    ],
)
def test_refusals(change, sentence, tmp_path):
    """Each fault of the ground truth is one sentence with file and line."""
    with pytest.raises(ClipsError, match=sentence):
        fsd50k.listed(tree(tmp_path, **change))


def test_places_that_hold_no_fsd50k(tmp_path):
    """A folder without the ground truth, and none at all, are one sentence each."""
    with pytest.raises(ClipsError, match=r"dev\.csv does not exist; unpack FSD50K\.ground_truth\.zip there"):
        fsd50k.listed(tmp_path)
    with pytest.raises(ClipsError, match="is not a folder; give the folder that holds FSD50K"):
        fsd50k.listed(tmp_path / "none")


def test_the_command(tmp_path):
    """`psla corpus fsd50k`: what is missing is listed, the rest is written."""
    tree(tmp_path, sounds=("dev_audio/64760", "dev_audio/16399"))
    result = CliRunner().invoke(app, ["corpus", "fsd50k", str(tmp_path), "--out", str(tmp_path / "c.parquet")])
    assert result.exit_code == 0, result.output
    assert "2 of 3 clips present, 1 missing, 0 unreadable" in result.stdout
    assert f"  missing: 37199 ({tmp_path / 'FSD50K.eval_audio' / '37199.wav'})" in result.stdout
    assert Clips.read(tmp_path / "c.parquet").counts() == {"train": 1, "validation": 1}
