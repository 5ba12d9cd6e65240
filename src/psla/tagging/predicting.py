"""Predicting in tasks of a few hundred clips each, on whatever machine; the outcome has the bytes of one call's.

A waveform's probabilities are the same to the bit whatever is heard with it. A part is a file beside the whole, as
`psla predict --shard` leaves it, so that a job that is broken off goes on from the parts that are there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psla.data.clips import Clips
from psla.data.source import open_source
from psla.files import alone
from psla.metrics.parts import join, part_path
from psla.metrics.predictions import Predictions
from psla.model import inference
from psla.model.network import Precision
from psla.spread import Link, Spread, Task, Watch, in_turn
from psla.weights.here import model_here

PART_CLIPS = 500  # in a part: a minute of a core for a large network, and little beside it to put parts together
FEWEST_CLIPS = 50  # in one of a job that would not occupy all cores otherwise: much more than what a task costs
GONE = "it could not be read when its part was predicted"


@dataclass(frozen=True)
class PredictJob:
    """What is predicted, and where it goes.

    Args:
        model: a path or a name; another machine must find the same file behind it. model_hash: its SHA-256.
        clips: of one split, named `split`, or of all, if that is empty.
        out: the file of predictions. half: keep float16. precision: of the network.
    """

    model: str
    model_hash: str
    clips: Clips
    out: Path
    split: str = ""
    half: bool = False
    precision: Precision = "float32"

    def predict(
        self, spread: Spread, progress: Callable[[int], None] = lambda clips: None, part_clips: int | None = None
    ) -> inference.Inference:
        """Predict the clips in tasks and write the predictions; parts that are there are not predicted again.

        Parts are those that stand beside `out` already, begun by hand or by an earlier call, else of `part_clips`
        (None: of `PART_CLIPS`, of fewer where there is room for more of them); when the whole is written, they are
        removed.

        Args:
            progress: told of clips as they are done.

        Raises:
            ValueError: no clip could be read, or a part that is there is of another model, split or number
                format; which precision it was computed in, a part does not say.
        """
        count = self._parts(part_clips or self._fitting(spread.room))
        ids = self.clips.clip_ids
        wanted = {number: ids[number - 1 :: count] for number in range(1, count + 1)}
        with alone(self.out):
            there = [number for number in wanted if self._is_there(number, count, wanted[number])]
            progress(sum(len(wanted[number]) for number in there))
            told: dict[str, int] = {}

            def tell(name: str, done: int) -> None:
                progress(max(0, done - told.get(name, 0)))
                told[name] = max(done, told.get(name, 0))

            def task(number: int) -> Task:
                clips = self.clips.select(wanted[number])
                what = (self.model, self.model_hash, self.split, self.half, self.precision)
                return Task(
                    f"part {number} of {count}", predict_part, (clips, part_path(self.out, (number, count)), what)
                )

            rejected = {}
            missing = (task(number) for number in wanted if number not in there)
            for ended, found in in_turn(spread, missing, Watch(tell)):
                rejected.update(found)
                tell(ended.name, len(ended.args[0]))
            parts = [part_path(self.out, (number, count)) for number in wanted]
            whole = self._whole(parts, rejected)
            whole.save(self.out)
            for part in parts:
                part.unlink()
        known = set(whole.clip_ids)
        left_out = {id: rejected.get(id, GONE) for id in ids if id not in known}
        return inference.Inference(whole, left_out)

    def _whole(self, parts: Sequence[Path], rejected: dict[str, str]) -> Predictions:
        read = [each for part in parts if len(each := Predictions.read(part))]
        if not read:
            first = next(iter(rejected.values()), GONE)
            raise ValueError(f"none of {len(self.clips)} clips could be read; the first: {first}")
        return join(read, self.clips.clip_ids)

    def _fitting(self, room: int) -> int:
        return max(FEWEST_CLIPS, min(PART_CLIPS, math.ceil(len(self.clips) / room)))

    def _parts(self, part_clips: int) -> int:
        name = re.compile(re.escape(self.out.stem) + r"\.\d+of(\d+)" + re.escape(self.out.suffix))
        folder = self.out.parent
        begun = {int(found[1]) for each in folder.glob("*") if (found := name.fullmatch(each.name))}
        if len(begun) > 1:
            counts = " and ".join(map(str, sorted(begun)))
            raise ValueError(f"{folder} holds parts of {self.out.name} out of {counts}: delete those of all but one")
        return begun.pop() if begun else math.ceil(len(self.clips) / part_clips)

    def _is_there(self, number: int, count: int, ids: Sequence[str]) -> bool:
        path = part_path(self.out, (number, count))
        if not path.exists():
            return False
        part = Predictions.read(path)
        mine = self.model_hash, self.split, "float16" if self.half else "float32"
        if (part.model_hash, part.split, str(part.probabilities.dtype)) != mine or not set(part.clip_ids) <= set(ids):
            raise ValueError(f"{path} is a part of other predictions (model, split, clips or --half): delete it first")
        return True


def predict_part(clips: Clips, out: Path, what: tuple[str, str, str, bool, Precision], link: Link) -> dict[str, str]:
    """Predict some clips into a file, which may come to hold none; by id why those that it lacks could not be read.

    Args:
        what: model, its hash, split, half and precision, as `PredictJob` has them.

    Raises:
        ValueError: another model than the driver's stands behind the name here.
    """
    name, model_hash, split, half, precision = what
    model, done = model_here(name, model_hash), 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        link.tell(done)

    source = open_source(clips, model.network.sample_rate)
    try:
        found = inference.predict(model.network, source, model.vocabulary, 16, split, "cpu", progress, precision)
    except inference.NothingReadable as error:
        none = np.zeros((0, len(model.vocabulary)), np.float32)
        found = inference.Inference(Predictions(none, [], model.vocabulary, split), error.rejected)
    kept = found.predictions
    probabilities = kept.probabilities.astype("float16" if half else "float32")
    Predictions(probabilities, kept.clip_ids, kept.vocabulary, kept.split, model_hash).save(out)
    return found.rejected
