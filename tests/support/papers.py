"""Each method's algorithm written out from its paper, in the paper's coordinates, by dense matrices and explicit loops.

Pictures on [-1, 1] are flattened, (B, n): u = √ᾱ_t·x₀ + √(1−ᾱ_t)·ε where the paper preserves variance, x₀ + σ_t·ε where
it explodes. t runs from T to 1, index 0 is no noise. Every function returns x₀ on [-1, 1] and draws its noise in the
order in which ours does. Where we depart from a paper its function says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from invdiff import operators
from invdiff.likelihood import Measurement
from invdiff.methods import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    ILVR,
    MALA,
    MCG,
    MMPS,
    SMC,
    SR3,
    TMPD,
    ULA,
    Ancestral,
    DiffPIR,
    Method,
    PiGDM,
    Problem,
    RedDiff,
    RePaint,
    ScoreALD,
    grid,
    sample,
)
from invdiff.operators import Operator
from invdiff.priors.analytic import GaussianPrior
from invdiff.priors.exact import ExactConditional

SHAPE = (2, 4, 3)
BATCH = 2


class Draws:
    """The same numbers, call by call, for the paper's algorithm and for ours. A `Noise`."""

    def __init__(self, seed: int = 7) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        size = (BATCH, *(SHAPE if shape is None else shape))
        return torch.randn(size, generator=self.generator, dtype=torch.float64)

    def flat(self, shape: tuple[int, ...] | None = None) -> Tensor:
        return self(shape).flatten(1)

    def uniform(self) -> Tensor:
        return torch.rand(BATCH, generator=self.generator, dtype=torch.float64)


def prior_for_papers() -> GaussianPrior:
    """Correlated, with a mean that varies; on [-1, 1] its pixels' mean is 0 and their variance 1 on average.

    So our start, noise with the data's mean and variance, is N(0, I) in variance-preserving coordinates, as published;
    and ΠGDM's r² = σ²τ²/(σ²+τ²), τ the data's deviation, is the published σ²/(1+σ²).
    """
    at = torch.cartesian_prod(*(torch.arange(size) for size in SHAPE)).double()
    mean = torch.linspace(0.3, 0.7, len(at), dtype=torch.float64).view(SHAPE)
    return GaussianPrior.correlated(mean, 0.25 * torch.exp(-torch.cdist(at, at) / 2))


@dataclass(frozen=True, eq=False)
class Case:
    """A prior, a measurement and a schedule β_1 … β_T."""

    operator: Operator
    sigma_y: float = 0.0
    prior: GaussianPrior = field(default_factory=prior_for_papers)
    steps: int = 7

    @cached_property
    def beta(self) -> Tensor:
        """(T+1,), β_0 = 0."""
        return torch.cat([torch.zeros(1), torch.linspace(0.03, 0.6, self.steps)]).double()

    @cached_property
    def kept(self) -> Tensor:
        """ᾱ_t, (T+1,)."""
        return (1 - self.beta).cumprod(0)

    @cached_property
    def sigma(self) -> Tensor:
        """σ_t on [-1, 1], (T+1,): √((1−ᾱ_t)/ᾱ_t)."""
        return ((1 - self.kept) / self.kept).sqrt()

    @cached_property
    def levels(self) -> list[float]:
        """The same for our methods: in image units, falling."""
        return (self.sigma.flip(0) / 2).tolist()

    @cached_property
    def picture(self) -> Tensor:
        """x₀ in image units, (B, C, H, W)."""
        return self.prior.sample((BATCH, *SHAPE), torch.Generator().manual_seed(1))

    @cached_property
    def y(self) -> Tensor:
        """In image units."""
        clean = self.operator.A(self.picture)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        y = clean + self.sigma_y * noise
        return self.operator.A(y) if isinstance(self.operator, operators.Mask) else y

    @cached_property
    def problem(self) -> Problem:
        return Problem(self.prior, Measurement(self.y, self.operator, self.sigma_y))

    # On [-1, 1], flattened:

    @cached_property
    def A(self) -> Tensor:
        """(m, n)."""
        unit = torch.eye(math.prod(SHAPE), dtype=torch.float64)
        return self.operator.A(unit.reshape(-1, *SHAPE)).flatten(1).T

    @cached_property
    def inverse(self) -> Tensor:
        """A†, (n, m)."""
        return torch.linalg.pinv(self.A, rtol=1e-10)

    @cached_property
    def wanted(self) -> Tensor:
        """y of the picture on [-1, 1], (B, m): 2y − A(1)."""
        return 2 * self.y.flatten(1) - self.A.sum(dim=1)

    @property
    def s_y(self) -> float:
        """σ_y on [-1, 1]."""
        return 2 * self.sigma_y

    def denoised(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x₀ given x₀ + σ·ε = x]."""
        return 2 * self.prior((x.view(-1, *SHAPE) + 1) / 2, float(sigma) / 2).flatten(1) - 1

    def predicted(self, u: Tensor, t: int) -> Tensor:
        """The noise predictor ε_θ(u, t) of a variance-preserving network."""
        root = self.kept[t].sqrt()
        return (u - root * self.denoised(u / root, self.sigma[t])) / (1 - self.kept[t]).sqrt()

    def clean(self, u: Tensor, t: int) -> Tensor:
        """x̂₀ from ε_θ: (u − √(1−ᾱ)·ε_θ)/√ᾱ."""
        return (u - (1 - self.kept[t]).sqrt() * self.predicted(u, t)) / self.kept[t].sqrt()

    def posterior(self, u: Tensor, x0: Tensor, t: int, z: Tensor) -> Tensor:
        """DDPM's q(u_{t−1} given u_t, x₀) (Ho et al. 2020, eqs. 6 and 7), with σ_t² = β̃_t."""
        a, b, before, now = 1 - self.beta[t], self.beta[t], self.kept[t - 1], self.kept[t]
        mean = before.sqrt() * b / (1 - now) * x0 + a.sqrt() * (1 - before) / (1 - now) * u
        return mean + ((1 - before) / (1 - now) * b).sqrt() * z

    def jacobian(self, sigma: float | Tensor) -> Tensor:
        """∂D/∂x of a Gaussian prior's D, (n, n): it does not depend on x."""
        unit = torch.eye(math.prod(SHAPE), dtype=torch.float64)
        return (self.denoised(unit, sigma) - self.denoised(torch.zeros_like(unit), sigma)).T

    @property
    def down(self) -> range:
        """t = T, …, 1."""
        return range(self.steps, 0, -1)


