"""Compressed sensing: fewer numbers than pixels, each a sum over all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import pi, sqrt
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import Shape, SpectralOperator, by, cached_property, image_shape, wide
from .patterns import generator

Transform = Literal["hadamard", "dct"]


@dataclass(frozen=True, eq=False, repr=False)
class CompressedSensing(SpectralOperator):
    """y = S T diag(±1) x for every channel: m of the n = H·W coefficients of an orthonormal transform.

    shape: (C, H, W); y: (C, m), m = round(ratio·n), at least 1; ratio in (0, 1]. The pixels of a channel, row by row,
    get random signs, which spread any image evenly over the coefficients, and are transformed by T:

        hadamard   the Walsh-Hadamard transform, entries ±1/√n; n must be a power of two
        dct        the DCT-II, at any size

    Signs and choice S (without replacement, y in the order of the rows of T) follow from `seed` and are the same
    for every channel; of one seed, a smaller ratio's rows are among a larger one's. So A Aᵀ = I, and all is in
    closed form (Do, Gan, Nguyen, Tran 2012, "Fast and efficient compressive sensing using structurally random
    matrices"). float16 and bfloat16 are worked out in float32. ValueError for a number outside its range, or n.
    """

    shape: Shape
    ratio: float
    transform: Transform = "hadamard"
    seed: int = 0
    signs: Tensor = field(init=False)
    """(n,), 1 or −1."""
    rows: Tensor = field(init=False)
    """(m,), the coefficients kept, ascending."""

    def __post_init__(self) -> None:
        channels, height, width = shape = image_shape(self.shape)
        n, draws = height * width, generator(self.seed)
        if not isinstance(self.ratio, Real) or not 0 < self.ratio <= 1:
            raise ValueError(f"ratio: expected measurements per pixel, in (0, 1], got {self.ratio}")
        if self.transform not in get_args(Transform):
            raise ValueError(
                f"transform: expected one of {', '.join(get_args(Transform))}, got {self.transform!r}"
            )
        if self.transform == "hadamard" and n & (n - 1):
            raise ValueError(
                f"shape: expected a power of two of pixels for hadamard, got {by(height, width)} = {n}; use dct"
            )
        signs = 1 - 2 * torch.randint(2, (n,), generator=draws).double()
        rows = torch.randperm(n, generator=draws)[: max(1, round(self.ratio * n))].sort().values
        vars(self).update(
            shape=shape, in_shape=shape, out_shape=(channels, len(rows)), signs=signs, rows=rows
        )

    def describe(self) -> str:
        return f"CompressedSensing({self.transform}, {len(self.rows)} per channel of {by(*self.in_shape)})"

    def A(self, x: Tensor) -> Tensor:
        return self._coefficients(x)[..., self.rows.to(x.device)]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.V(self.U_adjoint(y))

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        return b  # A Aᵀ = I

    @property
    def basis(self) -> str:
        return f"{self.transform}, signs {self.seed}"

    @cached_property
    def singular_values(self) -> Tensor:
        s = torch.zeros_like(self.signs).index_fill(0, self.rows, 1)
        return s.expand(self.in_shape[0], -1).flatten()

    def V(self, c: Tensor) -> Tensor:
        x = self.signs.to(c) * self._inverse(c.reshape(len(c), -1, len(self.signs)))
        return x.view(-1, *self.in_shape)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self._coefficients(x).flatten(1)

    def U(self, c: Tensor) -> Tensor:
        return c.reshape(len(c), -1, len(self.signs))[..., self.rows.to(c.device)]

    def U_adjoint(self, y: Tensor) -> Tensor:
        c = self._measurement(y).new_zeros(*y.shape[:2], len(self.signs))
        return c.index_copy(-1, self.rows.to(y.device), y).flatten(1)

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        return self.A_adjoint(b / (1 + damping.view(-1, 1, 1)))

    def _coefficients(self, x: Tensor) -> Tensor:
        """T diag(±1) x, (B, C, n)."""
        v = wide(self.signs.to(x) * self._image(x).flatten(2))
        return (_walsh_hadamard(v) if self.transform == "hadamard" else _dct(v, self._twist)).to(x)

    def _inverse(self, c: Tensor) -> Tensor:
        """Tᵀ c, (B, C, n)."""
        v = wide(c)
        return (_walsh_hadamard(v) if self.transform == "hadamard" else _inverse_dct(v, self._twist)).to(c)

    @cached_property
    def _twist(self) -> Tensor:
        """√2·exp(−iπk/2n) for 0 < k ≤ n/2, and 1 for k = 0, which turns an FFT into a DCT."""
        n = len(self.signs)
        k = torch.arange(n // 2 + 1, dtype=torch.float64)
        twist = torch.polar(torch.full_like(k, sqrt(2)).index_fill(0, k[:1].long(), 1), -pi / (2 * n) * k)
        return twist.to(self.signs.device, wide(self.signs).dtype.to_complex())


def _walsh_hadamard(v: Tensor) -> Tensor:
    """Along the last axis, a power of two long: orthonormal, symmetric, and so its own inverse.

    H_ab = H_a ⊗ H_b, so a matrix for every four bits of the index: several times as fast as a pass for each bit.
    """
    shape, inner = v.shape, v.shape[-1]
    while inner > 1:
        size = 2 ** ((inner.bit_length() - 2) % 4 + 1)
        inner //= size
        H, v = _hadamard(size).to(v), v.reshape(-1, size, inner)
        v = torch.bmm(H.expand(len(v), -1, -1), v) if inner > 1 else v[..., 0] @ H
    return v.view(shape)


def _hadamard(size: int) -> Tensor:
    """Sylvester's matrix (size, size), its columns of norm 1."""
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < size:
        H = torch.cat((torch.cat((H, H), 1), torch.cat((H, -H), 1)))
    return H / sqrt(size)


def _dct(v: Tensor, twist: Tensor) -> Tensor:
    """The orthonormal DCT-II along the last axis by one real FFT (Makhoul 1980, doi:10.1109/TASSP.1980.1163351).

    Of the even places followed by the odd ones backwards: with W = twist·FFT, y_k = Re W_k and y_(n−k) = −Im W_k.
    """
    ordered = torch.cat((v[..., ::2], v[..., 1::2].flip(-1)), -1)
    W = torch.fft.rfft(ordered, norm="ortho")
    W = W * twist.to(W)
    return torch.cat((W.real, -W.imag[..., 1 : (v.shape[-1] + 1) // 2].flip(-1)), -1)


def _inverse_dct(y: Tensor, twist: Tensor) -> Tensor:
    n, half = y.shape[-1], y.shape[-1] // 2
    W = torch.complex(y[..., : half + 1], -pad(y.flip(-1)[..., :half], (1, 0)))
    ordered = torch.fft.irfft(W / twist.to(W), n, norm="ortho")
    v = torch.empty_like(y)
    v[..., ::2], v[..., 1::2] = ordered[..., : n - half], ordered[..., n - half :].flip(-1)
    return v
