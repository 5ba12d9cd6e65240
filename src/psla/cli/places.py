"""Where commands read and write: what each parameter that may hold a path is, and one check of all before any work.

    clips: Annotated[Path, typer.Argument(help="..."), READ]
    out: Annotated[Path, typer.Option(help="..."), Writes("predictions")]

An output is refused if it is an input, by whatever name, or another output; if it cannot be written; or if something
stands there that psla did not write, told by its first bytes. So what is on the disk before a command is there after
it, but for what psla wrote itself. Inputs that have no end, such as named pipes, are refused, too. Of addresses of
storage it is only seen that no output is an input; the rest is in `psla.cli.addresses`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from psla.cli.kinds import KINDS, is_kind
from psla.files import not_a_file

_BESIDE = 14  # characters that a temporary file's name has more than its target's, see `atomic_write`
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+([^/].*)", re.S)


class PlaceError(ValueError):
    """A place that a command must not write to, or cannot read from."""


@dataclass(frozen=True)
class Reads:
    """A path, several, or words that may be paths (`key=path`, `a.yaml,b.yaml`), that are read.

    endless: whether what has no end is taken, too, such as a named pipe.
    fetched: an address of storage is fetched before the command begins, which then reads the copy.
    addresses: the command reads addresses by itself. With neither, an address is refused.
    """

    endless: bool = False
    fetched: bool = False
    addresses: bool = False


@dataclass(frozen=True)
class Updates:
    """A folder of psla's own that the command reads and adds to, such as a run: neither an input nor a new output."""


@dataclass(frozen=True)
class Writes:
    """A file of one of these kinds (`KINDS`), or a folder.

    beside: what is written beside a file, by what its name ends in in place of the file's own suffix, and its kind.
    names: of a folder, what is written there by name; marker: that of these which is written first, and its kind: where
    one of the names is there without it, psla did not write that.
    addresses: the command writes to addresses of storage by itself; else a file is sent when it is whole, and a folder
    is refused. alone: parameters beside which a file, too, must be on this machine.
    """

    kind: str = ""
    folder: bool = False
    beside: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = ()
    marker: tuple[str, str] = ("", "")
    addresses: bool = False
    alone: tuple[str, ...] = ()


Mark = Reads | Updates | Writes
READ = Reads()
FETCHED = Reads(fetched=True)
ADDRESSED = Reads(addresses=True)
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
    for name, option, mark in marked(command):
        if isinstance(mark, Reads):
            found = [(option, path) for path in paths_in(given.get(name))]
            if not mark.endless:
                _refuse_endless(found)
            inputs += found
        elif isinstance(mark, Writes) and given.get(name) is not None:
            outputs.append((option, Path(given[name]), mark))
    for number, (option, path, mark) in enumerate(outputs):
        if is_address(path):
            _refuse_input(option, path, inputs)
        else:
            check_output(option, path, mark, inputs)
        for other, its_path, _ in outputs[:number]:
            if os.path.realpath(path) == os.path.realpath(its_path):
                shown = as_typed(path)
                raise PlaceError(f"{option} {shown} is where {other} writes, too: give each a place of its own")


def marked(command: Callable[..., Any]) -> Iterator[tuple[str, str, Mark]]:
    """The parameters of a command that may hold a path: by name, as typed, and what is done there."""
    for name, hint in get_type_hints(command, include_extras=True).items():
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, Mark):
                yield name, _typed(command, name, hint), mark


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as an address, of storage that psla knows or of other: `scheme://...`, of which a Path
    has lost a slash; of other only where there is no folder of that name.

    Example:
        >>> is_address(Path("s3://bucket/a")), is_address("az://a"), is_address("a/b"), is_address("a=s3://b/c")
        (True, True, False, False)
    """
    if (found := _ADDRESS.fullmatch(os.fspath(path))) is None:
        return False
    from psla.remote import SCHEMES

    return found[1] in SCHEMES or not os.path.lexists(f"{found[1]}:")


def written(command: Callable[..., Any], given: Mapping[str, Any]) -> dict[Path, tuple[int, int]]:
    """What stands at the places of a call's output files, with its number on the disk and its time of change."""
    found = {}
    for name, _, mark in marked(command):
        if given.get(name) is not None and isinstance(mark, Writes):
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
            shown, other = as_typed(path), as_typed(each)
            as_what = "" if shown == other else f" (there it is {other})"
            raise PlaceError(
                f"{option} {shown} is an input of this command, {its_option}{as_what}: it would be overwritten; give "
                "another name"
            )


def as_typed(path: str | os.PathLike[str]) -> str:
    """A path as text; of an address with both slashes.

    Example:
        >>> as_typed(Path("s3://bucket/a")), as_typed(Path("a/b"))
        ('s3://bucket/a', 'a/b')
    """
    return _ADDRESS.sub(r"\1://\2", os.fspath(path), 1) if is_address(path) else os.fspath(path)


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


def paths_in(value: Any) -> Iterator[str]:
    """The paths among what was given, there or not; of words only those that are there, and addresses."""
    if isinstance(value, Path):
        yield os.fspath(value)
    elif isinstance(value, str):
        for word in dict.fromkeys([value, value.partition("=")[2], *value.split(",")]):
            if word.strip() and (os.path.lexists(word.strip()) or is_address(word.strip())):
                yield word.strip()
    elif isinstance(value, list | tuple):
        for each in value:
            yield from paths_in(each)


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
