"""`psla lab`: the rows of the paper's tables on any clips, settings chosen and scored fold by fold, and their pages."""

from __future__ import annotations

import json
import shlex
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
    keeps,
    part_of,
    progress,
    seeds_of,
    spread_over,
    table,
)
from psla.cli.lab_plan import counts_of, print_plan, print_prospects
from psla.cli.options import (
    Accelerator,
    BaseRecipe,
    CacheMb,
    Candidates,
    CheckpointMinutes,
    Chosen,
    Cluster,
    FoldShard,
    Overrides,
    Readers,
    Root,
    Settings,
)
from psla.cli.places import READ, Updates, Writes
from psla.cli.training import finished_runs

if TYPE_CHECKING:
    from psla.lab.tables.folder import Lab
    from psla.lab.tables.runner import Outcome
    from psla.spread import Spread
    from psla.training.devices import Runtime
    from psla.training.recipe import Recipe

NOT_RUN = 1
SOUNDSCAPE = "soundscape"
LAB = Writes(folder=True, names=("lab.json", "clips.parquet", "recipe.yaml"), marker=("clips.parquet", "clips"))
SELECTION = Writes(folder=True, names=("selection.json",), marker=("selection.json", "json"))
CROSS_VALIDATION = Writes(
    folder=True, names=("cross_validation.json", "cross_validation.md"), marker=("cross_validation.json", "json")
)


@keeps(finished_runs)
def run(
    clips: Annotated[str, typer.Argument(help="The table of clips, a pack, or the word soundscape."), READ],
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
    pilot: Annotated[Path | None, typer.Option(help="With --plan: a lab that has run, whose luck is taken.")] = None,
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
    numbers, part = seeds_of(seeds), _part(shard, cluster)
    counts = [] if looks is None else counts_of(looks, numbers, part)
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
    names = _words([rows])
    own = [Path(name) for name in names if name.endswith(".yaml")]
    names = [Path(n).stem if Path(n) in own else n for n in names]
    prepared, asked = runner.prepare(lab, names, numbers, own)
    runtime = Runtime(accelerator, cache_bytes=cache_mb * 2**20, workers=workers, checkpoint_minutes=checkpoint_minutes)
    if plan:
        print_plan(lab, prepared, asked, runtime)
        print_prospects(lab, asked, numbers, pilot)
        return
    with spread_over(cluster) as spread:
        found = _carried_out(lab, (names, asked, own), (numbers, counts), runtime, part, spread)
    _print_outcome(lab, found, part)
    if found.not_run:
        raise typer.Exit(NOT_RUN)


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
        lab.write(prepared.seeds, list(prepared.rows), _command(), own)
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


def _part(shard: str | None, cluster: str | None) -> tuple[int, int] | None:
    if shard is not None and cluster is not None:
        raise CommandError("--shard is for schedulers without Ray: give it or --cluster, not both")
    return part_of(shard)


class _Teller:
    """Tells the user how the lab gets on, on stderr."""

    def say(self, sentence: str) -> None:
        typer.echo(sentence, err=True)

    def training(self, clips: Mapping[str, int], epochs: int) -> AbstractContextManager[Callable[[str, int], None]]:
        rounds = {stage: epochs + (stage not in ("train", "teacher")) for stage in clips}
        return progress(clips, {**rounds, "teacher": 1})


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


@keeps(finished_runs)
def select(
    root: Root,
    out: Annotated[
        Path, typer.Option(help="Runs, choices and scores go here; finished runs are not run again."), SELECTION
    ],
    candidates: Candidates,
    recipe: BaseRecipe = None,
    fold: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Choose only for these folds.")] = None,
    shard: FoldShard = None,
) -> None:
    """Choose settings for each official fold without a look at it: nested cross-validation."""
    part = part_of(shard)
    from psla.lab.folds import selection
    from psla.lab.folds.candidates import load_candidates

    given = load_candidates(_words(candidates), recipe)
    folds = sorted(set(fold or selection.FOLDS))
    told = _Told()
    if part is not None:
        runs = selection.train_candidates(given, root, out, folds, part, told)
        typer.echo(f"shard {part[0]}/{part[1]}: {len(runs)} runs done; a call without --shard, after all, chooses")
        return
    found = selection.select(given, root, out, folds, told, _command())
    typer.echo(table(*found.table()))
    typer.echo(
        "* chosen for the fold, by its neighbours alone; final, averaged and log loss are of all that were judged"
    )
    if others := selection.left_out(given, out):
        typer.echo(f"not considered, though there are runs of them: {', '.join(others)}", err=True)
    typer.echo(f"details in {out / 'selection.json'}; next: psla lab cross-validate --selection {out}/selection.json")


@keeps(finished_runs)
def cross_validate(
    root: Root,
    out: Annotated[
        Path, typer.Option(help="A run for each fold goes here; finished folds are not run again."), CROSS_VALIDATION
    ],
    recipe: Annotated[
        str | None, typer.Option(help="A preset by name, or a YAML file; esc50 if not given."), READ
    ] = None,
    set_: Overrides = None,
    selection: Chosen = None,
    fold: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Only these folds.")] = None,
    inner: Annotated[bool, typer.Option("--inner", help="Try settings out: leave the evaluation fold out.")] = False,
    seeds: Annotated[str, typer.Option(help="As in 0,1,2: a run for each, and an ensemble of them.")] = "0",
    distill: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Teach a student; the teacher's share.")
    ] = None,
    student_seeds: Annotated[str, typer.Option(help="A student for each.")] = "0",
    settings: Settings = None,
    shard: FoldShard = None,
    cluster: Cluster = None,
) -> None:
    """Train and score on each of the official folds in turn: single models, ensembles, students."""
    if selection is not None:
        _refuse_beside_selection(recipe, set_, inner)
    part, numbers = _part(shard, cluster), seeds_of(seeds)
    from psla.lab.experiment import share_of
    from psla.lab.folds import cross_validation, fold_report
    from psla.lab.folds.candidates import load_candidates

    folds = sorted(set(fold or cross_validation.FOLDS))
    base = None if selection is not None else recipe or "esc50"
    names, recipes = _recipes(folds, selection, base or "", set_ or [])
    others = load_candidates(_words(settings), base) if settings else []
    student = None if distill is None else cross_validation.Student(distill, seeds_of(student_seeds))
    asked = cross_validation.Experiment(recipes, root, out, folds, inner, numbers, student, others)
    told = _Told()
    if part is not None:
        runs = cross_validation.train_singles(asked, part, told)
        taught = cross_validation.train_students(asked, part, told)
        waiting = [] if student is None else [each for each in share_of(folds, part) if each not in taught]
        late = f"; the students of {len(waiting)} folds wait for other shards" if waiting else ""
        done = f"{len(runs) + sum(map(len, taught.values()))} runs done{late}"
        typer.echo(f"shard {part[0]}/{part[1]}: {done}; a call without --shard, after all, ends the job")
        return
    with spread_over(cluster) as spread:
        found = cross_validation.cross_validate(asked, told, spread)
    fold_report.write_report(found, out, names, _command())
    for shown in (fold_report.accuracies(found.answers), fold_report.differences(found.answers)):
        if shown.rows:
            typer.echo(table(shown.head, shown.rows) + "\n")
    typer.echo(f"{len(found.runs)} runs, {found.hours:.2f} h; details in {out / 'cross_validation.md'} and .json")


