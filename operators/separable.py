"""Operators that treat rows and columns one after the other."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import SpectralOperator, counts, exact, gain

SVD = tuple[Tensor, Tensor, Tensor]


class SeparableOperator(SpectralOperator):
    """y = R x Cᵀ for every channel: the singular values of A are the products of those of R and of C.

    A subclass sets rows, R (h, H), and columns, C (w, W). Coefficient (i, j) of a channel belongs to the
    singular vectors i of R and j of C; where R and C have fewer rows than columns, V is filled up with a
    basis of what they lose.
    """

    rows: Tensor
    columns: Tensor

    def A(self, x: Tensor) -> Tensor:
        return _both(self.rows, self._image(x), self.columns)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return _both(self.rows.mT, self._measurement(y), self.columns.mT)

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
        c = _both(U_h.mT, self._measurement(b), U_w.mT)
        return _both(V_h, gain(self._kept.to(b), damping) * c, V_w)

    def _padded(self, c: Tensor) -> Tensor:
        _, height, width = self.in_shape
        return pad(c, (0, width - c.shape[-1], 0, height - c.shape[-2]))

    @cached_property
    def _parts(self) -> tuple[SVD, SVD]:
        """(U, s, V) of R and of C, without what they lose."""
        rows = _svd(self.rows)
        return rows, rows if torch.equal(self.rows, self.columns) else _svd(self.columns)

    @cached_property
    def _kept(self) -> Tensor:
        """The singular values (h, w) of one channel, those that are rounding set to zero."""
        s = torch.outer(exact(self._parts[0][1]), exact(self._parts[1][1]))
        return (s * counts(s)).to(self.rows)

    @cached_property
    def _bases(self) -> tuple[Tensor, Tensor]:
        """V of R and of C, all columns."""
        (_, _, V_h), (_, _, V_w) = self._parts
        rows = _completed(V_h)
        return rows, rows if V_h is V_w else _completed(V_w)


def _both(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows · x · columnsᵀ."""
    return rows.to(x) @ (x @ columns.to(x).mT)


def _svd(matrix: Tensor) -> SVD:
    U, s, Vh = torch.linalg.svd(exact(matrix), full_matrices=False)
    return U.to(matrix), s.to(matrix), Vh.mT.to(matrix)


def _completed(V: Tensor) -> Tensor:
    """Orthonormal columns, followed by others until they are a basis."""
    Q, _ = torch.linalg.qr(exact(V), mode="complete")
    return torch.cat((V, Q[:, V.shape[1] :].to(V)), dim=1)
