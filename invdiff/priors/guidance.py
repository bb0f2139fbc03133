"""Guidance: denoisers that wrap denoisers, so that it combines with every method and every integrator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invdiff import catalog
from invdiff.catalog import check_label
from invdiff.errors import InvdiffError, RequestError
from invdiff.priors.base import Card, Prior, per_image
from invdiff.priors.network import NetworkPrior


@dataclass(frozen=True, eq=False)
class ClassifierGuided:
    """D' = D + scale·σ²·∇ₓ log p(c | x_σ) (Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 2, as x̂₀).

    Scale 1 is Bayes' rule, the denoiser of x₀ given c; above 1 it aims at p(x)·p(c | x)^scale, which it reaches only
    roughly, as noise and power do not commute. D' can be differentiated in x where D can and log_prob can twice.

    ValueError for a scale that is not finite and a log_prob of another shape; InvdiffError where log_prob cannot be
    differentiated, or where the guided picture overflows.
    """

    prior: Prior
    log_prob: Callable[[Tensor, Tensor], Tensor]
    """log p(c | x_σ), natural logarithm: x (B, C, H, W), sigma (B,), image units → (B,), each row from its own picture.
    The classifier must know noisy pictures; a module is frozen."""
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_prior("prior", self.prior)
        _check_scale(self.scale)
        if isinstance(self.log_prob, nn.Module):
            self.log_prob.eval().requires_grad_(False)

    @property
    def card(self) -> Card:
        """The prior's, under another name."""
        card = self.prior.card
        return dataclasses.replace(card, name=f"{card.name}, classifier-guided {self.scale:g}")

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        denoised = self.prior(x, sigma)
        if self.scale == 0:
            return denoised
        sigmas = per_image(sigma, x)
        toward = self.scale * sigmas[:, None, None, None] ** 2 * self._score(x, sigmas)
        return _finite(denoised + toward, denoised, self.card.name, self.scale)

    def _score(self, x: Tensor, sigmas: Tensor) -> Tensor:
        """∇ₓ log p(c | x_σ), itself a function of x only where somebody differentiates."""
        outer = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            at = x if outer else x.detach().requires_grad_()
            log_prob = self.log_prob(at, sigmas)
            came = tuple(log_prob.shape) if isinstance(log_prob, Tensor) else type(log_prob).__name__
            if came != (len(x),):
                raise ValueError(f"log_prob: expected one number for each picture, ({len(x)},), got {came}")
            if not log_prob.requires_grad:
                raise InvdiffError(
                    "log_prob cannot be differentiated with respect to x; guide with ClassifierFree instead"
                )
            return torch.autograd.grad(log_prob.sum(), at, create_graph=outer)[0]


