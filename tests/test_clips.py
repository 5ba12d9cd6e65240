"""The table of clips: what it refuses, what it keeps, and how clips are held out."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psla.data.clips import Clips, ClipsError
from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["dog", "rain", "bell"], ["Dog", "Rain", "Bell"])


def row(clip_id="a", **columns):
    return {
        "clip_id": clip_id,
        "source": clip_id,
        "path": f"{clip_id}.wav",
        "split": "train",
        "labels": ["dog"],
    } | columns


def table(*rows, name="test"):
    return Clips.from_rows(rows, VOCABULARY, name)


def full_table():
    events = [{"class_id": "dog", "onset_s": 0.5, "offset_s": 1.0}]
    return table(
        row("a", labels=["bell", "dog"], true_labels=["dog"], events=events),
        row("b", labels=[], true_labels=[], events=[], start_s=0.25, end_s=2.0, split="evaluation"),
    )


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([row("a"), row("b"), row("a")], "clip 'a' is given more than once; .*drop or rename"),
        ([row("a", split="test")], "clip 'a' has split 'test'; use one of train, validation, evaluation"),
        (
            [row("a", labels=["dog", "cat"])],
            "clip 'a' has in labels the class id 'cat', which is not in the vocabulary",
        ),
        ([row("a", true_labels=["cat"])], "clip 'a' has in true_labels the class id 'cat'"),
        ([row("a", labels=[None])], "clip 'a' has in labels the class id None"),
        ([row("a", start_s=2.0, end_s=1.0)], r"clip 'a' runs from 2.0 s to 1.0 s; .* correct start_s or end_s"),
        ([row("a", end_s=0.0)], "clip 'a' runs from 0.0 s to 0.0 s"),
        ([row("a", start_s=-1.0)], r"clip 'a' runs from -1.0 s .*from 0 s on"),
        ([row("a", end_s=float("nan"))], r"clip 'a' runs .* to nan s; times must be finite"),
        ([row("a"), row("b", source=None)], r"clip 'b' \(row 1\) has no source; give one"),
        ([row("a", events=[{"class_id": "dog", "onset_s": 2.0, "offset_s": 1.0}])], "clip 'a' has an event from 2.0 s"),
        ([row("a", events=[{"class_id": "cat", "onset_s": 0.0, "offset_s": 1.0}])], "in events the class id 'cat'"),
        ([row("a", start_s="soon")], "another type"),
    ],
)
def test_each_broken_rule_is_refused_by_name(rows, sentence):
    """A broken rule is one sentence that names the clip, the rule and the mend."""
    with pytest.raises(ClipsError, match=sentence):
        table(*rows)


def test_a_missing_column_is_refused():
    """A table without a required column is refused, with the columns that a table has."""
    with pytest.raises(ClipsError, match="column 'end_s' is missing; a table of clips has clip_id, source"):
        Clips(full_table().frame.drop("end_s"), VOCABULARY)


def test_write_then_read_is_the_identity(tmp_path):
    """Parquet keeps the columns, the optional ones too, the vocabulary with names, and the table's name."""
    clips = full_table()
    clips.write(tmp_path / "clips.parquet")
    again = Clips.read(tmp_path / "clips.parquet")
    assert again == clips
    assert (again.name, again.vocabulary.names) == ("test", VOCABULARY.names)
    assert again.frame["path"].to_list() == ["a.wav", "b.wav"]


def test_a_foreign_file_is_refused(tmp_path):
    """Another version, a table without a vocabulary and a file that is no Parquet are refused, each for its reason."""
    path = tmp_path / "clips.parquet"
    header = {"version": 99, "name": "", "vocabulary": VOCABULARY.to_dict()}
    full_table().frame.write_parquet(path, metadata={"psla_clips": json.dumps(header)})
    with pytest.raises(ClipsError, match="format version 99, this psla reads 1"):
        Clips.read(path)
    full_table().frame.write_parquet(path)
    with pytest.raises(ClipsError, match=r"was not written by Clips\.write"):
        Clips.read(path)
    path.write_bytes(b"RIFF")
    with pytest.raises(ClipsError, match="not a readable Parquet file"):
        Clips.read(path)
    with pytest.raises(FileNotFoundError):
        Clips.read(tmp_path / "none.parquet")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(VOCABULARY.ids), max_size=5), max_size=6))
def test_labels_agree_with_the_route_over_sets(sets):
    """The table's labels are those that `Labels.from_sets` makes, repeats and empty sets included."""
    ids = [f"c{i}" for i in range(len(sets))]
    labels = table(*(row(id, labels=s) for id, s in zip(ids, sets, strict=True))).labels()
    expected = Labels.from_sets(ids, sets, VOCABULARY)
    assert labels.clip_ids == ids
    assert labels.offsets.tolist() == expected.offsets.tolist()
    assert labels.indices.tolist() == expected.indices.tolist()


