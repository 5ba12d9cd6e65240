"""AudioSet: the published lists, audio roots in every layout, and the choice of a clip's file."""

import gzip
import json
import re
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from audioset_tree import HEAD, MUSIC, SPEECH, scan, write_list
from psla.cli import app
from psla.corpora import audioset
from psla.corpora.audioset.lists import read_class_list, read_segments
from psla.data.clips import Clips, ClipsError
from psla.data.ontology import Ontology, OntologyError
from psla.data.vocabulary import Vocabulary
from psla.download import DownloadError

PUBLISHED = Path(__file__).parents[2] / "shared/data/audioset"
VOCABULARY = Vocabulary.audioset()


# The lists


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"the published lists are not at {PUBLISHED}")
def test_the_published_lists_without_the_unbalanced_one():
    """Clips and labels as the lists' own heads declare them; a video is its own source; no file is claimed."""
    clips = audioset.read_lists(PUBLISHED, ["balanced", "evaluation"])
    assert clips.counts() == {"train": 22160, "evaluation": 20371}
    assert clips.split("train").labels().counts().sum() == 52882
    assert clips.split("evaluation").labels().counts().sum() == 51804
    assert clips.frame["source"].to_list() == clips.clip_ids
    assert clips.frame["path"].str.starts_with(audioset.PLACEHOLDER).all()
    assert clips.vocabulary == VOCABULARY
    assert clips.frame.row(0, named=True)["segment_start_s"] == 30.0
    balanced = clips.split("train").labels().counts()
    assert balanced[VOCABULARY.index_of(SPEECH)] == 5735
    assert [balanced[VOCABULARY.index_of(id)] for id in ("/m/05zppz", "/m/02zsn", "/m/0ytgt")] == [60, 60, 154]


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"the published lists are not at {PUBLISHED}")
def test_the_published_lists_at_full_size():
    """All 2,084,320 clips: the counts of the paper's data, and a stratified hold-out of whole videos."""
    clips = audioset.read_lists(PUBLISHED)
    assert clips.counts() == {"train": 2063949, "evaluation": 20371}
    unbalanced = clips.filter(pl.col("list") == "unbalanced")
    assert (len(unbalanced), unbalanced.labels().counts().sum()) == (2041789, 4020212)
    counts = clips.split("train").labels().counts()
    assert (counts.sum(), counts[VOCABULARY.index_of(SPEECH)], counts[VOCABULARY.index_of(MUSIC)], counts.min()) == (
        4073094,
        1005156,
        1005610,
        67,
    )
    assert [counts[VOCABULARY.index_of(id)] for id in ("/m/05zppz", "/m/02zsn", "/m/0ytgt")] == [17653, 8438, 11605]
    child = {"/m/05zppz", "/m/02zsn", "/m/0ytgt"}
    labels = clips.split("train").frame["labels"]
    orphan = labels.list.set_intersection(sorted(child)).list.len() > 0
    assert (orphan & ~labels.list.contains(SPEECH)).sum() == 3429
    held = clips.hold_out(0.05, seed=0).split("validation").labels().counts()
    assert np.abs(held - 0.05 * counts).max() <= 1


def test_lists_are_read_plain_and_gzipped(tmp_path):
    """Comment lines, blank lines, spaces, quotes and Windows line ends do not matter, nor does compression."""
    lines = [f'-a_b-c_d-e_, 30.000, 40.000, "{SPEECH},{MUSIC}"', f'Y0123456789,0.000,9.5,"{MUSIC}"']
    plain = audioset.read_lists(write_list(tmp_path / "plain", lines), ["balanced"])
    text = HEAD.format(2) + "\r\n" + "".join(f"  {line} \r\n\r\n" for line in lines)
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "balanced_train_segments.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert audioset.read_lists(tmp_path / "zipped", ["balanced"]) == plain
    assert plain.clip_ids == ["-a_b-c_d-e_", "Y0123456789"]
    assert plain.frame["labels"].to_list() == [[SPEECH, MUSIC], [MUSIC]]
    assert plain.frame["segment_end_s"].to_list() == [40.0, 9.5]


