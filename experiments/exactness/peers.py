"""The samplers of deepinv and azula, run as they are on a problem of ours, so that they can be measured beside ours.

`PEERS` names them. A peer is given our prior D(x, σ) and our operator, translated exactly into its own interface (the
same posterior mean, tests/evaluation/test_peers.py), and its own code does the rest. Settings are its defaults, or
what its own examples use where the class has no default; the number of steps is the caller's.

    deepinv   images in [0, 1]; the operator by `operators.to_deepinv`. It moves states to [-1, 1] by itself.
    azula     images in [-1, 1], as its examples have them, flat (its solvers take the last axis for the vector); so
              x' = 2x − 1, y' = 2y − A(1), σ_y' = 2σ_y, all under the schedule x_t = α_t x' + σ_t ε.

Both draw from torch's global generator (deepinv's seed=0 is no seed): it is seeded for the run, and put back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from invdiff import operators
from invdiff.operators import LinearOperator, Mask, Operator, SpectralOperator

Prior = Callable[[Tensor, Any], Tensor]


class Sampler(Protocol):
    """y: one row per sample, float64, its own to alter; the answer (S, C, H, W), image units."""

    def __call__(self, prior: Prior, op: Any, y: Tensor, sigma_y: float, steps: int) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A sampler of another package.

    method: the one of ours it stands beside, a name in METHODS; needs: the least an operator
    must be; settings: with what it runs, and why; note: what to know when reading its figures; noisy: whether it
    takes σ_y into account; evaluations: of the denoiser, per step; sampler: what runs it.
    """

    name: str
    package: str
    title: str
    method: str
    needs: type[Operator]
    settings: str
    note: str = ""
    noisy: bool = True
    evaluations: int = 1
    levels: Callable[[int], list[float]] | None = None
    """The noise levels it walks, in image units, by the number of steps, where ours can walk the same."""
    sampler: Sampler

    def run(
        self, prior: Prior, op: Operator, y: Tensor, sigma_y: float, steps: int, samples: int, seed: int
    ) -> Tensor:
        """(S, C, H, W) posterior samples, float64, image units, for one y, (1, *out_shape) or (*out_shape).

        The samples are rows of one batch. TypeError where the operator is not what the peer needs; ValueError for
        a y of another shape, or steps below 2.
        """
        if not isinstance(op, self.needs):
            raise TypeError(f"{self.name}: expected a {self.needs.__name__}, got {op}")
        if y.numel() != y.new_empty(op.out_shape).numel():
            raise ValueError(f"y: expected one measurement, {op.out_shape}, got {tuple(y.shape)}")
        if steps < 2:
            raise ValueError(f"steps: expected at least 2, got {steps}")
        rows = y.detach().double().reshape(1, *op.out_shape).repeat(samples, *(1 for _ in op.out_shape))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the packages say of themselves
            torch.manual_seed(seed)
            found = self.sampler(prior, op, rows, sigma_y, steps)
        return found.detach().double().reshape(samples, *op.in_shape)


# ---------------------------------------------------------------------------------------------------- deepinv


class DeepinvDenoiser(nn.Module):
    """D(x, σ) as a deepinv denoiser, whose unit of images and of σ is ours."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.prior(x, sigma)


def _physics(op: Operator, sigma_y: float) -> Any:
    """In float64, singular values too: DDRM assigns them into tensors of y's type."""
    return operators.to_deepinv(op, sigma_y).double()


def _deepinv_dps(prior: Prior, op: Operator, y: Tensor, sigma_y: float, steps: int) -> Tensor:
    from deepinv.sampling import DPS

    model = DPS(DeepinvDenoiser(prior), num_steps=steps + 1)  # it counts the levels
    return model(y, _physics(op, sigma_y), x_init=(len(y), *op.in_shape))


def _even_levels(steps: int) -> list[float]:
    return torch.linspace(1, 0, steps, dtype=torch.float64)[:-1].tolist()


def _deepinv_ddrm(prior: Prior, op: SpectralOperator, y: Tensor, sigma_y: float, steps: int) -> Tensor:
    from deepinv.sampling import DDRM

    sigmas = torch.tensor([*_even_levels(steps), 0.0], dtype=torch.float64).numpy()
    return DDRM(DeepinvDenoiser(prior), sigmas=sigmas)(y, _physics(op, sigma_y))


