"""Forward models y = A(x) + noise. Torch only: they know no prior, no method and no file."""

from __future__ import annotations

if (
    __name__ != "invdiff.operators"
):  # a second copy of the classes would not be the first: isinstance would fail
    raise ImportError(f"import this package as invdiff.operators, not as {__name__}")

from . import kernels
from .base import LinearOperator, Operator, SpectralOperator
from .blur import Blur, CircularBlur, SeparableBlur
from .external import from_deepinv
from .mask import Identity, Mask
from .noise import GaussianNoise
from .resample import Downsample
from .separable import SeparableOperator

OPERATORS: dict[str, type[Operator]] = {
    "mask": Mask,
    "blur": Blur,
    "downsample": Downsample,
    "identity": Identity,
}

__all__ = [
    "OPERATORS",
    "Blur",
    "CircularBlur",
    "Downsample",
    "GaussianNoise",
    "Identity",
    "LinearOperator",
    "Mask",
    "Operator",
    "SeparableBlur",
    "SeparableOperator",
    "SpectralOperator",
    "from_deepinv",
    "kernels",
]
