"""What a method is: hyper-parameters, a walk through noise levels, and what is done at each step of it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.catalog import MethodInfo
from invdiff.errors import InvdiffError
from invdiff.likelihood import Measurement
from invdiff.methods import grid
from invdiff.methods.integrators import Ancestral, Integrator, Noise, integrator
from invdiff.methods.kernel import renoise
from invdiff.priors.base import Prior

_KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a name"),
    "bool": (bool, "True or False"),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior and a measurement: what there is to sample from."""

    prior: Prior
    measurement: Measurement

    @property
    def centre(self) -> Tensor | None:
        """(B, C, H, W): what x₀ lies around, where a prior that sees y knows it (`conditional.Sees`)."""
        centre: Tensor | None = getattr(self.prior, "centre", None)
        return centre

    def variance(self, sigma: float, tau: float | None = None) -> float:
        """r² = σ²τ²/(σ²+τ²): that of x₀ given x_σ, were the pixels independent of variance τ² (None: the data's)."""
        tau = self.prior.card.data_std if tau is None else tau
        return sigma**2 * tau**2 / (sigma**2 + tau**2)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A sampler of x₀ given y: a walk through noise levels (`levels`) and a step from each to the next.

    σ's are in image units, states (B, C, H, W) in variance-exploding coordinates, x_σ = x₀ + σ·ε.
    """

    info: ClassVar[MethodInfo]
    any_noise: ClassVar[bool] = False
    """Whether it asks the measurement for a distance or a likelihood alone, which know every noise; others want a
    white one."""

    steps: int = 30
    """Noise levels."""
    sigma_max: float = 10.0
    """The first of them, in image units."""
    sigma_min: float = 0.005
    """The last before 0."""
    grid: str | tuple[float, ...] = "karras"
    """How they lie between (`grid.levels`), or the levels themselves, which then are the steps."""
    jump: int = 1
    """Travel: levels climbed back up, and walked down again,"""
    repeats: int = 1
    """so that each stretch is walked down this often (RePaint's resampling, DDNM's time travel); 1: no travel."""

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            kind, words = _KINDS.get(str(setting.type), (object, ""))
            value = getattr(self, setting.name)
            if not isinstance(value, kind) or (isinstance(value, bool) and setting.type in ("int", "float")):
                raise ValueError(f"{setting.name}: expected {words}, got {value!r}")
        if not self.steps >= 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")
        if not 0 < self.sigma_min <= self.sigma_max < float("inf"):
            raise ValueError(f"expected 0 < sigma_min ≤ sigma_max, got {self.sigma_min} and {self.sigma_max}")
        walk = grid.levels(self.grid, self.steps, self.sigma_max, self.sigma_min)
        if not isinstance(self.grid, str):
            for name, value in {"steps": len(walk) - 1, "sigma_max": walk[0], "sigma_min": walk[-2]}.items():
                object.__setattr__(self, name, value)
        grid.resample([1.0, 0.0], self.jump, self.repeats)  # says what is wrong with them
        if self.repeats > 1 and self.jump >= self.steps:
            raise ValueError(
                f"jump: expected fewer levels than the {self.steps} steps, got {self.jump}; repeats=1 for no travel"
            )

    def check(self, measurement: Measurement) -> None:  # noqa: B027  # most can treat all that `info` says
        """RequestError for a measurement that it cannot treat with these settings."""

    @abstractmethod
    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        """From x_σ to x_s, s ≤ σ, with what the next step is to know of this one. carry: the last one's, or None."""

    def rise(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        """From x_σ up to x_s, s > σ: travel."""
        return renoise(x, sigma, s, noise()), None

    def levels(self, problem: Problem) -> list[float]:
        """The walk through σ; it ends in 0."""
        return self.travelled(grid.levels(self.grid, self.steps, self.sigma_max, self.sigma_min))

    def travelled(self, levels: Sequence[float]) -> list[float]:
        """The walk over descending levels, with the way back up where it is asked for."""
        return grid.resample(levels, self.jump, self.repeats)

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        """x at the first level: noise around what x₀ lies around, with the data's own variance added."""
        card, centre = problem.prior.card, problem.centre
        around = card.data_mean if centre is None else centre
        return around + (sigma**2 + card.data_std**2) ** 0.5 * noise()


@dataclass(frozen=True, kw_only=True)
class Guided(Method):
    """A rule that says how x̂₀ comes from D(x, σ), y and A, which any integrator walks.

    A subclass gives `estimate`, and `own` where its paper's integrator is not DDPM's; it overrides `step` where the
    rule is more than an x̂₀.
    """

    integrator: str = ""
    """As `integrators.integrator` reads it: heun, ddim:0.5, ...; empty: the method's own."""
    clip: bool = False
    """Clip x̂₀ to [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.solver  # noqa: B018  # says what is wrong with it

    @abstractmethod
    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        """x̂₀, the estimate of the clean picture given x_σ and y."""

    @property
    def own(self) -> Integrator:
        """The integrator where none is named."""
        return Ancestral()

    @property
    def solver(self) -> Integrator:
        return integrator(self.integrator) if self.integrator else self.own

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            return self.clipped(self.estimate(problem, x, sigma))

        return self.solver.step(denoise, x, sigma, s, noise, carry)

    def unconditional(
        self, problem: Problem, x: Tensor, x0: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        """A step that knows nothing of y, D(x, σ) = x0 being at hand."""

        def denoise(z: Tensor, level: float) -> Tensor:
            return x0 if z is x and level == sigma else self.clipped(problem.prior(z, level))

        return self.solver.step(denoise, x, sigma, s, noise, carry)

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
