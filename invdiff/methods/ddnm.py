"""DDNM and DDNM+: denoising diffusion null-space models (Wang et al. 2023, arXiv:2212.00490)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Method, Noise, Problem
from invdiff.operators import SpectralOperator


@dataclass(frozen=True, kw_only=True)
class DDNM(Method):
    """x̂₀ = D − A†(A D − y) (eq. 13), then a step with the fraction η² of fresh noise.

    With noise, DDNM+ as released: along the singular vector of singular value sᵢ, with ȳᵢ = (Uᵀy)ᵢ/sᵢ, whose noise
    is ρᵢ = σ_y/sᵢ, the state at level s is

        ȳᵢ + √(s² − ρᵢ²)·ε                        where ρᵢ ≤ s: the measurement is the better known,
        Dᵢ + √(1−η²)·(s/ρᵢ)·(ȳᵢ − Dᵢ) + η·s·ε     where ρᵢ > s,
        Dᵢ + √(1−η²)·s·(xᵢ − Dᵢ)/σ + η·s·ε        where sᵢ = 0: nothing was measured.
    """

    info: ClassVar[MethodInfo] = METHODS["ddnm"]

    eta: float = 0.85

    def fresh(self, sigma: float, s: float) -> float:
        return self.eta**2

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        return problem.measurement.prox(problem.prior(x, sigma), float("inf"))

    def step(self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise) -> Tensor:
        measurement, operator = problem.measurement, problem.measurement.operator
        if measurement.sigma_y == 0:
            return super().step(problem, x, sigma, s, noise)
        if not isinstance(operator, SpectralOperator):
            raise TypeError(
                f"ddnm with noise: expected an operator with singular values, got {operator.describe()}"
            )
        singular = operator.singular_values.to(x)
        lost = singular == 0
        rho = measurement.sigma_y / singular.where(~lost, torch.ones_like(singular))
        strong = ~lost & (rho <= s)
        old = s * (1 - self.eta**2) ** 0.5
        d = operator.V_adjoint(self.clipped(problem.prior(x, sigma)))
        wanted = rho / measurement.sigma_y * operator.U_adjoint(measurement.y)
        pull = torch.where(strong, 1.0, torch.where(lost, 0.0, old / rho))
        fresh = torch.where(strong, (s**2 - rho**2).clamp(min=0).sqrt(), self.eta * s)
        carried = torch.where(lost, old / sigma, 0.0) * (operator.V_adjoint(x) - d)
        return operator.V(d + pull * (wanted - d) + carried + fresh * operator.V_adjoint(noise()))
