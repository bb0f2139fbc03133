"""Random operators that sample: mosaics, grey pictures, compressed sensing."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from examples import Draw, random, seeds, shapes
from hypothesis import strategies as st

from invdiff import operators
from invdiff.operators import Operator
from invdiff.operators.color import Bayer


def demosaic(draw: Draw) -> Operator:
    """Sides of either parity, down to one pixel, where some colours have no place."""
    _, height, width = shapes(draw)
    return operators.Demosaic((3, height, width), draw(st.sampled_from(get_args(Bayer))))


def grayscale(draw: Draw) -> Operator:
    """The named weights, and others, of both signs and zero among them."""
    channels, _, _ = shape = shapes(draw)
    kind = draw(st.sampled_from(["rec601", "mean", "own"]))
    if kind == "own":
        weights = random(channels, seed=seeds(draw))
        weights[0] = draw(st.sampled_from([0.0, 1.0])) if channels > 1 else -0.5
        return operators.Grayscale(shape, weights.tolist())
    return operators.Grayscale((3, *shape[1:]) if kind == "rec601" else shape, kind)  # type: ignore[arg-type]


def compressed_sensing(draw: Draw) -> Operator:
    """Both transforms, from one measurement to all of them."""
    ratio, seed = draw(st.sampled_from([1e-3, 0.3, 0.5, 1.0])), seeds(draw)
    channels, height, width = shapes(draw, most=8)
    if draw(st.booleans()):
        height, width = 2 ** draw(st.integers(0, 3)), 2 ** draw(st.integers(0, 3))
        return operators.CompressedSensing((channels, height, width), ratio, "hadamard", seed)
    return operators.CompressedSensing((channels, height, width), ratio, "dct", seed)


EXAMPLES: dict[str, Callable[[Draw], Operator]] = {
    "demosaic": demosaic,
    "grayscale": grayscale,
    "compressed_sensing": compressed_sensing,
}
