"""The run in a folder, trained: what experiments of several runs do again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from psla.data.clips import Clips
from psla.training.devices import Runtime
from psla.training.recipe import Recipe, RecipeError
from psla.training.run import Run
from psla.training.session import resume, train


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
    if run.recipe != recipe:
        raise RecipeError(f"{folder} holds a run with another recipe; choose another folder, or delete it")
    if material(run.clips) != material(clips):
        raise RecipeError(f"{folder} holds a run on other clips; choose another folder, or delete it")
    return run if run.is_finished else resume(folder, runtime=runtime, progress=progress)


def material(clips: Clips) -> tuple[Any, ...]:
    """What a run depends on: training clips with their labels, and which are held out; not where they lie."""
    training = clips.split("train")
    labels = map(tuple, training.frame["labels"].to_list())
    held_out = {name: sorted(clips.split(name).clip_ids) for name in clips.counts() if name != "train"}
    return clips.vocabulary, sorted(zip(training.clip_ids, labels, strict=True)), held_out
