"""Verdicts: does a lab support the paper's claims?

A claim says that one row scores more than another. Trainings with the same seed are a pair; the difference is averaged
over pairs, and its interval covers both that other seeds and that other clips would have given another difference
(`psla.metrics.significance`). All rows are scored under the same draws of clips (or of sources, where several clips
share one). Where two rows were trained apart, the luck of training is judged with that of the lab's other rows; where
they come from the same runs, by their own seeds alone. P-values are corrected for the number of claims tested (Holm).

    supported      the difference is above 0, its corrected p-value below 0.05
    contradicted   below 0, its corrected p-value below 0.05
    not resolved   neither
    not tested     a row is missing; the reason is given

With one seed only the clips' luck is in the interval: a supported claim then speaks of these two models, not of the
technique, and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter

from psla.lab.tables.claims import Claim, row_of
from psla.lab.tables.folder import Measured, RowResult
from psla.metrics.predictions import Predictions, average
from psla.metrics.resampling import DrawnScore, Draws, mean_score
from psla.metrics.significance import Estimate, SeedPrior, estimate, holm, seed_prior

RESAMPLES = 400  # enough for a deviation (Efron and Tibshirani, section 6.4), and no more than that is taken from them
SUPPORTED, CONTRADICTED, NOT_RESOLVED, NOT_TESTED = "supported", "contradicted", "not resolved", "not tested"

Seed = int | None


@dataclass(frozen=True)
class Scored:
    """A row's scores by seed, those of its best member where it is an ensemble, and the runs they come from."""

    by_seed: Mapping[Seed, DrawnScore]
    best_member: Mapping[Seed, DrawnScore]
    runs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """What a lab says of a claim.

    Attributes:
        claim: what was tested. status: see the module's head. reason: why not tested, or what the interval leaves out.
        worse, better: mean scores of the two rows over the seeds that both have. difference: better - worse (of a
            claim with `beyond`, minus the other gain), with its interval; None where not tested.
        p: corrected for the number of claims tested. seeds: of the pairs.
        unit, units: what was drawn, and how many there are.
    """

    claim: Claim
    status: str
    reason: str = ""
    worse: float | None = None
    better: float | None = None
    difference: Estimate | None = None
    p: Annotated[float | None, Field(serialization_alias="p_holm")] = None
    seeds: Sequence[Seed] = ()
    unit: str = "clip"
    units: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found: dict[str, Any] = TypeAdapter(Verdict).dump_python(self, by_alias=True)
        return found


