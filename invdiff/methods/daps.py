"""DAPS: decoupled annealing posterior sampling (Zhang et al. 2025, arXiv:2407.01521, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods import grid
from invdiff.methods.base import Method, Problem
from invdiff.methods.integrators import Noise, integrator


@dataclass(frozen=True, kw_only=True)
class DAPS(Method):
    """x̂₀ by the probability-flow ODE from x_σ; x₀ ~ p(x₀) ∝ N(x₀; x̂₀, σ² I)·p(y given x₀); x_s = x₀ + s·ε.

    x₀ is drawn by Langevin steps from x̂₀ (eq. 7), too few and too small to reach p where σ is large: in exact draws the
    noise σ, which no picture has, would stay in all that y does not say. Published: 200 levels, ρ 7.
    """

    info: ClassVar[MethodInfo] = METHODS["daps"]
    any_noise: ClassVar[bool] = True

    steps: int = 30
    sigma_min: float = 0.05
    ode_steps: int = 5
    """Steps of the ODE, down to σ = .005."""
    integrator: str = "euler"
    """What solves the ODE."""
    langevin: int = 100
    """Langevin steps for each x₀."""
    rate: float = 1e-4
    """Their size on [-1, 1]; it falls along the walk to a hundredth, and is less where they would diverge."""
    tau: float = 0.01
    """Their σ_y on [-1, 1] where y's own is smaller."""

    def __post_init__(self) -> None:
        super().__post_init__()
        integrator(self.integrator)
        least = {"ode_steps": 1, "langevin": 1, "rate": 1e-12, "tau": 1e-12}
        for name, value in least.items():
            if not value <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected at least {value:g}, got {getattr(self, name)}")

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        x0, memory = x, None
        for a, b in pairwise(grid.karras(self.ode_steps, sigma, min(sigma, 0.005))):
            x0, memory = integrator(self.integrator).step(problem.prior, x0, a, b, noise, memory)
        x0 = self.drawn(problem, x0, sigma, noise)
        return x0 + s * noise(), None

    def drawn(self, problem: Problem, x0: Tensor, r: float, noise: Noise) -> Tensor:
        """x₀ given x̂₀ and y."""
        measurement = problem.measurement
        spread = measurement.stiffness.view(-1, 1, 1, 1) ** -0.5
        ends = [level ** (1 / 7) for level in (self.sigma_max, r, self.sigma_min)]
        done = (ends[0] - ends[1]) / (ends[0] - ends[2]) if self.sigma_min < self.sigma_max else 1.0
        x, softened = x0, (spread / spread.clamp(min=self.tau / 2)) ** 2
        steepest = measurement.gain.view(-1, 1, 1, 1) / spread.clamp(min=self.tau / 2) ** 2
        h = (1 / steepest).clamp(max=self.rate / 4 * (1 - 0.99 * done))
        for _ in range(self.langevin):
            gradient = (x - x0) / r**2 - softened * measurement.score(x)
            x = x - h * gradient + (2 * h) ** 0.5 * noise()
        return x
