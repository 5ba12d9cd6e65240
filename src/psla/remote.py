"""Addresses of storage that is no local path, such as `s3://bucket/pack`: bytes read by parts and written whole.

What reads and writes is fsspec with the module of the scheme (s3fs, gcsfs, ...), which say how a user is known there.
An object is there whole or not at all, so what consists of several is complete by the object that is written last.
Errors are one sentence that names the address and the mend. Not here: what the objects mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from psla.extras import needed
from psla.files import alone, atomic_write

SCHEMES = ("s3", "gs", "memory", "https", "http")
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/+(.+)", re.S)
_LIBRARIES = ("botocore", "aiobotocore", "s3fs", "gcsfs", "aiohttp", "google")  # whose errors are the storage's


class RemoteError(OSError):
    """Storage that does not give or take what it was asked."""


def address_of(path: str | os.PathLike[str]) -> str | None:
    """The address that a path is meant as, None: it is a local one. A Path has lost one of the slashes.

    Example:
        >>> address_of(Path("s3://bucket/pack")), address_of("pack")
        ('s3://bucket/pack', None)
    """
    found = _ADDRESS.fullmatch(os.fspath(path))
    return None if found is None else f"{found[1]}://{found[2].rstrip('/')}"


@lru_cache(maxsize=16)
def _system(scheme: str, process: int) -> Any:
    return needed("fsspec", "remote").filesystem(scheme)


@contextlib.contextmanager
def reached(address: str) -> Iterator[Any]:
    """The file system of an address; its errors in the block become one sentence.

    Raises:
        RemoteError: no module for the scheme, no access, no such object, or storage that fails.
    """
    from psla.download import offline  # which brings all of http: a worker that decodes files knows addresses by name

    scheme = address.partition("://")[0]
    if offline() and scheme != "memory":
        raise RemoteError(f"{address}: no server is asked while PSLA_OFFLINE is set; unset it, or copy that here")
    try:
        yield _system(scheme, os.getpid())
    except ImportError as error:
        raise RemoteError(f"{address}: {' '.join(str(error).split())}") from error
    except FileNotFoundError as error:
        raise RemoteError(f"{address}: there is no such object; was it moved, or is it still being written?") from error
    except PermissionError as error:
        raise RemoteError(
            f"{address}: access is refused ({_said(error)}); check the credentials and the bucket"
        ) from error
    except Exception as error:
        if isinstance(error, RemoteError) or not (
            isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES
        ):
            raise
        mend = "what is finished is kept, try again later"
        raise RemoteError(f"{address}: the storage fails ({_said(error)}); {mend}") from error


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read(address: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of an object, or those from `start` to `end`.

    Raises:
        RemoteError: they cannot be had, or are fewer than asked for.
    """
    with reached(address) as system:
        found: bytes = system.cat_file(address, start=start, end=end)
    if start is not None and end is not None and len(found) != end - start:
        raise RemoteError(
            f"{address}: {len(found)} bytes came of {end - start} from {start} on; it is cut short, or the reading was"
        )
    return found


def write(address: str, source: bytes | Path) -> None:
    """Write an object from bytes or a local file, and see that all of it arrived.

    Raises:
        RemoteError: it was not taken.
    """
    with reached(address) as system:
        if isinstance(source, Path):
            system.put_file(str(source), address)
        else:
            system.pipe_file(address, source)
        system.invalidate_cache()
        wanted = source.stat().st_size if isinstance(source, Path) else len(source)
        if (size := system.info(address)["size"]) != wanted:
            raise RemoteError(f"{address}: {size} of {wanted} bytes arrived; run the same command again")


def exists(address: str) -> bool:
    """Whether there is such an object now.

    Raises:
        RemoteError: nobody can tell.
    """
    with reached(address) as system:
        system.invalidate_cache()
        try:
            system.info(address)
        except FileNotFoundError:
            return False
        return True


def remove(address: str) -> None:
    """Remove an object, or all below an address; where there is none, nothing."""
    with reached(address) as system:
        system.invalidate_cache()
        if system.exists(address):
            system.rm(address, recursive=True)


def fetched(address: str, progress: Callable[[int, int | None], None] = lambda received, total: None) -> Path:
    """A local copy of an object in the cache of psla, made once for what the object is now.

    Raises:
        RemoteError: it cannot be had. DownloadError: the cache does not take it.
    """
    from psla.download import cache_folder, cannot_write

    with reached(address) as system:
        state = hashlib.sha256(f"{address} {system.ukey(address)}".encode()).hexdigest()[:16]
    target = cache_folder() / "remote" / state / address.rpartition("/")[2]
    try:
        with alone(target):
            if not target.is_file():
                with atomic_write(target) as temporary, reached(address) as system:
                    system.get_file(address, str(temporary))
    except RemoteError:
        raise
    except OSError as error:  # of the cache, not of the storage
        raise cannot_write(target, error) from error
    progress(target.stat().st_size, target.stat().st_size)
    return target
