"""One denoiser in the clothes that networks come in: its own output in its own coordinates, and the way back.

Each pair is a network, which is given what such a network is given and answers what it was trained to answer, worked
out from the true posterior mean on [-1, 1], and an adapter, which makes D(x, σ) in image units of it by the textbook's
formula and knows nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invdiff.priors import EDM, Card, Prior

Network = Callable[[Tensor, Tensor], Tensor]
"""Output from (input, time)."""


@dataclass(frozen=True, eq=False)
class Dressed:
    """A prior made of a network and its adapter."""

    card: Card
    network: Network
    adapter: Callable[[Network, Tensor, Tensor], Tensor]
    """(network, x, σ) on [-1, 1], x = x₀ + σ·ε: D on [-1, 1]."""

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return (self.adapter(self.network, 2 * x - 1, 2 * level) + 1) / 2


def centred(prior: Prior) -> Network:
    """E[x₀ given x₀ + σ·ε = x] on [-1, 1], from the prior in image units."""

    def mean(x: Tensor, sigma: Tensor) -> Tensor:
        return 2 * prior((x + 1) / 2, (sigma / 2).flatten().expand(len(x))) - 1

    return mean


def preserving(mean: Network, u: Tensor, kept: Tensor) -> Tensor:
    """x̂₀ of u = √ᾱ·x₀ + √(1−ᾱ)·ε: that of u/√ᾱ at σ = √(1−ᾱ)/√ᾱ."""
    return mean(u / kept.sqrt(), ((1 - kept) / kept).sqrt())


def kept_at(sigma: Tensor) -> Tensor:
    """ᾱ = 1/(1 + σ²)."""
    return 1 / (1 + sigma**2)


def epsilon(prior: Prior) -> Dressed:
    """ε_θ(u, ᾱ) (Ho et al. 2020): x̂₀ = (u − √(1−ᾱ)·ε_θ)/√ᾱ."""
    mean = centred(prior)

    def network(u: Tensor, kept: Tensor) -> Tensor:
        return (u - kept.sqrt() * preserving(mean, u, kept)) / (1 - kept).sqrt()

    def adapter(network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        kept = kept_at(sigma)
        u = kept.sqrt() * x
        return (u - (1 - kept).sqrt() * network(u, kept)) / kept.sqrt()

    return Dressed(prior.card, network, adapter)


def v(prior: Prior) -> Dressed:
    """v = √ᾱ·ε − √(1−ᾱ)·x₀ (Salimans & Ho 2022): x̂₀ = √ᾱ·u − √(1−ᾱ)·v."""
    mean = centred(prior)

    def network(u: Tensor, kept: Tensor) -> Tensor:
        x0 = preserving(mean, u, kept)
        noise = (u - kept.sqrt() * x0) / (1 - kept).sqrt()
        return kept.sqrt() * noise - (1 - kept).sqrt() * x0

    def adapter(network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        kept = kept_at(sigma)
        u = kept.sqrt() * x
        return kept.sqrt() * u - (1 - kept).sqrt() * network(u, kept)

    return Dressed(prior.card, network, adapter)


def x0(prior: Prior) -> Dressed:
    """x̂₀ itself, from variance-preserving coordinates."""
    mean = centred(prior)

    def adapter(network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        kept = kept_at(sigma)
        return network(kept.sqrt() * x, kept)

    return Dressed(prior.card, lambda u, kept: preserving(mean, u, kept), adapter)


@dataclass(frozen=True, eq=False)
class DressedEDM:
    """F(c_in·x, ln σ/4) (Karras et al. 2022, table 1, σ_data = ½), and the package's own way back, `priors.EDM`."""

    prior: Prior

    @property
    def card(self) -> Card:
        return self.prior.card

    def network(self, given: Tensor, c_noise: Tensor) -> Tensor:
        sigma = (4 * c_noise).exp().view(-1, 1, 1, 1)
        total = sigma**2 + 0.25
        x = total.sqrt() * given
        return (centred(self.prior)(x, sigma) - 0.25 / total * x) / (sigma * 0.5 / total.sqrt())

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        levels = torch.as_tensor(sigma, dtype=x.dtype).flatten().expand(len(x))
        return EDM().denoised(x, levels, self.network(*EDM().inputs(x, levels)))


def flow(prior: Prior) -> Dressed:
    """The velocity ε − x₀ at z = (1−t)·x₀ + t·ε (Lipman et al. 2023, linear path): σ = t/(1−t), x̂₀ = z − t·velocity."""
    mean = centred(prior)

    def network(z: Tensor, t: Tensor) -> Tensor:
        x0 = mean(z / (1 - t), t / (1 - t))
        return (z - (1 - t) * x0) / t - x0

    def adapter(network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        t = sigma / (1 + sigma)
        z = (1 - t) * x
        return z - t * network(z, t)

    return Dressed(prior.card, network, adapter)


DRESSES: dict[str, Callable[[Prior], Prior]] = {
    "ε": epsilon,
    "v": v,
    "x₀": x0,
    "F": DressedEDM,
    "velocity": flow,
}
