"""Your own sounds: a folder for each class, or a CSV with a line for each clip.

    root/CLASS/file        or        root/{train,validation,evaluation}/CLASS/file

What is below a class folder, at any depth, belongs to that class. In a folder tree every file is its own source; a CSV
may say which clips come from one recording (`source`), and those stay together when clips are held out.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from psla.audio.decode import AUDIO_SUFFIXES
from psla.corpora.csv_files import read_csv_file
from psla.data.clips import SPLITS, Clips, ClipsError
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.files import is_text, printable

FACTS = {
    "name": "folder",
    "source": "sound files of your own",
    "licence": "that of the files",
    "citation": "",
}


def read_folders(
    root: str | os.PathLike[str], vocabulary: str | None = None, evaluation_share: float = 0.2, seed: int = 0
) -> Clips:
    """Clips from a folder for each class; a file's path below `root` is its clip id, its class folder its label.

    Args:
        root: holds the class folders, or nothing but folders named train, validation and evaluation that hold them.
        vocabulary: None: the class folders, sorted; `audioset`; or a text file (see `open_vocabulary`).
        evaluation_share: without split folders, the share of each class that becomes the split evaluation; 0 to
            below 1, 0: all clips are train.
        seed: chooses which.

    Raises:
        ClipsError: no such folder, no audio file in it, files outside class folders only, or a class folder that the
            vocabulary does not have.

    Example:
        >>> clips = read_folders("sounds", evaluation_share=0.2)  # doctest: +SKIP
        >>> clips.counts()                                        # doctest: +SKIP
        {'train': 80, 'evaluation': 20}
    """
    root = Path(root)
    if not root.is_dir():
        raise ClipsError(f"{root} is not a folder; give the folder that holds a folder for each class")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    parts = [(file, file.relative_to(root).parts) for file in files]
    parts = [(file, p) for file, p in parts if not any(part.startswith(".") for part in p)]
    parts = _legible(parts)
    if not parts:
        raise ClipsError(f"no audio files found under {root} ({', '.join(sorted(AUDIO_SUFFIXES))})")
    has_splits = all(p[0] in SPLITS and len(p) > 2 for _, p in parts)
    mixed = [file for file, p in parts if p[0] in SPLITS and len(p) > 2]
    if mixed and not has_splits:
        other = next(file for file, _ in parts if file not in mixed)
        raise ClipsError(
            f"{root} has split folders ({mixed[0]}) and other files ({other}); "
            "put each file into train/CLASS, validation/CLASS or evaluation/CLASS, or none"
        )
    stray = [file for file, p in parts if len(p) < 2]
    if stray:
        raise ClipsError(f"{stray[0]} lies in no class folder; put each file into {root}/CLASS/")
    rows: list[dict[str, Any]] = []
    for file, p in parts:
        id = "/".join(p)
        label = p[1] if has_splits else p[0]
        split = p[0] if has_splits else "train"
        rows.append({"clip_id": id, "source": id, "path": str(file), "split": split, "labels": [label]})
    clips = _labelled(rows, vocabulary, root.resolve().name)
    return clips if has_splits else hold_out_evaluation(clips, evaluation_share, seed)


def read_csv(
    csv_path: str | os.PathLike[str],
    audio_root: str | os.PathLike[str] | None = None,
    vocabulary: str | None = None,
    evaluation_share: float = 0.2,
    seed: int = 0,
) -> Clips:
    """Clips from a CSV with the columns path and labels, and any of clip_id, source, split, start_s and end_s.

    Several labels stand in one field, separated by `;` or `|`. Without clip_id, the path is the id (with the span,
    where there is one); without source, every path is its own.

    Args:
        csv_path: the file, UTF-8, with a head line.
        audio_root: what relative paths are relative to; None: the CSV's folder.
        vocabulary: None: the labels that occur, sorted; `audioset`; or a text file (see `open_vocabulary`).
        evaluation_share: without the column split, the share of each class that becomes the split evaluation, whole
            sources; 0 to below 1, 0: all clips are train.
        seed: chooses which.

    Raises:
        ClipsError: no such file, a needed column is missing, no clips, a field that is not a number, a label that the
            vocabulary does not have, or what `Clips` refuses.

    Example:
        >>> clips = read_csv("clips.csv", audio_root="sounds", vocabulary="audioset")  # doctest: +SKIP
    """
    csv_path = Path(csv_path)
    base = csv_path.parent if audio_root is None else Path(audio_root)
    give = "give a CSV with the columns path and labels"
    file = read_csv_file(csv_path, ("path", "labels"), give, "save it as UTF-8 text with these columns")
    rows = [_row(line, base, f"{csv_path}, line {number}") for number, line in file.rows]
    if not rows:
        raise ClipsError(f"{csv_path} lists no clips: there is no line below the head line")
    clips = _labelled(rows, vocabulary, csv_path.stem)
    return clips if "split" in file.columns else hold_out_evaluation(clips, evaluation_share, seed)


def open_vocabulary(name: str) -> Vocabulary:
    """`audioset`, or a text file with a class a line: the id, or the id, a tab and the name; blank lines do not count.

    Raises:
        ClipsError: no such file, or one without classes.
        VocabularyError: a class given twice.
    """
    if name == "audioset":
        return Vocabulary.audioset()
    path = Path(name)
    if not path.is_file():
        raise ClipsError(f"vocabulary {name!r} is neither 'audioset' nor a text file with a class a line")
    lines = [line.strip().partition("\t") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ClipsError(f"vocabulary {name!r} has no classes; write a class a line")
    return Vocabulary([id.strip() for id, _, _ in lines], [label.strip() or id.strip() for id, _, label in lines])


def _legible(parts: list[tuple[Path, tuple[str, ...]]]) -> list[tuple[Path, tuple[str, ...]]]:
    """Those whose path is UTF-8 text: a table of clips holds nothing else."""
    kept = [(file, p) for file, p in parts if is_text(str(file))]
    if len(kept) < len(parts):
        first = next(file for file, _ in parts if not is_text(str(file)))
        warnings.warn(
            f"{len(parts) - len(kept)} sound files are left out, for their paths are not UTF-8 text, which a table of "
            f"clips must hold: rename them, the first: {printable(str(first))}",
            stacklevel=3,
        )
    return kept


def _row(line: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    field = {key: value.strip() for key, value in line.items() if isinstance(value, str)}
    if not field.get("path"):
        raise ClipsError(f"{where}: the path is empty; name a sound file")
    span: dict[str, float | None] = {}
    for column in ("start_s", "end_s"):
        text = field.get(column, "")
        try:
            span[column] = float(text) if text else None
        except ValueError as error:
            raise ClipsError(f"{where}: {column} is {text!r}, must be a number of seconds or empty") from error
    path = field["path"]
    suffix = "".join(f"@{field[column]}" for column in span if field.get(column))
    return {
        "clip_id": field.get("clip_id") or path + suffix,
        "source": field.get("source") or path,
        "path": path if "://" in path else str(base / path),
        **span,
        "split": field.get("split", "train"),
        "labels": [label for part in re.split(r"[;|]", field.get("labels", "")) if (label := part.strip())],
    }


def _labelled(rows: Sequence[dict[str, Any]], vocabulary: str | None, name: str) -> Clips:
    """The table, with labels given as class ids or names turned into ids."""
    labels = sorted({label for row in rows for label in row["labels"]})
    if vocabulary is None:
        return Clips.from_rows(rows, Vocabulary(labels), name)
    classes = open_vocabulary(vocabulary)
    ids: dict[str, str] = {}
    for label in labels:
        try:
            ids[label] = classes.find(label).id
        except VocabularyError as error:
            first = next(row["clip_id"] for row in rows if label in row["labels"])
            raise ClipsError(
                f"clip {first!r}: label {error}; correct it, or extend the vocabulary {vocabulary!r}"
            ) from error
    return Clips.from_rows([{**row, "labels": [ids[x] for x in row["labels"]]} for row in rows], classes, name)


def hold_out_evaluation(clips: Clips, share: float, seed: int) -> Clips:
    """Hold out as `Clips.hold_out` does, and call what was held out evaluation. All clips must be train before."""
    if share == 0:
        return clips
    held = clips.hold_out(share, seed)
    split = pl.col("split").replace({"validation": "evaluation"})
    return Clips(held.frame.with_columns(split), clips.vocabulary, clips.name)
