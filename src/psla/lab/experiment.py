"""Experiment: what all experiments of several runs share: a folder that is held, shards, trained runs, what they cost.

An experiment's trainings may be spread over processes that see one folder: each does a shard, every n-th training, and
a lock keeps two from doing the same. What the folders of the several experiments hold, their own modules say.
"""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

import torch

from psla.data.clips import Clips
from psla.files import Journal, JournalError, alone
from psla.spread import Link, Spread, Task, Watch, cores, in_turn
from psla.synth import scene as soundscape
from psla.training.devices import Runtime, open_fabric
from psla.training.keys import flatten, nest
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.training.run_tables import read_rows
from psla.training.session import resume, train

T = TypeVar("T")
Shard = tuple[int, int]


class LabError(ValueError):
    """A folder, a file or clips that an experiment cannot work with; the sentence says what to do."""


def share_of(jobs: Sequence[T], shard: Shard | None) -> list[T]:
    """The jobs of shard (i, n), 1 <= i <= n: every n-th from the i-th on; all of them for None.

    Example:
        >>> share_of("abcde", (1, 2)), share_of("abcde", (2, 2))
        (['a', 'c', 'e'], ['b', 'd'])
    """
    return list(jobs) if shard is None else list(jobs[shard[0] - 1 :: shard[1]])


@contextmanager
def working(folder: Path, shard: Shard | None) -> Iterator[Journal]:
    """Hold a folder, or its shard, for this process while the block runs; its journal.

    Raises:
        LabError: another process works on the folder, or on the same shard of it.
    """
    name = "journal.jsonl" if shard is None else f"journal-{shard[0]}-of-{shard[1]}.jsonl"
    others = sorted(folder.glob("journal-*.jsonl")) if shard is None else []
    with ExitStack() as stack:
        try:
            journal = stack.enter_context(Journal(folder / name))
            for path in others:
                stack.enter_context(Journal(path))
        except JournalError as error:
            raise LabError(f"another process works on {folder}: wait for it, or stop it ({error})") from error
        yield journal


def trained(
    recipe: Recipe,
    clips: Clips,
    folder: Path,
    runtime: Runtime = Runtime(),  # noqa: B008  (frozen)
    progress: Callable[[str, int], None] = lambda stage, clips: None,
) -> Run:
    """Train into a folder; a finished run in it is taken as it is, one that was interrupted goes on.

    Args:
        progress: told (stage, clips done).

    Raises:
        RecipeError: the folder holds a run with another recipe or on other clips.
    """
    run = Run(folder)
    if not run.exists:
        return train(recipe, clips, folder, runtime=runtime, progress=progress)
    check_run(run, recipe, clips)
    return run if run.is_finished else resume(folder, runtime=runtime, progress=progress)


Training = tuple[Recipe, Clips, Path, str]
"""Recipe, clips, the experiment's folder and the run's name below it."""


def train_apart(
    trainings: Sequence[Training],
    spread: Spread,
    progress: Callable[[str, str, int], None] = lambda run, stage, clips: None,
) -> None:
    """Have trainings done as tasks, each with as many cores as torch has threads here; those that are finished, not.

    Args:
        progress: told (the run's name, `train`, clips done), and of `evaluation` when a run is finished.

    Raises:
        ValueError, OSError: as `trained`, the first that comes; the others are called off.
    """
    threads, done = torch.get_num_threads(), {name: 0 for *_, name in trainings}
    gpus = float(open_fabric(Runtime(), "float32").device.type == "cuda")

    def tell(name: str, clips: int) -> None:
        progress(name, "train", max(0, clips - done[name]))
        done[name] = max(done[name], clips)

    tasks = [
        Task(each[3], train_task, (each, threads), float(threads), gpus)
        for each in trainings
        if not Run(each[2] / each[3]).is_finished
    ]
    for task, _ in in_turn(spread, tasks, Watch(tell)):
        progress(task.name, "evaluation", 0)


def train_task(training: Training, threads: int, link: Link) -> None:
    """A task: carry out a training with so many threads of torch; whoever else is at it is waited for."""
    recipe, clips, out, name = training
    before, done = torch.get_num_threads(), 0

    def progress(stage: str, count: int) -> None:
        nonlocal done
        done += count * (stage == "train")
        link.tell(done)

    torch.set_num_threads(threads)
    try:
        with alone(out / "at_work" / name.replace("/", "-")):
            trained(recipe, clips, out / name, progress=progress)
    finally:
        torch.set_num_threads(before)


def check_run(run: Run, recipe: Recipe, clips: Clips, refusal: type[ValueError] = RecipeError, whose: str = "") -> None:
    """Refuse a run of something else than this recipe (`whose` says which that is) on these clips.

    Raises:
        ValueError: of the class `refusal`: it is one.
    """
    fault = ""
    if not recipe.is_carried_out_by(run.recipe):
        fault = f"with another recipe{whose}"
    elif material(run.clips) != material(clips):
        fault = "on other clips"
    if fault:
        raise refusal(f"{run.folder} holds a run {fault}; choose another folder, or delete it")


