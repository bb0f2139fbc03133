"""Predictor-corrector samplers (Song et al. 2021, arXiv:2011.13456, algorithms 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from invdiff.methods.integrators.base import Denoise, Integrator, Noise
from invdiff.methods.integrators.euler_maruyama import preserving
from invdiff.methods.kernel import ancestral, move


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(Integrator):
    """A reverse-diffusion step, then `corrections` Langevin steps at the level reached.

    x += ε·g + √(2ε)·z with g = ∇log p(x), z ~ N(0, I) and ε = 2·(r·‖z‖/‖g‖)², norms per sample (appendix G). form = ve:
    algorithm 2. form = vp: algorithm 3, the predictor u_s = (2 − √(1 − β))·u + β·∇log p + √β·z and the corrector's ε
    times α = 1 − β of the same step, both for u = √ᾱ·(2x − 1). snr: r, .16 as published for both on CIFAR-10.
    """

    form: Literal["ve", "vp"] = "ve"
    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.form not in ("ve", "vp"):
            raise ValueError(f"form: expected ve or vp, got {self.form}")
        if self.corrections < 0:
            raise ValueError(f"corrections: expected at least 0, got {self.corrections}")
        if not 0 < self.snr < 1:
            raise ValueError(f"snr: expected a number between 0 and 1, got {self.snr}")

    def step(
        self, denoise: Denoise, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        x0 = denoise(x, sigma)
        if s == 0:
            return x0, None
        beta = 1 - (1 + 4 * s**2) / (1 + 4 * sigma**2)
        if self.form == "ve":
            tau = (sigma**2 - s**2) ** 0.5
            x = move(x, x0, sigma, s, ancestral(sigma, s), noise(), tau)
        else:
            x = preserving(x, x0, sigma, s, noise(), beta=beta, drift=2 - (1 - beta) ** 0.5)
        for _ in range(self.corrections):
            x = corrected(denoise, x, s, noise(), self.snr, 1 - beta if self.form == "vp" else 1.0)
        return x, None


def corrected(denoise: Denoise, x: Tensor, s: float, z: Tensor, snr: float, alpha: float) -> Tensor:
    """One Langevin step at level s. Its shape is the same in u as in x: a gradient scales as 1/u, ε as u²."""
    g = (denoise(x, s) - x) / s**2
    axes = (-1, *[1] * (x.ndim - 1))
    ratio = z.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1).clamp(min=1e-12)
    epsilon = (2 * alpha * (snr * ratio) ** 2).view(axes)
    return x + epsilon * g + (2 * epsilon).sqrt() * z
