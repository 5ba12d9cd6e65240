"""What `psla lab run --plan` says: what would run, for how long, and what it can resolve; how --looks is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from psla.cli.console import CommandError, table

if TYPE_CHECKING:
    from psla.lab.tables.folder import Lab
    from psla.lab.tables.plan import Plan
    from psla.training.devices import Runtime


def counts_of(looks: str, seeds: Sequence[int], part: tuple[int, int] | None) -> list[int]:
    """The numbers of seeds of --looks."""
    counts = [int(word) if word.strip().isdecimal() else 0 for word in looks.split(",")]
    if part is not None:
        raise CommandError("--looks needs all runs of a look before the next: it does not go with --shard")
    if counts != sorted(set(counts)) or counts[0] < 2 or counts[-1] != len(seeds):
        raise CommandError(
            f"--looks are ascending numbers of seeds from 2 on, the last of them all seeds ({len(seeds)}), not {looks}"
        )
    return counts


def print_prospects(lab: Lab, asked: Sequence[str], seeds: Sequence[int], pilot: Path | None) -> None:
    """What the claims on these rows will resolve, by the luck of a lab that has run."""
    from psla.lab.tables.claims import load_claims
    from psla.lab.tables.folder import Measured
    from psla.lab.tables.power import prospects
    from psla.lab.tables.verdicts import Scoring

    if pilot is None and not (lab.folder / "results").is_dir():
        typer.echo(
            "\nWhat it can resolve is not known yet: --pilot LAB, a lab that has run, tells the luck of seeds and clips"
        )
        return
    scores = Scoring(Measured(pilot or lab.folder))
    claims = [claim for claim in load_claims() if set(claim.rows) <= set(asked)]
    held_out = lab.clips.split(lab.split).frame["source"].n_unique()
    lines = []
    for each in prospects(claims, scores, len(seeds), held_out):
        if each.finds is None:
            lines.append([each.claim.id, "the pilot did not test it", each.paper, "-", "-"])
        else:
            more = "no number" if each.paper is not None and each.seeds is None else each.seeds
            lines.append([each.claim.id, f"{each.finds:.4f}", each.paper, each.power, more])
    head = ["claim", "finds, at 80 % power", "the paper's", "power for that", "seeds for 80 %"]
    typer.echo("\n" + table(head, [["-" if cell is None else cell for cell in line] for line in lines]))
    typer.echo(
        f"differences in mAP with {len(seeds)} seeds and {held_out} held-out sources, if seeds and clips bring the "
        f"luck that they brought in {scores.lab.folder}; each claim at the level 0.05 / {len(claims)}, so at least "
        "that power"
    )


def print_plan(lab: Lab, plan: Plan, asked: Sequence[str], runtime: Runtime) -> None:
    from psla.lab.tables.plan import seconds_of
    from psla.lab.tables.runner import jobs_of

    jobs = jobs_of(plan, [name for name in asked if plan.reason(name) is None])
    held_out = sum(count for split, count in lab.clips.counts().items() if split != "train")
    classes = len(lab.clips.vocabulary if lab.recipe.classes is None else lab.recipe.classes)
    to_do = [job for job in jobs if not lab.run(job).is_finished]
    seconds = seconds_of(to_do, classes, held_out, runtime, lambda size: typer.echo(f"measuring {size}", err=True))
    lines = []
    for name in asked:
        row = plan.rows[name]
        if (reason := plan.reason(name)) is not None:
            state = f"cannot be run: {reason}"
        elif (result := lab.result(name)) is not None and result.status == "done":
            state = "done"
        else:
            state = "to do" if row.is_trained else f"from the runs of {', '.join(plan.members(name))}"
        lines.append([name, row.table, row.title, state])
    typer.echo(table(["row", "table", "title", "state"], lines))
    runs = []
    for job in jobs:
        run = lab.run(job)
        state = "done" if run.is_finished else "begun" if run.exists else "to do"
        shared = [name for name in job.rows if name in asked]
        hours = f"{seconds[job.key] / 3600:.2f}" if job.key in seconds else "-"
        runs.append([run.folder.name, ", ".join(shared), job.clips, job.recipe.optimizer.epochs, state, hours])
    typer.echo("\n" + table(["run", "rows that take it", "clips", "epochs", "state", "hours"], runs))
    done, total = len(jobs) - len(to_do), sum(seconds.values()) / 3600
    typer.echo(
        f"\n{len(asked)} rows, {len(jobs)} runs, {done} of them done; the others take about {total:.2f} hours here: an "
        "estimate from a few measured steps on synthetic clips, without the time to read clips"
    )
