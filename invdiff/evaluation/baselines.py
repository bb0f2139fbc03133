"""What people have without us: classical restorations, thin wrappers over scikit-image, SciPy and Pillow.

Images are (C, H, W) arrays, float, image units; so are the answers, unclipped. A function that takes
`reference` tries a small grid of its parameters and keeps what has the best PSNR *on this very image against
the truth*. That is generous: nobody has the truth in practice, and no such choice is made for invdiff's
methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError

Image = NDArray[np.float64]

WIENER_BALANCE = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
RICHARDSON_LUCY_ITERATIONS = (5, 10, 15, 20, 30, 50, 80, 120, 200)
NL_MEANS = tuple(
    (h, patch, reach) for h in (0.4, 0.55, 0.7, 0.85) for patch, reach in ((3, 7), (5, 9), (7, 11))
)
TV_WEIGHT = (0.4, 0.55, 0.7, 0.85, 1.0, 1.3)  # of sigma


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """image: (C, H, W); name: the method with the parameters that were kept, for tables and records."""

    image: Image
    name: str


def bicubic(y: Any, factor: int, height: int, width: int) -> Baseline:
    """Keys' cubic interpolation (a = −½: Pillow's and MATLAB's "bicubic") of y (C, h, w) up to (C, height,
    width).

    Pixel centres as in `operators.Downsample`, where pixel i of y covers the `factor` pixels from factor·i
    on: y is enlarged to exactly factor times its size, and what the last, incomplete pixels stick out is cut
    off.
    """
    from PIL import Image as Pil

    y = _image(y)
    h, w = y.shape[1:]
    small = -(-height // factor), -(-width // factor)
    if (h, w) != small:
        expected = f"{small[0]}×{small[1]}"
        raise RequestError(f"bicubic ×{factor} to {height}×{width}: expected y of {expected}, got {h}×{w}")
    enlarged = [
        np.asarray(
            Pil.fromarray(plane.astype(np.float32)).resize((w * factor, h * factor), Pil.Resampling.BICUBIC)
        )
        for plane in y
    ]
    return Baseline(image=np.stack(enlarged)[:, :height, :width].astype(np.float64), name="bicubic")


def biharmonic(y: Any, keep: Any) -> Baseline:
    """Biharmonic inpainting of the pixels that keep (H, W) does not have (scikit-image; Damelin and Hoang
    2018)."""
    from skimage.restoration import inpaint_biharmonic

    missing = np.asarray(keep) < 0.5
    y = _image(y)
    if missing.shape != y.shape[1:]:
        raise RequestError(f"biharmonic: expected keep of shape {y.shape[1:]}, got {missing.shape}")
    filled = inpaint_biharmonic(np.where(missing, 0.0, y), missing, channel_axis=0, split_into_regions=True)
    return Baseline(image=np.asarray(filled, dtype=np.float64), name="biharmonic")


def wiener(y: Any, kernel: Any, balance: float) -> Baseline:
    """Wiener-Hunt deconvolution with a Laplacian regulariser of weight `balance`; the border is circular."""
    from skimage.restoration import wiener as deconvolve

    kernel = np.asarray(kernel, dtype=np.float64)
    planes = [deconvolve(plane, kernel, balance, clip=False) for plane in _image(y)]
    return Baseline(image=np.stack(planes), name=f"Wiener, balance {balance:g}")


def richardson_lucy(y: Any, kernel: Any, iterations: int) -> Baseline:
    """Richardson-Lucy deconvolution, for a circular border.

    scikit-image convolves with zeros outside, which would spoil a frame that grows with the iterations: y is
    wrapped around by a margin first, and the margin cut off afterwards. Negative values of y, which the
    method's Poisson model does not have, become zero.
    """
    from skimage.restoration import richardson_lucy as deconvolve

    kernel, y = np.asarray(kernel, dtype=np.float64), _image(y)
    margin = min(4 * max(kernel.shape), *y.shape[1:])
    wrapped = np.pad(y.clip(0), ((0, 0), (margin, margin), (margin, margin)), mode="wrap")
    planes = [deconvolve(plane, kernel, num_iter=iterations, clip=False) for plane in wrapped]
    return Baseline(
        image=np.stack(planes)[:, margin:-margin, margin:-margin],
        name=f"Richardson-Lucy, {iterations} iterations",
    )


def nl_means(y: Any, sigma: float, h: float, patch: int, reach: int) -> Baseline:
    """Non-local means that knows sigma; h in units of sigma, patches `patch` wide, looked for `reach` pixels
    around."""
    from skimage.restoration import denoise_nl_means

    y = _image(y)
    single = len(y) == 1  # with its axis scikit-image gives one channel back transposed
    image = denoise_nl_means(
        y[0] if single else y,
        patch_size=patch,
        patch_distance=reach,
        h=h * sigma,
        sigma=sigma,
        fast_mode=True,
        channel_axis=None if single else 0,
    )
    image = np.reshape(image, y.shape)
    return Baseline(image=image, name=f"NL-means, h {h:g}σ, patch {patch}, reach {reach}")


def total_variation(y: Any, sigma: float, weight: float) -> Baseline:
    """Total variation (Chambolle 2004), channels coupled; weight in units of sigma."""
    from skimage.restoration import denoise_tv_chambolle

    image = denoise_tv_chambolle(_image(y), weight=weight * sigma, channel_axis=0)
    return Baseline(image=np.asarray(image), name=f"TV, weight {weight:g}σ")


def deblur(y: Any, kernel: Any, reference: Any) -> Baseline:
    """The better of Wiener and Richardson-Lucy over a small grid, chosen on the image with the reference."""
    y, kernel = _image(y), np.asarray(kernel, dtype=np.float64)
    tried = [wiener(y, kernel, balance) for balance in WIENER_BALANCE]
    tried += [richardson_lucy(y, kernel, iterations) for iterations in RICHARDSON_LUCY_ITERATIONS]
    return best(tried, reference)


def denoise(y: Any, sigma: float, reference: Any) -> Baseline:
    """The better of NL-means and total variation over a small grid, chosen on the image with the
    reference."""
    y = _image(y)
    tried = [nl_means(y, sigma, *parameters) for parameters in NL_MEANS]
    tried += [total_variation(y, sigma, weight) for weight in TV_WEIGHT]
    return best(tried, reference)


def best(tried: Iterable[Baseline], reference: Any) -> Baseline:
    """The one with the smallest squared error after clipping to [0, 1], as a file would be."""
    truth = _image(reference)
    return min(tried, key=lambda b: float(np.square(b.image.clip(0, 1) - truth).mean()))


def _image(array: Any) -> Image:
    image = np.asarray(array, dtype=np.float64)
    if image.ndim != 3:
        raise RequestError(
            f"expected an image (C, H, W), got an array of shape {image.shape}; take one of the batch"
        )
    return image