@dataclass(frozen=True, eq=False)
class Seen(Case):
    """The same, with a network that is shown y."""

    @cached_property
    def problem(self) -> Problem:
        seeing = ExactConditional(self.prior).seeing(self.y, self.operator, self.sigma_y)
        return Problem(seeing, Measurement(self.y, self.operator, self.sigma_y))

    def denoised(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x₀ given x₀ + σ·ε = x and y]: x and y as one measurement [I; A] x₀ + noise of a Gaussian vector."""
        unit = torch.eye(math.prod(SHAPE), dtype=torch.float64)
        mean, covariance = 2 * self.prior.mean.flatten() - 1, 4 * self.prior.covariance_times(unit)
        both = torch.cat([unit, self.A])
        variances = torch.cat(
            [float(sigma) ** 2 * unit.diag(), self.s_y**2 * torch.ones(len(self.A)).double()]
        )
        given = torch.cat([x, self.wanted], dim=1) - mean @ both.T
        gain = torch.linalg.solve(both @ covariance @ both.T + variances.diag(), both @ covariance)
        return mean + given @ gain


def ancestral(c: Case, noise: Draws) -> Tensor:
    """Ho et al. 2020, algorithm 2, from the level that y is at: u_T = √ᾱ_T·y."""
    u = c.kept[-1].sqrt() * c.wanted
    for t in c.down:
        z = noise.flat() if t > 1 else 0
        a, kept = 1 - c.beta[t], c.kept[t]
        spread = ((1 - c.kept[t - 1]) / (1 - kept) * c.beta[t]).sqrt()
        u = (u - (1 - a) / (1 - kept).sqrt() * c.predicted(u, t)) / a.sqrt() + spread * z
    return u


def sr3(c: Case, noise: Draws) -> Tensor:
    """Saharia et al. 2021, algorithm 2, f_θ(y, u, γ_t) being the noise in u, and γ what others call ᾱ.

    The noise printed there has the variance 1 − α_t; ours has the other that Ho et al. 2020 name, β̃_t.
    """
    u = noise.flat()
    for t in c.down:
        z = noise.flat() if t > 1 else torch.zeros_like(u)
        alpha, gamma, before = 1 - c.beta[t], c.kept[t], c.kept[t - 1]
        u = (u - (1 - alpha) / (1 - gamma).sqrt() * c.predicted(u, t)) / alpha.sqrt()
        u = u + ((1 - before) / (1 - gamma) * (1 - alpha)).sqrt() * z
    return u


def sr3_held(c: Case, noise: Draws) -> Tensor:
    """The same with x̂₀ the mean of x₀ given y, were it N(x̂₀, r² I), r² = σ²/(1+σ²): by its normal equations."""
    u = noise.flat()
    for t in c.down:
        rho = c.s_y**2 * (1 + c.sigma[t] ** 2) / c.sigma[t] ** 2
        normal = c.A.T @ c.A + rho * torch.eye(len(c.A.T)).double()
        x0 = torch.linalg.solve(normal, (c.wanted @ c.A + rho * c.clean(u, t)).T).T
        u = c.posterior(u, x0, t, noise.flat())
    return u


def dps(zeta: float, project: bool = False) -> Callable[[Case, Draws], Tensor]:
    """Chung et al. 2023, algorithm 1, ζ_i = ζ/(2‖y − A x̂₀‖) on the gradient of the square, no clipping.

    Ours scales ζ by 1000/steps. project: Chung et al. 2022 (MCG), algorithm 1 with W = I, eqs. 14 and 15: y noised to
    the level of the state that it goes into (the released code noises it to the level before).
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        u = noise.flat()
        for t in c.down:
            u = u.detach().requires_grad_()
            x0 = c.clean(u, t)
            residual = c.wanted - x0 @ c.A.T
            (gradient,) = torch.autograd.grad(residual.square().sum(), u)
            size = zeta / (2 * residual.square().sum(dim=1, keepdim=True).sqrt())
            u = (c.posterior(u, x0, t, noise.flat()) - size * gradient).detach()
            if project:
                seen = c.kept[t - 1].sqrt() * c.wanted + (1 - c.kept[t - 1]).sqrt() * (noise.flat() @ c.A.T)
                outside = torch.eye(len(c.A.T)).double() - c.inverse @ c.A
                u = u @ outside.T + seen @ c.inverse.T
        return u

    return algorithm


