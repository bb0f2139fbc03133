"""SR3: iterative refinement by a network that is shown the measurement (Saharia et al. 2021, arXiv:2104.07636)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.likelihood import Measurement
from invdiff.methods import grid
from invdiff.methods.ancestral import Unconditional
from invdiff.methods.base import Problem
from invdiff.methods.dps import DPS
from invdiff.methods.integrators import Noise
from invdiff.operators import LinearOperator

REACH = 30.0
"""The walk begins so many of the data's standard deviations away, where what x₀ lies around is known. Pixels are not
independent: on faces the strongest mode of the residual has four times that, and a walk from 10 lost detail."""


@dataclass(frozen=True, kw_only=True)
class SR3(DPS):
    """x̂₀ = D(x, σ; y), walked as a prior's own samples are (algorithm 2): the prior is a conditional one, seeing y.

    Exact where D is E[x₀ | x_σ, y]. grid="sr3" has the paper's own levels. consistency: x̂₀ − A†(A x̂₀ − y) as in DDNM
    where y is linear and exact, which changes nothing of an exact D; where it is linear and noisy, the mean of x₀ given
    y were D all that is known of it; otherwise DPS's gradient step with `zeta`. These two count y twice.
    """

    info: ClassVar[MethodInfo] = METHODS["sr3"]

    steps: int = 20
    zeta: float = 0.03
    consistency: bool = False

    def levels(self, problem: Problem) -> list[float]:
        """Where the prior knows what x₀ lies around, from no more noise than hides how far it is from there."""
        top = REACH * problem.prior.card.data_std
        if (
            problem.centre is None
            or not isinstance(self.grid, str)
            or not self.sigma_min < top < self.sigma_max
        ):
            return super().levels(problem)
        return self.travelled(grid.levels(self.grid, self.steps, top, self.sigma_min))

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        denoised, measurement = problem.prior(x, sigma), problem.measurement
        if not self.consistency or not _linear(measurement):
            return denoised
        variance = problem.variance(sigma) if measurement.sigma_y > 0 else float("inf")
        return measurement.prox(denoised, variance)

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        if self.consistency and not _linear(problem.measurement):
            return super().step(problem, x, sigma, s, noise, carry)
        return Unconditional.step(self, problem, x, sigma, s, noise, carry)


def _linear(measurement: Measurement) -> bool:
    """Whether x₀ given y has a mean in closed form, were D all that is known of it."""
    return measurement.noise is None and isinstance(measurement.operator, LinearOperator)
