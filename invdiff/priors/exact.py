"""p(x₀ | y) in closed form, where the prior is a mixture of Gaussians and the measurement is linear.

x₀ = m_k + s_k·L z with z ~ N(0, I) in component k: L = I for a `MixturePrior`, L = C^½ (and one component) for a
`GaussianPrior`. One singular value decomposition A L = U diag(S) Vᵀ then serves all components, whatever their widths:
in the coordinates Vᵀz the posterior has variance σ_y²/(s²S² + σ_y²) and mean s·S/(s²S² + σ_y²)·Uᵀ(y − A m_k), and
component k has explained Uᵀy ~ N(Uᵀ A m_k, s²S² + σ_y²). Source: Bishop 2006, eqs. 2.113 to 2.117.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from invdiff.operators import GaussianNoise, LinearOperator, Noise, Operator

from .analytic import GaussianPrior, MixturePrior
from .base import Card, Condition, per_image

_CERTAIN = 1e-9
"""σ_y that stands in for 0 where the weights of pictures without a width are compared: the nearest takes it all."""
_AT_ONCE = 1 << 22
"""Numbers that a denoiser of many components holds for as many pictures as it treats together."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Posterior:
    """Σ_k weights_k N(means_k, basis diag(variances_k) basisᵀ) over flattened pictures, n = C·H·W, float64."""

    weights: Tensor
    """(K,); their sum is 1."""
    means: Tensor
    """(K, n)."""
    variances: Tensor | None
    """(K, n), along the columns of `basis`; None: no component has a width."""
    basis: Tensor | None
    """(n, n); its columns need be neither orthogonal nor of length 1."""
    prior: GaussianPrior | MixturePrior

    @cached_property
    def mean(self) -> Tensor:
        """(n,)."""
        return self.weights @ self.means

    @cached_property
    def covariance(self) -> Tensor:
        """(n, n), of the components and between them."""
        away = self.means - self.mean
        between = (self.weights[:, None] * away).T @ away
        if self.variances is None or self.basis is None:
            return between
        return between + (self.basis * (self.weights @ self.variances)) @ self.basis.T

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Independent draws, (count, n)."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        if self.variances is None or self.basis is None:
            return self.means[k]
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + (self.variances.sqrt()[k] * noise) @ self.basis.T

    def modes(self, samples: Tensor) -> Tensor:
        """Which share of the samples belongs to each component, (K,): the mean of p(k | x₀).

        samples: (S, n) or (S, C, H, W). Given x₀ the measurement says no more of k, so p(k | x₀) is the prior's, and
        exact samples have `weights` on average. Where no component has a width, a sample belongs to the nearest.
        """
        rows = samples.flatten(1).double()
        if rows.shape[1] != self.means.shape[1] or not len(rows):
            raise ValueError(
                f"samples: expected (S, {self.means.shape[1]}), at least one, got {tuple(samples.shape)}"
            )
        if isinstance(self.prior, GaussianPrior):
            return torch.ones(1, dtype=torch.float64)
        pictures = rows.reshape(-1, *self.prior.means.shape[1:])
        return self.prior.responsibilities(pictures, 0.0).mean(dim=0)