def ilvr(c: Case, noise: Draws) -> Tensor:
    """Choi et al. 2021, algorithm 1: φ = A†A, y a picture that measures as ours."""
    phi = c.inverse @ c.A
    reference = 2 * c.picture.flatten(1) - 1
    u = noise.flat()
    for t in c.down:
        proposed = c.posterior(u, c.clean(u, t), t, noise.flat())
        seen = c.kept[t - 1].sqrt() * reference + (1 - c.kept[t - 1]).sqrt() * noise.flat()
        u = seen @ phi.T + proposed - proposed @ phi.T
    return u


def repaint(repeats: int) -> Callable[[Case, Draws], Tensor]:
    """Lugmayr et al. 2022, algorithm 1, with β̃ for the learned variance.

    The known pixels get the noise of the level they go into, t−1, as released (printed: ᾱ_t), and the step back up is
    that from t−1 to t, β_t (printed: β_{t−1}). At t = 1 nothing is noised again, so only the last pass counts.
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        keep = c.A.sum(dim=0)
        u = noise.flat()
        for t in c.down:
            for pass_ in range(repeats if t > 1 else 1):
                unknown = c.posterior(u, c.clean(u, t), t, noise.flat())
                known = c.kept[t - 1].sqrt() * c.wanted + (1 - c.kept[t - 1]).sqrt() * noise.flat()
                below = keep * known + (1 - keep) * unknown
                if pass_ < repeats - 1 and t > 1:
                    u = (1 - c.beta[t]).sqrt() * below + c.beta[t].sqrt() * noise.flat()
            u = below
        return u

    return algorithm


def ddnm(eta: float | None) -> Callable[[Case, Draws], Tensor]:
    """Wang et al. 2023, algorithm 1: x̂ = A†y + (I − A†A)·x_{0|t}, then p(x_{t−1} given x_t, x̂).

    eta: None takes DDPM's posterior, as printed; a number DDIM's step with σ_t = η·√(1−ᾱ_{t−1}), whose direction is
    (x_t − √ᾱ_t·x̂)/√(1−ᾱ_t).
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        u = noise.flat()
        for t in c.down:
            x0 = c.clean(u, t)
            x0 = c.wanted @ c.inverse.T + x0 - x0 @ (c.inverse @ c.A).T
            if eta is None:
                u = c.posterior(u, x0, t, noise.flat())
            else:
                level = (1 - c.kept[t - 1]).sqrt()
                direction = (u - c.kept[t].sqrt() * x0) / (1 - c.kept[t]).sqrt()
                u = c.kept[t - 1].sqrt() * x0 + level * ((1 - eta**2) ** 0.5 * direction + eta * noise.flat())
        return u

    return algorithm


def ddnm_released(eta: float) -> Callable[[Case, Draws], Tensor]:
    """The released code's step without noise: DDIM's, along the network's own ε_θ(x_t, t) rather than x̂'s."""

    def algorithm(c: Case, noise: Draws) -> Tensor:
        u = noise.flat()
        for t in c.down:
            e, x0 = c.predicted(u, t), c.clean(u, t)
            x0 = x0 - (x0 @ c.A.T - c.wanted) @ c.inverse.T
            level = (1 - c.kept[t - 1]).sqrt()
            u = c.kept[t - 1].sqrt() * x0 + level * ((1 - eta**2) ** 0.5 * e + eta * noise.flat())
        return u

    return algorithm


