"""Runner: carries out a plan, a training after the other, and writes a result for each row.

What is finished is never done again, an interrupted training goes on from its state, a row that cannot be carried out
is entered as "not run" with its reason and the lab goes on. `shard` spreads the trainings over several processes.
"""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from psla.data.clips import Clips
from psla.files import Journal, alone
from psla.lab.experiment import Shard, changed, share_of, today, working
from psla.lab.tables.folder import Lab, LabInfo
from psla.lab.tables.plan import Job, Plan, make_plan, take_share
from psla.lab.tables.results import fingerprint, not_run, row_result
from psla.lab.tables.rows import Catalogue
from psla.lab.teaching import Predicting, teach_labels, teach_probabilities
from psla.spread import Ended, Link, Spread, SpreadError, Task, Watch
from psla.training.devices import Runtime, open_fabric
from psla.training.recipe import Recipe
from psla.training.run import Run
from psla.training.session import TrainingInterrupted, resume, train
from psla.training.trainer import TrainingError

Report = Callable[[str, int], None]
FAULTS = (ValueError, TrainingError, OSError)  # of a row; the lab goes on
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # no fault of a row


class LabInterrupted(RuntimeError):
    """A lab that was asked to stop; what is finished is kept, and the state of the training in progress."""


class Watcher(Protocol):
    """Who is told how the lab gets on."""

    def say(self, sentence: str) -> None:
        """A thing that happened."""
        return None

    def training(self, clips: Mapping[str, int], epochs: int) -> AbstractContextManager[Report]:
        """The progress of a training: told (split, or `teacher`, clips done)."""
        return nullcontext(lambda stage, count: None)


class Silent(Watcher):
    """A watcher that does not."""


@dataclass
class Outcome:
    """What a call came to: rows that are done, rows that were not run and why, trainings that wait for other shards."""

    done: list[str] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    trained: int = 0


def prepare(
    lab: Lab, names: Sequence[str], seeds: Sequence[int], row_files: Sequence[Path] = ()
) -> tuple[Plan, list[str]]:
    """The plan of a lab, rows and seeds of the calls before included, and the rows that this call asks for.

    Args:
        names: of rows and groups. row_files: the user's own rows.

    Raises:
        RowError: an unknown name, or a file that is no row.
    """
    catalogue = Catalogue.load([*sorted((lab.folder / "rows").glob("*.yaml")), *row_files])
    asked = catalogue.choose(names)
    before = lab.stored or LabInfo()
    known = [name for name in before.rows if name in catalogue.rows]
    seeds = sorted({*seeds, *before.seeds})
    return make_plan(catalogue, [*known, *asked], lab.recipe, lab.clips, lab.clips_hash, seeds), asked


def jobs_of(plan: Plan, names: Sequence[str]) -> list[Job]:
    """The trainings that rows need, their teachers' among them, in the order of the plan."""
    ahead = [key for name in names for keys in plan.sources(name).values() for key in keys]
    wanted: set[str] = set()
    while ahead:
        key = ahead.pop()
        if key not in wanted:
            wanted.add(key)
            ahead.extend(plan.jobs[key].teachers)
    return [job for key, job in plan.jobs.items() if key in wanted]


def carry_out(
    lab: Lab,
    plan: Plan,
    names: Sequence[str],
    runtime: Runtime = Runtime(),  # noqa: B008  (frozen)
    shard: Shard | None = None,
    watcher: Watcher | None = None,
    stop: Callable[[], bool] = lambda: False,
    spread: Spread | None = None,
) -> Outcome:
    """Do the trainings that rows need, then write their results.

    Args:
        names: rows of the plan. shard: (i, n), 1 <= i <= n: only every n-th training, and no results.
        stop: asked between the steps; when it says True, the state is kept and LabInterrupted raised.
        spread: what does the trainings, a task each with as many cores as torch has threads here; None: this process.

    Raises:
        LabError: another process works on the lab.
        LabInterrupted: `stop` asked for it.
        OSError: the disk is full.
    """
    with working(lab.folder, shard) as journal:
        work, outcome = _Work(lab, plan, runtime, watcher or Silent(), stop, journal), Outcome()
        jobs = jobs_of(plan, [name for name in names if name not in plan.refused])
        numbered = [(job, f"run {number} of {len(jobs)}") for number, job in enumerate(jobs, start=1)]
        if spread is not None:
            _spread(work, share_of(numbered, shard), spread, outcome)
        else:
            for job, number in share_of(numbered, shard):
                work.job(job, number, outcome)
        for name in names:
            if shard is None:
                work.result(name, outcome)
            elif reason := plan.reason(name):
                outcome.not_run[name] = reason
        return outcome


