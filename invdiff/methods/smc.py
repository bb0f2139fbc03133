"""SMC: the twisted diffusion sampler (Wu et al. 2023, arXiv:2306.17775, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Linearised, Method, Problem
from invdiff.methods.integrators import Noise
from invdiff.methods.kernel import ancestral, move


@dataclass(frozen=True, kw_only=True)
class SMC(Method):
    """Particles moved by guided ancestral steps, weighted and resampled so that they are right as their number grows.

    The twist is p̃(y given x_σ) = N(y; A D, r² A Aᵀ + σ_y² I), so that the proposal is ΠGDM's x̂₀; a particle's weight is

        w = p(x_s given x_σ)·p̃(y given x_s) / (q(x_s given x_σ)·p̃(y given x_σ)),

    p and q the ancestral steps by D and by x̂₀ (eqs. 8 and 9). Systematic resampling where fewer than half of them
    count. From the last level x₀ is drawn from N(D, r² I) given y, whose weight is 1. Each sample is a run of its own.
    """

    info: ClassVar[MethodInfo] = METHODS["smc"]

    steps: int = 25
    particles: int = 4
    tau: float | None = None
    """As in ΠGDM: τ in image units; None: the prior's data_std."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.particles < 1:
            raise ValueError(f"particles: expected at least 1, got {self.particles}")
        if self.tau is not None and not 0 < self.tau < float("inf"):
            raise ValueError(f"tau: expected a number > 0, got {self.tau}")
        if self.repeats > 1:
            raise ValueError(f"repeats: expected 1, a step up has no weight, got {self.repeats}")

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        return torch.cat([super(SMC, self).start(problem, sigma, noise) for _ in range(self.particles)])

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        count = len(problem.measurement.y)  # x holds particle after particle, each of all images
        crowd = Problem(problem.prior, problem.measurement.pick([*range(count)] * self.particles))
        measurement, r2 = crowd.measurement, problem.variance(sigma, self.tau)
        at = Linearised(crowd, x, sigma)
        moved = measurement.linear.prox(at.denoised, measurement.y, r2 / measurement.variance)
        residual = measurement.residual(at.denoised)
        weighted = measurement.residual(moved) / measurement.variance  # (r² A Aᵀ + σ_y² I)⁻¹ (y − A D)
        twist = -(residual * weighted).flatten(1).sum(dim=1).view(self.particles, count) / 2
        guided = at.denoised + sigma**2 * at.pull((moved - at.denoised) / r2, last=True)
        log_w = twist if carry is None else carry + twist
        if s == 0:
            chosen = _places(log_w, noise.uniform()[None])[0]
            x0 = at.denoised.view(self.particles, count, *x.shape[1:])[chosen, torch.arange(count)]
            return problem.measurement.perturbed(x0, r2**0.5, noise), None
        few = 1 / log_w.softmax(dim=0).square().sum(dim=0) < self.particles / 2
        points = (torch.arange(self.particles).to(log_w)[:, None] + noise.uniform()) / self.particles
        kept = torch.arange(self.particles, device=x.device)[:, None].expand(-1, count)
        places = torch.where(few, _places(log_w, points), kept)
        rows = (places * count + torch.arange(count, device=x.device)).flatten()
        fresh = ancestral(sigma, s)
        zero = torch.zeros_like(x)
        plain = move(x, at.denoised, sigma, s, fresh, zero)[rows]
        aimed = move(x, guided, sigma, s, fresh, zero)[rows]
        ahead = aimed + s * fresh**0.5 * torch.cat([noise() for _ in range(self.particles)])
        gap = ((ahead - aimed).square() - (ahead - plain).square()).flatten(1).sum(dim=1)
        gain = gap.view_as(twist) / (2 * s**2 * fresh) - twist.flatten()[rows].view_as(twist)
        return ahead, torch.where(few, 0, log_w) + gain


def _places(log_w: Tensor, points: Tensor) -> Tensor:
    """The particle at each point of [0, 1) where they lie side by side by weight; (k, B) from (P, B) and (k, B)."""
    edges = log_w.softmax(dim=0).cumsum(dim=0)
    found = torch.searchsorted(edges.T.contiguous(), points.T.contiguous(), right=True).T
    return found.clamp(max=len(log_w) - 1)
