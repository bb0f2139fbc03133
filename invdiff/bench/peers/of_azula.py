"""azula's samplers, as they are, on a problem of ours.

Images are in [-1, 1], as its examples have them, flat (its solvers take the last axis for the vector); so x' = 2x − 1,
y' = 2y − A(1), σ_y' = 2σ_y, all under the schedule x_t = α_t x' + σ_t ε.

Each takes the prior D(x, σ), y of one row per sample in float64 on its device, and gives (S, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from invdiff.operators import LinearOperator, Mask

Denoise = Callable[[Tensor, Any], Tensor]


class AzulaDenoiser(nn.Module):
    """D(x, σ) as azula has it, of flat images in [-1, 1]: E[x' given x_t] = 2 D((x_t/α_t + 1)/2, σ_t/(2α_t)) − 1."""

    def __init__(self, prior: Denoise, shape: tuple[int, ...], schedule: Any = None) -> None:
        from azula.noise import VPSchedule

        super().__init__()
        self.prior, self.shape, self.schedule = prior, shape, schedule or VPSchedule()

    def forward(self, x_t: Tensor, t: Tensor) -> Any:
        from azula.denoise import DiracPosterior

        alpha, sigma = self.schedule(t)
        x = (x_t / alpha + 1) / 2
        mean = self.prior(x.reshape(len(x), *self.shape), sigma / alpha / 2)
        return DiracPosterior(mean=2 * mean.flatten(1) - 1)


def levels(steps: int) -> list[float]:
    """The noise levels its samplers walk under VPSchedule(), in image units, but for the last, which stands for 0."""
    from azula.noise import VPSchedule

    alpha, sigma = VPSchedule()(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1])
    return (sigma / alpha / 2).tolist()


@dataclass(frozen=True, kw_only=True)
class Flat:
    """A problem in azula's units: y' = A x' + σ_y' ε, x' and y' flat, A linear."""

    denoiser: AzulaDenoiser
    op: LinearOperator
    y: Tensor
    sigma_y: float

    @classmethod
    def of(cls, prior: Denoise, op: LinearOperator, y: Tensor, sigma_y: float) -> Flat:
        grey = op.A(y.new_ones(1, *op.in_shape))
        return cls(
            denoiser=AzulaDenoiser(prior, op.in_shape),
            op=op,
            y=(2 * y - grey).flatten(1),
            sigma_y=2 * sigma_y,
        )

    def A(self, x: Tensor) -> Tensor:
        return self.op.A(x.reshape(-1, *self.op.in_shape)).flatten(1)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.op.A_dagger(y.reshape(-1, *self.op.out_shape)).flatten(1)

    def sampled(self, kind: Any, *given: Any, **settings: Any) -> Tensor:
        """(S, C, H, W), image units, of its sampler, silent, its times in y's dtype and on its device."""
        at = {"dtype": self.y.dtype, "device": self.y.device}
        sampler = kind(*given, **settings, silent=True, **at)
        n = self.y.new_empty(self.op.in_shape).numel()
        x = (sampler(sampler.init((len(self.y), n), **at)) + 1) / 2
        return x.reshape(-1, *self.op.in_shape)


def _dps(prior: Denoise, op: LinearOperator, y: Tensor, sigma_y: float, steps: int, *, zeta: float) -> Tensor:
    from azula.guidance import DPSSampler

    flat = Flat.of(prior, op, y, sigma_y)
    each = y.new_ones(len(y), 1)

    def A(x: Tensor) -> Tensor:
        """The norm it differentiates is the whole batch's: ζ · ‖r‖ / ‖r_i‖ gives each row the step it has alone."""
        found = flat.A(x)
        norms = torch.linalg.vector_norm(flat.y - found.detach(), dim=1, keepdim=True)
        each.copy_(zeta * norms.norm() / norms)
        return found

    return flat.sampled(DPSSampler, flat.denoiser, flat.y, A, zeta=each, steps=steps)


def _pigdm(
    prior: Denoise, op: LinearOperator, y: Tensor, sigma_y: float, steps: int, *, eta: float
) -> Tensor:
    from azula.guidance import PGDMSampler

    flat = Flat.of(prior, op, y, sigma_y)
    return flat.sampled(PGDMSampler, flat.denoiser, flat.y, flat.A, flat.A_dagger, eta=eta, steps=steps)


def _guided(
    prior: Denoise,
    op: LinearOperator,
    y: Tensor,
    sigma_y: float,
    steps: int,
    *,
    rule: str,
    eta: float,
    **settings: Any,
) -> Tensor:
    """Its denoisers given y, under its DDIM sampler. weight: its λ."""
    from azula import guidance
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDIMSampler

    flat = Flat.of(prior, op, y, sigma_y)
    variance = flat.sigma_y**2
    if "weight" in settings:
        settings["lmbda"] = settings.pop("weight")
    noise = {"cov_y": IsotropicCovariance(variance)} if rule == "MMPSDenoiser" else {"var_y": variance}
    denoiser = getattr(guidance, rule)(flat.denoiser, y=flat.y, A=flat.A, **noise, **settings)
    return flat.sampled(DDIMSampler, denoiser, eta=eta, steps=steps)


def _repaint(
    prior: Denoise, op: Mask, y: Tensor, sigma_y: float, steps: int, *, eta: float, iterations: int
) -> Tensor:
    from azula.guidance import RePaintSampler

    flat = Flat.of(prior, op, y, sigma_y)
    keep = op.keep.flatten()
    return flat.sampled(
        RePaintSampler, flat.denoiser, flat.y, keep, iterations=iterations, eta=eta, steps=steps
    )


ADAPTERS: dict[str, Callable[..., Tensor]] = {
    "azula/dps": _dps,
    "azula/pigdm": _pigdm,
    "azula/mmps": partial(_guided, rule="MMPSDenoiser"),
    "azula/tmpd": partial(_guided, rule="TMPDenoiser"),
    "azula/diffpir": partial(_guided, rule="DiffPIRDenoiser"),
    "azula/repaint": _repaint,
}
