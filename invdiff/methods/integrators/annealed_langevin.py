"""Annealed Langevin dynamics (Song & Ermon 2019, arXiv:1907.05600, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invdiff.methods.integrators.base import Denoise, Integrator, Noise


@dataclass(frozen=True, kw_only=True)
class AnnealedLangevin(Integrator):
    """`corrections` steps x += (α/2)·∇log p + √α·ε at the level s, α = size·s²; to 0 by x̂₀.

    The paper's α_i = ε·σ_i²/σ_L²: size is its ε/σ_L², .2 as published (ε = 2e-5, σ_L = .01), with 100 steps a level.
    The denoising end is that of Jolicoeur-Martineau et al. 2021, arXiv:2009.05475.
    """

    corrections: int = 10
    size: float = 0.2

    def __post_init__(self) -> None:
        if self.corrections < 1:
            raise ValueError(f"corrections: expected at least 1, got {self.corrections}")
        if not 0 < self.size < 4:
            raise ValueError(
                f"size: expected a number between 0 and 4, beyond which it diverges, got {self.size}"
            )

    def step(
        self, denoise: Denoise, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        if s == 0:
            return denoise(x, sigma), None
        for _ in range(self.corrections):
            x = x + self.size / 2 * (denoise(x, s) - x) + (self.size**0.5 * s) * noise()
        return x, None
