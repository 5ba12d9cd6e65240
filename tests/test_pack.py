"""Laws of packs: the same bytes however they were made, no clip lost in silence, nothing damaged in silence."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
from typer.testing import CliRunner

from psla.audio import addresses
from psla.audio import decode as audio
from psla.audio.decode import AudioError
from psla.cli import app
from psla.data.clips import Clips, ClipsError
from psla.data.pack import plan as planning
from psla.data.pack import shard
from psla.data.pack import write as packing
from psla.data.pack.format import HEADER_BYTES, PackError, shard_path
from psla.data.pack.reading import Pack, PackSource
from psla.data.pack.verify import check
from psla.data.pack.write import merge, pack
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary

FAKE = "fake_decoder:decode"
RATE = 16000


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path inside."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def row(clip_id: str, path: str | Path, **more: Any) -> dict[str, Any]:
    return {"clip_id": clip_id, "source": clip_id, "path": str(path), "split": "train", "labels": ["dog"]} | more


def clips_of(rows: list[dict[str, Any]]) -> Clips:
    return Clips.from_rows(rows, Vocabulary(["dog", "rain"]), "mine")


def fakes(*names: str) -> Clips:
    """Clips for the fake decoder, whose names say what it does with them."""
    return clips_of([row(f"{index} {name}", name) for index, name in enumerate(names)])


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """These packs need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Files of many lengths, rates and spans, one sixth of them broken in one of four ways; one soundscape."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(23):
        rate, channels = (16000, 1) if index % 2 else (44100, 2)
        path = folder / f"{index}.wav"
        soundfile.write(path, generator.normal(0, 0.1, (round(rate * generator.uniform(0.3, 1.5)), channels)), rate)
        span = {"start_s": 0.1, "end_s": 0.25} if index % 5 == 0 else {}
        events = [{"class_id": "dog", "onset_s": 0.0, "offset_s": 0.1}]
        split = "evaluation" if index % 4 == 0 else "train"
        rows.append(row(f"clip {index}", path, split=split, true_labels=["rain"], events=events, note=index, **span))
    (folder / "3.wav").write_text("these are words, not samples")
    (folder / "8.wav").write_bytes(b"")
    (folder / "9.wav").write_bytes((folder / "7.wav").read_bytes()[:2000])
    (folder / "22.wav").unlink()
    rows[12]["path"], rows[12]["start_s"], rows[12]["end_s"] = "soundscape://7/3?seconds=0.5", None, None
    return clips_of(rows)