def test_a_list_shorter_than_its_head_says_is_noted(tmp_path):
    """A download that was cut at a line's end shows in the head alone: it is read, with a warning."""
    path = tmp_path / "list.csv"
    path.write_text(HEAD.format(3) + f'aaaaaaaaaaa, 0.0, 10.0, "{MUSIC}"\n')
    with pytest.warns(UserWarning, match=r"list\.csv has 1 segments, its head declares 3"):
        read_segments(path, VOCABULARY)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("bbbbbbbbbbb, 0.0, 10.0", r"list\.csv, line 5 has fewer than four fields; a line is ID, start_seconds"),
        (f'bbbb, 0.0, 10.0, "{MUSIC}"', "line 5 has 'bbbb' for an id; an id of YouTube has 11"),
        (f'bbbbbbbbbbb, zero, 10.0, "{MUSIC}"', "line 5 has the times ' zero' to ' 10.0'; times must be numbers"),
        (f'bbbbbbbbbbb, 10.0, 10.0, "{MUSIC}"', "the end after the start"),
        ('bbbbbbbbbbb, 0.0, 10.0, "/m/nothing"', "line 5: class id '/m/nothing' is not in the class list of 527"),
        ('bbbbbbbbbbb, 0.0, 10.0, ""', "line 5: class id '' is not in the class list"),
    ],
)
def test_a_broken_line_is_refused_by_file_and_line(line, sentence, tmp_path):
    """Each fault of a line is one sentence that names the file and the line."""
    path = tmp_path / "list.csv"
    path.write_text(HEAD.format(2) + f'aaaaaaaaaaa, 0.0, 10.0, "{MUSIC}"\n{line}\n')
    with pytest.raises(ClipsError, match=sentence):
        read_segments(path, VOCABULARY)


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (b"", "l.csv", "is empty; a line of a segment list is"),
        (b"# only\n# comments\n", "l.csv", "lists no segments"),
        (b"aaaaaaaaaaa, 0, 1, \xff\xfe\n", "l.csv", "is not a text file of segments"),
        (gzip.compress(b"aaaaaaaaaaa, 0, 1, x\n" * 100, mtime=0)[:40], "l.csv.gz", "is not a whole gzip file"),
        (b"no gzip", "l.csv.gz", "is not a whole gzip file"),
    ],
)
def test_a_file_that_is_no_list_is_refused(data, name, sentence, tmp_path):
    """What is empty, no text or cut short is one sentence that names the file."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ClipsError, match=re.escape(name) + " " + sentence):
        read_segments(tmp_path / name, VOCABULARY)


def test_a_clip_counts_once(tmp_path):
    """A repeated line counts once; other labels, times or splits for the same video are refused by both places."""
    line = f'aaaaaaaaaaa, 0.0, 10.0, "{MUSIC},{SPEECH}"'
    again = f'aaaaaaaaaaa, 0.0, 10.0, "{SPEECH},{MUSIC}"'
    write_list(tmp_path, [line, again])
    assert len(audioset.read_lists(tmp_path, ["balanced"])) == 1
    write_list(tmp_path, [line, f'aaaaaaaaaaa, 0.0, 10.0, "{MUSIC}"'])
    where = r"balanced_train_segments\.csv, line 4 and balanced_train_segments\.csv, line 5"
    with pytest.raises(ClipsError, match=rf"'aaaaaaaaaaa' is listed twice with different labels \({where}\)"):
        audioset.read_lists(tmp_path, ["balanced"])
    write_list(tmp_path, [line])
    write_list(tmp_path, [f'aaaaaaaaaaa, 5.0, 15.0, "{MUSIC},{SPEECH}"'], "unbalanced_train_segments.csv")
    with pytest.raises(ClipsError, match=r"different times .*unbalanced_train_segments\.csv, line 4"):
        audioset.read_lists(tmp_path, ["balanced", "unbalanced"])
    write_list(tmp_path, [line], "eval_segments.csv")
    with pytest.raises(ClipsError, match="different splits"):
        audioset.read_lists(tmp_path, ["balanced", "evaluation"])


def test_lists_that_are_not_there(tmp_path):
    """A missing folder, a missing list and an unknown list are one sentence each."""
    with pytest.raises(ClipsError, match="is not a folder; give the folder that holds the segment lists"):
        audioset.read_lists(tmp_path / "none")
    with pytest.raises(ClipsError, match=r"has no balanced_train_segments\.csv and no .*\.gz; fetch the lists with"):
        audioset.read_lists(tmp_path)
    with pytest.raises(ClipsError, match="no list 'strong'; use one of balanced, unbalanced, evaluation"):
        audioset.read_lists(tmp_path, ["strong"])


def test_classes_come_from_where_the_user_keeps_them(tmp_path):
    """Given files before the folder's, the folder's before the package's; the two must belong together."""
    own = "index,mid,display_name\n0,/m/x,Own\n"
    (tmp_path / "class_labels_indices.csv").write_text(own)
    (tmp_path / "ontology.json").write_text('[{"id": "/m/x", "name": "Own", "child_ids": []}]')
    vocabulary, ontology = audioset.open_classes(tmp_path)
    assert (vocabulary.names, ontology.ids) == (["Own"], ("/m/x",))
    write_list(tmp_path, ['aaaaaaaaaaa, 0.0, 10.0, "/m/x"'])
    assert audioset.read_lists(tmp_path, ["balanced"]).vocabulary.ids == ["/m/x"]
    assert audioset.open_classes(tmp_path / "none")[0] == VOCABULARY
    (tmp_path / "ontology.json").write_text("[]")
    with pytest.raises(OntologyError, match=r"class '/m/x' \(Own\) of .* is not in the class graph .*ontology\.json"):
        audioset.open_classes(tmp_path)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("a", ["b"]), ("b", ["a"])], "cycle"),
        ([("a", ["b"])], "child 'b'"),
        ([("a", []), ("a", [])], "more than once"),
        ({"a": 1}, "must be a list of classes"),
    ],
)
def test_a_graph_that_is_none_is_refused_by_its_file(rows, sentence, tmp_path):
    """A cycle, a dangling child, a class given twice, another layout: one sentence with the file's name."""
    data = [{"id": id, "name": id, "child_ids": below} for id, below in rows] if isinstance(rows, list) else rows
    (tmp_path / "ontology.json").write_text(json.dumps(data))
    with pytest.raises(OntologyError, match=rf"ontology\.json.*{sentence}"):
        audioset.open_classes(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mid,display_name\n/m/a,A\n", "its head line must be index,mid,display_name"),
        ("index,mid,display_name\n", "is no class list; .* and classes follow"),
        (b"index,mid,display_name\n0,/m/a,caf\xe9\n", r"c\.csv is not UTF-8 text"),
        ("index,mid,display_name\n1,/m/a,A\n", r"line 2: index '1', .* \(here 0\)"),
        ("index,mid,display_name\n0,,A\n", "each with an id and a name"),
    ],
)
def test_class_list_refusals(text, sentence, tmp_path):
    """A class list that is none is one sentence."""
    (tmp_path / "c.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ClipsError, match=sentence):
        read_class_list(tmp_path / "c.csv")


# Fetching, and the command


def test_lists_are_fetched_from_a_server(tmp_path):
    """What is not there is fetched, what is there is kept, also gzipped; an address that fails says what to do."""
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "eval_segments.csv").write_text("eval")
    (tmp_path / "server" / "ontology.json").write_text("[]")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ontology.json.gz").write_bytes(b"mine")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args, **options):
            super().__init__(*args, directory=str(tmp_path / "server"), **options)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        addresses = {name: f"{base}/{name}" for name in ("eval_segments.csv", "ontology.json")}
        assert audioset.download_lists(tmp_path / "mine", addresses) == [tmp_path / "mine" / "eval_segments.csv"]
        assert (tmp_path / "mine" / "eval_segments.csv").read_text() == "eval"
        assert audioset.download_lists(tmp_path / "mine", addresses) == []
        with pytest.raises(DownloadError, match="fetch that URL by hand and put the file at"):
            audioset.download_lists(tmp_path / "mine", {"gone.csv": f"{base}/gone.csv"})
    finally:
        server.shutdown()
        server.server_close()


