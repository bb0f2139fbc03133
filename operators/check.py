"""Whether an operator keeps its promises: for those who write one, and for those who run somebody else's."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import LinearOperator, Operator, ProximalOperator


@torch.no_grad()
def check(operator: Operator, *, rtol: float = 1e-6, seed: int = 0) -> None:
    """Try it on random pictures in float64. ValueError, in one line, for the first promise it breaks.

    Shapes and dtypes; finite numbers; each sample on its own; and for linear ones A linear, ⟨A x, v⟩ = ⟨x, Aᵀ v⟩ and
    the prox's optimality, within rtol (the prox within 10⁴ times that, as conjugate gradients stop before).
    """
    if not isinstance(operator, Operator):
        raise ValueError(f"expected an invdiff.operators.Operator, got {type(operator).__name__}")
    name = operator.describe()
    for attribute in ("in_shape", "out_shape"):
        shape = getattr(operator, attribute, None)
        if not isinstance(shape, tuple) or not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"{name}: expected {attribute} to be a tuple of whole numbers, got {shape!r}")
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    x = draw(2, *operator.in_shape)
    y = _of_shape(operator.A(x), (2, *operator.out_shape), f"{name}: A")
    _near(operator.A(x[1:]), y[1:], rtol, f"{name}: A of one picture of a batch")
    if isinstance(operator, LinearOperator):
        v, other = draw(2, *operator.out_shape), draw(2, *operator.in_shape)
        _near(operator.A(2 * x + other), 2 * y + operator.A(other), rtol, f"{name}: A(2x + z)")
        back = _of_shape(operator.A_adjoint(v), (2, *operator.in_shape), f"{name}: A_adjoint")
        ahead, behind = float((y * v).sum()), float((x * back).sum())
        if abs(ahead - behind) > rtol * float(y.norm() * v.norm()):
            raise ValueError(
                f"{name}: A_adjoint is not the adjoint of A: expected ⟨A x, v⟩ = ⟨x, A_adjoint v⟩, "
                f"got {ahead:.6g} and {behind:.6g}"
            )
        found = _of_shape(operator.prox(x, v, 2.0), (2, *operator.in_shape), f"{name}: prox")
        _near(found - x, 2 * operator.A_adjoint(v - operator.A(found)), 1e4 * rtol, f"{name}: prox(x, y) − x")
    elif isinstance(operator, ProximalOperator):
        _of_shape(operator.prox(x, y, 2.0), (2, *operator.in_shape), f"{name}: prox")


def _of_shape(got: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    if not isinstance(got, Tensor):
        raise ValueError(f"{what}: expected a tensor, got {type(got).__name__}")
    if tuple(got.shape) != shape:
        raise ValueError(f"{what}: expected shape {shape}, got {tuple(got.shape)}")
    if got.dtype != torch.float64:
        raise ValueError(f"{what}: expected the dtype it was given, torch.float64, got {got.dtype}")
    if not got.isfinite().all():
        raise ValueError(f"{what}: expected finite numbers, got NaN or infinity")
    return got


def _near(got: Tensor, wanted: Tensor, rtol: float, what: str) -> None:
    error = float((got - wanted).norm() / wanted.norm().clamp(min=1e-30))
    if not error <= rtol:
        raise ValueError(f"{what}: expected what follows from its other values, got {error:.2g} away from it")
