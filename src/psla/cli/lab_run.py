"""`psla lab run`: the rows of the paper's tables on any clips."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from psla.cli.console import INTERRUPTED, guarded, number, progress, table, whole_numbers

if TYPE_CHECKING:
    from psla.lab.tables.folder import Lab
    from psla.lab.tables.plan import Plan
    from psla.lab.tables.runner import Outcome
    from psla.training.devices import Runtime

NOT_RUN = 1
SOUNDSCAPE = "soundscape"


@guarded
def run(
    clips: Annotated[str, typer.Argument(help="The table of clips, a pack, or the word soundscape.")],
    out: Annotated[Path, typer.Option(help="The lab's folder; what is finished in it is not done again.")],
    recipe: Annotated[str, typer.Option(help="A preset by name, or a YAML file.")] = "demo",
    rows: Annotated[str, typer.Option(help="Groups (smoke, core, table_4, ..., all), rows, own ROW.yaml.")] = "core",
    seeds: Annotated[str, typer.Option(help="As in 0,1,2: each row is run with each of them.")] = "0,1,2",
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, as in optimizer.epochs=30.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be run, and how long it may take.")] = False,
    shard: Annotated[str | None, typer.Option(help="i/n: every n-th training; a call without it ends the lab.")] = None,
    training_clips: Annotated[int, typer.Option(min=1, help="Of the soundscapes.")] = 400,
    evaluation_clips: Annotated[int, typer.Option(min=1, help="Of the soundscapes.")] = 200,
    seconds: Annotated[float, typer.Option(help="Length of a soundscape.")] = 2.56,
    missing_children: Annotated[float, typer.Option(help="Of soundscapes: labels of a child left out.")] = 0.5,
    missing_parents: Annotated[float, typer.Option(help="Of soundscapes: labels of a parent left out.")] = 0.3,
    classes: Annotated[int, typer.Option(min=0, help="Of soundscapes: the most frequent sounds; 0: all.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Threads that read clips.")] = 2,
    cache_mb: Annotated[int, typer.Option(min=0, help="Megabytes of decoded clips to keep in memory.")] = 1024,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="Between two states to go on from.")] = 10.0,
) -> None:
    """Run the rows of the paper's tables; a row that cannot be run is noted, and the exit code is then 1."""
    from psla.metrics.parts import parse_part

    numbers, part = whole_numbers(seeds, "a seed"), parse_part(shard) if shard is not None else None
    from psla.training.recipe import Recipe, parse_override

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
    names = [name.strip() for name in rows.split(",") if name.strip()]
    own = [Path(name) for name in names if name.endswith(".yaml")]
    prepared, asked = runner.prepare(lab, [Path(n).stem if Path(n) in own else n for n in names], numbers, own)
    runtime = Runtime(accelerator, cache_bytes=cache_mb * 2**20, workers=workers, checkpoint_minutes=checkpoint_minutes)
    if plan:
        _print_plan(lab, prepared, asked, runtime)
        return
    lab.write(prepared.seeds, list(prepared.rows), shlex.join(["psla", *sys.argv[1:]]), own)
    try:
        with _asked_to_stop() as stop:
            found = runner.carry_out(lab, prepared, asked, runtime, part, _Teller(), stop)
    except runner.LabInterrupted as pause:
        typer.echo(f"psla: {pause}", err=True)
        raise typer.Exit(INTERRUPTED) from pause
    _print_outcome(lab, found, part)
    if found.not_run:
        raise typer.Exit(NOT_RUN)


class _Teller:
    """Tells the user how the lab gets on, on stderr."""

    def say(self, sentence: str) -> None:
        typer.echo(sentence, err=True)

    def training(self, clips: Mapping[str, int], epochs: int) -> AbstractContextManager[Callable[[str, int], None]]:
        rounds = {stage: epochs + (stage not in ("train", "teacher")) for stage in clips}
        return progress(clips, {**rounds, "teacher": 1})


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether a SIGTERM or a Ctrl-C has come; a second Ctrl-C does not wait for the step to end."""
    came = Event()

    def note(number: int, frame: object) -> None:
        came.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        runs.append(
            [run.folder.name, ", ".join(shared), str(job.clips), str(job.recipe.optimizer.epochs), state, hours]
        )
    typer.echo("\n" + table(["run", "rows that take it", "clips", "epochs", "state", "hours"], runs))
    done, total = len(jobs) - len(to_do), sum(seconds.values()) / 3600
    typer.echo(
        f"\n{len(asked)} rows, {len(jobs)} runs, {done} of them done; the others take about {total:.2f} hours here: an "
        "estimate from a few measured steps on synthetic clips, without the time to read clips"
    )


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
                lines.append([name, result.table, (result.take or "").replace("_", " "), number(mean), number(spread)])
        typer.echo(table(["row", "table", "scored", "mAP", "deviation"], lines))
    for name, reason in found.not_run.items():
        typer.echo(f"{name}: not run: {reason}", err=True)
    if shard is None:
        typer.echo(f"results: {lab.folder / 'results'}; the tables: psla lab report {lab.folder}")
