"""Forward models of other libraries: deepinv's physics as ours, ours as deepinv's physics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import inf, prod
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor, nn

from .base import LinearOperator, Operator, Shape, SpectralOperator, by, gain, image_shape

if TYPE_CHECKING:
    from deepinv.physics import DecomposablePhysics, LinearPhysics, Physics

# ------------------------------------------------------------------------------------------------- theirs, as ours


def from_deepinv(physics: Physics, shape: Shape) -> Operator:
    """A deepinv physics as an operator over images of `shape` (C, H, W), its noise and sensor models left aside.

    A `LinearPhysics` becomes a `LinearOperator`: solved by conjugate gradients, or in closed form where it is a
    `DecomposablePhysics` and that proves right. Anything else becomes an `Operator`. What `to_deepinv` made of an
    operator of ours is that operator again.

    Images are real: a physics of complex images gets them with no imaginary part, and MRI's two channels are the real
    and the imaginary part. Measurements are real too: a complex one has a last axis of 2 (`torch.view_as_real`), and
    several (a `TensorList`, tuple or list, nested perhaps) are one vector (n,), one after the other. The operator's
    `pack` and `unpack` lead from deepinv's measurements to ours and back.

    TypeError for what is no physics; ValueError if it does not take such images, does not measure each image of a
    batch on its own, or its A_adjoint is not the adjoint of its A.
    """
    from deepinv.physics import DecomposablePhysics, LinearPhysics, Physics

    name = type(physics).__name__
    if not isinstance(physics, Physics):
        raise TypeError(f"physics: expected a deepinv.physics.Physics, got {name}")
    shape = image_shape(shape)
    if isinstance(physics, _OfOurs):
        if tuple(physics.operator.in_shape) != shape:
            raise ValueError(f"{physics.operator} does not take images of shape {shape}")
        return physics.operator
    # A copy, ours alone: deepinv's physics change with the arguments of a call.
    physics = _moved(physics, torch.device("cpu"), torch.float32)
    x = _random(2, *shape)
    with torch.no_grad():
        with _refusing(f"{name} does not take images of shape {shape}"):
            y, complex_images = _first_measurement(physics, x)
            layout = _layout(y)

        def wrapped(kind: type[Wrapped]) -> Wrapped:
            return kind(physics=physics, in_shape=shape, layout=layout, complex_images=complex_images)

        op = wrapped(DeepinvOperator)
        b = op.pack(y)
        if _differ(b[:1], op.A(x[:1])):
            raise ValueError(
                f"{name}: measures an image of a batch otherwise than alone; make it treat each one"
            )
        if not isinstance(physics, LinearPhysics):
            return op
        linear = wrapped(DeepinvLinearOperator)
        v = b / b.norm() + _random(*b.shape, seed=1) / b.numel() ** 0.5
        with _refusing(f"{name}: A_adjoint fails for images of shape {shape}"):
            back = linear.A_adjoint(v)
        if back.shape != x.shape or abs((back * x).sum() - (b * v).sum()) > 1e-3 * b.norm():
            raise ValueError(f"{name}: A_adjoint is not the adjoint of A for images of shape {shape}")
        if isinstance(physics, DecomposablePhysics) and not complex_images:
            closed = wrapped(DeepinvDecomposableOperator)
            if closed.solves(v):
                return closed
    return linear


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DeepinvOperator(Operator):
    """Any deepinv physics: y = pack(physics.A(x)). Made by `from_deepinv`.

    It is computed in float32 on the CPU until `to` says otherwise, and answered as x comes.
    """

    physics: Physics
    in_shape: Shape
    layout: _Layout
    complex_images: bool = False
    device: torch.device = field(default=torch.device("cpu"), init=False)
    dtype: torch.dtype = field(default=torch.float32, init=False)

    def __post_init__(self) -> None:
        shapes = [leaf.packed for leaf in self.layout.leaves()]
        single = isinstance(self.layout, _Leaf)
        vars(self).update(out_shape=shapes[0] if single else (sum(map(prod, shapes)),))

    def describe(self) -> str:
        return f"deepinv.{type(self.physics).__name__}({by(*self.in_shape)} to {by(*self.out_shape)})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        new = copy.copy(self)
        device = self.device if device is None else torch.device(device)
        if dtype is None:
            dtype = self.dtype
        elif dtype != torch.float64:
            dtype = torch.float32  # for half precisions too, in which deepinv's FFTs and solvers do not run
        vars(new).update(physics=_moved(self.physics, device, dtype), device=device, dtype=dtype)
        return new

    def A(self, x: Tensor) -> Tensor:
        return self.pack(self.physics.A(self._theirs(self._image(x)))).to(x)

    def pack(self, y: Any) -> Tensor:
        """A measurement of deepinv's, tensors (B, ...), as ours, (B, *out_shape). ValueError for another layout."""
        if (got := _layout(y)) != self.layout:
            raise ValueError(f"{self}: expected a measurement {self.layout}, got {got}")
        real = [torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf in _leaves(y)]
        parts = [leaf.to(self.dtype) for leaf in real]
        return parts[0] if isinstance(self.layout, _Leaf) else torch.cat([p.flatten(1) for p in parts], 1)

    def unpack(self, y: Tensor) -> Any:
        """A measurement of ours, (B, *out_shape), as deepinv has it; in the precision of the physics."""
        y = self._measurement(y).to(self.device, self.dtype).flatten(1)
        pieces = iter(y.split([prod(leaf.packed) for leaf in self.layout.leaves()], dim=1))
        return self.layout.rebuilt(pieces)

    def _theirs(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype.to_complex() if self.complex_images else self.dtype)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DeepinvLinearOperator(DeepinvOperator, LinearOperator):
    """Any deepinv LinearPhysics. rtol, max_iter: of the conjugate gradients (see `LinearOperator`)."""

    physics: LinearPhysics
    rtol: float = LinearOperator.rtol
    max_iter: int = LinearOperator.max_iter

    def A_adjoint(self, y: Tensor) -> Tensor:
        x = self.physics.A_adjoint(self.unpack(y))
        return (x.real if x.is_complex() else x).to(y)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DeepinvDecomposableOperator(DeepinvLinearOperator):
    """A deepinv DecomposablePhysics, A = U diag(mask) Vᵀ, solved in its basis."""

    physics: DecomposablePhysics

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        least = self._least_squares(b, torch.full((1, 1, 1, 1), damping, dtype=b.dtype, device=b.device))
        return (b - self.A(least)) / damping

    def solves(self, b: Tensor) -> bool:
        """Whether its least squares satisfy their condition Aᵀ(b − A d) = damping·d, as far as b can tell."""
        if self.physics.mask.is_complex():
            return False
        d = self._least_squares(b, torch.full((1, 1, 1, 1), 0.3))
        return not _differ(self.A_adjoint(b - self.A(d)), 0.3 * d, 1e-4)

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        c, s = self.physics.U_adjoint(self.unpack(b)), self.physics.mask
        factor = gain(s, damping.to(s).view(-1, *[1] * (c.ndim - 1)))
        return self.physics.V(factor * c).to(b)


