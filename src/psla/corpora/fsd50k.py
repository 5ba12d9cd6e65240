"""FSD50K: 51,197 recordings of 0.3 to 30 s from Freesound in 200 classes of AudioSet's graph.

    root/FSD50K.dev_audio/FNAME.wav    root/FSD50K.ground_truth/dev.csv    fname,labels,mids,split
    root/FSD50K.eval_audio/FNAME.wav   root/FSD50K.ground_truth/eval.csv   fname,labels,mids
    root/FSD50K.metadata/dev_clips_info_FSD50K.json, eval_clips_info_FSD50K.json   (optional: who uploaded what)

Source: E. Fonseca, X. Favory, J. Pons, F. Font and X. Serra, FSD50K: an Open Dataset of Human-Labeled Sound Events,
IEEE/ACM TASLP 30, 2022, https://arxiv.org/abs/2010.00475. The layout is the published one, unpacked. The labels are
used as published, with all ancestors. Nothing is downloaded here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from psla.audio.decode import AUDIO_SUFFIXES
from psla.corpora.csv_files import read_csv_file
from psla.data.clips import Clips, ClipsError
from psla.data.inventory import only_present
from psla.data.vocabulary import Vocabulary

FACTS = {
    "name": "FSD50K",
    "source": "https://doi.org/10.5281/zenodo.4060432",
    "licence": "CC BY 4.0 (the collection); each clip its own: CC0, CC BY, CC BY-NC or CC Sampling+ (in its metadata)",
    "citation": "E. Fonseca, X. Favory, J. Pons, F. Font and X. Serra. FSD50K: an Open Dataset of Human-Labeled Sound "
    "Events. IEEE/ACM Transactions on Audio, Speech, and Language Processing 30, 2022. "
    "https://doi.org/10.1109/TASLP.2021.3133208",
    "checksums": {  # MD5 of the published archives
        "FSD50K.dev_audio.zip": "c480d119b8f7a7e32fdb58f3ea4d6c5a",
        "FSD50K.dev_audio.z01": "faa7cf4cc076fc34a44a479a5ed862a3",
        "FSD50K.dev_audio.z02": "8f9b66153e68571164fb1315d00bc7bc",
        "FSD50K.dev_audio.z03": "1196ef47d267a993d30fa98af54b7159",
        "FSD50K.dev_audio.z04": "d088ac4e11ba53daf9f7574c11cccac9",
        "FSD50K.dev_audio.z05": "81356521aa159accd3c35de22da28c7f",
        "FSD50K.eval_audio.zip": "6fa47636c3a3ad5c7dfeba99f2637982",
        "FSD50K.eval_audio.z01": "3090670eaeecc013ca1ff84fe4442aeb",
        "FSD50K.ground_truth.zip": "ca27382c195e37d2269c4c866dd73485",
        "FSD50K.metadata.zip": "b9ea0c829a411c1d42adb9da539ed237",
        "FSD50K.doc.zip": "3516162b82dc2945d3e7feba0904e800",
    },
}
_COLUMNS = {"dev": ("fname", "labels", "mids", "split"), "eval": ("fname", "labels", "mids")}
_SPLITS = {"train": "train", "val": "validation"}


def read(root: str | os.PathLike[str]) -> Clips:
    """The clips of FSD50K whose sound files are there; a warning counts those that are not.

    Raises:
        ClipsError: as `listed`, or no sound file at all.

    Example:
        >>> read("FSD50K").counts()  # doctest: +SKIP
        {'train': 36796, 'validation': 4170, 'evaluation': 10231}
    """
    return only_present(listed(root), os.fspath(root))


def listed(root: str | os.PathLike[str]) -> Clips:
    """All clips of the ground truth, there or not: dev as train and validation, eval as evaluation.

    `clip_id` is the Freesound id; `source` the uploader where the metadata are there (one person's recordings resemble
    each other), else the clip. `path` is the .wav file, or a file of the same name in another format.

    Raises:
        ClipsError: no ground truth, a column missing from it, a split other than train and val, a class id that is none
            of the 200, or a clip that is listed twice; the sentence names file and line.
    """
    root = Path(root)
    if not root.is_dir():
        raise ClipsError(f"FSD50K: {root} is not a folder; give the folder that holds FSD50K.ground_truth")
    rows: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for part in ("dev", "eval"):
        uploaders = _uploaders(root, part)
        folder = root / f"FSD50K.{part}_audio"
        names = _sound_files(folder)
        for where, line in _lines(root / "FSD50K.ground_truth" / f"{part}.csv", part):
            id = line["fname"]
            if id in first:
                raise ClipsError(f"FSD50K: clip {id!r} is listed twice, {first[id]} and {where}; drop one of the lines")
            first[id] = where
            rows.append(
                {
                    "clip_id": id,
                    "source": f"uploader {uploaders[id]}" if id in uploaders else id,
                    "path": str(folder / names.get(id, f"{id}.wav")),
                    "split": _SPLITS[line["split"]] if part == "dev" else "evaluation",
                    "labels": line["mids"].split(","),
                }
            )
    return Clips.from_rows(rows, Vocabulary.fsd50k(), "FSD50K")


def _lines(path: Path, part: str) -> list[tuple[str, dict[str, str]]]:
    """Each line of a ground-truth CSV with its place, checked."""
    columns, classes = _COLUMNS[part], Vocabulary.fsd50k()
    unpack = "unpack FSD50K.ground_truth.zip there"
    lines = []
    for number, line in read_csv_file(path, columns, unpack, "unpack the ground truth again", "FSD50K").rows:
        where = f"{path.name}, line {number}"
        if not all(line[column] for column in columns):
            raise ClipsError(f"FSD50K: {where} has too few fields; it needs {','.join(columns)}")
        if part == "dev" and line["split"] not in _SPLITS:
            raise ClipsError(f"FSD50K: {where} has the split {line['split']!r}; it must be train or val")
        if unknown := [id for id in line["mids"].split(",") if id not in classes]:
            raise ClipsError(f"FSD50K: {where} has the class id {unknown[0]!r}, which is none of the 200")
        lines.append((where, line))
    return lines


def _uploaders(root: Path, part: str) -> dict[str, str]:
    """Who uploaded which clip; empty where the metadata have not been unpacked."""
    path = root / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json"
    if not path.is_file():
        return {}
    try:
        return {id: str(info["uploader"]) for id, info in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ClipsError(
            f"FSD50K: {path} does not say who uploaded each clip ({type(error).__name__}: {error}); unpack "
            "FSD50K.metadata.zip again, or move the folder away to take each clip for its own source"
        ) from error


def _sound_files(folder: Path) -> dict[str, str]:
    """Sound files by name without suffix; .wav before what somebody converted."""
    if not folder.is_dir():
        return {}
    names = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES)
    return {os.path.splitext(name)[0]: name for name in names}  # the last one stays, and .wav is last in the alphabet
