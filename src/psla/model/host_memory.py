"""The C library's allocator, told to keep what is freed.

A step on a CPU allocates and frees the same hundreds of large tensors again and again. glibc returns each of them to
the operating system and asks for it anew, and every page is zeroed and mapped again: a third of a training step
where it was measured (docs/LOG.md).
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


@cache
def keep_freed_memory() -> bool:
    """Lets this process keep freed memory for its next allocation; whether the allocator could be told so.

    The process then stays at its largest size until it ends. It has no effect outside Linux with glibc (False), nor
    on what is computed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_TOP_PAD, 64 << 20)])
