"""Masks as boolean tensors: True = kept (observed), False = to be filled; what `Mask` takes.

`size` is (H, W), and distances are in pixels. Whatever is drawn at random follows from `seed` alone, on every
machine. ValueError for a number outside its range, and where every pixel would be kept, or none.
"""

from __future__ import annotations

from math import ceil, inf, pi, sqrt
from numbers import Real

import torch
from torch import Tensor

Size = tuple[int, int]


def box(
    size: Size, height: int, width: int | None = None, top: int | None = None, left: int | None = None
) -> Tensor:
    """All but a hole of height × width (by default a square), its corner at (top, left), by default centred."""
    rows, columns = _size(size)
    height = whole("height", height, 1, rows)
    width = whole("width", height if width is None else width, 1, columns)
    top = whole("top", (rows - height) // 2 if top is None else top, 0, rows - height)
    left = whole("left", (columns - width) // 2 if left is None else left, 0, columns - width)
    keep = torch.ones(rows, columns, dtype=torch.bool)
    keep[top : top + height, left : left + width] = False
    return _checked(keep, "box", "make the hole smaller")


def random(size: Size, missing: float, seed: int = 0, channels: int | None = None) -> Tensor:
    """Exactly round(missing·H·W) pixels lost, all choices alike (no Bernoulli draw, whose count varies).

    missing: in (0, 1). channels: None gives (H, W), the same pixels for every channel; C gives (C, H, W), other
    pixels, and as many, in each.
    """
    height, width = _size(size)
    lost, draws = _lost(missing, height * width), generator(seed)
    each = 1 if channels is None else whole("channels", channels, 1)
    order = torch.stack([torch.randperm(height * width, generator=draws) for _ in range(each)])
    keep = (order >= lost).view(each, height, width)
    return keep[0] if channels is None else keep


def stripes(size: Size, width: int, period: int, vertical: bool = False) -> Tensor:
    """The last `width` of every `period` rows lost, or columns if vertical. 1 ≤ width < period."""
    period = whole("period", period, 2)
    width = whole("width", width, 1, period - 1)
    place = _places(size, vertical)
    return _checked(
        _lines(place % period < period - width, size, vertical), "stripes", "choose a shorter period"
    )


def lines(size: Size, every: int = 2, offset: int = 0, vertical: bool = False) -> Tensor:
    """Only the rows offset, offset + every, offset + 2·every, ... kept, or the columns if vertical.

    every ≥ 2, 0 ≤ offset < every. RePaint's "alternating lines" (Lugmayr et al. 2022) at every = 2.
    """
    every = whole("every", every, 2)
    offset = whole("offset", offset, 0, every - 1)
    place = _places(size, vertical)
    return _checked(
        _lines(place % every == offset, size, vertical), "lines", "choose fewer or another offset"
    )


def border(size: Size, margin: int | tuple[int, int]) -> Tensor:
    """Only the middle kept, for outpainting. margin: pixels lost at each side, or (above and below, left and right)."""
    height, width = _size(size)
    pair = margin if isinstance(margin, tuple | list) else (margin, margin)
    if len(pair) != 2:
        raise ValueError(f"margin: expected a number of pixels or (vertical, horizontal), got {margin}")
    v, h = (whole("margin", m, 0, (n - 1) // 2) for m, n in zip(pair, (height, width), strict=True))
    keep = torch.zeros(height, width, dtype=torch.bool)
    keep[v : height - v, h : width - h] = True
    return _checked(keep, "border", "choose a larger margin")


def strokes(size: Size, missing: float = 0.15, seed: int = 0) -> Tensor:
    """Scribbles of a round brush, drawn until exactly round(missing·H·W) pixels are lost; missing in (0, 1).

    Each stroke is a random walk of a smoothly turning direction and a varying width, 2 to 8 % of √(HW), and
    0.3 to 1.5 √(HW) long. Irregular masks as of "free-form" inpainting (Yu et al. 2019, arXiv:1806.03589), whose sets
    of files cannot be had; these are drawn anew from the seed.
    """
    height, width = size = _size(size)
    lost, draws = _lost(missing, height * width), generator(seed)
    drawn = torch.full((height * width,), inf, dtype=torch.float64)  # when the brush first touched each pixel
    clock = 0.0
    while (drawn < inf).sum() < lost:
        clock = _stroke(drawn, size, clock, draws)
    touched = (drawn < inf).nonzero()[:, 0]
    keep = torch.ones(height * width, dtype=torch.bool)
    keep[touched[drawn[touched].argsort(stable=True)[:lost]]] = False
    return keep.view(height, width)


def _stroke(drawn: Tensor, size: Size, clock: float, draws: torch.Generator) -> float:
    """One stroke, begun at time `clock`, written into `drawn` (H·W,); returns the time of its end."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=draws, dtype=torch.float64)

    scale = sqrt(size[0] * size[1])
    brush = max(0.75, scale * uniform(0.012, 0.03).item())
    step = brush  # short enough for the outline to be smooth
    steps = ceil(scale * uniform(0.3, 1.5).item() / step)
    radius = brush * (1 + 0.3 * uniform(-0.25, 0.25, steps).cumsum(0).sin())
    turn = uniform(0.05, 0.3) * uniform(-1, 1, steps).cumsum(0).sin()
    heading = uniform(0, 2 * pi) + turn.cumsum(0)
    ahead = torch.stack((heading.sin(), heading.cos()), 1)
    start = uniform(0, 1, 2) * torch.tensor(size) + step * (ahead.cumsum(0) - ahead)
    time = clock + step * torch.arange(steps, dtype=torch.float64)

    reach = ceil(1.3 * brush + step / 2) + 1
    several = max(1, 2**17 // (2 * reach + 1) ** 2)  # steps at once: few enough for the cache
    for some in zip(*(each.split(several) for each in (start, ahead, radius, time)), strict=True):
        _touch(drawn, size, step, reach, *some)
    return clock + step * steps


def _touch(
    drawn: Tensor,
    size: Size,
    step: float,
    reach: int,
    start: Tensor,
    ahead: Tensor,
    radius: Tensor,
    time: Tensor,
) -> None:
    """Steps of a round brush, straight, at one pixel per unit of time. start, ahead: (n, 2); radius, time: (n,).

    A pixel `along` the step and √across from its line is touched when the disk's front is there, which is
    √(radius² − across) ahead of its centre. Looked at are the pixels within `reach` of a step's middle.
    """
    radius, time = radius[:, None, None].square(), time[:, None, None]
    window = torch.arange(-reach, reach + 1)
    middle = (start + ahead * step / 2).floor().long()
    y, x = middle[:, :1, None] + window[:, None], middle[:, 1:, None] + window
    dy, dx = y + 0.5 - start[:, :1, None], x + 0.5 - start[:, 1:, None]
    v, u = ahead.mT[..., None, None]
    along, across = dy * v + dx * u, (dy * u - dx * v).square()
    touched = across + (along - along.clamp(0, step)).square() <= radius
    touched &= (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    front = (along - (radius - across).clamp(min=0).sqrt()).clamp(min=0)
    when = (
        time + front + 1e-6 * (along.square() + across)
    )  # beneath the brush when it is put down: from within
    drawn.scatter_reduce_(0, (y * size[1] + x)[touched], when[touched], "amin")


def generator(seed: int) -> torch.Generator:
    """The CPU's generator, which draws the same on every machine. seed: from 0 to 2³² − 1, of which it uses 32 bits."""
    return torch.Generator().manual_seed(whole("seed", seed, 0, 2**32 - 1))


def whole(name: str, value: float, least: int, most: int | None = None) -> int:
    """The value, if it is a whole number within its range. ValueError otherwise."""
    if not isinstance(value, Real) or not least <= value <= (inf if most is None else most) or value % 1:
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: expected a whole number {wanted}, got {value}")
    return int(value)


def _size(size: Size) -> Size:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size: expected (H, W), got {size}; leave out batch and channels")
    return whole("size", size[0], 1), whole("size", size[1], 1)


def _lost(missing: float, pixels: int) -> int:
    """How many of the pixels are to be lost: at least one, and not all."""
    if not isinstance(missing, Real) or not 0 < missing < 1:
        raise ValueError(f"missing: expected the part of the pixels to lose, in (0, 1), got {missing}")
    lost = round(missing * pixels)
    if not 0 < lost < pixels:
        raise ValueError(
            f"missing: expected some of {pixels} pixels kept and some lost, got {missing}, that is {lost} lost"
        )
    return lost


def _places(size: Size, vertical: bool) -> Tensor:
    return torch.arange(_size(size)[bool(vertical)])


def _lines(keep: Tensor, size: Size, vertical: bool) -> Tensor:
    return (keep if vertical else keep[:, None]).expand(_size(size)).clone()


def _checked(keep: Tensor, name: str, remedy: str) -> Tensor:
    if keep.all() or not keep.any():
        sides, got = "x".join(map(str, keep.shape)), "all kept" if keep.all() else "none kept"
        raise ValueError(f"{name}: expected some of {sides} pixels kept and some lost, got {got}; {remedy}")
    return keep
