"""Memory that a process has freed, kept for what it asks for next."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""
MAPPED = 65536
"""So many blocks are the system's own by default."""
WHOLE, LARGEST = 1_500_000, 2048 * 2048
"""Pixels of the largest pictures that it is good for, whole and in windows: larger blocks leave gaps of over a GiB."""

_keeps = False


def keep_freed() -> bool:
    """From now on this process gives the system no large block back before it ends; whether that could be had.

    A network asks for its activations anew at every evaluation. The C library gives each block of over 32 MiB back to
    the system, which hands it out again page by page, zeroed: a seventh of the time at 1024². For processes of our own,
    whose memory is nobody else's business; glibc alone.
    """
    global _keeps
    _keeps = _set(MMAP_MAX, 0) and _set(TRIM_THRESHOLD, 2**31 - 1)
    return _keeps


def suit(pixels: int, *, whole: bool) -> None:
    """Where `keep_freed` was asked for: whether to, for pictures of so many pixels that go through a network so."""
    if _keeps:
        _set(MMAP_MAX, 0 if pixels <= (WHOLE if whole else LARGEST) else MAPPED)


def _set(parameter: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (OSError, AttributeError):  # another C library
        return False
