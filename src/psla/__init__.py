"""psla: train, evaluate and use audio taggers with the PSLA recipe.

The names below are loaded when they are first used, so that `import psla` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "AudioError": "psla.data.audio",
    "Clips": "psla.data.clips",
    "EpochPlan": "psla.recipe.sampling",
    "FrontEnd": "psla.model.front_end",
    "FrontEndConfig": "psla.model.front_end",
    "Labels": "psla.data.labels",
    "Ontology": "psla.data.ontology",
    "Predictions": "psla.evaluation.predictions",
    "Recipe": "psla.recipe.recipe",
    "Run": "psla.recipe.run",
    "Tagger": "psla.tagging.tagger",
    "TaggingNetwork": "psla.model.network",
    "Vocabulary": "psla.data.vocabulary",
    "load": "psla.tagging.tagger",
    "read_released": "psla.model.released",
    "train": "psla.recipe.training",
}
_MODULES = {
    "aggregation": "psla.recipe.aggregation",
    "comparison": "psla.evaluation.comparison",
    "corpora": "psla.data.corpora",
    "labeling": "psla.recipe.labeling",
    "metrics": "psla.evaluation.metrics",
    "sampling": "psla.recipe.sampling",
}

if TYPE_CHECKING:
    from psla.data import corpora as corpora
    from psla.data.audio import AudioError as AudioError
    from psla.data.clips import Clips as Clips
    from psla.data.labels import Labels as Labels
    from psla.data.ontology import Ontology as Ontology
    from psla.data.vocabulary import Vocabulary as Vocabulary
    from psla.evaluation import comparison as comparison
    from psla.evaluation import metrics as metrics
    from psla.evaluation.predictions import Predictions as Predictions
    from psla.model.front_end import FrontEnd as FrontEnd
    from psla.model.front_end import FrontEndConfig as FrontEndConfig
    from psla.model.network import TaggingNetwork as TaggingNetwork
    from psla.model.released import read_released as read_released
    from psla.recipe import aggregation as aggregation
    from psla.recipe import labeling as labeling
    from psla.recipe import sampling as sampling
    from psla.recipe.recipe import Recipe as Recipe
    from psla.recipe.run import Run as Run
    from psla.recipe.sampling import EpochPlan as EpochPlan
    from psla.recipe.training import train as train
    from psla.tagging.tagger import Tagger as Tagger
    from psla.tagging.tagger import load as load

__all__ = [*_NAMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'psla' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
