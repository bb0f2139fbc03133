"""DDPM's ancestral steps and DDIM (Ho et al. 2020, arXiv:2006.11239; Song et al. 2021, arXiv:2010.02502)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invdiff.methods.integrators.base import Denoise, Integrator, Noise
from invdiff.methods.kernel import ancestral, move


@dataclass(frozen=True, kw_only=True)
class DDIM(Integrator):
    """x_s = x̂₀ + √(s² − τ²)·(x − x̂₀)/σ + τ·ε, τ = η·s·√(1 − s²/σ²) (Song et al. 2021, eqs. 12 and 16).

    η = 0 is deterministic, and Euler's step on the probability-flow ODE; η = 1 is DDPM's posterior of variance β̃.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}")

    def step(
        self, denoise: Denoise, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        return move(x, denoise(x, sigma), sigma, s, ancestral(sigma, s, self.eta), noise()), None


@dataclass(frozen=True, kw_only=True)
class Ancestral(DDIM):
    """DDPM (Ho et al. 2020, eqs. 6, 7 and algorithm 2 with σ² = β̃)."""

    eta: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Renew(Integrator):
    """The same share f of fresh noise at every step: DiffPIR's ζ (eq. 13), DDNM's η²."""

    fresh: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.fresh <= 1:
            raise ValueError(f"fresh: expected a number in [0, 1], got {self.fresh}")

    def step(
        self, denoise: Denoise, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        return move(x, denoise(x, sigma), sigma, s, self.fresh, noise()), None
