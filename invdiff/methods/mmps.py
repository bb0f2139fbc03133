"""MMPS: moment matching posterior sampling (Rozet et al. 2024, arXiv:2405.13712, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Method, Problem, denoise_with_gradient


@dataclass(frozen=True, kw_only=True)
class MMPS(Method):
    """x̂₀ = D + σ² Jᵀ Aᵀ v, with (σ_y² I + σ² A J Aᵀ) v = y − A D and J = ∂D/∂x.

    p(x₀ given x_σ) is taken as N(D, σ² J), its exact first two moments (Tweedie). The system is solved by conjugate
    gradients, one vector-Jacobian product an iteration, from v = 0. The J of a real network is not quite symmetric
    or positive: a sample whose pᵀKp falls to zero or below stops there, as does one that has converged.
    """

    info: ClassVar[MethodInfo] = METHODS["mmps"]

    iterations: int = 1
    """Conjugate-gradient iterations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations: expected at least 1, got {self.iterations}")

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        measurement, operator = problem.measurement, problem.measurement.linear
        denoised, _, jacobian_transposed = denoise_with_gradient(problem, x, sigma)
        r = measurement.residual(denoised)
        p, rr = r, _dot(r, r)
        gain = torch.zeros_like(x)  # Jᵀ Aᵀ v, summed as v is: no product is spent on it at the end
        for iteration in range(self.iterations):
            q = jacobian_transposed(operator.A_adjoint(p), last=iteration + 1 == self.iterations)
            kp = measurement.variance * p + sigma**2 * operator.A(q)
            curvature = _dot(p, kp)
            alive = (curvature > 0) & (rr > 1e-20 * _dot(measurement.y, measurement.y))
            alpha = torch.where(alive, rr / curvature.where(alive, torch.ones_like(curvature)), 0.0)
            gain = gain + _scale(alpha, q)
            r = r - _scale(alpha, kp)
            rr_next = _dot(r, r)
            p = r + _scale(torch.where(alive, rr_next / rr.where(alive, torch.ones_like(rr)), 0.0), p)
            p, rr = _scale(alive.to(p), p), rr_next
        return denoised + sigma**2 * gain


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """One inner product per sample, (B,)."""
    return (a * b).flatten(1).sum(dim=1)


def _scale(alpha: Tensor, a: Tensor) -> Tensor:
    return alpha.reshape(-1, *[1] * (a.ndim - 1)) * a
