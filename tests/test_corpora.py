"""Corpora on the disk: the contract of all of them, ESC-50, folders and CSVs, and what of them is there."""

import hashlib
import importlib
import os
import pkgutil
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

import psla
from psla import corpora
from psla.corpora import audioset, esc50, folder, fsd50k
from psla.data.clips import Clips, ClipsError
from psla.data.inventory import take_inventory
from psla.data.source import open_source
from psla.synth import scene as soundscape

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
    assert len(open_source(clips, 16000).read(0)) == pytest.approx(5 * 16000, rel=0.01)
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
    assert len(esc50.listed(tmp_path)) == 10


def test_esc50_without_some_files(tmp_path):
    """Missing files are left out with a warning and listed by the inventory; without any file the corpus is refused."""
    esc_tree(tmp_path, missing=("1-7.wav",))
    with pytest.warns(UserWarning, match=r"ESC-50 at .*: 1 of 10 sound files are missing"):
        clips = esc50.read(tmp_path)
    assert "1-7" not in clips.clip_ids
    kept, found = take_inventory(esc50.listed(tmp_path))
    assert found.missing == [("1-7", str(tmp_path / "audio" / "1-7.wav"))]
    assert kept == clips
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
    with pytest.raises(ClipsError, match=r"line 2: fold must be 1 to 5, .* it has filename '1-7.wav', fold 'one'"):
        esc50.read(tmp_path)


def fsd_tree(root):
    """Two clips of dev (train, val) and one of eval."""
    ground_truth = root / "FSD50K.ground_truth"
    ground_truth.mkdir(parents=True)
    (ground_truth / "dev.csv").write_text(
        'fname,labels,mids,split\n7,"Bark,Dog","/m/05tny_,/m/0bt9lr",train\n12,Dog,/m/0bt9lr,val\n'
    )
    (ground_truth / "eval.csv").write_text("fname,labels,mids\n3,Accordion,/m/0mkg\n")
    for name in ("dev_audio/7", "dev_audio/12", "eval_audio/3"):
        sound(root / f"FSD50K.{name}.wav", 0.3)
    return root


def audioset_tree(root):
    """A clip in each list."""
    (root / "lists").mkdir(parents=True)
    for name, id in zip(audioset.LISTS.values(), ("-a_b-c_d-e_", "Y0123456789", "eval_clip_1"), strict=True):
        (root / "lists" / f"{name}.csv").write_text(f'{id}, 30.000, 30.500, "/m/09x0r,/m/04rlf"\n')
        sound(root / "audio" / "part" / f"Y{id}.wav", 0.5)
    return root


def own_tree(root):
    """Two classes, a folder each."""
    for name in ("dog/1.wav", "dog/2.wav", "rain/1.wav", "rain/2.wav"):
        sound(root / name)
    return root


CORPORA = {
    "audioset": (audioset_tree, lambda root: audioset.read(root / "lists", [root / "audio"])),
    "esc50": (lambda root: esc_tree(root), lambda root: esc50.read(root, evaluation_fold=2)),
    "folder": (own_tree, lambda root: folder.read_folders(root, evaluation_share=0.5)),
    "fsd50k": (fsd_tree, lambda root: fsd50k.read(root)),
    "soundscape": (
        lambda root: root,
        lambda root: Clips.from_rows(
            soundscape.table(soundscape.SoundscapeConfig(seed=0, clips=20)), soundscape.vocabulary(), "soundscape"
        ),
    ),
}
"""By the module's name: what makes a tiny tree below a folder, and what reads it."""


def modules_with_facts():
    names = [each.name for each in pkgutil.iter_modules(corpora.__path__)]
    modules = {name: importlib.import_module(f"psla.corpora.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "FACTS")}


def digest(root):
    """Every path with its bytes and its time of change."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "", path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("name", modules_with_facts())
def test_every_corpus_keeps_the_contract(name, tmp_path):
    """Facts are stated; ids are unique, splits known, classes of the vocabulary; files exist; nothing is changed."""
    facts = modules_with_facts()[name].FACTS
    assert set(facts) - {"checksums"} == {"name", "source", "licence", "citation"}
    assert all(facts[key] for key in ("name", "source", "licence"))
    assert name in CORPORA, f"add the corpus {name} to this test"
    make, read = CORPORA[name]
    (tmp_path / "corpus").mkdir()
    root = make(tmp_path / "corpus")
    before = digest(root)
    clips = read(root)
    assert len(set(clips.clip_ids)) == len(clips) > 0
    assert {"train", "evaluation"} & set(clips.counts()) == set(clips.counts()) - {"validation"}
    assert {id for ids in clips.frame["labels"] for id in ids} <= set(clips.vocabulary.ids)
    assert clips.labels().counts().sum() > 0
    assert all(path.startswith("soundscape://") or Path(path).is_file() for path in clips.frame["path"])
    assert [len(open_source(clips, 16000).read(row)) > 0 for row in range(len(clips))] == [True] * len(clips)
    assert read(root) == clips, "the same tree must give the same table, in the same order"
    assert digest(root) == before
    kept, found = take_inventory(clips)
    assert kept == clips
    assert (found.have, found.missing, found.unreadable) == (len(clips), [], [])


def test_files_whose_path_is_no_text_are_left_out(tmp_path):
    """A path of bytes that are not UTF-8 cannot stand in a table: such files are counted and named, not a crash."""
    own_tree(tmp_path)
    odd = os.path.join(os.fsencode(tmp_path / "dog"), b"caf\xe9.wav")
    shutil.copy(tmp_path / "dog" / "1.wav", odd)
    with pytest.warns(UserWarning, match=r"1 sound files are left out, .* not UTF-8 text.*caf\\xe9\.wav"):
        clips = folder.read_folders(tmp_path, evaluation_share=0)
    assert len(clips) == 4


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
        (b"path,labels\na.wav,caf\xe9\n", r"c\.csv is not UTF-8 text .*save it as UTF-8"),
        ("path,labels\n,dog\n", r"c\.csv, line 2: the path is empty"),
        ("path,labels,start_s\na,dog,soon\n", "line 2: start_s is 'soon', must be a number of seconds"),
        ("path,labels,split\na,dog,test\n", "clip 'a' has split 'test'"),
        ("path,labels,split\na,dog,train\na,dog,train\n", "clip 'a' is given more than once"),
    ],
)
def test_csv_refusals(text, sentence, tmp_path):
    """Each fault of a CSV is one sentence with the line or the clip."""
    (tmp_path / "c.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
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


def test_the_old_name_of_the_soundscapes():
    """`psla.corpora.soundscape` is the scenes still, and says the new name."""
    with pytest.warns(FutureWarning, match="psla.corpora.soundscape is called psla.synth now"):
        assert corpora.soundscape is soundscape
    assert psla.synth.synthesise is soundscape.synthesise


def test_a_whole_corpus_warns_of_nothing(tmp_path):
    """Reading a complete corpus is silent."""
    esc_tree(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        esc50.read(tmp_path)
