"""Random operators for the laws: a way to draw one for each name of OPERATORS, and for what is made of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from hypothesis import strategies as st
from torch import Tensor

from invdiff import operators
from invdiff.operators import LinearOperator, Operator

Draw: TypeAlias = st.DrawFn
Shape = tuple[int, int, int]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, fixed by the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from 0 to 1 in float32, fixed by the seed."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def shapes(draw: Draw, least: int = 1, most: int = 9) -> Shape:
    """(C, H, W) with 1 to 3 channels and sides from `least` to `most`."""
    return draw(st.integers(1, 3)), draw(st.integers(least, most)), draw(st.integers(least, most))


def seeds(draw: Draw) -> int:
    return draw(st.integers(0, 1000))


def mask(draw: Draw) -> Operator:
    """Of all channels or of each its own; at least one pixel kept and one lost."""
    channels, height, width = shape = shapes(draw, least=2)
    each = draw(st.booleans())
    values = random(*(shape if each else (height, width)), seed=seeds(draw))
    part = draw(st.sampled_from([0.1, 0.5, 0.9]))
    return operators.Mask(values <= values.flatten().quantile(part), channels)


def identity(draw: Draw) -> Operator:
    return operators.Identity(shapes(draw))


def diagonal(draw: Draw) -> Operator:
    """Weights of both signs, some of them zero."""
    weights = random(*shapes(draw, least=2), seed=seeds(draw))
    weights[weights.abs() < 0.2] = 0
    weights[0, 0, 0] = 1.0
    return operators.Diagonal(weights)


def kernel(draw: Draw, height: int, width: int) -> Tensor:
    """Any kernel no larger than the image, its middle the largest: conditioned well enough for CG."""
    size = draw(st.integers(1, min(4, height))), draw(st.integers(1, min(4, width)))
    values = 0.1 * random(*size, seed=seeds(draw)).abs()
    values[size[0] // 2, size[1] // 2] = 1.0
    return values


def of(draw: Draw, name: str, shape: Shape) -> LinearOperator:
    """An operator of a kind, over images of that shape; factors divide nothing in particular."""
    channels, height, width = shape
    if name == "mask":
        return operators.Mask(random(*shape, seed=seeds(draw)) > 0, channels)
    if name == "circular":
        return operators.Blur(kernel(draw, height, width), shape)
    if name == "zero":
        return operators.Blur(kernel(draw, height, width), shape, "zero", rtol=1e-12, max_iter=500)
    if name == "separable":
        line = torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64)
        return operators.Blur(torch.outer(line, line), shape, "reflect")
    if name == "diagonal":
        return operators.Diagonal(1 + 0.3 * random(*shape, seed=seeds(draw)))
    return operators.Downsample(draw(st.integers(2, 3)), shape)


KINDS = ("mask", "circular", "zero", "separable", "diagonal", "downsample")


def composed(draw: Draw) -> Operator:
    shape = shapes(draw, least=4)
    inner = of(draw, draw(st.sampled_from(KINDS)), shape)
    outer = of(draw, draw(st.sampled_from(KINDS)), inner.out_shape) if min(inner.out_shape[1:]) > 3 else inner
    return exact(outer @ inner if outer is not inner else operators.Identity(inner.out_shape) @ inner)


def scaled(draw: Draw) -> Operator:
    part = of(draw, draw(st.sampled_from(KINDS)), shapes(draw, least=4))
    return draw(st.sampled_from([-2.0, 0.5, 3])) * part


def stacked(draw: Draw) -> Operator:
    shape = shapes(draw, least=4)
    kinds = draw(st.sampled_from([("circular",) * 2, ("mask", "diagonal"), ("zero", "mask", "downsample")]))
    return exact(operators.stacked([of(draw, name, shape) for name in kinds]))


def reweighted(draw: Draw) -> Operator:
    part = of(draw, draw(st.sampled_from(["mask", "circular", "separable"])), shapes(draw, least=4))
    assert isinstance(part, operators.SpectralOperator)
    weights = random(part.singular_values.numel(), seed=seeds(draw)).abs()
    return operators.Reweighted(part, weights * (weights > 0.1))


def exact(operator: Operator) -> Operator:
    """With conjugate gradients as exact as float64 lets them be."""
    if "rtol" in vars(operator):
        vars(operator).update(rtol=1e-12, max_iter=2000)
    return operator


EXAMPLES: dict[str, Callable[[Draw], Operator]] = {
    "mask": mask,
    "identity": identity,
    "diagonal": diagonal,
}
COMBINATIONS: dict[str, Callable[[Draw], Operator]] = {
    "composed": composed,
    "scaled": scaled,
    "stacked": stacked,
    "reweighted": reweighted,
}
