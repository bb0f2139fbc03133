"""How a measurement y comes from clean = A(x): what can be drawn, how likely it is, and how to undo it.

y and clean are (B, *out_shape) in image units. Densities are worked out in float64 and returned so, one number
for each sample; scores and proximal maps come back in the dtype of the image they are for.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log, pi, prod, sqrt
from numbers import Real
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import SpectralOperator, _moved, by, damping


class Noise(ABC):
    """p(y | clean), of which all noises give a draw, a log-likelihood and the Gaussian nearest to them."""

    has_score: ClassVar[bool] = True
    """Whether log p(y | clean) has a slope in clean; without one there is no `score` and no `deviance`."""
    has_prox: ClassVar[bool] = True
    """Whether `prox` is known in closed form."""

    @abstractmethod
    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of y, in the dtype of clean (bfloat16: drawn in float32).

        It is drawn where the generator lives: one on the CPU draws the same for every device.
        """

    @abstractmethod
    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y | clean), normalised, summed over a sample's numbers: (B,), float64; −inf for what cannot be.

        ValueError where the noise has no density because its scale is 0.
        """

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """∂/∂clean log p(y | clean), like clean; 0 where it does not exist. NotImplementedError without `has_score`."""
        raise self._lacks("a score", "its likelihood jumps; take methods that use std instead")

    def deviance(self, y: Tensor, clean: Tensor) -> Tensor:
        """2·(max_u log p(y | u) − log p(y | clean)) ≥ 0, (B,), float64; ‖(y − clean)/σ‖² for Gaussian noise.

        Autograd goes through it, once, where the score exists. NotImplementedError without `has_score`.
        """
        raise self._lacks("a deviance", "its likelihood jumps; take methods that use std instead")

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        """argmin_u ½‖u − z‖² − weight·log p(y | u), like z. NotImplementedError without `has_prox`.

        weight: a number in (0, inf], or one per sample (B,); at inf it is the u nearest to z that explains y best.
        """
        raise self._lacks("a proximal map in closed form", "take a method that uses its score or std instead")

    @abstractmethod
    def std(self, y: Tensor) -> float | Tensor:
        """The standard deviation of the Gaussian that stands in for this noise, given y.

        One number, or one for each number of y, in its dtype: inf where that says nothing, 0 where it is exact.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for logs and records."""

    def __repr__(self) -> str:
        return self.describe()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same noise, its tensors on `device` and in `dtype`; None leaves them as they are."""
        new = copy.copy(self)
        vars(new).update({name: _moved(value, device, dtype) for name, value in vars(self).items()})
        return new

    def _lacks(self, what: str, remedy: str) -> NotImplementedError:
        return NotImplementedError(f"{self}: expected {what}, got a noise without; {remedy}")


@dataclass(frozen=True, eq=False, repr=False)
class GaussianNoise(Noise):
    """y = clean + sigma · n, n ~ N(0, I).

    sigma: image units (8-bit 12.75 is 0.05), a number, or a map that broadcasts to the measurement's shape
    without the batch. ValueError for negative or infinite values.
    """

    sigma: float | Tensor

    def __post_init__(self) -> None:
        vars(self).update(sigma=_scale("sigma", self.sigma))

    def describe(self) -> str:
        if not isinstance(self.sigma, Tensor):
            return f"GaussianNoise(sigma={self.sigma:g})"
        least, most = self.sigma.min().item(), self.sigma.max().item()
        return f"GaussianNoise(sigma={least:g} to {most:g}, a map {by(*self.sigma.shape)})"

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        noise = _normal(clean.shape, clean.dtype, generator)
        return (_drawable(clean) + self._sigma(clean).to(noise.dtype) * noise.to(clean.device)).to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        r, sigma = _residual(y, clean), self._positive(clean)
        constant = (2 * pi * sigma.square()).log()
        return -0.5 * ((r / sigma).square() + constant).flatten(1).sum(1)

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        return (_residual(y, clean) / self._positive(clean).square()).to(clean)

    def deviance(self, y: Tensor, clean: Tensor) -> Tensor:
        return (_residual(y, clean) / self._positive(clean)).square().flatten(1).sum(1)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        _check_pair(y, z)
        share = 1 / (1 + self._sigma(z).square() * _inverse(weight, z))  # exactly 1 where y is certain
        return ((1 - share) * _precise(z) + share * _precise(y)).to(z)

    def std(self, y: Tensor) -> float | Tensor:
        return self.sigma if isinstance(self.sigma, float) else self._sigma(y).to(y)

    def _sigma(self, like: Tensor) -> Tensor:
        """In float64, where `like` is, checked against its shape."""
        if isinstance(self.sigma, Tensor):
            shape, wanted = tuple(self.sigma.shape), tuple(like.shape[1:])
            if len(shape) > len(wanted) or any(
                a not in (1, b) for a, b in zip(shape[::-1], wanted[::-1], strict=False)
            ):
                raise ValueError(f"sigma: expected a map that broadcasts to {wanted}, got {shape}; resize it")
        return _like(self.sigma, like)

    def _positive(self, like: Tensor) -> Tensor:
        sigma = self._sigma(like)
        if not (sigma > 0).all():
            raise ValueError("sigma: noise with sigma = 0 has no density; expected numbers above 0")
        return sigma


