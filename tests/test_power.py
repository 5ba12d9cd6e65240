"""What a planned lab will resolve, and verdicts after each of several numbers of seeds: both hold in simulated labs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lab_fixture import write_lab
from psla.lab.tables.claims import Claim, load_claims
from psla.lab.tables.folder import LabError, Measured
from psla.lab.tables.power import Looks, as_looked, design, look_at, prospects, run_in_looks
from psla.lab.tables.runner import Outcome
from psla.lab.tables.verdicts import CONTRADICTED, NOT_RESOLVED, SUPPORTED, Scoring, Verdict, judge
from psla.metrics.power import Design, spent
from psla.metrics.significance import Estimate, SeedPrior, estimate, holm

UNITS, DRAWS = 300, 80


def trial(rng: np.random.Generator, planned: Design, difference: float) -> Estimate:
    """One lab of a claim with a known difference: seeds have their luck, clips one that all seeds share."""
    luck = math.sqrt(planned.clips) * rng.normal()
    exact = difference + luck + math.sqrt(planned.between) * rng.normal(size=planned.seeds)
    drawn = exact[:, None] + math.sqrt(planned.clips) * rng.normal(size=DRAWS)[None, :]
    prior = SeedPrior(planned.between, planned.prior_degrees) if planned.prior_degrees else None
    return estimate(exact, drawn, planned.units, prior=prior)


@pytest.mark.parametrize(
    "planned",
    [
        Design(1e-4, 1e-5, 3, UNITS),
        Design(1e-4, 1e-4, 5, UNITS, level=0.05 / 14),
        Design(1e-4, 2e-5, 3, UNITS, level=0.01, prior_degrees=8),
        Design(1e-4, 1e-4, 2, UNITS),
    ],
)
def test_the_stated_power_is_met(planned: Design) -> None:
    """Law: of simulated labs whose difference is the one that is said to be found with 80 %, 80 % find it."""
    rng, difference, trials = np.random.default_rng(5), planned.finds(0.8), 800
    found = [trial(rng, planned, difference) for _ in range(trials)]
    share = np.mean([each.p < planned.level and each.value > 0 for each in found])
    # Four standard errors of a share, and 0.02 for what 80 draws of clips know of their luck.
    assert abs(share - 0.8) < 4 * math.sqrt(0.16 / trials) + 0.02


def test_power_grows_with_seeds_clips_and_difference() -> None:
    """Law: more seeds, fewer luck, a larger difference and a laxer level each find more; nothing is found of nothing
    more often than the level."""
    planned = Design(1e-4, 1e-5, 3, UNITS)
    powers = [replace(planned, seeds=n).power(0.02) for n in (2, 3, 5, 10, 50)]
    assert powers == sorted(powers)
    assert replace(planned, clips=1e-4).power(0.02) < planned.power(0.02) < planned.power(0.03)
    assert replace(planned, level=0.01).power(0.02) < planned.power(0.02)
    assert planned.power(0.0) <= planned.level / 2 + 1e-9
    assert planned.seeds_for(planned.finds(0.8) + 1e-9) <= 3
    with pytest.raises(ValueError, match="variances from 0 on"):
        Design(-1.0, 0.0, 3, UNITS)


def test_what_looks_spend_is_the_level() -> None:
    """Law: the looks' levels are above 0, grow, and sum up to the level; one look has all of it."""
    for looks in ([3, 5, 8], [2, 3, 4, 5, 6], [10, 11]):
        levels = spent(looks, 0.05)
        assert all(each > 0 for each in levels)
        assert math.isclose(sum(levels), 0.05)
    assert math.isclose(spent([4], 0.05)[0], 0.05)
    for wrong in ([], [5, 3], [3, 3], [0, 2]):
        with pytest.raises(ValueError, match="ascending"):
            spent(wrong, 0.05)


def in_looks(
    rng: np.random.Generator, planned: Design, differences: Sequence[float], looks: Sequence[int]
) -> list[int]:
    """Of each claim the sign that it was decided with, 0 if it was not; the same seeds and clips at each look."""
    luck = math.sqrt(planned.clips) * rng.normal(size=len(differences))
    seeds = math.sqrt(planned.between) * rng.normal(size=(len(differences), looks[-1]))
    exact = np.array(differences)[:, None] + luck[:, None] + seeds
    clips = math.sqrt(planned.clips) * rng.normal(size=(len(differences), DRAWS))
    decided = [0] * len(differences)
    for count, level in zip(looks, spent(looks, 0.05), strict=True):
        found = [estimate(e[:count], e[:count, None] + c[None, :], UNITS) for e, c in zip(exact, clips, strict=True)]
        for place, p in enumerate(holm([each.p for each in found])):
            if not decided[place] and p < level:
                decided[place] = int(math.copysign(1, found[place].value))
    return decided


def test_looks_keep_the_rate_of_false_alarms() -> None:
    """Law: where no claim is true, a claim is decided in at most 5 of 100 labs, however often one looks."""
    rng, trials = np.random.default_rng(6), 600
    planned = Design(1e-4, 2e-5, 8, UNITS)
    alarms = np.mean([any(in_looks(rng, planned, [0.0] * 4, [3, 5, 8])) for _ in range(trials)])
    assert alarms <= stats.binom.ppf(0.999, trials, 0.05) / trials


