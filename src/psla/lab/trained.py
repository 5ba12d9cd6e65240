"""The run in a folder, trained: what experiments of several runs do again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from psla.data.clips import Clips
from psla.recipe.devices import Runtime
from psla.recipe.recipe import Recipe, RecipeError
from psla.recipe.run import Run
from psla.recipe.training import resume, train


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
        RecipeError: the folder holds a run with another recipe.
    """
    run = Run(folder)
    if not run.exists:
        return train(recipe, clips, folder, runtime=runtime, progress=progress)
    if run.recipe != recipe:
        raise RecipeError(f"{folder} holds a run with another recipe; choose another folder, or delete it")
    return run if run.is_finished else resume(folder, runtime=runtime, progress=progress)
