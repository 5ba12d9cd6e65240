"""Laws of `psla tag`: every file has its own row or its own reason, in any format, once, whatever happened before."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file
from typer.testing import CliRunner

from psla.audio.pool import decode_pool
from psla.cli import app
from psla.data.clips import Clips
from psla.data.source import open_source
from psla.files import Journal
from psla.model.file import load_model
from psla.model.inference import predict
from psla.tagging.events import NOTE
from psla.tagging.job import EmbeddingFile, TagJob
from psla.tagging.output import RowSettings
from psla.tagging.tagger import load
from tagging_models import CLASSES, WINDOW, noise, tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")

ANIMAL, RAIN, DOG = CLASSES.ids


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a folder of sounds: two good ones, one that lasts several windows, one broken."""
    home = tmp_path_factory.mktemp("tag")
    tiny_model_file(home, mel_bins=32, thresholds={DOG: 0.01})
    sounds = home / "sounds"
    (sounds / "night").mkdir(parents=True)
    soundfile.write(sounds / "a.wav", noise(4000), 16000)
    (sounds / "b.wav").write_bytes(b"not audio at all")
    soundfile.write(sounds / "night" / "a.flac", np.stack([noise(90000), noise(90000, 1)], axis=1), 44100)
    soundfile.write(sounds / "night" / "c.ogg", noise(12000, 2), 8000)
    (sounds / "notes.txt").write_text("not a sound file")
    (sounds / ".hidden.wav").write_bytes(b"")
    return home


