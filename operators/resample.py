"""Fewer pixels: antialiased reduction by a whole factor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from .base import Shape, by, image_shape
from .separable import SeparableOperator

Kernel = Literal["box", "bicubic", "lanczos"]


@dataclass(frozen=True, eq=False, repr=False)
class Downsample(SeparableOperator):
    """y = R_h x R_wᵀ: every `factor`-th pixel of the image smoothed by a kernel as wide as the new pixels.

    Output pixel i looks at i·factor + (factor − 1)/2 through the kernel stretched by `factor`, its weights
    brought to sum 1 over the pixels that exist. That is Pillow's `Image.resize` (and, away from the borders,
    MATLAB's imresize) where `factor` divides the size; where it does not, y has ceil(size / factor) pixels on
    the same regular grid.

    factor: at least 2, at most the shorter side. shape: (C, H, W). kernel: box (mean of the block), bicubic
    (Keys, a = −1/2), lanczos (three lobes). ValueError otherwise.
    """

    factor: int
    shape: Shape
    kernel: Kernel = "bicubic"
    rows: Tensor = field(init=False)
    columns: Tensor = field(init=False)

    def __post_init__(self) -> None:
        channels, height, width = shape = image_shape(self.shape)
        if self.kernel not in get_args(Kernel):
            raise ValueError(f"kernel: expected one of {', '.join(get_args(Kernel))}, got {self.kernel!r}")
        if not 2 <= self.factor <= min(height, width) or self.factor != int(self.factor):
            raise ValueError(f"factor: expected a whole number, 2 to {min(height, width)}, got {self.factor}")
        factor = int(self.factor)
        rows, columns = _reduction(height, factor, self.kernel), _reduction(width, factor, self.kernel)
        vars(self).update(factor=factor, shape=shape, rows=rows, columns=columns)
        vars(self).update(in_shape=shape, out_shape=(channels, len(rows), len(columns)))

    def describe(self) -> str:
        return f"Downsample({self.factor}, {self.kernel}, {by(*self.in_shape)} to {by(*self.out_shape)})"


def _reduction(size: int, factor: int, kernel: Kernel) -> Tensor:
    """The matrix (ceil(size / factor), size) that reduces one axis."""
    new, old = torch.arange(-(-size // factor), dtype=torch.float64), torch.arange(size, dtype=torch.float64)
    t = ((old + 0.5) / factor - (new[:, None] + 0.5)).abs()  # in new pixels
    if kernel == "box":
        weights = (t < 0.5).double()
    elif kernel == "bicubic":
        near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        weights = torch.where(t < 1, near, far) * (t < 2)
    else:
        weights = torch.sinc(t) * torch.sinc(t / 3) * (t < 3)
    return weights / weights.sum(1, keepdim=True)
