"""Forward models of other libraries."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from .base import LinearOperator, Operator, Shape, by, image_shape

if TYPE_CHECKING:
    from deepinv.physics import LinearPhysics, Physics


def from_deepinv(physics: Physics, shape: Shape) -> Operator:
    """A deepinv physics, noise aside, as an operator over images of `shape` (C, H, W).

    A `LinearPhysics` becomes a `LinearOperator`, solved by conjugate gradients; anything else an `Operator`.
    TypeError for what is no physics; ValueError if it does not take such images, or its A_adjoint is not the
    adjoint of its A.
    """
    from deepinv.physics import LinearPhysics, Physics

    name = type(physics).__name__
    if not isinstance(physics, Physics):
        raise TypeError(f"physics: expected a deepinv.physics.Physics, got {name}")
    shape = image_shape(shape)
    # A copy, ours alone: deepinv's physics change with the arguments of a call.
    physics = copy.deepcopy(physics).to("cpu", torch.float32)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            y = physics.A(x)
    except Exception as error:  # of any kind: deepinv leaves the check of shapes to torch
        raise ValueError(f"{name} does not take images of shape {shape}: {error}") from error
    out_shape = tuple(y.shape[1:])
    if not isinstance(physics, LinearPhysics):
        return DeepinvOperator(physics=physics, in_shape=shape, out_shape=out_shape)
    with torch.no_grad():
        back = physics.A_adjoint(y)
    if back.shape != x.shape or abs((back * x).sum() - y.square().sum()) > 1e-3 * y.square().sum():
        raise ValueError(f"{name}: A_adjoint is not the adjoint of A for images of shape {shape}")
    return DeepinvLinearOperator(physics=physics, in_shape=shape, out_shape=out_shape)


@dataclass(frozen=True, eq=False, repr=False)
class DeepinvOperator(Operator):
    """Any deepinv physics: y = physics.A(x), in float32 until `to` says otherwise. Made by `from_deepinv`."""

    physics: Physics
    in_shape: Shape
    out_shape: tuple[int, ...]

    def describe(self) -> str:
        return f"deepinv.{type(self.physics).__name__}({by(*self.in_shape)} to {by(*self.out_shape)})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        new = super().to(device, dtype)
        vars(new)["physics"] = copy.deepcopy(self.physics).to(device=device, dtype=dtype)
        return new

    def A(self, x: Tensor) -> Tensor:
        return self.physics.A(self._image(x))


@dataclass(frozen=True, eq=False, repr=False)
class DeepinvLinearOperator(DeepinvOperator, LinearOperator):
    """Any deepinv LinearPhysics. rtol, max_iter: of the conjugate gradients (see `LinearOperator`)."""

    physics: LinearPhysics
    rtol: float = field(default=LinearOperator.rtol, kw_only=True)
    max_iter: int = field(default=LinearOperator.max_iter, kw_only=True)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(self._measurement(y))
