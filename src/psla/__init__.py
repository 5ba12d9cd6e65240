"""psla: train, evaluate and use audio taggers with the PSLA recipe.

The names below are loaded when they are first used, so that `import psla` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "AudioError": "psla.audio.decode",
    "Clips": "psla.data.clips",
    "EpochPlan": "psla.techniques.sampling",
    "FrontEnd": "psla.model.frontends.kaldi",
    "FrontEndConfig": "psla.model.frontends.kaldi",
    "Labels": "psla.data.labels",
    "Ontology": "psla.data.ontology",
    "Predictions": "psla.metrics.predictions",
    "Recipe": "psla.training.recipe",
    "Run": "psla.training.run",
    "Stream": "psla.tagging.stream",
    "Tagger": "psla.tagging.tagger",
    "TaggingNetwork": "psla.model.network",
    "Vocabulary": "psla.data.vocabulary",
    "fit": "psla.training.fit",
    "load": "psla.tagging.tagger",
    "read_released": "psla.weights.readers.psla",
    "read_weights": "psla.weights.readers.contract",
    "train": "psla.training.session",
}
_MODULES = {
    "aggregation": "psla.techniques.aggregation",
    "comparison": "psla.metrics.compare",
    "corpora": "psla.corpora",
    "labeling": "psla.techniques.labeling",
    "metrics": "psla.metrics",
    "sampling": "psla.techniques.sampling",
    "synth": "psla.synth",
}

if TYPE_CHECKING:
    from psla import corpora as corpora
    from psla import metrics as metrics
    from psla import synth as synth
    from psla.audio.decode import AudioError as AudioError
    from psla.data.clips import Clips as Clips
    from psla.data.labels import Labels as Labels
    from psla.data.ontology import Ontology as Ontology
    from psla.data.vocabulary import Vocabulary as Vocabulary
    from psla.metrics import compare as comparison  # noqa: F401
    from psla.metrics.predictions import Predictions as Predictions
    from psla.model.frontends.kaldi import FrontEnd as FrontEnd
    from psla.model.frontends.kaldi import FrontEndConfig as FrontEndConfig
    from psla.model.network import TaggingNetwork as TaggingNetwork
    from psla.tagging.stream import Stream as Stream
    from psla.tagging.tagger import Tagger as Tagger
    from psla.tagging.tagger import load as load
    from psla.techniques import aggregation as aggregation
    from psla.techniques import labeling as labeling
    from psla.techniques import sampling as sampling
    from psla.techniques.sampling import EpochPlan as EpochPlan
    from psla.training.fit import fit as fit
    from psla.training.recipe import Recipe as Recipe
    from psla.training.run import Run as Run
    from psla.training.session import train as train
    from psla.weights.readers.contract import read_weights as read_weights
    from psla.weights.readers.psla import read_released as read_released

__all__ = [*_NAMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'psla' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
