"""Operators that treat rows and columns one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import SpectralOperator, cached_property, counts, exact, gain, wide

SVD = tuple[Tensor, Tensor, Tensor]
Block = tuple[int, int, int, int]
Map = Callable[[Tensor], Tensor]


class SeparableOperator(SpectralOperator):
    """y = R x Cᵀ for every channel: the singular values of A are the products of those of R and of C.

    A subclass sets rows, R (h, H), and columns, C (w, W). Coefficient (i, j) of a channel belongs to the
    singular vectors i of R and j of C; where R and C have fewer rows than columns, V is filled up with a
    basis of what they lose. A banded R or C is multiplied band by band.
    """

    rows: Tensor
    columns: Tensor

    def A(self, x: Tensor) -> Tensor:
        return _Linear.apply(self._image(x), self._forward, self._backward)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return _Linear.apply(self._measurement(y), self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        rows, columns = self._blocks[0]
        return _down(self.rows, _across(self.columns, x, columns), rows)

    def _backward(self, y: Tensor) -> Tensor:
        rows, columns = self._blocks[1]
        return _down(self.rows.mT, _across(self.columns.mT, y, columns), rows)

    @cached_property
    def singular_values(self) -> Tensor:
        return self._padded(self._kept).expand(self.in_shape).flatten()

    def V(self, c: Tensor) -> Tensor:
        V_h, V_w = self._bases
        return _both(V_h, c.reshape(-1, *self.in_shape), V_w)

    def V_adjoint(self, x: Tensor) -> Tensor:
        V_h, V_w = self._bases
        return _both(V_h.mT, self._image(x), V_w.mT).flatten(1)

    def U(self, c: Tensor) -> Tensor:
        (U_h, _, _), (U_w, _, _) = self._parts
        _, h, w = self.out_shape
        return _both(U_h, c.reshape(-1, *self.in_shape)[..., :h, :w] * (self._kept > 0).to(c.device), U_w)

    def U_adjoint(self, y: Tensor) -> Tensor:
        (U_h, _, _), (U_w, _, _) = self._parts
        c = _both(U_h.mT, self._measurement(y), U_w.mT) * (self._kept > 0).to(y.device)
        return self._padded(c).flatten(1)

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        (U_h, _, V_h), (U_w, _, V_w) = self._parts
        c = _both(U_h.mT, wide(self._measurement(b)), U_w.mT)
        return _both(V_h, gain(self._kept.to(c), damping.to(c)) * c, V_w).to(b)

    def _padded(self, c: Tensor) -> Tensor:
        _, height, width = self.in_shape
        return pad(c, (0, width - c.shape[-1], 0, height - c.shape[-2]))

    @cached_property
    def _blocks(self) -> tuple[tuple[list[Block], list[Block]], tuple[list[Block], list[Block]]]:
        """Where R and C are not zero, and where Rᵀ and Cᵀ are not."""
        return (_blocks(self.rows), _blocks(self.columns)), (_blocks(self.rows.mT), _blocks(self.columns.mT))

    @cached_property
    def _parts(self) -> tuple[SVD, SVD]:
        """(U, s, V) of R and of C, without what they lose."""
        rows = _svd(self.rows)
        return rows, rows if torch.equal(self.rows, self.columns) else _svd(self.columns)

    @cached_property
    def _kept(self) -> Tensor:
        """The singular values (h, w) of one channel, those that are rounding set to zero."""
        s = torch.outer(exact(self._parts[0][1]), exact(self._parts[1][1]))
        return (s * counts(s)).to(wide(self.rows))

    @cached_property
    def _bases(self) -> tuple[Tensor, Tensor]:
        """V of R and of C, all columns."""
        (_, _, V_h), (_, _, V_w) = self._parts
        rows = _completed(V_h)
        return rows, rows if V_h is V_w else _completed(V_w)


class _Linear(torch.autograd.Function):
    """f(x), whose derivative is fᵀ: as fast backwards as forwards, where autograd would add slice to slice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, f: Map, transposed: Map) -> Tensor:
        return f(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Map, Map], output: Tensor) -> None:
        ctx.f, ctx.transposed = inputs[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(gradient, ctx.transposed, ctx.f), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return ctx.f(tangent)


def _both(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows · x · columnsᵀ."""
    return rows.to(x) @ (x @ columns.to(x).mT)


def _blocks(matrix: Tensor, height: int = 32) -> list[Block]:
    """(top, bottom, left, right) of the blocks a banded matrix is made of; one, the whole, where they save little.

    32 rows measured fastest on a CPU: 3x1024² by 61 taps 20 ms, by the whole matrix 130. Elsewhere the whole: one
    product starts sooner than many.
    """
    whole = [(0, len(matrix), 0, matrix.shape[1])]
    if matrix.device.type != "cpu":
        return whole
    found = []
    for top in range(0, len(matrix), height):
        block = matrix[top : top + height]
        seen = (block != 0).any(0).nonzero().flatten().tolist() or [0]
        found.append((top, top + len(block), seen[0], seen[-1] + 1))
    area = sum((bottom - top) * (right - left) for top, bottom, left, right in found)
    return found if 2 * area < matrix.numel() else whole


def _down(matrix: Tensor, x: Tensor, blocks: list[Block]) -> Tensor:
    """matrix · x."""
    parts = [matrix[t:b, left:right].to(x) @ x[..., left:right, :] for t, b, left, right in blocks]
    return torch.cat(parts, dim=-2)


def _across(matrix: Tensor, x: Tensor, blocks: list[Block]) -> Tensor:
    """x · matrixᵀ."""
    parts = [x[..., left:right] @ matrix[t:b, left:right].to(x).mT for t, b, left, right in blocks]
    return torch.cat(parts, dim=-1)


def _svd(matrix: Tensor) -> SVD:
    """(U, s, V). A matrix that is its own half-turn, as a symmetric kernel makes it, keeps even and odd apart."""
    M, matrix = exact(matrix), wide(matrix)
    if (M - M.flip(0, 1)).abs().max() > 1e-14 * M.abs().max():
        U, s, Vh = torch.linalg.svd(M, full_matrices=False)
        return U.to(matrix), s.to(matrix), Vh.mT.to(matrix)
    halves = [_folded(_folded(M, 0)[i], 1)[i] for i in (0, 1)]
    (U_e, s_e, Vh_e), (U_o, s_o, Vh_o) = (torch.linalg.svd(half, full_matrices=False) for half in halves)
    U, V = _unfolded(U_e, U_o, len(M)), _unfolded(Vh_e.mT, Vh_o.mT, M.shape[1])
    return U.to(matrix), torch.cat((s_e, s_o)).to(matrix), V.to(matrix)


def _folded(matrix: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The coefficients of its even and of its odd part along an axis, in orthonormal bases."""
    size = matrix.shape[dim]
    first, middle, last = matrix.split((size // 2, size % 2, size // 2), dim)
    even, odd = (first + last.flip(dim)) / 2**0.5, (first - last.flip(dim)) / 2**0.5
    return torch.cat((even, middle), dim), odd


def _unfolded(even: Tensor, odd: Tensor, size: int) -> Tensor:
    """The columns of these even and odd coefficients, of length `size`, side by side."""
    half = size // 2
    ends, odd = even[:half] / 2**0.5, odd / 2**0.5
    evens = torch.cat((ends, even[half:], ends.flip(0)))
    odds = torch.cat((odd, odd.new_zeros(size % 2, odd.shape[1]), -odd.flip(0)))
    return torch.cat((evens, odds), dim=1)


def _completed(V: Tensor) -> Tensor:
    """Orthonormal columns, followed by others until they are a basis."""
    Q, _ = torch.linalg.qr(exact(V), mode="complete")
    return torch.cat((V, Q[:, V.shape[1] :].to(V)), dim=1)
