"""From a network's output to the denoiser D."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EDM:
    """Karras et al. 2022, table 1: D = c_skip·x + c_out·F(c_in·x, c_noise), on pictures in [-1, 1].

    The only place where image units become the network's: u = 2x − 1 and twice the σ, and back.
    """

    sigma_data: float = 0.5
    """The pictures' standard deviation in the network's range, [-1, 1]."""

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data: expected a positive number, got {self.sigma_data}")

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, c_noise for σ in the network's range, any shape."""
        total = (sigma**2 + self.sigma_data**2).sqrt()
        level = sigma.clamp(min=torch.finfo(sigma.dtype).tiny)  # c_noise stays finite at σ = 0, where D = x
        return (self.sigma_data / total) ** 2, sigma * self.sigma_data / total, 1 / total, level.log() / 4

    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) and σ (B,) in image units → what the network is given: (B, C, H, W), (B,)."""
        _, _, c_in, c_noise = self.scalings(2 * sigma)
        return c_in[:, None, None, None] * (2 * x - 1), c_noise

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """D in image units from the network's output F."""
        c_skip, c_out, _, _ = (c[:, None, None, None] for c in self.scalings(2 * sigma))
        return (c_skip * (2 * x - 1) + c_out * output + 1) / 2

    def target(self, x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """What F ought to be for the clean x₀: a loss of unit weight on F is EDM's λ(σ) = 1/c_out² on D."""
        c_skip, c_out, _, _ = (c[:, None, None, None] for c in self.scalings(2 * sigma))
        return (2 * x0 - 1 - c_skip * (2 * x - 1)) / c_out