def test_the_published_addresses():
    """Every list, the class list and the graph have an address whose last part is the file's name."""
    assert set(audioset.ADDRESSES) == {f"{n}.csv" for n in audioset.LISTS.values()} | {"class_labels_indices.csv"} | {
        "ontology.json"
    }
    assert all(url.rsplit("/", 1)[1] == name for name, url in audioset.ADDRESSES.items())


def run(*arguments):
    return CliRunner().invoke(app, ["corpus", "audioset", *map(str, arguments)])


def test_the_command_writes_clips_and_inventory(tmp_path):
    """`psla corpus audioset`: the table, the inventory in four files, the headers beside the table; JSON alone."""
    lines = [f'{n:011d}, 0.0, 0.5, "{MUSIC}{"," + SPEECH if n % 2 else ""}"' for n in range(8)]
    scan(tmp_path, {f"{n:011d}.wav": {} for n in range(6)}, lines)
    out = tmp_path / "new" / "clips.parquet"
    given = [tmp_path / "lists", "--audio", tmp_path / "audio", "--list", "balanced", "--out", out, "--validation", 0.5]
    result = run(*given, "--inventory", tmp_path / "inventory")
    assert result.exit_code == 0, result.output
    assert "6 of 8 clips present, 2 missing, 0 unreadable" in result.stdout
    assert "2 classes miss clips, the worst first:" in result.stdout
    clips = Clips.read(out)
    assert clips.counts() == {"train": 3, "validation": 3}
    assert (tmp_path / "new" / "clips.headers.parquet").exists()
    assert sorted(path.name for path in (tmp_path / "inventory").iterdir()) == [
        "inventory.html",
        "inventory.json",
        "inventory.txt",
        "missing.txt",
    ]
    assert (tmp_path / "inventory" / "missing.txt").read_text().split() == ["00000000006", "00000000007"]
    result = run(*given, "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "inventory" / "inventory.json").read_text())
    assert Clips.read(out) == clips


def test_the_command_without_audio_writes_the_lists(tmp_path):
    """Without --audio the table names no files, and says so in its paths."""
    write_list(tmp_path, [f'aaaaaaaaaaa, 0.0, 10.0, "{MUSIC}"'])
    result = run(tmp_path, "--list", "balanced", "--out", tmp_path / "clips.parquet")
    assert result.exit_code == 0, result.output
    assert Clips.read(tmp_path / "clips.parquet").frame["path"].to_list() == ["audioset://aaaaaaaaaaa"]


@pytest.mark.parametrize("place", ["/proc/none/clips.parquet", "/dev/null/clips.parquet"])
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, where nobody may write")
def test_a_place_that_cannot_be_written_is_refused_first(place, tmp_path, monkeypatch):
    """A read-only output folder is one sentence, before any file is looked at."""
    write_list(tmp_path, [f'aaaaaaaaaaa, 0.0, 10.0, "{MUSIC}"'])
    monkeypatch.setattr(audioset, "scan", lambda *_, **__: pytest.fail("scanned before the place was checked"))
    result = run(tmp_path, "--audio", tmp_path, "--list", "balanced", "--out", place)
    assert result.exit_code == 2
    assert re.search(r"^psla: cannot write into /(proc|dev)/\S+ \(.+\); give another --out$", result.stderr, re.M)
    result = run(tmp_path, "--audio", tmp_path, "--list", "balanced", "--out", tmp_path)
    assert "is a folder; give --out the name of a file" in result.stderr


def test_no_file_at_all_writes_the_inventory_and_fails(tmp_path):
    """Where nothing is found the inventory is still written, no table is, and the exit code says it."""
    write_list(tmp_path / "lists", [f'aaaaaaaaaaa, 0.0, 10.0, "{MUSIC}"'])
    (tmp_path / "audio").mkdir()
    arguments = ["--audio", tmp_path / "audio", "--list", "balanced", "--out", tmp_path / "c.parquet"]
    result = run(tmp_path / "lists", *arguments, "--inventory", tmp_path / "inventory")
    assert result.exit_code == 2
    assert "no clip is left" in result.stderr
    assert (tmp_path / "inventory" / "missing.txt").read_text() == "aaaaaaaaaaa\n"
    assert not (tmp_path / "c.parquet").exists()


def test_the_package_and_the_published_files_agree():
    """The package's own table is the published class list and graph."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"the published lists are not at {PUBLISHED}")
    vocabulary, ontology = audioset.open_classes(PUBLISHED)
    own = Ontology.audioset()
    assert vocabulary.to_dict() == VOCABULARY.to_dict()
    assert {id: set(ontology.parents(id)) for id in ontology.ids} == {id: set(own.parents(id)) for id in own.ids}