@dataclass(frozen=True, eq=False)
class ClassifierFree:
    """D' = D_u + scale·(D_c − D_u) (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, as x̂₀).

    Scale 1 is the conditional denoiser, 0 the unconditional one (each then asked alone, and returned bit for bit),
    more than 1 over-guided; the paper's w is scale − 1. ValueError for a scale that is not finite, an interval that is
    none, and cards whose channels disagree; InvdiffError where the guided picture overflows.
    """

    conditional: Prior
    unconditional: Prior
    scale: float = 1.0
    interval: tuple[float, float] | None = None
    """Guide where low < σ ≤ high alone, in image units; elsewhere the conditional denoiser is used as it is
    (Kynkäänniemi et al. 2024, arXiv:2404.07724). The paper's σ, of data on [-1, 1], is twice ours."""

    def __post_init__(self) -> None:
        _check_prior("conditional", self.conditional)
        _check_prior("unconditional", self.unconditional)
        _check_scale(self.scale)
        if self.interval is not None and not (
            len(self.interval) == 2 and 0 <= self.interval[0] < self.interval[1]
        ):
            raise ValueError(f"interval: expected two σ, 0 ≤ low < high, got {self.interval}")
        with_c, without = self.conditional.card, self.unconditional.card
        if None not in (with_c.channels, without.channels) and with_c.channels != without.channels:
            raise ValueError(
                f"expected two priors of the same pictures, got {with_c.name} with {with_c.channels} channels "
                f"and {without.name} with {without.channels}"
            )

    @property
    def card(self) -> Card:
        """The conditional's, under another name, with the noise levels that both know."""
        with_c, without = self.conditional.card, self.unconditional.card
        return dataclasses.replace(
            with_c,
            name=f"{with_c.name} over {without.name}, classifier-free {self.scale:g}",
            channels=without.channels if with_c.channels is None else with_c.channels,
            sigma_min=max(with_c.sigma_min, without.sigma_min),
            sigma_max=min(with_c.sigma_max, without.sigma_max),
        )

    @property
    def halo(self) -> int | None:
        """How far a pixel is felt, where both priors know it."""
        halos = [getattr(prior, "halo", None) for prior in (self.conditional, self.unconditional)]
        return None if None in halos else max(halos)  # type: ignore[type-var]

    @property
    def noiseless(self) -> int:
        """See `reach`."""
        return getattr(self.conditional, "noiseless", 0)

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        scales = self._scales(per_image(sigma, x))
        for end, prior in ((1, self.conditional), (0, self.unconditional)):
            if (scales == end).all():
                return prior(x, sigma)
        with_c, without = self.conditional(x, sigma), self.unconditional(x, sigma)
        guided = torch.lerp(without, with_c, scales[:, None, None, None])  # exact at scales 0 and 1
        return _finite(guided, with_c + without, self.card.name, self.scale)

    def _scales(self, sigmas: Tensor) -> Tensor:
        """The scale of each image, (B,)."""
        scales = torch.tensor(self.scale, dtype=torch.float64).to(sigmas).expand_as(sigmas)
        if self.interval is None:
            return scales
        low, high = self.interval
        return scales.where((sigmas > low) & (sigmas <= high), torch.ones_like(scales))


def with_label(prior: Prior, label: int | None, guidance: float = 1.0) -> Prior:
    """The prior of the pictures of one class, guided towards it (`ClassifierFree`) where guidance is not 1.

    label None, guidance 1: the prior as it is, which is told no label. RequestError for a label that it does not have,
    and for guidance without one.
    """
    check_label(prior.card.name, prior.card.classes, label, guidance)
    if label is None:
        return prior
    if not isinstance(prior, NetworkPrior):
        raise RequestError(
            f"label {label}: prior {prior.card.name} is no network that is told labels; build the priors of a class "
            "and of none, and ClassifierFree of the two"
        )
    given = prior.given(label)
    return given if guidance == 1 else ClassifierFree(given, prior.given(None), guidance)


def evaluations(prior: Any) -> int:
    """Network evaluations in one of the prior, whatever wraps it: two where `ClassifierFree` guides."""
    while hasattr(prior, "prior"):
        prior = prior.prior
    return 2 if isinstance(prior, ClassifierFree) and prior.scale not in (0, 1) else 1


def check_label_of(prior: object, label: int | None, guidance: float, dropout: float | None = None) -> None:
    """As `with_label` checks, as far as can be said before any weight is loaded. prior: as `load_prior` takes it.

    dropout: a conditional prior's, see `catalog.check_label`.
    """
    known = catalog.PRIORS.get(prior) if isinstance(prior, str) else None
    card = getattr(prior, "card", None)
    classes = known.classes if known else card.classes if isinstance(card, Card) else None
    name = card.name if isinstance(card, Card) else str(prior)
    check_label(name, classes, label, guidance, dropout)


def _check_prior(what: str, prior: Prior) -> None:
    if not isinstance(prior, Prior):
        raise ValueError(
            f"{what}: expected a prior with a card, got {type(prior).__name__}; load_prior makes one of any callable"
        )


def _check_scale(scale: float) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"scale: expected a finite number, got {scale}")


def _finite(guided: Tensor, unguided: Tensor, name: str, scale: float) -> Tensor:
    """`guided`. InvdiffError where it is not finite and `unguided` is."""
    if (unguided.isfinite() & ~guided.isfinite()).any():
        raise InvdiffError(
            f"{name}: the guided picture is not finite at scale {scale:g}; use a smaller scale, or a log_prob that is "
            "finite for every picture"
        )
    return guided
