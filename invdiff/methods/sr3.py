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

REACH = 10.0
"""The walk begins so many of the data's standard deviations away, where what x₀ lies around is known."""


@dataclass(frozen=True, kw_only=True)
class SR3(DPS):
    """x̂₀ = D(x, σ; y), walked as a prior's own samples are (algorithm 2): the prior is a conditional one, seeing y.

    Exact where D is E[x₀ | x_σ, y]. grid="sr3" has the paper's own levels. consistency: x̂₀ − A†(A x̂₀ − y) as in DDNM
    where y is linear and exact, which changes nothing of an exact D; otherwise DPS's gradient step with `zeta`, which
    counts y twice.
    """

    info: ClassVar[MethodInfo] = METHODS["sr3"]

    steps: int = 20
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
        denoised = problem.prior(x, sigma)
        if self.consistency and _exact(problem.measurement):
            return problem.measurement.prox(denoised, float("inf"))
        return denoised

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        if self.consistency and not _exact(problem.measurement):
            return super().step(problem, x, sigma, s, noise, carry)
        return Unconditional.step(self, problem, x, sigma, s, noise, carry)


def _exact(measurement: Measurement) -> bool:
    """Whether what y says of x₀ can be put in its place."""
    exact = measurement.sigma_y == 0 and measurement.noise is None
    return exact and isinstance(measurement.operator, LinearOperator)