@dataclass(frozen=True)
class _Leaf:
    """One tensor of a measurement: its shape without the batch."""

    shape: tuple[int, ...]
    complex: bool

    def __str__(self) -> str:
        return f"{('B', *self.shape)}{' complex' if self.complex else ''}".replace("'", "")

    @property
    def packed(self) -> tuple[int, ...]:
        return (*self.shape, 2) if self.complex else self.shape

    def leaves(self) -> Iterator[_Leaf]:
        yield self

    def rebuilt(self, pieces: Iterator[Tensor]) -> Tensor:
        piece = next(pieces).reshape(-1, *self.packed)
        return torch.view_as_complex(piece.contiguous()) if self.complex else piece


@dataclass(frozen=True)
class _Branch:
    """Several: a TensorList, tuple or list of them."""

    kind: type
    parts: tuple[_Layout, ...]

    def __str__(self) -> str:
        return f"{self.kind.__name__}[{', '.join(map(str, self.parts))}]"

    def leaves(self) -> Iterator[_Leaf]:
        for part in self.parts:
            yield from part.leaves()

    def rebuilt(self, pieces: Iterator[Tensor]) -> Any:
        return self.kind([part.rebuilt(pieces) for part in self.parts])


_Layout = _Leaf | _Branch
Wrapped = TypeVar("Wrapped", bound=DeepinvOperator)


def _layout(y: Any) -> _Layout:
    if isinstance(y, Tensor):
        return _Leaf(tuple(y.shape[1:]), y.is_complex())
    return _Branch(type(y), tuple(_layout(part) for part in _parts(y)))


def _leaves(y: Any) -> Iterator[Tensor]:
    if isinstance(y, Tensor):
        yield y
    else:
        for part in _parts(y):
            yield from _leaves(part)


def _parts(y: Any) -> list[Any]:
    from deepinv.utils import TensorList

    if not isinstance(y, TensorList | tuple | list):
        raise TypeError(f"expected a measurement of tensors, got {type(y).__name__}")
    return list(y)


def _first_measurement(physics: Physics, x: Tensor) -> tuple[Any, bool]:
    """A(x), and whether it takes images that are complex."""
    try:
        return physics.A(x), False
    except RuntimeError:
        try:
            return physics.A(x.to(torch.complex64)), True
        except Exception:  # then the first one tells more
            pass
        raise


