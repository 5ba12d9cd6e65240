"""Laws of merging tables of clips: nothing of a clip is lost or changed but class ids that are mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from psla.cli import app
from psla.data.clips import Clips, ClipsError
from psla.data.merge import merge
from psla.data.vocabulary import Vocabulary

AUDIOSET = Vocabulary.audioset()
DOG, RAIN = "/m/0bt9lr", "/m/06mb1"


def table(vocabulary: Vocabulary, name: str = "", **labels: list[str]) -> Clips:
    rows: list[dict[str, Any]] = [
        {"clip_id": id, "source": id, "path": f"{id}.wav", "split": "train", "labels": found}
        for id, found in labels.items()
    ]
    return Clips.from_rows(rows, vocabulary, name)


def test_tables_of_one_vocabulary_are_joined() -> None:
    """All rows in their order, further columns kept and null where a table has none of them."""
    words = Vocabulary(["dog", "rain"])
    one, other = table(words, "one", a=["dog"], b=[]), table(words, "other", c=["rain"])
    one.frame = one.frame.with_columns(fold=1)
    both = merge([one, other])
    assert both.clip_ids == ["a", "b", "c"]
    assert both.frame["labels"].to_list() == [["dog"], [], ["rain"]]
    assert both.frame["fold"].to_list() == [1, 1, None]
    assert both.vocabulary == words
    assert both.name == "one + other"
    assert merge([one]) == one


def test_classes_are_united_by_id() -> None:
    """In a vocabulary that has them all, labels keep their ids, wherever in their old one they stood."""
    one, other = table(AUDIOSET.part([RAIN, DOG]), a=[DOG], b=[RAIN]), table(AUDIOSET, c=[RAIN])
    both = merge([one, other], AUDIOSET)
    assert both.frame["labels"].to_list() == [[DOG], [RAIN], [RAIN]]
    assert both.vocabulary == AUDIOSET
    with pytest.raises(ClipsError, match=r"different vocabularies.*name that of the result, such as audioset"):
        merge([one, other])


def test_mapped_classes_are_mapped_everywhere() -> None:
    """Labels, true labels and events; two old classes that are one new one stand once."""
    words = Vocabulary(["dog", "puppy", "rain"])
    row = {"clip_id": "a", "source": "a", "path": "a.wav", "split": "train", "labels": ["dog", "puppy"]}
    events = [{"class_id": "rain", "onset_s": 0.5, "offset_s": 1.0}]
    clips = Clips.from_rows([row | {"true_labels": ["puppy", "rain"], "events": events}], words)
    both = merge([clips, table(AUDIOSET, b=[RAIN])], AUDIOSET, {"dog": DOG, "puppy": DOG, "rain": RAIN})
    assert both.frame["labels"].to_list() == [[DOG], [RAIN]]
    assert both.frame["true_labels"].to_list() == [[DOG, RAIN], None]
    assert both.frame["events"].to_list() == [[{**events[0], "class_id": RAIN}], None]


def test_what_cannot_be_merged_is_named() -> None:
    """A clip in two tables, a class that the vocabulary lacks, a mapping from or to nothing, no table."""
    words, other = table(Vocabulary(["dog", "cat"]), "words", a=["dog"]), table(AUDIOSET, a=[RAIN])
    with pytest.raises(ClipsError, match="clip 'a' is given more than once"):
        merge([words, other], AUDIOSET, {"dog": DOG})
    with pytest.raises(ClipsError, match=r"labelled dog, which the vocabulary of 527 classes lacks; map each"):
        merge([words], AUDIOSET)
    with pytest.raises(ClipsError, match="from 'bird', which is a class of no table"):
        merge([words], AUDIOSET, {"dog": DOG, "bird": DOG})
    with pytest.raises(ClipsError, match="to 'hound', which is no class of the vocabulary"):
        merge([words], AUDIOSET, {"dog": "hound"})
    with pytest.raises(ClipsError, match="there is no table"):
        merge([])
    assert merge([words], AUDIOSET, {"dog": DOG}).frame["labels"].to_list() == [[DOG]]  # no clip has the label cat


def test_commands_make_and_merge(tmp_path: Path) -> None:
    """`signals` lists plain signals, `merge` puts them beside clips of other words; bad maps are one sentence."""
    runner = CliRunner()

    def call(*words: object, code: int = 0) -> str:
        result = runner.invoke(app, ["corpus", *map(str, words)])
        assert result.exit_code == code, result.output
        return result.output

    call("signals", "--count", 13, "--seed", 4, "--out", tmp_path / "signals.parquet")
    table(Vocabulary(["dog"]), "words", a=["dog"]).write(tmp_path / "words.parquet")
    tables, out = (tmp_path / "words.parquet", tmp_path / "signals.parquet"), tmp_path / "both.parquet"
    call("merge", *tables, "--vocabulary", "audioset", "--map", f"dog={DOG}", "--out", out)
    both = Clips.read(out)
    assert (len(both), both.vocabulary, both.clip_ids[:2]) == (14, AUDIOSET, ["a", "p4_0000000"])
    assert both.frame["labels"].to_list()[0] == [DOG]
    assert "OLD_ID=NEW_ID" in call("merge", *tables, "--map", "dog", code=2)
    assert "each OLD_ID once" in call("merge", *tables, "--map", "dog=x", "--map", "dog=y", code=2)
    assert "different vocabularies" in call("merge", *tables, "--out", out, code=2)
