"""Pictures of how far a run is: samples of the moving average, by few steps."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from invdiff.methods import grid
from invdiff.methods.integrators import Ancestral, DPMSolver
from invdiff.priors.conditional import ConditionalNetwork
from invdiff.priors.network import NetworkPrior
from invdiff.training.data import stream

SIGMA_MAX = 40.0
SIGMA_MIN = 0.005
"""Image units: where sampling begins and ends, at most what the prior knows."""

PURPOSE = 5
"""Of the random stream: starting noise depends on the seed alone, so that pictures of one run can be compared."""


@torch.inference_mode()
def sampled(
    prior: NetworkPrior, count: int, size: int, steps: int, seed: int, device: torch.device
) -> Tensor:
    """(count, C, size, size), clipped: samples by DPM-Solver++; of the classes in turn, where the prior has any."""
    card = prior.card
    high = min(SIGMA_MAX, card.sigma_max)
    levels = grid.karras(steps, high, min(max(SIGMA_MIN, card.sigma_min), high))
    generator = stream(seed, 0, PURPOSE)
    start = levels[0] * torch.randn((count, card.channels or 1, size, size), generator=generator)
    labels = [i * card.classes // count if card.classes else None for i in range(count)]
    out = torch.empty_like(start)
    for label in dict.fromkeys(labels):
        rows = [i for i, other in enumerate(labels) if other == label]
        x, carry = start[rows].to(device), None
        told = prior.given(label)
        for sigma, s in pairwise(levels):
            x, carry = DPMSolver().step(told, x, sigma, s, _Zero(x), carry)
        out[rows] = x.clamp(0, 1).cpu()
    return out


@torch.inference_mode()
def restored(prior: ConditionalNetwork, shown: Tensor, channels: int, steps: int, seed: int) -> list[Tensor]:
    """[a sample, D at the most noise], (B, channels, H, W) each, of what a conditional network is shown, (B, K, H, W).

    Noisy steps, whose draws depend on the seed alone.
    """
    card, generator = prior.card, stream(seed, 1, PURPOSE)
    high = min(SIGMA_MAX / 4, card.sigma_max)
    levels = grid.karras(steps, high, min(max(SIGMA_MIN, card.sigma_min), high))
    size = (len(shown), channels, *shown.shape[2:])
    noise = _Fresh(generator, size, shown)
    x, carry, first = levels[0] * noise(), None, None

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return prior.shown(x, shown, sigma)

    if prior.condition.residual:
        x = x + (shown[:, :channels] + 1) / 2
    for sigma, s in pairwise(levels):
        first = denoise(x, sigma) if first is None else first
        x, carry = Ancestral().step(denoise, x, sigma, s, noise, carry)
    return [x.cpu(), (x if first is None else first).cpu()]


def sheet(pictures: Tensor) -> Tensor:
    """(N, C, H, W) → (C, rows·H, columns·W), as square as can be, row by row; empty places are black."""
    count, channels, height, width = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    full = torch.zeros((rows * columns, channels, height, width))
    full[:count] = pictures
    return full.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4).reshape(
        channels, rows * height, columns * width
    )  # fmt: skip


class _Fresh:
    """Fresh noise of one size, whatever is asked for."""

    def __init__(self, generator: torch.Generator, size: tuple[int, ...], like: Tensor) -> None:
        self.generator, self.size, self.like = generator, size, like

    def __call__(self, shape: Any = None, /) -> Tensor:
        return torch.randn(self.size, generator=self.generator).to(self.like)

    def uniform(self) -> Tensor:
        return torch.rand(self.size[0], generator=self.generator).to(self.like)


class _Zero:
    """No fresh noise, for a deterministic solver."""

    def __init__(self, like: Tensor) -> None:
        self._zero = torch.zeros_like(like)

    def __call__(self, shape: Any = None, /) -> Tensor:
        return self._zero

    def uniform(self) -> Tensor:
        return self._zero.new_zeros(len(self._zero))
