"""`psla lab run` and `report`: the rows of the paper's tables on any clips, and the page of what came out."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psla.cli.console import (
    INTERRUPTED,
    CommandError,
    asked_to_stop,
    command_line,
    keeps,
    one_part,
    seeds_of,
    spread_over,
    table,
    words_of,
)
from psla.cli.options import (
    Accelerator,
    CacheMb,
    CheckpointMinutes,
    Cluster,
    Overrides,
    Readers,
)
from psla.cli.places import ADDRESSED, FETCHED, READ, Updates, Writes
from psla.cli.progress import progress
from psla.cli.training import finished_runs, rounds_of

if TYPE_CHECKING:
    from psla.lab.tables.folder import Lab
    from psla.lab.tables.plan import Plan
    from psla.lab.tables.runner import Outcome
    from psla.spread import Spread
    from psla.training.devices import Runtime

NOT_RUN = 1
SOUNDSCAPE = "soundscape"
LAB = Writes(folder=True, names=("lab.json", "clips.parquet", "recipe.yaml"), marker=("clips.parquet", "clips"))


@keeps(finished_runs)
def run(
    clips: Annotated[str, typer.Argument(help="The table of clips, a pack, or the word soundscape."), ADDRESSED],
    out: Annotated[Path, typer.Option(help="The lab's folder; what is finished in it is not done again."), LAB],
    recipe: Annotated[str, typer.Option(help="A preset by name, or a YAML file."), READ] = "demo",
    rows: Annotated[
        str, typer.Option(help="Groups (smoke, core, table_4, ..., all), rows, own ROW.yaml."), READ
    ] = "core",
    seeds: Annotated[str, typer.Option(help="As in 0,1,2: each row is run with each of them.")] = "0,1,2",
    set_: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be run, how long it may take, what it can resolve.")
    ] = False,
    pilot: Annotated[
        Path | None, typer.Option(help="With --plan: a lab that has run, whose luck is taken."), READ
    ] = None,
    looks: Annotated[
        str | None, typer.Option(help="As in 3,5,8: seeds after which is judged; rows of decided claims stop.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: every n-th training; a call without it ends the lab.")] = None,
    cluster: Cluster = None,
    training_clips: Annotated[int, typer.Option(min=1, help="Of the soundscapes.")] = 400,
    evaluation_clips: Annotated[int, typer.Option(min=1, help="Of the soundscapes.")] = 200,
    seconds: Annotated[float, typer.Option(help="Length of a soundscape.")] = 2.56,
    missing_children: Annotated[float, typer.Option(help="Of soundscapes: labels of a child left out.")] = 0.5,
    missing_parents: Annotated[float, typer.Option(help="Of soundscapes: labels of a parent left out.")] = 0.3,
    classes: Annotated[int, typer.Option(min=0, help="Of soundscapes: the most frequent sounds; 0: all.")] = 0,
    accelerator: Accelerator = "auto",
    workers: Readers = 2,
    cache_mb: CacheMb = 1024,
    checkpoint_minutes: CheckpointMinutes = 10.0,
) -> None:
    """Run the rows of the paper's tables; a row that cannot be run is noted, and the exit code is then 1."""
    numbers, part = seeds_of(seeds), one_part(shard, cluster)
    counts = [] if looks is None else _counts_of(looks, numbers, part)
    if pilot is not None and not plan:
        raise CommandError("--pilot says whose luck --plan reckons with; give --plan, too")
    from psla.training.keys import parse_override
    from psla.training.recipe import Recipe

    overrides = dict(map(parse_override, set_ or []))
    resolved = Recipe.load(recipe, overrides)
    if clips == SOUNDSCAPE:
        from psla.lab.experiment import soundscapes

        corpus = soundscapes(training_clips, evaluation_clips, seconds, missing_children, missing_parents, classes)
    else:
        from psla.data.clips import Clips

        corpus = Clips.read(Path(clips))
    from psla.lab.tables import runner
    from psla.lab.tables.folder import Lab
    from psla.training.devices import Runtime

    lab = Lab(out, corpus, resolved, recipe, overrides, clips)
    names = words_of([rows])
    own = [Path(name) for name in names if name.endswith(".yaml")]
    names = [Path(n).stem if Path(n) in own else n for n in names]
    prepared, asked = runner.prepare(lab, names, numbers, own)
    runtime = Runtime(accelerator, cache_bytes=cache_mb * 2**20, workers=workers, checkpoint_minutes=checkpoint_minutes)
    if plan:
        _print_plan(lab, prepared, asked, runtime)
        _print_prospects(lab, asked, numbers, pilot)
        return
    with spread_over(cluster) as spread:
        found = _carried_out(lab, (names, asked, own), (numbers, counts), runtime, part, spread)
    _print_outcome(lab, found, part)
    if found.not_run:
        raise typer.Exit(NOT_RUN)


def _counts_of(looks: str, seeds: Sequence[int], part: tuple[int, int] | None) -> list[int]:
    """The numbers of seeds of --looks."""
    counts = [int(word) if word.strip().isdecimal() else 0 for word in looks.split(",")]
    if part is not None:
        raise CommandError("--looks needs all runs of a look before the next: it does not go with --shard")
    if counts != sorted(set(counts)) or counts[0] < 2 or counts[-1] != len(seeds):
        raise CommandError(
            f"--looks are ascending numbers of seeds from 2 on, the last of them all seeds ({len(seeds)}), not {looks}"
        )
    return counts


