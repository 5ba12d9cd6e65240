"""Which clips a model was made of: hashes of their ids, as a model file keeps them.

    ids ──► the first 6 bytes of the SHA-256 of each, sorted, no two alike ──► base64

Two million clips take 16 MB. That an id meets the hash of another among them has a chance of 7e-9; so it may happen
once in fourteen thousand runs that a table of ten thousand other clips is refused, never that a clip of them passes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable

_BYTES = 6


def hashed(ids: Iterable[str], *others: str) -> str:
    """The hashes of these ids, and those in other such texts.

    Raises:
        ValueError: another text is none of this kind.

    Example:
        >>> both = hashed(["a"], hashed(["b", "a"]))
        >>> count(both), met(both, ["c", "b"])
        (2, ['b'])
    """
    found = set(map(_hash, ids))
    return base64.b64encode(b"".join(sorted(found.union(*map(_read, others))))).decode("ascii")


def count(text: str) -> int:
    """How many ids stand in a text of `hashed`; 0 for the empty one."""
    return len(_data(text)) // _BYTES


def met(text: str, ids: Iterable[str]) -> list[str]:
    """Which of these ids stand in a text of `hashed`, in their order."""
    known = _read(text)
    return [id for id in ids if _hash(id) in known]


def _hash(id: str) -> bytes:
    return hashlib.sha256(id.encode("utf-8", "surrogateescape")).digest()[:_BYTES]


def _data(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"hashes of clip ids are in base64, not {text!r:.40}") from error
    if len(data) % _BYTES:
        raise ValueError(f"hashes of clip ids have {_BYTES} bytes each; here are {len(data)} bytes")
    return data


def _read(text: str) -> set[bytes]:
    data = _data(text)
    return {data[begin : begin + _BYTES] for begin in range(0, len(data), _BYTES)}
