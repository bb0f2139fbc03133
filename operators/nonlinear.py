"""Values clipped and values rounded: what a sensor's range does to an image."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from .base import ProximalOperator, Shape, by, damping, differentiated, image_shape, wide


@dataclass(frozen=True, eq=False, repr=False)
class Clip(ProximalOperator):
    """y = clip(½ + gain · (x − ½), 0, 1): contrast raised until shadows and highlights are lost; undoing it is HDR.

    The field's clip(gain · x, −1, 1) on [-1, 1] (DAPS, RED-diff), in image units. shape: (C, H, W); gain > 0, finite.
    The derivative is the true one: gain, and 0 where y is saturated. ValueError for another gain.
    """

    shape: Shape
    gain: float = 2.0

    def __post_init__(self) -> None:
        shape = image_shape(self.shape)
        if not 0 < self.gain < inf:
            raise ValueError(f"gain: expected a number above 0, got {self.gain}; 2 is usual")
        vars(self).update(shape=shape, gain=float(self.gain), in_shape=shape, out_shape=shape)

    def describe(self) -> str:
        return f"Clip(gain {self.gain:g}, {by(*self.shape)})"

    def A(self, x: Tensor) -> Tensor:
        return (0.5 + self.gain * (self._image(x) - 0.5)).clamp(0, 1)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        """The exact minimum at each pixel: the best of those below, within and above the range that is not clipped.

        At weight = inf the nearest x with A(x) = y, y clipped to [0, 1].
        """
        z, y, g = self._image(z), self._measurement(y).to(z), self.gain
        d = damping(weight, z)
        low, high = 0.5 - 0.5 / g, 0.5 + 0.5 / g
        within = (low + (d * (z - low) + g * y) / (d + g * g)).clamp(low, high)
        best, least = within, d * (within - z).square() + ((g * (within - low)).clamp(max=1) - y).square()
        for x, level in ((z.clamp(max=low), 0), (z.clamp(min=high), 1)):
            cost = d * (x - z).square() + (level - y).square()
            better = cost <= least  # where both fit y, the one that is saturated is nearer to z
            best, least = torch.where(better, x, best), torch.where(better, cost, least)
        return best


@dataclass(frozen=True, eq=False, repr=False)
class Quantize(ProximalOperator):
    """y = round(n · x) / n clipped to [0, 1], n = 2^bits − 1: the nearest of 2^bits levels from black to white.

    shape: (C, H, W); bits: 1 to 16, ValueError otherwise. A is flat, so its derivative is that of a stand-in, x
    itself: rounding and clipping are passed straight through, outside [0, 1] too, where a clip's own derivative, 0,
    would leave guidance nothing with which to bring x back.
    """

    shape: Shape
    bits: int

    def __post_init__(self) -> None:
        shape = image_shape(self.shape)
        if not 1 <= self.bits <= 16 or self.bits != int(self.bits):
            raise ValueError(f"bits: expected a whole number from 1 to 16, got {self.bits}")
        vars(self).update(shape=shape, bits=int(self.bits), in_shape=shape, out_shape=shape)

    def describe(self) -> str:
        return f"Quantize({self.bits} bits, {by(*self.shape)})"

    @property
    def surrogate(self) -> bool:
        return True

    def A(self, x: Tensor) -> Tensor:
        y = (self._level(self._image(x).detach()) / self._top).to(x)
        return y + (x - x.detach()) if differentiated(x) else y  # exactly y

    @property
    def step(self) -> float:
        """From one level to the next, in image units."""
        return 1 / self._top

    def interval(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high), shaped as y: between them lie the x that give y. From -inf for black, to inf for white."""
        k = self._level(self._measurement(y))
        low, high = self._cell(k)
        return (low / self._top).to(y), (high / self._top).to(y)

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        """The exact minimum at each pixel: z moved to the edge of some level's interval, or not at all.

        With u = n·z in level k, v = n·y, and d = 1/weight, the cost of level j between k and v is
        d·(|u − j| − ½)² + (v − j)², least for the whole number nearest to (d·(u ± ½) + v) / (d + 1); that one, or k.
        At weight = inf the nearest x in the interval of y. x stays off the edge itself by a few ulp.
        """
        u, v = wide(self._image(z)) * self._top, wide(self._measurement(y)) * self._top
        d = damping(weight, u)
        k = self._level(z)
        j = ((d * (u + 0.5 * (v - k).sign()) + v) / (d + 1)).round().clamp(0, self._top)
        low, high = self._cell(j)
        margin = 4 * self._top * torch.finfo(u.dtype).eps
        x = torch.minimum(torch.maximum(u, low + margin), high - margin)
        moves = d * (x - u).square() + (j - v).square() < (k - v).square()
        return (torch.where(moves, x, u) / self._top).to(z)

    @property
    def _top(self) -> int:
        return 2**self.bits - 1

    def _level(self, x: Tensor) -> Tensor:
        return (wide(x) * self._top).round().clamp(0, self._top)

    def _cell(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Where a level begins and ends, in steps; the first and the last have no end."""
        return torch.where(k > 0, k - 0.5, -inf), torch.where(k < self._top, k + 0.5, inf)
