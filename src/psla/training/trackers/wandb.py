"""`--log wandb`: Weights & Biases, in the project $WANDB_PROJECT, else `psla`; to log in is between it and the user."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from psla.extras import needed
from psla.training.trackers.contract import TRACKERS


@TRACKERS.register("wandb")
class WeightsAndBiases:
    """See `psla.training.trackers.contract.Tracker`."""

    module: ClassVar[str] = "wandb"

    def __init__(self, folder: Path, id: str, epochs: int) -> None:
        self._wandb = needed("wandb", "wandb")
        self.id = id or secrets.token_hex(8)
        project = os.environ.get("WANDB_PROJECT", "psla")
        self._run = self._wandb.init(
            project=project, id=self.id, resume="allow", name=folder.resolve().name, dir=str(folder)
        )

    def settings(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """See there."""
        self._run.config.update({**recipe, "environment": dict(environment)})

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """See there."""
        self._run.log(dict(values), step=epoch)

    def picture(self, name: str, path: Path) -> None:
        """See there."""
        self._run.log({name: self._wandb.Image(str(path))})

    def close(self, finished: bool) -> None:
        """See there."""
        if finished:
            self._run.finish()
