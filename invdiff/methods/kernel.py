"""The one kernel that moves every method from one noise level to another."""

from __future__ import annotations

from torch import Tensor


def move(
    x: Tensor, x0: Tensor, sigma: float, s: float, fresh: float, noise: Tensor, tau: float | None = None
) -> Tensor:
    """From x_σ to x_s, s < σ:  x_s = x̂₀ + s·√(1−f)·(x − x̂₀)/σ + τ·ε,  τ = s·√f unless given.

    x: the state, x0: x̂₀, noise: ε ~ N(0, I), all (B, C, H, W); fresh: f ∈ [0, 1], the fraction of the noise at
    level s that is new. f = 0 is DDIM (Song et al. 2021), `ancestral` DDPM (Ho et al. 2020, eq. 7).
    """
    tau = s * fresh**0.5 if tau is None else tau
    return x0 + (s * (1 - fresh) ** 0.5 / sigma) * (x - x0) + tau * noise


def renoise(x: Tensor, sigma: float, s: float, noise: Tensor) -> Tensor:
    """From x_σ up to x_s, s > σ:  x + √(s² − σ²)·ε (the travel of RePaint and DDNM)."""
    return x + (s**2 - sigma**2) ** 0.5 * noise


def ancestral(sigma: float, s: float, eta: float = 1.0) -> float:
    """The fraction f of fresh noise of DDIM(η): η²·(1 − s²/σ²); η = 1 is DDPM's posterior, η = 0 deterministic."""
    return eta**2 * (1 - (s / sigma) ** 2)