def ddnm_plus(eta: float) -> Callable[[Case, Draws], Tensor]:
    """DDNM+ (section 3.3) as released: along each singular vector λ ≤ 1 of the correction and γ of the noise.

    With a = √ᾱ_{t−1} and σ = √(1−ᾱ_{t−1}): λ = 1 and γ² = σ² − a²σ_y²/s² where σ ≥ aσ_y/s; λ = s·σ·√(1−η²)/(aσ_y) and
    γ = ησ where not; λ = 0, γ = ησ and σ√(1−η²)·ε_θ where s = 0 (docs/decisions.md).
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        s, _, v, seen = spectrum(c)
        u = noise.flat()
        for t in c.down:
            e, x0, z = c.predicted(u, t) @ v, c.clean(u, t) @ v, noise.flat() @ v
            a, level = c.kept[t - 1].sqrt(), (1 - c.kept[t - 1]).sqrt()
            out = torch.empty_like(x0)
            for i, si in enumerate(s.tolist()):
                if si == 0:
                    out[:, i] = a * x0[:, i] + level * ((1 - eta**2) ** 0.5 * e[:, i] + eta * z[:, i])
                    continue
                if level >= a * c.s_y / si:
                    strength, spread = 1.0, (level**2 - (a * c.s_y / si) ** 2).sqrt()
                else:
                    strength, spread = si * level * (1 - eta**2) ** 0.5 / (a * c.s_y), eta * level
                out[:, i] = a * (x0[:, i] - strength * (x0[:, i] - seen[:, i])) + spread * z[:, i]
            u = out @ v.T
        return u

    return algorithm


def spectrum(c: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """s (n,), U (m, m), V (n, n) and ȳ = Σ†Uᵀy (B, n) of A = U Σ Vᵀ, with 0 for what A loses."""
    left, singular, right = torch.linalg.svd(c.A)
    s = torch.zeros(len(right), dtype=torch.float64)
    s[: len(singular)] = singular * (singular > 1e-10)
    seen = torch.zeros(len(c.wanted), len(right), dtype=torch.float64)
    coefficients = c.wanted @ left
    for i, si in enumerate(s.tolist()):
        if si > 0:
            seen[:, i] = coefficients[:, i] / si
    return s, left, right.T, seen


def ddrm(eta: float, eta_b: float) -> Callable[[Case, Draws], Tensor]:
    """Kawar et al. 2022, eqs. 7 and 8, variance exploding.

    What is not measured begins, as ours, with the data's variance added.
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        s, _, v, seen = spectrum(c)
        pure, other = noise.flat() @ v, noise.flat() @ v
        first = float(c.sigma[-1])
        x = (first**2 + 1) ** 0.5 * pure
        for i, si in enumerate(s.tolist()):
            if si > 0 and first >= c.s_y / si:
                x[:, i] = seen[:, i] + (first**2 - (c.s_y / si) ** 2) ** 0.5 * other[:, i]
        for t in c.down:
            sigma, below = float(c.sigma[t]), float(c.sigma[t - 1])
            d, z = c.denoised(x @ v.T, sigma) @ v, noise.flat() @ v
            out = torch.empty_like(x)
            for i, si in enumerate(s.tolist()):
                if si == 0:
                    mean = d[:, i] + (1 - eta**2) ** 0.5 * below * (x[:, i] - d[:, i]) / sigma
                    spread = eta * below
                elif below < c.s_y / si:
                    mean = d[:, i] + (1 - eta**2) ** 0.5 * below * (seen[:, i] - d[:, i]) / (c.s_y / si)
                    spread = eta * below
                else:
                    mean = (1 - eta_b) * d[:, i] + eta_b * seen[:, i]
                    spread = (below**2 - (c.s_y / si) ** 2 * eta_b**2) ** 0.5
                out[:, i] = mean + spread * z[:, i]
            x = out
        return x @ v.T

    return algorithm


def diffpir(weight: float, zeta: float) -> Callable[[Case, Draws], Tensor]:
    """Zhu et al. 2023, algorithm 1: ρ_t = λσ_n²/σ̄_t², the proximal step solved by its normal equations."""

    def algorithm(c: Case, noise: Draws) -> Tensor:
        u = noise.flat()
        for t in c.down:
            rho = weight * c.s_y**2 / c.sigma[t] ** 2
            normal = c.A.T @ c.A + rho * torch.eye(len(c.A.T)).double()
            x0 = torch.linalg.solve(normal, (c.wanted @ c.A + rho * c.clean(u, t)).T).T
            e = (u - c.kept[t].sqrt() * x0) / (1 - c.kept[t]).sqrt()
            mixed = (1 - zeta) ** 0.5 * e + zeta**0.5 * noise.flat()
            u = c.kept[t - 1].sqrt() * x0 + (1 - c.kept[t - 1]).sqrt() * mixed
        return u

    return algorithm


