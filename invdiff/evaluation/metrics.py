"""PSNR and SSIM, with their conventions stated once, and scores that need no reference.

Images are (..., C, H, W), image units: the data range is 1. All pixels and all channels count (RGB, no border
cut off, no luminance: `luma` and `without_border` make such images), nothing is clipped or stretched here, and
the answer has one number per image: shape (...). Arithmetic is in float64 whatever comes in; arrays are taken as
well as tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import RequestError


def psnr(image: Any, reference: Any) -> Tensor:
    """−10·log₁₀ mean (image − reference)², in dB; infinite for equal images.

    image, reference: (..., C, H, W) of one shape, tensors or arrays, image units. Returns (...), float64.
    Equal to `skimage.metrics.peak_signal_noise_ratio(reference, image, data_range=1)`, image by image.
    """
    x, y = _pair(image, reference)
    return -10 * torch.log10((x - y).square().mean(dim=(-3, -2, -1)))


def ssim(image: Any, reference: Any) -> Tensor:
    """Structural similarity as published: Gaussian window σ = 1.5 of 11×11, K₁ = .01, K₂ = .03, population
    covariance.

    SSIM = (2μ_xμ_y + C₁)(2σ_xy + C₂) / ((μ_x² + μ_y² + C₁)(σ_x² + σ_y² + C₂)), averaged over the windows that
    lie inside the image and over the channels. image, reference: (..., C, H, W), H and W at least 11; returns
    (...), float64. Equal to `skimage.metrics.structural_similarity(..., channel_axis=0, data_range=1,
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`; skimage's bare default, a flat 7×7
    window, is another number.

    Raises RequestError for images of different shapes or smaller than the window.
    Source: Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861.
    """
    x, y = _pair(image, reference)
    height, width = x.shape[-2:]
    if min(height, width) < 11:
        raise RequestError(
            f"SSIM's window is 11×11: expected an image at least that large, got {height}×{width}"
        )
    lead = x.shape[:-3]
    x, y = (z.reshape(-1, 1, height, width) for z in (x, y))
    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=x.dtype, device=x.device) / 1.5) ** 2)
    taps = taps / taps.sum()

    def window(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, taps[None, None, :, None]), taps[None, None, None, :])

    mu_x, mu_y = window(x), window(y)
    var_x, var_y = window(x * x) - mu_x**2, window(y * y) - mu_y**2
    cov = window(x * y) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    channels = similarity.mean(dim=(-3, -2, -1)).reshape(*lead, -1)
    return channels.mean(dim=-1)


def luma(image: Any) -> Tensor:
    """Y of YCbCr, as the papers on super-resolution score it, (..., 1, H, W), float64.

    Y = (16 + 65.481·R + 128.553·G + 24.966·B)/255: ITU-R BT.601, black at 16 and white at 235 of 255, not rounded; as
    MATLAB's rgb2ycbcr and `skimage.color.rgb2ycbcr`. The data range of a score stays 1, as it does in the papers. An
    image of one channel is its own luma. Raises RequestError for other numbers of channels.
    """
    x = _image(image)
    return x if x.shape[-3] == 1 else (16 + 219 * _grey(x)) / 255


def without_border(image: Any, pixels: int) -> Tensor:
    """The image less so many pixels on each of its sides. RequestError where nothing is left of it."""
    x = _image(image)
    height, width = x.shape[-2:]
    if not 0 <= 2 * pixels < min(height, width):
        raise RequestError(
            f"border: expected 0 to {(min(height, width) - 1) // 2} pixels of an image {height}×{width}, got {pixels}"
        )
    return x[..., pixels : height - pixels, pixels : width - pixels]


def sharpness(image: Any) -> Tensor:
    """Variance of the Laplacian of the grey image, in squared image units; noise counts as sharp.

    The Laplacian is the sum of the four neighbours less four times the pixel, within the image; grey is 0.299·R +
    0.587·G + 0.114·B. At least 3×3. Source: Pech-Pacheco, Cristóbal, Chamorro-Martínez, Fernández-Valdivia 2000,
    doi:10.1109/ICPR.2000.903548.
    """
    x = _grey(_at_least(_image(image), 3, "the Laplacian"))[..., 0, :, :]
    rows, columns = x[..., :, 1:-1], x[..., 1:-1, :]
    laplacian = rows[..., :-2, :] + rows[..., 2:, :] + columns[..., :-2] + columns[..., 2:]
    return (laplacian - 4 * x[..., 1:-1, 1:-1]).var(dim=(-2, -1), correction=0)


def blockiness(image: Any) -> Tensor:
    """How much larger steps are across the borders of JPEG's 8×8 blocks than within them: B/A, 1 where there are none.

    B is the mean |difference| of neighbours on either side of a border, A of neighbours in one block, each the average
    of across and down, of the grey image (see `sharpness`); nan for a flat one. Blocks begin at the upper left corner.
    At least 16×16. Source: Wang, Sheikh, Bovik 2002, doi:10.1109/ICIP.2002.1038064, whose B and A they are.
    """
    x = _grey(_at_least(_image(image), 16, "blockiness"))[..., 0, :, :]
    across, within = torch.zeros_like(x[..., 0, 0]), torch.zeros_like(x[..., 0, 0])
    for steps in (x.diff(dim=-1).abs(), x.diff(dim=-2).abs().transpose(-1, -2)):
        border = torch.arange(1, steps.shape[-1] + 1, device=x.device) % 8 == 0
        across = across + steps[..., border].mean(dim=(-2, -1)) / 2
        within = within + steps[..., ~border].mean(dim=(-2, -1)) / 2
    return across / within


def diversity(samples: Tensor) -> float:
    """Mean over the pairs of samples of √ mean (xᵢ − xⱼ)², in image units. samples: (S, ...), at least 2."""
    if len(samples) < 2:
        raise ValueError(f"samples: expected at least 2, got {len(samples)}")
    rows = samples.detach().double().flatten(1)
    return float(torch.pdist(rows).mean() / rows.shape[1] ** 0.5)


def paired(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of differences taken image by image; the error of a single one is nan."""
    values = torch.as_tensor(differences, dtype=torch.float64)
    if values.numel() == 0:
        return math.nan, math.nan
    error = values.std(correction=1) / values.numel() ** 0.5 if values.numel() > 1 else torch.tensor(math.nan)
    return values.mean().item(), error.item()


