"""Addresses of storage (`psla.remote`) for commands that know files alone: what they read is fetched first, what they
write is sent when it is whole.

    psla evaluate s3://bucket/p.safetensors --clips s3://bucket/clips.parquet --out s3://bucket/scores.json

Before any work: may the parameter be an address at all, does the storage take a file there, does something of another
kind stand there. Then the command writes into a temporary folder ($TMPDIR). When it has ended, what stands beside a
file is sent, and the file itself last; a command that fails sends nothing, and a sending that fails loses nothing. What
handles addresses by itself says so in its mark (`addresses=True`). Not here: folders, which have no last file, and
journals, which grow.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from psla.cli.kinds import KINDS, is_kind
from psla.cli.places import (
    Mark,
    PlaceError,
    Reads,
    Updates,
    Writes,
    as_typed,
    check_output,
    is_address,
    marked,
    paths_in,
)

T = TypeVar("T")

_COPY = "give a folder here, and copy it there when it is done"
_FILE = "give a file here, and copy it there when it is done"
_SENT = ("s3", "gs", "memory")  # schemes that can be written
_names: dict[str, str] = {}  # of the present call: texts in local paths, and what stands for them in addresses


class NotSent(ValueError):
    """Storage that does not take what a command has made; the sentence says where that lies."""


def said(what: T) -> T:
    """A text, or plain data, in which files that stand for addresses have the names that the user gave."""
    if not _names:
        return what
    if isinstance(what, str):
        text: str = what
        for local, address in _names.items():
            text = text.replace(local, address)
        return text  # type: ignore[return-value]
    if isinstance(what, dict):
        return {said(key): said(value) for key, value in what.items()}  # type: ignore[return-value]
    if isinstance(what, list | tuple):
        return [said(each) for each in what]  # type: ignore[return-value]
    return what


def stands_for(path: Path) -> str | None:
    """The address that a local file stands for in this call; None: none."""
    given = said(os.fspath(path))
    return None if given == os.fspath(path) else given


def forget() -> None:
    """The call has ended: local files have their own names again."""
    _names.clear()


def refuse_addresses(command: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse addresses where a call cannot take them; no storage is asked.

    Raises:
        PlaceError: the sentence names option, address, rule and mend.
    """
    for name, option, mark in marked(command):
        for path in paths_in(given.get(name)):
            if not is_address(path):
                continue
            if path != as_typed(path):  # a Path has lost a slash
                _names[path] = as_typed(path)
            if why := _refused(Path(path), mark, given):
                raise PlaceError(f"{option} {as_typed(path)}: {why}")


def _refused(path: Path, mark: Mark, given: Mapping[str, Any]) -> str:
    """The rule and the mend; empty: it may be an address."""
    from psla.remote import SCHEMES

    scheme = as_typed(path).partition("://")[0]
    if isinstance(mark, Updates):
        return "this folder is read and added to, which needs a folder here; copy it here, and back when it is done"
    if isinstance(mark, Reads):
        if mark.addresses:
            return ""
        if scheme not in SCHEMES:
            return f"an address begins with one of {', '.join(f'{each}://' for each in SCHEMES)}; or give a path here"
        return "" if mark.fetched else "this is read from this machine only; copy it here, and give that"
    if scheme not in _SENT:
        kind = "can only be read" if scheme in SCHEMES else "is of no storage that is known"
        return f"this address {kind}; write to {', '.join(f'{each}://' for each in _SENT)}, or to a path here"
    if mark.addresses:
        return ""
    if mark.kind == "journal":
        return f"a journal grows line by line, and storage at an address takes whole files; {_FILE}"
    if not mark.kind or (mark.folder and not path.suffix):
        return f"a folder is written here, and storage at an address takes single files; {_COPY}"
    if "ensemble" in mark.kind and path.suffix == ".json":
        return f"an ensemble has its members beside it, and storage at an address takes single files; {_COPY}"
    if beside := next((each for each in mark.alone if given.get(each) is not None), None):
        return f"with --{beside} further files are kept beside it, which needs a folder; {_FILE}"
    return ""


@dataclass(frozen=True)
class _Output:
    """A file that is to be sent: where the command writes it, and where it goes."""

    option: str
    address: str
    local: Path
    mark: Writes

    def files(self) -> list[tuple[Path, str, str]]:
        """Where each file is written, where it goes, and its kind; that which says that all is there comes last."""
        beside = [(self.local.with_suffix(ending), kind) for ending, kind in self.mark.beside]
        below = self.address.rpartition("/")[0]
        return [(file, f"{below}/{file.name}", kind) for file, kind in (*beside, (self.local, self.mark.kind))]