def _diffpir_levels(steps: int) -> list[float]:
    """Of DDPM's t = 999 − √(even steps from 0 to 1000²)."""
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    t = 999 - torch.linspace(0, 1000**2, steps, dtype=torch.float64).sqrt().long().clamp(max=999)
    return (((1 - kept) / kept).sqrt() / 2)[t].tolist()


def _deepinv_diffpir(prior: Prior, op: LinearOperator, y: Tensor, sigma_y: float, steps: int) -> Tensor:
    from deepinv.optim.data_fidelity import L2
    from deepinv.sampling import DiffPIR

    return DiffPIR(DeepinvDenoiser(prior), L2(), sigma=sigma_y, max_iter=steps)(y, _physics(op, sigma_y))


def _deepinv_sde(
    prior: Prior, op: Operator, y: Tensor, sigma_y: float, steps: int, *, fidelity: str, **settings: Any
) -> Tensor:
    from deepinv import sampling

    model = sampling.PosteriorDiffusion(
        data_fidelity=getattr(sampling, fidelity)(**settings),
        denoiser=DeepinvDenoiser(prior),
        sde=sampling.VarianceExplodingDiffusion(alpha=0.25),
        solver=sampling.EulerSolver(torch.linspace(1, 0.001, steps + 1, dtype=torch.float64)),
    )
    return model(y, _physics(op, sigma_y), x_init=(len(y), *op.in_shape))


# ------------------------------------------------------------------------------------------------------ azula


class AzulaDenoiser(nn.Module):
    """D(x, σ) as azula has it, of flat images in [-1, 1]: E[x' given x_t] = 2 D((x_t/α_t + 1)/2, σ_t/(2α_t)) − 1."""

    def __init__(self, prior: Prior, shape: tuple[int, ...], schedule: Any = None) -> None:
        from azula.noise import VPSchedule

        super().__init__()
        self.prior, self.shape, self.schedule = prior, shape, schedule or VPSchedule()

    def forward(self, x_t: Tensor, t: Tensor) -> Any:
        from azula.denoise import DiracPosterior

        alpha, sigma = self.schedule(t)
        x = (x_t / alpha + 1) / 2
        mean = self.prior(x.reshape(len(x), *self.shape), sigma / alpha / 2)
        return DiracPosterior(mean=2 * mean.flatten(1) - 1)


def _azula_levels(steps: int) -> list[float]:
    """The noise levels its samplers walk under VPSchedule(), in image units, but for the last, which stands for 0."""
    from azula.noise import VPSchedule

    alpha, sigma = VPSchedule()(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1])
    return (sigma / alpha / 2).tolist()


@dataclass(frozen=True, kw_only=True)
class _Flat:
    """A problem in azula's units: y' = A x' + σ_y' ε, x' and y' flat, A linear."""

    denoiser: AzulaDenoiser
    op: LinearOperator
    y: Tensor
    sigma_y: float

    @classmethod
    def of(cls, prior: Prior, op: LinearOperator, y: Tensor, sigma_y: float) -> _Flat:
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

    def sampled(self, sampler: Any) -> Tensor:
        n = self.y.new_empty(self.op.in_shape).numel()
        return (sampler(sampler.init((len(self.y), n), dtype=torch.float64)) + 1) / 2


def _azula_dps(prior: Prior, op: LinearOperator, y: Tensor, sigma_y: float, steps: int) -> Tensor:
    from azula.guidance import DPSSampler

    flat = _Flat.of(prior, op, y, sigma_y)
    zeta = y.new_ones(len(y), 1)

    def A(x: Tensor) -> Tensor:
        """The norm it differentiates is the whole batch's: ζ · ‖r‖ / ‖r_i‖ gives each row the step it has alone."""
        found = flat.A(x)
        norms = torch.linalg.vector_norm(flat.y - found.detach(), dim=1, keepdim=True)
        zeta.copy_(norms.norm() / norms)
        return found

    sampler = DPSSampler(flat.denoiser, flat.y, A, zeta=zeta, steps=steps, silent=True, dtype=y.dtype)
    return flat.sampled(sampler)


