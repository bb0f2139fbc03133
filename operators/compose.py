"""Operators made of operators: A after B, a multiple, several measurements of one image, one for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import isfinite, prod

import torch
from torch import Tensor

from .base import (
    LinearOperator,
    Operator,
    ProximalOperator,
    SpectralOperator,
    by,
    cached_property,
    counts,
    damping,
)
from .blur import CircularBlur
from .mask import Diagonal, Identity, Mask
from .separable import SeparableOperator

# ------------------------------------------------------------------------------------------------- A after B


def composed(outer: Operator, inner: Operator) -> Operator:
    """outer ∘ inner, as high on the ladder as it can be: y = outer(inner(x)); `outer @ inner` is the same.

    Spectral where the product has singular values in closed form: two separable operators, two circular blurs,
    masks and diagonals, anything after or before the identity or a multiple. ValueError where the shapes do not meet.
    """
    if tuple(outer.in_shape) != tuple(inner.out_shape):
        raise ValueError(
            f"{outer} after {inner}: expected a measurement of shape {tuple(outer.in_shape)} from the inner one, "
            f"got {tuple(inner.out_shape)}; build the outer one for that shape"
        )
    if isinstance(outer, Identity):
        return inner
    if isinstance(inner, Identity):
        return outer
    if isinstance(outer, Scaled) and isinstance(inner, LinearOperator):
        return scaled(composed(outer.part, inner), outer.factor)
    if isinstance(inner, Scaled) and isinstance(outer, LinearOperator):
        return scaled(composed(outer, inner.part), inner.factor)
    if isinstance(outer, Mask) and isinstance(inner, Mask) and (outer.keep & inner.keep).any():
        return inner.both(outer)
    if isinstance(outer, Mask | Diagonal) and isinstance(inner, Mask | Diagonal):
        weights = outer.A(inner.A(torch.ones(1, *inner.in_shape, dtype=torch.float64)))[0]
        if weights.any():
            return Diagonal(weights)
    if isinstance(outer, CircularBlur) and isinstance(inner, CircularBlur):
        return inner.then(outer)
    if isinstance(outer, SeparableOperator) and isinstance(inner, SeparableOperator):
        return SeparableProduct(outer=outer, inner=inner)
    if isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator):
        return LinearComposed(outer=outer, inner=inner)
    return Composed(outer=outer, inner=inner)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Composed(Operator):
    """y = outer(inner(x)). Made by `composed`."""

    outer: Operator
    inner: Operator

    def __post_init__(self) -> None:
        vars(self).update(in_shape=self.inner.in_shape, out_shape=self.outer.out_shape)

    @property
    def surrogate(self) -> bool:
        return self.outer.surrogate or self.inner.surrogate

    def describe(self) -> str:
        return f"{self.outer.describe()} after {self.inner.describe()}"

    def pick(self, images: Sequence[int]) -> Operator:
        outer, inner = self.outer.pick(images), self.inner.pick(images)
        return self if outer is self.outer and inner is self.inner else composed(outer, inner)

    def A(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(self._image(x)))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LinearComposed(Composed, LinearOperator):
    """outer · inner of two matrices; pseudo-inverse and prox by conjugate gradients (see `LinearOperator`)."""

    outer: LinearOperator
    inner: LinearOperator
    rtol: float = LinearOperator.rtol
    max_iter: int = LinearOperator.max_iter

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.inner.A_adjoint(self.outer.A_adjoint(self._measurement(y)))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SeparableProduct(Composed, SeparableOperator):
    """(R₁R₂) x (C₁C₂)ᵀ: separable operators one after the other are one; the smaller matrices come first."""

    outer: SeparableOperator
    inner: SeparableOperator
    rows: Tensor = field(init=False)
    columns: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = self.outer.rows @ self.inner.rows, self.outer.columns @ self.inner.columns
        vars(self).update(rows=rows, columns=columns)

    def A(self, x: Tensor) -> Tensor:
        return SeparableOperator.A(self, x)


# ------------------------------------------------------------------------------------------------ a multiple


def scaled(operator: Operator, factor: float) -> Operator:
    """factor · A, as high on the ladder as A; `factor * A` is the same. ValueError for 0, NaN or infinity."""
    factor = float(factor)
    if not isfinite(factor) or factor == 0:
        raise ValueError(f"factor: expected a number other than 0, got {factor}")
    if isinstance(operator, Scaled):
        factor, operator = factor * operator.factor, operator.part
    if factor == 1:
        return operator
    if isinstance(operator, SpectralOperator):
        return SpectralScaled(part=operator, factor=factor)
    if isinstance(operator, LinearOperator):
        return LinearScaled(part=operator, factor=factor)
    if isinstance(operator, ProximalOperator):
        return ProximalScaled(part=operator, factor=factor)
    return Scaled(part=operator, factor=factor)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Scaled(Operator):
    """y = factor · part(x). Made by `scaled`."""

    part: Operator
    factor: float

    def __post_init__(self) -> None:
        vars(self).update(in_shape=self.part.in_shape, out_shape=self.part.out_shape)

    @property
    def surrogate(self) -> bool:
        return self.part.surrogate

    def describe(self) -> str:
        return f"{self.factor:g}·{self.part.describe()}"

    def pick(self, images: Sequence[int]) -> Operator:
        part = self.part.pick(images)
        return self if part is self.part else scaled(part, self.factor)

    def A(self, x: Tensor) -> Tensor:
        return self.factor * self.part.A(x)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ProximalScaled(Scaled, ProximalOperator):
    part: ProximalOperator

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        return self.part.prox(z, y / self.factor, weight * self.factor**2)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LinearScaled(ProximalScaled, LinearOperator):
    part: LinearOperator

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.part.A_adjoint(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.part.A_dagger(y) / self.factor

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        return self.part.precondition(b, damping / self.factor**2)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SpectralScaled(LinearScaled, SpectralOperator):
    part: SpectralOperator

    @property
    def basis(self) -> str | None:
        return self.part.basis

    @property
    def singular_values(self) -> Tensor:
        return abs(self.factor) * self.part.singular_values

    def V(self, c: Tensor) -> Tensor:
        return self.part.V(c)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self.part.V_adjoint(x)

    def U(self, c: Tensor) -> Tensor:
        return self._sign * self.part.U(c)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self._sign * self.part.U_adjoint(y)

    @property
    def _sign(self) -> float:
        return 1.0 if self.factor > 0 else -1.0


# --------------------------------------------------------------------------- several measurements of one image


def stacked(parts: Sequence[Operator]) -> Stacked:
    """All of them measure one image: y is their measurements one after the other, flat (see `Stacked.split`).

    Spectral where all parts have the same singular vectors V: circular blurs, or masks. ValueError where their
    images differ in shape, or there are none.
    """
    parts = tuple(parts)
    if not parts:
        raise ValueError("stack: expected at least one operator, got none")
    for i, part in enumerate(parts):
        if tuple(part.in_shape) != tuple(parts[0].in_shape):
            raise ValueError(
                f"stack: part {i + 1}, {part}, expected images of shape {tuple(parts[0].in_shape)} as part 1 does, "
                f"got {tuple(part.in_shape)}; build all parts for one image"
            )
    spectral = tuple(part for part in parts if isinstance(part, SpectralOperator))
    if (
        len(spectral) == len(parts)
        and None not in (bases := {part.basis for part in spectral})
        and len(bases) == 1
    ):
        return SpectralStacked(parts=spectral)
    linear = tuple(part for part in parts if isinstance(part, LinearOperator))
    if len(linear) == len(parts):
        return LinearStacked(parts=linear)
    return Stacked(parts=parts)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Stacked(Operator):
    """y = (part₁(x), part₂(x), ...), flat. Made by `stacked`."""

    parts: tuple[Operator, ...]

    def __post_init__(self) -> None:
        length = sum(prod(part.out_shape) for part in self.parts)
        vars(self).update(in_shape=self.parts[0].in_shape, out_shape=(length,))

    @property
    def surrogate(self) -> bool:
        return any(part.surrogate for part in self.parts)

    def describe(self) -> str:
        return f"[{', '.join(part.describe() for part in self.parts)}]"

    def pick(self, images: Sequence[int]) -> Operator:
        parts = [part.pick(images) for part in self.parts]
        return self if all(a is b for a, b in zip(parts, self.parts, strict=True)) else stacked(parts)

    def A(self, x: Tensor) -> Tensor:
        return self.join([part.A(x) for part in self.parts])

    def join(self, measurements: Sequence[Tensor]) -> Tensor:
        """The parts' measurements, (B, *part.out_shape) each, as one: (B, n)."""
        return torch.cat([y.flatten(1) for y in measurements], dim=1)

    def split(self, y: Tensor) -> list[Tensor]:
        """The parts' measurements of a y (B, n)."""
        pieces = self._measurement(y).split([prod(part.out_shape) for part in self.parts], dim=1)
        return [piece.reshape(-1, *part.out_shape) for piece, part in zip(pieces, self.parts, strict=True)]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LinearStacked(Stacked, LinearOperator):
    """[A₁; A₂; ...]; pseudo-inverse and prox by conjugate gradients (see `LinearOperator`)."""

    parts: tuple[LinearOperator, ...]
    rtol: float = LinearOperator.rtol
    max_iter: int = LinearOperator.max_iter

    def A_adjoint(self, y: Tensor) -> Tensor:
        back = [part.A_adjoint(piece) for part, piece in zip(self.parts, self.split(y), strict=True)]
        return reduce(torch.add, back)

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        """Each part's own, as if nothing but it had been measured."""
        pieces = zip(self.parts, self.split(b), strict=True)
        return self.join([part.precondition(piece, damping) for part, piece in pieces])


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SpectralStacked(LinearStacked, SpectralOperator):
    """Parts of one V: s² = Σ sᵢ², U = (sᵢ Uᵢ / s)."""

    parts: tuple[SpectralOperator, ...]

    A = Stacked.A
    A_adjoint = LinearStacked.A_adjoint
    precondition = SpectralOperator.precondition

    @property
    def basis(self) -> str | None:
        return self.parts[0].basis

    @cached_property
    def singular_values(self) -> Tensor:
        s = torch.stack([part.singular_values for part in self.parts]).norm(dim=0)
        return s * counts(s)

    def V(self, c: Tensor) -> Tensor:
        return self.parts[0].V(c)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self.parts[0].V_adjoint(x)

    def U(self, c: Tensor) -> Tensor:
        return self.join([part.U(self._share(part).to(c) * c) for part in self.parts])

    def U_adjoint(self, y: Tensor) -> Tensor:
        found = [
            self._share(part).to(y) * part.U_adjoint(piece)
            for part, piece in zip(self.parts, self.split(y), strict=True)
        ]
        return reduce(torch.add, found)

    def _share(self, part: SpectralOperator) -> Tensor:
        s = self.singular_values
        return torch.where(s > 0, part.singular_values.to(s) / s.where(s > 0, torch.ones_like(s)), 0)