class Scoring:
    """Scores of a lab's rows under one set of draws; each row is scored once, when it is asked for.

    Args:
        lab: the results.
        resamples: draws of clips. seed: of the draws.
        progress: told 1 for each row that is scored.
    """

    def __init__(
        self,
        lab: Measured,
        resamples: int = RESAMPLES,
        seed: int = 0,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.lab, self.progress = lab, progress
        self.draws = Draws(lab.labels, resamples, lab.sources, seed)
        self._scored: dict[str, Scored] = {}
        self._files: dict[tuple[str, ...], DrawnScore] = {}

    def __getitem__(self, name: str) -> Scored:
        """The scores of a row that is done.

        Raises:
            KeyError: it is not.
        """
        if name not in self._scored:
            self._scored[name] = self._score(self.lab.rows[name])
            self.progress(1)
        return self._scored[name]

    def __contains__(self, name: object) -> bool:
        return name in self.lab.rows and self.lab.rows[str(name)].done

    def estimate(self, name: str) -> Estimate:
        """A row's mean score with its interval."""
        scores = list(self[name].by_seed.values())
        exact = np.array([each.exact for each in scores])
        prior = self.prior if _is_single(self.lab.rows[name]) else None
        return estimate(exact, np.array([each.drawn for each in scores]), self.draws.units, prior=prior)

    @cached_property
    def prior(self) -> SeedPrior | None:
        """What the rows tell of the luck of one training; rows of the same runs count once."""
        variances: dict[frozenset[str], tuple[float, int]] = {}
        for name, row in self.lab.rows.items():
            if row.done and _is_single(row) and len(row.seeds) > 1 and self[name].runs not in variances:
                exact = [each.exact for each in self[name].by_seed.values()]
                variances[self[name].runs] = (float(np.var(exact, ddof=1)), len(exact) - 1)
        return seed_prior([v for v, _ in variances.values()], [d for _, d in variances.values()])

    def prior_of(self, claim: Claim) -> SeedPrior | None:
        """The same, where the claim's rows were trained apart, each seed once."""
        names = claim.rows
        sides = [side for _, side in claim.terms]
        runs = [run for name in names for run in self[name].runs]
        apart = len(set(runs)) == len(runs) and len(names) == len(sides)
        single = all(isinstance(side, str) and _is_single(self.lab.rows[side]) for side in sides)
        return self.prior if apart and single else None

    def _score(self, row: RowResult) -> Scored:
        by_seed, best = {}, {}
        for each in row.seeds:
            # Rows share files: an ensemble's members are rows themselves.
            members = [self._drawn((path,)) for path in each.predictions]
            if each.is_ensemble:
                by_seed[each.seed] = self._drawn(tuple(each.predictions))
                best[each.seed] = max(members, key=lambda score: score.exact)
            else:
                by_seed[each.seed] = mean_score(members)
        return Scored(by_seed, best, frozenset(run for each in row.seeds for run in each.runs))

    def _drawn(self, files: tuple[str, ...]) -> DrawnScore:
        """The score of a file, or of the mean of several."""
        if files not in self._files:
            self._files[files] = self.draws.score(average(Predictions.read(self.lab.path(path)) for path in files))
        return self._files[files]


def judge(claims: Sequence[Claim], scores: Scoring, confidence: float = 0.95) -> list[Verdict]:
    """A verdict for each claim, in their order.

    Args:
        confidence: level of the intervals; 1 - confidence is the chance that any claim is wrongly found supported or
            contradicted.
    """
    tested = [_test(claim, scores, confidence) for claim in claims]
    places = [i for i, verdict in enumerate(tested) if verdict.difference is not None]
    found = [verdict.difference for verdict in tested if verdict.difference is not None]
    for place, difference, p in zip(places, found, holm([each.p for each in found]), strict=True):
        tested[place] = _decided(tested[place], difference, p, 1 - confidence)
    return tested


def contrast(
    terms: Sequence[tuple[int, Mapping[Seed, DrawnScore]]],
    units: int,
    confidence: float = 0.95,
    prior: SeedPrior | None = None,
) -> Estimate:
    """A signed sum of rows' scores over the seeds that all have, with its interval.

    Args:
        terms: a sign and a row's scores by seed, each. units: how many clips, or sources, were drawn.
        prior: what is known of the luck of one training, where the rows were trained apart.

    Raises:
        ValueError: no seed in common.
    """
    seeds = common_seeds([scores for _, scores in terms])
    if not seeds:
        raise ValueError("a contrast needs a seed that all of its rows have")
    exact = np.array([sum(sign * of_seed(scores, seed).exact for sign, scores in terms) for seed in seeds])
    drawn = np.array([np.sum([sign * of_seed(scores, seed).drawn for sign, scores in terms], 0) for seed in seeds])
    return estimate(exact, drawn, units, confidence, prior, len(terms))


def common_seeds(rows: Sequence[Mapping[Seed, DrawnScore]]) -> list[Seed]:
    """The seeds that all rows have, in the order of the first; what pools all seeds goes with any.

    Example:
        >>> one = DrawnScore(0.5, np.zeros(2))
        >>> common_seeds([{0: one, 1: one}, {1: one, 2: one}, {None: one}])
        [1]
        >>> common_seeds([{None: one}, {None: one}])
        [None]
    """
    apart = [row for row in rows if None not in row] or list(rows)
    return [seed for seed in apart[0] if all(seed in row for row in apart)]


def of_seed(scores: Mapping[Seed, DrawnScore], seed: Seed) -> DrawnScore:
    """The score of a seed, or the one that pools all seeds."""
    return scores[None] if None in scores else scores[seed]


def _is_single(row: RowResult) -> bool:
    """Whether each of its seeds is one run, and no ensemble of several."""
    return all(len(each.runs) == 1 and each.combine == "mean_of_scores" for each in row.seeds)


def _test(claim: Claim, scores: Scoring, confidence: float) -> Verdict:
    draws = scores.draws
    for name in claim.rows:
        if name not in scores:
            row = scores.lab.rows.get(name)
            why = f"{row.status}: {row.reason}" if row is not None and row.reason else "not run"
            return Verdict(claim, NOT_TESTED, f"row {name}: {why}")
    sides = []
    for sign, side in claim.terms:
        scored = scores[row_of(side)]
        sides.append((sign, scored.by_seed if isinstance(side, str) else scored.best_member))
        if not sides[-1][1]:
            return Verdict(claim, NOT_TESTED, f"row {row_of(side)} is no ensemble of several models")
    seeds = common_seeds([found for _, found in sides])
    if not seeds:
        return Verdict(claim, NOT_TESTED, f"rows {' and '.join(claim.rows)} have no seed in common")
    better, worse = (float(np.mean([of_seed(found, seed).exact for seed in seeds])) for _, found in sides[:2])
    difference = contrast(sides, draws.units, confidence, scores.prior_of(claim))
    return Verdict(claim, NOT_RESOLVED, "", worse, better, difference, None, seeds, draws.unit, draws.units)


def _decided(verdict: Verdict, difference: Estimate, p: float, level: float) -> Verdict:
    status = NOT_RESOLVED
    if p < level:
        status = SUPPORTED if difference.value > 0 else CONTRADICTED
    reason = ""
    if difference.seeds == 1:
        reason = "one pair of models: the variance of training is left out"
    elif status == NOT_RESOLVED and (difference.low > 0 or difference.high < 0):
        reason = "the interval leaves out 0, but not after the correction for the number of claims"
    return replace(verdict, status=status, reason=reason, p=p)