def _moved(physics: Physics, device: torch.device, dtype: torch.dtype) -> Physics:
    """A copy there and in that precision. `Module.to` would drop imaginary parts, and misses lists of modules."""

    def move(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device, dtype.to_complex())
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    def visit(module: nn.Module) -> None:
        module._apply(move)
        for part in list(module.modules()):
            own = vars(part).get("dtype")  # to which some cast what they are given
            if isinstance(own, torch.dtype):
                vars(part)["dtype"] = dtype.to_complex() if own.is_complex else dtype
            for value in vars(part).values():
                for one in value if isinstance(value, list | tuple) else ():
                    if isinstance(one, nn.Module):
                        visit(one)

    physics = copy.deepcopy(physics)
    visit(physics)
    return physics


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Errors of any kind, for deepinv leaves the check of shapes to torch, as one ValueError in one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from error


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _differ(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> bool:
    return a.shape != b.shape or not (a - b).norm() <= tolerance * b.norm()


# ------------------------------------------------------------------------------------------------- ours, as theirs


def to_deepinv(operator: Operator, sigma_y: float = 0.0) -> Physics:
    """The operator as a deepinv physics with white Gaussian noise of sigma_y, for deepinv's own algorithms.

    An `Operator` becomes a `Physics`, a `LinearOperator` a `LinearPhysics` with our adjoint, pseudo-inverse and prox
    (`prox_l2`, whose gamma is our weight), and a `SpectralOperator` a `DecomposablePhysics` too: coefficients are
    (B, n), and mask, the singular values, is (1, n), in torch's default dtype. Its .to moves the operator with it.

    TypeError for what is no operator; ValueError for a negative sigma_y.
    """
    from deepinv.physics import GaussianNoise

    if not isinstance(operator, Operator):
        raise TypeError(f"operator: expected an invdiff operator, got {type(operator).__name__}")
    if not 0 <= sigma_y < inf:
        raise ValueError(f"sigma_y: expected a number from 0 up, in image units, got {sigma_y}")
    plain, linear, spectral = _kinds()
    noise = GaussianNoise(float(sigma_y))
    if isinstance(operator, SpectralOperator):
        mask = operator.singular_values.to(torch.get_default_dtype())[None]
        physics = spectral(noise_model=noise, mask=mask)
    else:
        physics = (linear if isinstance(operator, LinearOperator) else plain)(noise_model=noise)
    physics.operator, physics.img_size = operator, tuple(operator.in_shape)
    physics.register_buffer("place", torch.zeros(()), persistent=False)
    return physics


class _OfOurs:
    """What every physics made of an operator has. deepinv hands keyword arguments to all parts of a physics alike."""

    operator: Operator
    place: Tensor

    def A(self, x: Tensor, **_: Any) -> Tensor:
        return self.operator.A(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """By which torch moves modules: what it does to a number of each precision tells in which the operator goes."""
        super()._apply(fn, recurse)  # type: ignore[misc]
        if "operator" in vars(self):
            dtypes = {fn(torch.zeros((), dtype=dtype)).dtype for dtype in (torch.float32, torch.float64)}
            self.operator = self.operator.to(self.place.device, dtypes.pop() if len(dtypes) == 1 else None)
        return self


class _LinearOfOurs(_OfOurs):
    operator: LinearOperator

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return self.operator.A_adjoint(y)

    def A_adjoint_A(self, x: Tensor, **_: Any) -> Tensor:
        return self.operator.A_adjoint(self.operator.A(x))

    def A_A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return self.operator.A(self.operator.A_adjoint(y))

    def A_dagger(self, y: Tensor, **_: Any) -> Tensor:
        return self.operator.A_dagger(y)

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **_: Any) -> Tensor:
        if not isinstance(z, Tensor):
            z = torch.full((len(y), *self.operator.in_shape), float(z or 0), dtype=y.dtype, device=y.device)
        return self.operator.prox(z, y, gamma.flatten() if isinstance(gamma, Tensor) else gamma)


class _SpectralOfOurs(_LinearOfOurs):
    operator: SpectralOperator

    def U(self, c: Tensor) -> Tensor:
        return self.operator.U(c)

    def U_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return self.operator.U_adjoint(y)

    def V(self, c: Tensor, **_: Any) -> Tensor:
        return self.operator.V(c)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self.operator.V_adjoint(x)


@cache
def _kinds() -> tuple[Any, Any, Any]:
    """The physics of each rung, made when first used: deepinv takes seconds to import."""
    from deepinv.physics import DecomposablePhysics, LinearPhysics, Physics

    return (
        type("OperatorPhysics", (_OfOurs, Physics), {}),
        type("LinearOperatorPhysics", (_LinearOfOurs, LinearPhysics), {}),
        type("SpectralOperatorPhysics", (_SpectralOfOurs, DecomposablePhysics), {}),
    )
