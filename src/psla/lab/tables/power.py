"""What a lab will be able to tell before it runs, and verdicts after each of several numbers of seeds.

The luck of seeds and of clips is measured on a lab that has run (a pilot: with fewer seeds, clips or epochs, or this
lab so far); `psla.metrics.power` says what a claim's difference must be to be found with the seeds and clips that are
planned. The level is that of the strictest of Holm's steps, the level by the number of claims: claims that are found
together with others are found more easily, so the stated power is a lower bound.

Looks (`psla lab run --looks 3,5,8`): after 3, 5 and 8 seeds each claim is judged at the level that the look has of the
whole (`psla.metrics.power.spent`). A claim that is decided gets no further seeds; nor does one that the last look would
find with a chance below `HOPE`, were its difference the one that was measured. What was found is kept in `looks.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from psla.lab.tables.claims import Claim
from psla.lab.tables.folder import LabError, LabFile, Measured
from psla.lab.tables.runner import Outcome
from psla.lab.tables.verdicts import CONTRADICTED, NOT_RESOLVED, SUPPORTED, Scoring, Verdict, judge
from psla.metrics.power import Design, spent
from psla.metrics.significance import Estimate

HOPE = 0.1
LEVEL = 0.05


def design(found: Estimate, units: int, claims: int, seeds: int, planned_units: int, level: float = LEVEL) -> Design:
    """The comparison of a claim as it is planned, with the luck that a pilot measured.

    Args:
        found: the pilot's estimate. units: clips or sources of the pilot. claims: how many will be tested.
        seeds, planned_units: of the plan. level: of all claims together.
    """
    between = 0.0 if found.seeds_std is None else found.seeds_std**2 * found.seeds
    lent = max(found.seeds_degrees - (found.seeds - 1), 0.0)
    seeds = seeds if found.seeds > 1 else 1
    return Design(between, found.clips_std**2 * units / planned_units, seeds, planned_units, level / claims, lent)


@dataclass(frozen=True)
class Prospect:
    """What a plan will be able to say of a claim.

    Attributes:
        claim: which. finds: the difference in mAP that is found with 80 % power; None: the pilot did not test it.
        paper: the paper's own difference (the smaller of its training sets'); None: it gives no number.
        power: chance to find the paper's difference. seeds: how many would find it with 80 % power; None: no number
            of seeds would, with these clips.
    """

    claim: Claim
    finds: float | None = None
    paper: float | None = None
    power: float | None = None
    seeds: int | None = None


def prospects(
    claims: Sequence[Claim], pilot: Scoring, seeds: int, units: int | None = None, power: float = 0.8
) -> list[Prospect]:
    """What a plan with so many seeds and held-out clips will resolve, by the luck that a pilot had.

    Args:
        claims: what will be tested. pilot: a lab that has run. seeds: of the plan.
        units: held-out clips (or sources) of the plan; None: as many as the pilot's.
    """
    found = []
    for verdict in judge(claims, pilot):
        gains = [abs(better - worse) for worse, better in verdict.claim.paper.values()]
        paper = min(gains) if gains and verdict.claim.beyond is None else None
        if verdict.difference is None:
            found.append(Prospect(verdict.claim, paper=paper))
            continue
        drawn = pilot.draws.units
        planned = design(verdict.difference, drawn, len(claims), seeds, units or drawn)
        finds = planned.finds(power)
        if paper is None:
            found.append(Prospect(verdict.claim, finds))
        else:
            found.append(Prospect(verdict.claim, finds, paper, planned.power(paper), planned.seeds_for(paper, power)))
    return found


class Look(LabFile):
    """What was decided of a claim: its status, after how many seeds, at which level, and the numbers then."""

    what = "a look"
    status: str
    seeds: int
    level: float
    p: float | None = None
    value: float | None = None
    reason: str = ""


class Looks(LabFile):
    """What `looks.json` of a lab holds: the numbers of seeds, how many looks are done, and the claims decided."""

    what = "the looks of a lab"
    seeds: list[int]
    done: int = 0
    claims: dict[str, Look] = Field(default_factory=dict)


def look_at(verdicts: Sequence[Verdict], looks: Looks, units: int) -> Looks:
    """The next look, with what it decides.

    Args:
        verdicts: of all claims, judged at this look's level. looks: those done. units: clips or sources drawn.
    """
    number, last = looks.seeds[looks.done], looks.done + 1 == len(looks.seeds)
    levels = spent(looks.seeds, LEVEL)
    level, tested = levels[looks.done], sum(verdict.difference is not None for verdict in verdicts)
    claims = dict(looks.claims)
    for verdict in verdicts:
        if verdict.claim.id in claims or verdict.difference is None:
            continue
        look = Look(status=verdict.status, seeds=number, level=level, p=verdict.p, value=verdict.difference.value)
        if verdict.status in (SUPPORTED, CONTRADICTED) or last:
            claims[verdict.claim.id] = look
            continue
        end = design(verdict.difference, units, tested, looks.seeds[-1], units, levels[-1])
        if (hope := end.power(verdict.difference.value)) < HOPE:
            reason = f"given up after {number}: all {looks.seeds[-1]} would find it with a chance of {hope:.2f}"
            claims[verdict.claim.id] = look.model_copy(update={"reason": reason})
    return looks.model_copy(update={"done": looks.done + 1, "claims": claims})


def run_in_looks(
    folder: Path,
    claims: Sequence[Claim],
    names: Sequence[str],
    counts: Sequence[int],
    run: Callable[[Sequence[str], int], Outcome],
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[Outcome, Looks]:
    """Run rows with more and more seeds, until each claim on them is decided or given up; goes on where it was left.

    Args:
        folder: of the lab. names: the rows asked for. counts: numbers of seeds after which is looked, ascending.
        run: does rows with so many seeds.
        say: told what each look came to.

    Raises:
        LabError: the lab was looked at after other numbers of seeds.
    """
    path = folder / "looks.json"
    looks = Looks.read(path) if path.is_file() else Looks(seeds=list(counts))
    if looks.seeds != list(counts):
        raise LabError(f"{path}: this lab is looked at after {looks.seeds} seeds, not {list(counts)}; take those again")
    outcome = Outcome()
    while looks.done < len(counts):
        open_claims = [claim for claim in claims if claim.id not in looks.claims]
        wanted = {row for claim in open_claims for row in claim.rows if set(claim.rows) <= set(names)}
        rows = [name for name in names if name in wanted or not looks.done]
        if rows:
            done = run(rows, counts[looks.done])
            outcome.done += [name for name in done.done if name not in outcome.done]
            outcome.not_run |= done.not_run
        scores = Scoring(Measured(folder))
        level = spent(looks.seeds, LEVEL)[looks.done]
        looks = look_at(judge(claims, scores, 1 - level), looks, scores.draws.units)
        looks.write(path)
        here = [look for look in looks.claims.values() if look.seeds == counts[looks.done - 1]]
        found = sum(look.status != NOT_RESOLVED for look in here)
        left = len(here) - found
        say(f"after {counts[looks.done - 1]} seeds: {found} claims decided, {left} given up or left at the end")
    return outcome, looks


def as_looked(verdicts: Sequence[Verdict], looks: Mapping[str, Look]) -> list[Verdict]:
    """Verdicts with the status that each claim was given when it was decided."""
    found = []
    for verdict in verdicts:
        look = looks.get(verdict.claim.id)
        if look is None or verdict.difference is None:
            found.append(verdict)
            continue
        reason = look.reason or f"decided after {look.seeds} seeds, at the level {look.level:.4f}"
        found.append(replace(verdict, status=look.status, p=look.p, reason=reason))
    return found
