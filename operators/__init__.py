"""Forward models y = A(x) + noise. Torch only: they know no prior, no method and no file."""

from __future__ import annotations

if (
    __name__ != "invdiff.operators"
):  # a second copy of the classes would not be the first: isinstance would fail
    raise ImportError(f"import this package as invdiff.operators, not as {__name__}")

from . import kernels, patterns, phase
from .base import LinearOperator, Operator, ProximalOperator, SpectralOperator
from .blur import Blur, CircularBlur, SeparableBlur
from .check import check
from .color import Demosaic, Grayscale
from .compose import Composed, PerImage, Reweighted, Scaled, composed, per_image, scaled, stacked
from .external import from_deepinv, to_deepinv
from .jpeg import JPEG
from .mask import Diagonal, Identity, Mask
from .noise import (
    NOISES,
    ColouredNoise,
    GaussianNoise,
    LaplaceNoise,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    QuantisationNoise,
    SaltAndPepperNoise,
    estimate_sigma,
)
from .nonlinear import Clip, Quantize
from .phase import PhaseRetrieval
from .resample import BlurDownsample, Downsample
from .sensing import CompressedSensing
from .separable import SeparableOperator

OPERATORS: dict[str, type[Operator]] = {
    "mask": Mask,
    "blur": Blur,
    "downsample": Downsample,
    "blur_downsample": BlurDownsample,
    "identity": Identity,
    "diagonal": Diagonal,
    "demosaic": Demosaic,
    "grayscale": Grayscale,
    "compressed_sensing": CompressedSensing,
    "clip": Clip,
    "quantize": Quantize,
    "jpeg": JPEG,
    "phase_retrieval": PhaseRetrieval,
}

__all__ = [
    "JPEG",
    "NOISES",
    "OPERATORS",
    "Blur",
    "BlurDownsample",
    "CircularBlur",
    "Clip",
    "ColouredNoise",
    "Composed",
    "CompressedSensing",
    "Demosaic",
    "Diagonal",
    "Downsample",
    "GaussianNoise",
    "Grayscale",
    "Identity",
    "LaplaceNoise",
    "LinearOperator",
    "Mask",
    "Noise",
    "Operator",
    "PerImage",
    "PhaseRetrieval",
    "PoissonGaussianNoise",
    "PoissonNoise",
    "ProximalOperator",
    "QuantisationNoise",
    "Quantize",
    "Reweighted",
    "SaltAndPepperNoise",
    "Scaled",
    "SeparableBlur",
    "SeparableOperator",
    "SpectralOperator",
    "check",
    "composed",
    "estimate_sigma",
    "from_deepinv",
    "kernels",
    "patterns",
    "per_image",
    "phase",
    "scaled",
    "stacked",
    "to_deepinv",
]
