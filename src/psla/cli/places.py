"""Where commands read and write: what each parameter that may hold a path is, and one check of all before any work.

    clips: Annotated[Path, typer.Argument(help="..."), READ]
    out: Annotated[Path, typer.Option(help="..."), Writes("predictions")]

An output is refused if it is an input, by whatever name, or another output; if it cannot be written; or if something
stands there that psla did not write, told by its first bytes. So what is on the disk before a command is there after
it, but for what psla wrote itself. Inputs that have no end, such as named pipes, are refused, too.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from psla.files import not_a_file

_BESIDE = 14  # characters that a temporary file's name has more than its target's, see `atomic_write`
_HEAD = 1 << 18  # bytes that tell what a file is
_MOST_HEADER = 1 << 26  # bytes of a header of tensors, or of a Parquet file's end


class PlaceError(ValueError):
    """A place that a command must not write to, or cannot read from."""


@dataclass(frozen=True)
class Reads:
    """A path, several, or words that may be paths (`key=path`, `a.yaml,b.yaml`), that are read.

    endless: whether what has no end is taken, too, such as a named pipe.
    """

    endless: bool = False


@dataclass(frozen=True)
class Updates:
    """A folder of psla's own that the command reads and adds to, such as a run: neither an input nor a new output."""


@dataclass(frozen=True)
class Writes:
    """A file of one of these kinds (`KINDS`), or a folder.

    beside: what is written beside a file, by what its name ends in in place of the file's own suffix, and its kind.
    names: of a folder, what is written there by name; marker: that of these which is written first, and its kind: where
    one of the names is there without it, psla did not write that.
    """

    kind: str = ""
    folder: bool = False
    beside: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = ()
    marker: tuple[str, str] = ("", "")


READ = Reads()
Input = tuple[str, str]  # the parameter's name as typed, the path


