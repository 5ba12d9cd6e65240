"""Audio roots of AudioSet: files in every layout, the choice of a clip's file, and what cannot be used."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from audioset_tree import MUSIC, scan, sound
from psla.audio.probe import Headers
from psla.corpora import audioset
from psla.corpora.audioset.files import choose_files, find_files
from psla.data.clips import ClipsError
from psla.data.source import open_source


def test_every_layout_is_found(tmp_path):
    """ID, YID, with a start, with start and end, in seconds or milliseconds, any suffix and depth: all are clips."""
    ids = ["-a_b-c_d-e_", "_0123456789", "Y0123456789", "Yabcdefghi_", "zzzzzzzzzz1", "zzzzzzzzzz2", "zzzzzzzzzz3"]
    ids += ["zzzzzzzzzz4", "zzzzzzzzzz5"]
    lines = [f'{id}, 30.000, 30.500, "{MUSIC}"' for id in ids]
    files = {
        f"{ids[0]}.wav": {},
        f"part1/Y{ids[1]}.flac": {},
        f"part2/deep/er/{ids[2]}_30.wav": {},
        f"Y{ids[3]}_30_30.5.ogg": {},
        f"{ids[4]}_30000_30500.WAV": {},
        f"{ids[5]}_30000.mp3": {"rate": 16000},
        f"{ids[6]}.opus": {"rate": 16000, "format": "OGG", "subtype": "OPUS"},
        f"Y{ids[7]}_000030.wav": {},
        f"{ids[8]}.wav": {"rate": 192000, "channels": 8},
    }
    clips, inventory = scan(tmp_path, files, lines)
    assert clips.clip_ids == ids
    assert [os.path.relpath(path, tmp_path / "audio") for path in clips.frame["path"]] == list(files)
    assert inventory.counts() == "9 of 9 clips present, 0 missing, 0 unreadable"
    assert clips.frame["start_s"].null_count() == len(ids)
    assert {len(open_source(clips, 16000).read(row)) for row in range(9)} <= {*range(7990, 8011)}


def test_names_that_are_no_clips_are_counted(tmp_path):
    """Sound of other names is told of and not looked into; other files are nobody's business."""
    lines = [f'aaaaaaaaaaa, 0.0, 0.5, "{MUSIC}"']
    files = {"aaaaaaaaaaa.wav": {}, "aaaaaaaaaaa-copy.wav": {}, "bbbbbbbbbbb.wav": {}, ".hidden/aaaaaaaaaaa.wav": {}}
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "aaaaaaaaaaa.json").write_text("{}")
    clips, inventory = scan(tmp_path, files, lines)
    assert len(clips) == 1
    assert not inventory.duplicates
    assert inventory.notes[0].startswith("sound files named after no listed clip: 2, the first: ")
    assert inventory.notes[0].endswith("aaaaaaaaaaa-copy.wav")


def test_the_best_file_of_a_clip_is_used(tmp_path):
    """Lossless before lossy before containers, then the shorter path; what is broken makes room for the next."""
    lines = [f'{id * 11}, 0.0, 0.5, "{MUSIC}"' for id in "abcd"]
    files = {
        "aaaaaaaaaaa.ogg": {},
        "part/aaaaaaaaaaa.wav": {},
        "part/bbbbbbbbbbb.wav": {},
        "bbbbbbbbbbb.wav": {},
        "ccccccccccc.flac": {"seconds": 0.2, "rate": 16000},
        "ccccccccccc.mp3": {"rate": 16000},
        "part/ddddddddddd.wav": {},
    }
    (tmp_path / "audio").mkdir()
    for name in ("aaaaaaaaaaa.m4a", "ddddddddddd.wav"):
        (tmp_path / "audio" / name).write_bytes(b"no sound")
    clips, inventory = scan(tmp_path, files, lines)
    used = [os.path.relpath(path, tmp_path / "audio") for path in clips.frame["path"]]
    assert used == ["part/aaaaaaaaaaa.wav", "bbbbbbbbbbb.wav", "ccccccccccc.flac", "part/ddddddddddd.wav"]
    others = {os.path.relpath(other, tmp_path / "audio"): why for _, _, other, why in inventory.duplicates}
    assert set(others) == {
        "aaaaaaaaaaa.ogg",
        "aaaaaaaaaaa.m4a",
        "part/bbbbbbbbbbb.wav",
        "ccccccccccc.mp3",
        "ddddddddddd.wav",
    }
    assert others["aaaaaaaaaaa.ogg"] == ""
    assert "not audio" in others["ddddddddddd.wav"]
    assert not inventory.unreadable


