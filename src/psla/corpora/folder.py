"""Your own sounds: a folder for each class, or a CSV with a line for each clip.

    root/CLASS/file        or        root/{train,validation,evaluation}/CLASS/file

What is below a class folder, at any depth, belongs to that class. In a folder tree every file is its own source; a CSV
may say which clips come from one recording (`source`), and those stay together when clips are held out.
"""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from psla.audio.decode import AUDIO_SUFFIXES
from psla.audio.folders import Found, sound_files
from psla.corpora.csv_files import read_csv_file
from psla.data.clips import SPLITS, Clips, ClipsError
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.files import few, is_text, printable, shortened

MOST_BYTES = 1 << 26  # of a list of classes
_CSV_COLUMNS = ("path", "labels", "clip_id", "source", "split", "start_s", "end_s")
_SEEN_NOT = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # characters of no width
_SPLIT_WORDS = {
    *("train", "training", "trn", "test", "testing", "tst", "valid", "validation", "val", "dev", "development"),
    *("eval", "evaluation", "evaluate", "holdout"),
}
_FOLD = re.compile(r"(?:fold|split|part|batch|chunk|cv)[-_ ]?\d+")

FACTS = {
    "name": "folder",
    "source": "sound files of your own",
    "licence": "that of the files",
    "citation": "",
}


