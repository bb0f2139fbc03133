"""azula's denoisers: x_t = α_t·x₀ + σ_t·ε, their answer the mean of a posterior (azula.denoise)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.priors.base import Card, FunctionPrior, Prior, per_image
from invdiff.priors.formats.base import carded, check_options, span

OPTIONS = ("range",)
"""What black and white are in the denoiser's own units; azula's networks: [-1, 1], which is taken unless said."""

_HALVINGS = 60


def adapt(denoiser: Any, options: Mapping[str, Any]) -> Prior:
    """A prior of an azula.denoise.Denoiser. RequestError for a wrong option, or without a schedule."""
    kind = type(denoiser).__name__
    check_options(options, OPTIONS, kind)
    schedule = getattr(denoiser, "schedule", None)
    if schedule is None:
        raise RequestError(f"azula {kind}: expected a denoiser with a schedule")
    black, white = span(options.get("range", (-1, 1)), kind)
    if getattr(denoiser, "clip_mean", False):
        denoiser = copy.copy(denoiser)
        denoiser.clip_mean = False
    function = _PosteriorMean(denoiser, black, white)
    low, high = (float(function.level(torch.tensor(t, dtype=torch.float64))) for t in (0.0, 1.0))
    card = Card(
        name=kind,
        sigma_min=low / (white - black),
        sigma_max=high / (white - black),
        format=f"azula {kind}, {type(schedule).__name__}",
    )
    return FunctionPrior(function, carded(card, options, kind))


@dataclass(frozen=True, eq=False)
class _PosteriorMean:
    """D(x, σ) = E[x₀ | x_t], x_t = α_t·x at the t where σ_t/α_t is σ in the denoiser's range."""

    denoiser: Any
    black: float
    white: float

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        sigmas = per_image(sigma, x)
        gain = self.white - self.black
        times = self.time(gain * sigmas)
        same = bool((times == times[0]).all())
        given = gain * x + self.black
        # One time at a call: azula's samplers pass none else, and not every denoiser takes more.
        parts = [(given, times[0])] if same else zip(given.split(1), times, strict=True)
        means = [self.denoiser(self.denoiser.schedule(t)[0] * part, t).mean for part, t in parts]
        return (torch.cat(means) - self.black) / gain

    def level(self, t: Tensor) -> Tensor:
        alpha, sigma = self.denoiser.schedule(t)
        return sigma / alpha

    @torch.no_grad()
    def time(self, level: Tensor) -> Tensor:
        """t in [0, 1] at which σ_t/α_t, which rises, is `level`, (B,), by halving; the nearer end beyond them."""
        wanted = level.double()
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = self.level(middle) > wanted
            low, high = low.where(above, middle), middle.where(above, high)
        return high.to(level.dtype)