@pytest.fixture(scope="module")
def undisturbed(corpus: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "pack"
    pack(corpus, folder, RATE, workers=1, shard_clips=5)
    return folder


def test_a_pack_holds_what_the_files_hold(corpus: Clips, undisturbed: Path) -> None:
    """Each clip is in the pack as reading its file gives it, or in the list of the rejected with the same reason."""
    packed = Pack.open(undisturbed)
    files, source = open_source(corpus, RATE), open_source(packed.clips, RATE)
    place = {id: index for index, id in enumerate(source.clip_ids)}
    rejected = {id: (path, reason) for id, path, reason in packed.rejected}
    assert list(rejected) == ["clip 3", "clip 8", "clip 9", "clip 22"]
    assert [*place] == [id for id in corpus.clip_ids if id not in rejected]
    for index, id in enumerate(corpus.clip_ids):
        try:
            waveform = files.read(index)
        except AudioError as error:
            found = (error.path, error.reason)
            assert rejected[id] == found
        else:
            assert np.array_equal(source.read(place[id]), waveform)


def test_the_table_of_a_pack_is_that_of_the_clips(corpus: Clips, undisturbed: Path) -> None:
    """Sources, splits, labels, events and columns of one's own are kept; so is where the clip came from."""
    table = Pack.open(undisturbed).clips
    kept = corpus.filter(pl.col("clip_id").is_in(table.clip_ids)).frame
    same = [column for column in kept.columns if column not in ("path", "start_s", "end_s")]
    assert table.frame.select(same).equals(kept.select(same))
    for column in ("path", "start_s", "end_s"):
        assert table.frame[f"original_{column}"].equals(kept[column])
    assert table.name == corpus.name
    assert table.vocabulary.to_dict() == corpus.vocabulary.to_dict()
    info = json.loads((undisturbed / "pack.json").read_text())
    assert (info["clips"], info["rejected"], info["splits"]) == (19, 4, table.counts())
    assert info["vocabulary_sha256"] == corpus.vocabulary.hash
    assert info["samples"] == sum(info["shard_samples"]) == table.frame["samples"].sum()
    assert len(list((undisturbed / "waveforms").iterdir())) == 5


def test_workers_and_parts_do_not_show(corpus: Clips, undisturbed: Path, tmp_path: Path) -> None:
    """Three workers, or three parts in any order and then merged, give the bytes that one worker gives."""
    assert pack(corpus, tmp_path / "three", RATE, workers=3, shard_clips=5)
    assert contents(tmp_path / "three") == contents(undisturbed)
    for number in (3, 1, 2):
        with pytest.raises(PackError, match=r"shards are missing"):
            merge(tmp_path / "parts") if number != 3 else pack_and_merge(corpus, tmp_path / "parts")
        assert pack(corpus, tmp_path / "parts", RATE, workers=1, part=(number, 3), shard_clips=5) is None
    merge(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(undisturbed)


def pack_and_merge(clips: Clips, folder: Path) -> None:
    pack(clips, folder, RATE, workers=1, part=(3, 3), shard_clips=5)
    merge(folder)


def test_a_pack_may_be_moved(corpus: Clips, undisturbed: Path, tmp_path: Path) -> None:
    """The table finds its waveforms wherever the folder lies; without the folder it says what is missing."""
    shutil.copytree(undisturbed, tmp_path / "moved, ü")
    here, there = (open_source(Clips.read(folder), RATE) for folder in (undisturbed, tmp_path / "moved, ü"))
    assert all(np.array_equal(here.read(index), there.read(index)) for index in range(len(here)))
    by_file = open_source(Clips.read(tmp_path / "moved, ü" / "clips.parquet"), RATE)
    assert np.array_equal(by_file.read(3), here.read(3))
    with pytest.raises(ClipsError, match="does not say in which folder its pack lies"):
        open_source(Clips.from_rows([row("a", "pack://00000/0+1")], corpus.vocabulary), RATE)


def test_packs_files_and_soundscapes_mix(corpus: Clips, undisturbed: Path, tmp_path: Path) -> None:
    """A table may hold rows of two packs, files and soundscapes in any order; it may be written, read and packed."""
    shutil.copytree(undisturbed, tmp_path / "second")
    first, second = Clips.read(undisturbed), Clips.read(tmp_path / "second")
    second = Clips(second.frame.with_columns(pl.format("again {}", "clip_id").alias("clip_id")), second.vocabulary)
    files = Clips(corpus.frame.with_columns(pl.format("file {}", "clip_id").alias("clip_id")), corpus.vocabulary)
    mixed = first.join(second).join(files.filter(~pl.col("note").is_in([3, 8, 9, 22])))
    mixed = mixed.filter(pl.Series(np.random.default_rng(1).random(len(mixed)) < 0.5))
    mixed = Clips(mixed.frame.sample(fraction=1.0, shuffle=True, seed=0), mixed.vocabulary)
    mixed.write(tmp_path / "mixed.parquet")
    source, plain = open_source(Clips.read(tmp_path / "mixed.parquet"), RATE), open_source(corpus, RATE)
    assert source.clip_ids == mixed.clip_ids
    for index, note in enumerate(mixed.frame["note"]):
        assert np.array_equal(source.read(index), plain.read(note))
    pack(mixed, tmp_path / "repacked", RATE, workers=1)
    again = open_source(Clips.read(tmp_path / "repacked"), RATE)
    assert all(np.array_equal(again.read(index), source.read(index)) for index in range(len(source)))


def test_a_part_of_a_packed_clip(undisturbed: Path) -> None:
    """start_s and end_s of a row cut the packed clip; a part behind its end is an AudioError, not silence."""
    table = Clips.read(undisturbed)
    spans = {0: (0.05, 0.1), 1: (0.2, None), 2: (None, 0.1), 3: (None, 100.0), 4: (90.0, None)}
    start, end = ([spans.get(index, (None, None))[side] for index in range(len(table))] for side in (0, 1))
    cut = Clips(
        table.frame.with_columns(
            pl.Series("start_s", start, dtype=pl.Float64), pl.Series("end_s", end, dtype=pl.Float64)
        ),
        table.vocabulary,
    )
    whole, source = open_source(table, RATE), open_source(cut, RATE)
    assert np.array_equal(source.read(0), whole.read(0)[800:1600])
    assert np.array_equal(source.read(1), whole.read(1)[3200:])
    assert np.array_equal(source.read(2), whole.read(2)[:1600])
    assert np.array_equal(source.read(3), whole.read(3))
    assert np.array_equal(source.read(5), whole.read(5))
    with pytest.raises(AudioError, match="begins where the clip has ended"):
        source.read(4)


def test_processes_and_threads_share_a_pack(undisturbed: Path) -> None:
    """A source goes to another process without its maps; threads that read at once get the right clips; no writing."""
    source = open_source(Clips.read(undisturbed), RATE)
    expected = [source.read(index).copy() for index in range(len(source))]
    again = pickle.loads(pickle.dumps(source))
    assert isinstance(again, PackSource)
    assert not any(mapped is not None for mapped in again._maps)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(again.read, [index % len(source) for index in range(400)]))
    assert all(np.array_equal(waveform, expected[index % len(source)]) for index, waveform in enumerate(found))
    with pytest.raises(ValueError, match="read-only"):
        again.read(0)[0] = 1
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match=r"clips 0 \.\. 18"):
            again.read(index)