# ---------------------------------------------------------------------------------- an operator for each image


def per_image(parts: Sequence[Operator]) -> Operator:
    """An operator for each image of a batch, as when each has a blur of its own: image i is measured by parts[i].

    `pick` takes those of a smaller or repeated batch, and is a single part where it takes one alone. ValueError
    where shapes differ.
    """
    parts = tuple(parts)
    if not parts:
        raise ValueError("per_image: expected at least one operator, got none")
    for i, part in enumerate(parts):
        shapes = tuple(part.in_shape), tuple(part.out_shape)
        first = tuple(parts[0].in_shape), tuple(parts[0].out_shape)
        if shapes != first:
            raise ValueError(
                f"per_image: operator {i + 1}, {part}, expected shapes {by(*first[0])} to {by(*first[1])} as the first "
                f"has, got {by(*shapes[0])} to {by(*shapes[1])}; build all of them for one shape"
            )
    if all(part is parts[0] for part in parts):
        return parts[0]
    linear = tuple(part for part in parts if isinstance(part, LinearOperator))
    if len(linear) == len(parts):
        return LinearPerImage(parts=linear)
    proximal = tuple(part for part in parts if isinstance(part, ProximalOperator))
    if len(proximal) == len(parts):
        return ProximalPerImage(parts=proximal)
    return PerImage(parts=parts)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PerImage(Operator):
    """y[i] = parts[i](x[i]). Made by `per_image`."""

    parts: tuple[Operator, ...]

    def __post_init__(self) -> None:
        vars(self).update(in_shape=self.parts[0].in_shape, out_shape=self.parts[0].out_shape)

    @property
    def surrogate(self) -> bool:
        return any(part.surrogate for part in self.parts)

    def describe(self) -> str:
        return f"one for each of {len(self.parts)} images: {self.parts[0].describe()}, ..."

    def pick(self, images: Sequence[int]) -> Operator:
        return per_image([self.parts[i] for i in images])

    def A(self, x: Tensor) -> Tensor:
        return torch.cat([part.A(one) for part, one in self._each(self._image(x))])

    def _each(self, batch: Tensor) -> list[tuple[Operator, Tensor]]:
        if len(batch) != len(self.parts):
            raise ValueError(
                f"{self}: expected a batch of {len(self.parts)}, got {len(batch)}; pick(images) is for others"
            )
        return list(zip(self.parts, batch.split(1), strict=True))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ProximalPerImage(PerImage, ProximalOperator):
    parts: tuple[ProximalOperator, ...]

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        damping(weight, z)  # says what is wrong with the weight
        weights = torch.as_tensor(weight, dtype=z.dtype, device=z.device).flatten().expand(len(z))
        each = zip(self._each(self._image(z)), self._measurement(y).split(1), weights.tolist(), strict=True)
        return torch.cat([part.prox(one, measured, w) for (part, one), measured, w in each])  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LinearPerImage(ProximalPerImage, LinearOperator):
    parts: tuple[LinearOperator, ...]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([part.A_adjoint(one) for part, one in self._each(self._measurement(y))])  # type: ignore[attr-defined]

    def A_dagger(self, y: Tensor) -> Tensor:
        return torch.cat([part.A_dagger(one) for part, one in self._each(self._measurement(y))])  # type: ignore[attr-defined]

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        return torch.cat([part.precondition(one, damping) for part, one in self._each(self._measurement(b))])  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------- another weight for each s


