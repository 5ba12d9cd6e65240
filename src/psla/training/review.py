"""Review: clips that a person should look at, and what the person decided.

Asked is what cross-validation says of each clip, by heads that have heard nothing of its recording:

- mistakes: clips whose most probable class is none of their labels (single labels), or whose label and probability are
  furthest apart (several), the most confident first.
- labels that look wrong: a clip that is said to be of another class with at least the mean probability of the clips
  that have this label, and of its own with less than that of its own (confident learning: C. Northcutt et al., 2021,
  https://arxiv.org/abs/1911.00068).
- near-duplicates: two clips that are nearly the same, but have other labels, or are of other recordings: held out and
  learnt at once they make the score lie.

A review is a CSV with the columns clip_id and decision: a class, several with ; between them, `keep`, or `drop`.
"""

from __future__ import annotations

import heapq
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from psla.corpora.csv_files import read_csv_file
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.training.cross_fit import Answers, Task
from psla.training.known import unit
from psla.training.own_clips import FitError
from psla.training.similar import near_pairs

KEEP, DROP = "keep", "drop"
LISTED = 100  # of each kind
NEAR = 0.99
_PAIRED = 100_000  # clips that are compared with each other


def suspects(clips: Clips, task: Task, answers: Answers, keys: list[str]) -> dict[str, Any]:
    """mistakes, doubtful_labels and near_duplicates, as plain data, the worst first; and how many there are of each.

    Args:
        keys: of the contents of the clips; equal for copies.
    """
    said, truth = answers.probabilities, task.labels
    asked = np.flatnonzero(answers.asked).tolist()
    found: dict[str, list[dict[str, Any]]] = {"mistakes": [], "doubtful_labels": []}
    of_class = [said[answers.asked & column, c] for c, column in enumerate(truth.T)]
    level = np.array([each.mean() if len(each) else 1.0 for each in of_class])
    for row in asked:
        best = int(said[row].argmax())
        wrong = best if task.single else int(np.abs(said[row] - truth[row]).argmax())
        is_wrong = not truth[row, best] if task.single else bool((said[row, wrong] >= 0.5) != truth[row, wrong])
        if is_wrong:
            found["mistakes"].append(_row(clips, row, wrong, said, truth))
        other = np.where(truth[row], -1.0, said[row] - level)
        own = truth[row] & (said[row] < level)
        if other.max() >= 0 and (own.any() or not task.single):
            found["doubtful_labels"].append(_row(clips, row, int(other.argmax()), said, truth))
    for rows in found.values():
        rows.sort(key=lambda each: (-abs(each["probability"] - each["labelled"]), each["clip_id"]))
    told: dict[str, Any] = {name: rows[:LISTED] for name, rows in found.items()}
    pairs, count = _duplicates(clips, task, answers, keys)
    counts = {name: len(rows) for name, rows in found.items()} | {"near_duplicates": count}
    return told | {"near_duplicates": pairs, "suspects": counts}


def _row(clips: Clips, row: int, c: int, said: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """labelled: 1 where the class that is said (or not) is a label."""
    labels = [clips.vocabulary[int(own)].name for own in np.flatnonzero(truth[row])]
    probability = float(said[row, c])
    own = {"clip_id": clips.clip_ids[row], "path": clips.frame["path"][int(row)], "labels": labels}
    return own | {"said": clips.vocabulary[c].name, "probability": probability, "labelled": int(truth[row, c])}


def _duplicates(clips: Clips, task: Task, answers: Answers, keys: list[str]) -> tuple[list[dict[str, Any]], int]:
    """The worst, and how many there are: of many copies of one sound each is a pair with each."""
    if len(clips) > _PAIRED:
        warnings.warn(f"near-duplicates are not looked for among more than {_PAIRED:,} clips", stacklevel=2)
        return [], 0
    count = 0

    def pairs() -> Iterator[tuple[bool, float, int, int]]:
        nonlocal count
        for a, b, alike in near_pairs(unit(task.features).astype(np.float32), NEAR):
            one_class = np.array_equal(*task.labels[[a, b]])
            if not one_class or task.groups[a] != task.groups[b]:
                count += 1
                yield one_class, -alike, a, b

    found = []
    for one_class, alike, *rows in heapq.nsmallest(LISTED, pairs()):
        a, b = rows
        names = [[clips.vocabulary[int(c)].name for c in np.flatnonzero(task.labels[row])] for row in rows]
        pair = {"clip_ids": [clips.clip_ids[row] for row in rows], "similarity": -alike, "labels": names}
        pair |= {"copies": keys[a] == keys[b], "across_folds": bool(answers.folds[a] != answers.folds[b])}
        found.append(pair | {"across_classes": not one_class})
    return found, count


def reviewed(clips: Clips, review: str | os.PathLike[str]) -> Clips:
    """The clips with a person's decisions carried out; classes that are new are added to the vocabulary.

    Raises:
        FitError: a clip that is not among them, one that is decided twice, or no decision.
        CsvError and others: what cannot be read.
    """
    mend = "make it on the page of psla fit, or write clip_id,decision"
    rows = [line for _, line in read_csv_file(review, ("clip_id", "decision"), str(review), mend, "a review").rows]
    known, decided = set(clips.clip_ids), {}
    for row in rows:
        id, decision = row["clip_id"], row["decision"].strip()
        if id not in known:
            raise FitError(f"{review}: {id!r} is none of the {len(clips)} clips: take the review of the same data")
        if id in decided:
            raise FitError(f"{review}: {id!r} is decided twice: keep one of the two lines")
        if not decision:
            raise FitError(f"{review}: {id!r} has no decision: a class, several with ; between them, {KEEP} or {DROP}")
        decided[id] = decision
    by_name = {name: c.id for c in clips.vocabulary for name in (c.name, c.id)}
    labels = {
        id: [by_name.get(name.strip(), name.strip()) for name in decision.split(";") if name.strip()]
        for id, decision in decided.items()
        if decision not in (KEEP, DROP)
    }
    new = sorted({each for own in labels.values() for each in own} - set(clips.vocabulary.ids))
    vocabulary = Vocabulary([*clips.vocabulary.ids, *new], [*clips.vocabulary.names, *new])
    columns = [name for name in clips.frame.columns if name not in ("true_labels", "events")]
    frame = clips.frame.select(columns).filter(
        ~pl.col("clip_id").is_in([id for id, decision in decided.items() if decision == DROP])
    )
    own = [labels.get(id, old) for id, old in frame.select("clip_id", "labels").iter_rows()]
    return Clips(frame.with_columns(pl.Series("labels", own, dtype=pl.List(pl.String()))), vocabulary, clips.name)
