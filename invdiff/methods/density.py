"""log p(x) by the probability-flow ODE (Song et al. 2021, arXiv:2011.13456, section 4.3 and appendix D.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.errors import InvdiffError
from invdiff.methods import grid
from invdiff.priors.base import Prior

Probes = Callable[[], Tensor]
"""Draws v, (B, C, H, W), of mean 0 and E[v vᵀ] = I, each row from its own stream."""


@torch.inference_mode(False)  # a caller may be in it, where nothing can be differentiated
def log_density(
    prior: Prior,
    x: Tensor,
    *,
    steps: int = 100,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    probes: int | None = None,
    noise: Probes | None = None,
    mean: float | Tensor | None = None,
    std: float | None = None,
) -> Tensor:
    """log p(x) in nats, (B,), of pictures x (B, C, H, W) in image units.

    Along dx/dσ = f = (x − D(x, σ))/σ the density obeys d log p/dσ = −div f, so that (eq. 39)

        log p_σmin(x) = log N(x_σmax; mean, (σ_max² + std²) I) + ∫ div f dσ,  div f = (n − tr ∂D/∂x)/σ.

    p_σmin is the density of pictures with noise σ_min on them, x₀ + σ_min·ε, and x is taken as one of these: clean
    pictures on a thin manifold have no density, and their own noise or rounding should be about σ_min.

    Heun's rule for x, and the same with ln σ for the integral (σ·div f is nearly constant where noise dominates), up
    the levels of `grid.karras`: `steps` steps, two evaluations each, with errors of second order: between σ = .001 and
    100 some .002 to .005 nats for each of the n numbers at 100 steps, on Gaussian data. σ_min, σ_max, mean and std:
    None takes them from the prior's card. The normal density at σ_max is exact for white Gaussian data, and the better
    the larger σ_max is against the data's spread.

    probes: the trace is the mean of vᵀ (∂D/∂x) v over so many probes v = noise(), (B, C, H, W), each kept along the way
    as published (Hutchinson, eq. 40), one vector-Jacobian product each; unbiased where `noise` draws E[v vᵀ] = I:
    Gaussian numbers, or `rademacher` ones, of less variance. None: one where there
    is `noise`, and without it the exact trace, by n products an evaluation, which is for small pictures. A row feels no
    other row.

    ValueError for numbers out of range and probes of another shape; InvdiffError where the prior cannot be
    differentiated, or the way diverges.
    """
    if noise is not None and probes is None:
        probes = 1
    card = prior.card
    if x.ndim != 4 or not x.is_floating_point() or not x.numel():
        raise ValueError(
            f"x: expected pictures (B, C, H, W), floating-point in image units, got {tuple(x.shape)}, {x.dtype}"
        )
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    low = card.sigma_min if sigma_min is None else sigma_min
    high = card.sigma_max if sigma_max is None else sigma_max
    if not 0 < low < high <= card.sigma_max:
        raise ValueError(
            f"expected 0 < sigma_min < sigma_max ≤ {card.sigma_max:g}, what prior {card.name} knows, "
            f"got {low:g} and {high:g}"
        )
    x = x.detach().clone()
    vectors = None if probes is None else _draw(probes, noise, x)
    centre = torch.as_tensor(card.data_mean if mean is None else mean).to(x).expand_as(x)
    variance = high**2 + (card.data_std if std is None else std) ** 2

    integral = x.new_zeros(len(x))
    for sigma, s in pairwise(grid.karras(steps + 1, high, low)[-2::-1]):
        slope, growth = _flow(prior, x, sigma, vectors)
        slope_ahead, growth_ahead = _flow(prior, x + (s - sigma) * slope, s, vectors)
        x = x + (s - sigma) / 2 * (slope + slope_ahead)
        integral = integral + math.log(s / sigma) / 2 * (growth + growth_ahead)
    n = x[0].numel()
    terminal = -(x - centre).square().flatten(1).sum(1) / (2 * variance)
    found = terminal - n / 2 * math.log(2 * math.pi * variance) + integral
    if not found.isfinite().all():
        raise InvdiffError(f"prior {card.name}: the way to sigma_max diverged; use more steps")
    return found


def rademacher(noise: Probes) -> Probes:
    """Probes of ±1: the signs of what `noise` draws."""
    return lambda: _signs(noise())


def bits_per_dim(log_density: Tensor, n: int, *, levels: int = 256) -> Tensor:
    """Bits for each of n = C·H·W numbers of a picture of so many levels: log₂(levels) − log p/(n·ln 2).

    log_density: nats, in image units, where a level is a bin of width 1/levels: a bin's probability is p/levelsⁿ. For
    8-bit values v the pictures are x = (v + u)/256 with u uniform on [0, 1), and the mean over u bounds the bits of a
    code for v from above (Theis et al. 2016, arXiv:1511.01844, section 3.1). The uniform density on [0, 1] has 8.
    """
    if n < 1 or levels < 2:
        raise ValueError(f"expected n ≥ 1 and levels ≥ 2, got {n} and {levels}")
    return math.log2(levels) - log_density / (n * math.log(2))


def _flow(prior: Prior, x: Tensor, sigma: float, vectors: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """f = (x − D)/σ, (B, C, H, W), and σ·div f = n − tr ∂D/∂x, (B,): exact, or estimated with the probes."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        denoised = prior(leaf, sigma)
        if not denoised.requires_grad:
            raise InvdiffError(
                f"prior {prior.card.name} cannot be differentiated, and its density needs the trace of its Jacobian; "
                "use one that torch can differentiate"
            )
        flat = denoised.flatten(1)
        trace = x.new_zeros(len(x))
        # Every product is a scalar's gradient: that of a tensor makes torch import sympy first, for seconds.
        if vectors is None:
            for i in range(flat.shape[1]):
                (row,) = torch.autograd.grad(flat[:, i].sum(), leaf, retain_graph=True)
                trace = trace + row.flatten(1)[:, i]
        else:
            for v in vectors:
                (product,) = torch.autograd.grad((denoised * v).sum(), leaf, retain_graph=True)
                trace = trace + (product * v).flatten(1).sum(1) / len(vectors)
    return (x - denoised.detach()) / sigma, flat.shape[1] - trace


def _draw(probes: int, noise: Probes | None, x: Tensor) -> list[Tensor]:
    if probes < 1:
        raise ValueError(f"probes: expected at least 1, or None for the exact trace, got {probes}")
    if noise is None:
        raise ValueError(
            "noise: expected a callable that draws probes of x's shape; or probes=None for the exact trace"
        )
    drawn = [noise().to(x) for _ in range(probes)]
    for v in drawn:
        if v.shape != x.shape:
            raise ValueError(f"noise: expected probes of x's shape {tuple(x.shape)}, got {tuple(v.shape)}")
    return drawn


def _signs(v: Tensor) -> Tensor:
    return torch.where(v < 0, -torch.ones_like(v), torch.ones_like(v))