def test_a_decoder_that_crashes_or_hangs_costs_one_clip(tmp_path: Path) -> None:
    """Crashing, hanging and failing clips, mixed with good ones, are rejected with reasons; the rest is packed."""
    names = ("good:5", "segfault", "good:6", "hang", "exit:1", "good:7", "refuse", "fail", "good:8")
    packed = pack(fakes(*names), tmp_path / "pack", RATE, workers=2, shard_clips=4, timeout_s=0.4, decoder=FAKE)
    assert packed is not None
    assert packed.clips.clip_ids == ["0 good:5", "2 good:6", "5 good:7", "8 good:8"]
    assert [open_source(packed.clips, RATE).read(index).tolist() for index in range(4)] == [
        [n] * n for n in (5, 6, 7, 8)
    ]
    assert {id: reason.split(" (")[0] for id, _, reason in packed.rejected} == {
        "1 segfault": "the decoder crashed",
        "3 hang": "the decoder did not answer for 0.4 s",
        "4 exit:1": "the decoder crashed",
        "6 refuse": "no audio",
        "7 fail": "the decoder failed: KeyError: 'a fault of the decoder'",
    }


def test_a_pack_of_rejected_clips_alone(tmp_path: Path) -> None:
    """Where no clip can be decoded, the pack is empty and whole, and the command says so and fails."""
    clips = fakes("refuse", "refuse")
    packed = pack(clips, tmp_path / "pack", RATE, workers=1, shard_clips=1, decoder=FAKE)
    assert packed is not None
    assert (len(packed.clips), len(packed.rejected), check(packed)) == (0, 2, [])


def test_every_flipped_byte_is_found_and_named(undisturbed: Path, tmp_path: Path) -> None:
    """One changed byte anywhere in a shard is found; in the samples, exactly the clip that it lies in is named."""
    shutil.copytree(undisturbed, tmp_path / "pack")
    packed = Pack.open(tmp_path / "pack")
    assert check(packed) == []
    frame, generator = packed.clips.frame, random.Random(0)
    for _ in range(20):
        clip = generator.choice(frame.to_dicts())
        file = shard_path(packed.folder, clip["shard"])
        before = file.read_bytes()
        position = HEADER_BYTES + 2 * clip["offset"] + generator.randrange(2 * clip["samples"])
        with open(file, "r+b") as opened:
            opened.seek(position)
            opened.write(bytes([before[position] ^ 1 << generator.randrange(8)]))
        assert [damage.clip_id for damage in check(packed)] == [clip["clip_id"]]
        with open(file, "r+b") as opened:
            opened.seek(generator.randrange(HEADER_BYTES))
            opened.write(b"\0")
        in_shard = frame.filter(shard=clip["shard"])["clip_id"].to_list()
        assert [damage.clip_id for damage in check(packed)] == in_shard
        file.write_bytes(before)
    assert check(packed) == []


