"""Blur kernels as float64 tensors (h, w) that sum to 1."""

from __future__ import annotations

from math import ceil, cos, inf, pi, radians, sin, sqrt
from random import Random

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
    kernel = inside.unfold(0, fine, fine).unfold(1, fine, fine).mean((-2, -1))
    if not kernel.any():  # too small to hold a point
        kernel[reach, reach] = 1
    return _unit(kernel)


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


def random_motion(size: int = 61, intensity: float = 0.5, seed: int = 0) -> Tensor:
    """A camera's shake while the shutter was open: a random path, its centre of mass in the middle of the kernel.

    The path is 1000 steps of one length. Its heading turns at a rate that is a random walk with friction (a hand's
    inertia), and is thrown about by 90° to 270° now and then, 4 · intensity times on average. It is scaled to reach
    3/4 of the way to the kernel's edge; every point weighs on the 4 pixels around it, bilinearly. After Boracchi and
    Foi 2012, "Modeling the performance of image restoration from motion blur", whose walk is another.

    size: odd, in pixels. intensity: from 0, a straight line, to 1, a scribble. seed: from 0 up; the same path on
    every machine.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size: expected an odd number of pixels, got {size}")
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity: expected a number from 0 (straight) to 1 (shaky), got {intensity}")
    if seed < 0 or seed != int(seed):
        raise ValueError(f"seed: expected a whole number from 0 up, got {seed}")
    draw, steps, friction = Random(int(seed)).random, 1000, 0.02
    x, y, turn, heading = [0.0], [0.0], 0.0, 2 * pi * draw()
    spread = 0.006 * intensity * sqrt(12)  # of a uniform draw, made its standard deviation
    for _ in range(steps):
        turn = (1 - friction) * turn + spread * (draw() - 0.5)
        thrown = draw() < 4 * intensity / steps
        heading += turn + (pi * (0.5 + draw()) if thrown else 0.0)
        x.append(x[-1] + cos(heading))
        y.append(y[-1] + sin(heading))
    path = torch.tensor([y, x], dtype=torch.float64)
    path = path - path.mean(1, keepdim=True)
    path = path * (0.75 * (size // 2) / path.abs().max())
    down, across = (1 - (path[..., None] - _pixels(size // 2)).abs()).clamp(min=0)
    return _unit(down.mT @ across)


def _pixels(radius: int) -> Tensor:
    return torch.arange(-radius, radius + 1, dtype=torch.float64)


def _unit(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def _positive(name: str, value: float) -> None:
    if not 0 < value < inf:
        raise ValueError(f"{name}: expected a positive number of pixels, got {value}")
