"""Priors whose denoiser, and so whose posterior, is known exactly: what the methods are proved against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.priors.base import Card, per_image


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """x₀ ~ N(mean, covariance): D(x, σ) = mean + C (C + σ² I)⁻¹ (x − mean). See `white`, `correlated`."""

    mean: Tensor
    """() or (C, H, W)."""
    variances: Tensor
    """Eigenvalues of the covariance, (n,), or () when white."""
    basis: Tensor | None
    """Its eigenvectors, (n, n), in columns; None when white."""
    card: Card

    @classmethod
    def white(cls, mean: float | Tensor = 0.5, std: float = 0.25) -> GaussianPrior:
        """Every pixel on its own, around `mean`, a number or (C, H, W), with the standard deviation `std`."""
        if not std > 0:
            raise ValueError(f"std: expected a positive standard deviation in image units, got {std}")
        mean = torch.as_tensor(mean, dtype=torch.float64)
        return cls(mean, torch.tensor(std**2, dtype=torch.float64), None, _card(mean, std))

    @classmethod
    def correlated(cls, mean: float | Tensor, covariance: Tensor) -> GaussianPrior:
        """Covariance (n, n), n = C·H·W, of flattened pictures; it may be singular.

        ValueError where it is not symmetric or not positive semi-definite.
        """
        mean, covariance = torch.as_tensor(mean, dtype=torch.float64), covariance.double()
        square = covariance.ndim == 2 and covariance.shape[0] == covariance.shape[1]
        if not square or not torch.allclose(covariance, covariance.T, rtol=1e-8, atol=1e-12):
            raise ValueError(f"expected a symmetric covariance (n, n), got shape {tuple(covariance.shape)}")
        variances, basis = torch.linalg.eigh(covariance)
        lowest = float(variances[0])
        if lowest < -1e-8 * float(variances[-1]):
            raise ValueError(f"expected a positive semi-definite covariance, got the eigenvalue {lowest:g}")
        std = float(covariance.diagonal().mean().sqrt())
        return cls(mean, variances.clamp(min=0), basis, _card(mean, std))

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        mean, variances = self.mean.to(x), self.variances.to(x)
        noise = per_image(sigma, x)[:, None] ** 2
        total = (variances + noise).clamp(min=torch.finfo(x.dtype).tiny)  # 0/0 at σ = 0 in a flat direction
        return mean + self._along_basis((x - mean).flatten(1), variances / total).reshape(x.shape)

    def log_density(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """log p(x) of x = x₀ + σ·ε, (B,), float64; autograd goes through it: (D − x)/σ² = ∇ log p.

        ValueError where σ, to rounding, is 0 in a direction in which the prior does not vary: there is no density.
        """
        away = _wide(x) - self.mean.to(_wide(x))
        noise, variances = per_image(sigma, away)[:, None] ** 2, self.variances.to(away)
        n = away[0].numel()
        _refuse_no_density(noise.min() + variances.min(), n * torch.finfo(away.dtype).eps * variances.max())
        total = (variances + noise).expand(len(x), n)
        c = self._coordinates(away.flatten(1))
        return -0.5 * (c.square() / total + (2 * math.pi * total).log()).sum(1)

    def covariance_times(self, v: Tensor) -> Tensor:
        """C v for vectors in rows, (k, n) → (k, n)."""
        return self._along_basis(v, self.variances.to(v))

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws of shape (B, C, H, W), float64."""
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.mean + self._along_basis(noise.flatten(1), self.variances.sqrt()).reshape(shape)

    def _along_basis(self, rows: Tensor, gain: Tensor) -> Tensor:
        """Each row's parts along the eigenvectors, times `gain`, (n,) or (rows, n)."""
        c = self._coordinates(rows) * gain
        return c if self.basis is None else c @ self.basis.to(rows).T

    def _coordinates(self, rows: Tensor) -> Tensor:
        """Each row's parts along the eigenvectors, (rows, n)."""
        if self.basis is None:
            return rows
        if rows.shape[1] != len(self.basis):
            raise ValueError(
                f"prior {self.card.name}: expected {len(self.basis)} values, got {rows.shape[1]}"
            )
        return rows @ self.basis.to(rows)


