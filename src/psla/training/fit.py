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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.download import cache_folder
from psla.files import sha256_of, write_json_atomic
from psla.model.clip_ids import hashed
from psla.model.file import Model, ModelCard, load_model, save_model
from psla.model.network import TaggingNetwork
from psla.model.pooling import Beside
from psla.spread import Spread
from psla.synth.plain_signals import KINDS
from psla.synth.plain_signals import make as plain_signals
from psla.training.cross_fit import (
    Answers,
    Task,
    cross_validate,
    folds_of,
    held_out_familiarity,
    learning_curve,
    measured,
    threshold_of,
    thresholds,
    twice_as_many,
)
from psla.training.features import Apart, Features, features_of, hear
from psla.training.known import Known, at_most
from psla.training.logistic import Linear
from psla.training.own_clips import FitError, background_clips, check, occurring, open_clips, recordings
from psla.training.review import reviewed, suspects
from psla.training.tune import compared, head_of, tune
from psla.weights.catalogue import resolve
from psla.weights.choice import choose

SIGNALS = 5  # plain signals of each kind that are backgrounds; as many others are asked for the report
Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fitted:
    """What `fit` has made.

    Attributes:
        path: the model file.
        report: what stands in the JSON file beside it, whose name ends in `.fit.json`.
        clips: those that it was fitted to.
    """

    path: Path
    report: dict[str, Any]
    clips: Clips


