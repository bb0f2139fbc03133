"""The EDM objective."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.priors.precondition import EDM
from invdiff.training.recipe import Noise


def draw_sigma(noise: Noise, count: int, generator: torch.Generator) -> Tensor:
    """(count,) noise levels in image units; `noise` states them in the network's range, twice as large."""
    log_normal = noise.mean + noise.std * torch.randn(count, generator=generator)
    low, high = math.log(noise.sigma_min), math.log(noise.sigma_max)
    uniform = low + (high - low) * torch.rand(count, generator=generator)
    pick = torch.rand(count, generator=generator) < noise.uniform
    return torch.where(pick, uniform, log_normal).clamp(low, high).exp() / 2


def edm_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    precondition: EDM,
    x0: Tensor,
    sigma: Tensor,
    epsilon: Tensor,
) -> Tensor:
    """(B,): mean over (C, H, W) of λ(σ)·|D(x₀ + σε, σ) − x₀|², λ = 1/c_out² and D in the network's range.

    That is |F − target|² (Karras et al. 2022, eq. 8). x0, epsilon: (B, C, H, W), image units; sigma: (B,).
    """
    x = x0 + sigma[:, None, None, None] * epsilon
    given, c_noise = precondition.inputs(x, sigma)
    output = network(given.contiguous(memory_format=torch.channels_last), c_noise)
    return (output.float() - precondition.target(x0, x, sigma)).square().mean(dim=(1, 2, 3))
