"""What a measurement says of the picture: y = A(x₀) + noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.operators import (
    ColouredNoise,
    Diagonal,
    GaussianNoise,
    Identity,
    LinearOperator,
    Mask,
    Noise,
    Operator,
    PoissonGaussianNoise,
    PoissonNoise,
    ProximalOperator,
    Quantize,
    Reweighted,
    per_image,
)

NOISE_FLOOR = 1e-3
"""σ_y that stands in for 0 where a formula divides by it: a quarter of an 8-bit step."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """y (B, *operator.out_shape) and its noise: Gaussian of standard deviation sigma_y ≥ 0, in image units.

    noise: where it is another one, which `distance` then knows. `white` brings it to the form all methods know.
    """

    y: Tensor
    operator: Operator
    sigma_y: float
    noise: Noise | None = None

    def __post_init__(self) -> None:
        if isinstance(self.operator, Mask):  # what a mask has lost may hold anything, and must not count
            seen = torch.where(self.operator.keep.to(self.y.device), self.y, 0)
            if not torch.equal(seen, self.y):  # large pictures are not held twice
                object.__setattr__(self, "y", seen)

    @property
    def variance(self) -> float:
        """σ_y², never below NOISE_FLOOR²."""
        return max(self.sigma_y, NOISE_FLOOR) ** 2

    @property
    def linear(self) -> LinearOperator:
        """The operator, where a method has asked for a linear one."""
        if not isinstance(self.operator, LinearOperator):
            raise TypeError(f"expected a linear operator, got {self.operator.describe()}")
        return self.operator

    def residual(self, x0: Tensor) -> Tensor:
        """y − A(x₀), (B, *out_shape)."""
        return self.y - self.operator.A(x0)

    def distance(self, x0: Tensor) -> Tensor:
        """How far x₀ is from y, (B,): ‖y − A(x₀)‖, or what stands for it under another noise.

        Gaussian noise makes ‖y − A(x₀)‖ = σ_y·√deviance; other noises are taken by that formula, with their `std`
        as the scale.
        """
        if self.noise is None:
            return self.residual(x0).flatten(1).norm(dim=1)
        return self.spread * (self.deviance(x0) + torch.finfo(x0.dtype).tiny).sqrt()

    def deviance(self, x0: Tensor) -> Tensor:
        """2·(log p(y | y) − log p(y | A(x₀))), (B,): ‖y − A(x₀)‖²/σ_y² under white Gaussian noise.

        Counted light that A(x₀) does not have is infinitely unlikely; below half of what was counted, or half a photon,
        a parabola continues it, so that there is a way back and no slope is too steep for it (`stiffness`).
        """
        noise = self.noise
        if noise is None:
            return self.residual(x0).flatten(1).square().sum(dim=1) / self.variance
        y, clean, std = self._seen(self.y, self.operator.A(x0), self._std)
        if isinstance(noise, GaussianNoise):
            return ((y - clean) / std.clamp(min=NOISE_FLOOR)).flatten(1).square().sum(dim=1)
        if isinstance(noise, PoissonGaussianNoise):
            # Its exact sum takes seconds a picture. Snyder et al. 1993: the electronics' noise as photons of its own,
            # peak·(y + shift) ~ Poisson(peak·(clean + shift)).
            shift = noise.peak * noise.sigma**2
            y, clean, noise = (y + shift).clamp(min=0), clean + shift, PoissonNoise(noise.peak)
        if not isinstance(noise, PoissonNoise):
            return noise.deviance(y, clean).to(x0.dtype)
        peak = noise.peak
        least = y.clamp(min=1 / peak) / 2
        below = (clean - least).clamp(max=0)
        slope, curvature = 2 * peak * (1 - y / least), 2 * peak * y.clamp(min=1 / peak) / least**2
        beyond = (slope * below + curvature / 2 * below**2).flatten(1).sum(dim=1)
        return (noise.deviance(y, clean.maximum(least)) + beyond).to(x0.dtype)

    def score(self, x0: Tensor) -> Tensor:
        """∇ log p(y | x₀), (B, C, H, W): Aᵀ(y − A x₀)/σ_y² for a linear A under white Gaussian noise."""
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.deviance(leaf).sum() / -2, leaf)
        return gradient

    @property
    def spread(self) -> Tensor:
        """The noise's standard deviation, (B,): where it varies over y the root of its mean square; never 0."""
        if self.noise is None:
            return self.y.new_full((len(self.y),), self.variance**0.5)
        return self._seen(self._std)[0].flatten(1).square().mean(dim=1).sqrt().clamp(min=NOISE_FLOOR)

    @property
    def stiffness(self) -> Tensor:
        """The largest curvature of −log p(y | a) in the numbers a = A(x₀), (B,): 1/σ_y² under white Gaussian noise."""
        if self.noise is None:
            return self.spread**-2
        least = self._seen(self._std)[0].flatten(1).amin(dim=1).clamp(min=NOISE_FLOOR)
        return (4 if isinstance(self.noise, PoissonNoise | PoissonGaussianNoise) else 1) / least**2

    @cached_property
    def gain(self) -> Tensor:
        """‖A‖², at least 1, (B,), by ten power iterations: curvature in x₀ over `stiffness`; 1 for a nonlinear A."""
        if not isinstance(self.operator, LinearOperator):
            return self.y.new_ones(len(self.y))
        shape, generator = tuple(self.operator.in_shape), torch.Generator().manual_seed(0)
        v = torch.randn(shape, generator=generator, dtype=self.y.dtype).to(self.y).expand(len(self.y), *shape)
        for _ in range(10):
            v = v / v.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
            v = self.operator.A_adjoint(self.operator.A(v))
        return v.flatten(1).norm(dim=1).clamp(min=1)

    @property
    def _std(self) -> Tensor:
        std = self.sigma_y if self.noise is None else self.noise.std(self.y)
        return torch.as_tensor(std, dtype=self.y.dtype, device=self.y.device).expand_as(self.y)

    def _seen(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Numbers of y without those a mask has lost, which have no part in a likelihood."""
        if isinstance(self.operator, Mask) and not isinstance(self.noise, ColouredNoise):
            keep = self.operator.keep.to(self.y.device)
            return tuple(value[:, keep] for value in values)
        return values

    def prox(self, z: Tensor, variance: float) -> Tensor:
        """argmin_x ‖x − z‖²/(2·variance) + ‖y − A x‖²/(2σ_y²): the mean of x₀ given y where x₀ ~ N(z, variance·I)."""
        if not isinstance(self.operator, ProximalOperator):
            raise TypeError(f"expected an operator with a proximal map, got {self.operator.describe()}")
        weight = variance / self.sigma_y**2 if self.sigma_y > 0 else float("inf")
        return self.operator.prox(z, self.y, weight)

    def perturbed(self, z: Tensor, r: float, noise: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """A draw of x₀ given y where x₀ ~ N(z, r² I), A is linear and the noise white: the prox of what is perturbed.

        Papandreou & Yuille 2010. noise(shape) draws ε ~ N(0, I) of that shape for each sample.
        """
        y = self.y + self.sigma_y * noise(tuple(self.linear.out_shape)).to(self.y)
        return replace(self, y=y).prox(z + r * noise(tuple(z.shape[1:])), r**2)

    def paste(self, x: Tensor) -> Tensor:
        """x with what an exact measurement knows put back: a mask's pixels, bit for bit, or by a nonlinear A's prox."""
        if self.sigma_y > 0 or self.noise is not None:
            return x
        if isinstance(self.operator, Mask):
            return torch.where(self.operator.keep.to(x.device), self.y, x)
        if isinstance(self.operator, ProximalOperator) and not isinstance(self.operator, LinearOperator):
            return self.operator.prox(x, self.y, float("inf"))
        return x

    def unrounded(self) -> Measurement:
        """Rounding as what it is nearly: white Gaussian noise of a step/√12 on the picture itself.

        For `Quantize`, which methods for linear operators then can treat; any other measurement is returned as it is.
        """
        if not isinstance(self.operator, Quantize):
            return self
        rounding = self.operator.step / 12**0.5
        return Measurement(
            self.y, Identity(self.operator.in_shape), float((self.sigma_y**2 + rounding**2) ** 0.5)
        )

    def pick(self, images: Sequence[int]) -> Measurement:
        """That of a batch made of these images."""
        if list(images) == list(range(len(self.y))):
            return self
        return replace(self, y=self.y[list(images)], operator=self.operator.pick(images))

    def white(self) -> Measurement:
        """The same, or the nearest to it, under white Gaussian noise: what every method can treat.

        A noise that is Gaussian with another covariance is whitened, which loses nothing: each number of y and of A is
        weighted by its precision. Any other is first replaced by a Gaussian with its standard deviation given y
        (`Noise.std`); numbers that say nothing, as salt and pepper, weigh nothing.
        """
        if self.noise is None:
            return self
        if isinstance(self.noise, ColouredNoise):  # of this operator: `invdiff.restore` sees to it
            least = max(float(self.noise.sigmas.min()), NOISE_FLOOR)
            weights = least / self.noise.sigmas.clamp(min=least)
            whitening = Reweighted(self.noise.operator, weights).to(self.y.device, self.y.dtype)
            y = whitening.measured(self.y)
            return Measurement(y, whitening, least)
        spread = self.noise.std(self.y)
        std = torch.as_tensor(spread, dtype=self.y.dtype, device=self.y.device).expand_as(self.y)
        if not isinstance(spread, Tensor) or (std.isfinite() & (std == std.flatten()[0])).all():
            return Measurement(self.y, self.operator, float(std.flatten()[0]))
        known = std.isfinite()
        if not (std > 0).logical_and(known).any():  # what is known at all is known exactly
            least, weights = 0.0, known.to(std)
        else:
            least = max(float(std.min()), NOISE_FLOOR)
            weights = torch.where(known, least / std.clamp(min=least), 0)
        if not weights.flatten(1).any(dim=1).all():
            raise RequestError(
                f"{self.noise.describe()}: nothing is known of a picture, all of its y may be noise"
            )
        parts = [_weighted(weights[i], self.operator.pick([i])) for i in range(len(self.y))]
        return Measurement(weights * torch.where(known, self.y, 0), per_image(parts), least)


def gaussian(noise: Noise | None) -> float | None:
    """σ_y of white Gaussian noise; None where the noise is another."""
    if noise is None:
        return None
    if isinstance(noise, GaussianNoise) and not isinstance(noise.sigma, Tensor):
        return noise.sigma
    return None


def _weighted(weights: Tensor, operator: Operator) -> Operator:
    """Diagonal(weights) after the operator; a mask stays one where weights are 0 or 1."""
    if isinstance(operator, Mask) and ((weights == 0) | (weights == 1)).all():
        return Mask(operator.keep & (weights > 0), operator.channels)
    return Diagonal(weights).to(weights.device, weights.dtype) @ operator
