"""Fit: your own classes on the frozen features of a trained model, in a minute: `psla fit`.

    clips ──► features, heard once (`features.py`) ──► cross-validation by recording (`cross_fit.py`)
                                                              │ strength, thresholds, scores
    model file  ◄── trunk of the model, a linear head, familiarity  ◄── all clips

Where every clip has one label the head is multinomial (`softmax`), otherwise each class is by itself (`linear`). Clips
of the split evaluation are left out. Synthesised silence, noise, hum, tones and clicks are backgrounds of the
familiarity score (`known.py`), and so are sounds of no class that you have.

Not here: scores of held-out clips (`psla predict`, `evaluate`), training the trunk (`psla train --init`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from psla.audio.decode import AUDIO_SUFFIXES
from psla.corpora.folder import read_csv, read_folders
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.download import cache_folder
from psla.files import is_text, sha256_of, write_json_atomic
from psla.model.clip_ids import hashed
from psla.model.file import Model, ModelCard, load_model, save_model
from psla.model.network import TaggingNetwork
from psla.synth.plain_signals import KINDS
from psla.synth.plain_signals import make as plain_signals
from psla.training.cross_fit import (
    Answers,
    Task,
    cross_validate,
    folds_of,
    learning_curve,
    measured,
    threshold_of,
    thresholds,
)
from psla.training.features import Features, features_of, hear
from psla.training.known import Known, at_most
from psla.training.logistic import Linear
from psla.weights.catalogue import resolve
from psla.weights.choice import choose

SIGNALS = 5  # plain signals of each kind that are backgrounds; as many others are asked for the report
Told = Callable[[str, int, int], None]


class FitError(ValueError):
    """Clips that no head can be fitted to, or a model that has no features."""


@dataclass(frozen=True)
class Fitted:
    """What `fit` has made.

    Attributes:
        path: the model file.
        report: what stands in the JSON file beside it, whose name ends in `.fit.json`.
    """

    path: Path
    report: dict[str, Any]


def fit(
    data: Clips | str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    background: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    workers: int = 2,
    told: Told = lambda what, more, total: None,
) -> Fitted:
    """Fit a head to your own sounds and write a model file that tags with it.

    Args:
        data: a table of clips, its file, a pack, a CSV with the columns path and labels (and `source`, the recording
            that a clip is from), or a folder of a folder for each class. Clips of the splits train and validation are
            fitted to.
        out: the model file, `.safetensors`.
        model: a model file or a name that `psla models` lists, whose features are used; None: what `psla tag` takes.
        background: a folder of sounds that are of none of the classes.
        cache: where features are kept; None: in psla's cache folder.
        workers: processes that decode.
        told: of what is heard: which, how many more, of how many.

    Raises:
        FitError: fewer than two classes, no class with two recordings, all clips of one recording, labels that differ
            by case or spaces only, no sound in the background, an ensemble, or a name that is no model file's.
        ClipsError, PackError, ModelFileError, PublishedError, FeatureCacheError: what cannot be read.

    Example:
        >>> fit("sounds", "my.safetensors").report["cross_validation"]["value"]  # doctest: +SKIP
        0.94
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise FitError(f"{out}: the name of a model file ends in .safetensors")
    clips = open_clips(data)
    clips = clips.filter(clips.frame["split"] != "evaluation")
    _check(clips)
    negatives = None if background is None else _background(Path(background))
    path = resolve(choose(model).model)
    if path.suffix == ".json":
        raise FitError(f"{path} is an ensemble, which has no features of its own: give one of its members")
    base, sha256 = load_model(path), sha256_of(path)
    folder = (cache_folder() / "features" if cache is None else Path(cache)) / sha256

    def heard(what: str, table: Clips) -> Features:
        found = hear(base.network, table, folder, workers, lambda clips: told(what, clips, len(table)))
        if not len(found.values):
            raise FitError(f"none of the {what} can be read; the first: {next(iter(found.rejected.values()))}")
        return found

    features, signals = heard("clips", clips), heard("plain signals", plain_signals(2 * SIGNALS * len(KINDS))).values
    others = [] if negatives is None else [at_most(heard("background sounds", negatives).values)]
    backgrounds = np.vstack([*others, backgrounds_of(base.network, signals)])
    chosen = clips.select(features.clip_ids)
    _check(chosen)
    chosen = chosen.part(_occurring(chosen))
    task = _task(chosen, features, backgrounds)
    begun = {"version": 1, "model": path.name, "model_sha256": sha256, "rejected": features.rejected}
    return _written(out, base, chosen, task, signals[SIGNALS * len(KINDS) :], begun)


