"""What can go wrong, as types: one exception per exit code of the command line.

A message is one line: what was expected, what came, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InvdiffError(Exception):
    """Something failed on the way; what was finished before it is kept. Exit code 1."""

    exit_code = 1


class RequestError(InvdiffError, ValueError):
    """The request itself is wrong, and nothing was done or written. Exit code 2."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with a leading blank, " Did you mean 'dps'?", for the closest known name; "" if none is."""
    names = {k.casefold(): k for k in known}
    found = get_close_matches(name.casefold(), names, n=1, cutoff=0.5)
    return f" Did you mean {names[found[0]]!r}?" if found else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> RequestError:
    """The error to raise for a `name` that is none of the `known` ones of its `kind` ("method", ...)."""
    known = tuple(known)
    return RequestError(f"unknown {kind} {name!r}, expected one of {', '.join(known)}.{nearest(name, known)}")
