"""Reading what was typed, and saying what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from .errors import RequestError, unknown


def number(text: str) -> float | None:
    """A finite number, None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def one_of(option: str, given: str, choices: Any) -> Any:
    """`given`, if it is one of a Literal's values. RequestError that names the option and the nearest otherwise."""
    if given not in get_args(choices):
        raise unknown(flag(option), given, get_args(choices))
    return given


def flag(option: str) -> str:
    """An option's name as it is typed: sr_kernel → --sr-kernel."""
    return "--" + option.replace("_", "-")


def by(size: tuple[int, ...]) -> str:
    """(height, width, ...) as people write it, width×height."""
    return f"{size[1]}×{size[0]}"


def dims(shape: tuple[int, ...]) -> str:
    """A shape as it is typed: (3, 256, 256) → 3x256x256."""
    return "x".join(map(str, shape))


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Every error as a RequestError that names the picture."""
    try:
        yield
    except (ValueError, TypeError) as error:
        text = str(error)
        raise RequestError(text if str(path) in text else f"{path}: {text}") from None
