"""Laws of soundscapes made of recordings: how events are cut, what they are called, which split they sound in."""

import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from psla.audio.decode import AudioError
from psla.cli import app
from psla.corpora import esc50
from psla.corpora.esc50 import AUDIOSET_CLASS, NO_CLASS
from psla.data.clips import Clips, ClipsError
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.synth import recordings
from psla.synth import scene as soundscape
from psla.synth.corpus import FRAME, audioset_class, cut_events, make_recorded, sounding_part
from psla.synth.scene import SoundscapeConfig, ancestors, describe, from_uri
from sound_measures import RATE, difference, lines

ESC10 = Path(__file__).parents[2] / "shared/data/esc10"
DOG, RAIN, SIREN = AUDIOSET_CLASS["dog"], AUDIOSET_CLASS["rain"], AUDIOSET_CLASS["siren"]
# By split, the number of recordings of each category; every recording is a tone of its own frequency.
COUNTS = {"train": {"siren": 5, "dog": 4, "rain": 3}, "evaluation": {"siren": 2, "dog": 2, "rain": 2}}


def pitch_of(source: str) -> float:
    """The frequency of a recording in Hz, by its source."""
    return 300.0 + 150.0 * int(source.removeprefix("tape "))


@pytest.fixture
def tapes(tmp_path: Path) -> Clips:
    """Recordings at 22.05 kHz: silence, a tone of 0.5 s (dog, siren) or 3 s (rain), silence."""
    rows, number = [], 0
    for split, counts in COUNTS.items():
        for category, count in counts.items():
            for _ in range(count):
                source, seconds = f"tape {number}", 3.0 if category == "rain" else 0.5
                tone = 0.3 * np.sin(2 * np.pi * pitch_of(source) * np.arange(round(22050 * seconds)) / 22050)
                wave = np.concatenate([np.zeros(11025), tone, np.zeros(22050)])
                path = tmp_path / "tapes" / f"{number}.wav"
                path.parent.mkdir(exist_ok=True)
                soundfile.write(path, wave, 22050)
                rows.append({"clip_id": f"c{number}", "source": source, "path": str(path), "split": split})
                rows[-1] |= {"labels": [category]}
                number += 1
    return Clips.from_rows(rows, Vocabulary([*COUNTS["train"], "can_opening"]), "tapes")


def make(tapes: Clips, tmp_path: Path, evaluation: int = 20, validation: float = 0.0, **fields) -> Clips:
    """Soundscapes of the tapes."""
    config = SoundscapeConfig(**{"clips": 30, "seconds": 2.0, "room": 0.0} | fields)
    return make_recorded(config, evaluation, tapes, tmp_path / "mix.parquet", validation)


def rows_of(clips: Clips, *splits: str) -> list[dict]:
    return [row for row in clips.frame.iter_rows(named=True) if row["split"] in splits]


def test_every_category_of_esc50_is_mapped_or_named():
    """Fifty categories: each has one class of the 527, and no two the same, or is named as having none."""
    assert len(AUDIOSET_CLASS) + len(NO_CLASS) == 50
    assert not set(AUDIOSET_CLASS) & NO_CLASS
    assert len(set(AUDIOSET_CLASS.values())) == len(AUDIOSET_CLASS)
    assert set(AUDIOSET_CLASS.values()) <= set(Vocabulary.audioset().ids)
    names = {category: Vocabulary.audioset()[id].name for category, id in AUDIOSET_CLASS.items()}
    assert names["sea_waves"] == "Waves, surf"
    assert names["crickets"] == "Cricket"
    assert names["airplane"] == "Fixed-wing aircraft, airplane"
    alike = [c for c, name in names.items() if c.replace("_", " ").rstrip("s")[:4] in name.lower()]
    assert len(alike) >= 35  # most names share their first letters: a table shifted by a line would not


