"""The pictures of docs/operators.md: for each operator a photograph, its measurement, and one restoration.

    python experiments/figures/operators.py [--out docs/operators] [--only NAME ...] [--steps N]

The photograph is scikit-image's astronaut (NASA, public domain), cut and reduced to 192 × 192; the prior `natural`, the
method `auto` unless the table says otherwise, seed 0. What is no picture is shown as its pseudo-inverse, or as the
logarithm of its magnitudes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

import invdiff
from invdiff import operators
from invdiff.evaluation import psnr
from invdiff.images import to_array
from invdiff.operators import LinearOperator, Operator, kernels, patterns

SIDE = 192
SHAPE = (3, SIDE, SIDE)
GAP = 6


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How an operator is shown: its noise, and the settings of its restoration."""

    operator: Callable[[], Operator]
    sigma_y: float = 0.0
    noise: operators.Noise | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def blurred(kernel: Tensor, border: Any = "reflect") -> Callable[[], Operator]:
    return lambda: operators.Blur(kernel, SHAPE, border)


def masked(keep: Tensor) -> Callable[[], Operator]:
    return lambda: operators.Mask(keep)


def vignette() -> Operator:
    """Dark corners, in which the noise then weighs more."""
    at = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    return operators.Diagonal((1 / (1 + 2 * (at[:, None] ** 2 + at**2)) ** 2).expand(SHAPE))


SIZE = (SIDE, SIDE)
FIGURES: dict[str, Figure] = {
    "mask_random": Figure(operator=masked(patterns.random(SIZE, 0.8))),
    "mask_box": Figure(operator=masked(patterns.box(SIZE, 48))),
    "mask_stripes": Figure(operator=masked(patterns.stripes(SIZE, 8, 24))),
    "mask_lines": Figure(operator=masked(patterns.lines(SIZE))),
    "mask_border": Figure(operator=masked(patterns.border(SIZE, 24))),
    "mask_strokes": Figure(operator=masked(patterns.strokes(SIZE, 0.25))),
    "diagonal": Figure(operator=vignette, sigma_y=0.02),
    "demosaic": Figure(operator=lambda: operators.Demosaic(SHAPE)),
    "grayscale": Figure(operator=lambda: operators.Grayscale(SHAPE)),
    "blur_gaussian": Figure(operator=blurred(kernels.gaussian(2.0)), sigma_y=0.01),
    "blur_disk": Figure(operator=blurred(kernels.disk(4.0)), sigma_y=0.01),
    "blur_motion": Figure(operator=blurred(kernels.random_motion(31, 0.5)), sigma_y=0.01),
    "blur_valid": Figure(operator=blurred(kernels.motion(15, 30), "valid"), sigma_y=0.01),
    "downsample": Figure(operator=lambda: operators.Downsample(4, SHAPE)),
    "blur_downsample": Figure(
        operator=lambda: operators.BlurDownsample(kernels.motion(9, 45), 3, SHAPE), sigma_y=0.01
    ),
    "clip": Figure(operator=lambda: operators.Clip(SHAPE)),
    "quantize": Figure(operator=lambda: operators.Quantize(SHAPE, 2)),
    "jpeg": Figure(operator=lambda: operators.JPEG(SHAPE, 10)),
    "compressed_sensing": Figure(
        operator=lambda: operators.CompressedSensing(SHAPE, 0.25, "dct"), sigma_y=0.01
    ),
    "phase_retrieval": Figure(operator=lambda: operators.PhaseRetrieval(SHAPE), settings={"steps": 200}),
    "stacked": Figure(
        operator=lambda: operators.stacked(
            [operators.Blur(kernels.motion(15, angle), SHAPE) for angle in (0.0, 90.0)]
        ),
        sigma_y=0.02,
    ),
    "noise_poisson": Figure(operator=lambda: operators.Identity(SHAPE), noise=operators.PoissonNoise(30.0)),
    "noise_salt_and_pepper": Figure(
        operator=lambda: operators.Identity(SHAPE), noise=operators.SaltAndPepperNoise(0.3)
    ),
}


def photograph() -> Tensor:
    """(1, 3, SIDE, SIDE), float32."""
    from skimage.data import astronaut

    whole = torch.from_numpy(astronaut()).permute(2, 0, 1)[None].float() / 255
    face = whole[..., :384, 32:416]
    return interpolate(face, size=SIZE, mode="area")


def shown(op: Operator, y: Tensor) -> Tensor:
    """A measurement as a picture (1, C, h, w)."""
    if isinstance(op, operators.PhaseRetrieval):
        light = (1 + 100 * y).log()
        return torch.fft.fftshift(light / light.max(), dim=(-2, -1))
    if len(op.out_shape) == 3 and op.out_shape[0] in (1, 3) and min(op.out_shape) > 0 and len(y.shape) == 4:
        return y
    return op.A_dagger(y) if isinstance(op, LinearOperator) else op.A(y)


def tile(picture: Tensor) -> Image.Image:
    array = (to_array(picture.expand(-1, 3, -1, -1)).clip(0, 1) * 255).round().astype("uint8")
    image = Image.fromarray(array)
    return image.resize((SIDE, SIDE), Image.Resampling.NEAREST) if image.width != SIDE else image


def draw(name: str, figure: Figure, out: Path, steps: int | None) -> str:
    """Write NAME.jpg and say what came out."""
    x, op = photograph(), figure.operator()
    noise = figure.noise or operators.GaussianNoise(figure.sigma_y)
    y = noise.sample(op.A(x), torch.Generator().manual_seed(0))
    y = op.A(y) if isinstance(op, operators.Mask) else y
    settings = {"steps": steps, **figure.settings} if steps else figure.settings
    result = invdiff.restore(y, op, "natural", noise=noise, seed=0, **settings)
    sheet = Image.new("RGB", (3 * SIDE + 2 * GAP, SIDE), "white")
    for i, picture in enumerate((x, shown(op, y), result.samples[0])):
        sheet.paste(tile(picture), (i * (SIDE + GAP), 0))
    sheet.save(out / f"{name}.jpg", quality=88)
    score = float(psnr(result.mean.clip(0, 1), x))
    return f"{name}: {op.describe()}, {noise.describe()}, {result.method}, {score:.2f} dB, {result.seconds:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/operators"))
    parser.add_argument("--only", nargs="*", choices=sorted(FIGURES), default=sorted(FIGURES))
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", UserWarning)
    for name in FIGURES:
        if name in arguments.only:
            print(draw(name, FIGURES[name], arguments.out, arguments.steps), flush=True)


if __name__ == "__main__":
    main()
