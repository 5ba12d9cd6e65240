"""`psla fit` on ESC-10: accuracy over the five official folds, and what it says of classes that it was not taught.

    python benchmarks/fit.py ESC_10_FOLDER MODEL [--tune] [--folds 1,2,3,4,5]

Everything that is chosen (strength, threshold) is chosen inside the four training folds. First `fit` and `predict`, a
fold at a time, as a user would; then 15 pairs of classes are left out in turn: fitted on eight, asked about all ten.
With --tune, or with --folds, the folds alone; with --tune the trunk is trained, too: minutes each.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu

from psla.corpora import esc50
from psla.data.labels import Labels
from psla.data.source import open_source
from psla.files import sha256_of
from psla.model.file import load_model
from psla.model.inference import predict
from psla.synth.plain_signals import KINDS, make
from psla.training.cross_fit import Task, folds_of, held_out_familiarity, measured, threshold_of
from psla.training.features import hear
from psla.training.fit import SIGNALS, backgrounds_of, fit

PAIRS = 15


def cpu_s() -> float:
    """Seconds of all processors, of this process and of those that it has ended."""
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


def official_folds(root: Path, model: Path, folder: Path, folds: list[int], tuned: bool = False) -> None:
    """Accuracy on each fold of a model that was fitted on the others."""
    said, ids = [], []
    for fold in folds:
        clips = esc50.read(root, fold, esc10_only=True)
        began, began_cpu = time.perf_counter(), cpu_s()
        fitted = fit(clips, folder / f"fold{fold}.safetensors", model, cache=folder / "cache", tuned=tuned)
        spent, spent_cpu = time.perf_counter() - began, cpu_s() - began_cpu
        network, held = load_model(fitted.path).network, clips.split("evaluation")
        found = predict(network, open_source(held, network.sample_rate), clips.vocabulary).predictions
        said.append(found.probabilities)
        ids += found.clip_ids
        right = (found.probabilities.argmax(axis=1) == held.labels().indices).mean()
        inside = fitted.report["cross_validation"]["value"]
        what = f"fold {fold}: {right:.4f}, cross-validated in training {inside:.4f}"
        print(f"{what}; fitted in {spent:.1f} s, {spent_cpu:.1f} s of processors", flush=True)
    labels = clips.labels().select(ids)
    sources = clips.select(ids).frame["source"].to_numpy()
    score = measured(np.concatenate(said), labels, np.unique(sources, return_inverse=True)[1], single=True)
    print(
        f"{len(folds)} folds: " + "{value:.4f} of {clips} clips right, 95 % {low:.4f} to {high:.4f}".format(**score),
        flush=True,
    )


def classes_left_out(root: Path, model: Path, folder: Path) -> None:
    """Which share of the sounds of two classes passes a threshold that was set on the other eight."""
    network, cache = load_model(model).network, folder / "cache" / sha256_of(model)
    clips = esc50.read(root, None, esc10_only=True)
    features = hear(network, clips, cache).values
    backgrounds = backgrounds_of(network, hear(network, make(SIGNALS * len(KINDS)), cache).values)
    fold = np.zeros(len(clips), dtype=int)
    for number in esc50.FOLDS:
        fold[(esc50.read(root, number, esc10_only=True).frame["split"] == "evaluation").to_numpy()] = number
    labels: Labels = clips.labels()
    truth, groups = labels.indices, np.unique(clips.frame["source"].to_numpy(), return_inverse=True)[1]
    pairs = list(itertools.combinations(range(len(clips.vocabulary)), 2))
    rows = []
    for place in np.random.default_rng(0).permutation(len(pairs))[:PAIRS]:
        known = ~np.isin(truth, pairs[place])
        scores = np.zeros(len(clips))
        for number in esc50.FOLDS:
            train = known & (fold != number)
            own = np.unique(groups[train], return_inverse=True)[1]
            classes = np.delete(labels.matrix().astype(bool), pairs[place], axis=1)
            task = Task(features[train], classes[train], own, True, backgrounds)
            threshold = threshold_of(held_out_familiarity(task, folds_of(task.labels, task.groups)))
            asked = fold == number
            scores[asked] = task.known(np.arange(train.sum())).score(features[asked]) - threshold
        area = mannwhitneyu(scores[known], scores[~known]).statistic / (known.sum() * (~known).sum())
        rows.append((area, (scores[~known] >= 0).mean(), (scores[known] >= 0).mean()))
        names = " and ".join(clips.vocabulary[c].name for c in pairs[place])
        print(f"without {names}: AUC {rows[-1][0]:.3f}, named {rows[-1][1]:.3f}, known kept {rows[-1][2]:.3f}")
    drawn = np.array(rows)[np.random.default_rng(0).integers(PAIRS, size=(10_000, PAIRS))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    names = ("AUC", "of unknown classes named", "of known clips kept")
    said = [
        f"{n} {v:.3f} ({a:.3f} to {b:.3f})" for n, v, a, b in zip(names, np.mean(rows, axis=0), low, high, strict=True)
    ]
    print(f"{PAIRS} pairs: {', '.join(said)}; 95 % over draws of pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--folds", default="1,2,3,4,5")
    given = parser.parse_args()
    folds = [int(fold) for fold in given.folds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        official_folds(given.root, given.model, Path(folder), folds, given.tune)
        if not given.tune and folds == list(esc50.FOLDS):
            classes_left_out(given.root, given.model, Path(folder))


if __name__ == "__main__":
    main()
