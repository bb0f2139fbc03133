"""Whether an operator keeps its promises: for those who write one, and for those who run somebody else's."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import LinearOperator, Operator, ProximalOperator
from .compose import PerImage


@torch.no_grad()
def check(operator: Operator, *, rtol: float = 1e-6, seed: int = 0) -> None:
    """Try it on random pictures in float64. ValueError, in one line, for the first promise it breaks.

    Shapes and dtypes; finite numbers; a derivative; each sample on its own; nothing changed that it is given. For
    linear ones A linear, ⟨A x, v⟩ = ⟨x, Aᵀ v⟩ and the prox's optimality, within rtol (the prox within 10⁴ times that,
    as conjugate gradients stop before). For others with a prox, that nothing near it is better.
    """
    if isinstance(operator, PerImage):
        for part in operator.parts:
            check(part, rtol=rtol, seed=seed)
        return
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
    given = x.clone()
    y = _of_shape(operator.A(x), (2, *operator.out_shape), f"{name}: A").clone()
    _unchanged(x, given, f"{name}: A")
    alone = f"{name}: A of a picture alone, and in a batch (treat each sample on its own)"
    _near(operator.A(x[1:]), y[1:], rtol, alone)
    _differentiable(operator, x, name)
    if isinstance(operator, LinearOperator):
        v, other = draw(2, *operator.out_shape), draw(2, *operator.in_shape)
        _near(operator.A(2 * x + other), 2 * y + operator.A(other), rtol, f"{name}: A(2x + z)")
        given = v.clone()
        back = _of_shape(operator.A_adjoint(v), (2, *operator.in_shape), f"{name}: A_adjoint").clone()
        _unchanged(v, given, f"{name}: A_adjoint")
        ahead, behind = float((y * v).sum()), float((x * back).sum())
        if abs(ahead - behind) > rtol * float(y.norm() * v.norm()):
            raise ValueError(
                f"{name}: A_adjoint is not the adjoint of A: expected ⟨A x, v⟩ = ⟨x, A_adjoint v⟩, "
                f"got {ahead:.6g} and {behind:.6g}"
            )
        if _own_prox(type(operator)):
            found = _of_shape(operator.prox(x, v, 2.0), (2, *operator.in_shape), f"{name}: prox")
            _near(
                found - x,
                2 * operator.A_adjoint(v - operator.A(found)),
                1e4 * rtol,
                f"{name}: prox(x, y) − x",
            )
    elif isinstance(operator, ProximalOperator):
        z = draw(2, *operator.in_shape)
        found = _of_shape(operator.prox(z, y, 2.0), (2, *operator.in_shape), f"{name}: prox")

        def cost(at: Tensor) -> Tensor:
            return 0.5 * (at - z).square().sum() + (operator.A(at) - y).square().sum()

        if not operator.surrogate and cost(found) > min(cost(z), cost(x), cost(0.9 * found + 0.1 * z)) * (
            1 + rtol
        ):
            raise ValueError(
                f"{name}: prox: expected the least ½‖x − z‖² + weight/2·‖A(x) − y‖², got {cost(found):.4g}, "
                "which is not the least nearby"
            )


def _own_prox(kind: type[LinearOperator]) -> bool:
    """Whether its prox is not the inherited one: right where A and A_adjoint are, and slow on large pictures."""
    return kind.prox is not LinearOperator.prox or kind._least_squares is not LinearOperator._least_squares


def _unchanged(now: Tensor, before: Tensor, what: str) -> None:
    if not torch.equal(now, before):
        raise ValueError(f"{what}: changes what it is given; work on a copy")


def _differentiable(operator: Operator, x: Tensor, name: str) -> None:
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        y = operator.A(leaf)
        if not y.requires_grad:
            raise ValueError(
                f"{name}: A: cannot be differentiated; use torch's functions on x, without detach"
            )
        (slope,) = torch.autograd.grad(y.square().sum(), leaf)
    if not slope.isfinite().all():
        raise ValueError(f"{name}: A: expected a finite derivative, got NaN or infinity")


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
