"""Fewer pixels: antialiased reduction by a whole factor, and any blur of which every few pixels are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad, pixel_shuffle, pixel_unshuffle

from .base import LinearOperator, Shape, SpectralOperator, by, cached_property, counts, image_shape, wide
from .blur import Blur, Border, hartley, outer_product
from .separable import SeparableOperator

Kernel = Literal["box", "bicubic", "lanczos"]
Edges = Literal["renormalise", "reflect"]


@dataclass(frozen=True, eq=False, repr=False)
class Downsample(SeparableOperator):
    """y = R_h x R_wᵀ: every `factor`-th pixel of the image smoothed by a kernel as wide as the new pixels.

    Output pixel i looks at i·factor + (factor − 1)/2 through the kernel stretched by `factor`. Where the factor does
    not divide the size, y has ceil(size / factor) pixels on the same regular grid.

    factor: at least 2, at most the shorter side. shape: (C, H, W). kernel: box (mean of the block: everything in
    closed form, `BoxDownsample`), bicubic (Keys, a = −1/2), lanczos (three lobes). edges: what the kernel sees over
    the border,

        renormalise   nothing: the weights of the pixels that exist are brought to sum 1, as by Pillow's `Image.resize`
        reflect       d c b a | a b c d | d c b a, the edge repeated, as by MATLAB's `imresize(x, 1/factor)`

    ValueError otherwise.
    """

    factor: int
    shape: Shape
    kernel: Kernel = "bicubic"
    edges: Edges = "renormalise"
    rows: Tensor = field(init=False)
    columns: Tensor = field(init=False)

    def __new__(
        cls, factor: int, shape: Shape, kernel: Kernel = "bicubic", edges: Edges = "renormalise"
    ) -> Downsample:
        """A mean over blocks is made as the subclass that knows more of it."""
        box = cls is Downsample and kernel == "box" and edges == "renormalise"
        return super().__new__(BoxDownsample if box else cls)

    def __getnewargs__(self) -> tuple[int, Shape, Kernel, Edges]:
        return self.factor, self.shape, self.kernel, self.edges  # what __new__ needs, for copy and pickle

    def __post_init__(self) -> None:
        channels, height, width = shape = image_shape(self.shape)
        if self.kernel not in get_args(Kernel):
            raise ValueError(f"kernel: expected one of {', '.join(get_args(Kernel))}, got {self.kernel!r}")
        if self.edges not in get_args(Edges):
            raise ValueError(f"edges: expected one of {', '.join(get_args(Edges))}, got {self.edges!r}")
        factor = _factor(self.factor, height, width)
        rows, columns = (_reduction(size, factor, self.kernel, self.edges) for size in (height, width))
        vars(self).update(factor=factor, shape=shape, rows=rows, columns=columns)
        vars(self).update(in_shape=shape, out_shape=(channels, len(rows), len(columns)))

    def describe(self) -> str:
        edges = ", reflect" if self.edges == "reflect" else ""
        shapes = f"{by(*self.in_shape)} to {by(*self.out_shape)}"
        return f"Downsample({self.factor}, {self.kernel}{edges}, {shapes})"


@dataclass(frozen=True, eq=False, repr=False)
class BoxDownsample(Downsample):
    """The mean of every block of factor × factor pixels; of those that exist in the blocks cut by the border.

    Blocks do not overlap, so along an axis A Aᵀ is diag(1 / size of the block), and V a small orthonormal basis in
    every block: the flat vector, which A sees, and Helmert's others, which it loses.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel != "box" or self.edges != "renormalise":
            raise ValueError(
                f"BoxDownsample: the kernel is {self.kernel}, edges {self.edges}; make a Downsample"
            )

    def A(self, x: Tensor) -> Tensor:
        return avg_pool2d(self._image(x), self.factor, ceil_mode=True, count_include_pad=False)

    def A_adjoint(self, y: Tensor) -> Tensor:
        f, (_, height, width) = self.factor, self.in_shape
        each = (self._measurement(y) * self._kept.square().to(y))[..., None, :, None]
        repeated = each.expand(*y.shape[:-1], f, y.shape[-1], f)
        return repeated.reshape(*y.shape[:-2], y.shape[-2] * f, -1)[..., :height, :width]

    def V(self, c: Tensor) -> Tensor:
        c = c.reshape(-1, *self.in_shape)
        return self._spread(self._spread(c).mT).mT

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self._gathered(self._gathered(self._image(x)).mT).mT.flatten(1)

    def U(self, c: Tensor) -> Tensor:
        _, h, w = self.out_shape
        return c.reshape(-1, *self.in_shape)[..., :h, :w]

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self._padded(self._measurement(y)).flatten(1)

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        return self.A_adjoint(b / (self._kept.square().to(b) + damping))

    @cached_property
    def _kept(self) -> Tensor:
        return torch.outer(*(matrix.square().sum(1).sqrt() for matrix in (self.rows, self.columns)))

    def _gathered(self, x: Tensor) -> Tensor:
        """Along the last axis: the flat coefficients of all blocks, then the others."""
        f, (count, left) = self.factor, divmod(x.shape[-1], self.factor)
        whole = x[..., : count * f].unflatten(-1, (count, f)) @ _helmert(f).to(x)
        part = x[..., count * f :] @ _helmert(left).to(x)
        return torch.cat((whole[..., 0], part[..., :1], whole[..., 1:].flatten(-2), part[..., 1:]), dim=-1)

    def _spread(self, c: Tensor) -> Tensor:
        """The inverse of `_gathered`."""
        f, (count, left) = self.factor, divmod(c.shape[-1], self.factor)
        cut = min(left, 1)
        flat, last, others, rest = c.split((count, cut, count * (f - 1), left - cut), dim=-1)
        whole = torch.cat((flat[..., None], others.unflatten(-1, (count, f - 1))), dim=-1)
        part = torch.cat((last, rest), dim=-1)
        return torch.cat(((whole @ _helmert(f).to(c).mT).flatten(-2), part @ _helmert(left).to(c).mT), dim=-1)


