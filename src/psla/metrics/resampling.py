"""Scores under draws of clips: which clips a bootstrap draws, and what average precision is on such a draw.

A draw is a weight w >= 0 for each clip, so a class is sorted once and then only reweighted. With
    N(s) = sum of w over clips with probability >= s,    T(s) = the same over positive clips,
    AP = sum over positive clips of w T(s) / N(s), divided by the sum of w over positive clips
and N is needed only at the probabilities of positive clips: the sorted clips fall into as many bins as there are
such probabilities, the weights of a bin are added up, and N is the running sum of the bins.

`Draws` keeps one set of draws for many files, so that the scores of any two of them are paired draw by draw.
Source: Efron and Tibshirani, An introduction to the bootstrap (1993), chapter 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psla.data.labels import Labels
from psla.metrics.predictions import Predictions, unlike
from psla.metrics.scores import average_precisions

if TYPE_CHECKING:
    from torch import Tensor

RESAMPLES_AT_A_TIME = 128  # the weights of this many draws stay in the processor's cache

CLIPS_FOR_THREADS = 5000


class ComparisonError(ValueError):
    """Predictions that cannot be compared with each other."""


@dataclass(frozen=True)
class DrawnScore:
    """Mean average precision as measured, and under each draw.

    Shape:
        drawn: (draws,) float64.
    """

    exact: float
    drawn: np.ndarray


class Draws:
    """A set of draws of clips (or sources), the same for every file that is scored with it.

    Args:
        labels: of the clips that are drawn: every file must have them all.
        resamples: number of draws, 2 or more.
        sources: by clip id what clips are drawn together, such as the recording; None draws clips one by one.
        seed: of the draws.

    Raises:
        ComparisonError: fewer than 2 draws, no class with positives, or a clip without a source.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> vocabulary, ids = Vocabulary(["dog"]), ["a", "b", "c", "d"]
        >>> draws = Draws(Labels.from_sets(ids, [["dog"], ["dog"], [], []], vocabulary), resamples=200)
        >>> found = draws.score(Predictions(np.array([[0.9], [0.1], [0.5], [0.2]], dtype=np.float32), ids, vocabulary))
        >>> found.exact, found.drawn.shape
        (0.75, (200,))
    """

    def __init__(
        self, labels: Labels, resamples: int = 400, sources: Mapping[str, str] | None = None, seed: int = 0
    ) -> None:
        if resamples < 2:
            raise ComparisonError(f"the deviation over draws needs 2 draws or more; got {resamples}")
        if not labels.counts().any():
            raise ComparisonError(f"none of the classes has positives among the {len(labels)} clips")
        ids = sorted(labels.clip_ids)  # so that the draws do not depend on the order of the clips
        self.labels, self.resamples = labels.select(ids), resamples
        self.groups = groups_of(ids, sources)
        self.units = int(self.groups.max()) + 1
        self.unit = "clip" if sources is None or self.units == len(ids) else "source"
        self._counts = draw_units(np.random.default_rng(seed), resamples, self.units)

    def score(self, predictions: Predictions, progress: Callable[[int], None] = lambda resamples: None) -> DrawnScore:
        """Mean average precision of a file, as measured and under each draw.

        Raises:
            ComparisonError: another vocabulary than the labels'.
            KeyError: clips without predictions.
        """
        if predictions.vocabulary != self.labels.vocabulary:
            raise ComparisonError(
                f"predictions and labels have {unlike(predictions.vocabulary, self.labels.vocabulary)}"
            )
        probabilities = predictions.probabilities[predictions.rows_of(self.labels.clip_ids)]
        (drawn,) = drawn_precisions([Ranked(probabilities, self.labels)], self._counts, self.groups, progress)
        exact = average_precisions(probabilities, self.labels)
        return DrawnScore(float(np.nanmean(exact)), defined_mean(drawn.astype(np.float64)))


def mean_score(scores: Sequence[DrawnScore]) -> DrawnScore:
    """The mean of scores under the same draws, such as of the last five epochs.

    Example:
        >>> mean_score([DrawnScore(0.25, np.array([0.0])), DrawnScore(0.75, np.array([1.0]))]).exact
        0.5
    """
    drawn = np.mean([each.drawn for each in scores], axis=0)
    return DrawnScore(float(np.mean([each.exact for each in scores])), drawn)


def draw_units(generator: np.random.Generator, resamples: int, units: int) -> np.ndarray:
    """(resamples, units) how often each unit is drawn, with replacement, as many as there are."""
    draws = np.empty((resamples, units), dtype=np.uint16)
    for draw in draws:
        draw[:] = np.bincount(generator.integers(0, units, units), minlength=units)
    return draws


def drawn_precisions(
    ranked: Sequence[Ranked], counts: np.ndarray, groups: np.ndarray, progress: Callable[[int], None]
) -> np.ndarray:
    """(files, draws, classes) float32: average precision of each file under each draw, the same draws for all.

    Args:
        ranked: the files.
        counts: (draws, units) how often each unit is drawn.
        groups: (clips,) the unit of each clip; it weighs as often as its unit was drawn.
        progress: called with the number of draws done since the last call.
    """
    drawn = np.empty((len(ranked), len(counts), ranked[0].vocabulary_size), dtype=np.float32)
    with _threads_for(len(groups)):
        for begin in range(0, len(counts), RESAMPLES_AT_A_TIME):
            part = slice(begin, begin + RESAMPLES_AT_A_TIME)
            weights = np.ascontiguousarray(counts[part].astype(np.float32)[:, groups].T)  # (clips, draws)
            for file, target in zip(ranked, drawn, strict=True):
                file.average_precisions(weights, target[part])
            progress(weights.shape[1])
    return drawn


def groups_of(ids: list[str], sources: Mapping[str, str] | None) -> np.ndarray:
    """(clips,) the number of the unit that each clip is drawn with."""
    if sources is None:
        return np.arange(len(ids))
    missing = [id for id in ids if id not in sources]
    if missing:
        raise ComparisonError(f"{len(missing)} of {len(ids)} clips have no source, the first: {missing[0]!r}")
    return np.unique([sources[id] for id in ids], return_inverse=True)[1].reshape(-1)


@contextmanager
def _threads_for(clips: int) -> Iterator[None]:
    """One thread for few clips: to wake up the others takes longer than the sums do."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(threads if clips >= CLIPS_FOR_THREADS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Ranked:
    """Predictions with each class sorted once: which clips fall into the bin of which positive clip's probability."""

    def __init__(self, probabilities: np.ndarray, labels: Labels) -> None:
        self.vocabulary_size = probabilities.shape[1]
        self.classes: list[tuple[int, list[Tensor]]] = []
        for c in labels.vocabulary:
            positive = labels.rows_with(c.id).astype(np.int32)
            if len(positive):
                self.classes.append((c.index, _bins(-probabilities[:, c.index].astype(np.float32), positive)))

    def average_precisions(self, weights: np.ndarray, target: np.ndarray) -> None:
        """Average precision of each class under each draw, (clips, draws) -> (draws, classes); NaN: no positive."""
        import torch

        table = torch.from_numpy(weights)
        bags = torch.nn.functional.embedding_bag  # adds up rows of a table, bin by bin
        target[:] = np.nan
        for c, (clips, starts, positive, positive_starts) in self.classes:
            total = bags(clips, table, starts, mode="sum").cumsum(0)  # N: (probabilities, draws)
            of_bin = bags(positive, table, positive_starts, mode="sum")
            true = of_bin.cumsum(0)  # T
            positives = true[-1].clone()
            summed = true.mul_(of_bin).div_(total.clamp_(min=1)).sum(0)  # T is 0 where N is
            target[:, c] = (summed / positives).numpy()  # 0 / 0 is NaN: a draw without positives


def _bins(fall: np.ndarray, positive: np.ndarray) -> list[Tensor]:
    """All clips by falling probability and the starts of their bins, then the positive clips likewise."""
    import torch

    positive = positive[np.argsort(fall[positive], kind="stable")]
    levels, positive_starts = np.unique(fall[positive], return_index=True)
    order = np.argsort(fall, kind="stable")
    ends = np.searchsorted(fall[order], levels, "right")
    starts = np.concatenate([[0], ends[:-1]])
    # Below the last positive clip nothing counts.
    return [torch.from_numpy(each.astype(np.int32)) for each in (order[: ends[-1]], starts, positive, positive_starts)]


def defined_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