def test_wrong_lengths(tmp_path):
    """Shorter, longer and other parts are listed; a whole video without times in its name is cut, not refused."""
    lines = [f'{id * 11}, 2.0, 3.0, "{MUSIC}"' for id in "abcdef"]
    files = {
        "aaaaaaaaaaa.wav": {"seconds": 0.4},
        "bbbbbbbbbbb.wav": {"seconds": 2.2},  # neither the cut clip nor the whole video
        "ccccccccccc.wav": {"seconds": 4.0},
        "ddddddddddd_2_3.wav": {"seconds": 4.0},
        "eeeeeeeeeee_50_51.wav": {"seconds": 1.0},
        "fffffffffff.wav": {"seconds": 1.45},
    }
    clips, inventory = scan(tmp_path, files, lines)
    assert clips.frame.select("clip_id", "start_s", "end_s").rows() == [
        ("ccccccccccc", 2.0, 3.0),
        ("fffffffffff", None, None),
    ]
    reasons = {id[0]: reason for id, _, reason in inventory.wrong_length}
    assert reasons == {
        "a": "lasts 0.4 s, its segment 1 s",
        "b": "lasts 2.2 s, its segment 1 s",
        "d": "lasts 4 s, its segment 1 s",
        "e": "its name gives 50 to 51, the segment is 2 s to 3 s",
    }
    kept, same = audioset.scan(tmp_path / "lists", [tmp_path / "audio"], ["balanced"], keep_wrong_length=True)
    assert [id[0] for id in kept.clip_ids] == ["a", "b", "c", "d", "f"]
    assert same.wrong_length == inventory.wrong_length
    assert same.listed == inventory.listed == 6


@pytest.mark.parametrize(
    ("name", "segment", "fits"),
    [
        ("_30", (0.0, 10.0), False),  # 30 s, and not 30 ms
        ("_0", (0.0, 10.0), True),
        ("_30_40", (30.0, 40.0), True),
        ("_30000_40000", (30.0, 40.0), True),
        ("_30_40000", (30.0, 40.0), False),
        ("_30_60", (30.0, 40.0), False),
        ("_12.345", (12.345, 22.345), True),
        ("_12_22", (12.345, 22.345), True),
        ("_12345_22345", (12.345, 22.345), True),
        ("_500_10500", (0.5, 10.5), True),
        ("_000030", (30.0, 40.0), True),
    ],
)
def test_times_in_names_are_seconds_or_milliseconds(name, segment, fits, tmp_path):
    """One unit for both times; whole seconds stand for starts that are not whole; other times are another part."""
    (tmp_path / f"aaaaaaaaaaa{name}.wav").touch()
    files = find_files([tmp_path], {"aaaaaaaaaaa"}).files
    start, end = segment
    segments = pl.DataFrame({"clip_id": ["aaaaaaaaaaa"], "segment_start_s": [start], "segment_end_s": [end]})

    class TenSeconds(Headers):
        def probe(self, asked, decode=False, report=None):
            schema = {"duration_s": pl.Float64(), "fault": pl.String()}
            return pl.DataFrame([(10.0, None)] * len(asked), schema=schema, orient="row")

    assert len(choose_files(files, segments, TenSeconds()).used) == fits


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path):
    """Empty, text, a folder, a dead link, a format unknown, a path of odd bytes: each clip says why, none crash."""
    lines = [f'{id * 11}, 0.0, 0.5, "{MUSIC}"' for id in "abcdefg"]
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / "aaaaaaaaaaa.wav").touch()
    (audio / "bbbbbbbbbbb.wav").write_text("this is no sound " * 50)
    sound(audio / "ccccccccccc.wav" / "other.wav")
    (audio / "ddddddddddd.wav").symlink_to(tmp_path / "nowhere")
    (audio / "eeeeeeeeeee.m4a").write_bytes(b"....ftypM4A ")
    odd = os.path.join(os.fsencode(audio), b"caf\xe9")
    os.mkdir(odd)
    shutil.copy(sound(tmp_path / "f.wav"), os.path.join(odd, b"fffffffffff.wav"))
    clips, inventory = scan(tmp_path, {"ggggggggggg.wav": {}}, lines, headers=tmp_path / "h.parquet")
    assert clips.clip_ids == ["ggggggggggg"]
    reasons = {id[0]: reason for id, _, reason in inventory.unreadable}
    assert reasons["a"] == "an empty file"
    assert reasons["b"].startswith("not audio")
    assert reasons["c"] == "a folder, not a sound file"
    assert reasons["d"].startswith("cannot be looked at: No such file")
    assert reasons["e"].startswith("a truncated or damaged MP4")
    assert reasons["f"].startswith("its path is not UTF-8 text")
    assert "caf\\xe9" in inventory.unreadable[5][1]
    json.dumps(inventory.to_dict()).encode("utf-8")
    assert clips.frame.write_json().encode("utf-8")