@torch.no_grad()
def exact_posterior(
    prior: GaussianPrior | MixturePrior, op: Operator, y: Tensor, sigma_y: float, noise: Noise | None = None
) -> Posterior:
    """p(x₀ | y) for one measurement y (1, *out_shape) with Gaussian noise σ_y ≥ 0, or with `noise` instead of it.

    op: a LinearOperator, made dense: n·m numbers and a decomposition of order n·m·min(n, m). Where no component of the
    prior has a width (`MixturePrior.empirical`) any operator and any noise, since then p(k | y) ∝ w_k p(y | A(m_k)).
    At σ_y = 0 it is the limit σ_y → 0; what A L loses to rounding is lost. ValueError for a y of another shape, or one
    that no picture explains; TypeError for an operator or a noise without a closed form.
    """
    if tuple(y.shape) != (1, *op.out_shape):
        raise ValueError(f"y: expected one measurement {(1, *op.out_shape)}, got {tuple(y.shape)}")
    if not 0 <= sigma_y < float("inf"):
        raise ValueError(f"sigma_y: expected a standard deviation in image units, got {sigma_y}")
    y = y.detach().double().cpu()
    if isinstance(prior, MixturePrior):
        if tuple(prior.means.shape[1:]) != tuple(op.in_shape):
            raise ValueError(f"op: expected one for {tuple(prior.means.shape[1:])}, got {op.describe()}")
        if not prior.stds.any():
            return _of_pictures(prior, op, y, sigma_y, noise)
    if isinstance(noise, GaussianNoise) and isinstance(noise.sigma, float):
        sigma_y, noise = noise.sigma, None
    if noise is not None or not isinstance(op, LinearOperator):
        raise TypeError(
            "expected a LinearOperator and white Gaussian noise, or a MixturePrior of std 0, "
            f"got {op.describe()} and {noise or f'sigma_y={sigma_y:g}'}"
        )
    unit = torch.eye(y.new_empty(op.in_shape).numel(), dtype=torch.float64)
    matrix = torch.cat([op.A(part.reshape(-1, *op.in_shape)).flatten(1) for part in unit.split(64)]).T
    if isinstance(prior, MixturePrior):
        root, means, stds, weights = unit, prior.means.flatten(1), prior.stds, prior.weights
    else:
        root, means = _root(prior, unit), prior.mean.expand(op.in_shape).reshape(1, -1)
        stds = weights = torch.ones(1, dtype=torch.float64)

    ahead = matrix @ root
    u, values, vt = torch.linalg.svd(ahead, full_matrices=len(ahead) < len(root))
    lost = values <= max(ahead.shape) * torch.finfo(values.dtype).eps * values.max()
    s = torch.zeros(len(root), dtype=torch.float64)
    s[: len(values)] = torch.where(lost, 0, values)
    seen = s > 0
    residual = torch.zeros(len(means), len(root), dtype=torch.float64)
    residual[:, : len(values)] = (y.flatten() - means @ matrix.T) @ u[:, : len(values)]

    width = stds[:, None].square()  # (K, 1) and along V (n,)
    total = width * s**2 + sigma_y**2
    some = torch.where(total > 0, total, 1)
    variances = torch.where(seen, width * sigma_y**2 / some, width)
    shift = torch.where(seen, width * s / some, 0) * residual
    basis = root @ vt.T
    spread = torch.where(total > 0, total, _CERTAIN**2)
    log_p = -0.5 * torch.where(seen, residual**2 / spread + spread.log(), 0).sum(1)
    return Posterior(
        weights=(weights.log() + log_p).softmax(dim=0),
        means=means + shift @ basis.T,
        variances=variances,
        basis=basis,
        prior=prior,
    )


def _of_pictures(
    prior: MixturePrior, op: Operator, y: Tensor, sigma_y: float, noise: Noise | None
) -> Posterior:
    clean = torch.cat([op.A(picture) for picture in prior.means.split(1)])
    likelihood = noise or GaussianNoise(max(sigma_y, _CERTAIN))
    log_p = prior.weights.log() + likelihood.log_likelihood(y.expand_as(clean), clean)
    if not (log_p > -torch.inf).any():
        raise ValueError(
            f"y: expected a measurement that one of the pictures explains, got none under {noise}"
        )
    weights = log_p.softmax(dim=0)
    return Posterior(weights=weights, means=prior.means.flatten(1), variances=None, basis=None, prior=prior)


def _root(prior: GaussianPrior, unit: Tensor) -> Tensor:
    """L (n, n) with L Lᵀ the covariance; its columns zero where that is flat, to rounding."""
    if prior.basis is None:
        return prior.variances.sqrt() * unit
    if len(prior.basis) != len(unit):
        raise ValueError(f"op: expected one for pictures of {len(prior.basis)} values, got {len(unit)}")
    flat = prior.variances <= len(unit) * torch.finfo(torch.float64).eps * prior.variances.max()
    return prior.basis * torch.where(flat, 0, prior.variances).sqrt()


