"""RED-diff: regularisation by denoising diffusion (Mardani et al. 2024, arXiv:2305.04391, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Method, Problem
from invdiff.methods.integrators import Noise
from invdiff.operators import LinearOperator


@dataclass(frozen=True, kw_only=True)
class RedDiff(Method):
    """One step of Adam at every level on μ, by the gradient Aᵀ(A μ − y) + λ·(μ − D(μ + σ·ε, σ)).

    That is the paper's, with its weight λ/√SNR on (ε̂ − ε)ᵀμ (eq. 10 and section 4.2), halved from [-1, 1]. The state is
    μ itself: a mode of the posterior rather than a sample, whatever ε. Published: 1000 steps.
    """

    info: ClassVar[MethodInfo] = METHODS["red_diff"]
    any_noise: ClassVar[bool] = True

    steps: int = 100
    weight: float = 0.25
    """The paper's λ."""
    rate: float = 0.1
    """Adam's, on [-1, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight", "rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a number > 0, got {getattr(self, name)}")

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        mean = torch.full_like(noise(), problem.prior.card.data_mean)
        if isinstance(problem.measurement.operator, LinearOperator) and problem.measurement.noise is None:
            return problem.measurement.prox(
                mean, problem.prior.card.data_std**2
            )  # A†y where there is no noise
        return mean

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        m, v, t = carry if carry is not None else (0.0, 0.0, 0)
        spread = problem.measurement.spread.view(-1, 1, 1, 1)
        g = self.weight * (x - problem.prior(x + sigma * noise(), sigma))
        g = g - spread**2 * problem.measurement.score(x)
        m, v, t = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2, t + 1
        ahead = (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
        return x - self.rate / 2 * ahead, (m, v, t)

    def rise(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        return x, carry
