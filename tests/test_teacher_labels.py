"""Laws of `benchmarks/teacher_labels.py`: what its table counts, against teachers whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from psla.data.clips import Clips
from psla.data.ontology import Ontology
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions
from psla.model.inference import predict
from psla.report.enhancement import against_truth
from psla.synth.config import SoundscapeConfig
from psla.synth.corpus import make
from psla.techniques.enhancement import enhance_clips
from tagging_models import tiny_model, tiny_model_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import teacher_labels  # noqa: E402

CONFIG = SoundscapeConfig(seconds=1.0, clips=60, missing_children=0.5, missing_parents=0.3)
ONTOLOGY = Ontology.audioset()
ANIMAL, DOG = "/m/0jbk", "/m/0bt9lr"


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make(CONFIG, evaluation_clips=0)


def saying(clips: Clips, probabilities: np.ndarray) -> Predictions:
    return Predictions(probabilities.astype(np.float32), clips.clip_ids, clips.vocabulary, "train")


def test_a_teacher_that_knows_adds_nothing_wrong(clips: Clips) -> None:
    """Law: one that is surer of what is missing than of what is given, and of nothing else, adds what is missing: all
    of it but for classes that no clip was given, which have no threshold."""
    given, truth = clips.labels().matrix(), clips.labels("true_labels").matrix()
    said = saying(clips, 0.9 * (truth & ~given) + 0.5 * given)
    silent = ~given.any(axis=0)
    for types in teacher_labels.CHOICES:
        found = teacher_labels.additions(clips, said, ONTOLOGY, types, "mean")
        assert found.correct == found.added > 0
        reach = teacher_labels.candidate_labels(clips.labels(), ONTOLOGY, types).matrix() & truth
        assert found.added == reach[:, ~silent].sum()
        assert found.missing == reach.sum()


def test_counts_are_those_of_enhance(clips: Clips) -> None:
    """Law: for one type added, right and missing are what `psla enhance --truth` says of the type."""
    said = saying(clips, np.random.default_rng(0).random((len(clips), len(clips.vocabulary))))
    for kind in ("I", "II"):
        for threshold in teacher_labels.THRESHOLDS.values():
            result = enhance_clips(clips, said, ONTOLOGY, {kind}, threshold)
            known = against_truth(result.enhancement, result.part.labels("true_labels"), ONTOLOGY)[kind]
            found = teacher_labels.additions(clips, said, ONTOLOGY, {kind}, threshold)
            assert found == (known["added"], known["correct"], known["missing"])


def test_the_table_has_every_choice_and_a_lower_threshold_adds_more(clips: Clips) -> None:
    """Law: three choices of types by three thresholds and every candidate, which nothing exceeds; the 25th percentile
    adds at least what the median does; type II proposes nothing that is wrong."""
    said = saying(clips, np.random.default_rng(1).random((len(clips), len(clips.vocabulary))))
    table = teacher_labels.rows(clips, said, ONTOLOGY)
    assert [row[0] for row in table] == ["I"] * 4 + ["II"] * 4 + ["I and II"] * 4
    for part in (table[:4], table[4:8], table[8:]):
        added = {row[1]: int(row[2]) for row in part}
        assert added["median"] <= added["25th percentile"] <= added["every candidate"]
        assert len({row[4] for row in part}) == 1
    assert [row[5] for row in table[4:8]] == ["1.000"] * 4


@pytest.mark.usefixtures("one_thread")
def test_the_teacher_is_asked_at_the_classes_of_the_clips(tmp_path: Path) -> None:
    """Law: of a teacher of more classes, each class of the clips gets the teacher's own column."""
    rows = [
        {"clip_id": "a", "source": "a", "path": "soundscape://3/0?seconds=1.0", "split": "train", "labels": [DOG]},
        {"clip_id": "b", "source": "b", "path": "soundscape://3/1?seconds=1.0", "split": "train", "labels": [ANIMAL]},
    ]
    clips = Clips.from_rows(rows, Vocabulary.audioset().part([DOG, ANIMAL]))
    model = tiny_model()
    found = teacher_labels.heard(tiny_model_file(tmp_path), clips)
    whole = predict(model.network, open_source(clips, model.network.sample_rate), model.vocabulary).predictions
    for column, id in enumerate(clips.vocabulary.ids):
        own = whole.probabilities[:, model.vocabulary.index_of(id)]
        assert np.array_equal(found.probabilities[:, column], own)
    assert found.clip_ids == ["a", "b"]
