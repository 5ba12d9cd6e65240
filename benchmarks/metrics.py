"""The metrics at the size of AudioSet's evaluation set, against a loop over scikit-learn, and the paired bootstrap.

python benchmarks/metrics.py [--clips 20371] [--classes 527] [--resamples 1000]

Probabilities and labels are drawn: about 2.7 labels a clip, from a long tail.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import date

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.metrics.compare import compare
from psla.metrics.predictions import Predictions
from psla.metrics.scores import score


def drawn(clips: int, classes: int, seed: int = 0) -> tuple[Labels, Predictions, Predictions]:
    """Labels and two sets of predictions that know something of them."""
    generator = np.random.default_rng(seed)
    share = 1.0 / np.arange(2, classes + 2)
    matrix = generator.random((clips, classes)) < 2.7 * share / share.sum()
    matrix[generator.integers(0, clips, classes), np.arange(classes)] = True
    ids, vocabulary = [f"c{i}" for i in range(clips)], Vocabulary([f"class{c}" for c in range(classes)])
    files = []
    for _ in range(2):
        logits = 2.0 * matrix - 3.0 + generator.normal(size=matrix.shape)
        files.append(Predictions((1 / (1 + np.exp(-logits))).astype(np.float32), ids, vocabulary))
    return Labels.from_matrix(ids, matrix, vocabulary), *files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20371)
    parser.add_argument("--classes", type=int, default=527)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    labels, one, two = drawn(options.clips, options.classes)
    matrix = labels.matrix()
    size = f"{options.clips} clips x {options.classes} classes"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, numpy {np.__version__}, {size}, {date.today()}")

    began, busy = time.perf_counter(), time.process_time()
    found = score(one, labels)
    ours, busy = time.perf_counter() - began, time.process_time() - busy
    began = time.perf_counter()
    truth, guess = matrix.astype(int), one.probabilities
    ap = [average_precision_score(truth[:, c], guess[:, c]) for c in range(options.classes)]
    auc = [roc_auc_score(truth[:, c], guess[:, c]) for c in range(options.classes)]
    loop = time.perf_counter() - began
    worst = max(abs(found.mean_average_precision - np.mean(ap)), abs(found.mean_auc - np.mean(auc)))
    worst = max(worst, *(abs(a.average_precision - b) for a, b in zip(found.per_class, ap, strict=True)))
    print(f"mAP, AUC, d-prime: {ours:.2f} s ({busy:.2f} s of processor); {loop / ours:.1f}x the scikit-learn loop")
    print(f"largest difference to scikit-learn: {worst:.1e}")

    began, busy = time.perf_counter(), time.process_time()
    result = compare(one, two, labels, options.resamples)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    interval = f"{result.difference:+.5f} ({result.low:+.5f} .. {result.high:+.5f})"
    print(f"paired bootstrap, {options.resamples} resamples: {seconds:.1f} s ({busy:.1f} s of processor), {interval}")


if __name__ == "__main__":
    main()
