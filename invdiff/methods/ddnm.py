"""DDNM and DDNM+: denoising diffusion null-space models (Wang et al. 2023, arXiv:2212.00490)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.errors import RequestError
from invdiff.likelihood import Measurement
from invdiff.methods.base import Guided, Problem
from invdiff.methods.ddrm import Spectral
from invdiff.methods.integrators import Integrator, Noise, Renew


@dataclass(frozen=True, kw_only=True)
class DDNM(Guided):
    """x̂₀ = D − A†(A D − y) (eq. 13), then a step with the fraction η² of fresh noise.

    With noise DDNM+: as released, its step is DDRM's with η_b = 1 (docs/decisions.md). Time travel (algorithm 2): jump
    and repeats.
    """

    info: ClassVar[MethodInfo] = METHODS["ddnm"]

    eta: float = 0.85

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}")
        super().__post_init__()

    @property
    def own(self) -> Integrator:
        return Renew(fresh=self.eta**2)

    def check(self, measurement: Measurement) -> None:
        if measurement.sigma_y > 0 and self.integrator:
            raise RequestError(
                f"integrator: ddnm has its own step where there is noise, got {self.integrator}"
            )

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        return problem.measurement.prox(problem.prior(x, sigma), float("inf"))

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        if problem.measurement.sigma_y == 0:
            return super().step(problem, x, sigma, s, noise, carry)
        x0 = self.clipped(problem.prior(x, sigma))
        return Spectral(problem.measurement).step(x, x0, sigma, s, self.eta, 1.0, noise()), None
