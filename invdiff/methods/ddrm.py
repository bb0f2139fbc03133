"""DDRM: denoising diffusion restoration models (Kawar et al. 2022, arXiv:2201.11793)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.likelihood import Measurement
from invdiff.methods.base import Method, Problem
from invdiff.methods.integrators import Noise
from invdiff.operators import SpectralOperator


@dataclass(frozen=True, kw_only=True)
class DDRM(Method):
    """Along the singular vector of singular value sᵢ, with ȳᵢ = (Uᵀy)ᵢ/sᵢ of noise ρᵢ = σ_y/sᵢ, the state at s is

        (1−η_b)·Dᵢ + η_b·ȳᵢ + √(s² − η_b²ρᵢ²)·ε       where ρᵢ ≤ s: the measurement is the better known,
        Dᵢ + √(1−η²)·(s/ρᵢ)·(ȳᵢ − Dᵢ) + η·s·ε         where ρᵢ > s,
        Dᵢ + √(1−η²)·s·(xᵢ − Dᵢ)/σ + η·s·ε            where sᵢ = 0: nothing was measured

    (eqs. 7 and 8); it begins at ȳᵢ + √(σ² − ρᵢ²)·ε where ρᵢ ≤ σ, elsewhere at noise.
    """

    info: ClassVar[MethodInfo] = METHODS["ddrm"]

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eta", "eta_b"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in [0, 1], got {getattr(self, name)}")

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        at = Spectral(problem.measurement)
        noise_only = at.operator.V_adjoint(super().start(problem, sigma, noise))
        spread = (sigma**2 - at.rho**2).clamp(min=0).sqrt()
        known = ~at.lost & (at.rho <= sigma)
        begun = at.wanted + spread * at.operator.V_adjoint(noise())
        return at.operator.V(torch.where(known, begun, noise_only))

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        at = Spectral(problem.measurement)
        return at.step(x, problem.prior(x, sigma), sigma, s, self.eta, self.eta_b, noise()), None


class Spectral:
    """A measurement along the singular vectors of its operator: ȳ, ρ, and what was not measured, (B, n) or (n,)."""

    def __init__(self, measurement: Measurement) -> None:
        operator = measurement.operator
        if not isinstance(operator, SpectralOperator):
            raise TypeError(f"expected an operator with singular values, got {operator.describe()}")
        self.operator = operator
        singular = operator.singular_values.to(measurement.y)
        self.lost = singular == 0
        inverse = torch.where(self.lost, 0, 1 / singular.where(~self.lost, torch.ones_like(singular)))
        self.rho = measurement.sigma_y * inverse
        self.wanted = inverse * operator.U_adjoint(measurement.y)

    def step(
        self, x: Tensor, x0: Tensor, sigma: float, s: float, eta: float, eta_b: float, noise: Tensor
    ) -> Tensor:
        """x_s from x_σ and D(x, σ)."""
        to_basis = self.operator.V_adjoint
        strong = ~self.lost & (self.rho <= s)
        old = s * (1 - eta**2) ** 0.5
        d = to_basis(x0)
        weak = old / self.rho.where(self.rho > 0, torch.ones_like(self.rho))
        pull = torch.where(strong, eta_b, torch.where(self.lost, 0.0, weak))
        fresh = torch.where(strong, (s**2 - (eta_b * self.rho) ** 2).clamp(min=0).sqrt(), eta * s)
        carried = self.lost.to(d) * (old / sigma) * (to_basis(x) - d)
        return self.operator.V(d + pull * (self.wanted - d) + carried + fresh * to_basis(noise))