@dataclass(frozen=True, eq=False, repr=False)
class ColouredNoise(Noise):
    """y = clean + U(sigmas · n), n ~ N(0, I): Gaussian, its covariance diagonal in the operator's basis U.

    operator: the one that measures. sigmas: (n,), n = C·H·W, in the order of its singular values, image units.
    Directions that A cannot produce (s = 0) carry no noise, whatever their sigma: a y with anything there that
    clean has not is impossible.
    """

    operator: SpectralOperator
    sigmas: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.operator, SpectralOperator):
            raise TypeError(
                f"operator: expected a SpectralOperator, whose basis colours the noise, got {self.operator}"
            )
        sigmas, n = _scale("sigmas", torch.as_tensor(self.sigmas)), prod(self.operator.in_shape)
        if not isinstance(sigmas, Tensor) or sigmas.shape != (n,):
            got = tuple(torch.as_tensor(self.sigmas).shape)
            raise ValueError(f"sigmas: expected ({n},), one for each singular value, got {got}")
        vars(self).update(sigmas=sigmas)

    def describe(self) -> str:
        least, most = self.sigmas.min().item(), self.sigmas.max().item()
        return f"ColouredNoise(sigma={least:g} to {most:g}, in the basis of {self.operator})"

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        noise = _normal((len(clean), len(self.sigmas)), clean.dtype, generator).to(clean.device)
        return (_drawable(clean) + self.operator.U(self.sigmas.to(noise) * noise)).to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        c, sigma, carried = self._coefficients(y, clean)
        outside = _residual(y, clean) - self.operator.U(c)
        eps = max(torch.finfo(y.dtype).eps, torch.finfo(self.sigmas.dtype).eps)
        rounding = 1e3 * eps * (_norm(_precise(y)) + _norm(_precise(clean)))
        constant = (2 * pi * sigma.square()).log()
        log_p = -0.5 * torch.where(carried, (c / sigma).square() + constant, 0).sum(1)
        return torch.where(_norm(outside) <= rounding, log_p, -inf)

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        c, sigma, _ = self._coefficients(y, clean)
        return self.operator.U(c / sigma.square()).to(clean)

    def deviance(self, y: Tensor, clean: Tensor) -> Tensor:
        c, sigma, _ = self._coefficients(y, clean)
        return (c / sigma).square().sum(1)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        r, variance = _residual(y, z), _like(self.sigmas, z).square()
        kept = 1 - 1 / (1 + variance * _inverse(weight, z).view(-1, 1))
        return (_precise(y) - self.operator.U(kept * self.operator.U_adjoint(r))).to(z)

    def std(self, y: Tensor) -> float:
        """Of the white Gaussian that has the same power over what A can produce."""
        carried = self.sigmas[self.operator.singular_values.to(self.sigmas.device) > 0]
        return carried.double().square().mean().sqrt().item()

    def _coefficients(self, y: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Uᵀ(y − clean), sigmas with 1 where nothing is carried, and where something is."""
        carried = self.operator.singular_values.to(clean.device) > 0
        sigma = torch.where(carried, _like(self.sigmas, clean), 1)
        if not (sigma > 0).all():
            raise ValueError("sigmas: noise with sigma = 0 has no density; expected numbers above 0")
        return self.operator.U_adjoint(_residual(y, clean)), sigma, carried


@dataclass(frozen=True, eq=False, repr=False)
class PoissonNoise(Noise):
    """y = Poisson(peak · clean₊) / peak, clean₊ = max(clean, 0): photons counted, `peak` of them at white.

    peak: above 0. y is possible where peak · y is a whole number, to the rounding of its dtype. The score is 0
    where clean ≤ 0. As a Gaussian its standard deviation is √(max(y, 1/peak)/peak), never less than that of one
    photon: the weighted least squares with which Chung et al. (DPS, 2023, arXiv:2209.14687) treat Poisson noise.
    """

    peak: float

    def __post_init__(self) -> None:
        vars(self).update(peak=_number("peak", self.peak, *_PEAK))

    def describe(self) -> str:
        return f"PoissonNoise(peak={self.peak:g})"

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        rate = self.peak * _drawable(clean).to(generator.device).clamp(min=0)
        return (torch.poisson(rate, generator=generator) / self.peak).to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        k, rate = self._counts(y, clean)
        whole = k.round().clamp(min=0)
        possible = (k - whole).abs() <= 4 * torch.finfo(y.dtype).eps * whole.clamp(min=1)
        log_p = torch.xlogy(whole, rate) - rate - torch.lgamma(whole + 1)
        return torch.where(possible, log_p, -inf).flatten(1).sum(1)

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        k, rate = self._counts(y, clean)
        lit = rate > 0
        return torch.where(lit, self.peak * (k / torch.where(lit, rate, 1) - 1), 0).to(clean)

    def deviance(self, y: Tensor, clean: Tensor) -> Tensor:
        k, rate = self._counts(y, clean)
        k, lit = k.clamp(min=0), rate > 0
        seen = torch.xlogy(k, k) - k * torch.where(lit, rate, 1).log() - k + rate
        return 2 * torch.where(lit, seen, torch.where(k > 0, inf, 0)).flatten(1).sum(1)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        """The root of d·u² − (d·z − peak)·u − peak·y = 0, d = 1/weight; without a photon, z shifted towards 0."""
        _check_pair(y, z)
        d, k, zz = _inverse(weight, z), self.peak * _precise(y).clamp(min=0), _precise(z)
        b = d * zz - self.peak
        root = (b.square() + 4 * d * k).sqrt()
        u = torch.where(b >= 0, (b + root) / (2 * d), 2 * k / (root - b))
        return torch.where((k == 0) & (zz < 0), zz, u).to(z)

    def std(self, y: Tensor) -> Tensor:
        return (_precise(y).clamp(min=1 / self.peak) / self.peak).sqrt().to(y)

    def _counts(self, y: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        _check_pair(y, clean)
        return self.peak * _precise(y), self.peak * _precise(clean).clamp(min=0)


@dataclass(frozen=True, eq=False, repr=False)
class PoissonGaussianNoise(Noise):
    """y = Poisson(peak · clean₊)/peak + sigma · n: photons, and the electronics that read them.

    peak: photons at white, above 0. sigma: image units, above 0 for a density. The likelihood is the sum over all
    counts, to 1e-10 (see `_counted`); the score is 0 where clean ≤ 0. The deviance finds max_u by Newton's method.
    """

    peak: float
    sigma: float
    has_prox: ClassVar[bool] = False

    def __post_init__(self) -> None:
        peak, sigma = _number("peak", self.peak, *_PEAK), _number("sigma", self.sigma, *_SCALE)
        vars(self).update(peak=peak, sigma=sigma)

    def describe(self) -> str:
        return f"PoissonGaussianNoise(peak={self.peak:g}, sigma={self.sigma:g})"

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        rate = self.peak * _drawable(clean).to(generator.device).clamp(min=0)
        photons = torch.poisson(rate, generator=generator) / self.peak
        return (photons + self.sigma * _normal(clean.shape, clean.dtype, generator)).to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        log_p, _, _ = _counted(*self._counts(y, clean))
        return (log_p + log(self.peak)).flatten(1).sum(1)  # the density of y, not of peak · y

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        Y, rate, tau = self._counts(y, clean)
        return (self.peak * _slope(rate, _counted(Y, rate, tau)[1])).to(clean)

    def deviance(self, y: Tensor, clean: Tensor) -> Tensor:
        Y, rate, tau = self._counts(y, clean)
        log_p, mean, _ = _counted(Y, rate.detach(), tau)
        lack = _most_likely(Y, tau) - log_p
        return 2 * _WithSlope.apply(rate, lack, -_slope(rate.detach(), mean)).flatten(1).sum(1)

    def std(self, y: Tensor) -> Tensor:
        return (_precise(y).clamp(min=0) / self.peak + self.sigma**2).sqrt().to(y)

    def _counts(self, y: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, float]:
        """y, clean and sigma in photons."""
        _check_pair(y, clean)
        if self.sigma == 0:
            raise ValueError("sigma: noise with sigma = 0 has no density; use PoissonNoise")
        return (
            self.peak * _precise(y),
            self.peak * _precise(clean).clamp(min=0),
            self.peak * self.sigma,
        )


@dataclass(frozen=True, eq=False, repr=False)
class SaltAndPepperNoise(Noise):
    """Each number of y is replaced with probability `amount`: by 1 with probability `salt`, else by 0.

    amount, salt: in [0, 1]. p is a mass, not a density: (1 − amount) where y equals clean, plus amount · salt where
    y is 1, or amount · (1 − salt) where it is 0; equality is exact. There is no score and no prox. A number of y
    that is 0 or 1 (to 1e-6 or the dtype's rounding) may be anything, the others are exact: std says inf and 0.
    """

    amount: float
    salt: float = 0.5
    has_score: ClassVar[bool] = False
    has_prox: ClassVar[bool] = False

    def __post_init__(self) -> None:
        vars(self).update(
            amount=_number("amount", self.amount, *_SHARE), salt=_number("salt", self.salt, *_SHARE)
        )

    def describe(self) -> str:
        return f"SaltAndPepperNoise(amount={self.amount:g}, salt={self.salt:g})"

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(clean.shape, generator=generator, device=generator.device).to(clean.device)
        replaced = torch.where(drawn < self.amount * self.salt, 1.0, 0.0).to(clean)
        return torch.where(drawn < self.amount, replaced, clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        _check_pair(y, clean)
        y, clean = _precise(y), _precise(clean)
        replaced = torch.where(y == 1, self.salt, torch.where(y == 0, 1 - self.salt, 0.0).to(y))
        mass = (1 - self.amount) * (y == clean).to(y) + self.amount * replaced
        return mass.log().flatten(1).sum(1)

    def std(self, y: Tensor) -> Tensor:
        rounding = max(1e-6, torch.finfo(y.dtype).eps)
        pepper = (y.abs() <= rounding) & (self.amount * (1 - self.salt) > 0)
        salt = ((y - 1).abs() <= rounding) & (self.amount * self.salt > 0)
        return torch.where(pepper | salt, inf, 0.0).to(y)


@dataclass(frozen=True, eq=False, repr=False)
class LaplaceNoise(Noise):
    """y = clean + n, p(n) = exp(−|n|/scale) / (2·scale): outliers more often than Gaussian noise has them.

    scale: image units, from 0 up; the standard deviation is √2·scale. The score is 0 where y = clean.
    """

    scale: float

    def __post_init__(self) -> None:
        vars(self).update(scale=_number("scale", self.scale, *_SCALE))

    def describe(self) -> str:
        return f"LaplaceNoise(scale={self.scale:g})"

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The difference of two exponential draws, which unlike a uniform one turned around is never infinite."""
        up, down = (
            torch.empty(clean.shape, dtype=_drawable(clean).dtype, device=generator.device)
            .exponential_(generator=generator)
            .to(clean.device)
            for _ in range(2)
        )
        return (_drawable(clean) + self.scale * (up - down)).to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        return -(_residual(y, clean).abs() / self._positive + log(2 * self._positive)).flatten(1).sum(1)

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        return (_residual(y, clean).sign() / self._positive).to(clean)

    def deviance(self, y: Tensor, clean: Tensor) -> Tensor:
        return 2 * (_residual(y, clean).abs() / self._positive).flatten(1).sum(1)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        """z, moved towards y by no more than weight/scale."""
        step, r = 1 / (self.scale * _inverse(weight, z)), _residual(y, z)
        return torch.where(r.abs() <= step, _precise(y), _precise(z) + step * r.sign()).to(z)

    def std(self, y: Tensor) -> float:
        return sqrt(2) * self.scale

    @property
    def _positive(self) -> float:
        if self.scale == 0:
            raise ValueError("scale: noise with scale = 0 has no density; expected a number above 0")
        return self.scale


@dataclass(frozen=True, eq=False, repr=False)
class QuantisationNoise(Noise):
    """y = round(clean/step) · step, halves to even, not clipped: what is left of clean is the cell it lies in.

    Give bits, a whole number from 1 up, for step = 1/(2^bits − 1), or step, in image units. log p is 0 where
    clean lies within step/2 of y and y is a multiple of step, to rounding, and −inf elsewhere: no score, and the prox
    is the projection onto the cell, whatever the weight. As a Gaussian: step/√12, as if spread evenly.
    """

    bits: int | None = None
    step: float | None = None
    has_score: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.step is None):
            raise ValueError(
                f"QuantisationNoise: expected bits or step, got bits={self.bits}, step={self.step}"
            )
        if self.bits is not None:
            vars(self).update(bits=int(_number("bits", self.bits, *_BITS)))
        if self.step is not None:
            vars(self).update(step=_number("step", self.step, *_STEP))

    @property
    def width(self) -> float:
        """Of a cell, in image units."""
        return self.step if self.step is not None else 1 / (2 ** (self.bits or 1) - 1)

    def describe(self) -> str:
        return f"QuantisationNoise({f'{self.bits} bits' if self.bits else f'step={self.width:g}'})"

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return ((_drawable(clean) / self.width).round() * self.width).to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        r = _residual(y, clean)
        rounding = 4 * torch.finfo(y.dtype).eps * (_precise(y).abs() + self.width)
        off = _precise(y) - (_precise(y) / self.width).round() * self.width
        inside = (r.abs() <= self.width / 2 + rounding) & (off.abs() <= rounding)
        return torch.where(inside, 0.0, -inf).to(r).flatten(1).sum(1)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        _check_pair(y, z)
        _inverse(weight, z)  # checks it
        cell = _precise(y) - self.width / 2, _precise(y) + self.width / 2
        return torch.minimum(torch.maximum(_precise(z), cell[0]), cell[1]).to(z)

    def std(self, y: Tensor) -> float:
        return self.width / sqrt(12)


NOISES: dict[str, type[Noise]] = {
    "gaussian": GaussianNoise,
    "coloured": ColouredNoise,
    "poisson": PoissonNoise,
    "poisson_gaussian": PoissonGaussianNoise,
    "salt_and_pepper": SaltAndPepperNoise,
    "laplace": LaplaceNoise,
    "quantisation": QuantisationNoise,
}


def estimate_sigma(y: Tensor, keep: Tensor | None = None) -> Tensor:
    """σ of the white Gaussian noise in each picture, (B,), float64. y: (B, C, H, W), at least 5 pixels a side.

    The median of |d| / 0.6745, d the finest diagonal Daubechies-2 wavelet coefficients, averaged over the channels.
    Those of less than 1e-6 do not count: a flat, clipped area has no noise to show. keep: (H, W), (1, H, W) or
    (C, H, W); only coefficients that see kept pixels (1) alone count, at least 64 of them. Source: Donoho and
    Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994, doi:10.1093/biomet/81.3.425. ValueError for
    another shape, or too little to go by.
    """
    if y.ndim != 4 or min(y.shape[2:]) < 5:
        raise ValueError(
            f"y: expected (B, C, H, W) of 5 pixels a side or more, got {tuple(y.shape)}; give sigma"
        )
    root = sqrt(3)
    taps = _like(
        torch.tensor([1 - root, root - 3, 3 + root, -1 - root], dtype=torch.float64) / (4 * sqrt(2)), y
    )
    windows = _precise(y).unfold(2, 4, 2).unfold(3, 4, 2)
    details = torch.einsum("bchwyx,y,x->bchw", windows, taps, taps).abs().flatten(2)
    seen = torch.ones_like(details[0], dtype=torch.bool)
    if keep is not None:
        if keep.ndim not in (2, 3) or tuple(keep.shape) not in {y.shape[2:], (1, *y.shape[2:]), y.shape[1:]}:
            raise ValueError(
                f"keep: expected (H, W), (1, H, W) or (C, H, W) of a picture {by(*y.shape[1:])}, "
                f"got {tuple(keep.shape)}"
            )
        kept = (keep.to(y.device) > 0.5).expand(y.shape[1:])
        seen = kept.unfold(1, 4, 2).unfold(2, 4, 2).all(-1).all(-1).flatten(1)
        if seen.sum(1).min() < 64:
            raise ValueError("keep: leaves fewer than 64 places to estimate noise from; give sigma")
    per_channel = [
        [_median(d[s & (d > 1e-6)]) for d, s in zip(picture, seen, strict=True)] for picture in details
    ]
    return torch.stack([torch.stack(medians).mean() for medians in per_channel]) / 0.6744897501960817


# ------------------------------------------------------------------------------- Poisson noise read by a noisy sensor


def _counted(Y: Tensor, rate: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """log p(Y), E[k | Y] and Var[k | Y], where Y = k + tau·n, k ~ Poisson(rate), n ~ N(0, 1).

    The terms Poisson(k; rate)·N(Y; k, tau²) are log-concave in k. They are summed around their top as far as 10 of
    their widths and 20 counts, beyond which less than 1e-13 of the sum lies. Where they are wide (and far from k = 0,
    where the sum ends), every m-th stands for m of them, m = width/1.5: by Poisson's summation formula that errs by
    exp(−2π²·1.5²) = 5e-20 of the sum.
    """
    k = torch.minimum(rate - 0.5, Y).clamp(min=0)  # left of the top, whence Newton's steps never pass it
    for _ in range(20):
        slope = rate.log() - (k + 0.5).log() + (Y - k) / tau**2
        k = (k + slope / (1 / (k + 0.5) + 1 / tau**2)).clamp(min=0)
    top = k.round()
    width = (1 / (1 / (top + 0.5) + 1 / tau**2)).sqrt()
    stride = torch.where(top >= 64, (width / 1.5).floor().clamp(min=1), 1.0)

    def log_term(k: Tensor) -> Tensor:
        log_poisson = torch.xlogy(k, rate) - rate - torch.lgamma(k + 1)
        return log_poisson - 0.5 * ((Y - k) / tau).square() - 0.5 * log(2 * pi * tau**2)

    def at(steps: int) -> tuple[Tensor, Tensor]:
        offset = steps * stride
        return offset, torch.where(top + offset >= 0, log_term((top + offset).clamp(min=0)), -inf)

    reach = ((10 * width + 20) / stride).ceil().nan_to_num()
    below, above = torch.minimum(reach, (top / stride).nan_to_num()).max(), reach.max()
    near = (log_term(top), log_term(top + 1), log_term((top - 1).clamp(min=0)))
    reference = torch.stack(near).amax(0)
    total, first, second = torch.zeros_like(Y), torch.zeros_like(Y), torch.zeros_like(Y)
    for steps in range(-int(below), int(above) + 1):
        offset, log_p = at(steps)
        weight = (log_p - reference).exp()
        total, first, second = total + weight, first + weight * offset, second + weight * offset.square()
    mean = first / total
    return reference + (total * stride).log(), top + mean, second / total - mean.square()


def _slope(rate: Tensor, mean: Tensor) -> Tensor:
    """d log p(Y) / d rate, given E[k | Y]; 0 where the rate is."""
    return torch.where(rate > 0, mean / torch.where(rate > 0, rate, 1) - 1, 0)


def _most_likely(Y: Tensor, tau: float) -> Tensor:
    """max over rate of log p(Y).

    Up to Y = ½ nothing explains Y better than no photon: there d log p / d rate = exp((Y − ½)/tau²) − 1 at rate 0.
    Above, the rate is the root of E[k | Y] = rate, by Newton's method where that is safe and by EM elsewhere.
    """
    best = -0.5 * (Y / tau).square() - 0.5 * log(2 * pi * tau**2)
    left = (Y > 0.5).nonzero(as_tuple=True)
    rate = Y[left]
    for _ in range(50):
        if not len(rate):
            break
        best[left], mean, variance = _counted(Y[left], rate, tau)
        bend = 1 - variance / rate  # of rate − E[k | Y], up; EM is Newton's step with bend = 1
        ahead = rate + (mean - rate) / torch.where(bend > 0, bend, 1)
        ahead = torch.maximum(ahead, rate / 1000)
        moving = (ahead - rate).abs() > 1e-6 * rate
        rate, left = ahead[moving], tuple(index[moving] for index in left)
    return best


class _WithSlope(torch.autograd.Function):
    """`value`, a function of x whose derivative is known to be `slope`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None


# ------------------------------------------------------------------------------------------------------- small parts


_SCALE = "a number from 0 up, in image units", lambda v: 0 <= v < inf
_STEP = "a number above 0, in image units", lambda v: 0 < v < inf
_PEAK = "a number above 0, photons at white", lambda v: 0 < v < inf
_SHARE = "a probability, 0 to 1", lambda v: 0 <= v <= 1
_BITS = "a whole number from 1 to 53", lambda v: 1 <= v <= 53 and v == int(v)


def _number(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> float:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    if not holds(float(value)):
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return float(value)


def _scale(name: str, value: Any) -> float | Tensor:
    """A scale, or a tensor of them, a copy, so that what the caller does to the original later is not ours."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return _number(name, value, *_SCALE)
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected floats in image units, got {value.dtype}; convert it")
    refused = value[~((value >= 0) & value.isfinite())]
    if refused.numel() or not value.numel():
        got = refused[0].item() if refused.numel() else "none"
        raise ValueError(f"{name}: expected numbers from 0 up, in image units, got {got}")
    return value.detach().clone()


def _check_pair(y: Tensor, clean: Tensor) -> None:
    if y.shape != clean.shape or y.ndim < 2:
        raise ValueError(
            f"y: expected (B, ...), the shape of what it is compared with, {tuple(clean.shape)}, got {tuple(y.shape)}"
        )
    if not y.is_floating_point() or not clean.is_floating_point():
        raise TypeError(f"y: expected floats in image units, got {y.dtype} and {clean.dtype}; convert them")


def _widest(like: Tensor) -> torch.dtype:
    """float64, or float32 on a device that has no more."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _precise(v: Tensor) -> Tensor:
    return v.to(_widest(v))


def _residual(y: Tensor, clean: Tensor) -> Tensor:
    _check_pair(y, clean)
    return _precise(y) - _precise(clean)


def _like(value: float | Tensor, like: Tensor) -> Tensor:
    """`value` where `like` is, precise."""
    return torch.as_tensor(value, device=like.device, dtype=_widest(like))


def _inverse(weight: float | Tensor, like: Tensor) -> Tensor:
    """1/weight, checked, to multiply `like`."""
    return damping(weight, _precise(like)).view(-1, *[1] * (like.ndim - 1))


def _drawable(v: Tensor) -> Tensor:
    """In a dtype that random numbers come in."""
    return v if v.dtype in (torch.float32, torch.float64) else v.float()


def _normal(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    drawn = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    return torch.randn(shape, generator=generator, device=generator.device, dtype=drawn)


def _norm(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)


def _median(v: Tensor) -> Tensor:
    """The mean of the two in the middle where there are two; 0 of nothing. torch's is the lower."""
    if not v.numel():
        return v.new_zeros(())
    v, n = v.sort().values, v.numel()
    return (v[(n - 1) // 2] + v[n // 2]) / 2
