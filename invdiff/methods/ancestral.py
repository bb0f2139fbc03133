"""Sampling that knows nothing but the prior; begun at a noisy picture it is the exact answer to denoising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.errors import RequestError
from invdiff.likelihood import Measurement
from invdiff.methods import grid
from invdiff.methods.base import Guided, Problem
from invdiff.methods.integrators import Noise


@dataclass(frozen=True, kw_only=True)
class Unconditional(Guided):
    """x̂₀ = D(x, σ): samples of the prior (`invdiff.sample`)."""

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        return problem.prior(x, sigma)


@dataclass(frozen=True, kw_only=True)
class Ancestral(Unconditional):
    """y = x₀ + σ_y·n is x_σ at σ = σ_y, so that walking down from there samples x₀ given y (DDPM, Ho et al. 2020).

    With one step the answer is D(y, σ_y), the posterior mean.
    """

    info: ClassVar[MethodInfo] = METHODS["ancestral"]

    def check(self, measurement: Measurement) -> None:
        if measurement.sigma_y == 0:
            raise RequestError(
                "ancestral: expected a noisy measurement, got sigma_y = 0: there is nothing to remove"
            )
        try:
            self.walk(measurement.sigma_y)
        except ValueError as error:
            raise RequestError(f"ancestral: {error}") from None

    def levels(self, problem: Problem) -> list[float]:
        self.check(problem.measurement)
        return self.travelled(self.walk(problem.measurement.sigma_y))

    def walk(self, sigma_y: float) -> list[float]:
        """The grid from σ_y down, which takes the place of its first level."""
        if isinstance(self.grid, str):
            _, *below = grid.levels(self.grid, self.steps, sigma_y, min(self.sigma_min, sigma_y))
        else:
            below = [sigma for sigma in (*self.grid, 0.0) if sigma < sigma_y]
        return grid.levels([sigma_y, *below], 1, sigma_y, sigma_y)

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        return problem.measurement.y