def guided(score: Callable[[Case, Tensor, Tensor], Tensor]) -> Callable[[Case, Draws], Tensor]:
    """A likelihood's score ∇ₓ log p(y given x_σ), added to the prior's; DDPM's step on both (variance preserving).

    score: (c, x, σ) → (B, n), of x = x₀ + σ·ε on [-1, 1]. With u = √ᾱ·x, ε_θ becomes ε_θ − √(1−ᾱ)·∇ᵤ log p, ∇ᵤ = ∇ₓ/√ᾱ.
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        u = noise.flat()
        for t in c.down:
            root = c.kept[t].sqrt()
            slope = score(c, u / root, c.sigma[t]) / root
            e = c.predicted(u, t) - (1 - c.kept[t]).sqrt() * slope
            a, kept = 1 - c.beta[t], c.kept[t]
            spread = ((1 - c.kept[t - 1]) / (1 - kept) * c.beta[t]).sqrt()
            u = (u - c.beta[t] / (1 - kept).sqrt() * e) / a.sqrt() + spread * noise.flat()
        return u

    return algorithm


def pigdm_score(c: Case, x: Tensor, sigma: Tensor) -> Tensor:
    """Song et al. 2023, eqs. 7 and 8: N(y; H x̂, r² H Hᵀ + σ_y² I), r² = σ²/(1+σ²), its ∂x̂/∂x by autograd.

    The paper's algorithm weights it by r² and leaves ε_θ as it is; ours is the score itself.
    """
    x = x.detach().requires_grad_()
    x0 = c.denoised(x, sigma)
    r2 = sigma**2 / (1 + sigma**2)
    spread = r2 * c.A @ c.A.T + c.s_y**2 * torch.eye(len(c.A)).double()
    residual = c.wanted - x0 @ c.A.T
    log_p = -(residual * torch.linalg.solve(spread, residual.T).T).sum() / 2
    return torch.autograd.grad(log_p, x)[0]


def tmpd_score(c: Case, x: Tensor, sigma: Tensor) -> Tensor:
    """Boys et al. 2024, section 3.2: the covariance C = σ²∇m of x₀ given x, H C Hᵀ by its row sums, diag(H C Hᵀ 1)."""
    m, slope = c.denoised(x, sigma), c.jacobian(sigma)
    rows = (c.A @ (sigma**2 * slope) @ c.A.T).sum(dim=1)
    least = 0.1 * sigma**2 / (1 + sigma**2) * (c.A @ c.A.T).sum(dim=1).abs()
    assert (rows >= least).all()  # our floor, which the paper has not, is not met here
    return ((c.wanted - m @ c.A.T) / (rows + c.s_y**2)) @ c.A @ slope


def mmps_score(iterations: int | None) -> Callable[[Case, Tensor, Tensor], Tensor]:
    """Rozet et al. 2024, algorithm 2: (σ_y² I + A V Aᵀ)⁻¹(y − A D), V = σ²∇D, by conjugate gradients from 0.

    None: solved. Ours are preconditioned, which for a mask changes nothing, and of all iterations the one with the
    least residual counts (docs/decisions.md).
    """

    def score(c: Case, x: Tensor, sigma: Tensor) -> Tensor:
        d, slope = c.denoised(x, sigma), c.jacobian(sigma)
        k = c.s_y**2 * torch.eye(len(c.A)).double() + c.A @ (sigma**2 * slope) @ c.A.T
        residuals = c.wanted - d @ c.A.T
        if iterations is None:
            return torch.linalg.solve(k, residuals.T).T @ c.A @ slope
        out = torch.zeros_like(residuals)
        for b, residual in enumerate(residuals):
            r = p = residual
            v, tried = torch.zeros_like(r), []
            for _ in range(iterations):
                alpha = (r @ r) / (p @ k @ p)
                v, after = v + alpha * p, r - alpha * (k @ p)
                p, r = after + (after @ after) / (r @ r) * p, after
                tried.append((float(r @ r), v))
            out[b] = min(tried, key=lambda one: one[0])[1]
        return out @ c.A @ slope

    return score


def red_diff(weight: float, rate: float) -> Callable[[Case, Draws], Tensor]:
    """Mardani et al. 2024, algorithm 1: Adam (.9, .99) on ½‖y − A μ‖² + λ_t·sg[ε_θ − ε]ᵀμ, λ_t = λ·√(1−ᾱ_t)/√ᾱ_t.

    The ½ is the released code's, whose two means, over the pixels of y and of μ, are sums here as in the paper. Begun
    where N(0, I), the data's mean and variance, has its mode given y (published: at A†y, which it is without noise).
    Adam's 1e-8 is ours, in image units; the gradients here are twice those.
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        noise()
        normal = c.A.T @ c.A + c.s_y**2 * torch.eye(len(c.A.T)).double()
        mu = torch.linalg.solve(normal, (c.wanted @ c.A).T).T
        first = second = torch.zeros_like(mu)
        for done, t in enumerate(c.down, 1):
            z = noise.flat()
            u = c.kept[t].sqrt() * mu + (1 - c.kept[t]).sqrt() * z
            away = c.predicted(u, t) - z
            inverse_snr = (1 - c.kept[t]).sqrt() / c.kept[t].sqrt()
            leaf = mu.clone().requires_grad_()
            loss = (c.wanted - leaf @ c.A.T).square().sum() / 2 + weight * inverse_snr * (away * leaf).sum()
            (g,) = torch.autograd.grad(loss, leaf)
            first, second = 0.9 * first + (1 - 0.9) * g, 0.99 * second + (1 - 0.99) * g.square()
            scaled = (second / (1 - 0.99**done)).sqrt() + 2e-8
            mu = mu - rate * first / (1 - 0.9**done) / scaled
        return mu

    return algorithm


