"""The inventory, the headers it rests on, and its page."""

import base64
import html.parser
import json
import os

import numpy as np
import polars as pl
import pytest
import soundfile

from pictures import check_drawn
from psla.audio import probe as headers_module
from psla.audio.probe import Headers
from psla.data.clips import Clips
from psla.data.inventory import Inventory, Share, shares, take_inventory
from psla.data.vocabulary import Vocabulary
from psla.report.inventory import class_table, inventory_parts, missing_by_class, write_inventory
from psla.report.page import Bar, Folded, Numbers, Picture, Table, Text, page, write_page


def sound(path, seconds=0.1, **options):
    soundfile.write(path, np.zeros(int(16000 * seconds), dtype=np.int16), 16000, **options)
    return path


def files_frame(paths):
    status = [os.stat(path) for path in paths]
    return pl.DataFrame(
        {
            "path": [str(path) for path in paths],
            "size": [s.st_size for s in status],
            "mtime_ns": [s.st_mtime_ns for s in status],
        }
    )


def clips_of(paths, labels):
    rows = [
        {"clip_id": f"c{i}", "source": f"c{i}", "path": str(path), "split": "train", "labels": each}
        for i, (path, each) in enumerate(zip(paths, labels, strict=True))
    ]
    return Clips.from_rows(rows, Vocabulary(["a", "b", "c"], ["Ape", "Bee", "Cat"]), "mine")


# Headers


def count_probes(monkeypatch):
    asked = []
    ask = headers_module._ask
    monkeypatch.setattr(headers_module, "_ask", lambda paths, *rest: asked.extend(paths) or ask(paths, *rest))
    return asked


def test_headers_tell_length_or_fault(tmp_path):
    """Exactly one of length and fault is told for each file, in the order asked, also for a file asked about twice."""
    good, bad = sound(tmp_path / "good.wav", 0.25), tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    told = Headers().probe(files_frame([bad, good, bad]))
    assert told["duration_s"].to_list() == [None, 0.25, None]
    assert told["fault"][0] == told["fault"][2]
    assert told["fault"][0].startswith("not audio")
    assert told["fault"][1] is None


def test_headers_are_kept_by_path_size_and_time(tmp_path, monkeypatch):
    """What was probed is not probed again; a file that changed is, alone; decoding is something else than a header."""
    paths = [sound(tmp_path / f"{n}.wav") for n in range(3)]
    kept = tmp_path / "kept.parquet"
    asked = count_probes(monkeypatch)
    first = Headers(kept).probe(files_frame(paths))
    assert len(asked) == 3
    assert Headers(kept).probe(files_frame(paths)).equals(first)
    assert len(asked) == 3
    sound(paths[1], 0.2)
    assert Headers(kept).probe(files_frame(paths))["duration_s"].to_list() == [0.1, 0.2, 0.1]
    assert asked[3:] == [str(paths[1])]
    Headers(kept).probe(files_frame(paths[:1]), decode=True)
    assert asked[4:] == [str(paths[0])]


def test_an_interrupted_scan_goes_on(tmp_path, monkeypatch):
    """Ctrl-C in the middle keeps what was probed; the next scan asks for the rest only and ends as if undisturbed."""
    monkeypatch.setattr(headers_module, "_BATCH", 2)
    paths = [sound(tmp_path / f"{n}.wav", 0.1 + n / 10) for n in range(9)]
    kept = tmp_path / "kept.parquet"

    def interrupt(stage, done, total):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Headers(kept).probe(files_frame(paths), report=interrupt)
    asked = count_probes(monkeypatch)
    told = Headers(kept).probe(files_frame(paths))
    assert asked == [str(path) for path in paths[4:]]
    assert told.equals(Headers().probe(files_frame(paths)))


