"""What a method is: hyper-parameters, and how x̂₀ comes from D(x, σ), y and A."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.catalog import MethodInfo
from invdiff.errors import InvdiffError
from invdiff.likelihood import Measurement
from invdiff.methods import grid
from invdiff.methods.kernel import ancestral, move
from invdiff.priors.base import Prior


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior and a measurement: what there is to sample from."""

    prior: Prior
    measurement: Measurement

    def variance(self, sigma: float, tau: float | None = None) -> float:
        """r² = σ²τ²/(σ²+τ²): that of x₀ given x_σ, were the pixels independent of variance τ² (None: the data's)."""
        tau = self.prior.card.data_std if tau is None else tau
        return sigma**2 * tau**2 / (sigma**2 + tau**2)


Noise = Callable[[], Tensor]
"""Draws ε ~ N(0, I), (B, C, H, W), each sample from its own stream."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A sampler of x₀ given y. Subclasses say how x̂₀ comes about, and override `step` where that is not all.

    σ's are in image units, states (B, C, H, W) in variance-exploding coordinates, x_σ = x₀ + σ·ε.
    """

    info: ClassVar[MethodInfo]
    any_noise: ClassVar[bool] = False
    """Whether it asks the measurement for a distance alone, which knows every noise; others want a white one."""

    steps: int = 30
    """Noise levels."""
    sigma_max: float = 10.0
    """The first of them, in image units."""
    sigma_min: float = 0.005
    """The last before 0."""
    eta: float = 1.0
    """DDIM's η: 1 is DDPM's ancestral noise, 0 none."""
    clip: bool = False
    """Clip x̂₀ to [0, 1]."""

    def __post_init__(self) -> None:
        if not self.steps >= 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min ≤ sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}")

    @abstractmethod
    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        """x̂₀, the estimate of the clean picture given x_σ and y."""

    def step(self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise) -> Tensor:
        """From x_σ to x_s, s < σ."""
        x0 = self.clipped(self.estimate(problem, x, sigma))
        return move(x, x0, sigma, s, self.fresh(sigma, s), noise())

    def fresh(self, sigma: float, s: float) -> float:
        """The fraction f of fresh noise from σ to s."""
        return ancestral(sigma, s, self.eta)

    def levels(self, problem: Problem) -> list[float]:
        """The walk through σ; it ends in 0."""
        return grid.karras(self.steps, self.sigma_max, self.sigma_min)

    def start(self, problem: Problem, sigma: float, noise: Tensor) -> Tensor:
        """x at the first level: noise around the data's mean, with the data's own variance added."""
        card = problem.prior.card
        return card.data_mean + (sigma**2 + card.data_std**2) ** 0.5 * noise

    def clipped(self, x0: Tensor) -> Tensor:
        return x0.clamp(0, 1) if self.clip else x0


class Linearised:
    """D(x, σ) with the products Jᵀv of its Jacobian J = ∂D/∂x."""

    def __init__(self, problem: Problem, x: Tensor, sigma: float) -> None:
        with torch.enable_grad():
            self._leaf = x.detach().requires_grad_()
            self._graph = problem.prior(self._leaf, sigma)
        if not self._graph.requires_grad:
            name = problem.prior.card.name
            raise InvdiffError(
                f"prior {name} cannot be differentiated; use a method that needs no gradient (diffpir)"
            )
        self.denoised = self._graph.detach()

    def pull(self, v: Tensor, *, last: bool = False) -> Tensor:
        """Jᵀv, (B, C, H, W). last: no further product will be asked for, so the graph may go."""
        with (
            torch.enable_grad()
        ):  # a scalar's gradient: that of a tensor makes torch import sympy first, for seconds
            product = (self._graph * v).sum()
        return torch.autograd.grad(product, self._leaf, retain_graph=not last)[0]
