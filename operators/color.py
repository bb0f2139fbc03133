"""Colour lost: one colour per pixel behind a Bayer filter, or the channels summed to grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from .base import (
    PixelOperator,
    Shape,
    SpectralOperator,
    by,
    cached_property,
    damping,
    exact,
    image_shape,
    wide,
)

Bayer = Literal["rggb", "bggr", "grbg", "gbrg"]
REC601 = [0.299, 0.587, 0.114]


@dataclass(frozen=True, eq=False, repr=False)
class Demosaic(PixelOperator):
    """y(i, j) = x(colour of the filter at (i, j), i, j): the mosaic a camera records; undoing it is demosaicing.

    shape: (3, H, W), red, green, blue, H and W of any parity; y: (1, H, W). pattern: the colours of the
    upper left 2×2 pixels, row by row, then repeated. ValueError for another number of channels or pattern.
    """

    shape: Shape
    pattern: Bayer = "rggb"

    def __post_init__(self) -> None:
        channels, height, width = shape = image_shape(self.shape)
        if channels != 3:
            raise ValueError(
                f"shape: expected (3, H, W), red, green and blue, got {shape}; a mosaic is of colours"
            )
        if self.pattern not in get_args(Bayer):
            raise ValueError(f"pattern: expected one of {', '.join(get_args(Bayer))}, got {self.pattern!r}")
        vars(self).update(shape=shape, in_shape=shape, out_shape=(1, height, width))

    def describe(self) -> str:
        return f"Demosaic({self.pattern}, {by(*self.in_shape)})"

    def A(self, x: Tensor) -> Tensor:
        y = self._image(x)[:, 1:2].clone()  # half of it is green: a whole copy is faster than its quarters
        for colour, rows, columns in self._sites:
            if colour.start != 1:
                y[..., rows, columns] = x[:, colour, rows, columns]
        return y

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._measurement(y) * self._filter.to(y)

    @cached_property
    def _filter(self) -> Tensor:
        """1 where a colour is seen, 0 elsewhere, (3, H, W)."""
        seen = torch.zeros(1, *self.in_shape)
        for colour, rows, columns in self._sites:
            seen[:, colour, rows, columns] = 1
        return seen[0]

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A_adjoint(y)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        share = 1 / (
            1 + damping(weight, z)
        )  # exactly 1 at weight = inf: what was seen comes back bit for bit
        return torch.lerp(self._image(z), self.A_adjoint(y).to(z), share * self._filter.to(z))

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        return b  # A Aᵀ = I

    @cached_property
    def _sites(self) -> list[tuple[slice, slice, slice]]:
        """(channel, rows, columns) of the four pixels of the pattern; slices, so that no dimension is lost."""
        channels = ("rgb".index(colour) for colour in self.pattern)
        return [
            (slice(channel, channel + 1), slice(place // 2, None, 2), slice(place % 2, None, 2))
            for place, channel in enumerate(channels)
        ]

    @cached_property
    def singular_values(self) -> Tensor:
        return self._filter.flatten()

    def U(self, c: Tensor) -> Tensor:
        return self.A(self.V(c))

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.A_adjoint(y).flatten(1)


@dataclass(frozen=True, eq=False, repr=False)
class Grayscale(SpectralOperator):
    """y = Σ_c w_c x_c: the channels weighted and summed; undoing it is colourisation.

    shape: (C, H, W); y: (1, H, W). weights: "rec601", the luma 0.299 R + 0.587 G + 0.114 B of ITU-R BT.601 (what
    Pillow's "L" is), for three channels; "mean", 1/C each; or C numbers, finite, not all zero, kept as given
    (brightness stays if they sum to 1). ValueError otherwise.

    Spectral: at each pixel, one singular value ‖w‖ in the direction w/‖w‖, and C − 1 directions lost.
    """

    shape: Shape
    weights: Literal["rec601", "mean"] | Sequence[float] = "rec601"
    response: Tensor = field(init=False)
    """The weights as a tensor (C,)."""

    def __post_init__(self) -> None:
        channels, height, width = shape = image_shape(self.shape)
        named = {"rec601": REC601, "mean": [1 / channels] * channels}
        if isinstance(self.weights, str) and self.weights not in named:
            raise ValueError(f"weights: expected rec601, mean or {channels} numbers, got {self.weights!r}")
        weights = named[self.weights] if isinstance(self.weights, str) else self.weights
        response = torch.as_tensor(weights, dtype=torch.float64, device="cpu").flatten().clone()
        if len(response) != channels:
            raise ValueError(f"weights: expected {channels} numbers or mean, got {len(response)} numbers")
        if not response.isfinite().all() or not response.any():
            raise ValueError(f"weights: expected finite numbers, not all zero, got {response.tolist()}")
        vars(self).update(shape=shape, response=response, in_shape=shape, out_shape=(1, height, width))

    def describe(self) -> str:
        own = f"({', '.join(f'{w:g}' for w in self.response.tolist())})"
        return f"Grayscale({self.weights if isinstance(self.weights, str) else own}, {by(*self.in_shape)})"

    def A(self, x: Tensor) -> Tensor:
        channels = wide(self._image(x).flatten(2))
        return (self.response.to(channels) @ channels).view(-1, *self.out_shape).to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.response.to(y).view(-1, 1, 1) * self._measurement(y)

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        return b  # A Aᵀ = ‖w‖² I

    @cached_property
    def singular_values(self) -> Tensor:
        s = self.response.new_zeros(self.in_shape)
        s[0] = self.response.norm()
        return s.flatten()

    def V(self, c: Tensor) -> Tensor:
        return self._turned(self._basis, c.reshape(-1, *self.in_shape))

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self._turned(self._basis.mT, self._image(x)).flatten(1)

    def U(self, c: Tensor) -> Tensor:
        return c.reshape(-1, *self.in_shape)[:, :1]

    def U_adjoint(self, y: Tensor) -> Tensor:
        c = self._measurement(y).new_zeros(len(y), *self.in_shape)
        c[:, :1] = y
        return c.flatten(1)

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        return self.A_adjoint(b / (damping + self.response.square().sum().to(b)))

    @cached_property
    def _basis(self) -> Tensor:
        """Orthonormal (C, C), its first column w/‖w‖."""
        Q, R = torch.linalg.qr(exact(self.response)[:, None], mode="complete")
        return (Q * R[0, 0].sign()).to(self.response)

    def _turned(self, matrix: Tensor, x: Tensor) -> Tensor:
        """The channels of every pixel times a matrix."""
        return (matrix.to(x) @ x.flatten(2)).view(x.shape)
