"""How much a restoration may cost: points on the measured front of quality against time (docs/performance.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import RequestError, unknown

FAST, DEFAULT, BEST = "fast", "default", "best"
NAMES = (FAST, DEFAULT, BEST)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Steps, and settings, of the method that auto is. name: of NAMES, where it has one."""

    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


LINEAR = (
    Point(steps=5, settings={"sigma_max": 3.0, "sigma_min": 0.03, "warm": True}),
    Point(steps=8, settings={"sigma_max": 3.0, "sigma_min": 0.03, "warm": True}, name=FAST),
    Point(steps=12, settings={"sigma_max": 3.0, "sigma_min": 0.015, "warm": True}),
    Point(steps=20, name=DEFAULT),
    Point(steps=50, settings={"warm": True}, name=BEST),
)
"""Of mmps, for every linear operator, cheapest first."""


def front(method: str, steps: int) -> tuple[Point, ...]:
    """The points of the method that auto is here, and takes so many steps by itself, cheapest first."""
    if method == "mmps":
        return LINEAR
    if method == "ancestral" and steps == 1:  # that has the posterior's mean; of several samples it is a walk
        return tuple(Point(steps=steps, name=name) for name in NAMES)
    shares = {FAST: 0.4, DEFAULT: 1.0, BEST: 2.5}
    return tuple(Point(steps=max(1, round(share * steps)), name=name) for name, share in shares.items())


def parse(given: str | float) -> str | float:
    """fast, default, best, or `seconds` for a picture. RequestError for anything else."""
    text = str(given).strip().lower()
    if text in NAMES:
        return text
    if text[:1].isalpha():
        raise unknown("effort", text, (*NAMES, "seconds"))
    return seconds(given)


def seconds(given: str | float, name: str = "budget") -> float:
    """For a picture, as 20, "20s", "1.5min". RequestError, with that name in it, for anything else."""
    text = str(given).strip().lower()
    number, unit = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", "s|sec|seconds|m|min|minutes|h"
    found = re.fullmatch(rf"({number})\s*({unit})?", text)
    scale = {"m": 60.0, "h": 3600.0}
    value = float(found[1]) * scale.get((found[2] or "s")[0], 1.0) if found else 0.0
    if not 0 < value < float("inf"):
        raise RequestError(f"{name}: expected seconds for a picture, as 20s or 2min, got {given!r}")
    return value