@dataclass(frozen=True, eq=False, repr=False)
class BlurDownsample(LinearOperator):
    """y[i] = (kernel ∗ x)[factor·i]: every `factor`-th pixel of a blurred image, from the first one on.

    That is deepinv's Downsampling with the kernel as its filter. `Downsample` looks at the middle of its blocks
    instead: for the same picture the kernel's centre of mass stands (factor − 1)/2 pixels before the centre.

    kernel, shape, border, rtol, max_iter: as for `Blur`; factor: at least 2, at most the shorter side of the blurred
    image. y: (C, ceil(h / factor), ceil(w / factor)). Circular borders whose sides the factor divides are spectral by
    Fourier (`CircularBlurDownsample`), outer products at the other borders by rows and columns
    (`SeparableBlurDownsample`); the others go by conjugate gradients.

    ValueError for another factor, and as `Blur` has it.
    """

    kernel: Tensor
    factor: int
    shape: Shape
    border: Border = "circular"
    rtol: float = field(default=LinearOperator.rtol, kw_only=True)
    max_iter: int = field(default=LinearOperator.max_iter, kw_only=True)
    blur: Blur = field(init=False)

    def __new__(
        cls,
        kernel: Tensor,
        factor: int,
        shape: Shape,
        border: Border = "circular",
        *,
        rtol: float = 0,
        max_iter: int = 0,
    ) -> BlurDownsample:
        """A spectral one is made as the subclass that says so."""
        if cls is not BlurDownsample:
            return super().__new__(cls)
        if border != "circular":
            separable = outer_product(torch.as_tensor(kernel)) is not None
            return super().__new__(SeparableBlurDownsample if separable else cls)
        return super().__new__(CircularBlurDownsample if _divides(factor, shape) else cls)

    def __getnewargs__(self) -> tuple[Tensor, int, Shape, Border]:
        return self.kernel, self.factor, self.shape, self.border  # what __new__ needs, for copy and pickle

    def __post_init__(self) -> None:
        blur = Blur(self.kernel, self.shape, self.border, rtol=self.rtol, max_iter=self.max_iter)
        channels, height, width = blur.out_shape
        factor = _factor(self.factor, height, width)
        vars(self).update(
            blur=blur, kernel=blur.kernel, shape=blur.shape, factor=factor, in_shape=blur.in_shape
        )
        vars(self).update(out_shape=(channels, -(-height // factor), -(-width // factor)))

    def describe(self) -> str:
        shapes = f"{by(*self.in_shape)} to {by(*self.out_shape)}"
        return f"BlurDownsample({by(*self.kernel.shape)}, {self.factor}, {self.border}, {shapes})"

    def A(self, x: Tensor) -> Tensor:
        return self.blur.A(self._image(x))[..., :: self.factor, :: self.factor]

    def A_adjoint(self, y: Tensor) -> Tensor:
        apart = self._measurement(y).new_zeros(len(y), *self.blur.out_shape)
        apart[..., :: self.factor, :: self.factor] = y
        return self.blur.A_adjoint(apart)


@dataclass(frozen=True, eq=False, repr=False)
class SeparableBlurDownsample(BlurDownsample, SeparableOperator):
    """By an outer product, with any border but circular: by a matrix for the rows and one for the columns."""

    rows: Tensor = field(init=False)
    columns: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.blur, SeparableOperator):
            raise ValueError(
                "SeparableBlurDownsample: the kernel is no outer product, or the border circular; "
                "make a BlurDownsample"
            )
        rows, columns = (matrix[:: self.factor] for matrix in (self.blur.rows, self.blur.columns))
        vars(self).update(rows=rows, columns=columns)

    A = SeparableOperator.A
    A_adjoint = SeparableOperator.A_adjoint


@dataclass(frozen=True, eq=False, repr=False)
class CircularBlurDownsample(BlurDownsample, SpectralOperator):
    """Around the border, the factor dividing both sides: in closed form, by Fourier on the grid of y.

    The image is taken apart into its factor² phases x[a::f, b::f], each as large as y. For every frequency of that
    grid y = kᵀx with k(u) and x(u) in ℂ^(f²), so A Aᵀ is the convolution with |k|² (Zhao et al. 2016, "Fast single
    image super-resolution using a new analytical solution"). The Householder reflection I − 2vvᴴ that takes k̄ to
    the first axis completes it to a basis. A filter's k(−u) is the conjugate of k(u), so that all of this maps real
    images to real ones; with Hartley's transform (see `CircularBlur`) in front, it is the V of a real SVD.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.border != "circular" or not _divides(self.factor, self.shape):
            raise ValueError(
                f"CircularBlurDownsample: the border is {self.border}, the factor {self.factor}, the image "
                f"{by(*self.shape)}; make a BlurDownsample"
            )

    def A(self, x: Tensor) -> Tensor:
        X = torch.fft.rfft2(self._phases(self._image(x)))
        return self._image_of((X * self._transfer.to(X)).sum(2)).to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        Y = torch.fft.rfft2(wide(self._measurement(y)))
        return self._joined(self._image_of(Y[:, :, None] * self._transfer.to(Y).conj())).to(y)

    @cached_property
    def singular_values(self) -> Tensor:
        s = torch.fft.fft2(self._kernels).norm(dim=0)
        others = s.new_zeros(self.factor**2 - 1, *s.shape)
        s = torch.cat(((s * counts(s))[None], others)).expand(self.in_shape[0], -1, -1, -1)
        return s.flatten().to(self.kernel)

    def V(self, c: Tensor) -> Tensor:
        _, h, w = self.out_shape
        C = torch.fft.rfft2(hartley(wide(c).reshape(-1, self.in_shape[0], self.factor**2, h, w)))
        return self._joined(self._image_of(self._reflected(C))).to(c)

    def V_adjoint(self, x: Tensor) -> Tensor:
        X = torch.fft.rfft2(self._phases(self._image(x)))
        return hartley(self._image_of(self._reflected(X))).flatten(1).to(x)

    def U(self, c: Tensor) -> Tensor:
        _, h, w = self.out_shape
        C = torch.fft.rfft2(hartley(wide(c).reshape(-1, self.in_shape[0], self.factor**2, h, w)[:, :, 0]))
        return self._image_of(C * self._turn.to(C)).to(c)

    def U_adjoint(self, y: Tensor) -> Tensor:
        Y = torch.fft.rfft2(wide(self._measurement(y)))
        seen = hartley(self._image_of(Y * self._turn.to(Y).conj())).to(y)
        return pad(seen[:, :, None], (0, 0, 0, 0, 0, self.factor**2 - 1)).flatten(1)

    def _least_squares(self, b: Tensor, damping: Tensor) -> Tensor:
        B = torch.fft.rfft2(wide(self._measurement(b)))
        s = self._gain.to(B.real)
        kept = s > 0
        solved = B * torch.where(kept, 1 / torch.where(kept, s * s + damping.to(s), 1), 0)
        return self.A_adjoint(self._image_of(solved)).to(b)

    def _phases(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to its phases (B, C, f², h, w)."""
        return pixel_unshuffle(wide(x), self.factor).unflatten(1, (x.shape[1], -1))

    def _joined(self, phases: Tensor) -> Tensor:
        return pixel_shuffle(phases.flatten(1, 2), self.factor)

    def _image_of(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum, s=self.out_shape[1:])

    def _reflected(self, X: Tensor) -> Tensor:
        v = self._mirror.to(X)
        return X - 2 * v * (v.conj() * X).sum(2, keepdim=True)

    @property
    def _kernels(self) -> Tensor:
        """What each phase is blurred by, (f², h, w); float64."""
        f, placed = self.factor, self.blur.placed
        return torch.stack([placed.roll((a, b), (0, 1))[::f, ::f] for a in range(f) for b in range(f)])

    @cached_property
    def _transfer(self) -> Tensor:
        """k, (f², h, w // 2 + 1)."""
        return self.blur.like_kernel(torch.fft.rfft2(self._kernels))

    @cached_property
    def _gain(self) -> Tensor:
        """|k|, what is rounding set to zero."""
        s = torch.fft.rfft2(self._kernels).norm(dim=0)
        return self.blur.like_kernel(s * counts(s))

    @cached_property
    def _mirror(self) -> Tensor:
        """v/|v|, with v = k̄/|k| + φ e₀, φ = k̄₀/|k₀|: then (I − 2vvᴴ) k̄ = −φ |k| e₀. Where k is lost, v = e₀."""
        k = torch.fft.rfft2(self._kernels).conj()
        s = k.norm(dim=0)
        v = torch.where(counts(s), k / s, 0)
        v[0] += _phase(v[0])
        return self.blur.like_kernel(v / v.norm(dim=0))

    @cached_property
    def _turn(self) -> Tensor:
        """−φ̄, and 0 where k is lost: from the first coefficients to y."""
        k = torch.fft.rfft2(self._kernels)
        return self.blur.like_kernel(-_phase(k[0]) * counts(k.norm(dim=0)))


def _phase(v: Tensor) -> Tensor:
    """v/|v|, and 1 for zero."""
    return torch.where(v == 0, 1, v / v.abs())


def _divides(factor: int, shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and factor >= 1 and not any(size % factor for size in shape[1:])


def _factor(factor: int, height: int, width: int) -> int:
    """As given to a constructor, checked."""
    if not 2 <= factor <= min(height, width) or factor != int(factor):
        raise ValueError(f"factor: expected a whole number, 2 to {min(height, width)}, got {factor}")
    return int(factor)


def _reduction(size: int, factor: int, kernel: Kernel, edges: Edges) -> Tensor:
    """The matrix (ceil(size / factor), size) that reduces one axis."""
    over = 4 * factor if edges == "reflect" else 0  # beyond the border, as far as any kernel reaches
    new = torch.arange(-(-size // factor), dtype=torch.float64)
    old = torch.arange(-over, size + over, dtype=torch.float64)
    t = ((old + 0.5) / factor - (new[:, None] + 0.5)).abs()  # in new pixels
    if kernel == "box":
        weights = (t < 0.5).double()
    elif kernel == "bicubic":
        near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        weights = torch.where(t < 1, near, far) * (t < 2)
    else:
        weights = torch.sinc(t) * torch.sinc(t / 3) * (t < 3)
    weights = weights / weights.sum(1, keepdim=True)
    place = old.long() % (2 * size)  # a mirror at each border: period 2·size
    place = place.minimum(2 * size - 1 - place).expand(weights.shape)
    return torch.zeros(len(new), size, dtype=torch.float64).scatter_add(1, place, weights)


def _helmert(size: int) -> Tensor:
    """Helmert's orthonormal basis of ℝⁿ, in columns: the flat vector, and (1, ..., 1, −j, 0, ...)/√(j² + j)."""
    j = torch.arange(size, dtype=torch.float64)
    basis = torch.ones(size, size, dtype=torch.float64).triu(1) - j.diag()
    basis[:, :1] = 1
    return basis / basis.norm(dim=0)