def material(clips: Clips) -> tuple[Any, ...]:
    """What a run depends on: training clips with their labels, and which are held out; not where they lie."""
    training = clips.split("train")
    labels = map(tuple, training.frame["labels"].to_list())
    held_out = {name: sorted(clips.split(name).clip_ids) for name in clips.counts() if name != "train"}
    return clips.vocabulary, sorted(zip(training.clip_ids, labels, strict=True)), held_out


def changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with other values, by keys with dots as `--set` takes them.

    Settings of a front end and options of a backbone belong to their kind: another kind begins with its own defaults.

    Raises:
        RecipeError: a value that the recipe refuses.

    Example:
        >>> found = changed(Recipe.load("demo"), {"seed": 3, "mixup.rate": 0.25})
        >>> found.seed, found.mixup.rate
        (3, 0.25)
        >>> changed(found, {"front_end.kind": "stft", "front_end.frames": 256}).front_end.sample_rate
        32000
    """
    had = flatten(recipe.model_dump())
    for kind, settings in (("front_end.kind", "front_end."), ("backbone.name", "backbone.options.")):
        if values.get(kind, had[kind]) != had[kind]:
            had = {key: value for key, value in had.items() if not key.startswith(settings)}
    return Recipe.from_dict(nest({**had, **values}))


@dataclass(frozen=True)
class Costs:
    """Of several runs together.

    Attributes:
        hours: clock time of all epochs, predictions included.
        training: clips a second of all epochs; None: too short to tell.
        prediction: held-out clips a second after the epochs, with writing the checkpoint and scoring; None: as above.
    """

    hours: float
    training: float | None
    prediction: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        speeds = {"training": self.training, "prediction": self.prediction}
        return {"hours": self.hours, **{name: {"clips_per_second": speed} for name, speed in speeds.items()}}


def costs(runs: Iterable[Run]) -> Costs:
    """What finished runs have cost, the clips of all over the seconds of all.

    From each run's timing.csv. An epoch that was interrupted counts there from where it went on.

    Raises:
        RunError: a timing.csv that is damaged.
    """
    trained = predicted = training_s = total_s = 0.0
    for run in runs:
        rows = read_rows(run.folder / "timing.csv")
        training_s += sum(float(row["training_s"]) for row in rows)
        total_s += sum(float(row["total_s"]) for row in rows)
        trained += sum(row["clips"] for row in run.read_log())
        held_out = sum(count for split, count in run.clips.counts().items() if split != "train")
        predicted += held_out * len(rows)
    return Costs(total_s / 3600, _speed(trained, training_s), _speed(predicted, total_s - training_s))


def _speed(clips: float, seconds: float) -> float | None:
    # timing.csv has hundredths of a second: of less than a tenth nothing can be said.
    return clips / seconds if clips and seconds >= 0.1 else None


def spread(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean and standard deviation of what is known: `std` is None for one value, both for none.

    Example:
        >>> spread([1.0, 2.0, None]), spread([0.5])
        ({'mean': 1.5, 'std': 0.7071067811865476}, {'mean': 0.5, 'std': None})
    """
    known = [value for value in values if value is not None]
    return {"mean": fmean(known) if known else None, "std": stdev(known) if len(known) > 1 else None}


def whole_mean(values: Iterable[float | None]) -> float | None:
    """The mean, or None where one value is missing, or is no number."""
    found = [math.nan if value is None else value for value in values]
    return fmean(found) if found and not any(map(math.isnan, found)) else None


def soundscapes(
    training: int = 400,
    evaluation: int = 200,
    seconds: float = 2.56,
    missing_children: float = 0.5,
    missing_parents: float = 0.3,
    classes: int = 0,
    seeds: tuple[int, int] = (0, 1),
) -> Clips:
    """Clips to train on and to evaluate, synthesised from different seeds; they know what really sounds.

    Labels are left out on purpose, so that there is something to enhance.

    Args:
        training, evaluation: how many, at least 1. seconds: length of a clip. missing_children, missing_parents:
            probabilities; classes: the most frequent ones only, 0: all; see `SoundscapeConfig`. seeds: of the splits.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> soundscapes(3, 2).counts()
        {'train': 3, 'evaluation': 2}
    """
    rows = []
    for split, seed, clips in zip(("train", "evaluation"), seeds, (training, evaluation), strict=True):
        config = soundscape.SoundscapeConfig(
            seed=seed,
            seconds=seconds,
            clips=clips,
            missing_children=missing_children,
            missing_parents=missing_parents,
            classes=classes,
        )
        rows += soundscape.table(config, split)
    return Clips.from_rows(rows, soundscape.vocabulary(config), name="soundscape")


def today() -> str:
    """The date, as in lab.json."""
    return datetime.date.today().isoformat()


def machine() -> str:
    """Cores, processor or accelerator and torch, in words."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cores()} cores, {model}{device}, torch {torch.__version__}"