@dataclass(frozen=True, eq=False)
class MixturePrior:
    """x₀ ~ Σ_k w_k N(m_k, s_k² I), so x = x₀ + σ·ε ~ Σ_k w_k N(m_k, v_k I), v_k = s_k² + σ². See `make`, `empirical`.

    D(x, σ) = Σ_k r_k (s_k² x + σ² m_k)/v_k, with r_k = p(k | x) (Bishop 2006, Pattern Recognition and Machine
    Learning, eqs. 9.13 and 2.116). Worked out in float64, since log r_k is of the order of n/σ². v_k is never below
    1e-12, so that where s_k = 0, D at σ = 0 is the nearest picture.
    """

    means: Tensor
    """m_k, (K, C, H, W)."""
    stds: Tensor
    """s_k, (K,)."""
    weights: Tensor
    """w_k, (K,); their sum is 1."""
    card: Card

    @classmethod
    def make(
        cls, means: Tensor, std: float | Tensor, weights: Tensor | None = None, name: str = "mixture"
    ) -> MixturePrior:
        """Around `means` (K, C, H, W), each as wide as `std` ≥ 0, one or (K,); weights (K,) > 0, of any sum.

        The card's mean is the mixture's over all pixels; its std² is a pixel's variance, on average over the pixels.
        ValueError for what is no mixture.
        """
        means = torch.as_tensor(means, dtype=torch.float64).detach().clone()
        if means.ndim != 4 or not means.numel() or not means.isfinite().all():
            raise ValueError(f"means: expected finite pictures (K, C, H, W), got shape {tuple(means.shape)}")
        stds = _one_for_each("std", std, len(means))
        if not ((stds >= 0) & stds.isfinite()).all():
            raise ValueError(f"std: expected standard deviations from 0 up, in image units, got {std}")
        w = _one_for_each("weights", 1.0 if weights is None else weights, len(means))
        if not ((w > 0) & w.isfinite()).all():
            raise ValueError(f"weights: expected numbers above 0, got {weights}; leave out means without one")
        w = w / w.sum()
        mean = torch.einsum("k,kchw->chw", w, means)
        between = torch.einsum("k,kchw->chw", w, (means - mean).square()).mean()
        spread = float((between + w @ stds.square()).sqrt())
        card = Card(
            name=name, channels=means.shape[1], data_mean=float(mean.mean()), data_std=spread, sigma_max=100.0
        )
        return cls(means, stds, w, card)

    @classmethod
    def empirical(cls, pictures: Tensor) -> MixturePrior:
        """One of these pictures (K, C, H, W), each as likely: what a network learns that has them by heart."""
        return cls.make(pictures, 0.0, name="pictures")

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        away, centre, means = self._centred(x)
        v, logits = self._parts(away, means, sigma)
        r, kept = logits.softmax(dim=1), self.stds.to(v).square() / v
        d = (r * kept).sum(1, keepdim=True) * away + (r * (1 - kept)) @ means
        return (d + centre).reshape(x.shape).to(x)

    def log_density(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """log p(x) of x = x₀ + σ·ε, (B,), float64; autograd goes through it: (D − x)/σ² = ∇ log p.

        ValueError at σ = 0 where a component has no width: there is no density.
        """
        away, _, means = self._centred(x)
        _refuse_no_density(per_image(sigma, away).min() + self.stds.min(), 0.0)
        return self._parts(away, means, sigma)[1].logsumexp(dim=1)

    def responsibilities(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """r_k = p(k | x) of x = x₀ + σ·ε, (B, K), float64."""
        away, _, means = self._centred(x)
        return self._parts(away, means, sigma)[1].softmax(dim=1)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws of shape (B, C, H, W), float64."""
        if tuple(shape[1:]) != tuple(self.means.shape[1:]):
            raise ValueError(self._expected(shape))
        k = torch.multinomial(self.weights, shape[0], replacement=True, generator=generator)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.means[k] + self.stds[k].view(-1, 1, 1, 1) * noise

    def _centred(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, n) and the means (K, n) seen from the means' middle (n,), which keeps their squares small."""
        if x.shape[1:] != self.means.shape[1:]:
            raise ValueError(self._expected(tuple(x.shape)))
        rows = _wide(x).flatten(1)
        means = self.means.to(rows).flatten(1)
        centre = means.mean(dim=0)
        return rows - centre, centre, means - centre

    def _parts(self, away: Tensor, means: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """v_k and log(w_k N(x; m_k, v_k I)), (B, K) both; without a tensor (B, K, n)."""
        v = (self.stds.to(away).square() + per_image(sigma, away)[:, None] ** 2).clamp(min=1e-12)
        squares = away.square().sum(1, keepdim=True) - 2 * away @ means.T + means.square().sum(1)
        normal = squares / v + away.shape[1] * (2 * math.pi * v).log()
        return v, self.weights.to(away).log() - 0.5 * normal

    def _expected(self, got: tuple[int, ...]) -> str:
        wanted = ", ".join(["B", *map(str, self.means.shape[1:])])
        return f"prior {self.card.name}: expected pictures ({wanted}), got {tuple(got)}"


def _card(mean: Tensor, std: float) -> Card:
    return Card(name="gaussian", data_mean=float(mean.mean()), data_std=std, sigma_max=100.0)


def _one_for_each(name: str, value: float | Tensor, count: int) -> Tensor:
    """One number, or (count,), as (count,), float64."""
    values = torch.as_tensor(value, dtype=torch.float64).detach()
    if values.ndim > 1 or values.numel() not in (1, count):
        raise ValueError(f"{name}: expected a number or ({count},), got shape {tuple(values.shape)}")
    return values.expand(count).clone()


def _wide(x: Tensor) -> Tensor:
    """In float64, or in float32 on a device that has no more."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def _refuse_no_density(least: Tensor, rounding: float | Tensor) -> None:
    if not least > rounding:
        raise ValueError("sigma: x0 + sigma * noise has no density at this sigma; expected a larger one")