@pytest.mark.skipif(not ESC10.is_dir(), reason="needs recordings in the layout of ESC-50")
def test_real_recordings_become_soundscapes(tmp_path):
    """Recordings of ESC-10: every class is there, parts lie within the files, fold 5 sounds in evaluation alone."""
    clips = esc50.read(ESC10, evaluation_fold=5)
    few = clips.frame.group_by("labels", "split", maintain_order=True).head(2)
    made = make(Clips(few, clips.vocabulary, "few"), tmp_path, clips=12, evaluation=8, seconds=5.0)
    table = Clips.read(from_uri(made.frame["path"][0])[0].events)
    assert len(table.vocabulary) == 10
    assert (table.frame["end_s"] - table.frame["start_s"]).is_between(0.05, 10).all()
    fold = {path: name.split("-")[0] for path, name in zip(few["path"], few["clip_id"], strict=True)}
    assert all(
        (fold[row["path"]] == "5") == (row["split"] == "evaluation") for row in table.frame.iter_rows(named=True)
    )
    waves = [open_source(made, 16000).read(i) for i in (0, 13)]
    assert all(wave.shape == (80000,) and np.abs(wave).max() > 1000 for wave in waves)


@settings(max_examples=60, deadline=None)
@given(
    silence=st.integers(0, 40000),
    sound=st.integers(800, 40000),
    after=st.integers(0, 40000),
    level=st.floats(50, 20000),
)
def test_the_sounding_part_is_the_sound(silence, sound, after, level):
    """A sound in silence is cut to within two frames at either end; its loudest frame lies in it."""
    wave = np.zeros(silence + sound + after, dtype=np.int16)
    wave[silence : silence + sound] = np.rint(level * np.sin(np.arange(sound)))
    first, last, loudest = sounding_part(wave)
    assert silence - 2 * FRAME < first <= silence
    assert silence + sound <= last < silence + sound + 2 * FRAME or last == len(wave)
    assert first <= loudest <= last + FRAME


def test_pauses_and_length_of_the_sounding_part():
    """Pauses up to 1 s are kept, longer ones divide: the stretch with more energy stays; 10 s around the loudest."""

    def wave(*parts: tuple[float, float]) -> np.ndarray:
        return np.concatenate([np.full(round(s * RATE), level, dtype=np.int16) for s, level in parts])

    first, last, _ = sounding_part(wave((1, 0), (0.2, 3000), (0.9, 0), (0.2, 3000), (1, 0)))
    assert (last - first) / RATE == pytest.approx(1.3, abs=0.1)
    first, last, _ = sounding_part(wave((0.5, 0), (0.2, 3000), (1.2, 0), (0.4, 3000), (1, 0)))
    assert (first / RATE, last / RATE) == pytest.approx((1.9, 2.3), abs=0.05)
    first, last, loudest = sounding_part(wave((14, 2000), (0.1, 9000), (6, 2000)))
    assert last - first == 10 * RATE
    assert first <= 14 * RATE <= loudest < last
    quiet = wave((1, 0), (1, 100), (1, 3000), (1, 100), (1, 0))  # 29.5 dB below, and, next, 35 dB
    assert np.subtract(*sounding_part(quiet)[1::-1]) / RATE == pytest.approx(3, abs=0.1)
    assert np.subtract(*sounding_part(np.where(quiet == 100, 53, quiet))[1::-1]) / RATE == pytest.approx(1, abs=0.1)
    assert sounding_part(np.ones(16000, dtype=np.int16)) is None


def test_no_source_is_shared_by_two_splits(tapes, tmp_path):
    """Soundscapes of a split have recordings of that split alone; a share held out takes whole sources with it."""
    own = {split: set(tapes.split(split).frame["source"]) for split in COUNTS}
    made = make(tapes, tmp_path, clips=40, validation=0.25)
    assert made.counts() == {"train": 30, "validation": 10, "evaluation": 20}
    heard = {split: {s for row in rows_of(made, split) for s in row["event_sources"]} for split in made.counts()}
    assert heard["evaluation"] <= own["evaluation"]
    assert heard["train"] | heard["validation"] <= own["train"]
    assert not heard["train"] & heard["validation"]
    assert all(heard.values())
    assert made.frame["clip_id"].n_unique() == 60


def test_a_split_validation_of_its_own_is_used(tapes, tmp_path):
    """Where the recordings have a split validation, its soundscapes are made of those."""
    split = pl.when(pl.col("clip_id").is_in(["c0", "c5", "c9"])).then(pl.lit("validation")).otherwise(pl.col("split"))
    made = make(Clips(tapes.frame.with_columns(split.alias("split")), tapes.vocabulary), tmp_path, validation=0.2)
    assert {s for row in rows_of(made, "validation") for s in row["event_sources"]} <= {"tape 0", "tape 5", "tape 9"}