def call(home: Path, *args: object, code: int = 0):
    result = CliRunner().invoke(app, ["tag", str(home / "model.safetensors"), *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def rows(home: Path, *args: object, code: int = 0) -> list[dict]:
    return json.loads(call(home, *args, "--json", code=code).stdout)


def test_every_file_has_its_own_row(home: Path) -> None:
    """A folder is its sound files, sorted; each has what tagging it alone gives, to the bit, or its reason."""
    found = rows(home, home / "sounds", "--top", 3, code=1)
    sounds = home / "sounds"
    names = ["a.wav", "b.wav", "night/a.flac", "night/c.ogg"]
    assert [row["path"] for row in found] == [str(sounds / name) for name in names]
    assert [row["status"] for row in found] == ["tagged", "failed", "tagged", "tagged"]
    tagger = load(home / "model.safetensors")
    for row in found:
        if row["status"] == "tagged":
            result = tagger.tag(row["path"])
            assert {k: v for k, v in row.items() if k not in ("path", "status")} == result.to_dict(3)
    files = list(tagger.tag_files(str(sounds)))  # the same from Python
    assert [file.path for file in files] == [row["path"] for row in found]
    assert [file.result and file.result.to_dict(3)["classes"] for file in files] == [
        row.get("classes") for row in found
    ]
    assert files[1].reason == found[1]["error"]
    assert "not audio" in found[1]["error"]
    assert found[3]["flags"] == ["band-limited"]
    assert found[2]["windows"] > 1


def test_tag_and_predict_agree_to_the_bit(home: Path) -> None:
    """The probabilities that `psla tag --json` prints are those of prediction, as float32."""
    path = home / "sounds" / "night" / "c.ogg"
    cut = home / "short.wav"
    wave, rate = soundfile.read(path, dtype="int16")
    soundfile.write(cut, wave[:4000], rate)
    [row] = rows(home, cut, "--top", 3)
    clip = {"clip_id": "a", "source": "a", "path": str(cut), "split": "evaluation", "labels": []}
    model = load_model(home / "model.safetensors")
    expected = predict(model.network, open_source(Clips.from_rows([clip], CLASSES), 16000), CLASSES).predictions
    printed = {c["id"]: np.float32(c["probability"]) for c in row["classes"]}
    assert [printed[id] for id in CLASSES.ids] == list(np.clip(expected.probabilities[0], 0, 1))


def test_the_table_and_the_csv_say_what_json_says(home: Path) -> None:
    """Three formats, one content; --out writes to a file what would be printed."""
    sounds = home / "sounds"
    found = rows(home, sounds, "--top", 2, code=1)
    lines = list(csv.DictReader(io.StringIO(call(home, sounds, "--top", 2, "--csv", code=1).stdout)))
    assert [(line["path"], line["class_id"], line["name"]) for line in lines if line["status"] == "tagged"] == [
        (row["path"], c["id"], c["name"]) for row in found for c in row.get("classes", ())
    ]
    assert [line["error"] for line in lines if line["status"] == "failed"] == [found[1]["error"]]
    probabilities = [float(line["probability"]) for line in lines if line["status"] == "tagged"]
    assert probabilities == [c["probability"] for row in found for c in row.get("classes", ())]
    table = call(home, sounds, "--top", 2, "--all-levels", code=1)
    for row in found:
        for c in row.get("classes", ()):
            assert f"{c['probability']:.4f}" in table.stdout
    assert f"b.wav: {found[1]['error']}" in table.stderr
    assert "night/c.ogg (1.50 s, 3 windows, band-limited)" in table.stdout
    call(home, sounds, "--top", 2, "--csv", "--out", home / "new" / "tags.csv", code=1)
    assert list(csv.DictReader((home / "new" / "tags.csv").open(newline=""))) == lines


def test_top_and_threshold(home: Path) -> None:
    """--threshold alone shows all that reach it; with --top no more than so many."""
    path = home / "sounds" / "a.wav"
    [everything] = rows(home, path, "--threshold", 0)
    probabilities = sorted((c["probability"] for c in everything["classes"]), reverse=True)
    assert len(probabilities) == 3
    [some] = rows(home, path, "--threshold", probabilities[1])
    assert [c["probability"] for c in some["classes"]] == probabilities[:2]
    [one] = rows(home, path, "--threshold", probabilities[1], "--top", 1)
    assert [c["probability"] for c in one["classes"]] == probabilities[:1]
    [none] = rows(home, path, "--threshold", 1)
    assert none["classes"] == []


def test_classes_by_subtree_and_roll_up(home: Path) -> None:
    """--classes takes a name or id and all kinds of it; --roll-up makes Animal at least as probable as Dog."""
    path = home / "sounds" / "a.wav"
    [row] = rows(home, path, "--classes", "animal", "--top", 9)
    assert {c["id"] for c in row["classes"]} == {DOG, ANIMAL}
    [row] = rows(home, path, "--classes", DOG, "--classes", "Natural sounds", "--top", 9)
    assert {c["id"] for c in row["classes"]} == {DOG, RAIN}
    [plain], [rolled] = (rows(home, path, "--top", 9, *more, "--events") for more in ((), ("--roll-up",)))
    before, after = ({c["id"]: c["probability"] for c in row["classes"]} for row in (plain, rolled))
    assert after == {**before, ANIMAL: max(before[ANIMAL], before[DOG])}
    assert before[ANIMAL] < before[DOG]  # or this shows nothing
    for words, reason in ((["--classes", "no such"], "not a class"), (["--classes", "Speech"], "nor any kind")):
        assert reason in call(home, path, *words, code=2).stderr


def test_deepest_excluded_and_speech(home: Path) -> None:
    """Tables leave out Animal where Dog stands for it, JSON does not unless asked; --exclude; no speech to drop."""
    path = home / "sounds" / "a.wav"
    [row], [deepest] = (rows(home, path, "--top", 9, *more) for more in ((), ("--deepest",)))
    found = {c["id"]: c["probability"] for c in row["classes"]}
    assert found[DOG] >= found[ANIMAL] / 2  # or this shows nothing
    assert [c["id"] for c in deepest["classes"]] == [c["id"] for c in row["classes"] if c["id"] != ANIMAL]
    table, everything = call(home, path).stdout, call(home, path, "--all-levels").stdout
    assert ("Animal" in table, "Animal" in everything) == (False, True)
    [row] = rows(home, path, "--exclude", "dog", "--exclude", "RAIN", "--roll-up", "--top", 9)
    assert {c["id"]: c["probability"] for c in row["classes"]} == {ANIMAL: found[ANIMAL]}
    [row] = rows(home, path, "--classes", "animal", "--exclude", DOG, "--events", "--threshold", 0.01)
    assert [c["id"] for c in row["classes"]] == [ANIMAL]
    assert {event["id"] for event in row["events"]} <= {ANIMAL}
    for option in (["--drop-speech"], ["--speech-threshold", 0.5]):
        assert "none of the model's 3 classes is speech" in call(home, path, *option, code=2).stderr


def test_events_say_where_they_come_from(home: Path) -> None:
    """Events use the model's own thresholds unless one is given, and say that the training knew no onsets."""
    path = home / "sounds" / "night" / "a.flac"
    result = call(home, path, "--events", "--json")
    [row] = json.loads(result.stdout)
    assert NOTE in result.stderr
    assert any(event["id"] == DOG for event in row["events"])  # the model's own threshold for dogs is 0.01
    assert all(0 <= e["onset_s"] < e["offset_s"] <= row["duration_s"] for e in row["events"])
    [none] = rows(home, path, "--events", "--threshold", 1)
    assert none["events"] == []
    lines = list(csv.DictReader(io.StringIO(call(home, path, "--events", "--csv").stdout)))
    assert [float(line["onset_s"]) for line in lines] == [event["onset_s"] for event in row["events"]]
    assert f"{row['events'][0]['offset_s']:.2f}" in call(home, path, "--events").stdout


def test_label_tracks(home: Path, tmp_path: Path) -> None:
    """--audacity: onset, tab, offset, tab, name; one file to stdout, several each to a file of its own in --out."""
    sounds = home / "sounds"
    text = call(home, sounds / "night" / "a.flac", "--audacity", "--threshold", 0.01).stdout
    times = [tuple(map(float, line.split("\t")[:2])) for line in text.splitlines()]
    assert times
    assert all(onset < offset for onset, offset in times)
    call(home, sounds, "--audacity", "--threshold", 0.01, "--out", tmp_path, code=1)
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.txt"))
    assert written == ["a.wav.txt", "night/a.flac.txt", "night/c.ogg.txt"]  # b.wav is broken
    assert (tmp_path / "night" / "a.flac.txt").read_text() == text
    assert "--out" in call(home, sounds, "--audacity", code=2).stderr


def test_embeddings_are_written(home: Path, tmp_path: Path) -> None:
    """--embeddings: what Tagger.embed gives, for the files that could be read, with their paths; both formats alike."""
    for name in ("e.safetensors", "e.npz"):
        call(home, home / "sounds", "--embeddings", tmp_path / name, code=1)
    with np.load(tmp_path / "e.npz") as archive:
        arrays = dict(archive)
    other = load_file(tmp_path / "e.safetensors")
    assert all(np.array_equal(arrays[name], other[name]) for name in ("clips", "steps", "offsets", "paths"))
    paths = bytes(arrays["paths"]).decode().split("\n")
    assert [Path(path).name for path in paths] == ["a.wav", "a.flac", "c.ogg"]
    tagger = load(home / "model.safetensors")
    for i, path in enumerate(paths):
        embedding = tagger.embed(path)
        assert np.array_equal(arrays["clips"][i], embedding.clip)
        assert np.array_equal(arrays["steps"][arrays["offsets"][i] : arrays["offsets"][i + 1]], embedding.steps)


def test_folders_patterns_and_doubles(home: Path) -> None:
    """A pattern is what it matches; a file that is meant twice is tagged once; a missing one has its reason."""
    sounds = home / "sounds"
    found = rows(home, sounds / "**" / "*.wav", sounds / "night", sounds / "night" / ".." / "a.wav", code=1)
    assert [Path(row["path"]).name for row in found] == ["a.wav", "b.wav", "a.flac", "c.ogg"]
    [missing] = rows(home, home / "none.wav", code=1)
    assert "No such file" in missing["error"]
    (home / "empty").mkdir(exist_ok=True)
    assert "without sound files" in call(home, home / "empty", code=2).stderr
    assert "matches" in call(home, home / "*.mp3", code=2).stderr


def test_odd_names(home: Path, tmp_path: Path) -> None:
    """A name that is not UTF-8, or holds a newline, is tagged, journalled and comes back in JSON."""
    names = [os.fsdecode(b"caf\xe9.wav"), "two\nlines.wav", 'é,".wav']
    for name in names:
        try:
            shutil.copy(home / "sounds" / "a.wav", tmp_path / name)
        except (OSError, UnicodeEncodeError):
            pytest.skip("this file system does not take such names")
    for _ in range(2):
        found = rows(home, tmp_path, "--journal", tmp_path / "j.jsonl")
        assert sorted(Path(row["path"]).name for row in found) == sorted(names)
    call(home, tmp_path, "--csv")
    call(home, tmp_path)


def test_a_journal_is_gone_on_with(home: Path, tmp_path: Path) -> None:
    """Finished files are read from the journal; a changed file, another setting and another model are done anew."""
    sounds, journal = tmp_path / "sounds", tmp_path / "j.jsonl"
    shutil.copytree(home / "sounds", sounds)
    first = rows(home, sounds, "--journal", journal, code=1)
    lines = journal.read_text().splitlines()
    assert len(lines) == 4
    spoiled = [{**record, **({"windows": 77} if "windows" in record else {})} for record in Journal.read(journal)]
    journal.write_text("".join(json.dumps(record) + "\n" for record in spoiled))
    again = rows(home, sounds, "--journal", journal, code=1)  # from the journal, not from the files
    assert again == [{**row, **({"windows": 77} if "windows" in row else {})} for row in first]
    assert len(journal.read_text().splitlines()) == 4
    soundfile.write(sounds / "b.wav", noise(3000), 16000)  # mended
    mended = rows(home, sounds, "--journal", journal)
    assert mended[1]["status"] == "tagged"
    assert [row.get("windows") for row in mended] == [77, 1, 77, 77]
    assert len(journal.read_text().splitlines()) == 5
    rows(home, sounds, "--journal", journal, "--top", 1)
    rows(home, sounds, "--journal", journal, "--hop", 0.3)
    assert len(journal.read_text().splitlines()) == 13
    assert len({record["key"] for record in Journal.read(journal)}) == 13
    assert "choose one" in call(home, sounds, "--journal", journal, "--embeddings", "e.npz", code=2).stderr


def test_what_is_refused(home: Path) -> None:
    """Options that exclude each other, values out of range, a model that is none: one sentence, exit code 2."""
    path = home / "sounds" / "a.wav"
    assert "exclude each other" in call(home, path, "--json", "--csv", code=2).stderr
    assert "release must be" in call(home, path, "--events", "--release", 2, code=2).stderr
    assert "max_gap_s must be" in call(home, path, "--events", "--max-gap", -1, code=2).stderr
    assert "hop_s must be" in call(home, path, "--hop", 99, code=2).stderr
    assert ".safetensors" in call(home, path, "--embeddings", "e.txt", code=2).stderr
    (home / "none.safetensors").write_bytes(path.read_bytes())
    result = CliRunner().invoke(app, ["tag", str(home / "none.safetensors"), str(path)])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_tagging_imports_only_what_it_uses(home: Path) -> None:
    """Lightning, matplotlib, polars and the recipe are not loaded by `psla tag`, nor torch by `psla --help`."""
    code = (
        "import sys; from typer.testing import CliRunner; from psla.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)\n"
        "result = CliRunner().invoke(app, ['tag', *sys.argv[1:]]); assert result.exit_code == 0, result.output\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'lightning_fabric', 'matplotlib', 'polars'}))\n"
        "print([name for name in sys.modules if name.startswith(('psla.training', 'psla.lab'))])\n"
    )
    command = [sys.executable, "-c", code, str(home / "model.safetensors"), str(home / "sounds" / "a.wav")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "False False\n[]\n[]\n", done.stderr


def small_files(folder: Path, count: int) -> Path:
    """So many short files, one in twenty broken."""
    folder.mkdir()
    for i in range(count):
        if i % 20 == 7:
            (folder / f"{i:04}.wav").write_bytes(b"RIFF broken")
        else:
            soundfile.write(folder / f"{i:04}.wav", noise(800 + 3 * i, seed=i), 16000)
    return folder


def killed_runs(home: Path, tmp_path: Path, kills: int) -> None:
    """Kill `psla tag` again and again, each time a little later, then let it finish: as if nothing had happened."""
    sounds, journal = small_files(tmp_path / "many", 500), tmp_path / "j.jsonl"
    undisturbed = rows(home, sounds, "--journal", tmp_path / "whole.jsonl", code=1)
    assert len(undisturbed) == 500
    command = [sys.executable, "-m", "psla", "tag", str(home / "model.safetensors"), str(sounds)]
    command += ["--journal", str(journal), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    chance = random.Random(0)
    moments = sorted(chance.randrange(1, 480) for _ in range(kills))
    for lines in moments:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        ) as process:
            while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
                time.sleep(0.002)
            time.sleep(chance.random() * 0.02)
            process.send_signal(signal.SIGKILL)
        assert process.returncode in (-signal.SIGKILL, 1)  # 1: it was faster
    kept = len(Journal.read(journal))
    assert moments[-1] <= kept
    assert rows(home, sounds, "--journal", journal, code=1) == undisturbed
    records, whole = Journal.read(journal), Journal.read(tmp_path / "whole.jsonl")
    assert records == whole
    assert len({record["key"] for record in records}) == 500


@pytest.mark.timeout(900)  # it starts the program five times
@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_killed_three_times(home: Path, tmp_path: Path) -> None:
    """SIGKILL at three moments of tagging 500 files, then a last run: the rows of an undisturbed run, none twice."""
    killed_runs(home, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_killed_twenty_times(home: Path, tmp_path: Path) -> None:
    """The same, with twenty moments."""
    killed_runs(home, tmp_path, 20)


def test_a_file_longer_than_a_batch_stays_apart_from_its_neighbours(home: Path, tmp_path: Path) -> None:
    """Short, long, broken, truncated and short files in one batch: each has what it has alone."""
    waves = {"a": noise(2000), "b": noise(11 * WINDOW + 99, 1), "e": noise(4000, 2)}
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.flac", wave, 16000)
    whole = (tmp_path / "b.flac").read_bytes()
    (tmp_path / "c.flac").write_bytes(b"")
    (tmp_path / "d.flac").write_bytes(whole[: len(whole) * 2 // 3])
    found = rows(home, tmp_path, "--top", 3, code=1)
    assert [row["status"] for row in found] == ["tagged", "tagged", "failed", "failed", "tagged"]
    tagger = load(home / "model.safetensors")
    for row in found:
        if row["status"] == "tagged":
            wave = waves[Path(row["path"]).stem]
            assert row["classes"] == tagger.tag(wave, 16000).to_dict(3)["classes"]


def test_a_journal_beside_embeddings_is_refused(tmp_path: Path) -> None:
    """What a journal skips would get no embedding, so both together are refused before any file is read."""
    job = TagJob(load(tiny_model_file(tmp_path)), "model", RowSettings(), EmbeddingFile(tmp_path / "e.npz"))
    with (
        Journal(tmp_path / "rows.jsonl") as journal,
        decode_pool(1) as pool,
        pytest.raises(ValueError, match="choose one"),
    ):
        next(job.rows([str(tmp_path / "a.wav")], pool, journal))


def test_a_journal_with_events_is_gone_on_with(home: Path, tmp_path: Path) -> None:
    """Law: rows with events are rows of a journal, those of before without their mean probability, too."""
    sounds, journal = tmp_path / "sounds", tmp_path / "j.jsonl"
    sounds.mkdir()
    soundfile.write(sounds / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 40000), 16000)
    asked = (sounds, "--events", "--threshold", "0.01", "--journal", journal)
    first = rows(home, *asked)
    assert first[0]["events"]
    assert rows(home, *asked) == first
    (kept,) = Journal.read(journal)
    for event in kept["events"]:
        del event["mean_probability"]
    journal.write_text(json.dumps(kept) + "\n")
    assert rows(home, *asked)[0]["events"] == kept["events"]