def _print_prospects(lab: Lab, asked: Sequence[str], seeds: Sequence[int], pilot: Path | None) -> None:
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


def _print_plan(lab: Lab, plan: Plan, asked: Sequence[str], runtime: Runtime) -> None:
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


def _carried_out(
    lab: Lab,
    rows: tuple[Sequence[str], Sequence[str], Sequence[Path]],
    seeds: tuple[Sequence[int], Sequence[int]],
    runtime: Runtime,
    part: tuple[int, int] | None,
    spread: Spread | None,
) -> Outcome:
    """Do rows, all seeds at once or in looks; rows: as named, as chosen, the user's own; seeds: and the looks."""
    from psla.lab.tables import runner
    from psla.lab.tables.claims import load_claims
    from psla.lab.tables.power import run_in_looks

    (names, asked, own), (numbers, counts), teller = rows, seeds, _Teller()

    def carry_out(rows: Sequence[str], seeds: Sequence[int]) -> Outcome:
        prepared, asked = runner.prepare(lab, rows, seeds, own)
        lab.write(prepared.seeds, list(prepared.rows), command_line(), own)
        with asked_to_stop(signal.SIGTERM, signal.SIGINT) as stop:
            return runner.carry_out(lab, prepared, asked, runtime, part, teller, stop, spread)

    try:
        if not counts:
            return carry_out(names, numbers)
        few = lambda rows, count: carry_out(rows, numbers[:count])  # noqa: E731
        return run_in_looks(lab.folder, load_claims(), asked, counts, few, teller.say)[0]
    except runner.LabInterrupted as pause:
        typer.echo(f"psla: {pause}", err=True)
        raise typer.Exit(INTERRUPTED) from pause


class _Teller:
    """Tells the user how the lab gets on, on stderr."""

    def say(self, sentence: str) -> None:
        typer.echo(sentence, err=True)

    def training(self, clips: Mapping[str, int], epochs: int) -> AbstractContextManager[Callable[[str, int], None]]:
        return progress(clips, rounds_of(clips, epochs))


def _print_outcome(lab: Lab, found: Outcome, shard: tuple[int, int] | None) -> None:
    if shard is not None:
        left = f"; {len(found.waiting)} wait for other shards, call again for them" if found.waiting else ""
        typer.echo(f"shard {shard[0]}/{shard[1]}: {found.trained} runs done in this call{left}")
        typer.echo("results are written by a call without --shard, when all shards are through")
    elif found.done:
        lines = []
        for name in found.done:
            if (result := lab.result(name)) is not None:
                mean, spread = (each["mean_average_precision"] for each in (result.mean, result.std))
                lines.append([name, result.table, (result.take or "").replace("_", " "), mean, spread])
        typer.echo(table(["row", "table", "scored", "mAP", "std"], lines))
    for name, reason in found.not_run.items():
        typer.echo(f"{name}: not run: {reason}", err=True)
    if shard is None:
        typer.echo(f"results: {lab.folder / 'results'}; the tables: psla lab report {lab.folder}")


def report(
    lab: Annotated[Path, typer.Argument(help="The folder of `psla lab run`."), Updates()],
    quality: Annotated[
        Path | None,
        typer.Option(help="A CSV of the classes' annotation quality (class, quality), for Table VII."),
        FETCHED,
    ] = None,
    claims: Annotated[
        Path | None, typer.Option(help="A YAML file of claims to judge; the paper's by default."), FETCHED
    ] = None,
    resamples: Annotated[int, typer.Option(min=2, max=1_000_000, help="Draws of clips for the intervals.")] = 400,
    title: Annotated[str | None, typer.Option(help="Of the page; by default it names the corpus.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Judge the paper's claims and set its tables beside those measured: report.html, report.md, verdicts.json."""
    from psla.lab.tables.claims import load_claims
    from psla.lab.tables.folder import Measured
    from psla.lab.tables.report import write_report

    chosen = None if claims is None else load_claims(claims)
    measured = Measured(lab)
    rows = sum(row.done for row in measured.rows.values())
    if measured.waiting:
        said = f"no result yet of {', '.join(measured.waiting)}: claims on them are not tested; `psla lab run` goes on"
        typer.echo(f"psla: {said}", err=True)
    with progress({"rows": max(rows, 1)}, silent=not sys.stderr.isatty()) as tell:
        page, markdown, verdicts = write_report(
            lab, quality, chosen, resamples, title, lambda count: tell("rows", count)
        )
    text = verdicts.read_text(encoding="utf-8").rstrip()
    if as_json:
        typer.echo(text)
        return
    found, tested = json.loads(text)["verdicts"], []
    for each in found:
        if difference := each["difference"]:
            interval = f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
            numbers = [f"{difference['value']:+.4f}", interval, f"{each['p_holm']:.4f}", difference["seeds"]]
            tested.append([each["claim"]["id"], *numbers, each["status"]])
    if tested:
        typer.echo(table(["claim", "difference", "95 % interval", "p (Holm)", "seeds", "verdict"], tested))
    typer.echo(f"{len(found) - len(tested)} claims not tested")
    typer.echo(f"{page}, {markdown.name} and {verdicts.name}")