def daps(ode_steps: int, langevin: int, rate: float, tau: float) -> Callable[[Case, Draws], Tensor]:
    """Zhang et al. 2025, algorithm 1, variance exploding, with its released settings.

    The ODE: Euler over `ode_steps` levels from σ_t to .01 (ρ = 7), then 0. Langevin: x₀ += η·∇ log p + √(2η)·ε with the
    likelihood's σ_y or, where it is less, τ, η = rate falling to a hundredth, linearly in the step's place on a walk of
    ρ = 7 (ours reaches the hundredth at the last level, the released code one step after). Begun with the data's
    variance added, as ours.
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        sigmas = c.sigma.tolist()
        first, last = sigmas[-1] ** (1 / 7), sigmas[1] ** (1 / 7)
        x = (sigmas[-1] ** 2 + 1) ** 0.5 * noise.flat()
        for t in c.down:
            top, bottom = sigmas[t] ** (1 / 7), 0.01 ** (1 / 7)
            walk = [(top + k / (ode_steps - 1) * (bottom - top)) ** 7 for k in range(ode_steps)] + [0.0]
            for a, b in pairwise(walk):
                score = (c.denoised(x, a) - x) / a**2
                x = x + a * (a - b) * score
            x0 = x
            for _ in range(langevin):
                eta = rate * (1 + (first - top) / (first - last) * (0.01 - 1))
                slope = (c.wanted - x @ c.A.T) @ c.A / max(c.s_y, tau) ** 2 - (x - x0) / sigmas[t] ** 2
                x = x + eta * slope + (2 * eta) ** 0.5 * noise.flat()
            x = x + sigmas[t - 1] * noise.flat()
        return x

    return algorithm


def score_ald(gamma: float, corrections: int, size: float) -> Callable[[Case, Draws], Tensor]:
    """Jalal et al. 2021, eq. 4, variance exploding: x += η_t(f(x; σ_t) + Aᵀ(y − A x)/(γ_t² + σ_y²)) + √(2η_t)·ε.

    γ_t = γσ_t and η_t = size·σ_t²/2. Begun with the data's variance added at σ_T, walked from σ_{T−1}, and ended by
    σ² times the same score at the last level (Jolicoeur-Martineau et al. 2021).
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        def slope(x: Tensor, sigma: float) -> Tensor:
            prior = (c.denoised(x, sigma) - x) / sigma**2
            return prior + (c.wanted - x @ c.A.T) @ c.A / ((gamma * sigma) ** 2 + c.s_y**2)

        sigmas = c.sigma.tolist()
        x = (sigmas[-1] ** 2 + 1) ** 0.5 * noise.flat()
        for sigma in sigmas[-2:0:-1]:
            eta = size * sigma**2 / 2
            for _ in range(corrections):
                x = x + eta * slope(x, sigma) + (2 * eta) ** 0.5 * noise.flat()
        return x + sigmas[1] ** 2 * slope(x, sigmas[1])

    return algorithm


def log_normal(x: Tensor, mean: Tensor, variance: float) -> Tensor:
    """log N(x; mean, variance·I), (B,)."""
    return -((x - mean).square() / variance + math.log(2 * math.pi * variance)).sum(dim=1) / 2


