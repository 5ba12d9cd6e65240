"""`--log tensorboard`: event files in RUN/tensorboard; `tensorboard --logdir RUNS` shows all runs below a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from psla.training.trackers.contract import TRACKERS


@TRACKERS.register("tensorboard")
class TensorBoard:
    """See `psla.training.trackers.contract.Tracker`. Numbers are float32, as in all of its files."""

    module: ClassVar[str] = "tensorboard"

    def __init__(self, folder: Path, id: str, epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id, self._epoch = "tensorboard", epochs
        # What was written after the last epoch that was noted down is told again: its reader drops the first telling.
        self._writer = SummaryWriter(str(folder / self.id), purge_step=epochs + 1 if id else None)

    def settings(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """See there."""
        lines = [f"    {key}: {value}" for key, value in recipe.items()]
        self._writer.add_text("recipe", "\n".join(lines), 0)
        self._writer.add_text("environment", "    " + json.dumps(environment, indent=2).replace("\n", "\n    "), 0)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """See there."""
        self._epoch = epoch
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def picture(self, name: str, path: Path) -> None:
        """See there."""
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, self._epoch, dataformats="HWC")

    def close(self, finished: bool) -> None:
        """See there."""
        self._writer.flush()
        if finished:
            self._writer.close()