def _written(
    out: Path, base: Model[TaggingNetwork], clips: Clips, task: Task, signals: np.ndarray, begun: dict[str, Any]
) -> Fitted:
    """Cross-validation, the head of all clips, and the two files; signals: features to ask the familiarity about."""
    answers, whole = cross_validate(task), np.arange(len(clips))
    head, known, threshold = task.head(whole, answers.strength), task.known(whole), threshold_of(answers.familiarity)
    scores = [answers.familiarity[answers.asked], known.score(signals)]
    kept, passed = (float((each >= threshold).mean()) for each in scores)
    shares = {"familiar_in_cross_validation": kept, "familiar_of_other_plain_signals": passed}
    report = begun | _told(clips, task, answers) | {"familiarity": {"threshold": threshold, **shares}}
    card = _card(base, clips, report, thresholds(answers, task.labels))
    save_model(out, build(base.network, head, known, threshold, task.single), clips.vocabulary, card)
    write_json_atomic(out.with_suffix(".fit.json"), report)
    return Fitted(out, report)


def backgrounds_of(network: TaggingNetwork, signals: np.ndarray) -> np.ndarray:
    """Features of silence, as short and as long as the network hears, and of the first `SIGNALS` signals of each kind.

    Silence is there by itself, so that it is always unfamiliar: nothing is nearer to it.
    """
    lengths = (network.shortest_samples, network.window_samples)
    silence = [features_of(network, np.zeros(length, dtype=np.int16)) for length in lengths]
    return np.vstack([*silence, signals[: SIGNALS * len(KINDS)]])


def open_clips(data: Clips | str | os.PathLike[str]) -> Clips:
    """The clips that `fit` takes; without splits of their own, all are to train on."""
    if isinstance(data, Clips):
        return data
    path = Path(data)
    if path.is_dir() and not (path / "pack.json").is_file():
        return read_folders(path, evaluation_share=0)
    return read_csv(path, evaluation_share=0) if path.suffix.lower() == ".csv" else Clips.read(path)


def build(trunk: TaggingNetwork, head: Linear, known: Known, threshold: float, single: bool) -> TaggingNetwork:
    """A network of a trunk and a head; the trunk is left as it is."""
    kind, rows = "softmax" if single else "linear", len(known.bias)
    config = dataclasses.replace(trunk.config, classes=len(head.bias), heads=0, head=kind, familiarity=rows)
    network = TaggingNetwork(config)
    tensors = {name: each for name, each in trunk.state_dict().items() if name.startswith(("backbone.", "front_end."))}
    own = {"pooling.output.weight": head.weight, "pooling.output.bias": head.bias}
    own |= {"familiarity.weight": known.weight, "familiarity.bias": known.bias}
    own["familiarity.threshold"] = np.array([threshold])
    network.load_state_dict(tensors | {name: torch.from_numpy(each).float() for name, each in own.items()})
    return network.eval()


def _check(clips: Clips) -> None:
    classes = _occurring(clips)
    seen: dict[str, str] = {}
    for c in classes:
        plain = " ".join(c.name.casefold().split())
        if plain in seen:
            raise FitError(f"the labels {seen[plain]!r} and {c.name!r} differ by case or spaces only: make them one")
        seen[plain] = c.name
    if len(classes) < 2:
        has = f"all clips are of {classes[0].name!r}" if len(classes) else "no clip has a label"
        raise FitError(f"a fit needs two classes or more to train on, and {has}: add clips of another")
    if clips.frame["source"].n_unique() < 2:
        raise FitError(
            f"all {len(clips)} clips are of the one source {clips.frame['source'][0]!r}, so nothing is left to ask: "
            "say in the column source which recording each clip is from"
        )


