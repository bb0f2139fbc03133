"""What is added to A(x)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, pi

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianNoise:
    """y = A(x) + sigma · n, n ~ N(0, I). sigma: image units (8-bit 12.75 is 0.05); ValueError if negative."""

    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < inf:
            raise ValueError(f"sigma: expected a number from 0 up, in image units, got {self.sigma}")

    def sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """y + sigma · n, drawn where the generator lives: one on the CPU draws the same for every device."""
        noise = torch.randn(y.shape, generator=generator, device=generator.device, dtype=y.dtype)
        return y + self.sigma * noise.to(y.device)

    def log_likelihood(self, residual: Tensor) -> Tensor:
        """log N(residual; 0, sigma² I), (B,). residual: (B, ...), y − A(x). ValueError if sigma is 0."""
        if self.sigma == 0:
            raise ValueError("log_likelihood: noise with sigma = 0 has no density")
        r = residual.flatten(1)
        return -0.5 * ((r / self.sigma).square().sum(1) + r.shape[1] * log(2 * pi * self.sigma**2))