def test_a_shard_that_is_cut_gone_or_longer_is_found(undisturbed: Path, tmp_path: Path) -> None:
    """`check` names the clips that are not whole; a source refuses at once what would end the process when read."""
    shutil.copytree(undisturbed, tmp_path / "pack")
    packed = Pack.open(tmp_path / "pack")
    file = shard_path(packed.folder, 1)
    in_shard = packed.clips.frame.filter(shard=1)["clip_id"].to_list()
    before = file.read_bytes()
    file.write_bytes(before[:-2])
    assert [damage.clip_id for damage in check(packed)] == in_shard[-1:]
    with pytest.raises(PackError, match="is shorter than its clips"):
        open_source(packed.clips, RATE)
    file.write_bytes(before + b"\0\0")
    assert [damage.reason for damage in check(packed)] == ["00001.npy is 2 bytes too long"] * len(in_shard)
    file.unlink()
    assert [damage.clip_id for damage in check(packed)] == in_shard
    with pytest.raises(PackError, match="is missing"):
        open_source(packed.clips, RATE)
    (packed.folder / "rejected.csv").write_text("clip_id,path,reason\n")
    with pytest.raises(PackError, match=r"rejected\.csv is not the file that was packed"):
        check(packed)


def test_what_is_no_pack_of_this_version_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    """Another version, an unfinished pack, a damaged pack.json, no pack and nothing at all: one sentence for each."""
    shutil.copytree(undisturbed, tmp_path / "pack")
    info = json.loads((tmp_path / "pack" / "pack.json").read_text())
    del info["checksum"]
    for text, message in (
        (json.dumps(info | {"version": 2}), "has pack format version 2, this psla reads 1"),
        (json.dumps(info | {"sample_rate": None}), "states the sample rate None"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
    ):
        (tmp_path / "pack" / "pack.json").write_text(text)
        with pytest.raises(PackError, match=message):
            Clips.read(tmp_path / "pack")
    (tmp_path / "pack" / "pack.json").unlink()
    with pytest.raises(PackError, match=r"is no pack: it holds no pack\.json"):
        Clips.read(tmp_path / "pack")
    (tmp_path / "pack" / "unfinished").mkdir()
    with pytest.raises(PackError, match="is a pack that is not finished"):
        Pack.open(tmp_path / "pack")
    with pytest.raises(FileNotFoundError):
        Pack.open(tmp_path / "none")


def test_a_pack_of_another_rate_is_refused(corpus: Clips, undisturbed: Path, tmp_path: Path) -> None:
    """A pack holds the rate that it was asked for, says so, and feeds no front end of another; nor does its address."""
    fast = pack(corpus, tmp_path / "fast", 32000, workers=1)
    assert fast is not None
    assert (fast.sample_rate, Pack.open(undisturbed).sample_rate) == (32000, RATE)
    files, source = open_source(corpus.select(fast.clips.clip_ids), 32000), open_source(fast.clips, 32000)
    assert source.sample_rate == files.sample_rate == 32000
    assert all(np.array_equal(source.read(index), files.read(index)) for index in range(len(source)))
    sentence = r"fast holds 32000 Hz, the front end hears 16000 Hz: pack the clips again with --sample-rate 16000"
    mixed = Clips(corpus.frame.with_columns(pl.format("file {}", "clip_id").alias("clip_id")), corpus.vocabulary)
    for table in (fast.clips, fast.clips.join(mixed)):
        with pytest.raises(PackError, match=sentence):
            open_source(table, RATE)
    address = fast.clips.frame["path"][0]
    assert np.array_equal(addresses.read(address, 32000, 0.05, 0.1), source.read(0)[1600:3200])
    with pytest.raises(AudioError, match=sentence):
        addresses.read(address, RATE)


def test_a_pack_is_gone_on_with_at_its_own_rate(tmp_path: Path) -> None:
    """Another rate, or a plan of an earlier psla, which states none, is refused in one sentence."""
    clips, folder = fakes("good:1", "good:2", "good:3"), tmp_path / "pack"
    pack(clips, folder, RATE, workers=1, part=(2, 2), shard_clips=2, decoder=FAKE)
    plan = folder / "unfinished" / "plan.json"
    for finished in (False, True):
        if finished:
            pack(clips, folder, RATE, workers=1, shard_clips=2, decoder=FAKE)
        with pytest.raises(PackError, match="was begun at 16000 Hz, not 32000 Hz: give that rate, or another folder"):
            pack(clips, folder, 32000, shard_clips=2, decoder=FAKE)
    (folder / "pack.json").unlink()
    plan.parent.mkdir()
    plan.write_text('{"version": 1, "name": "mine"}')
    with pytest.raises(PackError, match="begun by an earlier psla, without a sample rate"):
        pack(clips, folder, RATE, shard_clips=2, decoder=FAKE)


def test_another_table_is_not_packed_into_it(tmp_path: Path) -> None:
    """A pack that was begun or finished is gone on with for the same table and shards alone."""
    clips = fakes("good:1", "good:2", "good:3")
    folder = tmp_path / "pack"
    pack(clips, folder, RATE, workers=1, part=(2, 2), shard_clips=2, decoder=FAKE)
    relabelled = Clips(clips.frame.with_columns(pl.lit("validation").alias("split")), clips.vocabulary, clips.name)
    other = fakes("good:1", "good:2", "good:4")
    for finished in (False, True):
        if finished:
            pack(clips, folder, RATE, workers=1, shard_clips=2, decoder=FAKE)
        before = contents(folder)
        for table in (relabelled, other):
            with pytest.raises(PackError, match="was begun with another table of clips"):
                pack(table, folder, RATE, shard_clips=2, decoder=FAKE)
        with pytest.raises(PackError, match="was begun with 2 clips a shard, not 3"):
            pack(clips, folder, RATE, shard_clips=3, decoder=FAKE)
        assert contents(folder) == before
    assert pack(clips, folder, RATE, shard_clips=2, decoder=FAKE) == Pack.open(folder)
    plan = json.dumps({"version": 2})
    (folder / "pack.json").unlink()
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "plan.json").write_text(plan)
    with pytest.raises(PackError, match="was begun with pack format version 2"):
        pack(clips, folder, RATE, shard_clips=2, decoder=FAKE)


