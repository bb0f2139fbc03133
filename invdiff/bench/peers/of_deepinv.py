"""deepinv's samplers, as they are, on a problem of ours: images in [0, 1], the operator by `operators.to_deepinv`.

Each takes the prior D(x, σ) and y, one row per sample, on its device, its own to alter; it
gives (S, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from invdiff import operators
from invdiff.operators import LinearOperator, Operator, SpectralOperator

Denoise = Callable[[Tensor, Any], Tensor]


class DeepinvDenoiser(nn.Module):
    """D(x, σ) as a deepinv denoiser, whose unit of images and of σ is ours."""

    def __init__(self, prior: Denoise) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.prior(x, sigma)


def _physics(op: Operator, y: Tensor, sigma_y: float) -> Any:
    """In y's type, singular values too: DDRM assigns them into tensors of it."""
    return operators.to_deepinv(op, sigma_y).to(y.device, y.dtype)


def _dps(
    prior: Denoise, op: Operator, y: Tensor, sigma_y: float, steps: int, *, weight: float, guidance: str
) -> Tensor:
    from deepinv.sampling import DPS

    model = DPS(
        DeepinvDenoiser(prior),
        num_steps=steps + 1,  # it counts the levels
        weight=weight,
        guidance=guidance,
        device=y.device,
    )
    return model(y, _physics(op, y, sigma_y), x_init=(len(y), *op.in_shape))


def even_levels(steps: int) -> list[float]:
    """The noise levels that DDRM walks by default, but for the last, which is 0."""
    return torch.linspace(1, 0, steps, dtype=torch.float64)[:-1].tolist()


def _ddrm(
    prior: Denoise, op: SpectralOperator, y: Tensor, sigma_y: float, steps: int, *, eta: float, eta_b: float
) -> Tensor:
    from deepinv.sampling import DDRM

    sigmas = torch.tensor([*even_levels(steps), 0.0], dtype=torch.float64).numpy()
    model = DDRM(DeepinvDenoiser(prior), sigmas=sigmas, eta=eta, etab=eta_b)
    return model(y, _physics(op, y, sigma_y))


def ddpm_levels(steps: int) -> list[float]:
    """The noise levels that DiffPIR walks: of DDPM's t = 999 − √(even steps from 0 to 1000²)."""
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    t = 999 - torch.linspace(0, 1000**2, steps, dtype=torch.float64).sqrt().long().clamp(max=999)
    return (((1 - kept) / kept).sqrt() / 2)[t].tolist()


def _diffpir(
    prior: Denoise, op: LinearOperator, y: Tensor, sigma_y: float, steps: int, *, weight: float, zeta: float
) -> Tensor:
    from deepinv.optim.data_fidelity import L2
    from deepinv.sampling import DiffPIR

    model = DiffPIR(
        DeepinvDenoiser(prior),
        L2(),
        sigma=sigma_y,
        max_iter=steps,
        lambda_=weight,
        zeta=zeta,
        device=str(y.device),
    )
    return model(y, _physics(op, y, sigma_y))


def _dpir(prior: Denoise, op: LinearOperator, y: Tensor, sigma_y: float, steps: int | None) -> Tensor:
    from deepinv.optim import DPIR

    model = DPIR(sigma=sigma_y, denoiser=DeepinvDenoiser(prior), device=y.device)
    with torch.no_grad():
        return model(y, _physics(op, y, sigma_y))


def _sde(
    prior: Denoise, op: Operator, y: Tensor, sigma_y: float, steps: int, *, fidelity: str, **settings: Any
) -> Tensor:
    """A posterior SDE. iterations: of its conjugate gradients."""
    from deepinv import sampling

    if "iterations" in settings:
        settings["cg_max_iter"] = settings.pop("iterations")
    levels = torch.linspace(1, 0.001, steps + 1, dtype=torch.float64, device=y.device)
    model = sampling.PosteriorDiffusion(
        data_fidelity=getattr(sampling, fidelity)(**settings),
        denoiser=DeepinvDenoiser(prior),
        sde=sampling.VarianceExplodingDiffusion(alpha=0.25, device=y.device),
        solver=sampling.EulerSolver(levels),
        device=y.device,
    )
    return model(y, _physics(op, y, sigma_y), x_init=(len(y), *op.in_shape))


ADAPTERS: dict[str, Callable[..., Tensor]] = {
    "deepinv/dps": _dps,
    "deepinv/dps-annealed": partial(_sde, fidelity="DPSDataFidelity", guidance="annealed"),
    "deepinv/pigdm": partial(_sde, fidelity="PiGDMDataFidelity"),
    "deepinv/mmps": partial(_sde, fidelity="MomentMatchingDataFidelity"),
    "deepinv/score-ald": partial(_sde, fidelity="ALDDataFidelity"),
    "deepinv/ilvr": partial(_sde, fidelity="ILVRDataFidelity"),
    "deepinv/ddrm": _ddrm,
    "deepinv/diffpir": _diffpir,
    "deepinv/dpir": _dpir,
}
