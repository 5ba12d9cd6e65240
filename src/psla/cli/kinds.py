"""What a file is that psla writes: by name of its kind, what that is in words, and whether a file that is there is one.

Told by the first bytes, or by the end of a Parquet file; no file is read as a whole, but for a PDF.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

_HEAD = 1 << 18  # bytes that tell what a file is
_MOST_HEADER = 1 << 26  # bytes of a header of tensors, or of a Parquet file's end


def is_kind(path: Path, kind: str) -> bool:
    """Whether a file looks as what psla writes of this kind; see `KINDS`."""
    try:
        return KINDS[kind][1](path)
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile):
        return False


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _begins(pattern: bytes) -> Callable[[Path], bool]:
    return lambda path: re.match(pattern, _head(path)) is not None


def _holds(*texts: bytes) -> Callable[[Path], bool]:
    return lambda path: any(text in _head(path) for text in texts)


def _parquet(key: bytes) -> Callable[[Path], bool]:
    """Whether a Parquet file has this key in the metadata at its end."""

    def check(path: Path) -> bool:
        with open(path, "rb") as file:
            length = file.seek(-8, os.SEEK_END) and int.from_bytes(file.read(4), "little")
            if file.read(4) != b"PAR1" or length > _MOST_HEADER:
                return False
            file.seek(-8 - length, os.SEEK_END)
            return key in file.read(length)

    return check


def _tensors(needed: set[str], unlike: str = "", metadata: str = "") -> Callable[[Path], bool]:
    """Whether a safetensors file has these tensors, not the other, and this key in its metadata."""

    def check(path: Path) -> bool:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= _MOST_HEADER else {}
        return needed <= header.keys() and unlike not in header and metadata in {*header.get("__metadata__", {}), ""}

    return check


def _embeddings(path: Path) -> bool:
    if path.suffix != ".npz":
        return _tensors({"clips", "steps", "offsets"})(path)
    with zipfile.ZipFile(path) as file:
        return {"clips.npy", "steps.npy", "offsets.npy"} <= set(file.namelist())


def _picture(path: Path) -> bool:
    return b"atplotlib" in (path.read_bytes() if path.suffix.lower() == ".pdf" else _head(path))


_ROWS = rb'\[\{"path"|\{"path"|\[\]\s*$|path,status,|[^\n]* \((?:\d+\.\d\d s[,)]|failed\)\n)|\d+\.\d{6}\t\d+\.\d{6}\t'
_MODEL = _tensors(set(), "probabilities", "psla")

KINDS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "clips": ("a table of clips", _parquet(b"psla_clips")),
    "headers": ("what was learnt of sound files", _parquet(b"psla_headers")),
    "model": ("a model file", _MODEL),
    "model or ensemble": ("a model file or an ensemble", lambda path: _MODEL(path) or _ensemble(path)),
    "predictions": ("predictions", _tensors({"probabilities", "clip_ids"}, metadata="psla")),
    "predictions or ensemble": (
        "predictions or an ensemble",
        lambda path: KINDS["predictions"][1](path) or _ensemble(path),
    ),
    "embeddings": ("embeddings", _embeddings),
    "rows": ("what psla tag says of files", _begins(_ROWS)),
    "journal": ("a journal of psla tag", _begins(rb'\{"[a-z0-9_]+": [^\n]*(?:\}\s*\n|$)')),
    "onnx": ("an exported model", lambda path: path.suffix == ".onnx" and _begins(rb"\x08")(path)),
    "matches": ("what psla find has found", _begins(rb"window,")),
    "picture": ("a picture by psla", _picture),
    "page": ("a page by psla", _holds(b"--ink:")),
    "scores": ("scores", _begins(rb'\{\s*"mean_average_precision"')),
    "fit": ("the report of a fit", _holds(b'"cross_validation"')),
    "inventory": ("an inventory", _begins(rb"\d+ of \d+ clips present")),
    "statistics": ("statistics of psla stats", _begins(rb'\{\s*"source"')),
    "difference": ("what psla enhance changed", _holds(b'"labels_added"')),
    "environment": ("the environment of a run", _begins(rb'\{\s*"python"')),
    "json": ("JSON", _begins(rb"\s*\{")),
}
"""By name: what it is in words, and whether a file that is there is one."""


def _ensemble(path: Path) -> bool:
    return path.suffix == ".json" and b'"members"' in _head(path) and b'"format"' in _head(path)
