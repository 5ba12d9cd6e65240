"""ESC-50: 2000 environmental recordings of 5 s in 50 classes, five folds; with ESC-10, its subset of 10 classes.

Source: K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015,
https://github.com/karolpiczak/ESC-50. The layout is the published one: meta/esc50.csv and audio/. The published folds
keep the cuts of one recording (`src_file`) together. Nothing is downloaded here.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from psla.data.clips import Clips, ClipsError
from psla.data.inventory import only_present
from psla.data.vocabulary import Vocabulary

FACTS = {
    "name": "ESC-50",
    "source": "https://github.com/karolpiczak/ESC-50",
    "licence": "CC BY-NC 3.0 (ESC-50); CC BY 3.0 (the ESC-10 subset)",
    "citation": "K. J. Piczak. ESC: Dataset for Environmental Sound Classification. Proceedings of the 23rd ACM "
    "International Conference on Multimedia, 2015. https://doi.org/10.1145/2733373.2806390",
}
FOLDS = (1, 2, 3, 4, 5)
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")


def read(root: str | os.PathLike[str], evaluation_fold: int | None = 1, esc10_only: bool = False) -> Clips:
    """The clips of ESC-50 under `root`: the evaluation fold, if any, has the split evaluation, the others train.

    The vocabulary is the categories that the list has, in the order of `target`. Clips whose files are missing are left
    out, with a warning that counts them; `take_inventory` of what is `listed` names them.

    Args:
        root: the folder that holds meta/esc50.csv and audio/.
        evaluation_fold: 1 to 5; None holds nothing out: all clips have the split train.
        esc10_only: only the clips of ESC-10.

    Raises:
        ClipsError: no meta/esc50.csv, a column missing from it, a fold out of range, or no sound file at all.

    Example:
        >>> clips = read("ESC-50-master", evaluation_fold=5)  # doctest: +SKIP
        >>> clips.counts()                                    # doctest: +SKIP
        {'train': 1600, 'evaluation': 400}
    """
    return only_present(listed(root, evaluation_fold, esc10_only), os.fspath(root))


def listed(root: str | os.PathLike[str], evaluation_fold: int | None = 1, esc10_only: bool = False) -> Clips:
    """All clips of the list, there or not; `take_inventory` tells which are.

    Args:
        root, evaluation_fold, esc10_only: see `read`.

    Raises:
        ClipsError: no meta/esc50.csv, a column missing from it, a fold out of range, or a clip that is listed twice.
    """
    if evaluation_fold is not None and evaluation_fold not in FOLDS:
        raise ClipsError(f"ESC-50: evaluation_fold is {evaluation_fold!r}, must be one of 1, 2, 3, 4, 5")
    meta = Path(root) / "meta" / "esc50.csv"
    if not meta.is_file():
        raise ClipsError(f"ESC-50: {meta} does not exist; give the folder that holds meta/ and audio/")
    with meta.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        have = reader.fieldnames or []
        missing = [column for column in _COLUMNS if column not in have]
        if missing:
            raise ClipsError(f"ESC-50: {meta} has no column {', '.join(missing)}; it has {', '.join(have)}")
        lines = [line for line in reader if not esc10_only or line["esc10"] == "True"]
    rows = []
    target: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not (line["fold"].isdigit() and int(line["fold"]) in FOLDS and line["target"].isdigit()):
            raise ClipsError(
                f"ESC-50: {meta}, clip {number} ({line['filename']}): fold {line['fold']!r} must be 1 to 5 and target "
                f"{line['target']!r} a number; take the list from {FACTS['source']}"
            )
        target[line["category"]] = int(line["target"])
        rows.append(
            {
                "clip_id": Path(line["filename"]).stem,
                "source": line["src_file"],
                "path": str(Path(root) / "audio" / line["filename"]),
                "split": "evaluation" if int(line["fold"]) == evaluation_fold else "train",
                "labels": [line["category"]],
            }
        )
    return Clips.from_rows(rows, Vocabulary(sorted(target, key=target.__getitem__)), FACTS["name"])
