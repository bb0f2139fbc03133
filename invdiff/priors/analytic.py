"""Priors whose denoiser, and so whose posterior, is known exactly: what the methods are proved against."""

from __future__ import annotations

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

    def covariance_times(self, v: Tensor) -> Tensor:
        """C v for vectors in rows, (k, n) → (k, n)."""
        return self._along_basis(v, self.variances.to(v))

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws of shape (B, C, H, W), float64."""
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.mean + self._along_basis(noise.flatten(1), self.variances.sqrt()).reshape(shape)

    def _along_basis(self, rows: Tensor, gain: Tensor) -> Tensor:
        """Each row's parts along the eigenvectors, times `gain`, (n,) or (rows, n)."""
        if self.basis is None:
            return gain * rows
        if rows.shape[1] != len(self.basis):
            raise ValueError(
                f"prior {self.card.name}: expected {len(self.basis)} values, got {rows.shape[1]}"
            )
        basis = self.basis.to(rows)
        return ((rows @ basis) * gain) @ basis.T


def _card(mean: Tensor, std: float) -> Card:
    return Card(name="gaussian", data_mean=float(mean.mean()), data_std=std, sigma_max=100.0)
