"""`--log mlflow`: MLflow, at $MLFLOW_TRACKING_URI, in the experiment $MLFLOW_EXPERIMENT_NAME, else `psla`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from psla.extras import needed
from psla.training.trackers.contract import TRACKERS

_LONGEST = 500  # characters of a parameter


@TRACKERS.register("mlflow")
class MLflow:
    """See `psla.training.trackers.contract.Tracker`. In names, what MLflow does not take is an underscore."""

    module: ClassVar[str] = "mlflow"

    def __init__(self, folder: Path, id: str, epochs: int) -> None:
        self._client = needed("mlflow", "mlflow").MlflowClient()
        if not id:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "psla")
            experiment = self._client.get_experiment_by_name(name)
            where = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
            id = self._client.create_run(where, run_name=folder.resolve().name).info.run_id
        self.id = id

    def settings(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """See there."""
        for key, value in recipe.items():
            self._client.log_param(self.id, _plain(key), str(value)[:_LONGEST])
        self._client.log_dict(self.id, dict(environment), "environment.json")

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """See there."""
        for name, value in values.items():
            self._client.log_metric(self.id, _plain(name), value, step=epoch)

    def picture(self, name: str, path: Path) -> None:
        """See there."""
        self._client.log_artifact(self.id, str(path), "figures")

    def close(self, finished: bool) -> None:
        """See there."""
        if finished:
            self._client.set_terminated(self.id)


def _plain(name: str) -> str:
    """A name as MLflow takes it.

    Example:
        >>> _plain("evaluation/average_precision/Crack (ice), thaw")
        'evaluation/average_precision/Crack _ice__ thaw'
    """
    return re.sub(r"[^\w\-. /]", "_", name)
