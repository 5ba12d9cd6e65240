"""Predictions made in parts, such as those of a job array: which clips are in a part, and the parts as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from psla.metrics.predictions import Predictions, PredictionsError


def parse_part(text: str) -> tuple[int, int]:
    """`2/8` -> (2, 8): the second of eight parts.

    Raises:
        PredictionsError: not of this form, or a part that there is not.

    Example:
        >>> parse_part("2/8")
        (2, 8)
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise PredictionsError(f"a part reads i/n with 1 <= i <= n, as in 2/8; got {text!r}")
    return int(found[1]), int(found[2])


def part_path(out: str | Path, part: tuple[int, int]) -> Path:
    """Where a part is kept beside the whole.

    Example:
        >>> part_path("all.safetensors", (2, 8)).name
        'all.2of8.safetensors'
    """
    out = Path(out)
    return out.with_name(f"{out.stem}.{part[0]}of{part[1]}{out.suffix}")


def join(parts: Iterable[Predictions], clip_ids: Sequence[str]) -> Predictions:
    """Parts by the same model as one, its clips in the order of `clip_ids`; clips that no part has are left out.

    Raises:
        PredictionsError: no part, parts of other models, classes or splits, or a clip in two parts.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> one, two = (Predictions(np.float32([[p]]), [id], Vocabulary(["dog"])) for id, p in (("b", 1), ("a", 0)))
        >>> join([one, two], ["a", "b"]).probabilities.tolist()
        [[0.0], [1.0]]
    """
    found = list(parts)
    if not found:
        raise PredictionsError("there is no part to join")
    first = found[0]
    rows: dict[str, np.ndarray] = {}
    for number, part in enumerate(found, start=1):
        if part.vocabulary != first.vocabulary or (part.model_hash, part.split) != (first.model_hash, first.split):
            raise PredictionsError(f"parts 1 and {number} are by different models, or of different classes or splits")
        twice = rows.keys() & set(part.clip_ids)
        if twice:
            raise PredictionsError(f"clip {min(twice)!r} is in part {number} and in one before it")
        rows.update(zip(part.clip_ids, part.probabilities, strict=True))
    ids = [id for id in clip_ids if id in rows]
    probabilities = np.stack([rows[id] for id in ids])
    return Predictions(probabilities, ids, first.vocabulary, first.split, first.model_hash)
