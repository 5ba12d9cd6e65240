"""Corpora on the disk: ESC-50, folders and CSVs, and the inventory of what is there."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psla.data.clips import ClipsError
from psla.data.corpora import esc50, folder
from psla.data.inventory import take_inventory
from psla.data.source import open_source

ESC10 = Path(__file__).parents[2] / "shared/data/esc10"
HEAD = "filename,fold,target,category,esc10,src_file,take"


def sound(path, seconds=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(16000 * seconds), dtype=np.int16), 16000)


def esc_tree(root, missing=()):
    """Two clips a fold in two classes, `rain` with the smaller target; one of them in ESC-10."""
    (root / "meta").mkdir()
    lines = [HEAD]
    for fold in range(1, 6):
        for target, category, esc10 in ((7, "cat", False), (3, "rain", True)):
            name = f"{fold}-{target}.wav"
            lines.append(f"{name},{fold},{target},{category},{esc10},{fold}{target},A")
            if name not in missing:
                sound(root / "audio" / name)
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.skipif(not ESC10.is_dir(), reason=f"the real ESC-10 is not at {ESC10}")
def test_the_real_esc10():
    """400 clips, 40 in each of 10 classes, 80 in each fold, and no recording in two folds."""
    sources = []
    for fold in esc50.FOLDS:
        clips = esc50.read(ESC10, evaluation_fold=fold)
        assert clips.counts() == {"train": 320, "evaluation": 80}
        assert clips.labels().counts().tolist() == [40] * 10
        assert clips.is_single_label
        sources.append(set(clips.split("evaluation").frame["source"]))
    assert sum(map(len, sources)) == len(set().union(*sources))
    assert len(open_source(clips).read(0)) == pytest.approx(5 * 16000, rel=0.01)
    held = clips.hold_out(0.2, 0)
    counts = held.split("validation").labels().counts()
    assert counts.min() >= 4
    assert counts.max() <= 9
    assert not set(held.split("validation").frame["source"]) & set(held.split("train").frame["source"])
    assert take_inventory(clips)[1].have == 400


def test_esc50_is_read_as_published(tmp_path):
    """The fold decides the split, `target` the order of classes, src_file the source; ESC-10 is the marked subset."""
    clips = esc50.read(esc_tree(tmp_path), evaluation_fold=2)
    assert clips.vocabulary.ids == ["rain", "cat"]
    assert clips.split("evaluation").clip_ids == ["2-7", "2-3"]
    assert clips.frame["source"][0] == "17"
    assert esc50.read(tmp_path, esc10_only=True).vocabulary.ids == ["rain"]
    assert esc50.inventory(tmp_path).have == 10


def test_esc50_without_some_files(tmp_path):
    """Missing files are left out with a warning and listed by the inventory; without any file the corpus is refused."""
    esc_tree(tmp_path, missing=("1-7.wav",))
    with pytest.warns(UserWarning, match=r"9 of 10 clips present, 1 missing"):
        clips = esc50.read(tmp_path)
    assert "1-7" not in clips.clip_ids
    assert esc50.inventory(tmp_path).missing == [("1-7", str(tmp_path / "audio" / "1-7.wav"))]
    for file in (tmp_path / "audio").iterdir():
        file.unlink()
    with pytest.raises(ClipsError, match="none of the 10 sound files"):
        esc50.read(tmp_path)


def test_esc50_refusals(tmp_path):
    """No list, a list without a column, and a fold out of range are refused, each in its sentence."""
    with pytest.raises(ClipsError, match=r"esc50\.csv does not exist; give the folder that holds meta/ and audio/"):
        esc50.read(tmp_path)
    esc_tree(tmp_path)
    for fold in (0, 6):
        with pytest.raises(ClipsError, match=f"evaluation_fold is {fold}, must be one of 1, 2, 3, 4, 5"):
            esc50.read(tmp_path, evaluation_fold=fold)
    meta = tmp_path / "meta" / "esc50.csv"
    meta.write_text(meta.read_text().replace("src_file", "origin").replace("1-7.wav,1", "1-7.wav,one"))
    with pytest.raises(ClipsError, match="has no column src_file; it has filename, fold, target"):
        esc50.read(tmp_path)
    meta.write_text(meta.read_text().replace("origin", "src_file"))
    with pytest.raises(ClipsError, match=r"clip 1 \(1-7.wav\): fold 'one' must be 1 to 5"):
        esc50.read(tmp_path)


@pytest.mark.parametrize("module", [esc50, folder])
def test_every_corpus_states_its_facts(module):
    """Each corpus names itself, where it comes from, its licence and whom to cite."""
    assert set(module.FACTS) == {"name", "source", "licence", "citation"}
    assert all(module.FACTS[key] for key in ("name", "source", "licence"))


def test_folders_are_classes(tmp_path):
    """root/CLASS/file: the folder is the class, at any depth; the evaluation share is held out; others are no clips."""
    for name in ("dog/1.wav", "dog/2.wav", "dog/deep/3.FLAC", "rain/1.wav", "rain/2.wav", ".trash/x.wav"):
        sound(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    clips = folder.read_folders(tmp_path, evaluation_share=0.4)
    assert sorted(clips.clip_ids) == ["dog/1.wav", "dog/2.wav", "dog/deep/3.FLAC", "rain/1.wav", "rain/2.wav"]
    assert clips.vocabulary.ids == ["dog", "rain"]
    assert clips.labels().counts().tolist() == [3, 2]
    assert clips.counts() == {"train": 3, "evaluation": 2}
    assert folder.read_folders(tmp_path, evaluation_share=0).counts() == {"train": 5}


def test_split_folders_are_splits(tmp_path):
    """root/SPLIT/CLASS/file: the outer folder is the split, and nothing is held out."""
    for split in ("train", "validation", "evaluation"):
        sound(tmp_path / split / "dog" / "1.wav")
    clips = folder.read_folders(tmp_path)
    assert clips.counts() == {"train": 1, "validation": 1, "evaluation": 1}
    assert clips.vocabulary.ids == ["dog"]
    sound(tmp_path / "test" / "dog" / "1.wav")
    with pytest.raises(ClipsError, match=r"has split folders .* and other files"):
        folder.read_folders(tmp_path)


def test_folder_refusals(tmp_path):
    """No folder, no audio, a file outside the class folders, an unknown class: each is one clear sentence."""
    with pytest.raises(ClipsError, match="is not a folder"):
        folder.read_folders(tmp_path / "none")
    with pytest.raises(ClipsError, match="no audio files found under"):
        folder.read_folders(tmp_path)
    sound(tmp_path / "Yodel-ish" / "1.wav")
    with pytest.raises(ClipsError, match=r"clip 'Yodel-ish/1.wav': label 'Yodel-ish' is not a class .*'audioset'"):
        folder.read_folders(tmp_path, vocabulary="audioset")
    sound(tmp_path / "stray.wav")
    with pytest.raises(ClipsError, match=r"stray\.wav lies in no class folder"):
        folder.read_folders(tmp_path)


def test_a_csv_lists_clips(tmp_path):
    """Labels split at ; and |, spans make ids unique, absent columns have their defaults, paths are below the root."""
    path = tmp_path / "mine.csv"
    path.write_text(
        "path,labels,start_s,end_s,source,split\n"
        "a.wav,dog; rain,,,tape,train\na.wav,rain|dog,1,2.5,tape,evaluation\nsoundscape://1/2,dog,,,,validation\n"
    )
    clips = folder.read_csv(path, audio_root="sounds")
    assert clips.clip_ids == ["a.wav", "a.wav@1@2.5", "soundscape://1/2"]
    assert clips.frame["path"].to_list() == [str(Path("sounds/a.wav"))] * 2 + ["soundscape://1/2"]
    assert clips.frame["source"].to_list() == ["tape", "tape", "soundscape://1/2"]
    assert clips.frame["end_s"].to_list() == [None, 2.5, None]
    assert clips.counts() == {"train": 1, "validation": 1, "evaluation": 1}
    assert clips.labels().matrix().tolist() == [[True, True], [True, True], [True, False]]


def test_a_csv_without_splits_holds_out_whole_sources(tmp_path):
    """Without the column split a share is evaluation, and the clips of one source stay together."""
    lines = [f"{i}.wav,dog,tape {i // 3}" for i in range(12)]
    (tmp_path / "c.csv").write_text("\n".join(["path,labels,source", *lines]))
    clips = folder.read_csv(tmp_path / "c.csv", evaluation_share=0.25)
    assert clips.counts() == {"train": 9, "evaluation": 3}
    assert clips.split("evaluation").frame["source"].n_unique() == 1


def test_a_vocabulary_from_a_file_or_audioset(tmp_path):
    """Labels may be ids or names of the given vocabulary; the table carries ids, in the vocabulary's order."""
    (tmp_path / "c.csv").write_text("path,labels\na.wav,Rain\nb.wav,d\n")
    (tmp_path / "classes.txt").write_text("r\tRain\nd\tDog\n\nb\n")
    clips = folder.read_csv(tmp_path / "c.csv", vocabulary=str(tmp_path / "classes.txt"), evaluation_share=0)
    assert clips.frame["labels"].to_list() == [["r"], ["d"]]
    assert clips.vocabulary.names == ["Rain", "Dog", "b"]
    (tmp_path / "c.csv").write_text("path,labels\na.wav,Speech\n")
    clips = folder.read_csv(tmp_path / "c.csv", vocabulary="audioset", evaluation_share=0)
    assert clips.frame["labels"].to_list() == [["/m/09x0r"]]
    with pytest.raises(ClipsError, match="'nothing' is neither 'audioset' nor a text file"):
        folder.read_csv(tmp_path / "c.csv", vocabulary="nothing")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,labels\na,b\n", "has no column path; it has file, labels"),
        ("", "has no column path and labels; it has no head line"),
        ("path,labels\n", "lists no clips"),
        ("path,labels\n,dog\n", r"c\.csv, line 2: the path is empty"),
        ("path,labels,start_s\na,dog,soon\n", "line 2: start_s is 'soon', must be a number of seconds"),
        ("path,labels,split\na,dog,test\n", "clip 'a' has split 'test'"),
        ("path,labels,split\na,dog,train\na,dog,train\n", "clip 'a' is given more than once"),
    ],
)
def test_csv_refusals(text, sentence, tmp_path):
    """Each fault of a CSV is one sentence with the line or the clip."""
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ClipsError, match=sentence):
        folder.read_csv(tmp_path / "c.csv")
    with pytest.raises(ClipsError, match="does not exist"):
        folder.read_csv(tmp_path / "none.csv")