def _azula_pgdm(prior: Prior, op: LinearOperator, y: Tensor, sigma_y: float, steps: int) -> Tensor:
    from azula.guidance import PGDMSampler

    flat = _Flat.of(prior, op, y, sigma_y)
    sampler = PGDMSampler(
        flat.denoiser, flat.y, flat.A, flat.A_dagger, eta=1.0, steps=steps, silent=True, dtype=y.dtype
    )
    return flat.sampled(sampler)


def _azula_guided(
    prior: Prior, op: LinearOperator, y: Tensor, sigma_y: float, steps: int, *, rule: str, **settings: Any
) -> Tensor:
    """Its denoisers given y, under its DDIM sampler with η = 1."""
    from azula import guidance
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDIMSampler

    flat = _Flat.of(prior, op, y, sigma_y)
    variance = flat.sigma_y**2
    noise = {"cov_y": IsotropicCovariance(variance)} if rule == "MMPSDenoiser" else {"var_y": variance}
    denoiser = getattr(guidance, rule)(flat.denoiser, y=flat.y, A=flat.A, **noise, **settings)
    return flat.sampled(DDIMSampler(denoiser, eta=1.0, steps=steps, silent=True, dtype=y.dtype))


def _azula_repaint(prior: Prior, op: Mask, y: Tensor, sigma_y: float, steps: int) -> Tensor:
    from azula.guidance import RePaintSampler

    flat = _Flat.of(prior, op, y, sigma_y)
    keep = op.keep.flatten()
    sampler = RePaintSampler(flat.denoiser, flat.y, keep, eta=1.0, steps=steps, silent=True, dtype=y.dtype)
    return flat.sampled(sampler)


def _azula_tds(prior: Prior, op: LinearOperator, y: Tensor, sigma_y: float, steps: int) -> Tensor:
    from azula.guidance import TDSSampler

    flat = _Flat.of(prior, op, y, sigma_y)
    n = y.new_empty(op.in_shape).numel()
    gain = flat.A(torch.eye(n, dtype=y.dtype)).square().sum(0)  # the diagonal of A Aᵀ

    def twist(mean: Tensor, noise: Tensor) -> Tensor:
        variance = flat.sigma_y**2 + noise**2 * gain
        return -((flat.y - flat.A(mean)) ** 2 / variance + variance.log()) / 2

    return flat.sampled(TDSSampler(flat.denoiser, twist, steps=steps, silent=True, dtype=y.dtype))


# ------------------------------------------------------------------------------------------------------- names


