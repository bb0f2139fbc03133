"""MMPS: moment matching posterior sampling (Rozet et al. 2024, arXiv:2405.13712, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Guided, Linearised, Problem
from invdiff.methods.integrators import Noise


@dataclass(frozen=True, kw_only=True)
class MMPS(Guided):
    """x̂₀ = D + σ² Jᵀ Aᵀ v, with (σ_y² I + σ² A J Aᵀ) v = y − A D and J = ∂D/∂x.

    p(x₀ given x_σ) is taken as N(D, σ² J), its exact first two moments (Tweedie). The system is solved by conjugate
    gradients, one vector-Jacobian product an iteration, from v = 0; they are preconditioned by the same system with
    σ² J replaced by r² I (ΠGDM's), which is worth several iterations where A is ill-conditioned. The J of a real
    network is not quite symmetric or positive: a sample stops where pᵀKp falls below σ_y²·pᵀp, which it then could not,
    and what counts of all its iterations is the one with the least residual.
    """

    info: ClassVar[MethodInfo] = METHODS["mmps"]

    steps: int = 20
    iterations: int = 1
    """Conjugate-gradient iterations."""
    warm: bool = False
    """Begin with a draw of x_σ given y, exact were the pixels independent, in place of one of x_σ that knows no y."""
    plain_below: float = 0.0
    """Below this σ no derivative is taken: x̂₀ is the mean of N(D, r² I) given y there, as in DiffPIR."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations: expected at least 1, got {self.iterations}")
        if not self.plain_below >= 0:
            raise ValueError(f"plain_below: expected a σ of at least 0, got {self.plain_below}")

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        if not self.warm or problem.centre is not None:
            return super().start(problem, sigma, noise)
        card, like = problem.prior.card, noise()
        x0 = problem.measurement.perturbed(torch.full_like(like, card.data_mean), card.data_std, noise)
        return x0.add_(like, alpha=sigma)

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        measurement, operator = problem.measurement, problem.measurement.linear
        if sigma < self.plain_below:
            return measurement.prox(problem.prior(x, sigma), problem.variance(sigma))
        at = Linearised(problem, x, sigma)
        damping = measurement.variance / problem.variance(sigma)
        r = measurement.residual(at.denoised)
        z = operator.precondition(r, damping)
        p, rz = z, _dot(r, z)
        enough = 1e-20 * rz
        gain = best = x.new_zeros(()).expand_as(x)  # Jᵀ Aᵀ v, summed as v is: no product is spent at the end
        least = rz
        if self.iterations == 1:
            del r, z  # of large pictures no copy is kept
        for iteration in range(self.iterations):
            q = at.pull(operator.A_adjoint(p), last=iteration + 1 == self.iterations)
            kp = (measurement.variance * p).add_(operator.A(q), alpha=sigma**2)
            curvature = _dot(p, kp)  # at least σ_y²·pᵀp, were J symmetric and positive
            alpha = _quotient(rz, curvature, (rz > enough) & (curvature >= measurement.variance * _dot(p, p)))
            if self.iterations == 1:  # what follows would come to the same
                del p, kp
                return q.mul_(_like(alpha, q)).mul_(sigma**2).add_(at.denoised)
            gain, r = gain + _scale(alpha, q), r - _scale(alpha, kp)
            z = operator.precondition(r, damping)
            before, rz = rz, _dot(r, z)
            better = (alpha > 0) & ((rz < least) | (iteration == 0))
            best, least = torch.where(_like(better, x), gain, best), torch.where(better, rz, least)
            if (
                not x.is_cuda and not alpha.any()
            ):  # all are solved, or have stopped; a GPU would be waited for
                break
            p = _scale((alpha > 0).to(p), z + _scale(_quotient(rz, before, alpha > 0), p))
        return at.denoised + sigma**2 * best


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """One inner product per sample, (B,)."""
    return (a * b).flatten(1).sum(dim=1)


def _scale(alpha: Tensor, a: Tensor) -> Tensor:
    return _like(alpha, a) * a


def _like(alpha: Tensor, a: Tensor) -> Tensor:
    """One number per sample, (B,), with the axes of a."""
    return alpha.reshape(-1, *[1] * (a.ndim - 1))


def _quotient(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """a / b per sample; 0 where b ≤ 0 or `where` is false."""
    valid = where & (b > 0)
    return torch.where(valid, a / b.where(valid, torch.ones_like(b)), 0.0)
