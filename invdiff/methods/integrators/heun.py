"""Euler and Heun on the probability-flow ODE, with stochastic churn (Karras et al. 2022, arXiv:2206.00364)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invdiff.methods.integrators.base import Denoise, Integrator, Noise
from invdiff.methods.kernel import renoise


@dataclass(frozen=True, kw_only=True)
class Euler(Integrator):
    """x_s = x + (s − σ)·d, d = (x − x̂₀)/σ: algorithm 2 of Karras et al. without its second-order correction.

    Where churn_min ≤ σ ≤ churn_max the state is first noised up to σ·(1 + γ), γ = churn (the paper's S_churn/N, at
    most √2 − 1), by noise of standard deviation churn_noise (S_noise).
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= math.sqrt(2) - 1:
            raise ValueError(
                f"churn: expected S_churn/steps in [0, {math.sqrt(2) - 1:.4f}], got {self.churn}"
            )
        if not 0 < self.churn_noise < math.inf:
            raise ValueError(f"churn_noise: expected a number above 0, got {self.churn_noise}")

    def step(
        self, denoise: Denoise, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        if self.churn > 0 and self.churn_min <= sigma <= self.churn_max:
            x = renoise(x, sigma, sigma * (1 + self.churn), self.churn_noise * noise())
            sigma = sigma * (1 + self.churn)
        return x + (s - sigma) * self.slope(denoise, x, sigma, s), None

    def slope(self, denoise: Denoise, x: Tensor, sigma: float, s: float) -> Tensor:
        """dx/dσ along the step."""
        return (x - denoise(x, sigma)) / sigma


@dataclass(frozen=True, kw_only=True)
class Heun(Euler):
    """Algorithm 2 of Karras et al.: the mean of the slopes at both ends; two evaluations, but for the step to 0."""

    def slope(self, denoise: Denoise, x: Tensor, sigma: float, s: float) -> Tensor:
        first = super().slope(denoise, x, sigma, s)
        if s == 0:
            return first
        ahead = x + (s - sigma) * first
        return (first + (ahead - denoise(ahead, s)) / s) / 2