def _image(image: Any) -> Tensor:
    x = torch.as_tensor(image).detach()
    if not x.is_floating_point():
        raise RequestError(f"expected a floating-point image with 1 as white, got {x.dtype}; divide by 255")
    if x.ndim < 3 or x.shape[-3] not in (1, 3):
        raise RequestError(f"expected an image (..., 1 or 3, H, W), got {tuple(x.shape)}")
    return x.double()


def _grey(x: Tensor) -> Tensor:
    """(..., 1, H, W), 0 black and 1 white."""
    if x.shape[-3] == 1:
        return x
    red, green, blue = x.unbind(dim=-3)
    return ((65.481 * red + 128.553 * green + 24.966 * blue) / 219).unsqueeze(-3)


def _at_least(x: Tensor, side: int, what: str) -> Tensor:
    height, width = x.shape[-2:]
    if min(height, width) < side:
        raise RequestError(f"{what}: expected an image of {side}×{side} or larger, got {height}×{width}")
    return x


def _pair(image: Any, reference: Any) -> tuple[Tensor, Tensor]:
    x, y = torch.as_tensor(image).detach(), torch.as_tensor(reference).detach()
    if not (x.is_floating_point() and y.is_floating_point()):
        raise RequestError(
            f"expected floating-point images with 1 as white, got {x.dtype} and {y.dtype}; divide by 255"
        )
    if x.shape != y.shape or x.ndim < 3:
        raise RequestError(
            f"expected two images (..., C, H, W) of one shape, got {tuple(x.shape)} and {tuple(y.shape)}; "
            "crop one of them"
        )
    return x.double(), y.to(x.device).double()