@dataclass(frozen=True, eq=False)
class ExactConditional:
    """E[x₀ | x_σ, y] of a prior known exactly: what a network that is shown y learns at best (a `ConditionalPrior`).

    Any measurement that `exact_posterior` has a closed form for; shown none, it is the prior.
    """

    prior: GaussianPrior | MixturePrior

    @property
    def card(self) -> Card:
        return dataclasses.replace(
            self.prior.card, condition=Condition(tasks=(), noise=math.inf, dropout=0.5)
        )

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.prior(x, sigma)

    def seeing(
        self, y: Tensor, operator: Operator, sigma_y: float = 0.0, *, guidance: float = 1.0
    ) -> ExactlySeeing:
        """D(x, σ; y) as D(x, σ), y (B, *out_shape): row i of x belongs to row i of y, every row to a single y.

        guidance: D + guidance·(D_y − D). Errors: those of `exact_posterior`.
        """
        op = operator.to("cpu", torch.float64)
        found = [exact_posterior(self.prior, op, one, sigma_y) for one in y.split(1)]
        first, means = found[0], torch.stack([posterior.means for posterior in found])
        variances, basis = first.variances, first.basis  # whatever y is
        if isinstance(self.prior, GaussianPrior):
            variances, basis = torch.linalg.eigh(first.covariance)
            flat = variances <= len(basis) * torch.finfo(basis.dtype).eps * self.prior.variances.max()
            variances = torch.where(flat, 0, variances)[None]
        return ExactlySeeing(
            conditional=self,
            weights=torch.stack([posterior.weights for posterior in found]),
            means=means if basis is None else means @ basis,
            variances=torch.zeros_like(means[0]) if variances is None else variances,
            basis=basis,
            rows=tuple(range(len(y))),
            guidance=guidance,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ExactlySeeing:
    """`ExactConditional` with the measurements it sees (a `Sees`).

    Given y, x₀ ~ Σ_k w_k N(m_k, B diag(v_k) Bᵀ) with an orthonormal B, so that
    D(x, σ) = Σ_k r_k·(m_k + B diag(v_k/(v_k + σ²)) Bᵀ(x − m_k)), r_k ∝ w_k N(x; m_k, B diag(v_k + σ²) Bᵀ).
    Worked out in float64; v_k + σ² is never below 1e-12.
    """

    conditional: ExactConditional
    weights: Tensor
    """w, (M, K), of M measurements."""
    means: Tensor
    """Bᵀm, (M, K, n)."""
    variances: Tensor
    """v, (K, n)."""
    basis: Tensor | None
    """B, (n, n); None: I."""
    rows: tuple[int, ...]
    """Which measurement each row of x belongs to."""
    guidance: float = 1.0

    @property
    def card(self) -> Card:
        return self.conditional.card

    @property
    def centre(self) -> Tensor | None:
        """Not known to lie around anything."""
        return None

    def pick(self, images: Sequence[int]) -> ExactlySeeing:
        """That of a batch made of these images."""
        return dataclasses.replace(self, rows=tuple(self.rows[i] for i in images))

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if len(self.rows) not in (1, len(x)):
            raise ValueError(
                f"prior {self.card.name}: sees {len(self.rows)} measurements, expected as many pictures, got {len(x)}"
            )
        c = x.flatten(1).double()
        if c.shape[1] != self.means.shape[2]:
            raise ValueError(
                f"prior {self.card.name}: expected {self.means.shape[2]} values, got {c.shape[1]}"
            )
        c = c if self.basis is None else c @ self.basis.to(c)
        rows = torch.tensor(self.rows, device=c.device).expand(len(x))
        together = max(1, _AT_ONCE // self.means[0].numel())
        parts = zip(c.split(together), rows.split(together), per_image(sigma, c).split(together), strict=True)
        d = torch.cat([self._along_basis(*part) for part in parts])
        seen = (d if self.basis is None else d @ self.basis.to(d).T).reshape(x.shape).to(x)
        if self.guidance == 1:
            return seen
        unseen = self.conditional(x, sigma)
        return unseen + self.guidance * (seen - unseen)

    def _along_basis(self, c: Tensor, rows: Tensor, sigma: Tensor) -> Tensor:
        """Bᵀ D of c = Bᵀ x, (B, n)."""
        means, variances = self.means.to(c)[rows], self.variances.to(c)
        total = (variances + sigma[:, None, None] ** 2).clamp(min=1e-12)  # (B, K, n)
        away = c[:, None] - means
        log_p = -0.5 * (away.square() / total + total.log()).sum(2)
        r = (self.weights.to(c)[rows].log() + log_p).softmax(dim=1)
        return (r[..., None] * (means + variances / total * away)).sum(1)