def test_a_folder_that_cannot_be_a_pack_is_left_alone(tmp_path: Path) -> None:
    """A folder with other files, a file, and a folder that cannot be written are refused and not touched."""
    clips = fakes("good:1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("do not delete")
    with pytest.raises(PackError, match="holds other files"):
        pack(clips, tmp_path / "full", RATE, decoder=FAKE)
    assert list(contents(tmp_path / "full")) == ["thesis.tex"]
    with pytest.raises(PackError, match="cannot be written"):
        pack(clips, tmp_path / "full" / "thesis.tex", RATE, decoder=FAKE)
    with pytest.raises(ValueError, match="parts are counted from 1/3 to 3/3"):
        pack(clips, tmp_path / "new", RATE, part=(0, 3))
    with pytest.raises(ValueError, match="1 clip or more"):
        pack(clips, tmp_path / "new", RATE, shard_clips=0)
    with pytest.raises(ValueError, match="1 Hz or more, not 0"):
        pack(clips, tmp_path / "new", 0)
    with pytest.raises(PackError, match="nothing to pack"):
        pack(clips_of([]), tmp_path / "new", RATE)
    assert not (tmp_path / "new").exists()


def test_a_read_only_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written, that is said before anything is decoded."""
    (tmp_path / "read only").mkdir()
    if os.geteuid() == 0:  # for whom no folder is read-only

        def refuse(self: Path, *arguments: Any, **more: Any) -> None:
            raise PermissionError(errno.EROFS, os.strerror(errno.EROFS), str(self))

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        (tmp_path / "read only").chmod(0o500)
    with pytest.raises(PackError, match=r"cannot be written .*: give another folder"):
        pack(fakes("good:1"), tmp_path / "read only" / "pack", RATE, decoder=FAKE)


def test_a_disk_that_is_too_small_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The space is estimated from the spans, and from a sample of the clips without; too little: nothing is begun."""
    free = {"bytes": 0}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: usage._replace(free=free["bytes"]))
    rows = [row(str(index), "good:1600", start_s=0.0, end_s=0.1) for index in range(10)]
    rows += [row(str(index), "many:2") for index in range(10, 20)]
    needed = 10 * 3200 + 10 * 6400
    free["bytes"] = needed
    with pytest.raises(PackError, match=r"about 104\.0 kB more are needed, and the disk has 96\.0 kB free: make room"):
        pack(clips_of(rows), tmp_path / "pack", RATE, workers=1, decoder=FAKE)
    assert not any((tmp_path / "pack" / "waveforms").iterdir())
    free["bytes"] = needed + 20 * 400
    assert pack(clips_of(rows), tmp_path / "pack", RATE, workers=1, decoder=FAKE) is not None