def test_the_recording_is_heard_where_the_table_says(tapes, tmp_path):
    """In a clip of one loud event, the strongest frequency between onset and offset is the recording's own."""
    made = make(tapes, tmp_path, max_events=1, snr=(30.0, 30.0), imbalance=1.0)
    source = open_source(made, 16000)
    lengths = {DOG: [], RAIN: [], SIREN: []}
    for index, row in enumerate(made.frame.iter_rows(named=True)):
        (event,), (tape,) = row["events"], row["event_sources"]
        part = source.read(index)[round(event["onset_s"] * RATE) : round(event["offset_s"] * RATE)]
        assert lines(part.astype(float), 1)[0] == pytest.approx(pitch_of(tape), abs=4)
        true = {event["class_id"]} | ancestors(event["class_id"])
        assert row["true_labels"] == [id for id in made.vocabulary.ids if id in true]
        lengths[event["class_id"]].append(event["offset_s"] - event["onset_s"])
    for id in (DOG, SIREN):  # short: whole, with its margins
        assert lengths[id] == pytest.approx([0.54] * len(lengths[id]), abs=0.05)
    assert lengths[RAIN] == pytest.approx([2.0] * len(lengths[RAIN]))  # long: as much as the clip holds


def test_an_excerpt_holds_the_loudest_moment(tmp_path):
    """Of a long recording, excerpts begin at many places, and each has the recording's loudest moment in it."""
    rng = np.random.default_rng(0)
    wave = 0.06 * rng.standard_normal(6 * RATE)
    wave[round(4.5 * RATE) : round(4.52 * RATE)] = 0.9
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    row = {"clip_id": "a", "source": "a", "path": str(tmp_path / "a.wav"), "split": "train", "labels": ["rain"]}
    table = cut_events(Clips.from_rows([row], Vocabulary(["rain"])), ("train",))
    assert table.frame["loudest_s"][0] == pytest.approx(4.51, abs=0.03)
    events = recordings.RecordedEvents(table, "a")
    takes = [events.draw(rng, RAIN, 3.0) for _ in range(40)]
    assert np.ptp([take.begin_s for take in takes]) > 0.5
    for take in takes:
        assert 2.0 <= take.seconds <= 3.0
        peak = float(np.abs(events.render(rng, RAIN, take, take.seconds, RATE)).argmax()) / RATE
        assert take.begin_s + peak == pytest.approx(4.51, abs=0.02)


def test_a_recording_is_the_same_at_every_rate(tapes, tmp_path):
    """A scene of recordings at another rate: the same excerpts at the same times; the checksum is still held to."""
    made = make(tapes, tmp_path)
    for path in made.frame["path"][:6]:
        config, index = from_uri(path)
        wave, other = (soundscape.synthesise(config, index, rate) for rate in (RATE, 32000))
        assert other.shape == (64000,)
        mean, level = difference(wave.astype(float), other.astype(float), 32000)
        assert mean < 1.5
        assert abs(level) < 4
    tape = next(Path(row[0]) for row in recordings.open_events(config.events, "train")._rows)
    soundfile.write(tape, np.full(60000, 0.1), 22050)
    recordings._decoded.cache_clear()
    events = recordings.open_events(config.events, "train")
    take = events.draw(np.random.default_rng(0), events.class_ids[0], 2.0)
    with pytest.raises(AudioError, match="is not the recording that it was"):
        events.render(np.random.default_rng(0), events.class_ids[0], replace(take, row=0), 0.2, 32000)


def test_same_bits_from_the_address_alone(tapes, tmp_path):
    """The table is the same when made again; its paths give the same samples here, in another process and packed."""
    made, again = make(tapes, tmp_path), make(tapes, tmp_path)
    assert made == again
    first = [open_source(made, 16000).read(i) for i in (0, 35)]
    recordings.open_events.cache_clear()
    recordings._decoded.cache_clear()
    assert all(np.array_equal(open_source(made, 16000).read(i), wave) for i, wave in zip((0, 35), first, strict=True))
    code = (
        "import sys, zlib; from psla.synth.scene import read_address\n"
        "print(zlib.crc32(read_address(sys.argv[1], 16000).tobytes()))"
    )
    path = made.frame["path"][35]
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) == zlib.crc32(first[1].tobytes())
    assert not np.array_equal(first[0], open_source(make(tapes, tmp_path, seed=1), 16000).read(0))


