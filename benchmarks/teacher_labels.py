"""Label enhancement by a teacher that was trained on AudioSet, on mixtures of recordings whose truth is known.

    python benchmarks/teacher_labels.py TEACHER ESC_10_FOLDER [--clips 300] [--seconds 5]

TEACHER is a file of published weights (.pt, .pth; see `psla.read_weights`), or a model of psla's. The mixtures are
those of `psla corpus soundscape --events`: one to four recordings of ESC-10's folds 1 to 4 in noise, with the labels of
their classes and of the classes above them, of which a part is left out at random. The teacher is not trained: its
probabilities of the mixtures, at the classes of the corpus, go through `psla.techniques.enhancement`, and what it adds
is counted against what really sounds: by type (I: children, II: ancestors; both) and threshold. Printed as Markdown.

Two numbers to judge it by: "every candidate" adds all that the ontology proposes, whatever the teacher says, so its
precision is what guessing gives (of type II always 1: what is above a class that sounds, sounds); and the teacher's
mean average precision on the corpus.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from machine import machine
from psla.corpora import esc50
from psla.data.clips import Clips
from psla.data.ontology import Ontology
from psla.data.source import open_source
from psla.metrics.predictions import Predictions
from psla.metrics.scores import score
from psla.model.inference import predict
from psla.report.enhancement import against_truth
from psla.synth.config import SoundscapeConfig
from psla.synth.corpus import make_recorded
from psla.techniques.distillation import columns_of
from psla.techniques.enhancement import enhance_clips
from psla.techniques.labeling import TYPES, candidate_labels
from psla.weights.catalogue import load_any
from psla.weights.readers.contract import read_weights

THRESHOLDS: dict[str, str | float] = {"mean": "mean", "median": "median", "25th percentile": 25.0}
CHOICES = ({"I"}, {"II"}, set(TYPES))


class Counts(NamedTuple):
    """Labels added, how many of them are true, and how many true ones were missing that the types can propose."""

    added: int
    correct: int
    missing: int


def mixtures(esc10: Path, folder: Path, config: SoundscapeConfig) -> Clips:
    """Mixtures of the recordings of ESC-10, with incomplete labels and the true ones."""
    recordings = esc50.read(esc10, 5, esc10_only=True)
    return make_recorded(config, 0, recordings, folder / "clips.parquet")


def heard(teacher: Path, clips: Clips) -> Predictions:
    """What the teacher says of the clips, of its classes those of the clips."""
    model = read_weights(teacher) if teacher.suffix in (".pt", ".pth") else load_any(teacher)
    said = predict(model.network, open_source(clips, model.network.sample_rate), model.vocabulary, split="train")
    if said.rejected:
        raise ValueError(f"{len(said.rejected)} mixtures could not be made, the first: {min(said.rejected.items())}")
    found, columns = said.predictions, columns_of(clips.vocabulary, model.vocabulary, str(teacher))
    return Predictions(found.probabilities[:, columns], found.clip_ids, clips.vocabulary, "train")


def additions(clips: Clips, said: Predictions, ontology: Ontology, types: set[str], threshold: str | float) -> Counts:
    """What enhancement adds, and how right it is."""
    result = enhance_clips(clips, said, ontology, types, threshold)
    found = against_truth(result.enhancement, result.part.labels("true_labels"), ontology)["all"]
    return Counts(found["added"], found["correct"], proposed(clips, ontology, types).correct)


def proposed(clips: Clips, ontology: Ontology, types: set[str]) -> Counts:
    """The same of all that the ontology proposes, whatever a teacher says."""
    candidates = candidate_labels(clips.labels(), ontology, types).matrix()
    correct = int((candidates & clips.labels("true_labels").matrix()).sum())
    return Counts(int(candidates.sum()), correct, correct)


def rows(clips: Clips, said: Predictions, ontology: Ontology) -> list[list[str]]:
    """A row for each choice of types and threshold."""
    table = []
    for types in CHOICES:
        found = {name: additions(clips, said, ontology, types, each) for name, each in THRESHOLDS.items()}
        for name, each in {**found, "every candidate": proposed(clips, ontology, types)}.items():
            shares = [f"{each.correct / whole:.3f}" if whole else "-" for whole in (each.added, each.missing)]
            table.append([" and ".join(sorted(types)), name, *map(str, each), *shares])
    return table


def report(clips: Clips, said: Predictions, ontology: Ontology) -> str:
    """The table, and below it what the corpus is and how well the teacher knows it."""
    head = ["type", "threshold", "added", "right", "missing", "precision", "recall"]
    labels, truth = clips.labels(), clips.labels("true_labels")
    lines = _markdown(head, rows(clips, said, ontology))
    ranks = score(said, truth)
    return "\n".join(
        [
            *lines,
            "",
            f"{len(clips)} clips, {len(clips.vocabulary)} classes; {int(truth.counts().sum())} labels hold, "
            f"{int(labels.counts().sum())} are given. The teacher's mAP against what sounds: "
            f"{ranks.mean_average_precision:.3f} over {ranks.classes_scored} classes.",
        ]
    )


def _markdown(head: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *table)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("esc10", type=Path)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missing-children", type=float, default=0.5)
    parser.add_argument("--missing-parents", type=float, default=0.3)
    options = parser.parse_args()
    config = SoundscapeConfig(
        seed=options.seed,
        clips=options.clips,
        seconds=options.seconds,
        missing_children=options.missing_children,
        missing_parents=options.missing_parents,
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        clips = mixtures(options.esc10, Path(folder), config)
        said = heard(options.teacher, clips)
    print(report(clips, said, Ontology.audioset()))
    print(f"\n{config.seconds:g} s, seed {config.seed}; {machine()}; {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