def smc(particles: int) -> Callable[[Case, Draws], Tensor]:
    """Wu et al. 2023, algorithm 1, variance exploding, particle by particle, each image for itself.

    p̃(y given x) is ΠGDM's, N(y; A x̂₀, r² A Aᵀ + σ_y² I) with its normalising constant; the reverse kernels are DDPM's,
    of variance v = s²(1 − s²/σ²) (the paper's: σ²). Systematic resampling where the effective sample size is below half
    of the particles. One of them, drawn by weight, ends with x₀ ~ N(x̂₀, r² I) given y.
    """

    def twist(c: Case, x: Tensor, sigma: float) -> Tensor:
        r2 = sigma**2 / (1 + sigma**2)
        spread = r2 * c.A @ c.A.T + c.s_y**2 * torch.eye(len(c.A)).double()
        residual = c.wanted - c.denoised(x, sigma) @ c.A.T
        squares = (residual * torch.linalg.solve(spread, residual.T).T).sum(dim=1)
        return -(squares + (2 * math.pi * spread).logdet()) / 2

    def chosen(weights: Tensor, point: float) -> int:
        return min(int((weights.cumsum(0) <= point).sum()), particles - 1)

    def algorithm(c: Case, noise: Draws) -> Tensor:
        sigmas = c.sigma.tolist()
        x = torch.stack([(sigmas[-1] ** 2 + 1) ** 0.5 * noise.flat() for _ in range(particles)])
        log_w = torch.stack([twist(c, x[k], sigmas[-1]) for k in range(particles)])
        for t in c.down[:-1]:
            sigma, s = sigmas[t], sigmas[t - 1]
            v = s**2 * (1 - s**2 / sigma**2)
            point = noise.uniform()
            for b in range(BATCH):
                w = log_w[:, b].softmax(dim=0)
                if 1 / w.square().sum() < particles / 2:
                    x[:, b] = x[[chosen(w, (k + float(point[b])) / particles) for k in range(particles)], b]
                    log_w[:, b] = 0
            z = [noise.flat() for _ in range(particles)]
            for k in range(particles):
                d = c.denoised(x[k], sigma)
                plain = x[k] + (1 - s**2 / sigma**2) * (d - x[k])
                aimed = plain + (1 - s**2 / sigma**2) * sigma**2 * pigdm_score(c, x[k], c.sigma[t])
                ahead = aimed + v**0.5 * z[k]
                log_p = log_normal(ahead, plain, v)
                log_q = log_normal(ahead, aimed, v)
                log_w[k] += log_p + twist(c, ahead, s) - log_q - twist(c, x[k], sigma)
                x[k] = ahead
        point, r2 = noise.uniform(), sigmas[1] ** 2 / (1 + sigmas[1] ** 2)
        kept = torch.stack([x[chosen(log_w[:, b].softmax(dim=0), float(point[b])), b] for b in range(BATCH)])
        other, z = noise.flat(tuple(c.operator.out_shape)), noise.flat()
        normal = c.A.T @ c.A / c.s_y**2 + torch.eye(len(c.A.T)).double() / r2
        start = c.denoised(kept, sigmas[1]) + r2**0.5 * z
        return torch.linalg.solve(normal, ((c.wanted + c.s_y * other) @ c.A / c.s_y**2 + start / r2).T).T

    return algorithm


def langevin(levels: Sequence[float], size: float, adjusted: bool) -> Callable[[Case, Draws], Tensor]:
    """Roberts & Tweedie 1996: x' = x + h·∇ log π + √(2h)·ε, and (adjusted) Metropolis and Hastings on π itself.

    π(x) ∝ p_σ(x)·N(y; A x, σ_y² + σ² − σ_min²), p_σ the prior's density under noise σ, h = size/(1/σ² + 1/var(y)).
    levels: in image units, where all of it happens: nothing in it has another range.
    """

    def algorithm(c: Case, noise: Draws) -> Tensor:
        sigmas = levels[:-1]
        y = c.y.flatten(1)

        def log_pi(x: Tensor, sigma: float) -> Tensor:
            variance = c.sigma_y**2 + sigma**2 - sigmas[-1] ** 2
            fit = (y - x @ c.A.T).square().sum(dim=1) / (2 * variance)
            return c.prior.log_density(x.view(-1, *SHAPE), sigma) - fit

        def slope(x: Tensor, sigma: float) -> Tensor:
            x = x.detach().requires_grad_()
            return torch.autograd.grad(log_pi(x, sigma).sum(), x)[0]

        x = 0.5 + (sigmas[0] ** 2 + 0.25) ** 0.5 * noise.flat()
        for sigma in sigmas[1:]:
            h = size / (1 / sigma**2 + 1 / (c.sigma_y**2 + sigma**2 - sigmas[-1] ** 2))
            z = x + h * slope(x, sigma) + (2 * h) ** 0.5 * noise.flat()
            if adjusted:
                gain = log_pi(z, sigma) - log_pi(x, sigma)
                gain = gain + log_normal(x, z + h * slope(z, sigma), 2 * h)
                gain = gain - log_normal(z, x + h * slope(x, sigma), 2 * h)
                taken = noise.uniform().log() < gain
                z = torch.where(taken[:, None], z, x)
            x = z
        return 2 * x - 1

    return algorithm


@dataclass(frozen=True, eq=False)
class Paper:
    """A method with the settings that its paper's algorithm is written with, and a problem for both."""

    method: Method
    case: Case
    algorithm: Callable[[Case, Draws], Tensor]
    levels: Sequence[float] | None = None
    """Where they are not the case's."""

    @cached_property
    def literal(self) -> Tensor:
        """What the algorithm gives, in image units, (B, C, H, W)."""
        return (self.algorithm(self.case, Draws()).detach().view(-1, *SHAPE) + 1) / 2

    def ours(self, method: Method | None = None) -> Tensor:
        """What our method gives, or another in its place, with the same noise."""
        levels = self.case.levels if self.levels is None else self.levels
        return sample(method or self.method, self.case.problem, Draws(), levels=levels)  # type: ignore[arg-type]

    def error(self, method: Method | None = None) -> float:
        return float((self.ours(method) - self.literal).abs().max())