def test_classes_and_their_frequencies(tapes, tmp_path):
    """Vocabulary: the classes of the recordings and their ancestors. The more recordings, the more frequent."""
    made = make(tapes, tmp_path, clips=600, evaluation=0, imbalance=4.0, missing_parents=0.3)
    assert set(made.vocabulary.ids) == {DOG, RAIN, SIREN}.union(*map(ancestors, (DOG, RAIN, SIREN)))
    counts = Counter(event["class_id"] for row in rows_of(made, "train") for event in row["events"])
    assert counts[SIREN] / counts[RAIN] == pytest.approx(4, rel=0.25)
    assert counts[SIREN] > counts[DOG] > counts[RAIN]
    full = make(tapes, tmp_path, clips=600, evaluation=0, imbalance=4.0)
    assert made.frame["events"].equals(full.frame["events"])
    own = full.frame["events"].list.eval(pl.element().struct.field("class_id").unique()).list.len().sum()
    kept, parents = (clips.frame["labels"].list.len().sum() - own for clips in (made, full))
    assert kept / parents == pytest.approx(0.7, abs=0.04)
    one = make(tapes, tmp_path, clips=20, evaluation=5, classes=1)
    assert {event["class_id"] for row in rows_of(one, "train", "evaluation") for event in row["events"]} == {SIREN}


def test_what_a_class_may_be_called():
    """An id of AudioSet, a category of ESC-50, a name of AudioSet; anything else is refused by name."""
    assert audioset_class(DOG, "whatever") == DOG
    assert audioset_class("clock_tick", "clock_tick") == "/m/07qjznt"
    assert audioset_class("7", "church bell") == "/m/03w41f"
    with pytest.raises(ClipsError, match=r"'gnome' of the recordings is neither .* leave them out"):
        audioset_class("gnome", "gnome")


def relabelled(tapes: Clips, labels: dict[str, list[str]], ids: list[str]) -> Clips:
    """The tapes with other labels for some clips."""
    rows = [row | {"labels": labels.get(row["clip_id"], row["labels"])} for row in tapes.frame.iter_rows(named=True)]
    return Clips.from_rows(rows, Vocabulary([*tapes.vocabulary.ids, *ids]), "tapes")


def test_several_labels_and_left_out_recordings_are_told(tapes):
    """The most specific of nested labels counts; other recordings with several, and classes without one, are named."""
    animal, pets = "/m/0jbk", "/m/068hy"
    labels = {"c5": [animal, "dog", pets], "c6": ["dog", "rain"], "c0": ["can_opening"]}
    with pytest.warns(UserWarning, match="left out") as told:
        table = cut_events(relabelled(tapes, labels, [animal, pets]), ("train", "evaluation"))
    assert table.select(["c5"]).frame["labels"].to_list() == [[DOG]]
    assert not {"c6", "c0"} & set(table.clip_ids)
    text = " ".join(str(each.message) for each in told)
    assert "1 class is left out, because AudioSet has no such class: can_opening" in text
    assert "1 recording is left out, because more than one thing sounds in it: c6" in text


def test_silent_recordings_and_lonely_classes_are_left_out(tapes):
    """A silent recording is left out, and so is a class that one of the splits has no recording of; both are named."""
    soundfile.write(tapes.frame["path"][0], np.zeros(30000), 22050)
    lonely = relabelled(tapes, {"c1": ["frog"]}, ["frog"])
    with pytest.warns(UserWarning, match="left out") as told:
        table = cut_events(lonely, ("train", "evaluation"))
    text = " ".join(str(each.message) for each in told)
    assert "1 recording is left out, because silence is all there is in it: c0" in text
    assert "1 class is left out, because not every split (train, evaluation) has a recording of it: Frog" in text
    assert len(table) == 18 - 2
    with pytest.warns(UserWarning, match="silence"):
        assert "/m/09ld4" in cut_events(lonely, ("train",)).vocabulary