@dataclass(frozen=True, eq=False, repr=False)
class Reweighted(SpectralOperator):
    """U diag(weights · s) Vᵀ: the measurement of `part`, each of its coefficients weighted. weights: (n,), ≥ 0."""

    part: SpectralOperator
    weights: Tensor

    def __post_init__(self) -> None:
        n = prod(self.part.in_shape)
        if tuple(self.weights.shape) != (n,) or not ((self.weights >= 0) & self.weights.isfinite()).all():
            raise ValueError(
                f"weights: expected {n} finite numbers from 0 up, got {by(*self.weights.shape)} others"
            )
        vars(self).update(in_shape=self.part.in_shape, out_shape=self.part.out_shape)

    def describe(self) -> str:
        return f"{self.part.describe()}, its coefficients weighted"

    def measured(self, y: Tensor) -> Tensor:
        """The part's measurement y as this operator's: U diag(weights) Uᵀ y."""
        return self.part.U(self.weights.to(y) * self.part.U_adjoint(y))

    @property
    def basis(self) -> str | None:
        return self.part.basis

    @cached_property
    def singular_values(self) -> Tensor:
        return self.weights * self.part.singular_values.to(self.weights)

    def V(self, c: Tensor) -> Tensor:
        return self.part.V(c)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self.part.V_adjoint(x)

    def U(self, c: Tensor) -> Tensor:
        return self.part.U(self._kept.to(c) * c)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self._kept.to(y) * self.part.U_adjoint(y)

    @property
    def _kept(self) -> Tensor:
        return (self.singular_values > 0).to(self.weights)
