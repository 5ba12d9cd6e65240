"""Files that are whole or absent: atomic writes, checksums and downloads that resume.

A reader never meets a half-written file: everything is written under another name beside its target and renamed when
complete. Not covered: locks. Two processes that download the same file at once may spoil each other's `.part`; the
checksum then says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30.0  # seconds without a byte before a download gives up


class DownloadError(OSError):
    """A download that failed; the message says what to fetch by hand and where to put it."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hands out a temporary path beside `path`; at the end of the block the file written there becomes `path`.

    The temporary file ends in the name of the target, so that writers that look at the suffix behave. The folder is
    made if it is missing. On success the file is on disk (fsync) before it takes the name; on any error it is removed
    and what stood at `path` stays as it was.

    Raises:
        FileNotFoundError: the block wrote nothing.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("whole")
        ...     target.exists()
        False
        >>> target.read_text()
        'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(6)}.{target.name}")
    try:
        yield temporary
        _rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text with `atomic_write`; line ends are kept as given."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json_atomic(path: str | os.PathLike[str], data: Any) -> None:
    """Writes JSON, indented by two spaces, keys in their given order, with `atomic_write`.

    Raises:
        TypeError: a value that JSON does not have.
        ValueError: NaN or infinity, which JSON does not have either.
    """
    write_text_atomic(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file: 64 lower-case hex digits.

    Example:
        >>> sha256_of(os.devnull)[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloads are kept: `$PSLA_CACHE`, or `~/.cache/psla`. The folder may not exist yet."""
    chosen = os.environ.get("PSLA_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "psla"


def download(url: str, path: str | os.PathLike[str], sha256_prefix: str | None = None) -> Path:
    """Fetches `url` to `path` and returns the path. A file that is there already and has the checksum is kept.

    Bytes arrive in `path` + ".part". An interrupted download resumes there at the next call, if there is a checksum to
    prove that the two parts belong together; without one it starts again.

    Args:
        url: what to fetch: http, https or file.
        path: the target; its folder is made if it is missing.
        sha256_prefix: the first hex digits of the SHA-256, as the file names of torch weights carry (8) or all 64.

    Raises:
        DownloadError: the server cannot be reached, refuses, stops early, or sends a file with another checksum.
        ValueError: a prefix that is not 1 to 64 hex digits.
    """
    prefix = None if sha256_prefix is None else sha256_prefix.lower()
    if prefix is not None and (not 1 <= len(prefix) <= 64 or set(prefix) - set("0123456789abcdef")):
        raise ValueError(f"sha256_prefix must be 1 to 64 hex digits, not {sha256_prefix!r}")
    target = Path(path)
    if target.is_file() and (prefix is None or sha256_of(target).startswith(prefix)):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumes = prefix is not None and part.is_file() and part.stat().st_size > 0
    try:
        if resumes:
            _fetch(url, part, part.stat().st_size)
        # A part left over from another version of the file: once more, from the beginning.
        if not resumes or (prefix is not None and not sha256_of(part).startswith(prefix)):
            _fetch(url, part, 0)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(_by_hand(url, target, str(error) or type(error).__name__)) from error
    if prefix is not None:
        found = sha256_of(part)
        if not found.startswith(prefix):
            part.unlink()
            reason = f"its SHA-256 begins with {found[: len(prefix)]}, not {prefix}"
            raise DownloadError(_by_hand(url, target, reason))
    _rename(part, target)
    return target


def _rename(temporary: Path, target: Path) -> None:
    """Brings the bytes to disk, then the name."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _fetch(url: str, part: Path, begin: int) -> None:
    """Appends to `part` from byte `begin` on, or writes it anew when the server does not resume."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            content_range = response.headers.get("Content-Range") or ""
            if response.status != 206 or not content_range.startswith(f"bytes {begin}-"):
                if response.status == 206:
                    raise OSError(f"the server sent {content_range!r} where byte {begin} and what follows was asked")
                begin = 0
            length = response.headers.get("Content-Length")
            received = 0
            with open(part, "ab" if begin else "wb") as file:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    received += len(chunk)
    except urllib.error.HTTPError as error:
        if error.code == 416 and begin:
            return  # "range not satisfiable": the part was complete already, or is stale; the checksum decides
        raise
    if length is not None and received != int(length):
        raise OSError(f"the connection ended after {received} of {length} bytes")


def _by_hand(url: str, target: Path, reason: str) -> str:
    return f"cannot download {url} ({reason}): fetch that URL by hand and put the file at {target}"
