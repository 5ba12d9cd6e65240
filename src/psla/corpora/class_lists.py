"""The class list of AudioSet in its published format, class_labels_indices.csv.

The package carries it as a table of its own (`Vocabulary.audioset`); this reads other versions, and other corpora's.
Source: https://research.google.com/audioset/download.html. The class graph is read by `Ontology.read`.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from psla.data.clips import ClipsError
from psla.data.vocabulary import Vocabulary


def read_class_list(path: str | os.PathLike[str]) -> Vocabulary:
    """The vocabulary of a class list with the columns index, mid and display_name (class_labels_indices.csv).

    Raises:
        ClipsError: no such file, another head line, or indices that are not 0, 1, 2 and so on.
        VocabularyError: a class id given twice.

    Example:
        >>> read_class_list("class_labels_indices.csv")  # doctest: +SKIP
        Vocabulary(527 classes: Speech, Male speech, man speaking, Female speech, woman speaking, …)
    """
    path = Path(path)
    if not path.is_file():
        raise ClipsError(f"{path} does not exist; give a class list such as class_labels_indices.csv")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise ClipsError(f"{path} is not UTF-8 text ({error}); fetch the class list again") from error
    wanted = {"index", "mid", "display_name"}
    if not rows or not wanted <= set(rows[0]):
        raise ClipsError(f"{path} is no class list; its head line must be index,mid,display_name, and classes follow")
    for number, row in enumerate(rows):
        if row["index"] != str(number) or not row["mid"] or not row["display_name"]:
            raise ClipsError(
                f"{path}, line {number + 2}: index {row['index']!r}, id {row['mid']!r}, name {row['display_name']!r}; "
                f"classes must be numbered 0, 1, 2 and so on (here {number}), each with an id and a name"
            )
    return Vocabulary([row["mid"] for row in rows], [row["display_name"] for row in rows])
