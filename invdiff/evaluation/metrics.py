"""PSNR and SSIM, with their conventions stated once.

Images are (..., C, H, W), image units: the data range is 1. All pixels and all channels count (RGB, no border
cut off, no luminance), nothing is clipped or stretched here, and the answer has one number per image: shape
(...). Arithmetic is in float64 whatever comes in; arrays are taken as well as tensors.
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


def paired(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of differences taken image by image; the error of a single one is nan."""
    values = torch.as_tensor(differences, dtype=torch.float64)
    if values.numel() == 0:
        return math.nan, math.nan
    error = values.std(correction=1) / values.numel() ** 0.5 if values.numel() > 1 else torch.tensor(math.nan)
    return values.mean().item(), error.item()


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
