"""What a row is trained on: a share of the clips, or clips with enhanced labels, or with a teacher's probabilities.

A teacher's predictions of the training clips are made once for each run and kept; what is made from them is kept, too.

    LAB/labels/teacher-RUN.safetensors        what a run says of the training clips
    LAB/labels/RUN/clips.parquet              the enhanced clips that RUN is trained on
    LAB/labels/RUN/enhancement.json           what was added to them: Table VIII's first columns
    LAB/labels/RUN/teacher.safetensors        the mean of several teachers, for a distillation

Paper: sections III (Figure 3) and V-B.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from psla.data.clips import Clips
from psla.data.ontology import Ontology
from psla.data.source import open_source
from psla.files import write_json_atomic
from psla.lab.teaching import additions_row
from psla.metrics.predictions import Predictions, average
from psla.model.file import load_model
from psla.model.inference import predict
from psla.techniques.enhancement import enhance_clips
from psla.training.run import Run


@dataclass(frozen=True)
class Predicting:
    """How a teacher predicts: which clips (all that there are to train on, since the file is kept for every row),
    where, and who is told the clips done."""

    clips: Clips
    device: torch.device | str = "cpu"
    progress: Callable[[int], None] = lambda clips: None


def take_share(clips: Clips, share: float, seed: int) -> Clips:
    """A share of the sources of the split train, and all other clips; a smaller share lies in a larger one.

    The sources are ordered by a hash of the seed and their name, so that the order depends on nothing else.

    Args:
        share: above 0, at most 1; at least one source is kept.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> row = {"path": "a.wav", "split": "train", "labels": ["dog"]}
        >>> rows = [{**row, "clip_id": name, "source": name} for name in "abcdefgh"]
        >>> clips = Clips.from_rows(rows, Vocabulary(["dog"]))
        >>> quarter, half = (take_share(clips, share, seed=0).clip_ids for share in (0.25, 0.5))
        >>> len(quarter), len(half), set(quarter) < set(half)
        (2, 4, True)
    """
    if share >= 1:
        return clips
    sources = clips.frame.filter(pl.col("split") == "train")["source"].unique().to_list()
    sources.sort(key=lambda source: (hashlib.sha256(f"{seed}:{source}".encode()).digest(), source))
    kept = sources[: max(1, round(share * len(sources)))]
    return clips.filter((pl.col("split") != "train") | pl.col("source").is_in(kept))


def teach_labels(clips: Clips, teacher: Run, types: str, folder: Path, predicting: Predicting) -> Clips:
    """The clips with labels that a run has enhanced (`types`: I, II or I+II); made once, into `folder`."""
    path = folder / "clips.parquet"
    if not path.is_file():
        predictions = teacher_predictions(teacher, folder.parent, predicting)
        if len(clips) < len(predicting.clips):
            known = set(predictions.clip_ids)
            predictions = predictions.select([id for id in clips.split("train").clip_ids if id in known])
        ontology = Ontology.audioset()
        enhanced = enhance_clips(clips, predictions, ontology, set(types.split("+")))
        write_json_atomic(folder / "enhancement.json", additions_row(clips, enhanced, ontology))
        enhanced.clips.write(path)  # last: with it all is there
    return Clips.read(path)


def read_additions(folder: Path) -> dict[str, Any]:
    """What `teach_labels` added: `additions_row` of the teacher loop."""
    found: dict[str, Any] = json.loads((folder / "enhancement.json").read_text(encoding="utf-8"))
    return found


def teach_probabilities(teachers: Sequence[Run], folder: Path, predicting: Predicting) -> Path:
    """A file of the mean of the teachers' probabilities of the training clips; made once, into `folder`."""
    path = folder / "teacher.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        average(teacher_predictions(run, folder.parent, predicting) for run in teachers).save(path)
    return path


def teacher_predictions(teacher: Run, folder: Path, predicting: Predicting) -> Predictions:
    """What the averaged model of a run says of the training clips; made once."""
    path = folder / f"teacher-{teacher.folder.name}.safetensors"
    if not path.is_file():
        model = load_model(teacher.model_file)
        source = open_source(predicting.clips.split("train"), model.network.config.front_end.sample_rate)
        network, device = model.network.to(predicting.device), predicting.device
        found = predict(network, source, model.vocabulary, split="train", device=device, progress=predicting.progress)
        folder.mkdir(parents=True, exist_ok=True)
        found.predictions.save(path)
    return Predictions.read(path)


def impacted_classes(additions: dict[str, Any], vocabulary_ids: Sequence[str]) -> np.ndarray:
    """(classes,) bool: the classes that got a label."""
    added = set(additions["classes_added_to"])
    return np.array([id in added for id in vocabulary_ids], dtype=bool)
