"""Noise levels to walk through: lists of σ in image units, ending in 0. A rise in between is a step up in noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def karras(steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> list[float]:
    """`steps` levels from σ_max to σ_min evenly in σ^(1/ρ), then 0 (Karras et al. 2022, eq. 5)."""
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if not 0 < sigma_min <= sigma_max:
        raise ValueError(f"expected 0 < sigma_min ≤ sigma_max, got {sigma_min:g} and {sigma_max:g}")
    if steps == 1:
        return [sigma_max, 0.0]
    ramp = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64)
    return [*(ramp**rho).tolist(), 0.0]


def log_uniform(steps: int, sigma_max: float, sigma_min: float) -> list[float]:
    """`steps` levels from σ_max to σ_min evenly in ln σ, then 0."""
    if steps < 1 or not 0 < sigma_min <= sigma_max:
        raise ValueError(
            f"expected steps ≥ 1 and 0 < sigma_min ≤ sigma_max, got {steps}, {sigma_min:g}, {sigma_max:g}"
        )
    ramp = torch.linspace(math.log(sigma_max), math.log(sigma_min), steps, dtype=torch.float64)
    return [*ramp.exp().tolist(), 0.0]


def resample(levels: Sequence[float], jump: int, repeats: int) -> list[float]:
    """RePaint's walk over `levels` (Lugmayr et al. 2022, algorithm 1 and its released schedule).

    Going down, at every `jump`-th level before the last ones the walk climbs `jump` levels back up and comes down
    again, `repeats` − 1 times. 250 levels with 10 and 10 give 2,410 steps down and 2,160 up.
    """
    if jump < 1 or repeats < 1:
        raise ValueError(f"expected jump ≥ 1 and repeats ≥ 1, got {jump} and {repeats}")
    *noisy, last = levels
    count = len(noisy)
    left = dict.fromkeys(range(0, count - jump, jump), repeats - 1)
    walk, place = [noisy[0]], count - 1  # place counts from the cleanest level, as timesteps do
    while place > 0:
        place -= 1
        walk.append(noisy[count - 1 - place])
        if left.get(place, 0) > 0:
            left[place] -= 1
            for _ in range(jump):
                place += 1
                walk.append(noisy[count - 1 - place])
    return [*walk, last]
