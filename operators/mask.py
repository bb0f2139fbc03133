"""Pixels lost, and nothing lost."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from .base import (
    PixelOperator,
    Shape,
    by,
    cached_property,
    counts,
    damping,
    differentiated,
    exact,
    gain,
    image_shape,
)


@dataclass(frozen=True, eq=False, repr=False)
class Mask(PixelOperator):
    """y = keep · x, the pixels to be filled set to zero.

    keep: (H, W) or (1, H, W), for all of `channels`, or (C, H, W); 1 = observed, 0 = to be filled, any dtype.
    Kept as a boolean (C, H, W). Other values are thresholded at ½ with a warning. ValueError for another
    shape, NaN, or a mask that keeps nothing; a warning for one that keeps everything.
    """

    keep: Tensor
    channels: int = 3

    def __post_init__(self) -> None:
        try:
            given = torch.as_tensor(self.keep)
        except (TypeError, ValueError, RuntimeError):
            kind = type(self.keep).__name__
            raise TypeError(
                f"keep: expected an array of 0 and 1, got {kind}; numpy.asarray(image) > 127 keeps what is white"
            ) from None
        if given.ndim not in (2, 3) or given.numel() == 0 or given.is_complex() or self.channels < 1:
            raise ValueError(f"keep: expected (H, W), (1, H, W) or (C, H, W), got {tuple(given.shape)}")
        if given.isnan().any():
            raise ValueError("keep: expected 1 for the pixels to keep and 0 for the others, got NaN")
        keep = given > 0.5
        if not (keep == given).all():
            warnings.warn("keep: values other than 0 and 1 were thresholded at 1/2", stacklevel=3)
        if not keep.any():
            raise ValueError("keep: expected some pixels to keep (1), got none; is the mask inverted?")
        if keep.all():
            warnings.warn("keep: every pixel is kept, so there is nothing to fill; inverted?", stacklevel=3)
        channels = self.channels if keep.ndim == 2 or len(keep) == 1 else len(keep)
        keep = keep.expand(channels, *keep.shape[-2:]).contiguous()
        shape = tuple(keep.shape)
        vars(self).update(keep=keep, channels=channels, in_shape=shape, out_shape=shape)

    def describe(self) -> str:
        return f"Mask({by(*self.in_shape)}, {self.keep.double().mean():.1%} kept)"

    def A(self, x: Tensor) -> Tensor:
        x = self._image(x)
        if x.device.type == "cpu" and x.dtype == torch.float32 and not differentiated(x):
            return (x.view(torch.int32) & self._bits).view(x.dtype)  # a tenth of torch.where's time there
        return torch.where(self.keep.to(x.device), x, 0)  # no product: what is lost may be NaN

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A(y)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        share = 1 / (1 + damping(weight, z))  # exactly 1 at weight = inf: kept pixels come back bit for bit
        return torch.lerp(self._image(z), self.A(y).to(z), share * self._weights.to(z))

    @cached_property
    def _bits(self) -> Tensor:
        """All bits set where kept, none elsewhere: one channel's where all have the same."""
        alike = bool((self.keep == self.keep[:1]).all())
        return -(self.keep[:1] if alike else self.keep).to("cpu", torch.int32)

    @cached_property
    def _weights(self) -> Tensor:
        """1 where kept, 0 elsewhere."""
        return self.keep.to(torch.get_default_dtype())

    def both(self, other: Mask) -> Mask:
        """The mask that keeps what both keep."""
        return Mask(self.keep & other.keep, self.channels)

    @cached_property
    def singular_values(self) -> Tensor:
        return self._weights.flatten()

    def U(self, c: Tensor) -> Tensor:
        return self.A(self.V(c))

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y).flatten(1)


@dataclass(frozen=True, eq=False, repr=False)
class Identity(PixelOperator):
    """y = x: denoising, once noise is added. shape: (C, H, W)."""

    in_shape: Shape

    def __post_init__(self) -> None:
        shape = image_shape(self.in_shape)
        vars(self).update(in_shape=shape, out_shape=shape)

    def A(self, x: Tensor) -> Tensor:
        return self._image(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._image(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self._image(y)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        share = 1 / (1 + damping(weight, z))
        return (1 - share) * self._image(z) + share * self._image(y).to(z)

    @cached_property
    def singular_values(self) -> Tensor:
        channels, height, width = self.in_shape
        return torch.ones(channels * height * width)

    def U(self, c: Tensor) -> Tensor:
        return self.V(c)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.V_adjoint(y)


@dataclass(frozen=True, eq=False, repr=False)
class Diagonal(PixelOperator):
    """y = weights · x, number by number: a flat field, a vignette, or measurements weighted by their precision.

    weights: finite, not all zero, of the shape of what is measured; (C, H, W) for images. ValueError otherwise.
    """

    weights: Tensor

    def __post_init__(self) -> None:
        weights = exact(torch.as_tensor(self.weights)).clone()
        if not weights.isfinite().all() or not weights.any():
            raise ValueError(
                "weights: expected finite numbers, not all zero, got NaN, infinity or zeros alone"
            )
        shape = tuple(weights.shape)
        vars(self).update(weights=weights, in_shape=shape, out_shape=shape)

    def A(self, x: Tensor) -> Tensor:
        return self.weights.to(x) * self._image(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self._least_squares(self._image(y), damping(inf, y))

    @cached_property
    def singular_values(self) -> Tensor:
        s = self.weights.abs().flatten()
        return s * counts(s)

    def U(self, c: Tensor) -> Tensor:
        return self._sign.to(c) * self.V(c)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.V_adjoint(self._sign.to(y) * y)

    @property
    def _sign(self) -> Tensor:
        return self.weights.sign() * counts(self.weights.abs())

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        w = self.weights.to(b)
        return w.sign() * gain(w.abs(), damping) * b
