"""Blur kernels as float64 tensors (h, w) that sum to 1."""

from __future__ import annotations

from math import ceil, cos, inf, radians, sin

import torch
from torch import Tensor


def gaussian(std: float, size: int | None = None) -> Tensor:
    """exp(−r²/(2 std²)) at whole pixels. std: pixels; size: odd, in pixels, by default 2·round(4 std) + 1."""
    _positive("std", std)
    radius = int(4 * std + 0.5) if size is None else size // 2
    if size is not None and (size < 1 or size % 2 == 0):
        raise ValueError(f"size: expected an odd number of pixels, got {size}")
    line = torch.exp(-0.5 * (_pixels(radius) / std) ** 2)
    return _unit(torch.outer(line, line))


def disk(radius: float) -> Tensor:
    """A lens out of focus: a disk, each pixel by the part of it (of 32×32 points) inside. radius: pixels."""
    _positive("radius", radius)
    fine = 32
    reach = ceil(radius - 0.5)
    points = (torch.arange((2 * reach + 1) * fine, dtype=torch.float64) + 0.5) / fine - reach - 0.5
    inside = (points[:, None] ** 2 + points**2 <= radius**2).double()
    return _unit(inside.unfold(0, fine, fine).unfold(1, fine, fine).mean((-2, -1)))


def motion(length: float, angle: float = 0.0) -> Tensor:
    """A straight, even motion. length: pixels; angle: degrees, counter-clockwise from the horizontal.

    Pixels weigh 1 − (their distance from the path), as in MATLAB's fspecial("motion").
    """
    _positive("length", length)
    half = (length - 1) / 2 if length > 1 else 0.0
    dx, dy = cos(radians(angle)), -sin(radians(angle))  # rows count downwards
    tall, wide = (ceil(half * abs(d) - 1e-9) for d in (dy, dx))  # what is beyond is 1 or more away
    y, x = _pixels(tall)[:, None], _pixels(wide)
    along = (x * dx + y * dy).clamp(-half, half)
    return _unit((1 - torch.hypot(x - along * dx, y - along * dy)).clamp(min=0))


def _pixels(radius: int) -> Tensor:
    return torch.arange(-radius, radius + 1, dtype=torch.float64)


def _unit(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def _positive(name: str, value: float) -> None:
    if not 0 < value < inf:
        raise ValueError(f"{name}: expected a positive number of pixels, got {value}")