def test_true_labels_are_a_column_of_their_own():
    """`labels('true_labels')` gives the true ones; a table or a clip without them is refused, not given the others."""
    assert full_table().labels("true_labels").ids_of(0) == ["dog"]
    with pytest.raises(ClipsError, match="no labels in column 'true_labels'; this table has labels"):
        table(row()).labels("true_labels")
    with pytest.raises(ClipsError, match="clip 'b' has no true_labels"):
        table(row("a", true_labels=["dog"]), row("b")).labels("true_labels")


def test_select_filter_split_and_join():
    """Selecting gives the order asked for; the splits, joined again, are the table; a clip twice is refused."""
    clips = full_table()
    assert clips.select(["b", "a"]).clip_ids == ["b", "a"]
    assert clips.filter(pl.col("end_s") == 2.0).clip_ids == ["b"]
    assert clips.split("train").join(clips.split("evaluation")) == clips
    assert clips.counts() == {"train": 1, "evaluation": 1}
    assert len(clips.split("validation")) == 0
    with pytest.raises(ClipsError, match="1 of 2 ids are not in this table, first: 'z'"):
        clips.select(["a", "z"])
    with pytest.raises(ClipsError, match="'a' is given more than once"):
        clips.select(["a", "a"])
    with pytest.raises(ClipsError, match="'a' is given more than once"):
        clips.join(clips)
    with pytest.raises(ClipsError, match="split 'test' must be one of"):
        clips.split("test")
    with pytest.raises(ClipsError, match="different vocabularies"):
        clips.join(Clips(clips.frame.clear(), Vocabulary(["dog", "bell", "rain"])))


def test_single_label_means_exactly_one_each():
    """A table is single-label when every clip has one label: not none, not two."""
    assert table(row("a"), row("b", labels=["rain"])).is_single_label
    assert not table(row("a"), row("b", labels=[])).is_single_label
    assert not table(row("a"), row("b", labels=["rain", "dog"])).is_single_label
    assert not table().is_single_label


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sets(st.sampled_from(VOCABULARY.ids))), min_size=2, max_size=40),
    st.floats(0.05, 0.95),
    st.integers(0, 3),
)
def test_hold_out_never_splits_a_source_nor_empties_a_class(clips, share, seed):
    """Any table: a source is on one side, every class stays in train, other splits and the order stay as they are."""
    rows = [row(f"c{i}", source=f"s{source}", labels=sorted(labels)) for i, (source, labels) in enumerate(clips)]
    before = table(*rows, row("e", split="evaluation"))
    if before.split("train").frame["source"].n_unique() < 2:
        with pytest.raises(ClipsError, match="needs two train sources or more"):
            before.hold_out(share, seed)
        return
    after = before.hold_out(share, seed)
    assert after == before.hold_out(share, seed)
    assert after.frame.drop("split").equals(before.frame.drop("split"))
    assert after.split("evaluation").clip_ids == ["e"]
    assert not set(after.split("train").frame["source"]) & set(after.split("validation").frame["source"])
    had, has = before.split("train").labels().counts() > 0, after.split("train").labels().counts() > 0
    assert (had == has).all()


def test_hold_out_is_stratified():
    """The held-out share of every class, rare or common, is the share asked for, and another seed holds out others."""
    rng = np.random.default_rng(0)
    sets = [[VOCABULARY.ids[k] for k in range(3) if rng.random() < (0.02, 0.1, 0.9)[k]] for _ in range(2000)]
    clips = table(*(row(f"c{i}", source=f"s{i // 2}", labels=s) for i, s in enumerate(sets)))
    held = clips.hold_out(0.2, 1).split("validation")
    shares = held.labels().counts() / clips.labels().counts()
    np.testing.assert_allclose(shares, 0.2, atol=0.03)
    assert abs(len(held) / len(clips) - 0.2) < 0.03
    assert held.clip_ids != clips.hold_out(0.2, 2).split("validation").clip_ids


def test_hold_out_gives_each_class_to_both_sides():
    """A class with two sources has one in train and one in validation, even where the share is a tenth of a clip."""
    clips = table(*(row(f"{id}{i}", labels=[id]) for id in VOCABULARY.ids for i in range(2)))
    after = clips.hold_out(0.05, 0)
    assert after.split("validation").labels().counts().tolist() == [1, 1, 1]
    assert after.split("train").labels().counts().tolist() == [1, 1, 1]
    for share in (0, 1, -0.1):
        with pytest.raises(ClipsError, match="must lie above 0 and below 1"):
            clips.hold_out(share, 0)