_SDE = "VE (α .25, σ 80 → .001), Euler, the last state denoised: its own example"
_DDIM = "DDIM, η 1 as in its own example, VPSchedule()"

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            name="deepinv/dps",
            package="deepinv",
            title="DPS",
            method="dps",
            needs=Operator,
            settings="defaults: VP, DDPM steps, weight 1, guidance norm",
            note="in effect unconditional: its weight multiplies a score, which asks for hundreds",
            sampler=_deepinv_dps,
        ),
        Peer(
            name="deepinv/dps-annealed",
            package="deepinv",
            title="DPS, annealed",
            method="dps",
            needs=Operator,
            settings=f"DPSDataFidelity, guidance annealed, weight 1; {_SDE}",
            note="the setting in which deepinv's DPS listens to y",
            sampler=partial(_deepinv_sde, fidelity="DPSDataFidelity", guidance="annealed"),
        ),
        Peer(
            name="deepinv/pigdm",
            package="deepinv",
            title="ΠGDM",
            method="pigdm",
            needs=LinearOperator,
            settings=f"PiGDMDataFidelity, weight 1, cg_max_iter 10; {_SDE}",
            sampler=partial(_deepinv_sde, fidelity="PiGDMDataFidelity", cg_max_iter=10),
        ),
        Peer(
            name="deepinv/mmps",
            package="deepinv",
            title="moment matching",
            method="mmps",
            needs=LinearOperator,
            settings=f"MomentMatchingDataFidelity, weight 1, cg_max_iter 3; {_SDE}",
            sampler=partial(_deepinv_sde, fidelity="MomentMatchingDataFidelity"),
        ),
        Peer(
            name="deepinv/score-ald",
            package="deepinv",
            title="score-ALD",
            method="score_ald",
            needs=LinearOperator,
            settings=f"ALDDataFidelity, weight 1; {_SDE}",
            sampler=partial(_deepinv_sde, fidelity="ALDDataFidelity"),
        ),
        Peer(
            name="deepinv/ilvr",
            package="deepinv",
            title="ILVR",
            method="ilvr",
            needs=LinearOperator,
            settings=f"ILVRDataFidelity, weight 1; {_SDE}",
            sampler=partial(_deepinv_sde, fidelity="ILVRDataFidelity"),
        ),
        Peer(
            name="deepinv/ddrm",
            package="deepinv",
            title="DDRM",
            method="ddrm",
            needs=SpectralOperator,
            settings="defaults: σ from 1 to 0 in even steps, η .85, η_b 1",
            note="its noise is short by √2, it starts what is unseen at 0 and not at the mean, and it may alter y",
            levels=_even_levels,
            sampler=_deepinv_ddrm,
        ),
        Peer(
            name="deepinv/diffpir",
            package="deepinv",
            title="DiffPIR",
            method="diffpir",
            needs=LinearOperator,
            settings="defaults: λ 7, ζ .1; data fidelity L2(), sigma=σ_y",
            note="it clips x̂₀ to [0, 1], and starts from Aᵀy with noise",
            levels=_diffpir_levels,
            sampler=_deepinv_diffpir,
        ),
        Peer(
            name="azula/dps",
            package="azula",
            title="DPS",
            method="dps",
            needs=LinearOperator,
            settings="defaults: ζ 1, DDPM steps, VPSchedule()",
            note="its norm is the whole batch's: ζ is rescaled row by row to what each has alone",
            levels=_azula_levels,
            sampler=_azula_dps,
        ),
        Peer(
            name="azula/pigdm",
            package="azula",
            title="ΠGDM",
            method="pigdm",
            needs=LinearOperator,
            settings="DDIM, η 1 as in the paper (its default is 0), VPSchedule()",
            note="knows no σ_y",
            noisy=False,
            levels=_azula_levels,
            sampler=_azula_pgdm,
        ),
        Peer(
            name="azula/mmps",
            package="azula",
            title="MMPS",
            method="mmps",
            needs=LinearOperator,
            settings=f"defaults: GMRES, 1 iteration; {_DDIM}",
            levels=_azula_levels,
            sampler=partial(_azula_guided, rule="MMPSDenoiser"),
        ),
        Peer(
            name="azula/tmpd",
            package="azula",
            title="TMPD",
            method="tmpd",
            needs=LinearOperator,
            settings=_DDIM,
            levels=_azula_levels,
            sampler=partial(_azula_guided, rule="TMPDenoiser"),
        ),
        Peer(
            name="azula/diffpir",
            package="azula",
            title="DiffPIR",
            method="diffpir",
            needs=LinearOperator,
            settings=f"defaults: λ 10, GMRES, 1 iteration; {_DDIM}",
            levels=_azula_levels,
            sampler=partial(_azula_guided, rule="DiffPIRDenoiser"),
        ),
        Peer(
            name="azula/repaint",
            package="azula",
            title="RePaint",
            method="repaint",
            needs=Mask,
            settings="defaults: 3 iterations a step; DDIM, η 1 as in the paper (its default is 0), VPSchedule()",
            note="knows no σ_y",
            noisy=False,
            evaluations=3,
            levels=_azula_levels,
            sampler=_azula_repaint,
        ),
        Peer(
            name="azula/tds",
            package="azula",
            title="TDS",
            method="smc",
            needs=LinearOperator,
            settings="twist N(y; A x̂₀, σ_y² + σ_t²/α_t² diag(A Aᵀ)) as in its own example; VPSchedule()",
            note="the samples are the particles of one run, so not independent",
            levels=_azula_levels,
            sampler=_azula_tds,
        ),
    )
}
