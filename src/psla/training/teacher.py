"""The teacher of a distillation that is run here: it hears the training clips once, before the first epoch.

It hears each clip as it is, at its own rate and from the beginning: not cut, shifted, made louder or masked; of a clip
that is longer than its window the first window. What it says is kept in the run's folder with its SHA-256, and from
there on is a file of predictions like any other (`psla.techniques.distillation`): one pass in place of one an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from lightning_fabric import Fabric

from psla.audio.decode import AudioError
from psla.data.clips import Clips
from psla.data.pack.format import PackError
from psla.data.source import ClipSource, open_source
from psla.data.vocabulary import Vocabulary
from psla.files import sha256_of
from psla.metrics.predictions import Predictions
from psla.techniques.distillation import DistillationError, columns_of
from psla.training.devices import predict_together
from psla.training.run import Run
from psla.weights.catalogue import load_any, resolve


class HeardSource:
    """The clips of a source, those that the teacher could not hear refused: there is nothing to learn of them.

    Args:
        source: the training clips. heard: what the teacher said of them.
    """

    def __init__(self, source: ClipSource, heard: Predictions) -> None:
        self.source, self.clip_ids, self.sample_rate = source, source.clip_ids, source.sample_rate
        self._heard = heard

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def unheard(self) -> frozenset[str]:
        """Ids of the clips that the teacher could not hear."""
        return frozenset(self.clip_ids) - frozenset(self._heard.clip_ids)

    def read(self, index: int) -> np.ndarray:
        """See `ClipSource.read`."""
        waveform = self.source.read(index)
        if self.clip_ids[index] in self.unheard:
            raise AudioError(self.clip_ids[index], "the teacher could not read it, so that it has no target")
        return waveform


def hear(
    run: Run,
    teacher: str,
    clips: Clips,
    classes: Vocabulary,
    fabric: Fabric,
    progress: Callable[[int], None] = lambda clips: None,
) -> Predictions:
    """What the teacher says of training clips: made by all processes together and kept in `run.teacher`, or kept there.

    Args:
        teacher: a model file or an ensemble, by path or name.
        clips: those to train on, in the order of the table. classes: those that are trained.
        progress: told the clips of each batch.

    Raises:
        DistillationError: classes that the teacher does not know, a pack of another rate than it hears, or a run that
            was begun with another teacher.
        PublishedError, ModelFileError: no such model.
        ValueError: no clip could be read.
    """
    if fabric.is_global_zero:
        resolve(teacher)  # may fetch it, which one process does for all
    fabric.barrier()
    sha256 = sha256_of(resolve(teacher))
    if not run.teacher.is_file():
        model = load_any(teacher)
        columns_of(classes, model.vocabulary, teacher)
        try:
            source = open_source(clips, model.network.sample_rate)
        except PackError as error:
            raise DistillationError(
                f"recipe key distillation.teacher: {teacher} hears {model.network.sample_rate} Hz, and the clips are "
                f"in a pack of another rate; give a teacher of that rate, or a table of sound files ({error})"
            ) from error
        network = model.network.to(fabric.device)
        found = predict_together(fabric, network, source, model.vocabulary, "train", progress)
        if fabric.is_global_zero:
            run.reject(found.rejected)
            said = found.predictions
            Predictions(said.probabilities, said.clip_ids, said.vocabulary, "train", sha256).save(run.teacher)
        fabric.barrier()
    kept = Predictions.read(run.teacher)
    if kept.model_hash != sha256:
        raise DistillationError(
            f"{teacher} is not the teacher that this run was begun with (SHA-256 {sha256[:12]}…, not "
            f"{kept.model_hash[:12]}…); put that one back, or begin another run"
        )
    return kept