def check_places(command: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse what a call of a command must not write, before anything is done.

    Args:
        command: a function whose parameters are annotated as the module's head says.
        given: the arguments, by name.

    Raises:
        PlaceError: see there; the sentence names the option, the path and the mend.
    """
    inputs: list[Input] = []
    outputs: list[tuple[str, Path, Writes]] = []
    for name, hint in get_type_hints(command, include_extras=True).items():
        for mark in getattr(hint, "__metadata__", ()):
            option = _typed(command, name, hint)
            if isinstance(mark, Reads):
                found = [(option, path) for path in _paths(given.get(name))]
                if not mark.endless:
                    _refuse_endless(found)
                inputs += found
            elif isinstance(mark, Writes) and given.get(name) is not None:
                outputs.append((option, Path(given[name]), mark))
    for number, (option, path, mark) in enumerate(outputs):
        check_output(option, path, mark, inputs)
        for other, its_path, _ in outputs[:number]:
            if os.path.realpath(path) == os.path.realpath(its_path):
                raise PlaceError(f"{option} {path} is where {other} writes, too: give each a place of its own")


def written(command: Callable[..., Any], given: Mapping[str, Any]) -> dict[Path, tuple[int, int]]:
    """What stands at the places of a call's output files, with its number on the disk and its time of change."""
    found = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        if given.get(name) is not None and any(isinstance(mark, Writes) for mark in getattr(hint, "__metadata__", ())):
            path = Path(given[name])
            with contextlib.suppress(OSError):
                if path.is_file():
                    found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def check_output(option: str, path: Path, mark: Writes, inputs: list[Input]) -> None:
    """Refuse one output; see `check_places`."""
    _check_target(option, path, mark, inputs)
    for ending, kind in mark.beside:
        _check_target(option, path.with_suffix(ending), Writes(kind), inputs)
    for name in mark.names:
        _refuse_input(option, path / name, inputs)
    there = [name for name in mark.names if os.path.lexists(path / name)]
    marker, kind = mark.marker
    known = os.path.isfile(path / marker) and is_kind(path / marker, kind)
    if there and not known and not _is_helper():
        raise PlaceError(f"{option} {path} holds {there[0]}, which psla did not write there: give another folder")


def _is_helper() -> bool:
    """Whether this is a further process of a training, whose first has checked the folder and may be writing there."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    return {rank, os.environ.get("LOCAL_RANK", "0"), os.environ.get("NODE_RANK", "0")} != {"0"}


def _check_target(option: str, path: Path, mark: Writes, inputs: list[Input]) -> None:
    if path.is_dir() and not mark.folder:
        raise PlaceError(f"{path} is a folder; give {option} the name of a file, such as {path / 'NAME'}")
    _refuse_input(option, path, inputs)
    if os.path.lexists(path) and not path.is_dir():
        _check_standing(option, path, mark, inputs)
    _check_writable(option, path)


def _check_standing(option: str, path: Path, mark: Writes, inputs: list[Input]) -> None:
    """Refuse what stands at the place of an output, if it is no file, or none that psla wrote there."""
    kind = not_a_file(path)
    if not mark.kind:
        raise PlaceError(f"{option} {path} is {kind or 'a file'}: give a folder, new or psla's own")
    if kind is not None:
        raise PlaceError(f"{option} {path} is {kind}: give the name of a file")
    if not path.exists() or not path.stat().st_size:
        return
    if not os.access(path, os.W_OK):
        raise PlaceError(f"{option} {path} must not be written (its permissions): give another name")
    if not is_kind(path, mark.kind):
        raise PlaceError(
            f"{option} {path} is there already and is not {KINDS[mark.kind][0]}, which is written here: "
            "give another name, or move it away"
        )
    if mark.kind in ("model", "predictions") and (holder := _holder(path, inputs)) is not None:
        raise PlaceError(f"{option} {path} lies in {holder}, which this command reads: give another name")


def _refuse_input(option: str, path: Path, inputs: list[Input]) -> None:
    for its_option, each in inputs:
        if _same(path, each):
            as_what = "" if os.fspath(path) == each else f" (there it is {each})"
            raise PlaceError(
                f"{option} {path} is an input of this command, {its_option}{as_what}: it would be overwritten; give "
                "another name"
            )


def _same(path: Path, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)


def _holder(path: Path, inputs: list[Input]) -> str | None:
    """The folder among the inputs that a file lies in."""
    parents = Path(os.path.realpath(path)).parents
    return next((each for _, each in inputs if os.path.isdir(each) and Path(os.path.realpath(each)) in parents), None)


def _check_writable(option: str, path: Path) -> None:
    """Try the folder that is there, or that the new ones would be made in; nothing is left of the trial."""
    folder = Path(os.path.abspath(path))
    new = [folder.name]
    while not os.path.lexists(folder := folder.parent):
        new.append(folder.name)
    try:
        with tempfile.TemporaryFile(dir=folder):
            longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    except OSError as error:
        reason = error.strerror or str(error)
        raise PlaceError(f"cannot write into {path.parent} ({reason}); give another {option}") from error
    if any(len(os.fsencode(name)) + _BESIDE > longest for name in new):
        raise PlaceError(f"{option} {path}: a name of more than {longest - _BESIDE} bytes is too long here")


def _refuse_endless(inputs: list[Input]) -> None:
    for option, path in inputs:
        if (kind := not_a_file(path)) is not None and not os.path.isdir(path):
            raise PlaceError(f"{option} {path} is {kind}: nobody knows where it ends; save it to a file first")


def _paths(value: Any) -> Iterator[str]:
    """The paths among what was given, there or not; of words only those that are there."""
    if isinstance(value, Path):
        yield os.fspath(value)
    elif isinstance(value, str):
        for word in dict.fromkeys([value, value.partition("=")[2], *value.split(",")]):
            if word.strip() and os.path.lexists(word.strip()):
                yield word.strip()
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each)


def _typed(command: Callable[..., Any], name: str, hint: Any) -> str:
    """What the user calls a parameter."""
    for each in getattr(hint, "__metadata__", ()):
        if type(each).__name__ == "ArgumentInfo":
            return (each.metavar or name).upper()
        # Where it is an annotation, Typer takes the first of them for the default until it is asked.
        texts = (getattr(each, "default", None), *(getattr(each, "param_decls", None) or ()))
        if declared := [text for text in texts if isinstance(text, str) and text.startswith("--")]:
            return declared[0].partition("/")[0]
    return "--" + name.strip("_").replace("_", "-")


def arguments(command: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, defaults among them."""
    bound = inspect.signature(command).bind_partial(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


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
