"""`psla train`, `teach`, `demo` and `report`: trainings, and the page of one."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import INTERRUPTED, CommandError, answer, asked_to_stop, keeps, table
from psla.cli.labels import threshold_of, types_of
from psla.cli.options import Accelerator, CacheMb, CheckpointMinutes, Json, Overrides, Readers, Threshold, Types
from psla.cli.places import ADDRESSED, FETCHED, Updates, Writes
from psla.cli.progress import progress

if TYPE_CHECKING:
    from psla.data.clips import Clips
    from psla.training.recipe import Recipe
    from psla.training.run import Run

RUN = (
    *("clips.parquet", "environment.json", "recipe.yaml", "scores.json", "log.csv", "timing.csv", "rejected.csv"),
    *("pretraining.json", "model.safetensors", "model_final.safetensors", "checkpoints", "predictions", "figures"),
)
_SCORES = {"mean_average_precision": "mAP", "mean_auc": "AUC", "d_prime": "d-prime", "accuracy": "accuracy"}


def _resumable(given: Mapping[str, Any]) -> str:
    folder = given["resume"] or given["out"]
    if folder is None or not (folder / "recipe.yaml").is_file():
        return ""
    epochs = len(list((folder / "checkpoints").glob("epoch_*.safetensors")))
    kept = f"{epochs} finished epochs are kept" if epochs else "no epoch was finished"
    return f"{kept}; go on with: psla train --resume {folder}"


def finished_runs(given: Mapping[str, Any]) -> str:
    """What jobs of several runs keep: the finished ones, each with its scores."""
    runs = len(list(given["out"].rglob("scores.json")))
    return f"{runs} finished runs are kept in {given['out']}: run the same command again" if runs else ""


@keeps(_resumable)
def train(
    recipe: Annotated[str | None, typer.Argument(help="A preset by name, or a YAML file."), FETCHED] = None,
    clips: Annotated[Path | None, typer.Option(help="The table of clips, or a pack."), ADDRESSED] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder."),
        Writes(folder=True, names=RUN, marker=("environment.json", "environment")),
    ] = None,
    set_: Overrides = None,
    init: Annotated[
        Path | None, typer.Option(help="Fine-tune: start from the weights of this model file."), ADDRESSED
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder."), Updates()] = None,
    accelerator: Accelerator = "auto",
    devices: Annotated[int, typer.Option(min=1, max=64, help="Processes on each node.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    workers: Readers = 2,
    cache_mb: CacheMb = 1024,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    skip_non_finite: Annotated[int, typer.Option(min=0, help="Steps with a non-finite loss to leave out.")] = 0,
    log: Annotated[
        list[str] | None, typer.Option(help="Also tell tensorboard, wandb, mlflow or csv; may be given again.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print where the time went.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile the backbone: for long trainings on a GPU.")
    ] = False,
) -> None:
    """Train a tagger and score it on what the clips hold out; SIGTERM keeps the state and exits with 75."""
    given = [recipe, clips, out, init, *(set_ or [])]
    if resume is not None and any(item is not None for item in given):
        raise CommandError("--resume RUN goes on with the run's own recipe and clips: give nothing else of them")
    if resume is None and (recipe is None or clips is None or out is None):
        raise CommandError("a training needs RECIPE, --clips and --out; or --resume RUN to go on with one")
    if profile and compiled:
        raise CommandError("--profile looks between the layers that --compile joins: choose one")
    from psla.training.keys import parse_override
    from psla.training.recipe import Recipe

    overrides = [f"init={init}"] if init is not None else []
    plan = Recipe.load(recipe, dict(map(parse_override, [*overrides, *(set_ or [])]))) if recipe else None
    from psla.data.clips import Clips
    from psla.training import session
    from psla.training.devices import Runtime, is_first_process
    from psla.training.run import Run
    from psla.training.trackers.contract import Trackers
    from psla.training.trainer import TrainingError

    trackers = Trackers(log or [], lambda sentence: typer.echo(f"psla: {sentence}", err=True))
    runtime = Runtime(
        accelerator, devices, nodes, cache_mb * 2**20, workers, checkpoint_minutes, skip_non_finite, compiled
    )
    corpus = Clips.read(clips) if clips else Run.open(resume or "").clips
    told = progress(*_stages(corpus, plan or Run.open(resume or "").recipe), silent=not is_first_process())
    begin = partial(session.train, plan, corpus, out) if plan and out else partial(session.resume, resume or "")
    try:
        with told as report, asked_to_stop(signal.SIGTERM) as stop:
            run = begin(runtime=runtime, progress=report, stop=stop, profile=profile, log=trackers)
    except session.TrainingInterrupted as pause:
        typer.echo(f"psla: {pause}", err=True)
        raise typer.Exit(INTERRUPTED) from pause
    except TrainingError as error:
        raise CommandError(str(error)) from error
    if is_first_process():
        _print_run(run, profile)


def rounds_of(stages: Iterable[str], epochs: int, runs: int = 1) -> dict[str, int]:
    """How often the clips of each stage are gone through: what is held out once more, with the averaged weights; by a
    teacher that hears the training clips once."""
    passes = {"train": epochs, "teacher": 1}
    return {stage: runs * passes.get(stage, epochs + 1) for stage in stages}


def _stages(corpus: Clips, recipe: Recipe, runs: int = 1) -> tuple[dict[str, int], dict[str, int]]:
    """The clips of each stage, and how often they are gone through."""
    clips = corpus.counts()
    if recipe.distillation.teacher is not None:
        clips = {"teacher": clips.get("train", 0), **clips}
    return clips, rounds_of(clips, recipe.optimizer.epochs, runs)


def _print_run(run: Run, profile: bool) -> None:
    scores = {split: each for split, each in run.scores.items() if isinstance(each, dict)}
    rows = [
        [f"{split} {variant}", *(found[name] for name in _SCORES)]
        for split, variants in scores.items()
        for variant, found in variants.items()
    ]
    typer.echo(table(["scores", *_SCORES.values()], rows) if rows else "no scores: the clips hold nothing out")
    if run.rejected:
        typer.echo(f"{len(run.rejected)} clips could not be read: see {run.folder / 'rejected.csv'}", err=True)
    if profile:
        typer.echo(table(["time", "ms a clip", "share"], run.profile))
    typer.echo(f"model: {run.model_file}")


def demo(out: Annotated[Path, typer.Option(help="The run's folder."), Writes(folder=True)] = Path("runs/demo")) -> None:
    """The whole recipe on the embedded corpus, then a tagged clip."""
    from psla.lab.demo import run

    run(out)


@keeps(finished_runs)
def teach(
    recipe: Annotated[str, typer.Argument(help="A preset by name, or a YAML file."), FETCHED],
    clips: Annotated[Path, typer.Option(help="The table of clips; it must hold clips out to score on."), ADDRESSED],
    out: Annotated[
        Path,
        typer.Option(help="Runs, labels and the table go here; what is finished is not done again."),
        Writes(folder=True, names=("teaching.json",), marker=("teaching.json", "json")),
    ],
    set_: Overrides = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Seeds; repeat the option. By default 0, 1, 2.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A model, ensemble or predictions to teach instead."), FETCHED
    ] = None,
    types: Types = "I,II",
    threshold: Threshold = "mean",
    accelerator: Accelerator = "auto",
    as_json: Json = False,
) -> None:
    """Train, enhance the labels with what was learned, train again; say what it brought, over several seeds."""
    from psla.data.clips import Clips
    from psla.training.keys import parse_override
    from psla.training.recipe import Recipe

    plan = Recipe.load(recipe, dict(map(parse_override, set_ or [])))
    from psla.lab.teaching import Teaching, teach
    from psla.training.devices import Runtime

    corpus, seeds = Clips.read(clips), seed or [0, 1, 2]
    teaching = Teaching(types_of(types), threshold_of(threshold), teacher=teacher)
    with progress(*_stages(corpus, plan, 2 * len(seeds))) as report:
        found = teach(
            plan, corpus, out, seeds, teaching, Runtime(accelerator), lambda name, stage, count: report(stage, count)
        )
    rows = [[name.replace("_", " "), float(x["mean"]), x["std"]] for name, x in found["summary"].items()]
    told = table([f"{len(seeds)} seeds", "mean", "std"], rows)
    answer(as_json, found, told, f"table: {out / 'teaching.json'}")


def report(run: Annotated[Path, typer.Argument(help="The folder of a run."), Updates()]) -> None:
    """One page of a single run: recipe, corpus, curves, scores, classes, times: RUN/report.html."""
    from psla.lab.run_page import write_run_report

    typer.echo(str(write_run_report(run)))
