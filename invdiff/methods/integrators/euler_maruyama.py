"""Euler–Maruyama on the reverse SDE, variance exploding or preserving (Song et al. 2021, arXiv:2011.13456)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from invdiff.methods.integrators.base import Denoise, Integrator, Noise
from invdiff.methods.kernel import ancestral, move


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama(Integrator):
    """One step of the reverse SDE, its drift and diffusion frozen over the step (eq. 6).

    form = ve: dx = −(dσ²/dt)·∇log p dt + √(dσ²/dt) dw̄ gives x + (σ² − s²)·∇log p + √(σ² − s²)·ε (eq. 9).
    form = vp: dx = −(β/2)·x dt − β·∇log p dt + √β dw̄ (eq. 11) on [-1, 1], u = √ᾱ·(2x − 1) with ᾱ = 1/(1 + 4σ²), over
    b = ∫β = ln ᾱ_s − ln ᾱ_σ gives u + b·(u/2 + ∇log p) + √b·ε.
    """

    form: Literal["ve", "vp"] = "ve"

    def __post_init__(self) -> None:
        if self.form not in ("ve", "vp"):
            raise ValueError(f"form: expected ve or vp, got {self.form}")

    def step(
        self, denoise: Denoise, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        x0 = denoise(x, sigma)
        if s == 0:
            return x0, None
        if self.form == "ve":
            tau = (sigma**2 - s**2) ** 0.5
            return move(x, x0, sigma, s, ancestral(sigma, s), noise(), tau), None
        b = math.log1p(4 * sigma**2) - math.log1p(4 * s**2)
        return preserving(x, x0, sigma, s, noise(), beta=b, drift=1 + b / 2), None


def preserving(
    x: Tensor, x0: Tensor, sigma: float, s: float, noise: Tensor, *, beta: float, drift: float
) -> Tensor:
    """u_s = drift·u + β·∇log p(u) + √β·ε, from x_σ and to x_s: u = √ᾱ·(2x − 1), ᾱ = 1/(1 + 4σ²), p(u) = p(x)."""
    kept, kept_s = 1 / (1 + 4 * sigma**2), 1 / (1 + 4 * s**2)
    u = kept**0.5 * (2 * x - 1)
    score = (kept**0.5 * (2 * x0 - 1) - u) / (1 - kept)
    return ((drift * u + beta * score + beta**0.5 * noise) / kept_s**0.5 + 1) / 2
