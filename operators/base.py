"""What a method may ask of a forward model y = A(x): Operator → ProximalOperator → LinearOperator → SpectralOperator.

Images are (B, C, H, W) in image units (0 black, 1 white); shapes are written without the batch. Operators are
immutable frozen dataclasses: their fields are what they were built from, and a `cached_property` what follows
from the fields, worked out in float64 once, when first used. They are born in float64 and answer in the dtype
and on the device of what they are given; `to` moves their tensors there beforehand, which saves a conversion
at every call.
"""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

Shape = tuple[int, int, int]
T = TypeVar("T")


class cached_property(functools.cached_property[T]):
    """functools', worked out so that any later call may use it: outside inference mode, and without gradients."""

    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return super().__get__(instance, owner)


class Operator(ABC):
    """A forward model y = A(x), of which nothing is asked but A and its derivative (by autograd).

    `A @ B` is A after B, `2 * A` A scaled (see compose.py).
    """

    in_shape: Shape
    out_shape: tuple[int, ...]

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """y = A(x), without noise. x: (B, *in_shape); y: (B, *out_shape). ValueError for another shape."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.A(x)

    @property
    def surrogate(self) -> bool:
        """Whether autograd goes through a smooth stand-in for A, because A itself is flat or jumps, as a quantiser."""
        return False

    def describe(self) -> str:
        """One line for logs and records."""
        return f"{type(self).__name__}({by(*self.in_shape)})"

    def __repr__(self) -> str:
        return self.describe()

    def __matmul__(self, inner: Operator) -> Operator:
        from .compose import composed

        return composed(self, inner)

    def __mul__(self, factor: float) -> Operator:
        from .compose import scaled

        return scaled(self, factor)

    __rmul__ = __mul__

    def pick(self, images: Sequence[int]) -> Operator:
        """The operator of a batch made of these images; another one only where each image has its own."""
        return self

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same operator, its tensors on `device` and in `dtype`; None leaves them as they are.

        A device without float64 (mps) needs dtype=torch.float32.
        """
        new = object.__new__(type(self))
        for name, value in vars(self).items():
            if not isinstance(getattr(type(self), name, None), functools.cached_property):
                vars(new)[name] = _moved(value, device, dtype)
        return new

    def _image(self, x: Tensor) -> Tensor:
        return self._checked(x, self.in_shape, "an image")

    def _measurement(self, y: Tensor) -> Tensor:
        return self._checked(y, self.out_shape, "a measurement")

    def _checked(self, tensor: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
        if tuple(tensor.shape[1:]) != shape:
            wanted, got = ", ".join(["B", *map(str, shape)]), tuple(tensor.shape)
            raise ValueError(
                f"{self}: expected {what} ({wanted}), got {got}; build the operator for that shape"
            )
        if not tensor.is_floating_point():
            raise TypeError(
                f"{self}: expected {what} of floats in image units, got {tensor.dtype}; convert it"
            )
        return tensor


class ProximalOperator(Operator):
    """A forward model, not linear perhaps, whose distance from a measurement has a proximal map."""

    @abstractmethod
    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        """argmin_x ½‖x − z‖² + weight/2 ‖A(x) − y‖². z: (B, *in_shape); y: (B, *out_shape).

        weight: a number in (0, inf], or one per sample (B,). At inf it is the nearest x with A(x) = y, or as near
        to it as A comes.
        """


class LinearOperator(ProximalOperator):
    """A linear forward model: A with its true adjoint, its pseudo-inverse and its proximal map.

    A subclass gives A and A_adjoint. The rest follows by conjugate gradients, each sample on its own, until
    the gradient has fallen to `rtol` of its start (10 ulp where the dtype cannot do better) or after
    `max_iter` steps, with a warning.
    """

    rtol: float = 1e-6
    max_iter: int = 100

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """x = Aᵀy, so that ⟨A x, y⟩ = ⟨x, Aᵀ y⟩. y: (B, *out_shape); x: (B, *in_shape)."""

    def A_dagger(self, y: Tensor) -> Tensor:
        """x = A†y, the shortest x that brings A x closest to y. y: (B, *out_shape); x: (B, *in_shape)."""
        return self._least_squares(self._measurement(y), y.new_zeros(1, 1, 1, 1))

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        """As for `ProximalOperator`; at weight = inf it is the projection z + A†(y − A z)."""
        return z + self._least_squares(self._measurement(y).to(z) - self.A(z), damping(weight, z))

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        """About (A Aᵀ + damping·I)⁻¹ b, up to a factor: symmetric, positive, cheap. b, damping > 0: as for A_adjoint.

        Exact where singular values are known; b itself where nothing better is.
        """
        return b

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        """argmin_d ½‖A d − b‖² + damping/2 ‖d‖², the shortest of them, by CGLS (Björck 1996, 7.4.1)."""
        gradient = self.A_adjoint(b)
        d, residual, direction = torch.zeros_like(gradient), b, gradient
        power, rounding = _power(gradient), (10 * torch.finfo(b.dtype).eps) ** 2
        goal = power * max(self.rtol**2, rounding)
        for iteration in range(self.max_iter):
            active = power > goal  # a sample that is done stands still, so that it does not feel its batch
            if not active.any():
                break
            ahead = self.A(direction)
            if (
                iteration == 0
            ):  # what A cannot produce leaves a gradient of rounding alone: below 10 ulp of ‖A‖‖b‖
                goal = goal.maximum(rounding * _power(b) * _power(ahead) / power.where(active, 1))
                active = power > goal
            step = torch.where(active, power / (_power(ahead) + damping.flatten() * _power(direction)), 0)
            d = d + _per_sample(step, d) * direction
            residual = residual - _per_sample(step, b) * ahead
            gradient = self.A_adjoint(residual) - damping * d
            before, power = power, _power(gradient)
            direction = gradient + _per_sample(torch.where(active, power / before, 0), d) * direction
        else:
            self._warn_if(power > goal)
        return d

    def _warn_if(self, unfinished: Tensor) -> None:
        if unfinished.any():
            self._slow  # noqa: B018  # the first time says it

    @cached_property
    def _slow(self) -> None:
        warnings.warn(
            f"{self}: conjugate gradients stopped at max_iter = {self.max_iter}, short of rtol = {self.rtol:g}; "
            "raise max_iter or rtol",
            stacklevel=2,
        )


class SpectralOperator(LinearOperator):
    """A linear operator whose real singular value decomposition A = U diag(s) Vᵀ is known.

    V is a square orthonormal matrix over the n = C·H·W numbers of an image. U has a column for each of V's,
    zero where s = 0, so UᵀU = diag(s > 0). All is real: white real noise has white coefficients. s comes in
    V's order, not sorted.
    """

    @property
    def basis(self) -> str | None:
        """A name for V: operators of one name and one in_shape share it. None: nobody else has it."""
        return None

    @property
    @abstractmethod
    def singular_values(self) -> Tensor:
        """s ≥ 0, (n,), zero for the directions A loses."""

    @abstractmethod
    def V(self, c: Tensor) -> Tensor:
        """The image with coefficients c. c: (B, n); returns (B, *in_shape)."""

    @abstractmethod
    def V_adjoint(self, x: Tensor) -> Tensor:
        """The coefficients of an image. x: (B, *in_shape); returns (B, n)."""

    @abstractmethod
    def U(self, c: Tensor) -> Tensor:
        """The measurement with coefficients c (where s = 0, they do not matter). c: (B, n)."""

    @abstractmethod
    def U_adjoint(self, y: Tensor) -> Tensor:
        """The coefficients of a measurement, zero where s = 0. y: (B, *out_shape); returns (B, n)."""

    def A(self, x: Tensor) -> Tensor:
        return self.U(self.singular_values.to(x) * self.V_adjoint(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.V(self.singular_values.to(y) * self.U_adjoint(y))

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        least = self._least_squares(b, torch.full([1] * b.ndim, damping, dtype=b.dtype, device=b.device))
        return (b - self.A(least)) / damping

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        return self.V(gain(self.singular_values.to(b), damping.view(-1, 1)) * self.U_adjoint(b))


class PixelOperator(SpectralOperator):
    """A spectral operator whose V is the identity: each number of an image is a singular vector of its own."""

    @property
    def basis(self) -> str:
        return "pixels"

    def V(self, c: Tensor) -> Tensor:
        return c.reshape(-1, *self.in_shape)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self._image(x).flatten(1)


def damping(weight: float | Tensor, like: Tensor) -> Tensor:
    """1/weight as (B or 1, 1, ...), for a prox over `like`. ValueError for a weight outside (0, inf]."""
    w = torch.as_tensor(weight, dtype=like.dtype, device=like.device)
    if w.ndim > 1 or w.numel() not in (1, len(like)):
        raise ValueError(f"weight: expected a number or ({len(like)},) numbers, got shape {tuple(w.shape)}")
    if not (
        (weight > 0).all() if isinstance(weight, Tensor) else weight > 0
    ):  # a number: no GPU is waited for
        raise ValueError(f"weight: expected numbers in (0, inf], got {w.tolist()}")
    return (1 / w).view(-1, *[1] * (like.ndim - 1))


def counts(s: Tensor) -> Tensor:
    """Which singular values are more than rounding: above 100 ulp of the largest."""
    return s > 100 * torch.finfo(s.dtype).eps * s.max()


def gain(s: Tensor, damping: Tensor) -> Tensor:
    """s / (damping + s²), which undoes a singular value; 0 for those that do not count."""
    kept = counts(s)
    return torch.where(kept, s / torch.where(kept, damping + s * s, 1), 0)


def by(*sizes: int) -> str:
    """3, 256, 256 → "3x256x256"."""
    return "x".join(map(str, sizes))


def image_shape(shape: tuple[int, ...]) -> Shape:
    """(C, H, W) as given to an operator's constructor, checked."""
    if len(shape) != 3 or min(shape) < 1 or any(n != int(n) for n in shape):
        raise ValueError(f"shape: expected (C, H, W) without the batch, each at least 1, got {tuple(shape)}")
    channels, height, width = map(int, shape)
    return channels, height, width


def exact(tensor: Tensor) -> Tensor:
    """In float64 and on the CPU, which always has it: where an operator's constants are worked out."""
    return tensor.to("cpu", torch.float64)


def differentiated(x: Tensor) -> bool:
    """Whether a derivative is taken through x, backwards or forwards (`torch.func.jvp`)."""
    return (x.requires_grad and torch.is_grad_enabled()) or unpack_dual(x).tangent is not None


def wide(v: Tensor) -> Tensor:
    """In float32 where it is less: FFTs know no bfloat16, and singular values need more digits than it has."""
    return v.float() if torch.finfo(v.dtype).bits < 32 else v


def _power(v: Tensor) -> Tensor:
    return v.square().flatten(1).sum(1)


def _per_sample(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *[1] * (like.ndim - 1))


def _moved(value: Any, device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
    if isinstance(value, Operator):
        return value.to(device, dtype)
    if isinstance(value, tuple):
        return tuple(_moved(one, device, dtype) for one in value)
    if not isinstance(value, Tensor):
        return value
    if value.is_inference() and not torch.is_inference_mode_enabled():
        value = value.clone()  # autograd takes no tensors made in inference mode
    return value.to(device, dtype if value.is_floating_point() else None)