def _recipes(
    folds: Sequence[int], selection: Path | None, recipe: str, overrides: Sequence[str]
) -> tuple[dict[int, str], dict[int, Recipe]]:
    """What each fold is trained with, by name, and the recipes themselves."""
    from psla.lab.folds.selection import read_choices
    from psla.training.keys import parse_override
    from psla.training.recipe import Recipe

    if selection is not None:
        choices = read_choices(selection)
        return {fold: each.name for fold, each in choices.items()}, {fold: e.recipe for fold, e in choices.items()}
    loaded = Recipe.load(recipe, dict(map(parse_override, overrides)))
    return dict.fromkeys(folds, " ".join([recipe, *overrides])), dict.fromkeys(folds, loaded)


def _words(given: list[str]) -> list[str]:
    return [word.strip() for each in given for word in each.split(",") if word.strip()]


class _Told:
    """Tells the user, on stderr, how many clips each run has been trained on, once an epoch."""

    def __init__(self) -> None:
        self.trained: dict[str, int] = {}
        self.told: dict[str, int] = {}

    def __call__(self, run: str, stage: str, clips: int) -> None:
        if stage == "train":
            self.trained[run] = self.trained.get(run, 0) + clips
        elif self.trained.get(run, 0) > self.told.get(run, 0):
            # Held-out clips are predicted once an epoch is trained.
            typer.echo(f"{run}: {self.trained[run]} clips trained on", err=True)
            self.told[run] = self.trained[run]


def _refuse_beside_selection(recipe: str | None, overrides: list[str] | None, inner: bool) -> None:
    given = {"--recipe": recipe is not None, "--set": bool(overrides), "--inner": inner}
    for name, is_given in given.items():
        if is_given and name == "--inner":
            raise CommandError("--inner would score on the very folds that --selection has chosen by; give one of them")
        if is_given:
            raise CommandError(f"--selection says which recipe each fold has; give either it or {name}")


def _command() -> str:
    """What the user has typed."""
    return shlex.join(["psla", *sys.argv[1:]])


def report(
    lab: Annotated[Path, typer.Argument(help="The folder of `psla lab run`."), Updates()],
    quality: Annotated[
        Path | None,
        typer.Option(help="A CSV of the classes' annotation quality (class, quality), for Table VII."),
        READ,
    ] = None,
    claims: Annotated[
        Path | None, typer.Option(help="A YAML file of claims to judge; the paper's by default."), READ
    ] = None,
    resamples: Annotated[int, typer.Option(min=2, help="Draws of clips for the intervals.")] = 400,
    title: Annotated[str | None, typer.Option(help="Of the page; by default it names the corpus.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Judge the paper's claims and set its tables beside those measured: report.html, report.md, verdicts.json."""
    from psla.lab.tables.claims import load_claims
    from psla.lab.tables.folder import Measured
    from psla.lab.tables.report import write_report

    chosen = None if claims is None else load_claims(claims)
    rows = sum(row.done for row in Measured(lab).rows.values())
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
