"""TMPD: Tweedie moment projected diffusions (Boys et al. 2024, arXiv:2310.06721)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Guided, Linearised, Problem


@dataclass(frozen=True, kw_only=True)
class TMPD(Guided):
    """x̂₀ = D + σ² Jᵀ Aᵀ (y − A D)/(σ_y² + σ²·d), d the row sums of A J Aᵀ, J = ∂D/∂x (section 3.2).

    p(x₀ given x_σ) is taken as N(D, σ² J), its exact first two moments; the sums stand in for the inverse of
    σ_y² I + σ² A J Aᵀ and are exact where that is diagonal. A row sum of a real network's J may be negative: none
    counts for less than a tenth of what ΠGDM has in its place.
    """

    info: ClassVar[MethodInfo] = METHODS["tmpd"]

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        measurement, operator = problem.measurement, problem.measurement.linear
        at = Linearised(problem, x, sigma)
        ones = operator.A_adjoint(torch.ones_like(measurement.y))
        least = 0.1 * problem.variance(sigma) * operator.A(ones).abs()
        rows = (sigma**2 * operator.A(at.pull(ones))).maximum(least)
        v = measurement.residual(at.denoised) / (measurement.variance + rows)
        return at.denoised + sigma**2 * at.pull(operator.A_adjoint(v), last=True)
