"""Several tables of clips as one, their classes united: what a training on more than one corpus is given.

Rows are joined under each other and nothing of them is changed but class ids, where a mapping says so. Looking for
clips that two corpora share under different ids is not done here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from psla.data.clips import Clips, ClipsError
from psla.data.vocabulary import Vocabulary


def merge(
    tables: Sequence[Clips], vocabulary: Vocabulary | None = None, mapping: Mapping[str, str] | None = None
) -> Clips:
    """The clips of all tables, one table after the other.

    Args:
        tables: one or more.
        vocabulary: of the result; None: that of the tables, which must then all have the same.
        mapping: {class id of a table: class id of the vocabulary}, for labels, true labels and events alike.

    Raises:
        ClipsError: no table, different vocabularies and none given, a label that is in none, a mapping from or to an
            unknown class, or a clip id that is in two tables.

    Example:
        >>> row = {"source": "a", "path": "a.wav", "split": "train"}
        >>> ours = Clips.from_rows([row | {"clip_id": "1", "labels": ["dog"]}], Vocabulary(["dog"]))
        >>> theirs = Clips.from_rows([row | {"clip_id": "2", "labels": ["/m/06mb1"]}], Vocabulary.audioset())
        >>> both = merge([ours, theirs], Vocabulary.audioset(), {"dog": "/m/0bt9lr"})
        >>> both.frame["labels"].to_list()
        [['/m/0bt9lr'], ['/m/06mb1']]
    """
    if not tables:
        raise ClipsError("merge: there is no table; give one or more")
    mapping, target = dict(mapping or {}), vocabulary or tables[0].vocabulary
    if vocabulary is None and any(table.vocabulary != target for table in tables):
        raise ClipsError(
            f"merge: the tables have different vocabularies ({', '.join(map(repr, tables))}); name that of the result, "
            "such as audioset, and map the class ids that it does not have"
        )
    if unknown := [id for id in mapping if not any(id in table.vocabulary for table in tables)]:
        raise ClipsError(f"merge: the mapping is from {unknown[0]!r}, which is a class of no table; leave it out")
    if unknown := [id for id in mapping.values() if id not in target]:
        raise ClipsError(f"merge: the mapping is to {unknown[0]!r}, which is no class of the vocabulary; correct it")
    frames = [_mapped(table.frame, mapping) for table in tables]
    ids = pl.concat([frame["labels"].explode() for frame in frames]).drop_nulls().unique(maintain_order=True)
    if missing := [id for id in ids if id not in target]:
        raise ClipsError(
            f"merge: clips are labelled {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}, which the "
            f"vocabulary of {len(target)} classes lacks; map each to one of its ids (old=new)"
        )
    name = " + ".join(dict.fromkeys(table.name for table in tables if table.name))
    return Clips(pl.concat(frames, how="diagonal_relaxed"), target, name)


def _mapped(frame: pl.DataFrame, mapping: Mapping[str, str]) -> pl.DataFrame:
    if not mapping:
        return frame
    columns = [c for c in ("labels", "true_labels") if c in frame.columns]
    # Two old classes may be one new one: a label that a clip then has twice stands once.
    ids = [pl.col(c).list.eval(pl.element().replace(mapping).unique(maintain_order=True)) for c in columns]
    if "events" in frame.columns:
        event = pl.element().struct.with_fields(pl.field("class_id").replace(mapping))
        ids.append(pl.col("events").list.eval(event))
    return frame.with_columns(ids)
