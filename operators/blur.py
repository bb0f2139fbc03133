"""Convolution with a kernel, and what happens at the border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from .base import (
    LinearOperator,
    Shape,
    SpectralOperator,
    by,
    cached_property,
    counts,
    damping,
    exact,
    gain,
    image_shape,
    wide,
)
from .separable import SeparableOperator

Border = Literal["circular", "reflect", "replicate", "zero", "valid"]
_PAD = {"zero": "constant"}  # torch's name, where it is another

# What is faster, measured in float32 on one thread of an AMD EPYC (Zen 4), three channels of 256² to 1024²:
#     python experiments/speed/operators.py --crossover
# A direct sum beats the FFT up to 13x13 weights, and two passes of 1-D sums up to 5x5; two passes beat the FFT up to
# 121 taps, the most tried. In float64, and off the CPU (where convolutions may round to TF32), nothing is summed
# directly.
_DIRECT = 13 * 13
_DIRECT_IF_SEPARABLE = 5 * 5
_TWO_PASSES = 121


@dataclass(frozen=True, eq=False, repr=False)
class Blur(LinearOperator):
    """y = kernel ∗ x: a true convolution (the kernel flipped) of every channel, summed directly or by FFT.

    kernel: (h, w), finite, kept as given (brightness stays if it sums to 1), centred at (h // 2, w // 2), not
    larger than the image. shape: (C, H, W). border says what lies outside the image:

        circular    b c d | a b c d | a b c
        reflect     d c b | a b c d | c b a   the edge not repeated: torch's "reflect", scipy's "mirror"
        replicate   a a a | a b c d | d d d
        zero        0 0 0 | a b c d | 0 0 0
        valid       ? ? ? | a b c d | ? ? ?   y: (C, H − h + 1, W − w + 1), as blurred by a camera

    Each has its own true adjoint. Circular blurs are spectral by Fourier (`CircularBlur`) and those whose
    kernel is an outer product, as a Gaussian is, by their rows and columns (`SeparableBlur`); the others have
    a prox by conjugate gradients, to which rtol and max_iter belong (see `LinearOperator`). Those of "valid" blurs
    are preconditioned: 25 steps instead of 65 at weight 100, 66 instead of 484 at 1e4 (a motion kernel of 25x25,
    256x256). At the other borders that saves few steps or none, and each takes longer.

    ValueError for an unknown border, or a kernel that is too large, not finite, or sums to zero.
    """

    kernel: Tensor
    shape: Shape
    border: Border = "circular"
    rtol: float = field(default=LinearOperator.rtol, kw_only=True)
    max_iter: int = field(default=LinearOperator.max_iter, kw_only=True)

    def __new__(
        cls, kernel: Tensor, shape: Shape, border: Border = "circular", *, rtol: float = 0, max_iter: int = 0
    ) -> Blur:
        """A spectral blur is made as the subclass that says so, as `pathlib.Path` makes a `PosixPath`."""
        if cls is not Blur:
            return super().__new__(cls)
        separable = SeparableBlur if outer_product(torch.as_tensor(kernel)) else Blur
        return super().__new__(CircularBlur if border == "circular" else separable)

    def __getnewargs__(self) -> tuple[Tensor, Shape, Border]:
        return self.kernel, self.shape, self.border  # what __new__ needs, for copy and pickle

    def __post_init__(self) -> None:
        channels, height, width = shape = image_shape(self.shape)
        kernel = torch.as_tensor(self.kernel)
        if self.border not in get_args(Border):
            raise ValueError(f"border: expected one of {', '.join(get_args(Border))}, got {self.border!r}")
        if kernel.ndim != 2 or kernel.numel() == 0:
            raise ValueError(f"kernel: expected (h, w), got {tuple(kernel.shape)}")
        h, w = kernel.shape
        if h > height or w > width:
            raise ValueError(f"kernel: {by(h, w)} is larger than the image, {by(height, width)}; crop it")
        kernel = exact(kernel).clone()  # what the caller does to the original later is not ours
        if not kernel.isfinite().all():
            raise ValueError("kernel: expected finite numbers, got NaN or infinity")
        if kernel.sum().abs() <= 1e-12 * kernel.abs().sum():
            raise ValueError("kernel: sums to zero, so no brightness would be left; check how it was read")
        out_shape = (channels, height - h + 1, width - w + 1) if self.border == "valid" else shape
        vars(self).update(kernel=kernel, shape=shape, in_shape=shape, out_shape=out_shape)

    def describe(self) -> str:
        return f"Blur({by(*self.kernel.shape)}, {self.border}, {by(*self.in_shape)})"

    def A(self, x: Tensor) -> Tensor:
        (top, left), x = self._origin, self._extended(self._image(x))
        if self._summed(x):
            return correlated(x, self.kernel.flip(0, 1))
        blurred = self._filter(x, self.spectrum)
        return blurred[..., top : top + self.out_shape[1], left : left + self.out_shape[2]]

    def A_adjoint(self, y: Tensor) -> Tensor:
        (top, left), (h, w), y = self._origin, self.kernel.shape, self._measurement(y)
        if self._summed(y):
            return self._folded(correlated(pad(y, (w - 1, w - 1, h - 1, h - 1)), self.kernel))
        return self._folded(self._filter(pad(y, (left, 0, top, 0)), self.spectrum.conj()))

    def precondition(self, b: Tensor, damping: float) -> Tensor:
        """As if the border were circular, on the measurement's own grid."""
        return self._circulant(self._measurement(b), damping)

    def _circulant(self, b: Tensor, damping: float | Tensor) -> Tensor:
        B = torch.fft.rfft2(wide(b))
        return torch.fft.irfft2(B / (self._power.to(B.real) + damping), s=b.shape[-2:]).to(b)

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        """For "valid", where damped: Aᵀ(A Aᵀ + damping)⁻¹ b, by conjugate gradients that `precondition` shortens."""
        damped = (damping > 0).flatten().expand(len(b))
        if self.border != "valid" or not damped.any():
            return super()._least_squares(wide(b), damping).to(b)
        if not damped.all():
            damping = damping.expand(len(b), 1, 1, 1)
            d = b.new_empty(len(b), *self.in_shape)
            for those in (damped, ~damped):
                d[those] = self._least_squares(b[those], damping[those])
            return d
        given, residual = b, wide(b)
        damping = damping.to(residual)
        goal = _inner(residual, residual) * max(self.rtol, 10 * torch.finfo(residual.dtype).eps) ** 2
        u, direction = torch.zeros_like(residual), self._circulant(residual, damping)
        slope = _inner(residual, direction)
        for _ in range(self.max_iter):
            active = _inner(residual, residual) > goal  # a sample that is done stands still
            if not active.any():
                break
            ahead = self.A(self.A_adjoint(direction)) + damping * direction
            step = torch.where(active, slope / _inner(direction, ahead), 0)
            u, residual = u + step * direction, residual - step * ahead
            towards = self._circulant(residual, damping)
            before, slope = slope, _inner(residual, towards)
            direction = towards + torch.where(active, slope / before, 0) * direction
        else:
            self._warn_if(_inner(residual, residual) > goal)
        return self.A_adjoint(u).to(given)

    @cached_property
    def _power(self) -> Tensor:
        """|K|² on the measurement's grid, its half; a kernel larger than that is wrapped around it."""
        (h, w), (rows, columns) = self.kernel.shape, self.out_shape[1:]
        kernel = pad(exact(self.kernel), (0, -w % columns, 0, -h % rows))
        wrapped = kernel.unflatten(1, (-1, columns)).sum(1).unflatten(0, (-1, rows)).sum(0)
        return self.like_kernel(torch.fft.rfft2(wrapped).abs().square())

    @cached_property
    def spectrum(self) -> Tensor:
        """The kernel's transfer function on the FFT's grid, its half (rows, columns // 2 + 1)."""
        return self.like_kernel(torch.fft.rfft2(self.placed))

    @property
    def placed(self) -> Tensor:
        """The kernel on the FFT's grid, its centre at the origin; float64."""
        (h, w), (rows, columns) = self.kernel.shape, self._grid
        return pad(exact(self.kernel), (0, columns - w, 0, rows - h)).roll((-(h // 2), -(w // 2)), (0, 1))

    def like_kernel(self, derived: Tensor) -> Tensor:
        """On the kernel's device, and of its precision, at least float32."""
        real = wide(self.kernel).dtype
        dtype = real.to_complex() if derived.is_complex() else real
        return derived.to(self.kernel.device, dtype)

    @property
    def _origin(self) -> tuple[int, int]:
        """Where the measurement begins on the FFT's grid."""
        h, w = self.kernel.shape
        return (h - 1) // 2, (w - 1) // 2

    @property
    def _margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """How far the image is extended: (top, bottom), (left, right)."""
        h, w = self.kernel.shape
        if self.border == "valid":
            return (0, 0), (0, 0)
        return ((h - 1) // 2, h // 2), ((w - 1) // 2, w // 2)

    @property
    def _grid(self) -> tuple[int, int]:
        """No smaller than the extended image, so that what wraps around stays outside the measurement."""
        (top, bottom), (left, right) = self._margins
        return _fast(top + self.in_shape[1] + bottom), _fast(left + self.in_shape[2] + right)

    def _summed(self, v: Tensor) -> bool:
        """Whether the weights are summed directly, and not by FFT."""
        return self.kernel.numel() <= _DIRECT and v.device.type == "cpu" and v.dtype != torch.float64

    def _filter(self, v: Tensor, spectrum: Tensor) -> Tensor:
        if spectrum.ndim == 2:
            return _by_planes(lambda plane: self._filtered(plane, spectrum), v)
        return self._filtered(v, spectrum)

    def _filtered(self, v: Tensor, spectrum: Tensor) -> Tensor:
        V = torch.fft.rfft2(wide(v), s=self._grid)
        return torch.fft.irfft2(V * spectrum.to(V), s=self._grid).to(v)

    def _extended(self, x: Tensor) -> Tensor:
        if self.border == "valid":
            return x
        (top, bottom), (left, right) = self._margins
        return pad(x, (left, right, top, bottom), mode=_PAD.get(self.border, self.border))

    def _folded(self, v: Tensor) -> Tensor:
        """The transpose of `_extended`, in place: what lies over the border is added to where it was copied from."""
        for dim, size, (before, after) in zip((-2, -1), self.in_shape[1:], self._margins, strict=True):
            low, inner, high = (
                v.narrow(dim, 0, before),
                v.narrow(dim, before, size),
                v.narrow(dim, before + size, after),
            )
            if self.border == "reflect":
                inner.narrow(dim, 1, before).add_(low.flip(dim))
                inner.narrow(dim, size - 1 - after, after).add_(high.flip(dim))
            elif self.border == "replicate":
                inner.narrow(dim, 0, 1).add_(low.sum(dim, keepdim=True))
                inner.narrow(dim, size - 1, 1).add_(high.sum(dim, keepdim=True))
            v = inner
        return v


@dataclass(frozen=True, eq=False, repr=False)
class CircularBlur(Blur, SpectralOperator):
    """A blur that wraps around: K = |K|·exp(iφ) in Fourier's basis, where everything has its closed form.

    V is the real Hartley transform, whose columns are cas(2πu·x) = cos + sin. A convolution scales each by
    |K| and shifts it by φ, so s = |K| and U = F⁻¹ exp(iφ) F V, all real (Bracewell, The Hartley Transform,
    1986).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.border != "circular":
            raise ValueError(f"CircularBlur: the border is {self.border}, not circular; make a Blur")

    def A(self, x: Tensor) -> Tensor:
        x = self._image(x)
        if self._summed(x):
            return correlated(self._extended(x), self.kernel.flip(0, 1))
        return self._filter(x, self.spectrum)

    def A_adjoint(self, y: Tensor) -> Tensor:
        y, ((top, bottom), (left, right)) = self._measurement(y), self._margins
        if self._summed(y):
            return correlated(pad(y, (right, left, bottom, top), mode="circular"), self.kernel)
        return self._filter(y, self.spectrum.conj())

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        given, z, y = z, wide(self._image(z)), wide(self._measurement(y))
        Z, Y = torch.fft.rfft2(z), torch.fft.rfft2(y)
        X = Y - self.spectrum.to(Z) * Z
        X *= self._inverse(z, damping(weight, z))
        X += Z
        return torch.fft.irfft2(X, s=self._grid).to(given)

    def then(self, other: CircularBlur) -> Blur:
        """The circular blur that is this one, followed by another; its kernel is as large as the image."""
        height, width = self._grid
        both = torch.fft.rfft2(self.placed) * torch.fft.rfft2(other.placed)
        kernel = torch.fft.irfft2(both, s=self._grid).roll((height // 2, width // 2), (0, 1))
        return Blur(kernel, self.in_shape).to(self.kernel.device, self.kernel.dtype)

    @property
    def basis(self) -> str:
        return "hartley"

    @cached_property
    def singular_values(self) -> Tensor:
        s = torch.fft.fft2(self.placed).abs()
        return self.like_kernel(s * counts(s)).expand(self.in_shape).flatten()

    def V(self, c: Tensor) -> Tensor:
        return hartley(c.reshape(-1, *self.in_shape))

    def V_adjoint(self, x: Tensor) -> Tensor:
        return hartley(self._image(x)).flatten(1)

    def U(self, c: Tensor) -> Tensor:
        return self._filter(self.V(c), self._phase)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.V_adjoint(self._filter(self._measurement(y), self._phase.conj()))

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        return self._filter(self._measurement(b), self._inverse(wide(b), damping.to(wide(b))))

    def _inverse(self, like: Tensor, damping: Tensor) -> Tensor:
        """conj(K) / (damping + |K|²)."""
        return gain(self.spectrum.abs().to(like), damping) * self._phase.conj().to(like.device)

    @cached_property
    def _phase(self) -> Tensor:
        """exp(iφ), and 0 where K is."""
        K = torch.fft.rfft2(self.placed)
        return self.like_kernel(torch.where(counts(K.abs()), K / K.abs(), 0))

    @property
    def _grid(self) -> tuple[int, int]:
        return self.in_shape[1:]


@dataclass(frozen=True, eq=False, repr=False)
class SeparableBlur(Blur, SeparableOperator):
    """A blur by an outer product a bᵀ, with any border: by a matrix for the rows and one for the columns.

    Their SVDs are worked out when first asked for (0.06 s at 512 pixels and 3 s at 2048 where the kernel is
    symmetric, four times that where not); A needs none.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        factors = outer_product(self.kernel)
        if factors is None or self.border == "circular":
            raise ValueError(
                "SeparableBlur: the kernel is no outer product, or the border circular; make a Blur"
            )
        (a, b), (_, height, width), (vertical, horizontal) = factors, self.in_shape, self._margins
        rows, columns = self._matrix(a, height, vertical), self._matrix(b, width, horizontal)
        vars(self).update(rows=rows, columns=columns)

    def A(self, x: Tensor) -> Tensor:
        return SeparableOperator.A(self, x) if self._in_two_passes(x) else Blur.A(self, x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return SeparableOperator.A_adjoint(self, y) if self._in_two_passes(y) else Blur.A_adjoint(self, y)

    precondition = SeparableOperator.precondition
    _least_squares = SeparableOperator._least_squares

    def _in_two_passes(self, v: Tensor) -> bool:
        few = self._summed(v) and self.kernel.numel() <= _DIRECT_IF_SEPARABLE
        return v.device.type == "cpu" and max(self.kernel.shape) <= _TWO_PASSES and not few

    def _matrix(self, kernel: Tensor, size: int, margins: tuple[int, int]) -> Tensor:
        """The blur of one axis: row i holds the weights with which pixel i of y looks at those of x."""
        source = torch.arange(1.0, size + 1)[None]  # the pixel at each place of the extended axis; 0: none
        if self.border != "valid":
            source = pad(source, margins, mode=_PAD.get(self.border, self.border))
        seen = source[0].long().unfold(0, len(kernel), 1)
        weights = kernel.flip(0).expand(seen.shape)
        return torch.zeros(len(seen), size + 1, dtype=kernel.dtype).scatter_add(1, seen, weights)[:, 1:]


def correlated(v: Tensor, kernel: Tensor) -> Tensor:
    """Σ_t kernel[t] v[i + t] wherever the kernel fits inside. v: (B, C, H, W) → (B, C, H − h + 1, W − w + 1).

    Strips of 32 rows are convolved as channels of their own: torch's convolution works on 16 channels at once,
    and is 2 to 9 times as fast on many strips as on three planes.
    """
    weights, (h, w) = kernel.to(wide(v)), kernel.shape

    def summed(planes: Tensor) -> Tensor:
        height, width = planes.shape[-2:]
        rows = height - h + 1
        strip = min(32, rows)
        over = -rows % strip
        padded = pad(wide(planes).reshape(-1, height, width), (0, 0, 0, over))
        strips = padded.unfold(1, strip + h - 1, strip).mT.reshape(1, -1, strip + h - 1, width)
        found = conv2d(strips, weights.expand(strips.shape[1], 1, h, w), groups=strips.shape[1])
        return found.reshape(*planes.shape[:-2], rows + over, -1)[..., :rows, :].to(v)

    return _by_planes(summed, v)


def _by_planes(each: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """each(v); on a CPU, large planes one by one: what is needed on the way then fits the caches."""
    if v.device.type != "cpu" or v.shape[-2] * v.shape[-1] < 2**17:
        return each(v)
    return torch.stack([each(plane) for plane in v.flatten(0, 1)]).unflatten(0, v.shape[:2])


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each sample: (B, 1, 1, 1)."""
    return (a * b).flatten(1).sum(1).view(-1, 1, 1, 1)


def outer_product(kernel: Tensor) -> tuple[Tensor, Tensor] | None:
    """(a, b) with kernel = a bᵀ to rounding, if there are: those through its largest weight."""
    if kernel.ndim != 2 or not kernel.numel():
        return None
    kernel = exact(kernel)
    row, column = divmod(int(kernel.abs().argmax()), kernel.shape[1])
    top = kernel[row, column]
    a, b = kernel[:, column] / top.abs().sqrt(), kernel[row] / top.abs().sqrt() * top.sign()
    return (a, b) if (torch.outer(a, b) - kernel).abs().max() <= 1e-13 * top.abs() else None


def hartley(v: Tensor) -> Tensor:
    """Σ_x v(x) cas(2πu·x) / √(HW) over the last two axes: real, orthonormal, and its own inverse."""
    F = torch.fft.fft2(wide(v), norm="ortho")
    return (F.real - F.imag).to(v)


def _fast(n: int) -> int:
    """The least multiple of 8 from n up with no prime factor above 7: FFTs of odd lengths take twice as long."""
    n += -n % 8
    rest = n
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    return n if rest == 1 else _fast(n + 1)
