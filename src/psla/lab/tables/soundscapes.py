"""The lab's own clips: the embedded corpus with labels left out on purpose, so that there is something to enhance."""

from __future__ import annotations

from psla.data.clips import Clips
from psla.synth import scene as soundscape

SEEDS = {"train": 0, "evaluation": 1}


def soundscapes(
    training: int = 400,
    evaluation: int = 200,
    seconds: float = 2.56,
    missing_children: float = 0.5,
    missing_parents: float = 0.3,
    classes: int = 0,
) -> Clips:
    """Clips to train on and to evaluate, synthesised from different seeds; they know what really sounds.

    Args:
        training, evaluation: how many, at least 1. seconds: length of a clip. missing_children, missing_parents:
            probabilities; classes: the most frequent ones only, 0: all; see `SoundscapeConfig`.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> soundscapes(3, 2).counts()
        {'train': 3, 'evaluation': 2}
    """
    rows = []
    for split, clips in (("train", training), ("evaluation", evaluation)):
        config = soundscape.SoundscapeConfig(
            seed=SEEDS[split],
            seconds=seconds,
            clips=clips,
            missing_children=missing_children,
            missing_parents=missing_parents,
            classes=classes,
        )
        rows += soundscape.table(config, split)
    return Clips.from_rows(rows, soundscape.vocabulary(config), name="soundscape")