@contextmanager
def on_this_machine(command: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """For the block, local paths of the parameters that are addresses, by name; at its end outputs are sent.

    `refuse_addresses` and `check_places` have come before. A block that ends with `typer.Exit`, or because
    nobody reads its answer any more, has done its work: what it has written is whole.

    Raises:
        PlaceError: something of another kind, or a folder, stands at an address, or nothing can be written there.
        RemoteError: storage that fails before the work. NotSent: after it.
    """
    marks = {name: (option, mark) for name, option, mark in marked(command)}
    away = [name for name, (_, mark) in marks.items() if _is_sent(given.get(name), mark)]
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="psla-out-"))) if away else None
    sending = False
    ended: BaseException | None = None
    try:
        outputs = [] if folder is None else [_output(folder / name, given[name], *marks[name]) for name in away]
        for output in outputs:
            check_output(output.option, output.local, output.mark, [])
            _check_there(output)
        moved: dict[str, Any] = {output.local.parent.name: output.local for output in outputs}
        for name, (option, mark) in marks.items():
            if isinstance(mark, Reads) and mark.fetched:
                moved |= _fetched(option, name, given.get(name))
        try:
            yield moved
        except (typer.Exit, BrokenPipeError) as error:
            ended = error
        sending = True
        _send(outputs)
        sending = False
        if ended is not None:
            raise ended
    finally:
        if folder is not None and not sending:
            shutil.rmtree(folder)


def _is_sent(value: Any, mark: Mark) -> bool:
    return isinstance(mark, Writes) and not mark.addresses and value is not None and is_address(value)


def _output(folder: Path, value: Path, option: str, mark: Mark) -> _Output:
    assert isinstance(mark, Writes)
    folder.mkdir()
    below, _, name = as_typed(value).rpartition("/")
    _names[f"{folder}/"] = f"{below}/"
    return _Output(option, as_typed(value), folder / name, replace(mark, folder=False))


def _check_there(output: _Output) -> None:
    """Refuse an address at which something of another kind stands, or where nothing can be written."""
    from psla import remote
    from psla.download import offline

    option, address = output.option, output.address
    if offline() and not address.startswith("memory:"):
        raise PlaceError(
            f"{option} {address}: no server is asked while PSLA_OFFLINE is set; unset it, or give a file here"
        )
    for _, at, kind in output.files():
        found = _found(at)
        if found["type"] == "directory":
            raise PlaceError(f"{at} is a folder; give {option} the name of a file, such as {at}/NAME")
        if found["size"] and not _is_kind_there(at, kind):
            raise PlaceError(
                f"{option} {at} is there already and is not {KINDS[kind][0]}, which is written here: "
                "give another name, or move it away"
            )
    try:
        remote.write(f"{address}.begun", b"psla")
        remote.remove(f"{address}.begun")
    except remote.RemoteError as error:
        raise PlaceError(f"{option} {address} cannot be written, which a small object showed: {error}") from error


def _found(address: str) -> dict[str, Any]:
    """What storage says of an object: its `type` and `size`; where there is none, an empty type and no bytes."""
    from psla import remote

    with remote.reached(address) as system:
        system.invalidate_cache()
        try:
            found: dict[str, Any] = system.info(address)
        except FileNotFoundError:
            found = {"type": "", "size": 0}
    return found


def _is_kind_there(address: str, kind: str) -> bool:
    from psla import remote

    with tempfile.TemporaryDirectory(prefix="psla-there-") as folder:
        copy = Path(folder) / address.rpartition("/")[2]
        with remote.reached(address) as system:
            system.get_file(address, os.fspath(copy))
        return is_kind(copy, kind)


def _fetched(option: str, name: str, value: Any) -> dict[str, Any]:
    """The parameter with copies in the cache in place of addresses; nothing where it has none."""

    def here(each: Any) -> Any:
        if each is None or not is_address(each):
            return each
        from psla import remote

        address = as_typed(each)
        if _found(address)["type"] == "directory":
            raise PlaceError(f"{option} {address} is a folder; copy it here, and give that")
        copy = remote.fetched(address)
        _names[f"{copy.parent}/"] = address.rpartition("/")[0] + "/"
        return type(each)(copy) if isinstance(each, str) else copy

    found = [here(each) for each in value] if isinstance(value, list) else here(value)
    return {} if found == value else {name: found}


def _send(outputs: list[_Output]) -> None:
    """Send what was written; each file goes when it has arrived.

    Raises:
        NotSent: the storage does not take one; what has not been sent stays. Whatever else ends it says so in a note.
    """
    from psla import remote

    left = [(file, address) for output in outputs for file, address, _ in output.files() if file.is_file()]
    sent: list[str] = []
    try:
        for file, address in left:
            remote.write(address, file)
            sent.append(address)
            file.unlink()
    except BaseException as error:
        forget()  # from here on files have their own names
        kept = [f"{file} is kept: copy it to {address}" for file, address in left[len(sent) :]]
        if isinstance(error, remote.RemoteError):
            raise NotSent("; ".join([str(error), *kept])) from error
        for note in (*(f"{address} is written" for address in sent), *kept):
            error.add_note(note)
        raise