def test_a_killed_scan_has_saved_on_the_way(tmp_path, monkeypatch):
    """Nothing need run at the end: the file on the disk holds what was probed up to the last save."""
    monkeypatch.setattr(headers_module, "_BATCH", 2)
    monkeypatch.setattr(headers_module, "_SAVE_S", 0.0)
    paths = [sound(tmp_path / f"{n}.wav") for n in range(6)]
    kept = tmp_path / "kept.parquet"
    held = []

    def look(stage, done, total):
        held.append(len(pl.read_parquet(kept)) if kept.exists() else 0)

    Headers(kept).probe(files_frame(paths), report=look)
    assert held[0] == 0
    assert held == sorted(held)
    assert held[-1] >= 2


def test_a_crashed_decoder_costs_one_file(tmp_path, monkeypatch):
    """A file that ends the process that probes it is told as such; the others of its batch have their lengths."""
    paths = [sound(tmp_path / f"{n}.wav") for n in range(3)]
    (tmp_path / "crashing.py").write_text(
        "import json, os\n"
        "from psla.audio import worker\n"
        "def inspect(source, rate, start_s, end_s):\n"
        "    if any(p.endswith('1.wav') for p in json.loads(source)['paths']):\n"
        "        os.abort()\n"
        "    yield from worker.inspect(source, rate, start_s, end_s)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = headers_module.DecodePool

    def crashing(*arguments, **options):
        return pool(*arguments, **{**options, "decoder": "crashing:inspect"})

    monkeypatch.setattr(headers_module, "DecodePool", crashing)
    told = Headers().probe(files_frame(paths))
    assert told["duration_s"].to_list() == [0.1, None, 0.1]
    assert told["fault"][1].startswith("the decoder crashed")


def test_damaged_or_foreign_headers_are_read_anew(tmp_path):
    """The kept file is a cache: damaged, it costs a warning and time; that of other decoders is not believed."""
    path = sound(tmp_path / "a.wav")
    kept = tmp_path / "kept.parquet"
    kept.write_bytes(b"PAR1 rubbish")
    with pytest.warns(UserWarning, match=r"kept\.parquet is damaged .* all headers are read again"):
        assert Headers(kept).probe(files_frame([path]))["duration_s"].to_list() == [0.1]
    frame = pl.read_parquet(kept).with_columns(pl.lit(9.0).alias("duration_s"))
    frame.write_parquet(kept, metadata={"psla_headers": json.dumps({"version": 1, "libsndfile": "0.1"})})
    assert Headers(kept).probe(files_frame([path]))["duration_s"].to_list() == [0.1]


# The inventory


def test_classes_are_counted_worst_first(tmp_path):
    """A lost clip counts in each of its classes; the class that lost the largest share stands first."""
    paths = [tmp_path / f"{n}.wav" for n in range(5)]
    for path in paths[:3]:
        sound(path)
    clips = clips_of(paths, [["a", "b"], ["a"], ["a"], ["a", "b"], ["c", "c"]])
    kept, found = take_inventory(clips)
    assert kept.clip_ids == ["c0", "c1", "c2"]
    assert [(s.name, s.listed, s.have, s.missing) for s in found.classes] == [
        ("Cat", 1, 0, 1),
        ("Bee", 2, 1, 1),
        ("Ape", 4, 3, 1),
    ]
    assert found.splits == [Share("train", "train", 5, 3)]
    assert found.listed == 5
    totals = clips.labels().counts()
    assert {s.id: s.listed for s in found.classes} == dict(zip(clips.vocabulary.ids, totals, strict=True))


def test_shares_of_nothing():
    """Where nothing is listed nothing is missing, and no class is told of."""
    assert shares(clips_of([], []), pl.Series([], dtype=pl.Boolean)) == ([], [])
    assert Share("a", "a", 0, 0).missing_share == 0


def test_a_folder_named_as_a_sound_file(tmp_path):
    """A path that is a folder is unreadable, not missing."""
    (tmp_path / "a.wav").mkdir()
    found = take_inventory(clips_of([tmp_path / "a.wav"], [["a"]]))[1]
    assert found.unreadable == [("c0", str(tmp_path / "a.wav"), "a folder, not a sound file")]


def test_a_long_inventory_is_cut_and_says_so():
    """A summary names ten of a kind and counts the rest; plain data has all."""
    found = Inventory(1, missing=[(f"m{n}", "") for n in range(25)], notes=["A note."])
    lines = found.summary().splitlines()
    assert lines[0] == "1 of 26 clips present, 25 missing, 0 unreadable"
    assert lines[1] == "  missing: m0"
    assert lines[-2:] == ["  … and 15 more missing", "A note."]
    assert len(found.to_dict()["missing"]) == found.to_dict()["missing_count"] == 25


# The page


class Reader(html.parser.HTMLParser):
    """Tags must close in order; addresses and texts are collected."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.texts, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read_page(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


NASTY = '<script>alert("1")</script> & "quotes" \\xff é'


def test_a_page_is_whole_and_loads_nothing(tmp_path):
    """Well-formed HTML in one file: pictures embedded, no scripts, no addresses, all text escaped."""
    parts = [
        Text(NASTY),
        Numbers([(NASTY, "1")]),
        Table([NASTY, "n", "bar"], [[NASTY, "1", Bar(0.5)]], caption=NASTY),
        Picture(b"\x89PNG", alt=NASTY, caption=NASTY),
        Folded(NASTY, [Text(NASTY)]),
    ]
    write_page(tmp_path / "page.html", NASTY, parts, note=NASTY)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    reader = read_page(text)
    assert "script" not in reader.tags
    assert [address.partition(",")[0] for address in reader.addresses] == ["data:image/png;base64"]
    assert "url(" not in text
    assert "@import" not in text
    assert "".join(reader.texts).count(NASTY) == 11
    assert text == page(NASTY, parts, note=NASTY)


def test_tables_and_bars_refuse_what_they_cannot_show():
    """A row of another length than the head and a share out of range are refused."""
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        Table(["a", "b"], [["1"]])
    with pytest.raises(ValueError, match="a share from 0 to 1"):
        Bar(1.5)


def test_the_written_inventory(tmp_path):
    """Text, JSON, page and ids of missing clips tell the same; the page has every class and list, and its picture."""
    classes = [Share(f"/m/{n}", f"Class <{n}>", 10 + n, 10) for n in range(60, 0, -1)]
    found = Inventory(
        have=10,
        missing=[("m1", ""), ("m2", "x.wav")],
        unreadable=[("u1", "u.wav", "an empty file")],
        wrong_length=[("w1", "w.wav", "lasts 3 s, its segment 10 s")],
        duplicates=[("d1", "a.wav", "b.ogg", "")],
        classes=classes,
        splits=[Share("train", "train", 14, 10)],
        notes=["A note."],
        name="Corpus",
    )
    paths = {path.suffix: path for path in write_inventory(found, tmp_path / "new" / "folder")}
    assert json.loads(paths[".json"].read_text()) == found.to_dict()
    assert (tmp_path / "new" / "folder" / "missing.txt").read_text() == "m1\nm2\n"
    text = (tmp_path / "new" / "folder" / "inventory.txt").read_text()
    assert found.summary() in text
    assert class_table(classes) in text
    reader = read_page(paths[".html"].read_text(encoding="utf-8"))
    shown = set(reader.texts)
    assert {each.name for each in classes} <= shown
    assert {"m2", "u.wav", "an empty file", "lasts 3 s, its segment 10 s", "b.ogg", "A note."} <= shown
    assert reader.tags.count("img") == 1
    check_drawn(missing_by_class(classes), 501, 501)
    assert base64.b64encode(missing_by_class(classes)).decode() in paths[".html"].read_text(encoding="utf-8")


def test_the_same_inventory_gives_the_same_page():
    """No clock, no chance: two pages of one inventory are the same to the byte."""
    found = Inventory(1, missing=[("m", "")], classes=[Share("a", "Ape", 2, 1)], name="x")
    assert page("x", inventory_parts(found)) == page("x", inventory_parts(found))
    with pytest.raises(ValueError, match="one class or more"):
        missing_by_class([])