def test_refusals_when_made(tapes, tmp_path):
    """No such split, a source in two splits, nothing in common, a missing file, too many classes: one sentence each."""
    with pytest.raises(ClipsError, match="no clips of the split evaluation, which soundscapes"):
        make(tapes.split("train"), tmp_path)
    both = tapes.frame.with_columns(pl.lit("tape").alias("source"))
    with pytest.raises(ClipsError, match="'tape' is in the splits train and evaluation"):
        make(Clips(both, tapes.vocabulary), tmp_path)
    only = {row["clip_id"]: ["can_opening"] for row in tapes.frame.iter_rows(named=True)}
    with (
        pytest.warns(UserWarning, match="can_opening"),
        pytest.raises(ClipsError, match="no AudioSet class that sounds"),
    ):
        make(relabelled(tapes, only, []), tmp_path)
    with pytest.raises(ValueError, match="classes must be a number up to 3"):
        make(tapes, tmp_path, classes=4)
    with pytest.raises(ClipsError, match="both sides need a clip"):
        make(tapes, tmp_path, clips=3, validation=0.1)
    Path(tapes.frame["path"][3]).unlink()
    with pytest.raises(ClipsError, match=r"cannot be read, .*3\.wav: cannot be opened: No such file"):
        make(tapes, tmp_path)


def test_refusals_when_read(tapes, tmp_path):
    """A recording that has changed or gone, a table that has gone or is none: an AudioError that names the file."""
    made = make(tapes, tmp_path, max_events=1)
    config, index = from_uri(made.frame["path"][0])
    take = describe(config, index).takes[0]
    path = Path(recordings.open_events(config.events, "train")._rows[take.row][0])
    good = path.read_bytes()
    soundfile.write(path, np.full(60000, 0.1), 22050)
    with pytest.raises(AudioError, match="is not the recording that it was") as caught:
        open_source(made, 16000).read(0)
    assert caught.value.path == str(path)
    path.unlink()
    with pytest.raises(AudioError, match="No such file"):
        open_source(made, 16000).read(0)
    path.write_bytes(good)
    assert len(open_source(made, 16000).read(0)) == 32000
    recordings.open_events.cache_clear()
    tapes.write(config.events)
    with pytest.raises(AudioError, match="is no table of recorded events: it has no column loudest_s and crc32"):
        open_source(made, 16000).read(0)
    Path(config.events).write_text("no table")
    with pytest.raises(AudioError, match="cannot be read as a table of recorded events"):
        open_source(made, 16000).read(0)
    Path(config.events).unlink()
    with pytest.raises(AudioError, match="the table of recorded events is not there") as caught:
        open_source(made, 16000).read(0)
    assert caught.value.path == config.events
    with pytest.raises(AudioError, match="events_split"):
        open_source(
            Clips(made.frame.with_columns(pl.lit("soundscape://0/1?events=x").alias("path")), made.vocabulary), 16000
        ).read(0)


def test_command_line(tapes, tmp_path):
    """`psla corpus soundscape --events`, then `psla pack`: the pack has the bits; without a split it is refused."""
    tapes.write(tmp_path / "tapes.parquet")
    common = ["corpus", "soundscape", "--clips", "6", "--seconds", "1", "--out", str(tmp_path / "mix.parquet")]
    done = CliRunner().invoke(app, [*common, "--events", str(tmp_path / "tapes.parquet"), "--evaluation-clips", "2"])
    assert done.exit_code == 0, done.output
    made = Clips.read(tmp_path / "mix.parquet")
    assert made.counts() == {"train": 6, "evaluation": 2}
    packed = CliRunner().invoke(app, ["pack", str(tmp_path / "mix.parquet"), str(tmp_path / "pack")])
    assert packed.exit_code == 0, packed.output
    pack = Clips.read(tmp_path / "pack")
    assert all(np.array_equal(open_source(pack, 16000).read(i), open_source(made, 16000).read(i)) for i in range(8))
    tapes.split("train").write(tmp_path / "tapes.parquet")
    refused = CliRunner().invoke(app, [*common, "--events", str(tmp_path / "tapes.parquet")])
    assert refused.exit_code == 2
    assert "no clips of the split evaluation" in refused.output
    synthesised = CliRunner().invoke(app, [*common, "--classes", "4", "--validation", "0.4"])
    assert synthesised.exit_code == 0, synthesised.output
    assert set(Clips.read(tmp_path / "mix.parquet").counts()) == {"train", "validation", "evaluation"}
    assert soundscape.class_ids(from_uri(Clips.read(tmp_path / "mix.parquet").frame["path"][0])[0])[3:] == (
        "/m/03m9d0z",
    )