def test_looks_find_what_is_there() -> None:
    """Law: a large difference is decided, with its sign, beside claims that are not true."""
    rng, planned = np.random.default_rng(7), Design(1e-4, 1e-5, 8, UNITS)
    found = np.array([in_looks(rng, planned, [0.05, 0.0, -0.05], [3, 5, 8]) for _ in range(100)])
    assert (found[:, 0] == 1).mean() > 0.95
    assert (found[:, 2] == -1).mean() > 0.95
    assert (found[:, 1] != 0).mean() < 0.1


def verdict(name: str, value: float, p: float, status: str, std: float = 0.01) -> Verdict:
    claim = Claim(id=name, text="It helps.", where="Table I", worse="a", better="b")
    found = Estimate(value, value - 0.1, value + 0.1, p, 3, 2.0, std / math.sqrt(3), 0.001, std, 0.95)
    return Verdict(claim, status, "", 0.1, 0.1 + value, found, p, (0, 1, 2), "clip", UNITS)


def test_a_look_decides_gives_up_or_goes_on() -> None:
    """Law: decided claims and hopeless ones are closed, near ones are open until the last look, which closes all."""
    looks = Looks(seeds=[3, 8])
    tested = [
        verdict("found", 0.2, 1e-4, SUPPORTED),
        verdict("against", -0.2, 1e-4, CONTRADICTED),
        verdict("nothing", 0.0001, 0.99, NOT_RESOLVED),
        verdict("near", 0.02, 0.06, NOT_RESOLVED),
    ]
    after = look_at(tested, looks, UNITS)
    assert set(after.claims) == {"found", "against", "nothing"}
    assert after.claims["nothing"].reason.startswith("given up after 3")
    assert after.claims["found"].level == spent([3, 8], 0.05)[0]
    end = look_at(tested, after, UNITS)
    assert end.done == 2
    assert end.claims["near"].status == NOT_RESOLVED
    assert end.claims["found"] == after.claims["found"]
    shown = {
        each.claim.id: each for each in as_looked([replace(each, status=NOT_RESOLVED) for each in tested], end.claims)
    }
    assert shown["found"].status == SUPPORTED
    assert "after 3 seeds" in shown["found"].reason


def test_decided_claims_get_no_more_seeds_and_an_interruption_changes_nothing(tmp_path: Path) -> None:
    """Law: the rows of claims that are open, and those alone, are run with more seeds; begun again, a lab that was
    stopped between its looks comes to the same looks.json; other looks are refused."""
    claims = [claim for claim in load_claims() if claim.id in ("pretraining", "masking", "mixup", "sampling_alone")]
    names = ["baseline", "pretraining", "sampling", "masking", "mixup"]
    asked: list[tuple[tuple[str, ...], int]] = []

    class Stopped(Exception):
        pass

    def run_in(folder: Path, stop_at: int | None = None) -> Looks:
        def run(rows: Sequence[str], count: int) -> Outcome:
            if count == stop_at:
                raise Stopped
            asked.append((tuple(rows), count))
            if folder.exists():
                looks = (folder / "looks.json").read_bytes() if (folder / "looks.json").exists() else None
                shutil.rmtree(folder)
            else:
                looks = None
            write_lab(folder, tuple(range(count)), files=1)
            if looks is not None:
                (folder / "looks.json").write_bytes(looks)
            return Outcome(done=list(rows))

        return run_in_looks(folder, claims, names, [2, 4, 6], run)[1]

    whole = run_in(tmp_path / "whole")
    assert whole.done == 3
    assert asked[0] == (tuple(names), 2)
    closed_early = {id for id, look in whole.claims.items() if look.seeds == 2}
    assert "pretraining" in {id for id, look in whole.claims.items() if look.status == SUPPORTED}
    if later := [rows for rows, count in asked[1:]]:
        open_rows = {row for claim in claims if claim.id not in closed_early for row in claim.rows}
        assert set(later[0]) == open_rows
    with pytest.raises(Stopped):
        run_in(tmp_path / "cut", stop_at=4)
    assert run_in(tmp_path / "cut") == whole
    with pytest.raises(LabError, match=r"looked at after \[2, 4, 6\] seeds"):
        run_in_looks(tmp_path / "cut", claims, names, [3, 6], lambda rows, count: Outcome())


def test_prospects_are_those_of_the_design(tmp_path: Path) -> None:
    """Law: what a plan finds is what its design finds, with the pilot's luck, at the level by the number of claims;
    more seeds and more clips find smaller differences; what the pilot did not test is named without a number."""
    pilot = Scoring(Measured(write_lab(tmp_path / "lab", (0, 1, 2), files=1)))
    claims = [claim for claim in load_claims() if claim.id in ("pretraining", "masking", "backbones")]
    few = {each.claim.id: each for each in prospects(claims, pilot, seeds=3)}
    more = {each.claim.id: each for each in prospects(claims, pilot, seeds=9)}
    larger = {each.claim.id: each for each in prospects(claims, pilot, seeds=3, units=10 * pilot.draws.units)}
    assert few["backbones"].finds is None
    assert few["backbones"].paper == pytest.approx(0.0065)
    found = next(each for each in judge(claims, pilot) if each.claim.id == "masking").difference
    assert found is not None
    assert few["masking"].finds == design(found, pilot.draws.units, 3, 3, pilot.draws.units).finds(0.8)
    for name in ("pretraining", "masking"):
        assert more[name].finds < few[name].finds
        assert larger[name].finds < few[name].finds
    assert few["masking"].power is not None
