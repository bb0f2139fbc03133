"""scikit-image, Pillow and OpenCV on one measurement (C, h, w), float64; answers (C, H, W), unclipped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.evaluation import baselines
from invdiff.operators import Blur, Downsample, Mask

Image = NDArray[np.float64]


def _bicubic(y: Image, op: Downsample, sigma_y: float) -> Image:
    return baselines.bicubic(y, op.factor, *op.in_shape[1:]).image


def _biharmonic(y: Image, op: Mask, sigma_y: float) -> Image:
    keep = _kept(op)
    if (keep == keep[:1]).all():
        return baselines.biharmonic(y, keep[0]).image
    return np.concatenate([baselines.biharmonic(y[c : c + 1], keep[c]).image for c in range(len(y))])


def _wiener(y: Image, op: Blur, sigma_y: float, *, balance: float) -> Image:
    return baselines.wiener(y, op.kernel.cpu(), balance).image


def _richardson_lucy(y: Image, op: Blur, sigma_y: float, *, iterations: int) -> Image:
    return baselines.richardson_lucy(y, op.kernel.cpu(), iterations).image


def _tv(y: Image, op: Any, sigma_y: float, *, weight: float) -> Image:
    return baselines.total_variation(y, sigma_y, weight).image


def _nl_means(y: Image, op: Any, sigma_y: float, *, h: float, patch: int, reach: int) -> Image:
    return baselines.nl_means(y, sigma_y, h, patch, reach).image


def _opencv(y: Image, op: Mask, sigma_y: float, *, how: str, radius: float) -> Image:
    """Channel by channel, in 8 bits, for which alone it has three channels at once; what was observed stays."""
    import cv2

    keep = _kept(op)
    out = y.copy()
    for c in range(len(y)):
        seen = np.ascontiguousarray((y[c].clip(0, 1) * 255).round().astype(np.uint8))
        filled = cv2.inpaint(seen, (~keep[c]).astype(np.uint8), radius, getattr(cv2, how))
        out[c] = np.where(keep[c], y[c], filled / 255)
    return out


def _kept(op: Mask) -> NDArray[np.bool_]:
    """(C, H, W)."""
    keep: NDArray[np.bool_] = op.keep.cpu().numpy()
    return keep


ADAPTERS: dict[str, Callable[..., Image]] = {
    "bicubic": _bicubic,
    "biharmonic": _biharmonic,
    "wiener": _wiener,
    "richardson-lucy": _richardson_lucy,
    "tv": _tv,
    "nl-means": _nl_means,
    "opencv/telea": partial(_opencv, how="INPAINT_TELEA"),
    "opencv/ns": partial(_opencv, how="INPAINT_NS"),
}
