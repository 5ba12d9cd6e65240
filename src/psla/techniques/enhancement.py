"""Label enhancement of a table of clips: which clips are enhanced, a person's decisions, the table that comes out.

Only the split that the predictions are of is enhanced (all clips where they name none); the other clips are handed on
as they are, so that the new table takes the place of the old. The rule itself is in `labeling.py`, the report in
`psla.report.enhancement`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from psla.corpora.csv_files import read_csv_file
from psla.data.clips import SPLITS, Clips
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.techniques.labeling import TYPES, Enhancement, LabelingError, Relation, enhance

DECISIONS = {"accept": True, "reject": False}
Decisions = Mapping[tuple[str, str], bool]


@dataclass(frozen=True)
class EnhancedClips:
    """A table of clips with added labels.

    Attributes:
        clips: the whole table; a drop-in for the old one, added labels stand behind those that were there.
        part: the clips that were enhanced, with their old labels, in the order of `enhancement.labels`.
        enhancement: what was done to them, a person's decisions applied.
        rejected: how many additions were rejected by hand. accepted: how many were accepted by hand.
    """

    clips: Clips
    part: Clips
    enhancement: Enhancement
    rejected: int = 0
    accepted: int = 0


def enhance_clips(
    clips: Clips,
    predictions: Predictions,
    ontology: Ontology,
    types: Collection[str] = frozenset(TYPES),
    threshold: str | float = "mean",
    relation: Relation = "all",
    decisions: Decisions | None = None,
    force: bool = False,
    progress: Callable[[int], None] = lambda clips: None,
) -> EnhancedClips:
    """Enhance the labels of the clips that the predictions are of; arguments as `labeling.enhance`.

    Of a teacher that knows more classes than the clips, the predictions are taken at the classes of the clips.
    `decisions` says for pairs of clip id and class id whether the addition is accepted; what it does not name is kept.

    Raises:
        LabelingError: as `labeling.enhance`; also evaluation clips without `force`, an ontology that has none of the
            classes, or decisions on labels that were not added.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> row = {"source": "tape", "path": "a.wav", "split": "train"}
        >>> rows = [{**row, "clip_id": "a", "labels": ["dog"]}, {**row, "clip_id": "b", "labels": ["animal"]}]
        >>> clips = Clips.from_rows(rows, Vocabulary(["animal", "dog"]))
        >>> probabilities = np.array([[0.9, 0.8], [0.7, 0.1]], dtype=np.float32)
        >>> found = enhance_clips(
        ...     clips,
        ...     Predictions(probabilities, ["a", "b"], clips.vocabulary, split="train"),
        ...     Ontology({"animal": [], "dog": ["animal"]}),
        ... )
        >>> found.clips.frame["labels"].to_list()
        [['dog', 'animal'], ['animal']]
    """
    part = clips.split(predictions.split) if predictions.split in SPLITS else clips
    held = part.counts().get("evaluation", 0)
    if held and not force:
        raise LabelingError(
            f"{held} of the {len(part)} clips are of the split evaluation, whose labels must stay as they are; "
            "predict the split train, or force it if this is meant"
        )
    if not any(id in ontology for id in clips.vocabulary.ids):
        raise LabelingError(
            f"the ontology of {len(ontology)} classes has none of the {len(clips.vocabulary)} classes of the clips "
            f"({', '.join(clips.vocabulary.ids[:3])}): give the ontology of these classes"
        )
    said = _at(clips.vocabulary, predictions)
    found = enhance(part.labels(), said, ontology, types, threshold, relation, force, progress)
    if not decisions:
        return EnhancedClips(_with_added(clips, found), part, found)
    chosen = _decided(found, decisions)
    found = found.keep(chosen)
    return EnhancedClips(_with_added(clips, found), part, found, int(np.sum(~chosen)), sum(decisions.values()))


def read_decisions(path: str | os.PathLike[str]) -> dict[tuple[str, str], bool]:
    """A person's decisions: CSV with the columns clip_id, class_id and decision (accept, reject, or empty: none yet).

    The report's `additions.csv` has these columns; its other columns are ignored here.

    Raises:
        FileNotFoundError: no such file.
        LabelingError: a column is missing, a decision is another word, or two lines contradict each other.
    """
    needed = ("clip_id", "class_id", "decision")
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    instead, mend = "give the report's additions.csv", "decisions need clip_id, class_id and decision"
    found: dict[tuple[str, str], bool] = {}
    for line, row in read_csv_file(path, needed, instead, mend, refusal=LabelingError).rows:
        word = row["decision"].strip().casefold()
        if not word:
            continue
        if word not in DECISIONS:
            raise LabelingError(f"{path}, line {line}: decision {row['decision']!r} must be accept, reject or empty")
        key = (row["clip_id"], row["class_id"])
        if found.setdefault(key, DECISIONS[word]) != DECISIONS[word]:
            raise LabelingError(f"{path}, line {line}: {key} is both accepted and rejected")
    return found


def _at(classes: Vocabulary, said: Predictions) -> Predictions:
    """What a teacher that knows all of these classes and more says of them; that of others as it is."""
    if len(said.vocabulary) <= len(classes) or any(id not in said.vocabulary for id in classes.ids):
        return said
    columns = [said.vocabulary.index_of(id) for id in classes.ids]
    return Predictions(said.probabilities[:, columns], said.clip_ids, classes, said.split, said.model_hash)


def _decided(found: Enhancement, decisions: Decisions) -> np.ndarray:
    """(additions,) bool: all but the rejected."""
    ids, classes, additions = found.labels.clip_ids, found.labels.vocabulary.ids, found.additions
    pairs = [(ids[row], classes[c]) for row, c in zip(additions.rows.tolist(), additions.classes.tolist(), strict=True)]
    if unknown := decisions.keys() - set(pairs):
        clip_id, class_id = min(unknown)
        raise LabelingError(
            f"{len(unknown)} of {len(decisions)} decisions are on labels that were not added, the first: clip "
            f"{clip_id!r}, class {class_id!r}; review the additions of these settings and predictions"
        )
    return np.array([decisions.get(pair, True) for pair in pairs], dtype=bool)


def _with_added(clips: Clips, found: Enhancement) -> Clips:
    """The table with the added labels behind the others."""
    additions = found.additions
    ids = pl.Series("clip_id", found.labels.clip_ids, dtype=pl.String())
    classes = pl.Series("_added", found.labels.vocabulary.ids, dtype=pl.String())
    added = pl.DataFrame([ids.gather(additions.rows), classes.gather(additions.classes)])
    added = added.group_by("clip_id", maintain_order=True).agg("_added")
    frame = clips.frame.join(added, on="clip_id", how="left", maintain_order="left")
    grown = pl.concat_list("labels", pl.col("_added").fill_null([])).alias("labels")
    return Clips(frame.with_columns(grown).select(clips.frame.columns), clips.vocabulary, clips.name)
