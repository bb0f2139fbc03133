"""Memory that a process has freed, kept for what it asks for next."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def keep_freed() -> bool:
    """From now on this process gives the system no large block back before it ends; whether that could be had.

    A network asks for its activations anew at every evaluation. The C library gives each block of over 32 MiB back to
    the system, which hands it out again page by page, zeroed: a seventh of the time at 1024². For processes of our own,
    whose memory is nobody else's business; glibc alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, 2**31 - 1))
