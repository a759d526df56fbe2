"""What becomes of memory that was freed. Knows glibc; with another C library nothing changes."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD = -3
"""As in malloc.h."""
_LARGE = 1 << 20


def give_large_back() -> None:
    """From now on, what has a megabyte or more goes back to the system when it is freed.

    glibc would raise this limit to the largest piece that was ever freed, and keep what is smaller for the thread,
    which is one of many. Python's table of interned strings, 4 MB with this program, is made anew every ten thousand
    images or so, since pathlib interns names of files: by whatever thread comes to it, and one after the other would
    keep its place.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