def test_the_inventory_lists_what_is_missing_or_broken(tmp_path):
    """Broken files are left out, each with its reason; soundscapes are always there; decoding looks deeper."""
    names = ["good.wav", "gone.wav", "broken.wav", "short.wav", "soundscape://1/2"]
    lines = [f"{name},dog,{5 if name == 'short.wav' else ''}" for name in names]
    (tmp_path / "c.csv").write_text("\n".join(["path,labels,start_s", *lines]))
    sound(tmp_path / "good.wav")
    sound(tmp_path / "short.wav")
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    clips = folder.read_csv(tmp_path / "c.csv", evaluation_share=0)
    for decode in (False, True):
        kept, found = take_inventory(clips, decode=decode)
        assert kept.clip_ids == ["good.wav", "soundscape://1/2"]
        assert (found.have, [id for id, _ in found.missing]) == (2, ["gone.wav"])
        assert [id for id, _, _ in found.unreadable] == ["broken.wav", "short.wav@5"]
        assert found.unreadable[1][2] == "the clip starts at 5 s, the file ends at 0.1 s"
        assert found.unreadable[0][2] in found.summary()
        assert found.summary().startswith("2 of 5 clips present, 1 missing, 2 unreadable")


def test_decoding_finds_what_the_header_hides(tmp_path):
    """Samples that are NaN pass the header and are found by decoding."""
    samples = np.full(1600, np.nan, dtype=np.float32)
    (tmp_path / "dog").mkdir()
    soundfile.write(tmp_path / "dog" / "nan.wav", samples, 16000, subtype="FLOAT")
    clips = folder.read_folders(tmp_path, evaluation_share=0)
    assert take_inventory(clips)[1].have == 1
    kept, found = take_inventory(clips, decode=True)
    assert len(kept) == 0
    assert "NaN" in found.unreadable[0][2]


def test_a_whole_corpus_warns_of_nothing(tmp_path):
    """Reading a complete corpus is silent."""
    esc_tree(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        esc50.read(tmp_path)
