"""Large holes, coarse to fine: filled where the picture is small enough for the prior to see across them.

A convolutional prior knows what stands within its receptive field. In the middle of a hole wider than that it would
paint what any picture may hold. So the picture is halved until the hole is narrow, restored there, enlarged, and
restored again from a noise level at which its structure survives and its detail is drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from invdiff.methods.base import Method
from invdiff.operators import Mask, Operator

NARROW = 4
"""A hole that is gone after this many halvings (no empty block of 16² pixels) is filled in one go."""
SIGMA = 0.3
"""Noise level, in image units, from which an enlarged picture is restored again."""
SMALLEST = 24
"""Pixels: no side is halved below."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One size of the picture: its measurements (B, C, H, W), its operator, and the method with its walk."""

    y: Tensor
    operator: Operator
    method: Method


def stages(y: Tensor, operator: Operator, method: Method) -> list[Stage]:
    """The sizes to restore, smallest first; only the picture's own where it has no large hole."""
    if not isinstance(operator, Mask):
        return [Stage(y, operator, method)]
    sizes: list[tuple[Tensor, Tensor]] = [(y, operator.keep)]
    while hole_survives(sizes[-1][1], NARROW) and min(y.shape[-2:]) >= SMALLEST * 2 ** len(sizes):
        sizes.append(halved(*sizes[-1]))
    grid = method.grid if isinstance(method.grid, str) else "karras"
    fine = replace(method, sigma_max=max(method.sigma_min, min(method.sigma_max, SIGMA)), grid=grid)
    coarsest = Stage(sizes[-1][0], _mask(sizes[-1][1]) if len(sizes) > 1 else operator, method)
    return [coarsest, *(Stage(a, _mask(keep), fine) for a, keep in reversed(sizes[:-1]))]


def _mask(keep: Tensor) -> Mask:
    return Mask(keep, channels=len(keep))


def hole_survives(keep: Tensor, halvings: int) -> bool:
    """Whether some block of 2^halvings pixels a side has nothing observed. keep: (C, H, W)."""
    seen = keep.float()[None]
    for _ in range(halvings):
        seen = max_pool2d(seen, 2, ceil_mode=True)
    return bool((seen == 0).any())


def halved(y: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Means over 2 × 2 blocks of what is observed in them; a block with nothing observed is not."""
    height, width = keep.shape[-2:]
    odd = (0, width % 2, 0, height % 2)
    seen = pad(keep.to(y), odd)[None]
    total, count = avg_pool2d(pad(y, odd) * seen, 2), avg_pool2d(seen, 2)
    return torch.where(count > 0, total / count.where(count > 0, torch.ones_like(count)), 0.0), count[0] > 0


def enlarged(x: Tensor, stage: Stage) -> Tensor:
    """A restored smaller picture as a start for this stage: bicubic."""
    height, width = stage.y.shape[-2:]
    size = [2 * n for n in x.shape[-2:]]
    return interpolate(x, size=size, mode="bicubic")[..., :height, :width]