@pytest.mark.parametrize("moment", ["samples", "rejected", "index", "table", "watched"])
def test_a_full_disk_leaves_a_pack_that_can_be_resumed(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the disk fills up, that is one sentence; with room again, the same call finishes the same pack."""
    clips = fakes(*["good:5", "refuse", "many:2"] * 4)
    pack(clips, tmp_path / "expected", RATE, workers=1, shard_clips=3, decoder=FAKE)
    folder = tmp_path / "pack"
    calls = 0

    def full(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3 and moment != "table":
            return original(*arguments, **more)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = {
        "samples": (packing.ShardWriter, "add"),
        "rejected": (shard, "write_rejected"),
        "index": (packing.ShardWriter, "_table"),
        "table": (packing, "write_json"),
        "watched": (planning.shutil, "disk_usage"),
    }[moment]
    original = getattr(*where)
    with monkeypatch.context() as patch:
        if moment == "watched":
            full_disk = original(tmp_path)._replace(free=1000)
            patch.setattr(*where, lambda path: original(path) if next(count) < 3 else full_disk)
            count = iter(range(100))
        else:
            patch.setattr(*where, full)
        with pytest.raises(PackError, match="make room and run the same command again"):
            pack(clips, folder, RATE, workers=2, shard_clips=3, decoder=FAKE)
    with pytest.raises(PackError, match="is a pack that is not finished"):
        Pack.open(folder)
    assert not [name for name in contents(folder) if Path(name).name.startswith(".")]
    pack(clips, folder, RATE, workers=2, shard_clips=3, decoder=FAKE)
    assert contents(folder) == contents(tmp_path / "expected")


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed pack decodes the missing shards alone; a finished one decodes nothing."""
    clips = fakes(*["good:5"] * 9)
    pack(clips, tmp_path / "pack", RATE, workers=1, part=(2, 3), shard_clips=3, decoder=FAKE)
    states: list[packing.Progress] = []
    pack(clips, tmp_path / "pack", RATE, workers=1, shard_clips=3, decoder=FAKE, progress=states.append)
    assert [(state.total, state.resumed, state.done) for state in states] == [(9, 3, 3 + n) for n in range(7)]
    monkeypatch.setattr(packing, "DecodePool", None)
    assert pack(clips, tmp_path / "pack", RATE, shard_clips=3) is not None


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from psla.data.clips import Clips
from psla.data.pack.write import pack
clips = Clips.read({table!r})
print("begun", flush=True)
pack(clips, {folder!r}, 16000, workers=2, shard_clips={shard_clips}, decoder={decoder!r})
print("done", flush=True)
"""


def start(clips: Clips, folder: Path, shard_clips: int) -> subprocess.Popen:
    """A process that packs; returns when it begins."""
    table = folder.with_suffix(".parquet")
    clips.write(table)
    tests = str(Path(__file__).parent)
    script = SCRIPT.format(tests=tests, table=str(table), folder=str(folder), shard_clips=shard_clips, decoder=FAKE)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


def end(process: subprocess.Popen) -> None:
    """Kill it, and close its pipes."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def kill_and_resume(times: int, folder: Path, seed: int) -> None:
    clips = fakes(*["many:3", "good:9", "refuse"] * 40)
    process = start(clips, folder / "expected", 15)
    began = time.monotonic()
    assert process.communicate()[0] == b"done\n"
    seconds = time.monotonic() - began
    generator = random.Random(seed)
    expected = contents(folder / "expected")
    for time_ in range(times):
        out = folder / f"{time_}"
        process = start(clips, out, 15)
        time.sleep(generator.uniform(0.0, seconds))
        end(process)
        assert pack(clips, out, RATE, workers=1, shard_clips=15, decoder=FAKE) is not None
        assert contents(out) == expected
        shutil.rmtree(out)


def test_a_killed_pack_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL at a random moment, three times: what another call makes of the rest is the undisturbed pack."""
    kill_and_resume(3, tmp_path, seed=0)


@pytest.mark.slow
def test_a_pack_killed_twenty_times_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """As above, at twenty other moments."""
    kill_and_resume(20, tmp_path, seed=1)


STEPS = """
import os
steps, renamed = {steps}, os.replace
def replace(*arguments):
    global steps
    steps -= 1
    if steps == 0:
        os._exit(9)
    renamed(*arguments)
    steps -= 1
    if steps == 0:
        os._exit(9)
os.replace = replace
"""


@pytest.mark.slow
def test_a_pack_may_be_ended_before_and_after_every_rename(tmp_path: Path) -> None:
    """A process that ends just before or just after any one of the files gets its name: the same pack in the end."""
    clips = fakes("good:5", "refuse", "many:2")
    expected = tmp_path / "expected"
    pack(clips, expected, RATE, workers=1, shard_clips=2, decoder=FAKE)
    clips.write(tmp_path / "table.parquet")
    tests = str(Path(__file__).parent)
    steps, ended = 0, 9
    while ended == 9:
        steps += 1
        out = tmp_path / "out"
        script = STEPS + SCRIPT
        table = str(tmp_path / "table.parquet")
        script = script.format(steps=steps, tests=tests, table=table, folder=str(out), shard_clips=2, decoder=FAKE)
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode
        pack(clips, out, RATE, workers=1, shard_clips=2, decoder=FAKE)
        assert contents(out) == contents(expected)
        shutil.rmtree(out)
    assert (ended, steps) == (0, 2 * (1 + 2 * 3 + 3) + 1)


def test_two_processes_do_not_pack_the_same_part(tmp_path: Path) -> None:
    """While one process packs, a second is refused with a sentence; the first is not disturbed."""
    clips = fakes(*["slow:2"] * 8)
    process = start(clips, tmp_path / "pack", 2)
    lock = tmp_path / "pack" / "unfinished" / "part-1-of-1.lock"
    while not lock.exists():
        time.sleep(0.02)
    time.sleep(0.1)
    with pytest.raises(PackError, match="another process is packing part 1/1"):
        pack(clips, tmp_path / "pack", RATE, shard_clips=2, decoder=FAKE)
    assert process.communicate()[0] == b"done\n"
    assert len(Pack.open(tmp_path / "pack").clips) == 8


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """A file cut short between opening and decoding is an AudioError; one that grows is read as it was."""
    path = tmp_path / "changing.wav"
    whole = np.arange(20000, dtype=np.int16)
    soundfile.write(path, whole, RATE)
    with audio.AudioStream(path, RATE, block_s=0.25) as stream:
        first = next(stream)
        os.truncate(path, 44 + 2 * 9000)
        with pytest.raises(AudioError, match=r"changing\.wav: truncated: decoding stops after"):
            list(stream)
    assert np.array_equal(first, whole[: len(first)])
    soundfile.write(path, whole, RATE)
    with audio.AudioStream(path, RATE, block_s=0.25) as stream:
        blocks = [next(stream)]
        with open(path, "ab") as file:
            file.write(b"\1" * 5000)
        blocks += stream
    assert np.array_equal(np.concatenate(blocks), whole)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command(corpus: Clips, undisturbed: Path, tmp_path: Path) -> None:
    """`psla pack` makes the pack that the library makes, in one go or in parts; its answers are one sentence each."""
    corpus.write(tmp_path / "clips.parquet")
    code, out, _ = run("pack", tmp_path / "clips.parquet", tmp_path / "pack", "--shard-clips", 5, "--workers", 2)
    assert code == 0
    assert "pack: 19 clips (train 14, evaluation 5)" in out
    assert "in 5 shards" in out
    assert contents(tmp_path / "pack") == contents(undisturbed)
    assert run("pack", tmp_path / "clips.parquet", tmp_path / "parts", "--shard-clips", 5, "--shard", "1/1")[0] == 0
    assert contents(tmp_path / "parts") == contents(undisturbed)
    code, out, _ = run("pack", tmp_path / "pack", "--verify")
    assert (code, "all 19 clips are as they were packed" in out) == (0, True)
    file = shard_path(tmp_path / "pack", 0)
    data = bytearray(file.read_bytes())
    data[HEADER_BYTES] ^= 1
    file.write_bytes(data)
    code, out, err = run("pack", tmp_path / "pack", "--verify", "--json")
    assert code == 2
    assert [damage["clip_id"] for damage in json.loads(out)["damaged"]] == ["clip 0"]
    assert "1 of 19 clips are damaged" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table"], "give the folder of the pack"),
        (["table", "out", "--shard", "0/3"], "must be i/n with i from 1 to n"),
        (["table", "out", "--shard", "x"], "must be i/n with i from 1 to n"),
        (["table", "out", "--shard-clips", "3", "--shard-mb", "3"], "not both"),
        (["table", "out", "--verify"], "leave ['OUT'] out"),
        (["table", "--verify", "--merge"], "stand alone"),
        (["missing", "--verify"], "there is no such pack"),
        (["missing", "--merge"], "is no pack that was begun"),
    ],
)
def test_the_command_refuses(arguments: list[str], message: str, tmp_path: Path) -> None:
    """What does not go together is refused in one sentence, with exit code 2."""
    code, _, err = run("pack", *[tmp_path / a if a in ("table", "out", "missing") else a for a in arguments])
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_training_on_a_pack_is_training_on_the_files(tmp_path: Path) -> None:
    """The same seed gives the same weights and the same predictions, whether the clips are files or packed."""
    import torch
    from safetensors.torch import load_file

    from psla.training.devices import Runtime
    from psla.training.recipe import Recipe
    from psla.training.session import train

    recipe = Recipe.from_dict(
        {
            "front_end": {"frames": 32, "mel_bins": 32},
            "backbone": {"name": "efficientnet_lite0", "pretraining": "none"},
            "pooling": {"heads": 1},
            "masking": {"frequency": 12, "time": 8},
            "optimizer": {"batch_size": 4, "epochs": 1, "warmup_steps": 1, "precision": "float32"},
            "averaging": {"first_epoch": 1},
        }
    )
    generator = np.random.default_rng(0)
    rows = []
    for index in range(8):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, generator.normal(0, 0.1, round(44100 * generator.uniform(0.2, 0.7))), 44100, "FLOAT")
        split = "evaluation" if index >= 6 else "train"
        rows.append(row(str(index), path, split=split, labels=["dog"] if index % 3 else ["rain"]))
    files = clips_of(rows)
    packed = pack(files, tmp_path / "pack", RATE, workers=2, shard_clips=5)
    assert packed is not None
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for clips, out in ((files, "files"), (packed.clips, "packed")):
            run = train(recipe, clips, tmp_path / "runs" / out, runtime=Runtime(accelerator="cpu"))
            weights = load_file(run.model_file)
            found.append(({name: tensor.numpy().tobytes() for name, tensor in weights.items()}, run.scores))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