def fit(
    data: Clips | str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    background: str | os.PathLike[str] | None = None,
    keep_classes: bool = False,
    tuned: bool = False,
    review: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    workers: int = 2,
    told: Told = lambda what, more, total: None,
    spread: Spread | None = None,
) -> Fitted:
    """Fit a head to your own sounds and write a model file that tags with it.

    Args:
        data: a table of clips, its file, a pack, a CSV with the columns path and labels (and `source`, the recording
            that a clip is from), or a folder of a folder for each class. Clips of the splits train and validation are
            fitted to.
        out: the model file, `.safetensors`.
        model: a model file or a name that `psla models` lists, whose features are used; None: what `psla tag` takes.
        background: a folder of sounds that are of none of the classes.
        keep_classes: keep the outputs of the model's own classes beside the new ones.
        tuned: train the trunk, too, from the head on (`psla.training.tune`); slow.
        review: a CSV of a person's corrections (`psla.training.review`).
        cache: where features are kept; None: in psla's cache folder.
        workers: processes that decode; with `spread`, of each task.
        told: of what is heard: which, how many more, of how many.
        spread: what hears the clips, a few in a task; None: this process.

    Raises:
        FitError: fewer than two classes, no class with two recordings, all clips of one recording, labels that differ
            by case or spaces only, no sound in the background, a review of other clips, an ensemble, or a name that is
            no model file's.
        ClipsError, PackError, ModelFileError, PublishedError, FeatureCacheError: what cannot be read.

    Example:
        >>> fit("sounds", "my.safetensors").report["cross_validation"]["value"]  # doctest: +SKIP
        0.94
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise FitError(f"{out}: the name of a model file ends in .safetensors")
    if keep_classes and tuned:
        raise FitError("the classes that are kept belong to the trunk as it is: keep them, or tune, not both")
    clips = open_clips(data)
    clips = clips.filter(clips.frame["split"] != "evaluation")
    clips = clips if review is None else reviewed(clips, review)
    check(clips)
    negatives = None if background is None else background_clips(Path(background))
    name = choose(model).model
    path = resolve(name)
    if path.suffix == ".json":
        raise FitError(f"{path} is an ensemble, which has no features of its own: give one of its members")
    base = load_model(path)
    if keep_classes and base.network.config.fitted:
        raise FitError(f"{path} has classes of two heads already: keep those of the model that it was made of")
    listening = _Listening(cache_folder() / "features" if cache is None else Path(cache), workers, told, spread)
    return _made(base, path, clips, negatives, listening, _Asked(out, name, keep_classes, tuned))


@dataclass(frozen=True)
class _Asked:
    """What a fit is to make; see there."""

    out: Path
    model: str
    keep_classes: bool
    tuned: bool


def _made(
    base: Model[TaggingNetwork], path: Path, clips: Clips, negatives: Clips | None, listening: _Listening, asked: _Asked
) -> Fitted:
    """What is heard, what is learnt, and the two files; path: of the base."""
    sha256 = sha256_of(path)
    sounds = listening.to(base.network, (asked.model, sha256), clips, negatives)
    chosen = clips.select(sounds.features.clip_ids)
    check(chosen)
    chosen = chosen.part(occurring(chosen))
    task = _task(chosen, sounds.features, sounds.backgrounds)
    answers, whole = cross_validate(task), np.arange(len(chosen))
    report = {"version": 1, "model": path.name, "model_sha256": sha256, "rejected": sounds.features.rejected}
    report |= _told(chosen, task, answers) | suspects(chosen, task, answers, sounds.features.keys)
    levels, trunk, head = thresholds(answers, task.labels), base.network, task.head(whole, answers.strength)
    if asked.tuned:
        runs = asked.out.with_suffix(".tune")
        found = tune(partial(_started, trunk, task, answers.strength), chosen, answers.folds, runs, listening.told)
        report["tuned"], levels = compared(found, chosen, task, levels)
        trunk, head = found.model.network, head_of(found.model.network)
        sounds = listening.to(trunk, (str(found.path), found.sha256), chosen, negatives)
        task = dataclasses.replace(task, features=sounds.features.values, backgrounds=sounds.backgrounds)
        answers = dataclasses.replace(answers, familiarity=held_out_familiarity(task, answers.folds))
    known, threshold = task.known(whole), threshold_of(answers.familiarity)
    scores = [answers.familiarity[answers.asked], known.score(sounds.others)]
    kept, passed = (float((each >= threshold).mean()) for each in scores)
    shares = {"familiar_in_cross_validation": kept, "familiar_of_other_plain_signals": passed}
    report |= {"familiarity": {"threshold": threshold, **shares}}
    card = _card(base, chosen, report, levels)
    if asked.keep_classes:
        _save_beside(asked.out, base, (head, known, threshold, task.single), chosen.vocabulary, card)
    else:
        save_model(asked.out, build(trunk, head, known, threshold, task.single), chosen.vocabulary, card)
    write_json_atomic(asked.out.with_suffix(".fit.json"), report)
    return Fitted(asked.out, report, chosen)


def _save_beside(
    out: Path, base: Model[TaggingNetwork], made: tuple[Linear, Known, float, bool], own: Vocabulary, card: ModelCard
) -> None:
    """The model file with the outputs of the base beside the new ones, but for classes that both have."""
    others = base.vocabulary.part([id for id in base.vocabulary.ids if id not in own])
    vocabulary = Vocabulary([*own.ids, *others.ids], [*own.names, *others.names])
    levels = {id: level for id, level in base.card.raw_thresholds.items() if id in others} | card.thresholds
    kept = [base.vocabulary.index_of(id) for id in others.ids]
    save_model(out, build(base.network, *made, kept), vocabulary, dataclasses.replace(card, thresholds=levels))


@dataclass(frozen=True)
class _Sounds:
    """What was heard: the clips, backgrounds of the familiarity, and plain signals that it is asked about."""

    features: Features
    backgrounds: np.ndarray
    others: np.ndarray


@dataclass(frozen=True)
class _Listening:
    """How clips are heard; see `fit`."""

    cache: Path
    workers: int
    told: Told
    spread: Spread | None

    def to(self, network: TaggingNetwork, file: tuple[str, str], clips: Clips, negatives: Clips | None) -> _Sounds:
        """All that a fit hears, through the trunk of a file: its path or name, and its SHA-256."""
        folder = self.cache / file[1]
        apart = None if self.spread is None else Apart(self.spread, *file)

        def heard(what: str, table: Clips) -> Features:
            done = partial(self.told, what)
            found = hear(network, table, folder, self.workers, lambda clips: done(clips, len(table)), apart)
            if not len(found.values):
                raise FitError(f"none of the {what} can be read; the first: {next(iter(found.rejected.values()))}")
            return found

        features = heard("clips", clips)
        signals = heard("plain signals", plain_signals(2 * SIGNALS * len(KINDS))).values
        others = [] if negatives is None else [at_most(heard("background sounds", negatives).values)]
        backgrounds = np.vstack([*others, backgrounds_of(network, signals)])
        return _Sounds(features, backgrounds, signals[SIGNALS * len(KINDS) :])


def _started(trunk: TaggingNetwork, task: Task, strength: float, rows: np.ndarray) -> TaggingNetwork:
    """The network that a tuning starts from: a head of these rows, and no familiarity."""
    return build(trunk, task.head(rows, strength), None, 0.0, task.single)


def backgrounds_of(network: TaggingNetwork, signals: np.ndarray) -> np.ndarray:
    """Features of silence, as short and as long as the network hears, and of the first `SIGNALS` signals of each kind.

    Silence is there by itself, so that it is always unfamiliar: nothing is nearer to it.
    """
    lengths = (network.shortest_samples, network.window_samples)
    silence = [features_of(network, np.zeros(length, dtype=np.int16)) for length in lengths]
    return np.vstack([*silence, signals[: SIGNALS * len(KINDS)]])


def build(
    trunk: TaggingNetwork,
    head: Linear,
    known: Known | None,
    threshold: float,
    single: bool,
    kept: Sequence[int] | None = None,
) -> TaggingNetwork:
    """A network of a trunk and a head; the trunk is left as it is.

    Args:
        known: of the familiarity; None: the network has none.
        kept: classes of the trunk's own head, by index, whose outputs stand behind those of the head; None: none.
    """
    kind, rows = "softmax" if single else "linear", 0 if known is None else len(known.bias)
    own: dict[str, Any] = {"fitted": len(head.bias), "fitted_head": kind} if kept else {"heads": 0, "head": kind}
    classes = len(head.bias) + len(kept or ())
    config = dataclasses.replace(trunk.config, classes=classes, familiarity=rows, **own)
    network = TaggingNetwork(config)
    fitted = "pooling.fitted.output" if kept else "pooling.output"
    tensors = {name: each for name, each in trunk.state_dict().items() if name.startswith(("backbone.", "front_end."))}
    numbers = {f"{fitted}.weight": head.weight, f"{fitted}.bias": head.bias}
    if known is not None:
        numbers |= {"familiarity.weight": known.weight, "familiarity.bias": known.bias}
        numbers["familiarity.threshold"] = np.array([threshold])
    if kept and isinstance(network.pooling, Beside):
        network.pooling.kept.carry(trunk.pooling, torch.arange(len(kept)), torch.tensor(kept))
        tensors |= {f"pooling.kept.{name}": each for name, each in network.pooling.kept.state_dict().items()}
    network.load_state_dict(tensors | {name: torch.from_numpy(each).float() for name, each in numbers.items()})
    return network.eval()


def _task(clips: Clips, features: Features, backgrounds: np.ndarray) -> Task:
    groups, labels = recordings(clips.frame["source"].to_list(), features.keys), clips.labels().matrix().astype(bool)
    if folds_of(labels, groups).max() < 1:
        raise FitError(
            f"of the {len(clips.vocabulary)} classes none has two recordings that cross-validation could hold out, "
            "clips of one source or one content being one recording: add clips"
        )
    return Task(features.values, labels, groups, clips.is_single_label, backgrounds)


def _told(clips: Clips, task: Task, answers: Answers) -> dict[str, Any]:
    """The report, but for the familiarity."""
    several = np.flatnonzero(task.labels.sum(axis=1) != 1)[:1]
    alone = [c.name for c in clips.vocabulary if len(set(task.groups[task.labels[:, c.index]])) == 1]
    asked, folds = answers.asked, int(answers.folds.max()) + 1
    labels = clips.labels().select([id for id, held in zip(clips.clip_ids, asked, strict=True) if held])
    curve = learning_curve(task, answers)
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
        "learning_curve": curve,
        "twice_as_many": twice_as_many(curve, scores["value"]),
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
