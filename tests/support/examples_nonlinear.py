"""Random operators that are not linear: ranges, files, magnitudes."""

from __future__ import annotations

from collections.abc import Callable

from examples import Draw, seeds, shapes
from hypothesis import strategies as st

from invdiff import operators
from invdiff.operators import Operator


def clip(draw: Draw) -> Operator:
    """Gains that clip much, little, or only what is outside [0, 1]."""
    return operators.Clip(shapes(draw), draw(st.sampled_from([0.5, 1.0, 2.0, 5.0])))


def quantize(draw: Draw) -> Operator:
    return operators.Quantize(shapes(draw), draw(st.integers(1, 16)))


def jpeg(draw: Draw) -> Operator:
    """Grey and RGB, of any quality or with a file's tables; sides less than, equal to and more than a block."""
    channels = draw(st.sampled_from([1, 3]))
    shape = (channels, draw(st.integers(1, 18)), draw(st.integers(1, 10)))
    subsampling = draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]))
    if draw(st.booleans()):
        return operators.JPEG(shape, draw(st.integers(1, 100)), subsampling)
    first = 1 + seeds(draw) % 40
    tables = [range(first + i, first + i + 64) for i in range(draw(st.integers(1, 3)))]
    return operators.JPEG.like(shape, tables, subsampling)


def phase_retrieval(draw: Draw) -> Operator:
    """No padding, a little, and more than twice the size."""
    return operators.PhaseRetrieval(shapes(draw, most=8), draw(st.sampled_from([1.0, 1.3, 2.0, 2.5])))


EXAMPLES: dict[str, Callable[[Draw], Operator]] = {
    "clip": clip,
    "quantize": quantize,
    "jpeg": jpeg,
    "phase_retrieval": phase_retrieval,
}
