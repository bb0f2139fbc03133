"""Random blurs and reductions for the laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
from examples import Draw, kernel, random, seeds, shapes
from hypothesis import strategies as st

from invdiff import operators
from invdiff.operators import Operator
from invdiff.operators.blur import Border
from invdiff.operators.resample import Edges, Kernel

TIGHT = {"rtol": 1e-12, "max_iter": 2000}


def any_kernel(draw: Draw, height: int, width: int) -> torch.Tensor:
    """One with nothing special, an outer product, a smooth one that loses much, or one as large as the image."""
    kind = draw(st.sampled_from(["any", "outer", "gaussian", "large"]))
    if kind == "any":
        return kernel(draw, height, width)
    if kind == "outer":
        down, across = (kernel(draw, size, 1)[:, 0] for size in (height, width))
        return torch.outer(down, across)
    if kind == "gaussian":
        size = 2 * (min(height, width, 7) // 2) - 1
        return operators.kernels.gaussian(1.0, max(size, 1))
    large = 0.01 * random(height, width, seed=seeds(draw))
    large[height // 2, width // 2] = 1.0
    return large


def blur(draw: Draw) -> Operator:
    shape = shapes(draw)
    border: Border = draw(st.sampled_from(get_args(Border)))
    return operators.Blur(any_kernel(draw, *shape[1:]), shape, border, **TIGHT)


def downsample(draw: Draw) -> Operator:
    """Factors that divide the sides and others, up to the shorter side."""
    shape = shapes(draw, least=2)
    factor = draw(st.integers(2, min(shape[1:])))
    kind: Kernel = draw(st.sampled_from(get_args(Kernel)))
    edges: Edges = draw(st.sampled_from(get_args(Edges)))
    return operators.Downsample(factor, shape, kind, edges)


def blur_downsample(draw: Draw) -> Operator:
    channels, height, width = shapes(draw, least=3)
    border: Border = draw(st.sampled_from(get_args(Border)))
    factor = draw(st.integers(2, 3))
    if border == "circular" and draw(st.booleans()):
        height, width = (max(1, size // factor) * factor for size in (height, width))
    weights = any_kernel(draw, height, width)
    if border == "valid":
        weights = weights[: height - factor + 1, : width - factor + 1]
        weights[0, 0] += 1.0
    return operators.BlurDownsample(weights, factor, (channels, height, width), border, **TIGHT)


EXAMPLES: dict[str, Callable[[Draw], Operator]] = {
    "blur": blur,
    "downsample": downsample,
    "blur_downsample": blur_downsample,
}
