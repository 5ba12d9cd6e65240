"""Downloads that resume, and the folder they are kept in.

Bytes arrive in `path` + ".part"; the file takes its name when it is whole. A part is gone on with where something
proves that the rest belongs to it: a checksum that the caller knows, or the server's word that its file is still the
one of the first part (`If-Range`, RFC 9110 section 13.1.5). Of several processes that want the same file one downloads
it and the others wait (`psla.files.alone`).

Beside this one, `psla.remote` and `psla.weights.hub` ask the servers of the addresses that a user names; none of them
does while `$PSLA_OFFLINE` is set to more than 0. Not covered: a server that spells out its headers for hours, and a
file that ends early without a length or a checksum.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from psla.files import alone, rename_synced, sha256_of, write_json_atomic

_CHUNK = 1 << 20  # bytes
# What writing to a disk can end in without the name of a file in the error; a network ends in none of these.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Progress = Callable[[int, int | None], None]


class DownloadError(OSError):
    """A download that failed; the message says what to fetch by hand and where to put it, or what cannot be written."""


def offline() -> bool:
    """Whether `$PSLA_OFFLINE` forbids to ask any server."""
    return os.environ.get("PSLA_OFFLINE", "") not in ("", "0")


def cache_folder() -> Path:
    """Where downloads are kept: `$PSLA_CACHE`, or `~/.cache/psla`. The folder may not exist yet."""
    chosen = os.environ.get("PSLA_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "psla"


def download(
    url: str,
    path: str | os.PathLike[str],
    sha256_prefix: str | None = None,
    progress: Progress = lambda received, total: None,
    stall_s: float = 30.0,
    stall_bytes: int = 30_000,
) -> Path:
    """Fetches `url` to `path` and returns the path. A file that is there already and has the checksum is kept.

    An interrupted download resumes at the next call; see the module's head for when it starts again instead.

    Args:
        url: what to fetch: http, https or file.
        path: the target; its folder is made if it is missing.
        sha256_prefix: the first hex digits of the SHA-256, as the file names of torch weights carry (8) or all 64.
        progress: told the bytes that are there so far, and their total where the server says it.
        stall_s: seconds without a byte before a download gives up, above 0; also the time of `stall_bytes`.
        stall_bytes: a body of which fewer bytes than these come in `stall_s` seconds is given up.

    Raises:
        DownloadError: the server cannot be reached, refuses, stalls, stops early, or sends a file with another
            checksum; `PSLA_OFFLINE` is set; the target cannot be written.
        ValueError: a prefix that is not 1 to 64 hex digits.
    """
    prefix = None if sha256_prefix is None else sha256_prefix.lower()
    if prefix is not None and (not 1 <= len(prefix) <= 64 or set(prefix) - set("0123456789abcdef")):
        raise ValueError(f"sha256_prefix must be 1 to 64 hex digits, not {sha256_prefix!r}")
    target = Path(path)

    def there() -> bool:
        return target.is_file() and (prefix is None or sha256_of(target).startswith(prefix))

    if there():
        _clear(target)
        return target
    if offline():
        raise DownloadError(_by_hand(url, target, "PSLA_OFFLINE is set"))
    part = target.with_name(target.name + ".part")
    try:
        with alone(target):
            if not there():  # another process may have fetched it meanwhile
                _fetch_whole(url, part, prefix, progress, (stall_s, stall_bytes))
                rename_synced(part, target)
                _note(part).unlink(missing_ok=True)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and _of_disk(error):
            raise cannot_write(target, error) from error
        silent = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
        reason = f"no byte came in {stall_s:g} s" if silent else str(error) or type(error).__name__
        raise DownloadError(_by_hand(url, target, reason)) from error
    return target


def _clear(target: Path) -> None:
    """Removes what a process left that was killed when the file had just been whole: its door and its notes."""
    door, part = target.with_name(target.name + ".lock"), target.with_name(target.name + ".part")
    if door.exists() or _note(part).exists():
        with contextlib.suppress(OSError), alone(target):  # a cache that may be another's, to read only
            _note(part).unlink(missing_ok=True)
            part.unlink(missing_ok=True)


def _of_disk(error: OSError) -> bool:
    # A URLError may have a filename, too, which is the address.
    return not isinstance(error, urllib.error.URLError) and (error.errno in _DISK or error.filename is not None)


def cannot_write(target: Path, error: OSError) -> DownloadError:
    """The sentence about a file that the disk does not take."""
    mend = "make room or give the right to write there, or choose another folder (for what is cached: PSLA_CACHE)"
    return DownloadError(f"cannot write {target} ({error.strerror or error}: {error.filename or target}): {mend}")


def _fetch_whole(url: str, part: Path, prefix: str | None, progress: Progress, stall: tuple[float, int]) -> None:
    """Makes `part` the whole file, of what it is already or anew; what has another checksum is removed."""
    begin = part.stat().st_size if part.is_file() and (prefix is not None or _validator(part, url)) else 0
    whole = _fetch(url, part, begin, progress, stall)
    # A part left over from another version of the file: once more, from the beginning.
    if begin and (not whole if prefix is None else not sha256_of(part).startswith(prefix)):
        _fetch(url, part, 0, progress, stall)
    if prefix is not None and not (found := sha256_of(part)).startswith(prefix):
        part.unlink()
        _note(part).unlink(missing_ok=True)
        raise OSError(f"its SHA-256 begins with {found[: len(prefix)]}, not {prefix}")


def _fetch(url: str, part: Path, begin: int, progress: Progress, stall: tuple[float, int]) -> bool:
    """Appends to `part` from byte `begin` on, or writes it anew when the server does not resume.

    `stall`: seconds, and how many bytes must come in them at least.

    False if the server has nothing to append: the part was complete already, or is stale.
    """
    headers = {"Range": f"bytes={begin}-"} if begin else {}
    known = _validator(part, url) if begin else None
    if known:
        headers["If-Range"] = known
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=stall[0]) as response:
            content_range = response.headers.get("Content-Range") or ""
            validator = _strong_validator(response.headers)
            if response.status == 206 and not content_range.startswith(f"bytes {begin}-"):
                raise OSError(f"the server sent {content_range!r} where byte {begin} and what follows was asked")
            if response.status == 206 and known and validator not in (None, known):
                return False  # a server that knows Range but not If-Range
            if response.status != 206:
                begin = 0
            if not begin:
                _keep_validator(part, url, validator)
            length = response.headers.get("Content-Length")
            total = None if length is None else begin + int(length)
            received = begin
            with open(part, "ab" if begin else "wb") as file:
                progress(received, total)
                since, before = time.monotonic(), received
                # `read1` gives what is there; `read` would wait for all of so many, and no stall would be seen.
                while chunk := response.read1(_CHUNK - (received - begin) % _CHUNK):
                    file.write(chunk)
                    received += len(chunk)
                    if (received - begin) % _CHUNK == 0 or received == total:
                        progress(received, total)
                    now = time.monotonic()
                    if received - before >= stall[1]:
                        since, before = now, received
                    elif now - since > stall[0] and received != total:
                        raise OSError(f"only {received - before} bytes came in {now - since:.0f} s")
    except urllib.error.HTTPError as error:
        if error.code == 416 and begin:
            return False
        raise
    if total is None:
        progress(received, received)
    elif received != total:
        raise OSError(f"the connection ended after {received} of {total} bytes")
    return True


def _strong_validator(headers: http.client.HTTPMessage) -> str | None:
    """What names this very version of a file: a strong entity tag, or else the time of the last change."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _keep_validator(part: Path, url: str, validator: str | None) -> None:
    if validator is None:
        _note(part).unlink(missing_ok=True)
    else:
        write_json_atomic(_note(part), {"url": url, "validator": validator})


def _validator(part: Path, url: str) -> str | None:
    """The validator of the version that the part is of, if that is known."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(note, dict) or note.get("url") != url or not isinstance(note.get("validator"), str):
        return None
    return note["validator"]


def _by_hand(url: str, target: Path, reason: str) -> str:
    return f"cannot download {url} ({reason}): fetch that URL by hand and put the file at {target}"
