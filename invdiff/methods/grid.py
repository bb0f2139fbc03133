"""Noise levels to walk through: lists of σ in image units, ending in 0. A rise in between is a step up in noise."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from itertools import pairwise

import torch

GRIDS = ("karras", "log_uniform", "ddpm", "sr3")
"""The names `levels` knows."""


def levels(grid: str | Sequence[float], steps: int, sigma_max: float, sigma_min: float) -> list[float]:
    """`steps` levels from σ_max to σ_min by name, then 0; or the σ's themselves. ValueError for what does not descend.

    karras (karras:3 for ρ = 3), log_uniform, or ddpm: the steps of Ho et al. 2020's network between the two; sr3:
    those of Saharia et al. 2021.
    """
    if not isinstance(grid, str):
        walk = [float(sigma) for sigma in grid]
        walk = walk if walk and walk[-1] == 0 else [*walk, 0.0]
        if len(walk) < 2 or not all(math.inf > a > b for a, b in pairwise(walk)):
            raise ValueError(f"grid: expected descending noise levels in image units, got {list(grid)}")
        return walk
    name, _, value = grid.partition(":")
    if sigma_min == sigma_max and name in GRIDS:
        _check(steps, sigma_max, sigma_min)
        return [sigma_max, 0.0]  # one level, however many steps: a level does not fall to itself
    if name == "karras":
        try:
            rho = float(value or 7)
        except ValueError:
            rho = 0.0
        if not 0 < rho < math.inf:
            raise ValueError(f"grid: expected karras or karras:RHO with a number above 0, got {grid}")
        return karras(steps, sigma_max, sigma_min, rho)
    if grid not in GRIDS:
        raise ValueError(f"grid: expected one of {', '.join(GRIDS)} or a list of noise levels, got {grid}")
    return {"log_uniform": log_uniform, "ddpm": ddpm, "sr3": sr3}[name](steps, sigma_max, sigma_min)


def karras(steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> list[float]:
    """`steps` levels from σ_max to σ_min evenly in σ^(1/ρ), then 0 (Karras et al. 2022, eq. 5)."""
    _check(steps, sigma_max, sigma_min)
    if steps == 1:
        return [sigma_max, 0.0]
    ramp = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64)
    return [*(ramp**rho).tolist(), 0.0]


def log_uniform(steps: int, sigma_max: float, sigma_min: float) -> list[float]:
    """`steps` levels from σ_max to σ_min evenly in ln σ, then 0."""
    _check(steps, sigma_max, sigma_min)
    ramp = torch.linspace(math.log(sigma_max), math.log(sigma_min), steps, dtype=torch.float64)
    return [*ramp.exp().tolist(), 0.0]


def ddpm(steps: int, sigma_max: float, sigma_min: float) -> list[float]:
    """`steps` of the 1000 levels of DDPM, evenly in t, among those from σ_max down to σ_min, then 0.

    β_t from 1e-4 to .02 (Ho et al. 2020, section 4) on [-1, 1]: σ_t = √((1 − ᾱ_t)/ᾱ_t)/2 in image units.
    """
    return _of_betas("ddpm", 1e-4, 0.02, 1000, steps, sigma_max, sigma_min)


def sr3(steps: int, sigma_max: float, sigma_min: float) -> list[float]:
    """As `ddpm`, of 2000 levels with β_t from 1e-6 to .01 (for Saharia et al. 2021, arXiv:2104.07636, by its public
    re-implementation)."""
    return _of_betas("sr3", 1e-6, 0.01, 2000, steps, sigma_max, sigma_min)


def _of_betas(
    name: str, low: float, high: float, count: int, steps: int, sigma_max: float, sigma_min: float
) -> list[float]:
    _check(steps, sigma_max, sigma_min)
    alpha_bar = (1 - torch.linspace(low, high, count, dtype=torch.float64)).cumprod(0)
    sigmas = (((1 - alpha_bar) / alpha_bar).sqrt() / 2).tolist()
    first, last = bisect.bisect_left(sigmas, sigma_min), bisect.bisect_right(sigmas, sigma_max) - 1
    if steps > last - first + 1:
        raise ValueError(
            f"steps: the grid {name} has {max(last - first + 1, 0)} levels between {sigma_max:g} and {sigma_min:g}, "
            f"got {steps}"
        )
    times = torch.linspace(last, first, steps, dtype=torch.float64).round().long()
    return [*(sigmas[t] for t in times), 0.0]


def _check(steps: int, sigma_max: float, sigma_min: float) -> None:
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise ValueError(f"expected 0 < sigma_min ≤ sigma_max, got {sigma_min:g} and {sigma_max:g}")


def resample(levels: Sequence[float], jump: int, repeats: int) -> list[float]:
    """RePaint's walk over `levels` (Lugmayr et al. 2022, algorithm 1 and its released schedule).

    Going down, at every `jump`-th level before the last ones the walk climbs `jump` levels back up and comes down
    again, `repeats` − 1 times. 250 levels with 10 and 10 give 2,410 steps down and 2,160 up. DDNM's time travel
    (Wang et al. 2023, algorithm 2, as released) is the same walk.
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
