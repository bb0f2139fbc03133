"""ΠGDM: pseudoinverse-guided diffusion (Song et al. 2023, ICLR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Guided, Linearised, Problem


@dataclass(frozen=True, kw_only=True)
class PiGDM(Guided):
    """x̂₀ = D + σ² Jᵀ Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ (y − A D), J = ∂D/∂x: eq. 8 under p(x₀ given x_σ) = N(D, r² I).

    r² = σ²τ²/(σ²+τ²). With τ the data's standard deviation, which the prior's card says, this is exact for a white
    Gaussian prior. The paper's r² = σ²/(1+σ²) is this one on [-1, 1] with τ = 1. Photographs vary far more along
    their coarse structure than a pixel does, and there too small a τ overshoots.
    """

    info: ClassVar[MethodInfo] = METHODS["pigdm"]

    tau: float | None = None
    """τ in image units; None: the prior's data_std."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau is not None and not 0 < self.tau < float("inf"):
            raise ValueError(f"tau: expected a number > 0, got {self.tau}")

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        at = Linearised(problem, x, sigma)
        variance = problem.variance(sigma, self.tau)
        toward = (problem.measurement.prox(at.denoised, variance) - at.denoised) / variance
        return at.denoised + sigma**2 * at.pull(toward, last=True)
