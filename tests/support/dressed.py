"""One denoiser in the clothes that networks come in: its own output, in its own coordinates, told its own time.

Each network is worked out from the true posterior mean by the textbook's formulas, and knows nothing of
`invdiff.priors.precondition`, which is the way back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invdiff.operators import Operator
from invdiff.priors import EDM, VE, VP, Card, ConditionalPrior, Flow, Precondition, Prior
from invdiff.priors.conditional import Sees

Mean = Callable[[Tensor, Tensor], Tensor]
"""E[x₀ given x₀ + σ·ε = x], x (B, C, H, W) and σ (B, 1, 1, 1) in the network's range."""


@dataclass(frozen=True, eq=False)
class Dressed:
    """A prior made of a network and the package's preconditioning."""

    card: Card
    network: Callable[[Tensor, Tensor], Tensor]
    """Output from (input, time (B, 1, 1, 1))."""
    precondition: Precondition

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        levels = torch.as_tensor(sigma, dtype=x.dtype).flatten().expand(len(x))
        given, time = self.precondition.inputs(x, levels)
        return self.precondition.denoised(x, levels, self.network(given, time.view(-1, 1, 1, 1)))


def ranged(prior: Prior, black: float, white: float) -> Mean:
    """The posterior mean in a range, from the prior in image units."""

    def mean(x: Tensor, sigma: Tensor) -> Tensor:
        gain = white - black
        return gain * prior((x - black) / gain, (sigma / gain).flatten().expand(len(x))) + black

    return mean


def preserving(mean: Mean, u: Tensor, kept: Tensor) -> Tensor:
    """x̂₀ of u = √ᾱ·x₀ + √(1−ᾱ)·ε: that of u/√ᾱ at σ = √(1−ᾱ)/√ᾱ."""
    return mean(u / kept.sqrt(), ((1 - kept) / kept).sqrt())


def kept_of_betas(betas: Tensor) -> Callable[[Tensor], Tensor]:
    """ᾱ at a time between 0 and T − 1; between two steps ln σ is a straight line."""
    log_sigma = [0.5 * math.log((1 - a) / a) for a in (1 - betas).cumprod(0).tolist()]

    def kept(t: Tensor) -> Tensor:
        levels = []
        for one in t.flatten().tolist():
            low = min(int(one), len(log_sigma) - 2)
            levels.append(log_sigma[low] + (one - low) * (log_sigma[low + 1] - log_sigma[low]))
        return 1 / (1 + torch.tensor(levels, dtype=t.dtype).exp().view_as(t) ** 2)

    return kept


def kept_by_the_sde(t: Tensor) -> Tensor:
    """Song et al. 2021, eq. 33: ᾱ = exp(−t²(β_max − β_min)/2 − t·β_min), β from .1 to 20."""
    return (-0.5 * t**2 * (20 - 0.1) - t * 0.1).exp()


def epsilon(prior: Prior) -> Dressed:
    """ε_θ(u, t) of Ho et al. 2020, told the step of a thousand, its β so small at first that σ = .005 is among them."""
    mean, kept_at = ranged(prior, -1, 1), kept_of_betas(torch.linspace(1e-6, 0.02, 1000, dtype=torch.float64))

    def network(u: Tensor, t: Tensor) -> Tensor:
        kept = kept_at(t)
        return (u - kept.sqrt() * preserving(mean, u, kept)) / (1 - kept).sqrt()

    return Dressed(prior.card, network, VP(beta_start=1e-6))


def v(prior: Prior) -> Dressed:
    """v = √ᾱ·ε − √(1−ᾱ)·x₀ (Salimans & Ho 2022), told 999·t of the SDE."""
    mean = ranged(prior, -1, 1)

    def network(u: Tensor, time: Tensor) -> Tensor:
        kept = kept_by_the_sde(time / 999)
        x0 = preserving(mean, u, kept)
        noise = (u - kept.sqrt() * x0) / (1 - kept).sqrt()
        return kept.sqrt() * noise - (1 - kept).sqrt() * x0

    return Dressed(prior.card, network, VP(prediction="v", schedule="sde", scale=999))


def x0(prior: Prior) -> Dressed:
    """x̂₀ itself, from variance-preserving coordinates on [0, 1], and a variance beside it."""
    mean = ranged(prior, 0, 1)

    def network(u: Tensor, t: Tensor) -> Tensor:
        x0 = preserving(mean, u, kept_by_the_sde(t))
        return torch.cat([x0, torch.full_like(x0, 7.0)], dim=1)

    return Dressed(prior.card, network, VP(prediction="x0", schedule="sde", black=0))


def edm(prior: Prior) -> Dressed:
    """F(c_in·x, ln σ/4) (Karras et al. 2022, table 1, σ_data = ½)."""
    mean = ranged(prior, -1, 1)

    def network(given: Tensor, c_noise: Tensor) -> Tensor:
        sigma = (4 * c_noise).exp()
        total = sigma**2 + 0.25
        x = total.sqrt() * given
        return (mean(x, sigma) - 0.25 / total * x) / (sigma * 0.5 / total.sqrt())

    return Dressed(prior.card, network, EDM())


def velocity(prior: Prior) -> Dressed:
    """The velocity ε − x₀ at z = (1−t)·x₀ + t·ε (Lipman et al. 2023, linear path), told 1000·t."""
    mean = ranged(prior, -1, 1)

    def network(z: Tensor, time: Tensor) -> Tensor:
        t = time / 1000
        x0 = mean(z / (1 - t), t / (1 - t))
        return (z - (1 - t) * x0) / t - x0

    return Dressed(prior.card, network, Flow(scale=1000))


def score(prior: Prior) -> Dressed:
    """∇ log p_σ(x) = (E[x₀ given x] − x)/σ² (Song et al. 2021), on [0, 1], told ln σ."""
    mean = ranged(prior, 0, 1)

    def network(x: Tensor, log_sigma: Tensor) -> Tensor:
        sigma = log_sigma.exp()
        return (mean(x, sigma) - x) / sigma**2

    return Dressed(prior.card, network, VE(clock="ln_sigma", black=0))


@dataclass(frozen=True, eq=False)
class DressedSees:
    """A prior that sees its measurements, dressed."""

    seeing: Sees
    dress: Callable[[Prior], Dressed]

    @property
    def card(self) -> Card:
        return self.seeing.card

    @property
    def centre(self) -> Tensor | None:
        return self.seeing.centre

    def pick(self, images: Sequence[int]) -> DressedSees:
        return DressedSees(self.seeing.pick(images), self.dress)

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        return self.dress(self.seeing)(x, sigma)


@dataclass(frozen=True, eq=False)
class DressedConditional:
    """A conditional prior whose network is dressed."""

    conditional: ConditionalPrior
    dress: Callable[[Prior], Dressed]

    @property
    def card(self) -> Card:
        return self.conditional.card

    def seeing(
        self, y: Tensor, operator: Operator, sigma_y: float = 0.0, *, guidance: float = 1.0
    ) -> DressedSees:
        return DressedSees(self.conditional.seeing(y, operator, sigma_y, guidance=guidance), self.dress)


DRESSES: dict[str, Callable[[Prior], Dressed]] = {
    "ε": epsilon,
    "v": v,
    "x₀": x0,
    "F": edm,
    "velocity": velocity,
    "score": score,
}