@dataclass
class Trainings:
    """What a training of a lab is carried out with, wherever that is."""

    lab: Lab
    plan: Plan
    runtime: Runtime

    @property
    def device(self) -> torch.device:
        """Where trainings run, and predictions, too."""
        return open_fabric(self.runtime, "float32").device

    def train(self, job: Job, watcher: Watcher, stop: Callable[[], bool]) -> None:
        """Begin a training, or go on with it; whoever else is at it is waited for."""
        run, counts = self.lab.run(job), self.lab.clips.counts()
        with alone(self.lab.folder / "at_work" / job.name):
            if run.is_finished:
                return
            counts = {**counts, "train": job.clips, "teacher": counts["train"]}
            with watcher.training(counts, job.recipe.optimizer.epochs) as report:
                if run.exists:
                    resume(run.folder, runtime=self.runtime, progress=report, stop=stop)
                    return
                recipe, clips = self._material(job, run, report)
                train(recipe, clips, run.folder, runtime=self.runtime, progress=report, stop=stop)

    def _material(self, job: Job, run: Run, report: Report) -> tuple[Recipe, Clips]:
        """What a training is begun with: its recipe and its clips, made if they are not there."""
        clips, folder = take_share(self.lab.clips, job.share, job.seed), self.lab.folder / "labels" / run.folder.name
        teachers = [self.lab.run(self.plan.jobs[key]) for key in job.teachers]
        predicting = Predicting(self.lab.clips, self.device, lambda count: report("teacher", count))
        if job.labels is not None:
            return job.recipe, teach_labels(clips, teachers[0], job.labels, folder, predicting)
        if not teachers:
            return job.recipe, clips
        # The path is absolute, since a recipe knows nothing of the folder that it lies in.
        path = str(teach_probabilities(teachers, folder, predicting).resolve())
        return changed(job.recipe, {"distillation.predictions": path, "distillation.teacher": None}), clips