def mask() -> Operator:
    generator = torch.Generator().manual_seed(4)
    return operators.Mask((torch.rand(SHAPE[1:], generator=generator) < 0.5).float(), channels=SHAPE[0])


def blur() -> Operator:
    """Spectral: its kernel is an outer product."""
    return operators.Blur(operators.kernels.gaussian(0.7, 3), SHAPE, border="reflect")


def sensing() -> Operator:
    """Fewer numbers than a picture has, each of several: rank-deficient, not a mask."""
    return operators.CompressedSensing(SHAPE, 0.5, "dct")


LANGEVIN_LEVELS = [*(falling := grid.karras(6, 1.0, 0.05)[:-1]), *[falling[-1]] * 3, 0.0]


def make_papers() -> dict[str, Paper]:
    """By the method's name in METHODS, and, after a comma, which of its forms."""
    clean, noisy = Case(mask()), Case(mask(), 0.1)
    blurred, sensed, exact = Case(blur(), 0.1), Case(sensing(), 0.1), Case(sensing())
    single = Case(operators.Identity(SHAPE), float(Case(mask()).sigma[-1]) / 2)
    return {
        "dps": Paper(DPS(steps=1000, zeta=0.7), Case(blur()), dps(0.7)),
        "pigdm": Paper(PiGDM(), blurred, guided(pigdm_score)),
        "mmps": Paper(MMPS(iterations=2), noisy, guided(mmps_score(2))),
        "mmps, solved": Paper(MMPS(iterations=20), sensed, guided(mmps_score(None))),
        "tmpd": Paper(TMPD(), sensed, guided(tmpd_score)),
        "ddrm": Paper(DDRM(eta=0.7, eta_b=0.8), sensed, ddrm(0.7, 0.8)),
        "ddrm, masked": Paper(DDRM(), noisy, ddrm(0.85, 1.0)),
        "ddrm, blurred": Paper(DDRM(), blurred, ddrm(0.85, 1.0)),
        "ddnm": Paper(DDNM(eta=0.7), exact, ddnm(0.7)),
        "ddnm, as printed": Paper(DDNM(integrator="ancestral"), exact, ddnm(None)),
        "ddnm, noisy": Paper(DDNM(eta=0.7), sensed, ddnm_plus(0.7)),
        "ddnm, noisy and blurred": Paper(DDNM(), blurred, ddnm_plus(0.85)),
        "diffpir": Paper(DiffPIR(weight=3.0, zeta=0.3), blurred, diffpir(3.0, 0.3)),
        "repaint": Paper(RePaint(), clean, repaint(3), grid.resample(clean.levels, 1, 3)),
        "ilvr": Paper(ILVR(), exact, ilvr),
        "mcg": Paper(MCG(steps=1000, zeta=0.7), exact, dps(0.7, project=True)),
        "red_diff": Paper(RedDiff(weight=0.4, rate=0.05), blurred, red_diff(0.4, 0.05)),
        "daps": Paper(
            DAPS(
                langevin=5,
                ode_steps=4,
                rate=2e-4,
                tau=0.3,
                sigma_max=blurred.levels[0],
                sigma_min=blurred.levels[-2],
            ),
            blurred,
            daps(4, 5, 2e-4, 0.3),
        ),
        "score_ald": Paper(ScoreALD(gamma=1.5), blurred, score_ald(1.5, 10, 0.2)),
        "smc": Paper(SMC(particles=3), noisy, smc(3)),
        "smc, one particle": Paper(SMC(particles=1), blurred, smc(1)),
        "ula": Paper(ULA(sigma_min=0.05), blurred, langevin(LANGEVIN_LEVELS, 0.2, False), LANGEVIN_LEVELS),
        "mala": Paper(MALA(sigma_min=0.05), blurred, langevin(LANGEVIN_LEVELS, 0.2, True), LANGEVIN_LEVELS),
        "mala, refusing some": Paper(
            MALA(sigma_min=0.05, size=1.5), noisy, langevin(LANGEVIN_LEVELS, 1.5, True), LANGEVIN_LEVELS
        ),
        "ancestral": Paper(Ancestral(), single, ancestral),
        "sr3": Paper(SR3(), Seen(blur(), 0.1), sr3),
        "sr3, few numbers": Paper(SR3(), Seen(sensing(), 0.1), sr3),
        "sr3, consistent with noise": Paper(SR3(consistency=True), Seen(blur(), 0.1), sr3_held),
        "sr3, projected": Paper(SR3(consistency=True), exact, ddnm(None)),
    }
