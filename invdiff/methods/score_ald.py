"""Score-ALD: annealed Langevin dynamics on the posterior (Jalal et al. 2021, arXiv:2108.01368, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Guided, Problem
from invdiff.methods.integrators import AnnealedLangevin, Integrator, Noise
from invdiff.methods.kernel import ancestral


@dataclass(frozen=True, kw_only=True)
class ScoreALD(Guided):
    """x̂₀ = D + σ²·Aᵀ(y − A x)/(σ_y² + γ²σ²), walked by annealed Langevin steps.

    The likelihood's score at x itself, its noise widened by γσ: the paper's annealing. No derivative of the network.
    γ is raised to √(1 − s²/σ²), times ‖A‖ where that is more than 1, where it is less.
    """

    info: ClassVar[MethodInfo] = METHODS["score_ald"]
    any_noise: ClassVar[bool] = True

    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma: expected a number > 0, got {self.gamma}")

    @property
    def own(self) -> Integrator:
        return AnnealedLangevin()

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        least = problem.measurement.gain * ancestral(sigma, s)  # less, and a long step would overshoot y

        def denoise(z: Tensor, level: float) -> Tensor:
            return self.clipped(self.annealed(problem, z, level, least.clamp(min=self.gamma**2)))

        return self.solver.step(denoise, x, sigma, s, noise, carry)

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        return self.annealed(problem, x, sigma, torch.full_like(problem.measurement.gain, self.gamma**2))

    def annealed(self, problem: Problem, x: Tensor, sigma: float, squared: Tensor) -> Tensor:
        """x̂₀ with γ² = squared, (B,)."""
        variance = 1 / problem.measurement.stiffness
        widened = (variance / (variance + squared * sigma**2)).view(-1, 1, 1, 1)
        return problem.prior(x, sigma) + sigma**2 * widened * problem.measurement.score(x)