def test_decoding_finds_what_headers_hide(tmp_path):
    """A file whose samples are NaN passes by its header and is found with `decode`."""
    lines = [f'aaaaaaaaaaa, 0.0, 0.5, "{MUSIC}"']
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "aaaaaaaaaaa.wav", np.full(4000, np.nan), 8000, subtype="FLOAT")
    headers = tmp_path / "h.parquet"
    assert len(scan(tmp_path, {}, lines, headers=headers)[0]) == 1
    clips, inventory = scan(tmp_path, {}, lines, headers=headers, decode=True)
    assert len(clips) == 0
    assert "NaN" in inventory.unreadable[0][2]


def test_links_and_roots_in_roots_count_once(tmp_path):
    """A link that leads back, and a root inside another, bring no file twice; no scan runs for ever."""
    root = tmp_path / "audio"
    sound(root / "part" / "aaaaaaaaaaa.wav")
    (root / "part" / "back").symlink_to(root)
    found = find_files([root, root / "part"], {"aaaaaaaaaaa"})
    assert len(found.files) == 1


def test_roots_that_are_not_there(tmp_path):
    """No root, and a root that is no folder, are one sentence each."""
    (tmp_path / "file").touch()
    for root in ("none", "file"):
        with pytest.raises(ClipsError, match=f"the audio root .*{root} is not a folder"):
            find_files([tmp_path / root], set())
    with pytest.raises(ClipsError, match="no audio root is given"):
        find_files([], set())


def test_the_order_of_the_disk_does_not_matter(tmp_path, monkeypatch):
    """However the folders are listed, the table and the inventory are the same."""
    lines = [f'{n:011d}, 0.0, 0.5, "{MUSIC}"' for n in range(12)]
    files = {f"p{n % 3}/{n:011d}.{s}": {} for n in range(12) for s in ("wav", "flac")}
    clips, inventory = scan(tmp_path, files, lines)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    again, same = audioset.scan(tmp_path / "lists", [tmp_path / "audio"], ["balanced"])
    assert again == clips
    assert same == inventory
    assert len(inventory.duplicates) == 12


def test_every_file_is_accounted_for():
    """Law of `choose_files`: a clip with files is used or failed, never both; each further file is a duplicate."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(200):
        suffix = [".wav", ".ogg", ".m4a"][generator.integers(3)]
        named = [None, 0.0, 77.0][generator.integers(3)]
        rows.append((f"{generator.integers(60):011d}", f"{number}{suffix}", suffix, named, None, 1, 1, None))
    schema = find_files([Path(__file__).parent], set()).files.schema
    files = pl.DataFrame(rows, schema=schema, orient="row")
    lengths = dict(zip(files["path"], generator.choice([10.0, 3.0, 60.0, -1.0], len(files)), strict=True))

    class Told(Headers):
        def probe(self, asked, decode=False, report=None):
            told = [(s, None) if s > 0 else (None, "broken") for s in map(lengths.__getitem__, asked["path"])]
            return pl.DataFrame(told, schema={"duration_s": pl.Float64(), "fault": pl.String()}, orient="row")

    ids = files["clip_id"].unique().to_list()
    segments = pl.DataFrame({"clip_id": ids, "segment_start_s": [0.0] * len(ids), "segment_end_s": [10.0] * len(ids)})
    matched = choose_files(files, segments, Told())
    used, failed = set(matched.used["clip_id"]), set(matched.failed["clip_id"])
    assert used | failed == set(ids)
    assert not used & failed
    assert min(len(used), len(failed), len(matched.duplicates)) > 5
    told = pl.concat([each["path"] for each in (matched.used, matched.failed, matched.duplicates)])
    assert sorted(told) == sorted(files["path"])
    assert all(lengths[path] >= 10 for path in matched.used["path"])


def test_read_warns_of_what_scan_lists(tmp_path):
    """`read` gives the same clips as `scan`; missing ones are a warning, and none at all is refused."""
    lines = [f'{id * 11}, 0.0, 0.5, "{MUSIC}"' for id in "ab"]
    clips, _ = scan(tmp_path, {"aaaaaaaaaaa.wav": {}}, lines)
    with pytest.warns(UserWarning, match="AudioSet: 1 of 2 clips present, 1 missing"):
        assert audioset.read(tmp_path / "lists", [tmp_path / "audio"], ["balanced"]) == clips
    (tmp_path / "audio" / "aaaaaaaaaaa.wav").unlink()
    with pytest.raises(ClipsError, match="no sound file under the audio roots can be used"):
        audioset.read(tmp_path / "lists", [tmp_path / "audio"], ["balanced"])
