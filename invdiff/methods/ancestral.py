"""Unconditional ancestral sampling, begun at a noisy picture: the exact answer to denoising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods import grid
from invdiff.methods.base import Method, Problem


@dataclass(frozen=True, kw_only=True)
class Ancestral(Method):
    """y = x₀ + σ_y·n is x_σ at σ = σ_y, so that walking down from there samples x₀ given y (DDPM, Ho et al. 2020).

    With one step the answer is D(y, σ_y), the posterior mean.
    """

    info: ClassVar[MethodInfo] = METHODS["ancestral"]

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        return problem.prior(x, sigma)

    def levels(self, problem: Problem) -> list[float]:
        sigma_y = problem.measurement.sigma_y
        if sigma_y == 0:
            raise ValueError(
                "ancestral: expected a noisy measurement, got sigma_y = 0: there is nothing to remove"
            )
        return grid.karras(self.steps, sigma_y, min(self.sigma_min, sigma_y))

    def start(self, problem: Problem, sigma: float, noise: Tensor) -> Tensor:
        return problem.measurement.y
