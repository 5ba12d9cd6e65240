"""A: averages of weights, averages of predictions, and which of them to average (paper, section VI).

Every checkpoint counts once (the released code counts its first one twice). Sums are kept in float64, and no result
depends on the order in which files are given. Not covered: ensembles of model files (`psla.model.ensemble`), where to
start averaging (`sweep.py`), and BatchNorm statistics measured anew on data; they are averaged as the other weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.files import sha256_of
from psla.metrics.predictions import Predictions
from psla.metrics.predictions import average as average_predictions
from psla.metrics.resampling import defined_mean
from psla.metrics.scores import average_precisions, nan_to_none
from psla.model.clip_ids import hashed
from psla.model.file import ModelFileError, load_model, read_header, read_tensors, save_model
from psla.model.tensor_file import first_few

SHARES_MARGIN = 1e-6  # by how much the sum of shares may miss 1; it is divided by


class AggregationError(ValueError):
    """Checkpoints or predictions that cannot be averaged with each other."""


def average_weights(paths: Sequence[str | Path], shares: Sequence[float] | None = None) -> dict[str, Tensor]:
    """The average of the tensors of several checkpoints, one checkpoint in memory at a time.

    Without shares all count alike. With them, a model that was fine-tuned can be averaged part of the way with the one
    that it started from, which keeps more of what that knew (WiSE-FT). A checkpoint with the share 1 comes out to the
    bit, whatever the others hold.

    Floating tensors (BatchNorm's running statistics among them) are summed in float64 and returned in their own type.
    Integer buffers are copied; where they differ (they count batches), the largest is, that of the latest checkpoint.
    Sums in float64 are rounded, too, and in another order otherwise: checkpoints are added in the order of their
    SHA-256, so that any order of `paths` gives the same bits.

    Args:
        paths: the checkpoints.
        shares: of each checkpoint, in the order of `paths`, in [0, 1], their sum 1 within 1e-6.

    Raises:
        AggregationError: no checkpoint, one given twice, shares that break the rule, or tensors that one has and
            another has not, or in another shape or type, by name.
        ModelFileError: a file that cannot be read.

    Source: paper, section VI-A; with shares M. Wortsman et al., Robust fine-tuning of zero-shot models,
        https://arxiv.org/abs/2109.01903, section 3.
    """
    if not paths:
        raise AggregationError("an average needs at least one checkpoint")
    if len({Path(path).resolve() for path in paths}) != len(paths):
        raise AggregationError("a checkpoint is given twice; each counts once")
    weights = [1.0] * len(paths) if shares is None else _checked_shares(shares, len(paths))
    kinds = _kinds(read_tensors(paths[0]))
    sums: dict[str, Tensor] = {}
    for path, weight in sorted(zip(paths, weights, strict=True), key=lambda pair: sha256_of(pair[0])):
        latest = read_tensors(path)
        if odd := _odd(_kinds(latest), kinds):
            raise AggregationError(f"{path} does not match {paths[0]}: {first_few(odd, 3)}")
        for name, tensor in latest.items():
            if not tensor.is_floating_point():
                sums[name] = torch.maximum(sums[name], tensor) if name in sums else tensor.clone()
            elif weight == 0.0:
                continue  # not even its infinities and signs of zero come in
            elif name in sums:
                sums[name] += weight * tensor.to(torch.float64)
            else:
                sums[name] = weight * tensor.to(torch.float64)
    total = math.fsum(weights)
    return {
        name: (sums[name] / total).to(kind) if kind.is_floating_point else sums[name]
        for name, (_, kind) in kinds.items()
    }


def _checked_shares(shares: Sequence[float], files: int) -> list[float]:
    legal = len(shares) == files and all(0.0 <= share <= 1.0 for share in shares)
    if not legal or abs(math.fsum(shares) - 1.0) > SHARES_MARGIN:
        raise AggregationError(
            f"{files} files need a share each, in [0, 1] and together 1, in the order of the files; got "
            f"{', '.join(f'{share:g}' for share in shares) or 'none'}"
        )
    return list(shares)


def average_model(
    paths: Sequence[str | Path],
    out: str | Path,
    like: str | Path | None = None,
    shares: Sequence[float] | None = None,
) -> Path:
    """Write the average of checkpoints or model files as a model file.

    Args:
        paths: model files, or checkpoints of one run (`RUN/checkpoints/epoch_016.safetensors`), in any order.
        out: the model file to write.
        like: the model file that says architecture, front end and classes; by default the first of `paths` if it is a
            model file, else the `model.safetensors` of the run that the first checkpoint lies in.
        shares: as of `average_weights`; the model file says them of each file.

    Raises:
        AggregationError: as `average_weights`; also model files of other classes or front ends, or checkpoints
            without a model file beside their folder.
        ModelFileError: a file that cannot be read or does not fit the architecture.
    """
    averaged = average_weights(paths, shares)
    like = _template(paths[0]) if like is None else Path(like)
    header = read_header(like)
    clips = [header["card"].get("training_clips", "")]
    for path in paths:
        other = _header_of(path)
        clips += [] if other is None else [other["card"].get("training_clips", "")]
        for part in ("architecture", "front_end", "vocabulary"):
            if other is not None and other[part] != header[part]:
                raise AggregationError(f"{path} has another {part.replace('_', ' ')} than {like}; they must agree")
    model = load_model(like)
    shapes = ({name: tensor.shape for name, tensor in each.items()} for each in (averaged, model.network.state_dict()))
    if odd := _odd(*shapes):
        raise AggregationError(f"the checkpoints do not match {like}: {first_few(odd, 3)}")
    model.network.load_state_dict(averaged)
    members: list[dict[str, Any]] = [{"file": Path(path).name, "sha256": sha256_of(path)} for path in paths]
    for member, share in zip(members, shares or (), strict=shares is not None):
        member["share"] = share
    members.sort(key=lambda member: member["sha256"])
    # What was measured with other weights does not hold for these.
    variant = f"{'average' if shares is None else 'weighted average'} of {len(paths)} files"
    provenance = {**model.card.provenance, "variant": variant, "members": members}
    card = replace(model.card, scores={}, thresholds={}, calibration={}, provenance=provenance)
    card = replace(card, training_clips=hashed([], *clips))
    return save_model(out, model.network, model.vocabulary, card)


def checkpoints_from(paths: Sequence[str | Path], first_epoch: int | None = None) -> list[Path]:
    """Checkpoints as they are given, folders replaced by the `epoch_*.safetensors` in them, from an epoch on.

    Args:
        paths: checkpoint files, run folders, or folders of checkpoints.
        first_epoch: counted from 1, as in the names of the files; None takes all.

    Raises:
        AggregationError: a folder without checkpoints, a file without an epoch in its name where one is asked for, or
            nothing left.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = [*path.glob("epoch_*.safetensors"), *path.glob("checkpoints/epoch_*.safetensors")]
        if not inside:
            raise AggregationError(f"{path} has no checkpoints: no epoch_*.safetensors in it or in its checkpoints/")
        found.extend(sorted(inside))
    if first_epoch is None:
        return found
    kept = []
    for path in found:
        match = re.search(r"epoch_(\d+)", path.name)
        if match is None:
            raise AggregationError(f"{path} has no epoch in its name (epoch_016.safetensors); name the files instead")
        if int(match[1]) >= first_epoch:
            kept.append(path)
    if not kept:
        raise AggregationError(f"none of the {len(found)} checkpoints is of epoch {first_epoch} or later")
    return kept


@dataclass(frozen=True)
class Ensemble:
    """Several predictions and their average, scored: a row of the paper's Table X.

    members: the mAP of each member, by name. average: the mean of these. best: the highest. ensemble: the mAP of the
    averaged predictions. clips: how many were scored. All mAPs are NaN where no class has positives.
    """

    members: dict[str, float]
    average: float
    best: float
    ensemble: float
    clips: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: NaN becomes None."""
        data: dict[str, Any] = nan_to_none(asdict(self))
        return data


def ensemble(members: Mapping[str, Callable[[], Predictions]], labels: Labels) -> tuple[Predictions, Ensemble]:
    """Average predictions, read one after the other, and score each and the average on the labelled clips.

    Args:
        members: by name, what reads the predictions.
        labels: of all clips of the predictions.

    Raises:
        AggregationError: labels of other classes, or clips without labels.
        PredictionsError: no member, or members of other clips or classes.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["dog"])
        >>> one = Predictions(np.array([[0.6], [0.5], [0.2]], dtype=np.float32), ["a", "b", "c"], vocabulary)
        >>> two = Predictions(np.array([[0.6], [0.1], [0.7]], dtype=np.float32), ["a", "b", "c"], vocabulary)
        >>> labels = Labels.from_sets(["a", "b", "c"], [["dog"], [], []], vocabulary)
        >>> averaged, scores = ensemble({"one": lambda: one, "two": lambda: two}, labels)
        >>> scores.members, scores.average, scores.ensemble
        ({'one': 1.0, 'two': 0.5}, 0.75, 1.0)
    """
    scores: dict[str, float] = {}

    def read(name: str) -> Predictions:
        predictions = members[name]()
        scores[name] = _mean_average_precision(predictions, labels)
        return predictions

    averaged = average_predictions(read(name) for name in members)
    values, together = list(scores.values()), _mean_average_precision(averaged, labels)
    return averaged, Ensemble(scores, float(np.mean(values)), float(np.max(values)), together, len(averaged))


def greedy_selection(
    members: Mapping[str, Callable[[], Predictions]], clips: Clips, most: int | None = None
) -> list[tuple[str, float]]:
    """Choose members for an ensemble on validation clips: the best one, then whichever helps most, while one helps.

    Choosing on evaluation data would make its score worthless, so every clip must be of the split validation, as the
    predictions say and as the table of clips says.

    Args:
        members: by name, what reads the predictions; each is read once a round, and one is in memory at a time.
        clips: the clips with their labels and splits.
        most: choose at most so many.

    Returns:
        The names of the chosen in the order in which they were chosen, each with the mAP of the ensemble up to it.

    Raises:
        AggregationError: predictions or clips of another split than validation, clips without labels, no member.
        PredictionsError: members of other clips or classes.

    Source: Caruana et al., Ensemble selection from libraries of models, ICML 2004 (without replacement here).
    """
    if not members:
        raise AggregationError("there is nothing to choose from: give predictions")
    labels = clips.labels()
    split_of = dict(zip(clips.clip_ids, clips.frame["split"].to_list(), strict=True))
    chosen: list[tuple[str, float]] = []
    total: np.ndarray | None = None
    ids: list[str] = []
    while len(chosen) < min(len(members), len(members) if most is None else most):
        best: tuple[str, float, np.ndarray] | None = None
        for name in sorted(members.keys() - dict(chosen).keys()):
            each = members[name]()
            ids = ids or each.clip_ids
            _check_member(name, each, ids, split_of)
            own = each.probabilities[each.rows_of(ids)].astype(np.float64)
            grown = own if total is None else total + own
            mean = (grown / (len(chosen) + 1)).astype(np.float32)
            value = _mean_average_precision(Predictions(mean, ids, each.vocabulary), labels)
            if best is None or value > best[1]:
                best = name, value, grown
        if best is None or (chosen and not best[1] > chosen[-1][1]):
            break
        total = best[2]
        chosen.append(best[:2])
    return chosen


def _check_member(name: str, each: Predictions, ids: list[str], split_of: Mapping[str, str]) -> None:
    if set(each.clip_ids) != set(ids):
        raise AggregationError(f"{name} is of other clips than the first: {len(set(each.clip_ids) ^ set(ids))} differ")
    others = sorted({each.split or "validation", *(split_of.get(id, "validation") for id in ids)} - {"validation"})
    if others:
        raise AggregationError(
            f"{name} is of the split {' and '.join(others)}: members are chosen on validation clips only, since "
            "a choice makes the score of the clips it was made on too good; predict the split validation"
        )


def _mean_average_precision(predictions: Predictions, labels: Labels) -> float:
    if predictions.vocabulary != labels.vocabulary:
        raise AggregationError(
            f"predictions and labels have different vocabularies of {len(predictions.vocabulary)} and "
            f"{len(labels.vocabulary)} classes"
        )
    try:
        chosen = labels.select(predictions.clip_ids)
    except KeyError as error:
        raise AggregationError(str(error.args[0])) from error
    return float(defined_mean(average_precisions(predictions.probabilities, chosen)))


def _template(path: str | Path) -> Path:
    if _header_of(path) is not None:
        return Path(path)
    beside = Path(path).resolve().parent.parent / "model.safetensors"
    if beside.is_file():
        return beside
    raise AggregationError(
        f"{path} is a checkpoint, which has weights only, and there is no {beside}: name a model file of the same "
        "architecture and classes to take the rest from"
    )


def _header_of(path: str | Path) -> dict[str, Any] | None:
    """The header of a model file; None for a checkpoint."""
    try:
        return read_header(path)
    except ModelFileError:
        read_tensors(path)  # a file that is neither raises here
        return None


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _odd(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names that only one of two has, or else those whose values differ."""
    return sorted(one.keys() ^ other.keys()) or sorted(name for name in one if one[name] != other[name])
