"""ΠGDM: pseudoinverse-guided diffusion (Song et al. 2023, ICLR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Method, Problem, denoise_with_gradient


@dataclass(frozen=True, kw_only=True)
class PiGDM(Method):
    """x̂₀ = D + σ² Jᵀ Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ (y − A D), J = ∂D/∂x: eq. 8 under p(x₀ given x_σ) = N(D, r² I).

    r² = σ²τ²/(σ²+τ²), τ the data's standard deviation (the prior's card says it): exact for a white Gaussian prior.
    The paper's r² = σ²/(1+σ²) is this one on [-1, 1] with τ = 1.
    """

    info: ClassVar[MethodInfo] = METHODS["pigdm"]

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        denoised, _, jacobian_transposed = denoise_with_gradient(problem, x, sigma)
        tau = problem.prior.card.data_std
        variance = sigma**2 * tau**2 / (sigma**2 + tau**2)
        toward = (problem.measurement.prox(denoised, variance) - denoised) / variance
        return denoised + sigma**2 * jacobian_transposed(toward, last=True)