def read_folders(
    root: str | os.PathLike[str],
    vocabulary: str | None = None,
    evaluation_share: float = 0.2,
    seed: int = 0,
    as_classes: bool = False,
) -> Clips:
    """Clips from a folder for each class; a file's path below `root` is its clip id, its class folder its label.

    Links to folders are followed. What is left out, and folders that differ by case only, are told in warnings.

    Args:
        root: holds the class folders, or nothing but folders named train, validation and evaluation that hold them.
        vocabulary: None: the class folders, sorted; `audioset`; or a text file (see `open_vocabulary`).
        evaluation_share: without split folders, the share of each class that becomes the split evaluation; 0 to
            below 1, 0: all clips are train.
        seed: chooses which.
        as_classes: take the folders for classes even if they are called as splits or folds are, or if they look as
            though the classes lay one level below.

    Raises:
        ClipsError: no such folder, no audio file in it, files outside class folders only, folders that look like none
            of classes, or a class folder that the vocabulary does not have.

    Example:
        >>> clips = read_folders("sounds", evaluation_share=0.2)  # doctest: +SKIP
        >>> clips.counts()                                        # doctest: +SKIP
        {'train': 80, 'evaluation': 20}
    """
    root = Path(root)
    if not root.is_dir():
        raise ClipsError(f"{root} is not a folder; give the folder that holds a folder for each class")
    found = sound_files(root)
    parts = _legible([(Path(file), Path(file).relative_to(root).parts) for file in found.files])
    if not parts:
        rest = "".join(f"; {remark}" for remark in found.remarks())
        raise ClipsError(f"no audio files found under {root} ({', '.join(sorted(AUDIO_SUFFIXES))}){rest}")
    has_splits = all(p[0] in SPLITS and len(p) > 2 for _, p in parts)
    mixed = [file for file, p in parts if p[0] in SPLITS and len(p) > 2]
    stray = [file for file, p in parts if len(p) < 2]
    if not as_classes and not has_splits:
        if mixed:
            other = next(file for file, _ in parts if file not in mixed)
            raise ClipsError(
                f"{root} has split folders ({mixed[0]}) and other files ({other}); "
                "put each file into train/CLASS, validation/CLASS or evaluation/CLASS, or none"
            )
        if not stray:
            _ask(root, [p for _, p in parts])
    if stray:
        raise ClipsError(f"{stray[0]} lies in no class folder; put each file into {root}/CLASS/")
    _tell(root, found, parts, has_splits)
    rows: list[dict[str, Any]] = []
    for file, p in parts:
        id = "/".join(p)
        label = tidy(p[1] if has_splits else p[0])
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

    Several labels stand in one field, separated by `;`, `|` or `,`; a comma that belongs to the name of a class, as in
    "Male speech, man speaking", separates none. Without clip_id, the path is the id (with the span, where there is
    one); without source, every path is its own. What psla does not use, and labels that differ by case only, are told
    in warnings.

    Args:
        csv_path: the file, UTF-8, with a head line.
        audio_root: what relative paths are relative to; None: the CSV's folder.
        vocabulary: None: the labels that occur, sorted; `audioset`; or a text file (see `open_vocabulary`).
        evaluation_share: without the column split, the share of each class that becomes the split evaluation, whole
            sources; 0 to below 1, 0: all clips are train.
        seed: chooses which.

    Raises:
        ClipsError: what `read_csv_file` refuses, no clips, a field that is not a number, a label that the vocabulary
            does not have, or what `Clips` refuses.

    Example:
        >>> clips = read_csv("clips.csv", audio_root="sounds", vocabulary="audioset")  # doctest: +SKIP
    """
    csv_path = Path(csv_path)
    base = csv_path.parent if audio_root is None else Path(audio_root)
    give = "give a CSV with the columns path and labels"
    file = read_csv_file(csv_path, ("path", "labels"), give, "save it as UTF-8 text with these columns")
    known = set(_names_with_commas(vocabulary))
    rows = [_row(line, base, f"{csv_path}, line {number}", known) for number, line in file.rows]
    if unused := [column for column in file.columns if column not in _CSV_COLUMNS]:
        warnings.warn(f"{csv_path}: columns that are not used: {few(unused)}", stacklevel=2)
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
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ClipsError(f"vocabulary {name!r} has {size:,} bytes, and a list of classes at most {MOST_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ClipsError(f"vocabulary {name!r} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    lines = [line.strip().partition("\t") for line in text.split("\n") if line.strip()]
    if not lines:
        raise ClipsError(f"vocabulary {name!r} has no classes; write a class a line")
    return Vocabulary([tidy(id) for id, _, _ in lines], [tidy(label) or tidy(id) for id, _, label in lines])


def _ask(root: Path, parts: list[tuple[str, ...]]) -> None:
    """Refuse folders that are hardly classes, with what they may be."""
    below: dict[str, set[str]] = {}
    for p in parts:
        below.setdefault(p[0], set()).add(p[1] if len(p) > 2 else "")
    names, deep = sorted(below), [name for name, inner in below.items() if "" not in inner]
    splits = [name for name in names if re.split(r"[-_ ]", name.casefold())[0] in _SPLIT_WORDS]
    meant = "if they are classes, say so: psla corpus folder --as-classes"
    if len(splits) > 1 and (splits == names or set(splits) <= set(deep)):
        raise ClipsError(
            f"{root}: are {few(splits)} splits? They are called so: rename them train, validation or evaluation, with "
            f"a folder for each class in each; or, {meant}"
        )
    if len(names) > 1 and all(_FOLD.fullmatch(name.casefold()) for name in names):
        raise ClipsError(
            f"{root}: are {few(names, 3)} folds? They are called so: put each file into a folder of its class, or list "
            f"the files in a CSV with the columns path, labels and source (psla corpus csv); or, {meant}"
        )
    inner = {frozenset(below[name]) for name in names}
    if deep == list(below) and len(inner) == 1 and len(common := sorted(*inner)) > 1:
        here = f"{root / names[0]}" if len(names) == 1 else f"one of {few(names, 3)}"
        raise ClipsError(
            f"{root}: are the classes one level below, in {here}? There is no sound beside the folders "
            f"{few(common, 4)}: give the folder that holds the class folders; or, {meant}"
        )


def _tell(root: Path, found: Found, parts: list[tuple[Path, tuple[str, ...]]], has_splits: bool) -> None:
    """Warn of what was left out, of class folders without sound, and of folders that are one class."""
    for remark in found.remarks():
        warnings.warn(f"{root}: {remark}", stacklevel=3)
    depth = 2 if has_splits else 1
    used = {p[:depth] for _, p in parts}
    for_splits = sorted({p[:1] for _, p in parts}) if has_splits else [()]
    there = [
        (*outer, entry.name)
        for outer in for_splits
        for entry in sorted(Path(root, *outer).iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    ]
    if without := [printable("/".join(each)) for each in there if each not in used]:
        warnings.warn(f"{root}: {len(without)} class folders hold no sound file: {few(without)}", stacklevel=3)
    spelled: dict[tuple[str, ...], list[str]] = {}
    for each in sorted(used):
        spelled.setdefault((*each[:-1], tidy(each[-1])), []).append("/".join(each))
    for names in spelled.values():
        if len(names) > 1:
            one = " and ".join(ascii(name) for name in names)
            warnings.warn(f"{root}: the folders {one} are one class: spaces or composed letters apart", stacklevel=3)


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


def _row(line: dict[str, str], base: Path, where: str, names: Collection[str]) -> dict[str, Any]:
    field = {key: value.strip() for key, value in line.items()}
    if not field["path"]:
        raise ClipsError(f"{where}: the path is empty; name a sound file")
    span: dict[str, float | None] = {}
    for column in ("start_s", "end_s"):
        text = field.get(column, "")
        try:
            span[column] = float(text) if text else None
        except ValueError as error:
            told = shortened(repr(text), 60)
            raise ClipsError(f"{where}: {column} is {told}, must be a number of seconds or empty") from error
    if re.match(r"""\[\s*["'].*["']\s*\]$""", field["labels"]):
        told = shortened(field["labels"], 60)
        raise ClipsError(f"{where}: the labels {told} are a list of a program; write the names alone, with ; between")
    path = field["path"]
    suffix = "".join(f"@{field[column]}" for column in span if field.get(column))
    return {
        "clip_id": field.get("clip_id") or path + suffix,
        "source": field.get("source") or path,
        "path": path if "://" in path else _file(base, path),
        **span,
        "split": field.get("split", "train"),
        "labels": [tidy(label) for part in re.split(r"[;|]", field["labels"]) for label in _labels(part, names)],
    }


def _file(base: Path, path: str) -> str:
    """The file that is meant; a path that was written on Windows is found where its folders are."""
    if "\\" in path and not (base / path).exists() and (base / path.replace("\\", "/")).exists():
        return str(base / path.replace("\\", "/"))
    return str(base / path)


def _labels(text: str, names: Collection[str]) -> list[str]:
    """The labels that stand between commas, but for commas that belong to these names (casefolded)."""
    parts, labels = [part.strip() for part in text.split(",")], []
    while parts:
        # The longest name that begins here.
        count = next((n for n in range(len(parts), 1, -1) if ", ".join(parts[:n]).casefold() in names), 1)
        labels.append(", ".join(parts[:count]))
        parts = parts[count:]
    return [label for label in labels if label]


def _names_with_commas(vocabulary: str | None) -> list[str]:
    """Names and ids of classes that hold commas: of the vocabulary, else of AudioSet."""
    classes = open_vocabulary(vocabulary or "audioset")
    spelled = (", ".join(part.strip() for part in text.split(",")) for c in classes for text in (c.id, c.name))
    return [text.casefold() for text in spelled if "," in text]


def tidy(label: str) -> str:
    """A label without white space at its ends, its letters composed: one text whatever the disk or the editor wrote.

    Example:
        >>> tidy("cafe\u0301 ") == "caf\u00e9"
        True
    """
    return unicodedata.normalize("NFC", label).strip()


def _labelled(rows: Sequence[dict[str, Any]], vocabulary: str | None, name: str) -> Clips:
    """The table, with labels given as class ids or names turned into ids."""
    labels = sorted({label for row in rows for label in row["labels"]})
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(" ".join(_SEEN_NOT.sub("", label).casefold().split()), []).append(label)
    if double := [each for each in alike.values() if len(each) > 1]:
        warnings.warn(
            f"{len(double)} classes are there in several spellings, which differ by case or spaces only, each a class "
            f"of its own; the first: {few(list(map(repr, double[0])))}; make them one if they are",
            stacklevel=3,
        )
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