def _occurring(clips: Clips) -> Vocabulary:
    """The part of the vocabulary that the clips have."""
    counts = clips.labels().counts()
    return clips.vocabulary.part([c.id for c in clips.vocabulary if counts[c.index]])


def _task(clips: Clips, features: Features, backgrounds: np.ndarray) -> Task:
    groups, labels = _recordings(clips.frame["source"].to_list(), features.keys), clips.labels().matrix().astype(bool)
    if folds_of(labels, groups).max() < 1:
        raise FitError(
            f"of the {len(clips.vocabulary)} classes none has two recordings that cross-validation could hold out, "
            "clips of one source or one content being one recording: add clips"
        )
    return Task(features.values, labels, groups, clips.is_single_label, backgrounds)


def _background(folder: Path) -> Clips:
    files = sorted(str(file) for file in folder.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file())
    if not (files := [file for file in files if is_text(file)]):
        raise FitError(f"{folder}: the background is a folder with sound files in it")
    rows = [{"clip_id": each, "source": each, "path": each, "split": "train", "labels": []} for each in files]
    return Clips.from_rows(rows, Vocabulary(["background"]), "background")


def _recordings(sources: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """(clips,) numbers that are equal for clips of one source, or of one content under two names."""
    one, other = (np.unique(each, return_inverse=True)[1] for each in (sources, keys))
    count = int(one.max()) + 1
    size = count + int(other.max()) + 1
    tied = coo_array((np.ones(len(one)), (one, count + other)), shape=(size, size))
    return np.unique(connected_components(tied, directed=False)[1][one], return_inverse=True)[1].reshape(-1)


def _told(clips: Clips, task: Task, answers: Answers) -> dict[str, Any]:
    """The report, but for the familiarity."""
    several = np.flatnonzero(task.labels.sum(axis=1) != 1)[:1]
    alone = [c.name for c in clips.vocabulary if len(set(task.groups[task.labels[:, c.index]])) == 1]
    asked, folds = answers.asked, int(answers.folds.max()) + 1
    labels = clips.labels().select([id for id, held in zip(clips.clip_ids, asked, strict=True) if held])
    scores = measured(answers.probabilities[asked], labels, task.groups[asked], task.single)
    return {
        "clips": len(clips),
        "recordings": int(task.groups.max()) + 1,
        "classes": [c.name for c in clips.vocabulary],
        "single_label": task.single,
        "why_not": "".join(f"clip {clips.clip_ids[row]!r} has {task.labels[row].sum()} labels" for row in several),
        "classes_of_one_recording": alone,
        "strength": answers.strength,
        "log_loss_by_strength": {f"{each:g}": loss for each, loss in answers.losses.items()},
        "cross_validation": {"folds": folds, **scores},
        "learning_curve": learning_curve(task, answers),
    }


def _card(base: Model, clips: Clips, report: dict[str, Any], fitted: np.ndarray) -> ModelCard:
    made = {key: report[key] for key in ("model", "model_sha256", "clips", "recordings", "strength", "familiarity")}
    measure = report["cross_validation"]
    scores = {measure["measure"]: measure["value"]} | {key: measure[key] for key in ("low", "high", "clips", "folds")}
    return ModelCard(
        scores={"cross_validation": scores},
        licence=base.card.licence,
        training_data=f"{clips.name or 'clips'}, on features of a model of: {base.card.training_data or 'not stated'}",
        provenance={"fit": made, "model": base.card.provenance},
        thresholds=dict(zip(clips.vocabulary.ids, map(float, fitted), strict=True)),
        training_clips=hashed(clips.clip_ids, base.card.training_clips),
    )
