"""Langevin sampling of the posterior: the slow reference (Roberts & Tweedie 1996)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods import grid
from invdiff.methods.base import Method, Problem
from invdiff.methods.integrators import Noise


@dataclass(frozen=True, kw_only=True)
class ULA(Method):
    """x += h·∇ log π(x) + √(2h)·ε on π(x) ∝ p_σ(x)·p(y given x), p_σ the prior blurred by σ = sigma_min.

    h = size/(1/σ² + 1/σ_y²), less where a large ‖A‖ would make it diverge. Half of the steps warm up, along the grid
    down to sigma_min, the likelihood widened by σ as in score-ALD; the others stay there. Exact as sigma_min, size → 0
    and size·steps grows: what is left is the blur, and a bias of order size.
    """

    info: ClassVar[MethodInfo] = METHODS["ula"]
    any_noise: ClassVar[bool] = True

    steps: int = 200
    sigma_max: float = 1.0
    sigma_min: float = 0.01
    size: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.size < 2:
            raise ValueError(
                f"size: expected a number between 0 and 2, beyond which it diverges, got {self.size}"
            )
        if self.steps < 4 or not isinstance(self.grid, str):
            raise ValueError(
                f"steps: expected at least 4, half of them along a named grid, got {self.steps} on {self.grid}"
            )
        if self.repeats > 1:
            raise ValueError(f"repeats: expected 1, Langevin steps stay at their level, got {self.repeats}")

    def levels(self, problem: Problem) -> list[float]:
        *falling, _ = grid.levels(self.grid, max(self.steps // 2, 1), self.sigma_max, self.sigma_min)
        return [*falling, *[falling[-1]] * (self.steps - len(falling)), 0.0]

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        if s == 0:
            return x, None
        wide, h = self.scales(problem, s)
        return x + h * self.drift(problem, x, s, wide) + (2 * h).sqrt() * noise(), None

    def scales(self, problem: Problem, s: float) -> tuple[Tensor, Tensor]:
        """The widening σ_y²/(σ_y² + extra) of the likelihood at level s, and h, (B, 1, 1, 1)."""
        measurement = problem.measurement
        variance, gain = (v.view(-1, 1, 1, 1) for v in (1 / measurement.stiffness, measurement.gain))
        total = variance + (s**2 - self.sigma_min**2)
        return variance / total, self.size / (1 / s**2 + (gain * min(self.size, 1)).clamp(min=1) / total)

    def drift(self, problem: Problem, x: Tensor, s: float, wide: Tensor) -> Tensor:
        """∇ log π."""
        return (problem.prior(x, s) - x) / s**2 + wide * problem.measurement.score(x)


@dataclass(frozen=True, kw_only=True)
class MALA(ULA):
    """ULA with every step accepted or refused by Metropolis and Hastings, which removes the bias of its size.

    The prior's part of log π(x') − log π(x) is the integral of its score along the segment, by Simpson's rule: exact
    for Gaussians, its error of fifth order in the step for others, one more evaluation.
    """

    info: ClassVar[MethodInfo] = METHODS["mala"]

    steps: int = 100

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        if s == 0:
            return x, None
        wide, h = self.scales(problem, s)
        here = carry[0] if carry is not None and carry[1] == s else self.drift(problem, x, s, wide)
        z = x + h * here + (2 * h).sqrt() * noise()
        there = self.drift(problem, z, s, wide)
        middle = self.drift(problem, (x + z) / 2, s, wide)
        gain = ((here + 4 * middle + there) / 6 * (z - x)).flatten(1).sum(dim=1)
        forth, back = z - x - h * here, x - z - h * there
        gain = gain + ((forth.square() - back.square()) / (4 * h)).flatten(1).sum(dim=1)
        taken = (noise.uniform().log() < gain).view(-1, 1, 1, 1)
        return torch.where(taken, z, x), (torch.where(taken, there, here), s)
