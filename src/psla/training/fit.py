"""Fit: your own classes on the frozen features of a trained model, in a minute: `psla fit`.

    clips ──► features, heard once (`features.py`) ──► cross-validation by recording (`cross_fit.py`)
                                                              │ strength, thresholds, scores
    model file  ◄── trunk of the model, a linear head, familiarity  ◄── all clips

Where every clip has one label the head is multinomial (`softmax`), otherwise each class is by itself (`linear`). Clips
of the split evaluation are in neither: they are scored apart. Synthesised silence, noise, hum, tones and clicks are
backgrounds of the familiarity score (`known.py`), and so are sounds of no class that you have.

Not here: training the trunk (`psla.training.session`, with `init`).
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
from psla.model.file import Model, ModelCard, save_model
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
from psla.training.features import Features, hear
from psla.training.known import Known
from psla.training.logistic import Linear, probabilities
from psla.weights.catalogue import load_any, resolve
from psla.weights.packaged import DEFAULT

SIGNALS = 5  # plain signals of each kind that are backgrounds; as many others are asked for the report
_MISTAKES = 100  # that the report lists
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
    told: Told = lambda what, done, total: None,
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
        told: of the clips that are heard: which, how many, of how many.

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
    _check(clips)
    negatives = None if background is None else _background(Path(background))
    path = resolve(DEFAULT if model is None else model)
    base = load_any(path)
    if not isinstance(base.network, TaggingNetwork):
        raise FitError(f"{path} is an ensemble, which has no features of its own: give one of its members")
    sha256, network = sha256_of(path), base.network
    folder = (cache_folder() / "features" if cache is None else Path(cache)) / sha256

    def heard(what: str, table: Clips) -> Features:
        done = 0

        def more(clips: int) -> None:
            nonlocal done
            done += clips
            told(what, done, len(table))

        return hear(network, table, folder, workers, more)

    features = heard("clips", clips)
    signals = heard("plain signals", plain_signals(2 * SIGNALS * len(KINDS)))
    found = None if negatives is None else heard("background", negatives)
    if found is not None and not len(found.values):
        raise FitError(f"{background}: no sound there can be read; the first: {next(iter(found.rejected.values()))}")
    used = clips.select(features.clip_ids)
    _check(used)
    kinds = len(KINDS)
    backgrounds = [signals.values[kind : SIGNALS * kinds : kinds] for kind in range(kinds)]
    backgrounds += [] if found is None else [found.values]
    fitting = np.flatnonzero((used.frame["split"] != "evaluation").to_numpy())
    chosen = used.select([used.clip_ids[row] for row in fitting])
    chosen = chosen.part(_occurring(chosen))
    labels = chosen.labels()
    groups = _recordings(chosen.frame["source"].to_list(), [features.keys[row] for row in fitting])
    task = Task(features.values[fitting], labels.matrix().astype(bool), groups, chosen.is_single_label, backgrounds)
    _check_recordings(task, chosen)
    answers = cross_validate(task)
    whole = np.arange(len(chosen))
    head, known = task.head(whole, answers.strength), task.known(whole)
    threshold = threshold_of(answers.familiarity)
    told_of = {"version": 1, "model": path.name, "model_sha256": sha256, **_told_of_clips(chosen, task, answers)}
    told_of["rejected"] = features.rejected
    told_of |= _scores(task, answers, chosen)
    asked_apart = signals.values[SIGNALS * kinds :], None if found is None else found.values
    told_of["familiarity"] = _told_of_familiarity(answers, known, threshold, *asked_apart)
    told_of["evaluation"] = _evaluated(head, used, features, chosen.vocabulary, task.single)
    card = _card(base, chosen, told_of, thresholds(answers, task.labels))
    made = build(base.network, head, known, threshold, task.single)
    save_model(out, made, chosen.vocabulary, card)
    write_json_atomic(out.with_suffix(".fit.json"), told_of)
    return Fitted(out, told_of)


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
    train = clips.filter(clips.frame["split"] != "evaluation")
    classes = _occurring(train)
    seen: dict[str, str] = {}
    for c in classes:
        plain = " ".join(c.name.casefold().split())
        if plain in seen:
            raise FitError(f"the labels {seen[plain]!r} and {c.name!r} differ by case or spaces only: make them one")
        seen[plain] = c.name
    if len(classes) < 2:
        has = f"all clips are of {classes[0].name!r}" if len(classes) else "no clip has a label"
        raise FitError(f"a fit needs two classes or more to train on, and {has}: add clips of another")
    if train.frame["source"].n_unique() < 2:
        raise FitError(
            f"all {len(train)} clips are of the one source {train.frame['source'][0]!r}, so nothing is left to ask: "
            "say in the column source which recording each clip is from"
        )


def _check_recordings(task: Task, clips: Clips) -> None:
    if folds_of(task.labels, task.groups).max() < 1:
        raise FitError(
            f"of the {len(clips.vocabulary)} classes none has two recordings that cross-validation could hold out, "
            "clips of one source or one content being one recording: add clips"
        )


def _occurring(clips: Clips) -> Vocabulary:
    """The part of the vocabulary that the clips have."""
    counts = clips.labels().counts()
    return clips.vocabulary.part([c.id for c in clips.vocabulary if counts[c.index]])


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


def _told_of_clips(clips: Clips, task: Task, answers: Answers) -> dict[str, Any]:
    never = ~answers.asked
    # Its recordings are never held out, for there is but one.
    kept = [c.id for c in clips.vocabulary if len(set(task.groups[task.labels[:, c.index]])) == 1]
    several = np.flatnonzero(task.labels.sum(axis=1) != 1)
    why = f"clip {clips.clip_ids[several[0]]!r} has {task.labels[several[0]].sum()} labels" if len(several) else ""
    return {
        "clips": len(clips),
        "classes": [c.name for c in clips.vocabulary],
        "single_label": task.single,
        "why_several_labels": why,
        "recordings": int(task.groups.max()) + 1,
        "classes_of_one_recording": kept,
        "clips_never_held_out": int(never.sum()),
    }


def _scores(task: Task, answers: Answers, clips: Clips) -> dict[str, Any]:
    asked, strength = answers.asked, {f"{each:g}": loss for each, loss in answers.losses.items()}
    ids = [id for id, held in zip(clips.clip_ids, asked, strict=True) if held]
    labels = clips.labels().select(ids)
    told = {"folds": int(answers.folds.max()) + 1}
    told |= measured(answers.probabilities[asked], labels, task.groups[asked], task.single)
    scores: dict[str, Any] = {"strength": answers.strength, "log_loss_by_strength": strength, "cross_validation": told}
    scores["learning_curve"] = learning_curve(task, answers)
    if task.single:
        said, truth = answers.probabilities[asked], task.labels[asked].argmax(axis=1)
        names, wrong = [c.name for c in clips.vocabulary], np.flatnonzero(said.argmax(axis=1) != truth)
        wrong = wrong[np.argsort(-said[wrong].max(axis=1), kind="stable")][:_MISTAKES]
        scores["mistakes"] = [
            {"clip_id": ids[row], "label": names[truth[row]], "answer": names[said[row].argmax()]}
            | {"probability": float(said[row].max())}
            for row in wrong
        ]
    return scores


def _told_of_familiarity(
    answers: Answers, known: Known, threshold: float, signals: np.ndarray, background: np.ndarray | None
) -> dict[str, Any]:
    def share(scores: np.ndarray) -> float:
        return float((scores >= threshold).mean())

    return {
        "threshold": threshold,
        "familiar_in_cross_validation": share(answers.familiarity[answers.asked]),
        "familiar_of_other_plain_signals": share(known.score(signals)),
        "familiar_of_background": None if background is None else share(known.score(background)),
    }


def _evaluated(
    head: Linear, used: Clips, features: Features, vocabulary: Vocabulary, single: bool
) -> dict[str, Any] | None:
    """The scores of the clips of the split evaluation, of the classes that are known; None: there is none."""
    rows = np.flatnonzero((used.frame["split"] == "evaluation").to_numpy())
    held = used.select([used.clip_ids[row] for row in rows])
    if not len(held):
        return None
    held = held.part(vocabulary)
    counts = np.diff(held.labels().offsets)
    kept = counts == 1 if single else counts >= 0
    if not held.labels().counts().any() or not kept.any():
        return None
    labels = held.labels().select([id for id, keep in zip(held.clip_ids, kept, strict=True) if keep])
    groups = np.unique(held.frame["source"].to_numpy()[kept], return_inverse=True)[1]
    said = probabilities(head.logits(features.values[rows[kept]]), single)
    return measured(said, labels, groups, single) | {"left_out": int((~kept).sum())}


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
    )