@dataclass
class _Work(Trainings):
    """A call in progress."""

    watcher: Watcher
    stop: Callable[[], bool]
    journal: Journal

    def job(self, job: Job, number: str, outcome: Outcome) -> None:
        """One training, unless it is finished, or what it needs is not there."""
        run, title = self.lab.run(job), f"{number}: {job.row}, seed {job.seed}"
        if run.is_finished:
            return
        if self.stop():
            raise LabInterrupted(f"stopped before {title}; the same command goes on")
        if all(self.plan.reason(name) is not None for name in job.rows):
            return  # a teacher failed, or another seed of the only row that would take it
        missing = [key for key in job.teachers if not self.lab.run(self.plan.jobs[key]).is_finished]
        if missing:
            teacher = self.plan.jobs[missing[0]]
            outcome.waiting.append(job.name)
            self.watcher.say(
                f"{title}: skipped, its teacher {teacher.row}, seed {teacher.seed}, belongs to another shard and is "
                "not there yet; call again when it is"
            )
            return
        self.watcher.say(f"{title}: {'goes on' if run.exists else 'begins'}")
        try:
            self.train(job, self.watcher, self.stop)
        except TrainingInterrupted as pause:
            raise LabInterrupted(f"stopped in {title}; its state is kept, the same command goes on") from pause
        except FAULTS as error:
            self.failed(job, title, error)
            return
        self.done(job, title, outcome)

    def failed(self, job: Job, title: str, error: Exception) -> None:
        """Enter a training that cannot be carried out; raises the error of a disk that is full."""
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise error
        self.plan.refuse(job, _sentence(error))
        self.watcher.say(f"{title}: failed: {_sentence(error)}")

    def done(self, job: Job, title: str, outcome: Outcome) -> None:
        """Enter a training that is finished."""
        run = self.lab.run(job)
        outcome.trained += 1
        hours = run.seconds / 3600
        self.journal.append({"run": run.folder.name, "hours": round(hours, 4), "date": today()})
        value = run.scores[self.lab.split]["last_five"]["mean_average_precision"]
        self.watcher.say(f"{title}: done in {hours:.2f} h, mAP {'-' if value is None else f'{value:.4f}'}")

    def result(self, name: str, outcome: Outcome) -> None:
        """Write the result of a row, unless it is there."""
        lab, plan = self.lab, self.plan
        there = lab.result(name)
        if there is not None and there.status == "done" and there.fingerprint == fingerprint(lab, plan, name):
            outcome.done.append(name)
            return
        if self.stop():
            raise LabInterrupted(f"stopped before the result of {name}; the same command goes on")
        reason = plan.reason(name)
        found = row_result(lab, plan, name, self.device) if reason is None else not_run(lab, plan, name, reason)
        found.write(lab.result_file(name))
        self.journal.append({"result": name, "status": found.status, "date": today()})
        if reason is None:
            outcome.done.append(name)
        else:
            outcome.not_run[name] = reason
            self.watcher.say(f"{name}: not run: {reason}")


def _spread(work: _Work, jobs: Sequence[tuple[Job, str]], spread: Spread, outcome: Outcome) -> None:
    """Have trainings done as tasks, each when those that teach it are finished."""
    threads = torch.get_num_threads()  # sums depend on it, and so would the results
    gpus = float(work.device.type == "cuda")
    titles = {job.name: f"{number}: {job.row}, seed {job.seed}" for job, number in jobs}
    of = {job.name: job for job, _ in jobs}
    waiting = [job for job, _ in jobs if not work.lab.run(job).is_finished]
    begun = 0

    def ready(job: Job) -> bool:
        return all(work.lab.run(work.plan.jobs[key]).is_finished for key in job.teachers)

    def finish(ended: Ended) -> None:
        job, title = of[ended.task.name], titles[ended.task.name]
        if isinstance(ended.error, TrainingInterrupted):
            raise LabInterrupted(f"stopped in {title}; states are kept, the same command goes on") from ended.error
        if ended.error is None:
            work.done(job, title, outcome)
        elif isinstance(ended.error, FAULTS) and not isinstance(ended.error, SpreadError):
            work.failed(job, title, ended.error)
        else:
            raise ended.error

    watch = Watch(say=lambda name, said: work.watcher.say(f"{titles[name]}: {said}"), stop=work.stop)
    try:
        while True:
            waiting = [job for job in waiting if any(work.plan.reason(name) is None for name in job.rows)]
            for job in [job for job in waiting if ready(job)][: max(0, spread.room - begun)]:
                if work.stop():
                    break
                what = Trainings(work.lab, work.plan, work.runtime), job, threads
                spread.begin(Task(job.name, train_apart, what, float(threads), gpus))
                waiting.remove(job)
                begun += 1
            if not begun:
                break
            ended = spread.ended(watch)
            begun -= 1
            finish(ended)
    finally:
        if begun:
            spread.call_off()
    if waiting and work.stop():
        raise LabInterrupted(f"stopped before {titles[waiting[0].name]}; the same command goes on")
    outcome.waiting += [job.name for job in waiting]


def train_apart(trainings: Trainings, job: Job, threads: int, link: Link) -> None:
    """A task: carry out a training with so many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        link.say(f"{'goes on' if trainings.lab.run(job).exists else 'begins'} on {platform.node()}")
        trainings.train(job, Silent(), link.stop)
    finally:
        torch.set_num_threads(before)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
